//! Who asks, and whether they may: before every request of the REST API.
//!
//! ```text
//! bearer token ─▶ whose? ─▶ may their role, here? ─▶ the request, with its Caller
//!      └ 401            └ 401, 429         └ 403     (refusals are logged and counted)
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Rest;
use crate::access::{self, Caller, Denied};
use crate::credentials::{Credentials, KIND};
use crate::guesses::Guesses;
use crate::metrics::RestRefused;
use crate::problem::Problem;
use crate::secret::Claim;

/// How callers are told apart.
pub struct Gate {
    /// `None` where nobody is asked.
    credentials: Option<Arc<Credentials>>,
    guesses: Mutex<Guesses>,
    began: Instant,
}

impl Gate {
    /// Asks for one of these credentials; for none, when there are none.
    pub fn new(credentials: Option<Arc<Credentials>>) -> Gate {
        Gate {
            credentials,
            guesses: Mutex::default(),
            began: Instant::now(),
        }
    }

    /// Whether nobody is asked who they are.
    pub fn is_open(&self) -> bool {
        self.credentials.is_none()
    }

    /// The credentials, where there are any.
    pub(super) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_deref()
    }

    /// Who sends these headers.
    fn caller(&self, headers: &HeaderMap, address: IpAddr) -> Result<Caller, Refusal> {
        let Some(credentials) = &self.credentials else {
            return Ok(Caller::anyone());
        };
        let text = bearer(headers).ok_or(Refusal::Missing)?;
        let claim = Claim::read(KIND, text).ok_or(Refusal::Wrong)?;
        let now = self.began.elapsed();
        let lock = || self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        if !lock().may_try(address, claim.id, now) {
            return Err(Refusal::Guessing);
        }
        let clock = SystemTime::now();
        if let Some(caller) = credentials.who(claim, clock) {
            return Ok(caller);
        }
        if let Some(ago_s) = credentials.expired_s(claim, clock) {
            return Err(Refusal::Expired(ago_s));
        }
        // There is nothing to guess about a credential that is not there.
        if credentials.has(claim.id) {
            lock().on_wrong(address, claim.id, now);
        }
        Err(Refusal::Wrong)
    }
}

/// Why a request is not let in.
enum Refusal {
    /// No token.
    Missing,
    /// Not a token, or not a right one.
    Wrong,
    /// A right one whose time is over, so many seconds ago.
    Expired(u64),
    /// Too many wrong ones.
    Guessing,
    /// The right token of somebody who may not.
    Denied(String, Denied),
}

impl Refusal {
    fn problem(&self) -> Problem {
        let unknown = |detail: &str| Problem::new(StatusCode::UNAUTHORIZED, detail);
        match self {
            Refusal::Missing => unknown("send Authorization: Bearer and a credential's token"),
            Refusal::Wrong => unknown("the token is not one, was revoked or has expired"),
            Refusal::Expired(ago_s) => unknown(&format!("token expired {} ago", span(*ago_s))),
            Refusal::Guessing => Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too many wrong tokens for this credential from this address; wait a minute",
            ),
            Refusal::Denied(_, denied) => Problem::new(StatusCode::FORBIDDEN, denied.to_string()),
        }
    }

    fn count(&self, refused: &RestRefused) {
        match self {
            Refusal::Missing => &refused.missing,
            Refusal::Wrong | Refusal::Expired(_) => &refused.wrong,
            Refusal::Guessing => &refused.guessing,
            Refusal::Denied(_, Denied::Role { .. }) => &refused.role,
            Refusal::Denied(_, Denied::Namespace(_)) => &refused.namespace,
        }
        .increment(1);
    }

    fn who(&self) -> &str {
        match self {
            Refusal::Denied(name, _) => name,
            _ => "",
        }
    }
}

/// A span of time as people say it.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Lets a request in with who sends it in its extensions, or answers it.
pub(super) async fn check(State(rest): State<Rest>, mut request: Request, next: Next) -> Response {
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let address = address.map_or(Ipv4Addr::UNSPECIFIED.into(), |info| info.0.ip());
    let (method, path) = (request.method(), request.uri().path());
    if access::need(method, path).is_none() {
        return next.run(request).await;
    }
    let caller = rest.gate.caller(request.headers(), address);
    let checked = caller.and_then(|caller| {
        let may = access::check(&caller, method, path);
        may.map_err(|denied| Refusal::Denied(caller.name.clone(), denied))?;
        Ok(caller)
    });
    match checked {
        Ok(caller) => {
            let who = super::Caller(caller.name.clone());
            request.extensions_mut().insert(who);
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refusal) => {
            refusal.count(&rest.metrics.rest_refused);
            let problem = refusal.problem();
            let path: String = path.chars().take(128).collect();
            let (who, status) = (refusal.who(), problem.status.as_u16());
            tracing::warn!(target: "isobar_controller::audit", %address, who, %method, path, status, "a request was refused");
            answer(problem)
        }
    }
}

fn answer(problem: Problem) -> Response {
    let unknown = problem.status == StatusCode::UNAUTHORIZED;
    let mut response = problem.into_response();
    if unknown {
        let scheme = HeaderValue::from_static("Bearer realm=\"isobar\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    }
    response
}

/// The token of `Authorization: Bearer` (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
