//! The port that the API server calls, HTTPS with a certificate of the mesh's own authority.
//!
//! | path | who | what |
//! |---|---|---|
//! | `POST /inject` | anybody: the answer says nothing that the question did not | the admission webhook |
//! | `GET /apis…` | discovery anybody, figures by [`super::callers`] | `external.metrics.k8s.io` |
//! | `GET /load/{namespace}/{service}` | by [`super::callers`] | the same figures for KEDA |
//! | `GET /livez`, `/readyz` | anybody | whether it runs |

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Query;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::bundles::with_roots;
use super::callers::{Callers, Denied};
use super::load::{self, LoadError};
use crate::accept::accept;
use crate::authority::{Authority, crypto};
use crate::control_task::ControlHandle;
use crate::drain::Drain;
use crate::injection::{Injection, REVIEW_LEN_MAX, review};
use crate::tls::{OwnCertificate, TlsError};

/// Most connections at a time; further ones are closed at once.
const CONNECTIONS_MAX: usize = 256;
/// Most questions of the webhook that are read at a time: they may be large. Others wait within their time.
const REVIEWS_MAX: usize = 4;
/// Longest TLS handshake.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest that a request may take to be read and answered.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(15);
/// Longest life of a connection that nobody asks anything on.
const HEAD_TIME_MAX: Duration = Duration::from_secs(120);
/// Longest request head, in bytes.
const HEAD_BYTES_MAX: u32 = 32 * 1024;

/// What every connection needs.
#[derive(Clone)]
pub(super) struct Port {
    pub acceptor: TlsAcceptor,
    pub authority: Arc<Authority>,
    pub control: ControlHandle,
    pub callers: Arc<Callers>,
    /// None where no image is named to inject.
    pub injection: Option<Injection>,
    pub reviews: Arc<Semaphore>,
    pub drain: Drain,
}

/// The certificate is the controller's own; a client's is asked for, and believed by who needs it.
pub(super) fn acceptor(own: Arc<OwnCertificate>) -> Result<TlsAcceptor, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(crypto()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Shown))
        .with_cert_resolver(own);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// How many questions may be read at a time.
pub(super) fn reviews() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(REVIEWS_MAX))
}

/// Takes any client certificate whose key the client has. Whether it is believed, and for what, [`Callers`] decides: the webhook believes
/// nobody's, and who is the front proxy may not be known yet when it connects.
#[derive(Debug)]
struct Shown;

impl ClientCertVerifier for Shown {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = crypto().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = crypto().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// What is answered: status, and a body that says what it is.
struct Answer(StatusCode, Value);

impl Port {
    /// Serves a listener until the drain's signal.
    pub async fn serve(self, listener: TcpListener) {
        let drain = self.drain.clone();
        let serve = move |socket, _, permit| {
            let port = self.clone();
            async move {
                port.connection(socket).await;
                drop(permit);
            }
        };
        accept(listener, &drain, "kubernetes", CONNECTIONS_MAX, serve).await;
    }

    async fn connection(self, socket: TcpStream) {
        let signal = self.drain.signal().clone();
        let tls = tokio::select! {
            () = signal.cancelled() => return,
            shaken = timeout(HANDSHAKE_TIME_MAX, self.acceptor.accept(socket)) => match shaken {
                Ok(Ok(tls)) => tls,
                _ => return,
            },
        };
        let chain = tls.get_ref().1.peer_certificates();
        let chain: Arc<[CertificateDer<'static>]> = chain.unwrap_or_default().into();
        let service = service_fn(move |request| {
            let (port, chain) = (self.clone(), chain.clone());
            async move { Ok::<_, Infallible>(port.answer(request, &chain).await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(HEAD_BYTES_MAX)
            .keep_alive_interval(HEAD_TIME_MAX);
        let connection = builder.serve_connection(TokioIo::new(tls), service);
        tokio::pin!(connection);
        let mut draining = false;
        loop {
            tokio::select! {
                () = signal.cancelled(), if !draining => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = connection.as_mut() => return,
            }
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        chain: &[CertificateDer<'_>],
    ) -> Response<Full<Bytes>> {
        let answered = timeout(REQUEST_TIME_MAX, self.route(request, chain)).await;
        let Answer(status, body) = answered.unwrap_or_else(|_| {
            refusal(
                StatusCode::REQUEST_TIMEOUT,
                "Timeout",
                "the request was not read and answered in time",
            )
        });
        let mut response = Response::new(Full::from(body.to_string()));
        *response.status_mut() = status;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }

    async fn route(&self, request: Request<Incoming>, chain: &[CertificateDer<'_>]) -> Answer {
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let ok = |body| Answer(StatusCode::OK, body);
        match (request.method(), parts.as_slice()) {
            (&Method::POST, ["inject"]) => self.inject(request.into_body()).await,
            (&Method::GET, ["livez" | "readyz" | "healthz"]) => ok(json!("ok")),
            (&Method::GET, ["apis"]) => ok(load::groups()),
            (&Method::GET, ["apis", load::GROUP]) => ok(load::group()),
            (&Method::GET, ["apis", load::GROUP, load::VERSION]) => ok(load::resources()),
            (
                &Method::GET,
                [
                    "apis",
                    load::GROUP,
                    load::VERSION,
                    "namespaces",
                    namespace,
                    metric,
                ],
            ) => self.external(&request, chain, namespace, metric).await,
            (&Method::GET, ["load", namespace, service]) => {
                self.plain(&request, chain, namespace, service).await
            }
            (&Method::GET, _) => refusal(
                StatusCode::NOT_FOUND,
                "NotFound",
                "there is nothing at this path",
            ),
            _ => refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                "MethodNotAllowed",
                "this path does not take this method",
            ),
        }
    }

    async fn inject(&self, body: Incoming) -> Answer {
        let Some(injection) = &self.injection else {
            return refusal(
                StatusCode::NOT_FOUND,
                "NotFound",
                "this controller has no kubernetes.proxy_image to inject",
            );
        };
        // Closed never.
        let _permit = self.reviews.acquire().await;
        let bytes = match Limited::new(body, REVIEW_LEN_MAX).collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                let detail = format!("a question has at most {REVIEW_LEN_MAX} bytes");
                return refusal(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "RequestEntityTooLarge",
                    detail,
                );
            }
            Err(_) => {
                return refusal(
                    StatusCode::BAD_REQUEST,
                    "BadRequest",
                    "the body ended early",
                );
            }
        };
        match review(&bytes, &with_roots(injection, &self.authority)) {
            Ok(answer) => Answer(StatusCode::OK, answer),
            Err(error) => refusal(StatusCode::BAD_REQUEST, "BadRequest", error.to_string()),
        }
    }

    async fn external(
        &self,
        request: &Request<Incoming>,
        chain: &[CertificateDer<'_>],
        namespace: &str,
        metric: &str,
    ) -> Answer {
        let token = bearer(request);
        if let Err(denied) = self.callers.check(chain, token, namespace, metric).await {
            return denial(&denied);
        }
        let query = query(request);
        let selector = query.get("labelSelector").map_or("", String::as_str);
        let now = k8s_openapi::jiff::Timestamp::now().to_string();
        let Ok(view) = self.control.view().await else {
            return refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                "ServiceUnavailable",
                "the controller is stopping",
            );
        };
        match load::list(&view, namespace, metric, selector, &now) {
            Ok(list) => Answer(StatusCode::OK, list),
            Err(error @ LoadError::Selector(_)) => {
                refusal(StatusCode::BAD_REQUEST, "BadRequest", error.to_string())
            }
            Err(error @ LoadError::TooMany) => refusal(
                StatusCode::UNPROCESSABLE_ENTITY,
                "Invalid",
                error.to_string(),
            ),
            Err(error) => refusal(StatusCode::NOT_FOUND, "NotFound", error.to_string()),
        }
    }

    async fn plain(
        &self,
        request: &Request<Incoming>,
        chain: &[CertificateDer<'_>],
        namespace: &str,
        service: &str,
    ) -> Answer {
        let metric = load::Metric::Demand.as_str();
        if let Err(denied) = self
            .callers
            .check(chain, bearer(request), namespace, metric)
            .await
        {
            return denial(&denied);
        }
        let query = query(request);
        let Ok(view) = self.control.view().await else {
            return refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                "ServiceUnavailable",
                "the controller is stopping",
            );
        };
        match load::plain(
            &view,
            namespace,
            service,
            query.get("node").map(String::as_str),
        ) {
            Some(load) => Answer(StatusCode::OK, load),
            None => refusal(
                StatusCode::NOT_FOUND,
                "NotFound",
                "there is no such service, or it is not on that node",
            ),
        }
    }
}

fn query(request: &Request<Incoming>) -> BTreeMap<String, String> {
    let read = Query::<BTreeMap<String, String>>::try_from_uri(request.uri());
    read.map(|Query(query)| query).unwrap_or_default()
}

/// The token of `Authorization: Bearer`.
fn bearer(request: &Request<Incoming>) -> Option<&str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A refusal, as Kubernetes words it.
fn refusal(status: StatusCode, reason: &str, message: impl Into<String>) -> Answer {
    let message = message.into();
    Answer(
        status,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason, "message": message, "code": status.as_u16()}),
    )
}

fn denial(denied: &Denied) -> Answer {
    let (status, reason) = match denied {
        Denied::Unknown => (StatusCode::UNAUTHORIZED, "Unauthorized"),
        Denied::Forbidden(..) => (StatusCode::FORBIDDEN, "Forbidden"),
        Denied::Away => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
    };
    refusal(status, reason, denied.to_string())
}
