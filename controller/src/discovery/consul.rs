//! Services of a Consul catalogue, read over HTTP from an agent or from what speaks like one.
//!
//! Two kinds of blocking queries, each answered when something changes: which services there are and how they are tagged, and
//! for each one that is in the mesh its healthy instances. An instance stands on the node of its Consul node's name or address. Its
//! metadata may say `isobar-hosts`, `isobar-workers` and `isobar-capacity-rps`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use isobar_mesh_api::names::ServiceName;
use reqwest::Client;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Heard;
use super::merge::{Said, Spot};
use crate::config::ConsulConfig;
use crate::files::read_if_there;

/// How long the agent may hold a query, in seconds.
const WAIT_S: u64 = 30;
/// A query takes no longer: the agent adds up to a sixteenth to the wait.
const QUERY_MAX: Duration = Duration::from_secs(WAIT_S + 10);
/// After silence.
const AGAIN_FAILED: Duration = Duration::from_secs(5);
/// Between two answers to one query, so that a busy catalogue is not asked without a pause.
const PAUSE: Duration = Duration::from_millis(200);
/// Most services of one agent.
const SERVICES_MAX: usize = 1024;
/// Most instances of one service.
const SPOTS_MAX: usize = 4096;
/// Longest answer, in bytes.
const ANSWER_LEN_MAX: usize = 16 << 20;

/// What the source is called.
pub fn name(config: &ConsulConfig) -> String {
    let datacenter = config.datacenter.as_deref();
    match datacenter {
        None => format!("consul:{}", config.address),
        Some(datacenter) => format!("consul:{}/{datacenter}", config.address),
    }
}

/// Asks for as long as somebody listens.
pub async fn follow(config: ConsulConfig, heard: mpsc::Sender<Heard>) {
    let source = name(&config);
    loop {
        let why = match Agent::open(&config) {
            Ok(agent) => Arc::new(agent).follow(&source, &heard).await,
            Err(why) => why,
        };
        let said = Err(why);
        let source = source.clone();
        if heard.send(Heard { source, said }).await.is_err() {
            return;
        }
        tokio::time::sleep(AGAIN_FAILED).await;
    }
}

struct Agent {
    client: Client,
    config: ConsulConfig,
    token: Option<String>,
}

/// Which query was answered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Query {
    Catalogue,
    Service(String),
}

/// Its answer, with the index that the next one waits for a change from.
enum Answer {
    Catalogue(BTreeMap<String, Vec<String>>),
    Instances(Vec<Instance>),
}

/// A query that has ended: its index and answer, or why there is none.
type Answered = (Query, Result<(u64, Answer), String>);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Instance {
    node: ConsulNode,
    service: ConsulService,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConsulNode {
    node: String,
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConsulService {
    #[serde(default)]
    address: String,
    port: u16,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
}

impl Agent {
    fn open(config: &ConsulConfig) -> Result<Agent, String> {
        let token = match &config.token_file {
            None => None,
            Some(path) => Some(read(path)?.trim().to_owned()),
        };
        let mut roots = rustls::RootCertStore::empty();
        if let Some(path) = &config.ca_file {
            let failed = |what: String| format!("{}: {what}", path.display());
            for root in CertificateDer::pem_slice_iter(read(path)?.as_bytes()) {
                let root = root.map_err(|error| failed(error.to_string()))?;
                roots.add(root).map_err(|error| failed(error.to_string()))?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(QUERY_MAX)
            .build();
        Ok(Agent {
            client: client.map_err(|error| chain(&error))?,
            config: config.clone(),
            token,
        })
    }

    /// Asks until something fails. Returns what.
    async fn follow(self: Arc<Agent>, source: &str, heard: &mpsc::Sender<Heard>) -> String {
        let mut queries: JoinSet<Answered> = JoinSet::new();
        // What each service of the mesh has; nothing until it is answered.
        let mut services: BTreeMap<String, Option<Vec<Said>>> = BTreeMap::new();
        if self.config.services.is_empty() {
            self.clone().spawn(&mut queries, Query::Catalogue, 0);
        }
        for service in self.config.services.iter().take(SERVICES_MAX) {
            services.insert(service.clone(), None);
            self.clone()
                .spawn(&mut queries, Query::Service(service.clone()), 0);
        }
        loop {
            let (query, answer) = match queries.join_next().await {
                Some(Ok(ended)) => ended,
                Some(Err(error)) => return error.to_string(),
                None => return "there is no service to ask for".to_owned(),
            };
            let (index, answer) = match answer {
                Ok(answer) => answer,
                Err(why) => return why,
            };
            match (&query, answer) {
                (Query::Catalogue, Answer::Catalogue(all)) => {
                    let in_mesh = self.in_mesh(all);
                    services.retain(|name, _| in_mesh.contains(name));
                    for name in in_mesh {
                        if !services.contains_key(&name) {
                            services.insert(name.clone(), None);
                            self.clone().spawn(&mut queries, Query::Service(name), 0);
                        }
                    }
                    self.clone().spawn(&mut queries, query, index);
                }
                (Query::Service(name), Answer::Instances(instances)) => {
                    // Gone from the catalogue meanwhile: not asked for again.
                    if services.contains_key(name) {
                        services.insert(name.clone(), Some(self.said(name, instances)));
                        self.clone().spawn(&mut queries, query, index);
                    }
                }
                (query, _) => return format!("{query:?} was answered by something else"),
            }
            if services.values().all(Option::is_some) {
                let said = Ok(services.values().flatten().flatten().cloned().collect());
                let source = source.to_owned();
                if heard.send(Heard { source, said }).await.is_err() {
                    return "nobody listens".to_owned();
                }
            }
        }
    }

    /// Services with the tag, by name.
    fn in_mesh(&self, all: BTreeMap<String, Vec<String>>) -> Vec<String> {
        let tagged = all
            .into_iter()
            .filter(|(_, tags)| tags.contains(&self.config.tag));
        tagged.map(|(name, _)| name).take(SERVICES_MAX).collect()
    }

    /// What a service's instances are to the mesh. A service that can have no name there has none of them.
    fn said(&self, name: &str, instances: Vec<Instance>) -> Vec<Said> {
        let lower = name.to_lowercase();
        let service = match ServiceName::new(&format!("{}/{lower}", self.config.namespace)) {
            Ok(service) => service,
            Err(error) => {
                tracing::warn!(name, %error, "a service of the catalogue cannot be one of the mesh");
                return Vec::new();
            }
        };
        let mut hosts = vec![format!("{lower}.service.consul")];
        let mut spots = Vec::new();
        for instance in instances.into_iter().take(SPOTS_MAX) {
            let Instance { node, service } = instance;
            let meta = service.meta.unwrap_or_default();
            let more = meta.get("isobar-hosts").into_iter();
            let more = more.flat_map(|list| list.split(',')).map(str::trim);
            for host in more.filter(|host| !host.is_empty()) {
                if !hosts.iter().any(|had| had == host) {
                    hosts.push(host.to_owned());
                }
            }
            let address = match service.address.as_str() {
                "" => &node.address,
                own => own,
            };
            let Ok(ip) = address.parse::<IpAddr>() else {
                tracing::warn!(
                    name,
                    address,
                    "an instance of the catalogue has no address that can be used"
                );
                continue;
            };
            spots.push(Spot {
                ip,
                port: service.port,
                machine: node.node,
                workers: meta.get("isobar-workers").and_then(|n| n.parse().ok()),
                capacity_rps: meta.get("isobar-capacity-rps").and_then(|n| n.parse().ok()),
            });
        }
        vec![Said {
            service,
            hosts,
            spots,
        }]
    }

    fn spawn(self: Arc<Agent>, queries: &mut JoinSet<Answered>, query: Query, index: u64) {
        queries.spawn(async move {
            if index > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let answer = match &query {
                Query::Catalogue => self
                    .ask("/v1/catalog/services", &[], index)
                    .await
                    .map(catalogue),
                Query::Service(name) => {
                    let path = format!("/v1/health/service/{}", escaped(name));
                    let passing = [("passing", "true")];
                    self.ask(&path, &passing, index).await.map(instances)
                }
            };
            (query, answer)
        });
    }

    /// One blocking query. Returns its index and answer.
    async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        more: &[(&str, &str)],
        index: u64,
    ) -> Result<(u64, T), String> {
        let base = self.config.address.trim_end_matches('/');
        let mut url = reqwest::Url::parse(&format!("{base}{path}")).map_err(|e| e.to_string())?;
        {
            let mut query = url.query_pairs_mut();
            query.extend_pairs(more);
            if let Some(datacenter) = &self.config.datacenter {
                query.append_pair("dc", datacenter);
            }
            if index > 0 {
                query.append_pair("index", &index.to_string());
                query.append_pair("wait", &format!("{WAIT_S}s"));
            }
        }
        let mut request = self.client.get(url);
        if let Some(token) = &self.token {
            request = request.header("x-consul-token", token);
        }
        let mut answer = request
            .send()
            .await
            .map_err(|error| chain(&error.without_url()))?;
        if !answer.status().is_success() {
            return Err(format!("{path} was answered with {}", answer.status()));
        }
        let next = answer.headers().get("x-consul-index");
        let next = next.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| chain(&e.without_url()))? {
            if body.len() + chunk.len() > ANSWER_LEN_MAX {
                return Err(format!(
                    "the answer to {path} is longer than {ANSWER_LEN_MAX} bytes"
                ));
            }
            body.extend_from_slice(&chunk);
        }
        let read = serde_json::from_slice(&body);
        let read =
            read.map_err(|error| format!("the answer to {path} is not understood: {error}"))?;
        // An index that goes back begins anew, as Consul's documentation asks of clients.
        let next = next.unwrap_or(1);
        Ok((if next < index { 0 } else { next.max(1) }, read))
    }
}

fn read(path: &Path) -> Result<String, String> {
    let text = read_if_there(path).map_err(|error| chain(&error))?;
    text.ok_or_else(|| format!("there is no file {}", path.display()))
}

fn catalogue((index, all): (u64, BTreeMap<String, Vec<String>>)) -> (u64, Answer) {
    (index, Answer::Catalogue(all))
}

fn instances((index, all): (u64, Vec<Instance>)) -> (u64, Answer) {
    (index, Answer::Instances(all))
}

/// A name as one segment of a path.
fn escaped(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    let escape = |b: u8| match plain(b) {
        true => char::from(b).to_string(),
        false => format!("%{b:02X}"),
    };
    name.bytes().map(escape).collect()
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
