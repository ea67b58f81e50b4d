//! From a request's head to the service that it is for, and what its rule does on the way.
//!
//! [`crate::route`] decides; here a decision becomes a changed head, a wait or an answer. A request without a rule, found by
//! a service's own host name, passes untouched.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::header::LOCATION;
use http::request::Parts;
use http::{HeaderValue, Response};
use isobar_mesh_api::weight::WHOLE_PPM;

use crate::answer::Answer;
use crate::balance::hash;
use crate::body::ResponseBody;
use crate::headers;
use crate::http1::Upgrade;
use crate::mirror::Copies;
use crate::proxy::Worker;
use crate::route::rule::Verdict;
use crate::route::{Found, Lost, Rule, head, is_grpc};
use crate::routes::{Routes, ServiceRoute};
use crate::session::Key;
use crate::traffic::Waits;

/// Most requests that wait for a delay made on purpose, in the whole proxy; further ones go on at once.
pub const DELAYED_MAX: u32 = 4096;

/// What routes did, in the whole proxy.
#[derive(Debug, Default)]
pub struct RoutingCounts {
    /// Requests that no service and no rule is for.
    pub lost: AtomicU64,
    /// Redirects.
    pub redirected: AtomicU64,
    /// Requests to a backend that does not exist, or to none.
    pub no_backend: AtomicU64,
    /// Delays made on purpose.
    pub delayed: AtomicU64,
    /// Delays left out because [`DELAYED_MAX`] requests waited already.
    pub not_delayed: AtomicU64,
    /// Failures made on purpose.
    pub aborted: AtomicU64,
    /// Requests that wait right now.
    delayed_now: AtomicU32,
}

/// Where a request goes, and what remains to be done for its rule.
pub(crate) struct Way {
    /// The service.
    pub service: Arc<ServiceRoute>,
    /// Whether the client speaks gRPC.
    pub grpc: bool,
    /// Its key, when its rule keeps sessions.
    pub key: Option<Key>,
    /// Who gets a copy of the request, if anybody.
    pub copies: Option<Copies>,
    /// The rule, and which of its backends.
    ruled: Option<(Arc<Rule>, usize)>,
}

/// Finds the way of a request that entered here by `scheme`, asks whether it `may` go there, and changes its head accordingly.
///
/// # Errors
/// An answer instead: there is no way, or the rule answers by itself.
pub(crate) async fn way(
    worker: &Worker,
    scheme: &'static str,
    head: &mut Parts,
    may: impl Fn(&ServiceRoute, &mut Parts) -> Result<(), Answer>,
) -> Result<Way, Response<ResponseBody>> {
    let counts = &worker.proxy.routing;
    let grpc = is_grpc(&head.headers);
    let (way, verdict) = match choose(worker, scheme, head, grpc, may) {
        Ok(chosen) => chosen,
        Err(Instead::Redirect(response)) => {
            counts.redirected.fetch_add(1, Relaxed);
            return Err(*response);
        }
        Err(Instead::Answer(answer)) => {
            let count = match answer {
                Answer::NoBackend => Some(&counts.no_backend),
                // Counted where it was judged.
                Answer::Denied | Answer::Unauthenticated => None,
                _ => Some(&counts.lost),
            };
            count.inspect(|count| _ = count.fetch_add(1, Relaxed));
            return Err(answer.to(grpc));
        }
        Err(Instead::Failure(verdict)) => {
            if let Some(delay) = verdict.delay {
                counts.wait(delay).await;
            }
            counts.aborted.fetch_add(1, Relaxed);
            let answer = verdict.failure.map_or(Answer::NoBackend, Answer::Failure);
            return Err(answer.to(grpc));
        }
    };
    if let Some(delay) = verdict.delay {
        counts.wait(delay).await;
    }
    Ok(way)
}

/// Instead of a way.
enum Instead {
    Redirect(Box<Response<ResponseBody>>),
    Answer(Answer),
    /// The rule's fault, perhaps after its delay.
    Failure(Verdict),
}

impl From<Answer> for Instead {
    fn from(answer: Answer) -> Instead {
        Instead::Answer(answer)
    }
}

/// All that needs the snapshot: what is found is of one and the same.
fn choose(
    worker: &Worker,
    scheme: &'static str,
    head: &mut Parts,
    grpc: bool,
    may: impl Fn(&ServiceRoute, &mut Parts) -> Result<(), Answer>,
) -> Result<(Way, Verdict), Instead> {
    let routes: &Routes = &worker.proxy.table.load();
    let host = headers::host(&head.uri, &head.headers);
    let (rule, prefix_len, plain) = match routes.find(host, head).map_err(Answer::from)? {
        Found::Service(place) => {
            let service = routes.services.get(place).ok_or(Answer::UnknownHost)?;
            may(service, head)?;
            let way = Way {
                service: Arc::clone(service),
                grpc,
                key: None,
                copies: None,
                ruled: None,
            };
            return Ok((way, Verdict::default()));
        }
        Found::Rule {
            rule,
            prefix_len,
            plain,
        } => (rule, prefix_len, plain),
    };
    if let Some(path) = plain {
        head::set_path(&mut head.uri, &path);
    }
    let verdict = rule.next(worker.index);
    if verdict.failure.is_some() {
        return Err(Instead::Failure(verdict));
    }
    if let Some(redirect) = &rule.redirect {
        let location = redirect
            .location(head, scheme, prefix_len)
            .ok_or(Answer::UnknownHost)?;
        return Err(Instead::Redirect(Box::new(moved_to(
            redirect.status,
            location,
        ))));
    }
    let is_tls = scheme == "https";
    // No rule has sessions by address.
    let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let session = rule.session.as_ref();
    let key = session.map(|s| s.key(&head.headers, nobody, is_tls, fastrand::u64(..)));
    let of_session = key.as_ref().and_then(|key| rule.backend_of(key.hash?));
    let backend = of_session.or(verdict.backend).ok_or(Answer::NoBackend)?;
    let named = rule.backends.get(backend).and_then(|b| b.service);
    let service = named.and_then(|place| routes.services.get(place));
    let service = service.ok_or(Answer::NoBackend)?;
    may(service, head)?;
    rule.change.apply(head, prefix_len);
    let copies = copies(rule, routes, head);
    rule.backends[backend].change.apply(head, prefix_len);
    let way = Way {
        service: Arc::clone(service),
        grpc,
        key,
        copies,
        ruled: Some((Arc::clone(rule), backend)),
    };
    Ok((way, verdict))
}

/// Draws who gets a copy of a request.
fn copies(rule: &Rule, routes: &Routes, head: &Parts) -> Option<Copies> {
    let drawn = |share_ppm: u32| fastrand::u32(..WHOLE_PPM) < share_ppm;
    let mirrors = rule
        .mirrors
        .iter()
        .filter(|(_, share_ppm)| drawn(*share_ppm));
    let services: Vec<Arc<ServiceRoute>> = mirrors
        .filter_map(|(place, _)| routes.services.get(*place).cloned())
        .collect();
    let upgrades = head.extensions.get::<Upgrade>().is_some();
    (!services.is_empty() && !upgrades).then(|| Copies {
        services,
        head: headers::copy(&head.method, &head.uri, &head.headers),
    })
}

fn moved_to(status: http::StatusCode, location: HeaderValue) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(Bytes::new()));
    *response.status_mut() = status;
    response.headers_mut().insert(LOCATION, location);
    response
}

impl From<Lost> for Answer {
    fn from(lost: Lost) -> Answer {
        match lost {
            Lost::Host => Answer::UnknownHost,
            Lost::Rule => Answer::NoRule,
            Lost::Path => Answer::Path,
        }
    }
}

impl Way {
    /// How long things may take: the rule's word before the service's.
    pub(crate) fn waits(&self) -> Waits {
        let waits = self.service.traffic.waits;
        match &self.ruled {
            Some((rule, _)) => waits.under(&rule.timeouts),
            None => waits,
        }
    }

    /// Which rule of which route it follows, as a hash; 0 = none.
    pub(crate) fn rule_hash(&self) -> u64 {
        self.ruled.as_ref().map_or(0, |(rule, _)| {
            let kind = hash::of(rule.route.kind.as_str().as_bytes());
            let name = hash::of(rule.route.name.as_str().as_bytes());
            hash::both(hash::both(kind, name), rule.place as u64)
        })
    }

    /// The rule that it follows.
    pub(crate) fn rule(&self) -> Option<&Arc<Rule>> {
        self.ruled.as_ref().map(|(rule, _)| rule)
    }

    /// Counts an answer for its rule.
    pub(crate) fn count(&self, worker: usize, status: http::StatusCode) {
        if let Some((rule, _)) = &self.ruled {
            rule.turns.count(worker, status);
        }
    }

    /// Changes the answer's head as the rule says.
    pub(crate) fn back(&self, response: &mut Response<ResponseBody>) {
        if let Some((rule, backend)) = &self.ruled {
            let headers = response.headers_mut();
            if let Some(backend) = rule.backends.get(*backend) {
                backend.change.response.apply(headers);
            }
            rule.change.response.apply(headers);
        }
    }
}

impl RoutingCounts {
    async fn wait(&self, delay: Duration) {
        let _place = Place(&self.delayed_now);
        if self.delayed_now.fetch_add(1, Relaxed) >= DELAYED_MAX {
            self.not_delayed.fetch_add(1, Relaxed);
            return;
        }
        self.delayed.fetch_add(1, Relaxed);
        tokio::time::sleep(delay).await;
    }
}

/// One of [`DELAYED_MAX`], given back when the wait ends, however it does.
struct Place<'a>(&'a AtomicU32);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
