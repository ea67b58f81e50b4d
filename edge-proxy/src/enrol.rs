//! How the proxy gets its first certificate, and the ones after it.
//!
//! The first: with a token, believing the controller by `ca_file`, else by the fingerprint of its root that the token ends
//! with. Those after: with the certificate it has, when two thirds of its life are over or another root signs. After
//! the certificate has ended: with the re-enrolment credential that came with it, else with a token again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use isobar_mesh_api::enrol::{ENROL_PATH, EnrolRequest, pin};
use isobar_mesh_api::message::{Certificate, Trust};

use crate::control::dial::{DialError, dial};
use crate::identity::{
    Identity, IdentityError, Roots, client_by_pin, client_without_certificate, files,
};
use crate::proxy::Proxy;
use rustls::ClientConfig;

/// Longest answer that is read, in bytes.
pub const ANSWER_LEN_MAX: usize = 256 * 1024;
/// How much of the controller's reason is told, in characters.
const WHY_LEN_MAX: usize = 300;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// A certificate is needed and `token_file` is not configured.
    #[error("a first certificate needs token_file in the configuration")]
    NoToken,
    /// Nothing tells the controller from somebody else.
    #[error(
        "the token has no root's fingerprint at its end, so ca_file must be in the configuration"
    )]
    NoRoot,
    /// A file that the configuration names cannot be read.
    #[error("{0} is not there")]
    NoFile(PathBuf),
    /// Keys, requests or the certificate that came.
    #[error("preparing or adopting a certificate")]
    Identity(#[from] IdentityError),
    /// The TLS library refuses.
    #[error("preparing the connection")]
    Tls(#[from] rustls::Error),
    /// The controller cannot be reached.
    #[error("reaching the controller")]
    Dial(#[from] DialError),
    /// The connection broke.
    #[error("asking for a certificate")]
    Http(#[from] hyper::Error),
    /// The controller said no.
    #[error("the controller answered {0}: {1}")]
    Refused(StatusCode, String),
    /// The answer broke off or is longer than [`ANSWER_LEN_MAX`].
    #[error("the answer is too long or broke off: {0}")]
    Body(String),
    /// The answer or request is not what it should be.
    #[error("the answer is not a certificate")]
    Json(#[from] serde_json::Error),
}

/// Gets a certificate and keeps it; the proxy uses it from then on.
///
/// # Errors
/// No certificate came, or none that can be used. What the proxy had stays.
pub async fn enrol(proxy: &Proxy, controller: &str) -> Result<(), EnrolError> {
    let mut refused = None;
    for (tls, token) in ways(proxy)? {
        match ask(proxy, controller, tls, token).await {
            Ok(certificate) => return Ok(adopt(proxy, &certificate)?),
            // A credential that is not taken any more leaves the token to try with.
            Err(error @ EnrolError::Refused(..)) => {
                tracing::warn!(error = %crate::chain(&error), "an enrolment was refused");
                refused = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(refused.unwrap_or(EnrolError::NoToken))
}

/// Asks for a certificate in one way.
async fn ask(
    proxy: &Proxy,
    controller: &str,
    tls: Arc<ClientConfig>,
    token: String,
) -> Result<Certificate, EnrolError> {
    let config = &proxy.config;
    let key = files::key(&config.data_dir)?;
    let asked = serde_json::to_vec(&EnrolRequest {
        node: config.node.clone(),
        csr_pem: files::certificate_request(&key)?,
        token,
        site: config.site.clone(),
    })?;
    let mut request = Request::new(Full::new(Bytes::from(asked)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(ENROL_PATH);
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(CONTENT_TYPE, json);
    let mut dialled = dial(controller, tls).await?;
    let response = dialled.sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_LEN_MAX);
    let body = body.collect().await.map_err(|error| {
        let what = match error.is::<LengthLimitError>() {
            true => "too long".to_owned(),
            false => error.to_string(),
        };
        EnrolError::Body(what)
    })?;
    let body = body.to_bytes();
    if !status.is_success() {
        let why: Refusal = serde_json::from_slice(&body).unwrap_or_default();
        let detail = why.detail.chars().take(WHY_LEN_MAX).collect();
        return Err(EnrolError::Refused(status, detail));
    }
    Ok(serde_json::from_slice(&body)?)
}

/// Why the controller said no (RFC 9457).
#[derive(Default, serde::Deserialize)]
struct Refusal {
    #[serde(default)]
    detail: String,
}

/// Uses a certificate from now on, if it is ours.
///
/// # Errors
/// It cannot be used or kept; the one before stays.
pub fn adopt(proxy: &Proxy, certificate: &Certificate) -> Result<(), IdentityError> {
    let config = &proxy.config;
    let dir = &config.data_dir;
    let identity: Identity = files::adopt(dir, &config.trust_domain, &config.node, certificate)?;
    tracing::info!(id = %identity.id, "a certificate is in use");
    proxy.identity.set(identity);
    Ok(())
}

/// Trusts whom the controller says from now on.
///
/// # Errors
/// Roots by which this proxy's own certificate would not be believed, or files that cannot be written.
pub fn adopt_trust(proxy: &Proxy, trust: &Trust) -> Result<(), IdentityError> {
    let config = &proxy.config;
    let dir = &config.data_dir;
    let identity = files::adopt_trust(dir, &config.trust_domain, &config.node, trust)?;
    let (version, revoked) = (trust.version, trust.revoked.len());
    tracing::info!(version, revoked, "whom to trust was told anew");
    proxy.identity.set(identity);
    Ok(())
}

/// How a certificate may be asked for, the best way first: how to connect, and what to show.
fn ways(proxy: &Proxy) -> Result<Vec<(Arc<ClientConfig>, String)>, EnrolError> {
    let config = &proxy.config;
    let current = proxy.identity.get();
    if let Some(current) = current.filter(|identity| identity.is_valid(SystemTime::now())) {
        return Ok(vec![(current.client_to_controller()?, String::new())]);
    }
    let mut ways = Vec::new();
    let kept = |name| files::read_if_there(&config.data_dir.join(name));
    if let (Some(renewal), Some(roots)) = (kept(files::RENEWAL_FILE)?, kept(files::ROOTS_FILE)?) {
        let roots = Roots::from_pem(&roots)?;
        let tls = client_without_certificate(&roots, &config.trust_domain)?;
        ways.push((tls, renewal.trim().to_owned()));
    }
    match first(proxy) {
        Ok(way) => ways.push(way),
        Err(error) if ways.is_empty() => return Err(error),
        // The credential may be enough; what is missing for the other way is said when it is not.
        Err(_) => {}
    }
    Ok(ways)
}

fn first(proxy: &Proxy) -> Result<(Arc<ClientConfig>, String), EnrolError> {
    let config = &proxy.config;
    let read = |path: &PathBuf| {
        let text = files::read_if_there(path)?;
        text.ok_or_else(|| EnrolError::NoFile(path.clone()))
    };
    let token = config.token_file.as_ref().ok_or(EnrolError::NoToken)?;
    let token = read(token)?.trim().to_owned();
    let tls = match (&config.ca_file, pin(&token)) {
        (Some(ca_file), _) => {
            client_without_certificate(&Roots::from_pem(&read(ca_file)?)?, &config.trust_domain)?
        }
        (None, Some(pin)) => client_by_pin(pin, &config.trust_domain)?,
        (None, None) => return Err(EnrolError::NoRoot),
    };
    Ok((tls, token))
}
