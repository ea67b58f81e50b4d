//! Whether a call is let in: what is known of it is put before the [`Guard`] of its service.
//!
//! The client is told that it is refused, and never why; the log and the counters know.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::request::Parts;
use isobar_mesh_api::identity::SpiffeId;
use isobar_mesh_api::names::ServiceName;

use crate::access::{Called, Caller, Claims, Guard, Verdict};
use crate::answer::Answer;
use crate::connection::{Downstream, Peer};
use crate::headers;
use crate::jwt::TokenError;
use crate::proxy::{Proxy, Worker};
use crate::route::{head, path};
use crate::routes::ServiceRoute;

/// Refusals that are logged in a second; further ones are only counted.
pub const LOGGED_MAX: u64 = 20;
/// Longest claim that an endpoint is told, in bytes; a longer one is left out.
const CLAIM_LEN_MAX: usize = 4096;

/// What was refused, in the whole proxy.
#[derive(Debug, Default)]
pub struct AccessCounts {
    /// By a policy.
    pub denied: AtomicU64,
    /// For a token that is missing or not believed.
    pub unauthenticated: AtomicU64,
    /// What policies that only watch would have refused.
    pub watched: AtomicU64,
    /// Which second it is, and how much was logged in it.
    second: AtomicU64,
    logged: AtomicU64,
}

/// Judges a request that enters here; its head is changed where the endpoint is told of the client's token.
///
/// # Errors
/// What to answer instead.
pub(crate) fn request(
    downstream: &Downstream,
    address: IpAddr,
    route: &ServiceRoute,
    head: &mut Parts,
) -> Result<(), Answer> {
    let Some(guard) = &route.guard else {
        return Ok(());
    };
    let proxy = &downstream.worker.proxy;
    let caller = Caller {
        identity: downstream.caller(),
        node: Some(&proxy.config.node),
        region: proxy.config.region.as_ref(),
        address: Some(address),
        ..Caller::default()
    };
    let port = downstream.ends.destination.port();
    let judging = Judging {
        proxy,
        route,
        guard,
        address,
    };
    judging.request(caller, Some(port), head)
}

/// Judges a request or connection that entered at a peer. At a node: only what is refused to that node, or to everybody. At a
/// workload's proxy, which is no more trusted than the workload: all of it, as that workload's.
///
/// # Errors
/// What to answer instead.
pub(crate) fn moved(
    worker: &Worker,
    peer: &Peer,
    route: &ServiceRoute,
    head: Option<&mut Parts>,
) -> Result<(), Answer> {
    let Some(guard) = &route.guard else {
        return Ok(());
    };
    let proxy = &worker.proxy;
    let Some(workload) = &peer.workload else {
        return of_node(proxy, peer, route, guard, head.as_deref());
    };
    let caller = Caller {
        identity: Some(&workload.id),
        node: Some(&peer.home),
        address: Some(workload.address),
        is_elsewhere: true,
        ..Caller::default()
    };
    let judging = Judging {
        proxy,
        route,
        guard,
        address: workload.address,
    };
    match head {
        Some(head) => judging.request(caller, None, head),
        None if judging.connection(&caller, None) => Ok(()),
        None => Err(Answer::Denied),
    }
}

fn of_node(
    proxy: &Proxy,
    peer: &Peer,
    route: &ServiceRoute,
    guard: &Guard,
    head: Option<&Parts>,
) -> Result<(), Answer> {
    let plain = head.map(|head| path::plain(head.uri.path())).transpose();
    let plain = plain.map_err(|_| Answer::Path)?;
    let identity = SpiffeId::node(&proxy.config.trust_domain, &peer.home);
    let caller = Caller {
        identity: Some(&identity),
        node: Some(&peer.home),
        ..Caller::default()
    };
    let called = Called {
        host: head.and_then(|head| headers::host(&head.uri, &head.headers)),
        path: plain.as_deref(),
        port: None,
        head,
    };
    match guard.judge_moved(&caller, &called) {
        None => Ok(()),
        Some(policy) => {
            proxy.access.denied.fetch_add(1, Relaxed);
            if proxy.access.may_log() {
                let (service, home) = (&route.live.service, &peer.home);
                tracing::warn!(target: "isobar_proxy::access", %service, %home, policy = &*policy, "a moved call was refused");
            }
            Err(Answer::Denied)
        }
    }
}

/// Judges a TCP connection that enters here. Returns whether it is let in.
pub(crate) fn tcp(
    proxy: &Proxy,
    route: &ServiceRoute,
    address: IpAddr,
    port: u16,
    identity: Option<&SpiffeId>,
) -> bool {
    let Some(guard) = &route.guard else {
        return true;
    };
    let caller = Caller {
        identity,
        node: Some(&proxy.config.node),
        region: proxy.config.region.as_ref(),
        address: Some(address),
        ..Caller::default()
    };
    let judging = Judging {
        proxy,
        route,
        guard,
        address,
    };
    judging.connection(&caller, Some(port))
}

/// A call before the guard of its service.
struct Judging<'a> {
    proxy: &'a Proxy,
    route: &'a ServiceRoute,
    guard: &'a Guard,
    /// Where the log says that it comes from.
    address: IpAddr,
}

impl Judging<'_> {
    /// Of a request; its claims are looked at here.
    fn request(
        &self,
        caller: Caller<'_>,
        port: Option<u16>,
        head: &mut Parts,
    ) -> Result<(), Answer> {
        let guard = self.guard;
        make_plain(head)?;
        for name in &guard.claim_headers {
            head.headers.remove(name);
        }
        let claims = match token(self.proxy, guard, &head.headers) {
            Ok(claims) => claims,
            Err(reason) => {
                self.without_token(&reason);
                return Err(Answer::Unauthenticated);
            }
        };
        let caller = Caller {
            claims: claims.as_deref(),
            ..caller
        };
        let called = Called {
            host: headers::host(&head.uri, &head.headers),
            path: Some(head.uri.path()),
            port,
            head: Some(head),
        };
        if self.is_refused(&caller, &called) {
            // Who showed no token may do better with one.
            let may_show = !guard.issuers.is_empty() && claims.is_none();
            return Err(match may_show {
                true => Answer::Unauthenticated,
                false => Answer::Denied,
            });
        }
        if let Some(claims) = claims {
            tell(guard, &claims, &mut head.headers);
        }
        Ok(())
    }

    /// Of a connection. Returns whether it is let in.
    fn connection(&self, caller: &Caller<'_>, port: Option<u16>) -> bool {
        let called = Called {
            head: None,
            host: None,
            path: None,
            port,
        };
        let needs_token = self.guard.needs_token();
        if needs_token {
            self.without_token(&"a TCP connection can show no token");
        }
        !self.is_refused(caller, &called) && !needs_token
    }

    /// Asks the policies; counts and logs what they say.
    fn is_refused(&self, caller: &Caller<'_>, called: &Called<'_>) -> bool {
        let verdict = self.guard.judge(caller, called);
        if verdict.refused.is_none() && self.guard.counts_plain(caller, called) {
            self.route.live.plain.count(self.address);
        }
        self.told(&verdict, caller.identity)
    }

    /// For want of a token.
    fn without_token(&self, reason: &dyn std::fmt::Display) {
        self.proxy.access.unauthenticated.fetch_add(1, Relaxed);
        if self.proxy.access.may_log() {
            let (service, address) = (self.service(), self.address);
            tracing::warn!(target: "isobar_proxy::access", %service, %address, %reason, "a call was refused");
        }
    }

    /// Whether a policy refuses it.
    fn told(&self, verdict: &Verdict, identity: Option<&SpiffeId>) -> bool {
        let counts = &self.proxy.access;
        let (service, address) = (self.service(), self.address);
        let identity = || identity.map(ToString::to_string).unwrap_or_default();
        if let Some(policy) = &verdict.would_refuse {
            counts.watched.fetch_add(1, Relaxed);
            if counts.may_log() {
                tracing::info!(target: "isobar_proxy::access", %service, %address, identity = identity(), policy = &**policy, "a call would be refused");
            }
        }
        let Some(policy) = &verdict.refused else {
            return false;
        };
        counts.denied.fetch_add(1, Relaxed);
        if counts.may_log() {
            tracing::warn!(target: "isobar_proxy::access", %service, %address, identity = identity(), policy = &**policy, "a call was refused");
        }
        true
    }

    fn service(&self) -> &ServiceName {
        &self.route.live.service
    }
}

/// What a rule compares is what the endpoint gets.
fn make_plain(parts: &mut Parts) -> Result<(), Answer> {
    let plain = path::plain(parts.uri.path()).map_err(|_| Answer::Path)?;
    if let std::borrow::Cow::Owned(plain) = plain {
        head::set_path(&mut parts.uri, &plain);
    }
    Ok(())
}

/// Why a request without a believed token goes no further.
#[derive(Debug, thiserror::Error)]
enum Untold {
    #[error("there is no token")]
    Missing,
    #[error("the token {0}")]
    Token(#[from] TokenError),
}

/// What the client's token says; `None` without one, where none is needed.
fn token(proxy: &Proxy, guard: &Guard, headers: &HeaderMap) -> Result<Option<Arc<Claims>>, Untold> {
    if guard.issuers.is_empty() {
        return Ok(None);
    }
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let bearer = match (all.next(), all.next()) {
        (None, _) => None,
        (Some(one), None) => bearer(one),
        (Some(_), Some(_)) => return Err(TokenError::Unreadable.into()),
    };
    match bearer {
        Some(token) => Ok(Some(proxy.jwks.check(token, &guard.issuers)?)),
        None if guard.needs_token() => Err(Untold::Missing),
        None => Ok(None),
    }
}

/// The token of `Bearer` (RFC 6750, section 2.1).
fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Puts claims into headers for the endpoint.
fn tell(guard: &Guard, claims: &Claims, headers: &mut HeaderMap) {
    let by = claims.get("iss").and_then(serde_json::Value::as_str);
    let issuer = guard.issuers.iter().find(|i| Some(i.issuer.as_str()) == by);
    for (claim, name) in issuer.iter().flat_map(|issuer| &issuer.claims_to_headers) {
        let text = match claims.get(claim) {
            None => continue,
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let name = http::HeaderName::try_from(name);
        let value = HeaderValue::from_str(&text);
        if let (Ok(name), Ok(value), true) = (name, value, text.len() <= CLAIM_LEN_MAX) {
            headers.insert(name, value);
        }
    }
}

impl AccessCounts {
    /// Whether one more line fits this second's share.
    fn may_log(&self) -> bool {
        let now_s = crate::skew::seconds(SystemTime::now());
        if self.second.swap(now_s, Relaxed) != now_s {
            self.logged.store(0, Relaxed);
        }
        self.logged.fetch_add(1, Relaxed) < LOGGED_MAX
    }
}
