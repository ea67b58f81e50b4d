//! How operators come in: the REST port, its TLS, and who is asked.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::ProgramError;
use crate::authority::Authority;
use crate::config::Config;
use crate::credentials::Credentials;
use crate::drain::Drain;
use crate::operator_tls::OperatorTls;
use crate::rest::gate::{Gate, Reviews};
use crate::rest::port::{RestPort, Tls};
use crate::store::Store;
use crate::tls::OwnCertificate;

/// Names under which proxies and operators may reach the controller.
pub(super) fn certificate_names(config: &Config) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    for listen in [config.stream_listen.ip(), config.rest_listen.ip()] {
        if !listen.is_unspecified() {
            names.push(listen.to_string());
        }
    }
    names.extend(config.stream_names.iter().cloned());
    names.extend(config.rest_names.iter().cloned());
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

pub(super) fn open_rest_port(
    config: &Config,
    listener: TcpListener,
    operators: Arc<OperatorTls>,
    drain: &Drain,
) -> Result<RestPort, ProgramError> {
    let tls = match config.rest_has_tls() {
        false => None,
        true => {
            let acceptor = TlsAcceptor::from(Arc::new(operators.server_config()?));
            let (signal, files) = (drain.signal().clone(), operators.clone());
            drain.spawn(async move { files.keep_fresh(&signal).await });
            Some(Tls {
                acceptor,
                operators,
            })
        }
    };
    if tls.is_none() && !config.rest_listen.ip().is_loopback() {
        tracing::warn!(
            "the REST API speaks plain HTTP on an address that others can reach (rest_insecure)"
        );
    }
    RestPort::open(listener, tls, drain).map_err(|source| ProgramError::Listen {
        field: "rest_listen",
        address: config.rest_listen,
        source,
    })
}

/// Who may use the REST API, and TLS for them.
pub(super) async fn open_gate(
    config: &Config,
    store: &Arc<dyn Store>,
    own: &Arc<OwnCertificate>,
    authority: &Arc<Authority>,
) -> Result<(Arc<OperatorTls>, Arc<Gate>), ProgramError> {
    let (own, authority, clients) = (own.clone(), authority.clone(), config.rest_clients.clone());
    let operators = OperatorTls::new(own, authority, config.operator_files(), clients)?;
    let operators = Arc::new(operators);
    if config.rest_open {
        tracing::warn!("the REST API asks nobody who they are (rest_open)");
        return Ok((operators, Arc::new(Gate::open())));
    }
    let credentials = Credentials::open(store.clone()).await?;
    let gate = Gate::new(Arc::new(credentials), operators.clone());
    let gate = gate.with_reviews(reviews(config).await?);
    Ok((operators, Arc::new(gate)))
}

/// Who knows tokens that are no credential's.
#[cfg(feature = "kubernetes")]
async fn reviews(config: &Config) -> Result<Option<Arc<dyn Reviews>>, ProgramError> {
    match &config.kubernetes {
        Some(cluster) => Ok(crate::kubernetes::reviews(cluster).await?),
        None => Ok(None),
    }
}

/// Built without Kubernetes.
#[cfg(not(feature = "kubernetes"))]
async fn reviews(_: &Config) -> Result<Option<Arc<dyn Reviews>>, ProgramError> {
    Ok(None)
}
