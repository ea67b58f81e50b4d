//! Certificates for all simulated proxies, by the controller's own enrolment.
//!
//! Many requests share a connection; a stranger may stay for half a minute only, so connections are made anew when they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use isobar_edge_proxy::control::lines::OpenError;
use isobar_mesh_api::enrol::{ENROL_PATH, EnrolRequest};
use isobar_mesh_api::message::Certificate;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};

use super::link::{Connection, Door};
use super::world::World;

/// Enrolments under way at a time; they share flushes of the controller's store.
const WORKERS: u32 = 64;
/// Times that one enrolment is tried.
const TRIES: u32 = 5;

/// What all simulated proxies share.
struct Asker {
    door: Door,
    world: World,
    token: String,
    csr_pem: String,
    key: Arc<dyn SigningKey>,
    next: AtomicU32,
}

/// Enrols every node. Returns their certificates by number.
///
/// # Errors
/// The controller refuses, or cannot be reached.
pub(super) async fn enrol_all(
    door: &Door,
    world: World,
    token: &str,
) -> Result<Vec<Arc<CertifiedKey>>> {
    let key = KeyPair::generate().context("making a key")?;
    let request = CertificateParams::default().serialize_request(&key)?;
    let der = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let asker = Arc::new(Asker {
        door: door.clone(),
        world,
        token: token.trim().to_owned(),
        csr_pem: request.pem()?,
        key: rustls::crypto::ring::sign::any_supported_type(&der)?,
        next: AtomicU32::new(0),
    });
    let workers: Vec<_> = (0..WORKERS.min(world.nodes))
        .map(|_| tokio::spawn(work(asker.clone())))
        .collect();
    let mut all = Vec::with_capacity(world.nodes as usize);
    for worker in workers {
        all.extend(worker.await.context("an enrolment panicked")??);
    }
    all.sort_by_key(|(number, _)| *number);
    Ok(all.into_iter().map(|(_, certified)| certified).collect())
}

async fn work(asker: Arc<Asker>) -> Result<Vec<(u32, Arc<CertifiedKey>)>> {
    let (mut connection, mut mine) = (None, Vec::new());
    loop {
        let number = asker.next.fetch_add(1, Ordering::Relaxed);
        if number >= asker.world.nodes {
            return Ok(mine);
        }
        mine.push((
            number,
            Arc::new(enrol(&asker, number, &mut connection).await?),
        ));
    }
}

async fn enrol(
    asker: &Asker,
    number: u32,
    connection: &mut Option<Connection>,
) -> Result<CertifiedKey> {
    let mut failed = None;
    for _ in 0..TRIES {
        match ask(asker, number, connection).await {
            Ok(certificate) => return certified(asker, &certificate),
            Err(error) => {
                *connection = None;
                failed = Some(error);
            }
        }
    }
    let node = asker.world.node(number);
    match failed {
        Some(error) => Err(error).with_context(|| format!("enrolling {node}")),
        None => bail!("{node} was not enrolled"),
    }
}

async fn ask(
    asker: &Asker,
    number: u32,
    connection: &mut Option<Connection>,
) -> Result<Certificate> {
    let open = match connection {
        Some(open) => open,
        None => connection.insert(asker.door.connect(number, None).await?),
    };
    let body = serde_json::to_vec(&EnrolRequest {
        node: asker.world.node(number),
        csr_pem: asker.csr_pem.clone(),
        token: asker.token.clone(),
        site: None,
    })?;
    let request = Request::post(ENROL_PATH).body(Full::new(Bytes::from(body)))?;
    let response = open.sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(OpenError::Refused(response.status(), None).into());
    }
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok(serde_json::from_slice(&bytes)?)
}

fn certified(asker: &Asker, certificate: &Certificate) -> Result<CertifiedKey> {
    let chain = CertificateDer::pem_slice_iter(certificate.chain_pem.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>()?;
    Ok(CertifiedKey::new(chain, asker.key.clone()))
}
