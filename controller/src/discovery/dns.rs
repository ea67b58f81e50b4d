//! Endpoints behind a DNS name: its addresses, or its SRV records and the addresses of their targets.
//!
//! A name is asked again when its answer's lifetime is over. An answer without records says that there are no endpoints; that the
//! name does not exist, that the server fails or says nothing, is silence.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{Resolver, TokioResolver};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Heard;
use super::merge::{Said, Spot};
use crate::config::DnsConfig;

/// Most SRV records that are followed, those of the best priority first.
const TARGETS_MAX: usize = 256;
/// Most endpoints of one name.
const SPOTS_MAX: usize = 4096;
/// A name is asked again after this time at the soonest, whatever the lifetime of its answer.
const AGAIN_MIN: Duration = Duration::from_secs(1);
/// And at the latest.
const AGAIN_MAX: Duration = Duration::from_secs(300);
/// After silence.
const AGAIN_FAILED: Duration = Duration::from_secs(5);

/// What the source is called.
pub fn name(config: &DnsConfig) -> String {
    format!("dns:{}", config.name)
}

/// Asks for as long as somebody listens.
pub async fn follow(config: DnsConfig, heard: mpsc::Sender<Heard>) {
    let resolver = resolver(&config);
    loop {
        let (said, wait) = match &resolver {
            Err(error) => (Err(error.to_string()), AGAIN_MAX),
            Ok(resolver) => match ask(resolver, &config).await {
                Ok((spots, until)) => {
                    let wait = until.saturating_duration_since(std::time::Instant::now());
                    (Ok(spots), wait.clamp(AGAIN_MIN, AGAIN_MAX))
                }
                Err(error) => (Err(error.to_string()), AGAIN_FAILED),
            },
        };
        let said = said.map(|spots| {
            vec![Said {
                service: config.service.clone(),
                hosts: config.hosts.clone(),
                spots,
            }]
        });
        let source = name(&config);
        if heard.send(Heard { source, said }).await.is_err() {
            return;
        }
        tokio::time::sleep_until(Instant::now() + wait).await;
    }
}

fn resolver(config: &DnsConfig) -> Result<TokioResolver, NetError> {
    let builder = match config.server {
        None => TokioResolver::builder_tokio()?,
        Some(server) => {
            let [mut udp, mut tcp] = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            (udp.port, tcp.port) = (server.port(), server.port());
            let server = NameServerConfig::new(server.ip(), true, vec![udp, tcp]);
            let servers = ResolverConfig::from_name_servers(vec![server]);
            Resolver::builder_with_config(servers, TokioRuntimeProvider::default())
        }
    };
    builder.build()
}

/// The endpoints, and until when the answer holds.
async fn ask(
    resolver: &TokioResolver,
    config: &DnsConfig,
) -> Result<(Vec<Spot>, std::time::Instant), NetError> {
    let mut spots = Vec::new();
    // A dot at the end: the name as it is, without the domains of the system.
    let whole = |name: &str| format!("{}.", name.trim_end_matches('.'));
    if !config.is_srv() {
        let port = config.port.unwrap_or_default();
        let (found, until) = addresses(resolver, &whole(&config.name)).await?;
        for ip in found.into_iter().take(SPOTS_MAX) {
            spots.push(spot(config, ip, port, ""));
        }
        return Ok((spots, until));
    }
    let answer = match resolver.srv_lookup(whole(&config.name)).await {
        Ok(answer) => answer,
        Err(error) if is_empty(&error) => return Ok((spots, std::time::Instant::now())),
        Err(error) => return Err(error),
    };
    let mut until = answer.valid_until();
    let srv = answer
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) => Some((srv.priority, srv.target.to_ascii(), srv.port)),
            _ => None,
        });
    let mut targets: Vec<(u16, String, u16)> = srv.collect();
    targets.sort();
    for (_, target, port) in targets.into_iter().take(TARGETS_MAX) {
        let (found, holds) = addresses(resolver, &target).await?;
        until = until.min(holds);
        let machine = target.split('.').next().unwrap_or_default();
        for ip in found.into_iter().take(SPOTS_MAX - spots.len()) {
            spots.push(spot(config, ip, port, machine));
        }
    }
    Ok((spots, until))
}

async fn addresses(
    resolver: &TokioResolver,
    name: &str,
) -> Result<(Vec<IpAddr>, std::time::Instant), NetError> {
    match resolver.lookup_ip(name).await {
        Ok(found) => {
            let mut ips: Vec<IpAddr> = found.iter().collect();
            ips.sort();
            Ok((ips, found.valid_until()))
        }
        Err(error) if is_empty(&error) => Ok((Vec::new(), std::time::Instant::now())),
        Err(error) => Err(error),
    }
}

/// Whether the name is there and has no such records.
fn is_empty(error: &NetError) -> bool {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => {
            none.response_code == ResponseCode::NoError
        }
        _ => false,
    }
}

fn spot(config: &DnsConfig, ip: IpAddr, port: u16, machine: &str) -> Spot {
    Spot {
        ip,
        port,
        machine: machine.to_owned(),
        workers: config.workers,
        capacity_rps: None,
    }
}
