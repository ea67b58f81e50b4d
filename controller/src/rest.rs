//! The REST API and the program's health, over HTTPS, or plain HTTP where the configuration says so.
//!
//! | path | methods |
//! |---|---|
//! | `/livez`, `/readyz`, `/metrics` | GET |
//! | `/v1/nodes`, `/v1/services`, `/v1/weight-policies`, `/v1/traffic-policies`, `/v1/access-policies`, `/v1/http-routes`, `/v1/grpc-routes` | GET |
//! | `/v1/nodes/{name}`, `/v1/services/{namespace}/{name}`, `/v1/weight-policies/{name}`, `/v1/traffic-policies/{name}`, `/v1/access-policies/{name}`, `/v1/http-routes/{namespace}/{name}`, `/v1/grpc-routes/{namespace}/{name}` | GET, PUT, DELETE |
//! | `/v1/status`, `/v1/plans/current`, `/v1/audit`, `/v1/audit/refused`, `/v1/picture`, `/v1/whoami` | GET |
//! | `/`, `/dashboard` | GET |
//!
//! Every write takes `If-Match` or `If-None-Match: *` (412 when it does not hold) and `?dry_run=true`, leaves an entry
//! in the audit, and is answered when it is on the disk. Lists come in pages: `limit`, `after`.
//!
//! | `/v1/tap`, `/v1/tap/{namespace}/{name}` | GET |
//! | `/v1/log-levels`, `/v1/nodes/{name}/log-levels` | PUT |
//! | `/v1/bench-link` | POST |
//! | `/v1/authority` | GET |
//! | `/v1/authority/import`, `/v1/authority/steps` | POST |
//! | `/v1/tokens`, `/v1/credentials` | GET, POST |
//! | `/v1/tokens/{id}`, `/v1/credentials/{name}` | DELETE |
//! | `/v1/revocations/{node}` | PUT |
//! | `/v1/mtls` | GET |
//!
//! Who asks and whether they may is decided before anything else, in [`gate`] by the rules of [`crate::access`];
//! handlers find the [`Caller`] among the request's extensions. Where nobody is asked, a request must
//! name an address of this machine as its host: otherwise a web page could have a browser on this
//! machine send requests here under a name of its own (DNS rebinding).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::control_task::{ControlError, ControlHandle, ErrandError};
use crate::enrolled::Enrolled;
use crate::link::Links;
use crate::metrics::Metrics;
use crate::past::Past;
use crate::plain_calls::PlainCalls;
use crate::problem::{Problem, status_of};
use crate::refusals::Refusals;
use crate::resource_text::TEXT_LEN_MAX;
use crate::tokens::Tokens;

mod audit;
mod body;
mod call;
mod credentials;
mod dashboard;
mod endpoints;
mod errands;
mod events;
mod forward;
pub mod gate;
mod health;
mod identity;
mod kinds;
mod mtls;
mod node_actions;
mod openapi;
mod paging;
mod picture;
mod plans;
pub mod port;
mod resources;
mod status;
mod tap;
mod transfer;
mod what_if;
mod whoami;

pub use call::Caller;
pub use events::EventReaders;
pub use forward::Relayed;
pub use kinds::{KINDS, KindRow};
pub use openapi::DOCUMENT as OPENAPI;
pub use paging::{PAGE_LEN_DEFAULT, PAGE_LEN_MAX, Pager};
pub use what_if::Trials;

/// Longest that a request may take to be read and answered; what is streamed comes after.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);

/// Longest that a caller may leave an answer unread before the kernel cuts its connection.
pub const READ_TIME_MAX: Duration = Duration::from_secs(20);

use gate::Gate;
use port::{Origin, RestPort};

/// What every request needs.
#[derive(Clone)]
pub struct Rest {
    /// The task that owns the control loop.
    pub control: ControlHandle,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Cancelled when the program shall end.
    pub signal: CancellationToken,
    /// Signs where pages go on.
    pub pager: Pager,
    /// Room for plans that are only tried out.
    pub trials: Trials,
    /// Signs certificates.
    pub authority: Arc<Authority>,
    /// What lets proxies enrol.
    pub tokens: Arc<Tokens>,
    /// Proxies that have enrolled.
    pub enrolled: Arc<Enrolled>,
    /// Who may come in.
    pub gate: Arc<Gate>,
    /// Who was refused.
    pub refusals: Arc<Refusals>,
    /// Who calls services without showing who they are.
    pub plain: Arc<PlainCalls>,
    /// Room for readers of events.
    pub readers: EventReaders,
    /// The last hour, for who opens the map later.
    pub past: Arc<Mutex<Past>>,
    /// Where requests are passed on to while another controller leads.
    pub links: Links,
}

impl Rest {
    /// Serves connections until the signal, then until the requests under way are answered.
    pub async fn serve(self, port: RestPort) {
        let signal = self.signal.clone();
        let kept = picture::keep(self.clone());
        let service = self
            .router()
            .into_make_service_with_connect_info::<Origin>();
        let served = axum::serve(port, service).with_graceful_shutdown(signal.cancelled_owned());
        let served = async {
            if let Err(error) = served.await {
                tracing::error!(%error, "the REST API has failed");
            }
        };
        tokio::join!(served, kept);
    }

    /// All of it, for requests whose extensions say where they come from.
    pub fn router(self) -> Router {
        Router::new()
            .merge(health::routes())
            .merge(kinds::routes())
            .merge(status::routes())
            .merge(audit::routes())
            .merge(credentials::routes())
            .merge(node_actions::routes())
            .merge(endpoints::routes())
            .merge(plans::routes())
            .merge(what_if::routes())
            .merge(events::routes())
            .merge(tap::routes())
            .merge(errands::routes())
            .merge(transfer::routes())
            .merge(openapi::routes())
            .merge(identity::routes())
            .merge(picture::routes())
            .merge(dashboard::routes())
            .merge(whoami::routes())
            .merge(mtls::routes())
            .fallback(no_such_path)
            .method_not_allowed_fallback(no_such_method)
            .layer(DefaultBodyLimit::max(TEXT_LEN_MAX))
            .layer(from_fn(in_time))
            .layer(from_fn_with_state(self.clone(), gate::check))
            .layer(from_fn(in_time))
            .layer(from_fn_with_state(self.clone(), forward::forward))
            .layer(from_fn_with_state(self.clone(), check_host))
            .with_state(self)
    }
}

/// Who sends a body byte by byte holds a connection for so long and no longer.
async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIME_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let seconds = REQUEST_TIME_MAX.as_secs();
            let detail = format!("the request was not read and answered within {seconds} s");
            Problem::new(StatusCode::REQUEST_TIMEOUT, detail).into_response()
        }
    }
}

async fn check_host(State(rest): State<Rest>, request: Request, next: Next) -> Response {
    let named = request.headers().get(http::header::HOST);
    let named = named.and_then(|host| host.to_str().ok());
    if !rest.gate.is_open() || named.is_none_or(is_this_machine) {
        return next.run(request).await;
    }
    let detail = "this API answers under localhost and IP addresses alone";
    Problem::new(StatusCode::MISDIRECTED_REQUEST, detail).into_response()
}

/// `localhost` or an IP address, with or without a port: names that no web page can take.
fn is_this_machine(host: &str) -> bool {
    use std::net::{IpAddr, SocketAddr};
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok()
        || host.parse::<SocketAddr>().is_ok()
}

async fn no_such_path(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(128).collect();
    Problem::new(StatusCode::NOT_FOUND, format!("there is no {path}"))
}

async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(128).collect();
    let detail = format!("{path} does not take {method}");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.to_response().map(Body::from)
    }
}

/// Where the control task's refusals get their status.
impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Problem {
        let status = match &error {
            ControlError::Limit(_) => StatusCode::INSUFFICIENT_STORAGE,
            ControlError::Stopping
            | ControlError::NotLeading
            | ControlError::Taps(_)
            | ControlError::Errand(ErrandError::Full) => StatusCode::SERVICE_UNAVAILABLE,
            ControlError::Errand(ErrandError::NotConnected(_)) => StatusCode::CONFLICT,
            ControlError::Unexpected { .. } => StatusCode::PRECONDITION_FAILED,
            ControlError::Store(cause) if cause.is_passing() => StatusCode::SERVICE_UNAVAILABLE,
            ControlError::Store(cause) => {
                tracing::error!(error = %cause, "a change was not stored");
                return Problem::new(status_of(cause), format!("{error}: {cause}"));
            }
        };
        Problem::new(status, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_web_page_could_take_are_refused() {
        let cases = [
            ("localhost", true),
            ("LOCALHOST:7400", true),
            ("127.0.0.1:7400", true),
            ("127.0.0.1", true),
            ("[::1]:7400", true),
            ("[::1]", true),
            ("evil.example", false),
            ("evil.example:7400", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example:7400", false),
            ("", false),
        ];
        for (host, fine) in cases {
            assert_eq!(is_this_machine(host), fine, "{host:?}");
        }
    }
}
