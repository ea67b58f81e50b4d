//! A request's whole life.
//!
//! ```text
//! from a client ─ strip what only the mesh may say ─ route: rule, service ─ pick ─┬─ home: queue, endpoint
//!                                                                                 ├─ a neighbour ─ refused? ─ home, or one other
//!                                                                                 └─ the upstream of last resort
//! from a peer ─── is it who it says? ─ credit ────────────────────────────────────── queue, endpoint, never moved again
//! ```
//!
//! The answer's body carries the [`Observation`](crate::observe::Observation): what is noted when it ends. `finish` is the one
//! place that every answer passes.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use isobar_mesh_api::hop;
use isobar_mesh_api::names::ServiceName;

use crate::answer::Answer;
use crate::audience;
use crate::authorise;
use crate::bench;
use crate::body::{RequestBody, ResponseBody};
use crate::connection::{Downstream, Peer};
use crate::deadline::{self, Deadline};
use crate::endpoint::EndpointLive;
use crate::forwarded::Client;
use crate::gate::Class;
use crate::golden::{Direction, Kind};
use crate::headers;
use crate::http1::Upgrade;
use crate::limit::Limit;
use crate::live::{Chooser, Counters, bump};
use crate::mirror;
use crate::moved::{self, Moved};
use crate::observe::Conclusion;
use crate::pick::{Choice, Now};
use crate::proxy::Worker;
use crate::proxy_protocol::Ends;
use crate::rates::Asking;
use crate::route::{Rule, is_grpc};
use crate::routes::ServiceRoute;
use crate::routing::{self, Way};
use crate::session::{self, Key};
use crate::story::Story;
use crate::tcp::tunnel;
use crate::traffic::Waits;

/// A request is offered to at most this many neighbours, one after another.
pub const NEIGHBOURS_TRIED_MAX: usize = 2;

mod at_home;
mod send;
mod take;

pub(crate) use send::is_answer_to_call;
use take::take;

/// A request and where it is going.
pub(crate) struct Exchange<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) route: &'a Arc<ServiceRoute>,
    /// How long things may take.
    pub(crate) waits: Waits,
    /// Until when it must be answered.
    pub(crate) deadline: Deadline,
    /// When it arrived, in microseconds of the proxy's clock.
    pub(crate) arrived_us: u64,
    /// How important it is, from 0, the most.
    pub(crate) rank: u8,
    /// What keeps it on one endpoint, if anything.
    pub(crate) key: Option<u64>,
    /// Whether that keeps it on one node as well.
    pub(crate) keeps_node: bool,
    /// Whom it comes from and whom it was for, when that is known.
    pub(crate) ends: Option<Ends>,
    /// Whether its client speaks gRPC.
    pub(crate) grpc: bool,
    /// What is remembered of it, if anybody wants to hear.
    pub(crate) story: Option<&'a Arc<Story>>,
}

/// What came of serving a request.
struct Served {
    response: Response<ResponseBody>,
    /// Whose it was and when it arrived, once that was known.
    of: Option<(Arc<ServiceRoute>, u64)>,
}

impl Served {
    /// An answer to a request that went this way.
    fn by(way: Way, worker: &Worker, arrived_us: u64, response: Response<ResponseBody>) -> Served {
        way.count(worker.index, response.status());
        Served {
            response,
            of: Some((way.service, arrived_us)),
        }
    }
}

impl From<Response<ResponseBody>> for Served {
    fn from(response: Response<ResponseBody>) -> Served {
        Served { response, of: None }
    }
}

/// A request that entered the mesh here: from a client, or from an application on this node.
pub async fn entered(
    downstream: &Downstream,
    head: Box<Parts>,
    body: RequestBody,
) -> Response<ResponseBody> {
    let kind = Kind::new(downstream.direction, &head.method);
    let story = audience::story_of_client(downstream, &head);
    let served = enter(downstream, head, body, story.as_ref()).await;
    let response = finish(&downstream.worker, kind, served, story);
    downstream.announce(response)
}

/// The answer to a request for a connection that nobody gets.
pub(crate) fn not_connected(
    downstream: &Downstream,
    head: &Parts,
    answer: Answer,
    story: Option<Arc<Story>>,
) -> Response<ResponseBody> {
    let kind = Kind::new(downstream.direction, &head.method);
    finish(&downstream.worker, kind, answer.response().into(), story)
}

/// Notes what came of a request, now or when its answer ends.
fn finish(
    worker: &Worker,
    kind: Kind,
    served: Served,
    story: Option<Arc<Story>>,
) -> Response<ResponseBody> {
    let Served { mut response, of } = served;
    let status = response.status();
    let kind = kind.answered(status);
    let body = response.body_mut();
    body.conclude(Conclusion { worker, kind, of });
    if let Some(story) = story {
        body.end_story(Arc::clone(&story), status);
        story.heads_back(response.headers());
    }
    response
}

async fn enter(
    downstream: &Downstream,
    mut head: Box<Parts>,
    body: RequestBody,
    story: Option<&Arc<Story>>,
) -> Served {
    let worker = &*downstream.worker;
    let told_us = deadline::told_by_client(&head);
    headers::clean_request(&mut head);
    let address = downstream.client.address(&head.headers);
    downstream.client.set(&mut head.headers);
    let scheme = downstream.client.scheme(&head.headers);
    let may = |service: &ServiceRoute, head: &mut Parts| {
        if let Some(story) = story {
            story.goes_to(&service.live, None);
        }
        authorise::request(downstream, address, service, head)
    };
    let mut way = match routing::way(worker, scheme, &mut head, may).await {
        Ok(way) => way,
        Err(instead) => return instead.into(),
    };
    let mut exchange = Exchange::new(worker, &way.service, way.waits(), told_us);
    exchange.ends = Some(downstream.ends);
    exchange.grpc = way.grpc;
    exchange.remember(story, way.rule());
    if !way.service.rates.is_empty() {
        let asking = Asking {
            head: &head,
            source: downstream.client.source(&head.headers),
            identity: downstream.caller(),
            rule: way.rule_hash(),
            now_us: exchange.arrived_us,
        };
        if let Err(refused) = way.service.rates.admit(asking) {
            exchange.counters().limit(Limit::Rate);
            let (response, arrived_us) = (refused.response(way.grpc), exchange.arrived_us);
            return Served::by(way, worker, arrived_us, response);
        }
    }
    exchange.take_rank(&head.headers);
    let key = exchange.take_key(way.key.take(), &head.headers, &downstream.client, scheme);
    bump(&exchange.counters().entered, 1);
    // Between nodes there is no way for a change of protocol.
    let choice = match head.extensions.get::<Upgrade>() {
        None => exchange.choose(None),
        Some(_) => Choice::Home,
    };
    let placed = match way.copies.take() {
        None => exchange.place(choice, head, body).await,
        Some(copies) => {
            let (body, again) = exchange.keep(body, true);
            let placed = exchange.place(choice, head, body).await;
            mirror::send(&downstream.worker, copies, &again);
            placed
        }
    };
    let arrived_us = exchange.arrived_us;
    let response = match placed {
        Ok(mut response) => {
            way.back(&mut response);
            key.tell_client(response.headers_mut());
            response
        }
        Err(answer) => exchange.give_up(answer, way.grpc),
    };
    Served::by(way, worker, arrived_us, response)
}

/// A request that came from its home over the mesh port.
pub async fn moved_in(
    worker: &Worker,
    peer: &Peer,
    request: Request<RequestBody>,
) -> Response<ResponseBody> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let is_load = path != hop::PROBE_PATH && !bench::is_for(path);
    let is_request = is_load && head.method != Method::CONNECT;
    let kind = is_request.then(|| Kind::new(Direction::Mesh, &head.method));
    let story = is_load.then(|| audience::story_of_peer(worker, peer, &head));
    let story = story.flatten();
    let served = take_in(worker, peer, head, body, story.as_ref()).await;
    match kind {
        Some(kind) => finish(worker, kind, served, story),
        None => tunnel::told(served.response, story),
    }
}

async fn take_in(
    worker: &Worker,
    peer: &Peer,
    head: Parts,
    body: RequestBody,
    story: Option<&Arc<Story>>,
) -> Served {
    if !peer.holds(&worker.proxy) {
        return Answer::ForeignHome.response().into();
    }
    if bench::is_for(head.uri.path()) {
        let request = Request::from_parts(head, body);
        return bench::answer(worker, peer, request).await.into();
    }
    let service = head.headers.get(headers::SERVICE);
    let service = service.and_then(|name| ServiceName::new(name.to_str().ok()?).ok());
    let route = service.and_then(|name| worker.proxy.table.load().by_name(&name).cloned());
    let Some(route) = route else {
        return Answer::NotOfMesh.response().into();
    };
    let told_us = deadline::told_by_hop(&head);
    let mut exchange = Exchange::new(worker, &route, route.traffic.waits, told_us);
    exchange.key = session::told(&head.headers);
    exchange.take_rank(&head.headers);
    exchange.grpc = is_grpc(&head.headers);
    exchange.ends = headers::ends(&head.headers);
    exchange.remember(story, None);
    let arrived_us = exchange.arrived_us;
    let response = exchange.moved_in(peer, head, body).await;
    let of = Some((route, arrived_us));
    Served { response, of }
}

impl<'a> Exchange<'a> {
    /// A request that the client, or the hop before, gave so long from now, in microseconds.
    pub(crate) fn new(
        worker: &'a Worker,
        route: &'a Arc<ServiceRoute>,
        waits: Waits,
        told_us: Option<u64>,
    ) -> Exchange<'a> {
        let now_us = worker.proxy.clock.now_us();
        Exchange {
            worker,
            route,
            waits,
            deadline: Deadline::new(&waits, told_us, now_us),
            arrived_us: now_us,
            rank: 0,
            key: None,
            keeps_node: false,
            ends: None,
            grpc: false,
            story: None,
        }
    }

    /// Serves a request that came from its home, or refuses it.
    async fn moved_in(
        &self,
        peer: &Peer,
        mut head: Parts,
        body: RequestBody,
    ) -> Response<ResponseBody> {
        let (worker, route) = (self.worker, self.route);
        let answer = |answer: Answer| self.with_load(answer.response());
        if head.uri.path() == hop::PROBE_PATH {
            return self.probed();
        }
        if let Err(instead) = take(worker, peer, route, &mut head) {
            return self.with_load(instead.to(self.grpc && instead.is_judgement()));
        }
        let counters = route.moved_in(&peer.home);
        if head.method == Method::CONNECT {
            let request = Request::from_parts(head, body);
            return match tunnel::moved_in(self, request).await {
                Ok(response) => {
                    counters.accepted.fetch_add(1, Relaxed);
                    self.with_load(response)
                }
                Err(_) => {
                    counters.refused.fetch_add(1, Relaxed);
                    answer(Answer::RefusedFull)
                }
            };
        }
        headers::clean_request(&mut head);
        let (head, now_us) = (Box::new(head), self.arrived_us);
        match self.at_home(Class::Moved, head, body, now_us).await {
            Ok(response) => {
                counters.accepted.fetch_add(1, Relaxed);
                self.with_load(response)
            }
            // It was not given to an endpoint: home may still do better with it.
            Err(nobody) if nobody.was_not_tried() => {
                counters.refused.fetch_add(1, Relaxed);
                answer(Answer::RefusedFull)
            }
            Err(other) => {
                counters.accepted.fetch_add(1, Relaxed);
                self.count_limit(other);
                self.with_load(other.to(self.grpc))
            }
        }
    }

    /// Has what is noted of the request go into its story, if there is one.
    pub(crate) fn remember(&mut self, story: Option<&'a Arc<Story>>, rule: Option<&Arc<Rule>>) {
        self.story = story;
        if let Some(story) = story {
            story.goes_to(&self.route.live, rule);
        }
    }

    /// Finds out how important the request is.
    pub(crate) fn take_rank(&mut self, headers: &HeaderMap) {
        let classes = self.route.traffic.priority.as_ref();
        self.rank = classes.map_or(0, |classes| classes.rank(headers));
    }

    /// Finds out the request's key, if its rule or its service has one.
    fn take_key(
        &mut self,
        of_rule: Option<Key>,
        headers: &HeaderMap,
        client: &Client,
        scheme: &str,
    ) -> Key {
        let balancer = &self.route.balancer;
        self.keeps_node = of_rule.is_some() || balancer.keeps_node;
        let of_service = || {
            let (rule, source) = (balancer.key.as_ref()?, client.source(headers));
            Some(rule.key(headers, source, scheme == "https", fastrand::u64(..)))
        };
        let key = of_rule.or_else(of_service).unwrap_or_default();
        self.key = key.hash;
        key
    }

    /// Follows choices until somebody serves the request.
    pub(crate) async fn place(
        &self,
        mut choice: Choice,
        mut head: Box<Parts>,
        mut body: RequestBody,
    ) -> Result<Response<ResponseBody>, Answer> {
        if let Some(limit) = self.too_large(&head, &body) {
            return Err(Answer::limited(limit));
        }
        let mut now_us = self.arrived_us;
        for _ in 0..NEIGHBOURS_TRIED_MAX {
            let (neighbour, cause) = match choice {
                Choice::Home => break,
                Choice::Cloud => return self.at_cloud(head, body).await,
                Choice::Move { neighbour, cause } => (neighbour, cause),
            };
            match moved::ask(self, neighbour, cause, head, body).await {
                Moved::Answered(response) => return Ok(response),
                Moved::Lost(answer) => return Err(answer),
                Moved::Back(whole, kept) => (head, body) = (whole, kept),
            }
            now_us = self.worker.proxy.clock.now_us();
            choice = self.choose(Some(neighbour));
        }
        self.at_home(Class::Own, head, body, now_us).await
    }

    /// Who serves; `refused` is who did not.
    pub(crate) fn choose(&self, refused: Option<usize>) -> Choice {
        let (proxy, route) = (&self.worker.proxy, self.route);
        let now = Now {
            home: route.home_load(),
            neighbours: &route.load,
            now_us: match refused {
                None => self.arrived_us,
                Some(_) => proxy.clock.now_us(),
            },
        };
        if now.home.in_flight >= now.home.workers && route.pick.spill().next().is_some() {
            route.live.note_pressed(now.now_us);
            proxy.press.wake();
        }
        // What the plan moves away for want of endpoints here would never find out that they are back.
        let wants_probe = |e: &Arc<EndpointLive>| e.circuit.wants_probe(now.now_us);
        if now.home.workers == 0 && refused.is_none() && route.endpoints.iter().any(wants_probe) {
            return Choice::Home;
        }
        let chooser = &route.live.worker(self.worker.index).chooser;
        let mut chooser = chooser.lock().unwrap_or_else(|e| e.into_inner());
        let Chooser { memory, rng } = &mut *chooser;
        let choice = match refused {
            None => match self.key.filter(|_| self.keeps_node) {
                None => route.pick.pick(&now, memory, rng),
                Some(key) => route.pick.pick_for(key, &now, memory, rng),
            },
            Some(neighbour) => route.pick.pick_again(neighbour, &now, rng),
        };
        if memory.take_onset() {
            proxy.spike.notify_one();
        }
        choice
    }

    /// The proxy's own answer to a request that nobody serves.
    pub(crate) fn give_up(&self, answer: Answer, grpc: bool) -> Response<ResponseBody> {
        match answer {
            Answer::Shed { .. } | Answer::NoEndpoint => &self.counters().shed,
            _ => &self.counters().failed,
        }
        .fetch_add(1, Relaxed);
        self.count_limit(answer);
        answer.to(grpc)
    }

    fn count_limit(&self, answer: Answer) {
        if let Answer::Limited { limit, .. } = answer {
            self.counters().limit(limit);
        }
    }

    /// How busy this node is with the service a peer asked about.
    fn probed(&self) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::full(bytes::Bytes::new()));
        *response.status_mut() = StatusCode::NO_CONTENT;
        self.with_load(response)
    }

    fn with_load(&self, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        let load = self.route.home_load().to_string();
        // Digits, '/' and ';'.
        if let Ok(load) = HeaderValue::from_maybe_shared(bytes::Bytes::from(load)) {
            response.headers_mut().insert(headers::LOAD, load);
        }
        response
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.route.live.worker(self.worker.index).counters
    }
}
