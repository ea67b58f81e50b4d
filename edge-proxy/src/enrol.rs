//! How the proxy gets its first certificate, and the ones after it.
//!
//! The first: with a token, believing the controller by `ca_file`. Those
//! after: with the certificate it has, when two thirds of its life are over.

use std::path::PathBuf;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use isobar_mesh_api::enrol::{ENROL_PATH, EnrolRequest};
use isobar_mesh_api::message::Certificate;

use crate::control::dial::{ControlBody, DialError, dial};
use crate::identity::{Identity, IdentityError, Roots, client_without_certificate, files};
use crate::proxy::Proxy;

/// Longest answer that is read, in bytes.
pub const ANSWER_LEN_MAX: usize = 256 * 1024;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// A certificate is needed and `ca_file` or `token_file` is not configured.
    #[error("a first certificate needs {0} in the configuration")]
    NotConfigured(&'static str),
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
    #[error("the controller answered {0}")]
    Refused(StatusCode),
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
    let config = &proxy.config;
    let current = proxy.identity.get();
    let (tls, token) = match &current {
        Some(identity) => (identity.client_to_controller()?, String::new()),
        None => first(proxy)?,
    };
    let key = files::key(&config.data_dir)?;
    let asked = serde_json::to_vec(&EnrolRequest {
        node: config.node.clone(),
        csr_pem: files::certificate_request(&key)?,
        token,
    })?;
    let mut request = Request::new(ControlBody::Whole(Full::new(Bytes::from(asked))));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(ENROL_PATH);
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(CONTENT_TYPE, json);
    let mut dialled = dial(controller, tls).await?;
    let response = dialled.sender.send_request(request).await?;
    if !response.status().is_success() {
        return Err(EnrolError::Refused(response.status()));
    }
    let body = Limited::new(response.into_body(), ANSWER_LEN_MAX);
    let body = body.collect().await.map_err(|error| {
        let what = match error.is::<LengthLimitError>() {
            true => "too long".to_owned(),
            false => error.to_string(),
        };
        EnrolError::Body(what)
    })?;
    let certificate: Certificate = serde_json::from_slice(&body.to_bytes())?;
    adopt(proxy, &certificate)?;
    Ok(())
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

fn first(proxy: &Proxy) -> Result<(std::sync::Arc<rustls::ClientConfig>, String), EnrolError> {
    let config = &proxy.config;
    let read = |path: &PathBuf| {
        let text = files::read_if_there(path)?;
        text.ok_or_else(|| EnrolError::NoFile(path.clone()))
    };
    let ca_file = config.ca_file.as_ref();
    let ca_file = ca_file.ok_or(EnrolError::NotConfigured("ca_file"))?;
    let token_file = config.token_file.as_ref();
    let token_file = token_file.ok_or(EnrolError::NotConfigured("token_file"))?;
    let roots = Roots::from_pem(&read(ca_file)?)?;
    let tls = client_without_certificate(&roots, &config.trust_domain)?;
    Ok((tls, read(token_file)?.trim().to_owned()))
}
