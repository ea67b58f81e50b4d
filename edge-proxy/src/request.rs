//! A request's whole life.
//!
//! ```text
//! from a client ─ match the host ─ strip what only the mesh may say ─ pick ─┬─ home: queue, endpoint
//!                                                                           ├─ a neighbour ─ refused? ─ home, or one other
//!                                                                           └─ the upstream of last resort
//! from a peer ─── is it who it says? ─ credit ──────────────────────────────── queue, endpoint, never moved again
//! ```
//!
//! The answer's body carries the [`Observation`]: what is noted when it ends.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use isobar_mesh_api::hop;
use isobar_mesh_api::names::{NodeId, ServiceName};

use crate::answer::Answer;
use crate::body::{RequestBody, ResponseBody};
use crate::connection::Downstream;
use crate::credit::Admission;
use crate::endpoint::{self, EndpointLive, Sent};
use crate::gate::{Class, Slot, Terms};
use crate::headers;
use crate::live::{Chooser, Counters};
use crate::moved::{self, Moved};
use crate::observe::Observation;
use crate::pick::{Choice, Now};
use crate::proxy::Worker;
use crate::routes::ServiceRoute;

/// A request is offered to at most this many neighbours, one after another.
pub const NEIGHBOURS_TRIED_MAX: usize = 2;
/// A request that could not be sent is sent on at most this many connections.
const CONNECTIONS_TRIED_MAX: usize = 4;

/// A request and where it is going.
pub(crate) struct Exchange<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) route: &'a Arc<ServiceRoute>,
}

/// A request that entered the mesh here: from a client, or from an application on this node.
pub async fn entered(
    downstream: &Downstream,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let worker = &*downstream.worker;
    let host = headers::host(request.uri(), request.headers());
    let Some(route) = worker.proxy.table.load().by_host(host).cloned() else {
        return Answer::UnknownHost.response();
    };
    if request.method() == Method::CONNECT {
        return Answer::Method.response();
    }
    let (mut head, body) = request.into_parts();
    headers::clean_request(&mut head);
    let request = Request::from_parts(head, RequestBody::new(body));
    let exchange = Exchange {
        worker,
        route: &route,
    };
    exchange.counters().entered.fetch_add(1, Relaxed);
    let choice = exchange.choose(None);
    match exchange.place(choice, request).await {
        Ok(response) => response,
        Err(answer) => exchange.give_up(answer),
    }
}

/// A request that came from its home over the mesh port; `home` is who its certificate names.
pub async fn moved_in(
    worker: &Worker,
    home: &NodeId,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let service = request.headers().get(headers::SERVICE);
    let service = service.and_then(|name| ServiceName::new(name.to_str().ok()?).ok());
    let route = service.and_then(|name| worker.proxy.table.load().by_name(&name).cloned());
    let Some(route) = route else {
        return Answer::NotOfMesh.response();
    };
    let exchange = Exchange {
        worker,
        route: &route,
    };
    let answer = |answer: Answer| exchange.with_load(answer.response());
    if request.uri().path() == hop::PROBE_PATH {
        return exchange.probed();
    }
    let said = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    if said(headers::HOME) != Some(home.as_str().as_bytes()) || said(headers::HOP) != Some(b"1") {
        return answer(Answer::ForeignHome);
    }
    let counters = route.moved_in(home);
    let load = route.home_load();
    let admission = route.credits.admit(home, load, worker.proxy.clock.now_us());
    let refusal = match admission {
        Admission::Take => None,
        Admission::BeyondCredit => Some(Answer::RefusedCredit),
        Admission::Full => Some(Answer::RefusedFull),
    };
    if let Some(refusal) = refusal {
        counters.refused.fetch_add(1, Relaxed);
        return answer(refusal);
    }
    let (mut head, body) = request.into_parts();
    headers::clean_request(&mut head);
    let request = Request::from_parts(head, RequestBody::new(body));
    match exchange.at_home(Class::Moved, request).await {
        Ok(response) => {
            counters.accepted.fetch_add(1, Relaxed);
            exchange.with_load(response)
        }
        // It was not given to an endpoint: home may still do better with it.
        Err(Answer::Shed { .. } | Answer::NoEndpoint) => {
            counters.refused.fetch_add(1, Relaxed);
            answer(Answer::RefusedFull)
        }
        Err(other) => {
            counters.accepted.fetch_add(1, Relaxed);
            answer(other)
        }
    }
}

impl Exchange<'_> {
    /// Follows choices until somebody serves the request.
    async fn place(
        &self,
        mut choice: Choice,
        mut request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, Answer> {
        for _ in 0..NEIGHBOURS_TRIED_MAX {
            let (neighbour, cause) = match choice {
                Choice::Home => break,
                Choice::Cloud => return self.at_cloud(request).await,
                Choice::Move { neighbour, cause } => (neighbour, cause),
            };
            match moved::ask(self, neighbour, cause, request).await {
                Moved::Answered(response) => return Ok(response),
                Moved::Lost(answer) => return Err(answer),
                Moved::Back(whole) => request = whole,
            }
            choice = self.choose(Some(neighbour));
        }
        self.at_home(Class::Own, request).await
    }

    /// Who serves; `refused` is who did not.
    fn choose(&self, refused: Option<usize>) -> Choice {
        let (proxy, route) = (&self.worker.proxy, self.route);
        let now = Now {
            home: route.home_load(),
            neighbours: &route.load,
            now_us: proxy.clock.now_us(),
        };
        if now.home.in_flight >= now.home.workers && route.pick.spill().next().is_some() {
            route.live.note_pressed(now.now_us);
            proxy.press.wake();
        }
        let chooser = &route.live.worker(self.worker.index).chooser;
        let mut chooser = chooser.lock().unwrap_or_else(|e| e.into_inner());
        let Chooser { spread, rng } = &mut *chooser;
        match refused {
            None => route.pick.pick(&now, spread, rng),
            Some(neighbour) => route.pick.pick_again(neighbour, &now, rng),
        }
    }

    /// Waits for a slot of an endpoint of this node and sends the request there.
    async fn at_home(
        &self,
        class: Class,
        mut request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, Answer> {
        let route = self.route;
        if route.endpoints.is_empty() {
            return Err(Answer::NoEndpoint);
        }
        // When one endpoint cannot be reached, one other is tried.
        for attempt in 0..route.endpoints.len().min(2) {
            let slot = self.slot(class).await?;
            if class == Class::Own && attempt == 0 {
                self.counters().served_home.fetch_add(1, Relaxed);
            }
            let endpoint = Arc::clone(slot.endpoint());
            let live = &route.live;
            let (worker, clock) = (self.worker.index, self.worker.proxy.clock);
            let observation = Observation::at_home(live, worker, clock, class, slot);
            match self.at_endpoint(&endpoint, observation, request).await {
                Asked::Answered(response) => return Ok(response),
                Asked::Lost => return Err(Answer::Upstream),
                Asked::Back(whole) => request = whole,
            }
        }
        Err(Answer::Upstream)
    }

    async fn slot(&self, class: Class) -> Result<Slot, Answer> {
        let route = self.route;
        if let Some(slot) = route.live.gate.try_enter(&route.endpoints) {
            return Ok(slot);
        }
        let terms = Terms {
            limits: route.queue,
            workers: route.workers,
            latency_us: route.live.latency_us(),
        };
        let entered = route.live.gate.enter(class, &route.endpoints, terms).await;
        entered.map_err(|no_room| Answer::Shed {
            wait_us: no_room.wait_us,
        })
    }

    async fn at_cloud(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, Answer> {
        let Some(cloud) = &self.route.cloud else {
            return self.at_home(Class::Own, request).await;
        };
        self.counters().cloud.fetch_add(1, Relaxed);
        let (worker, clock) = (self.worker.index, self.worker.proxy.clock);
        let observation = Observation::away(&self.route.live, worker, clock);
        match self.at_endpoint(cloud, observation, request).await {
            Asked::Answered(response) => Ok(response),
            Asked::Lost => Err(Answer::Upstream),
            Asked::Back(whole) => self.at_home(Class::Own, whole).await,
        }
    }

    /// Sends the request on a pooled connection, or a new one.
    async fn at_endpoint(
        &self,
        endpoint: &Arc<EndpointLive>,
        mut observation: Observation,
        mut request: Request<RequestBody>,
    ) -> Asked {
        let worker = self.worker;
        for _ in 0..CONNECTIONS_TRIED_MAX {
            let connection = match endpoint.idle_connection(worker.index) {
                Some(connection) => connection,
                None => match endpoint.connect(worker.proxy.clock).await {
                    Ok(connection) => connection,
                    Err(error) => {
                        tracing::debug!(error = %crate::chain(&error), "an endpoint is down");
                        return Asked::Back(request);
                    }
                },
            };
            match endpoint::send(connection, request).await {
                Sent::Answered(response, connection) => {
                    let (mut head, body) = response.into_parts();
                    headers::clean_response(&mut head);
                    observation.answered(head.status, Some((Arc::clone(endpoint), connection)));
                    let body = ResponseBody::stream(body, observation);
                    return Asked::Answered(Response::from_parts(head, body));
                }
                Sent::Unsent(whole) => request = whole,
                Sent::Lost(error) => {
                    tracing::debug!(%error, "an endpoint broke off");
                    return Asked::Lost;
                }
            }
        }
        Asked::Back(request)
    }

    /// The proxy's own answer to a request that nobody serves.
    fn give_up(&self, answer: Answer) -> Response<ResponseBody> {
        match answer {
            Answer::Shed { .. } | Answer::NoEndpoint => &self.counters().shed,
            _ => &self.counters().failed,
        }
        .fetch_add(1, Relaxed);
        answer.response()
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

    fn counters(&self) -> &Counters {
        &self.route.live.worker(self.worker.index).counters
    }
}

/// What came of asking an endpoint.
enum Asked {
    /// It answers.
    Answered(Response<ResponseBody>),
    /// The request was not sent.
    Back(Request<RequestBody>),
    /// It was sent, and no answer came.
    Lost,
}
