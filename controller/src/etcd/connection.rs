//! One connection to one member of etcd: HTTP/1.1, in the clear or over TLS.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::{EtcdError, EtcdOptions};
use crate::authority::crypto;

/// Longest answer that is read, in bytes: a page of [`crate::store::etcd`] is shorter.
const ANSWER_LEN_MAX: usize = 64 << 20;

/// How to reach one member.
pub(super) struct Way {
    /// As the configuration writes it.
    pub endpoint: String,
    host: String,
    /// `host:port`.
    address: String,
    tls: Option<TlsConnector>,
}

impl Way {
    pub fn new(text: &str, tls: &Option<Arc<ClientConfig>>) -> Result<Way, EtcdError> {
        let wrong = || EtcdError::Endpoint(text.to_owned());
        let uri: http::Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let is_plain = match uri.scheme_str() {
            Some("http") => true,
            Some("https") => false,
            _ => return Err(wrong()),
        };
        if authority.port_u16().is_none() || !matches!(uri.path(), "" | "/") {
            return Err(wrong());
        }
        let connector = match is_plain {
            true => None,
            false => Some(tls.clone().ok_or_else(|| EtcdError::File {
                path: "store.ca_file".into(),
                problem: "is not set, and an endpoint is https".to_owned(),
            })?),
        };
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        Ok(Way {
            endpoint: text.to_owned(),
            address: authority.as_str().to_owned(),
            host,
            tls: connector.map(TlsConnector::from),
        })
    }

    pub async fn connect(&self) -> Result<Connection, EtcdError> {
        let failed = |source| EtcdError::not_connected(&self.endpoint, source);
        let socket = TcpStream::connect(&self.address).await.map_err(failed)?;
        // A socket that refuses is as good as gone.
        let _ = socket.set_nodelay(true);
        match &self.tls {
            None => self.begin(TokioIo::new(socket)).await,
            Some(tls) => {
                let name = match self.host.parse::<IpAddr>() {
                    Ok(ip) => ServerName::IpAddress(ip.into()),
                    Err(_) => ServerName::try_from(self.host.clone())
                        .map_err(|_| EtcdError::Endpoint(self.endpoint.clone()))?,
                };
                let stream = tls.connect(name, socket).await.map_err(failed)?;
                self.begin(TokioIo::new(stream)).await
            }
        }
    }

    async fn begin<IO>(&self, io: IO) -> Result<Connection, EtcdError>
    where
        IO: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    {
        let shaken = http1::handshake(io).await;
        let (sender, connection) =
            shaken.map_err(|source| EtcdError::broken(&self.endpoint, source))?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to etcd ended");
            }
        });
        Ok(Connection { sender, driver })
    }
}

/// A connection; dropping it closes it.
pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Sends a request and reads the whole answer.
    pub async fn post(
        &mut self,
        way: &Way,
        path: &'static str,
        body: &[u8],
        token: Option<&str>,
    ) -> Result<(StatusCode, Vec<u8>), EtcdError> {
        let broken = |source| EtcdError::broken(&way.endpoint, source);
        let mut request = Request::new(Full::new(Bytes::copy_from_slice(body)));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = http::Uri::from_static(path);
        let headers = request.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(CONTENT_TYPE, json.clone());
        // By this header etcd knows that a request came by its JSON API. Without it, it takes the common name of its own
        // certificate for who asks.
        headers.insert(ACCEPT, json);
        if let Ok(host) = HeaderValue::from_str(&way.address) {
            headers.insert(HOST, host);
        }
        if let Some(Ok(token)) = token.map(HeaderValue::from_str) {
            headers.insert(AUTHORIZATION, token);
        }
        self.sender.ready().await.map_err(broken)?;
        let response = self.sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LEN_MAX);
        let collected = body.collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                return EtcdError::TooLong;
            }
            EtcdError::TooSlow(way.endpoint.clone())
        })?;
        Ok((status, collected.to_bytes().to_vec()))
    }
}

/// TLS by the configuration's files; `None` without roots to believe.
pub(super) fn tls(options: &EtcdOptions) -> Result<Option<Arc<ClientConfig>>, EtcdError> {
    let Some(ca_file) = &options.ca_file else {
        return Ok(None);
    };
    let mut roots = RootCertStore::empty();
    for root in certificates(ca_file)? {
        roots.add(root).map_err(|error| wrong(ca_file, error))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(ca_file, error))?
        .with_root_certificates(roots);
    let config = match &options.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let private = PrivateKeyDer::from_pem_slice(read(key)?.as_bytes());
            let private = private.map_err(|error| wrong(key, error))?;
            let config = builder.with_client_auth_cert(chain, private);
            config.map_err(|error| wrong(certificate, error))?
        }
    };
    Ok(Some(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, EtcdError> {
    let text = read(path)?;
    let all = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(wrong(path, "has no certificate")),
        Err(error) => Err(wrong(path, error)),
    }
}

pub(super) fn read(path: &Path) -> Result<String, EtcdError> {
    std::fs::read_to_string(path).map_err(|error| wrong(path, error))
}

fn wrong(path: &Path, problem: impl ToString) -> EtcdError {
    EtcdError::File {
        path: path.to_owned(),
        problem: problem.to_string(),
    }
}
