//! Who asks, and whether they may: before every request of the REST API.
//!
//! ```text
//! bearer token ─┬▶ a credential's ─▶ whose? ──────────┬▶ may their role, here? ─▶ the request, with its Caller
//!               └▶ another's ─▶ Kubernetes says who and whether ─┘                    │
//! client certificate ─▶ rest_clients ─▶ whose? ──────┘                               │
//!      └ 401                  └ 401, 429, 503                └ 403     (refusals are logged, counted and kept)
//! ```
//!
//! Who sends a token is who the token says, whatever certificate the connection has.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Rest;
use super::port::Origin;
use crate::access::{self, Caller, Deed, Denied};
use crate::authority::seconds;
use crate::credentials::{Credentials, KIND, Who};
use crate::guesses::Guesses;
use crate::metrics::RestRefused;
use crate::operator_tls::OperatorTls;
use crate::problem::Problem;
use crate::refusals::{Door, Refused};
use crate::secret::Claim;

/// What somebody else says of a token that is no credential's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Review {
    /// It is nobody's.
    Nobody,
    /// It is this one's, who may.
    Allowed(String),
    /// It is this one's, who may not; and what it would take.
    Denied(String, String),
}

/// Somebody else who knows tokens and what their owners may do.
pub trait Reviews: Send + Sync {
    /// Whose token this is, and whether they may do that; `None` when nobody could be asked.
    fn review<'a>(
        &'a self,
        token: &'a str,
        deed: &'a Deed,
    ) -> Pin<Box<dyn Future<Output = Option<Review>> + Send + 'a>>;
}

/// How callers are told apart.
pub struct Gate {
    /// `None` where nobody is asked.
    asks: Option<Asks>,
    guesses: Mutex<Guesses>,
    began: Instant,
}

/// Who knows callers.
struct Asks {
    credentials: Arc<Credentials>,
    operators: Arc<OperatorTls>,
    reviews: Option<Arc<dyn Reviews>>,
}

impl Gate {
    /// Asks nobody.
    pub fn open() -> Gate {
        Gate {
            asks: None,
            guesses: Mutex::default(),
            began: Instant::now(),
        }
    }

    /// Asks for one of these credentials, or a client certificate that has a role.
    pub fn new(credentials: Arc<Credentials>, operators: Arc<OperatorTls>) -> Gate {
        Gate {
            asks: Some(Asks {
                credentials,
                operators,
                reviews: None,
            }),
            ..Gate::open()
        }
    }

    /// Asks somebody else about tokens that are no credential's.
    #[must_use]
    pub fn with_reviews(mut self, reviews: Option<Arc<dyn Reviews>>) -> Gate {
        if let Some(asks) = &mut self.asks {
            asks.reviews = reviews;
        }
        self
    }

    /// Whether nobody is asked who they are.
    pub fn is_open(&self) -> bool {
        self.asks.is_none()
    }

    /// The credentials, where there are any.
    pub(crate) fn credentials(&self) -> Option<&Credentials> {
        self.asks.as_ref().map(|asks| &*asks.credentials)
    }

    /// Who sends a request, if they may send it.
    async fn caller(&self, asked: &Asked<'_>) -> Result<Caller, Refusal> {
        let Some(asks) = &self.asks else {
            return Ok(Caller::anyone());
        };
        let caller = match bearer(asked.headers)? {
            Some(text) => match Claim::read(KIND, text) {
                Some(claim) => self.by_secret(asks, claim, asked.address)?,
                // What they may do is not ours to say.
                None => return by_review(asks, text, &asked.deed).await,
            },
            None => by_certificate(asks, asked.origin)?,
        };
        let may = access::check(&caller, asked.method, asked.path);
        may.map_err(|denied| Refusal::Denied(caller.name.clone(), denied))?;
        Ok(caller)
    }

    fn by_secret(&self, asks: &Asks, claim: Claim<'_>, address: IpAddr) -> Result<Caller, Refusal> {
        let now = self.began.elapsed();
        let lock = || self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        // There is nothing to guess about a credential that is not there.
        let known = asks.credentials.has(claim.id).then(|| claim.id.to_owned());
        if !lock().may_try(address, claim.id, now) {
            return Err(Refusal::Guessing(known.unwrap_or_default()));
        }
        match asks.credentials.who(claim, SystemTime::now()) {
            Who::Known(caller) => Ok(caller),
            Who::Expired(since_s) => Err(Refusal::Expired(claim.id.to_owned(), since_s)),
            Who::Nobody => {
                if known.is_some() {
                    lock().on_wrong(address, claim.id, now);
                }
                Err(Refusal::Wrong(known.unwrap_or_default()))
            }
        }
    }
}

/// By the certificate that the connection began with.
fn by_certificate(asks: &Asks, origin: Option<&Origin>) -> Result<Caller, Refusal> {
    let Some(holder) = origin.and_then(|origin| origin.holder.as_ref()) else {
        return Err(Refusal::Missing);
    };
    let who = asks.operators.who(holder, SystemTime::now());
    who.ok_or_else(|| Refusal::NoRole(holder.to_string()))
}

async fn by_review(asks: &Asks, token: &str, deed: &Deed) -> Result<Caller, Refusal> {
    let Some(reviews) = asks.reviews.as_ref().filter(|_| is_jwt(token)) else {
        return Err(Refusal::Wrong(String::new()));
    };
    match reviews.review(token, deed).await {
        None => Err(Refusal::Away),
        Some(Review::Nobody) => Err(Refusal::Wrong(String::new())),
        Some(Review::Denied(name, why)) => Err(Refusal::Denied(name, Denied::Elsewhere(why))),
        Some(Review::Allowed(name)) => Ok(Caller {
            name,
            role: deed.role,
            namespaces: Vec::new(),
        }),
    }
}

/// Three parts of base64url: nothing else is worth a question.
fn is_jwt(token: &str) -> bool {
    let is_part = |part: &str| {
        let is_letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        !part.is_empty() && part.bytes().all(is_letter)
    };
    token.len() <= 16 * 1024 && token.split('.').count() == 3 && token.split('.').all(is_part)
}

/// A request, as far as it matters here.
struct Asked<'a> {
    headers: &'a HeaderMap,
    origin: Option<&'a Origin>,
    address: IpAddr,
    method: &'a Method,
    path: &'a str,
    deed: Deed,
}

/// Why a request is not let in.
enum Refusal {
    /// No token.
    Missing,
    /// Not a token, or not a right one; of this credential, if there is one of that name.
    Wrong(String),
    /// The right token of this credential, that ended then.
    Expired(String, u64),
    /// Too many wrong ones.
    Guessing(String),
    /// A client certificate that gives no role.
    NoRole(String),
    /// Kubernetes cannot be asked.
    Away,
    /// The right token of somebody who may not.
    Denied(String, Denied),
}

impl Refusal {
    fn problem(&self) -> Problem {
        let unknown = |detail: &str| Problem::new(StatusCode::UNAUTHORIZED, detail);
        match self {
            Refusal::Missing => unknown("send Authorization: Bearer and a credential's token"),
            Refusal::Wrong(_) => unknown("the token is not one, or was revoked"),
            Refusal::Expired(_, since_s) => {
                let ago_s = seconds(SystemTime::now()).saturating_sub(*since_s);
                unknown(&format!("token expired {} ago", span(ago_s)))
            }
            Refusal::Guessing(_) => Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too many wrong tokens for this credential from this address; wait a minute",
            ),
            Refusal::NoRole(name) => unknown(&format!(
                "the client certificate of {name} has no role here, has ended or was revoked; the controller's \
                 rest_clients says which certificates have one"
            )),
            Refusal::Away => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "Kubernetes, which knows this token, cannot be asked; the controller's log says why",
            ),
            Refusal::Denied(_, denied) => Problem::new(StatusCode::FORBIDDEN, denied.to_string()),
        }
    }

    fn count(&self, refused: &RestRefused) {
        match self {
            Refusal::Missing => &refused.missing,
            Refusal::Wrong(_) | Refusal::NoRole(_) => &refused.wrong,
            Refusal::Expired(..) => &refused.expired,
            Refusal::Guessing(_) => &refused.guessing,
            Refusal::Away => &refused.away,
            Refusal::Denied(_, Denied::Role { .. } | Denied::Elsewhere(_)) => &refused.role,
            Refusal::Denied(_, Denied::Namespace(_)) => &refused.namespace,
        }
        .increment(1);
    }

    fn who(&self) -> &str {
        match self {
            Refusal::Missing | Refusal::Away => "",
            Refusal::Wrong(name)
            | Refusal::Expired(name, _)
            | Refusal::Guessing(name)
            | Refusal::NoRole(name)
            | Refusal::Denied(name, _) => name,
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
    let Some(deed) = access::deed(request.method(), request.uri().path()) else {
        return next.run(request).await;
    };
    let origin = request.extensions().get::<ConnectInfo<Origin>>().cloned();
    let origin = origin.map(|ConnectInfo(origin)| origin);
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let address = origin
        .as_ref()
        .map_or(nowhere, |origin| origin.address)
        .ip();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let asked = Asked {
        headers: request.headers(),
        origin: origin.as_ref(),
        address,
        method: &method,
        path: &path,
        deed,
    };
    match rest.gate.caller(&asked).await {
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
            rest.refusals.add(&Refused {
                door: Door::Rest,
                address,
                who: who.to_owned(),
                what: format!("{method} {path}"),
                reason: problem.detail.clone(),
                status,
            });
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

/// The token of `Authorization: Bearer` (RFC 6750, section 2.1); `None` without the header.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value.to_str().ok(),
        (Some(_), Some(_)) => None,
    };
    let parts = value.and_then(|value| value.split_once(' '));
    let token = parts.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let token = token.map(|(_, token)| token.trim());
    token.map(Some).ok_or(Refusal::Missing)
}
