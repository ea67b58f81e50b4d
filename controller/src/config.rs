//! The controller's configuration: one TOML file, every field with a default but the data directory.
//!
//! Unknown fields are refused by name, with the nearest known one: a misspelt limit must not be silently absent.
//! Flags come before environment variables, these before the file: see [`crate::cli`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use isobar_mesh_api::config_file::{Faults, Problem, environment};
use isobar_mesh_api::identity::{SpiffeId, TRUST_DOMAIN_DEFAULT};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::access::Role;
use crate::authority::certificates::Algorithm;
use crate::files::{FileError, read_if_there};
use crate::operator_tls::{CLIENTS_MAX, OperatorFiles, RestClient};

mod discovery;
pub mod store;

pub use discovery::{ConsulConfig, DiscoveryConfig, DnsConfig};
pub use store::{StoreConfig, StoreKind};

/// What the controller is told at start.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the store, the authority's key, `admin-token` and `addresses.json` live; made if it is not there.
    pub data_dir: PathBuf,
    /// REST API, `/metrics`, `/livez`, `/readyz`: HTTPS, unless `rest_insecure` or `rest_open`. Port 0 picks a free one.
    pub rest_listen: SocketAddr,
    /// The REST API asks nobody who they are, over plain HTTP. For development: it must listen on a loopback address then.
    pub rest_open: bool,
    /// The REST API speaks plain HTTP: who listens in on the way can take the tokens.
    pub rest_insecure: bool,
    /// DNS names and IP addresses under which operators reach `rest_listen`; they go into the controller's certificate beside
    /// `stream_names`, `localhost`, `127.0.0.1`, `::1` and the listening addresses.
    pub rest_names: Vec<String>,
    /// A certificate of your own for the REST API, PEM, what it shows first; read again when it changes.
    pub rest_certificate_file: Option<PathBuf>,
    /// The key of `rest_certificate_file`, PEM.
    pub rest_key_file: Option<PathBuf>,
    /// Roots, PEM, below which client certificates of `rest_clients` count beside those of the mesh; read again when it changes.
    pub rest_client_ca_file: Option<PathBuf>,
    /// Client certificates that are credentials, at most 256.
    pub rest_clients: Vec<RestClient>,
    /// Control stream and enrolment, TLS. Port 0 picks a free one.
    pub stream_listen: SocketAddr,
    /// DNS names and IP addresses under which proxies reach `stream_listen`; they go into the
    /// controller's certificate beside `localhost`, `127.0.0.1`, `::1` and the listening address.
    pub stream_names: Vec<String>,
    /// This controller's name among several.
    pub name: Option<String>,
    /// Where the other controllers reach `stream_listen`, `host:port`; by default its address, or the first of `stream_names`
    /// with its port.
    pub stream_advertise: Option<String>,
    /// Where the state is.
    pub store: StoreConfig,
    /// The control period in milliseconds.
    #[schemars(range(min = 10, max = 60_000))]
    pub period_ms: u64,
    /// The file with the key under which the authority's private keys are stored: 32 random characters or more. By default
    /// the environment variable `ISOBAR_AUTHORITY_KEY`, else `authority.key` in `data_dir`, made at the first start.
    pub authority_key_file: Option<PathBuf>,
    /// What new keys of the authority are.
    pub authority_algorithm: Algorithm,
    /// For how long after its certificate has ended a node may come back by itself, in hours.
    #[schemars(range(max = 8760))]
    pub renewal_grace_h: u64,
    /// Lets every node enrol that has the token in the file `enrol-token` of `data_dir`. For development.
    pub enrol_open: bool,
    /// The SPIFFE trust domain. It cannot change once the authority's root is made.
    pub trust_domain: String,
    /// Files with a list of resources, YAML or JSON, applied at every start: each replaces what
    /// the store has under its name, the others stay.
    pub resources: Vec<PathBuf>,
    /// The cluster that nodes, services, policies and routes come from; absent: none does.
    pub kubernetes: Option<KubernetesConfig>,
    /// Where else endpoints and resources come from.
    pub discovery: DiscoveryConfig,
    /// How long streams and requests may take to end after the stop signal, in milliseconds.
    #[schemars(range(max = 60_000))]
    pub drain_ms: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            data_dir: PathBuf::new(),
            rest_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7400)),
            rest_open: false,
            rest_insecure: false,
            rest_names: Vec::new(),
            rest_certificate_file: None,
            rest_key_file: None,
            rest_client_ca_file: None,
            rest_clients: Vec::new(),
            stream_listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7401)),
            stream_names: Vec::new(),
            name: None,
            stream_advertise: None,
            store: StoreConfig::default(),
            period_ms: 1_000,
            authority_key_file: None,
            authority_algorithm: Algorithm::default(),
            renewal_grace_h: 30 * 24,
            enrol_open: false,
            trust_domain: TRUST_DOMAIN_DEFAULT.to_owned(),
            resources: Vec::new(),
            kubernetes: None,
            discovery: DiscoveryConfig::default(),
            drain_ms: 5_000,
        }
    }
}

/// Where the Kubernetes API is, and what is read and written there beside what is discovered.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KubernetesConfig {
    /// The kubeconfig; absent: the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// The controller's own namespace; absent: the one of the service account or kubeconfig.
    pub namespace: Option<String>,
    /// The `ConfigMap` there whose files are tables of sites.
    pub sites_config_map: String,
    /// Whether what proxies need to enrol is written there: the `ConfigMap` `isobar-roots` and the `Secret` `isobar-enrolment`.
    pub publish_enrolment: bool,
    /// Whether the cluster's tokens are credentials for the REST API: `TokenReview` says whose, `SubjectAccessReview` what they
    /// may. The controller's account needs `system:auth-delegator`.
    pub operators: bool,
    /// Where the API server calls, TLS: the admission webhook, `external.metrics.k8s.io`. Its certificate has the names of
    /// `stream_names`. Absent: nowhere.
    pub listen: Option<SocketAddr>,
    /// The proxy's image that the webhook adds to pods; by default the environment variable `ISOBAR_PROXY_IMAGE`. Without either there is
    /// no webhook.
    pub proxy_image: Option<String>,
    /// The stream port as proxies in pods reach it, `host:port`; by default the first of `stream_names`, at the port of `stream_listen`.
    pub proxy_controller: Option<String>,
    /// Contends with other controllers for the Lease `isobar-controller` in its own namespace, and does nothing before it has it.
    pub lease: bool,
    /// How long the Lease lasts after its last renewal, in seconds.
    #[schemars(range(min = 3, max = 300))]
    pub lease_s: u64,
    /// Where `/livez` and `/readyz` answer over plain HTTP, also while it contends: ready is who leads. Absent: nowhere.
    pub probe_listen: Option<SocketAddr>,
}

impl Default for KubernetesConfig {
    fn default() -> KubernetesConfig {
        KubernetesConfig {
            kubeconfig: None,
            namespace: None,
            sites_config_map: "isobar-sites".to_owned(),
            publish_enrolment: false,
            operators: false,
            listen: None,
            proxy_image: None,
            proxy_controller: None,
            lease: false,
            lease_s: 15,
            probe_listen: None,
        }
    }
}

/// Why a configuration is not used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration cannot be read")]
    File(#[from] FileError),
    /// There is no such file.
    #[error("there is no configuration file {}", .0.display())]
    Missing(PathBuf),
    /// Not TOML, not these fields, or a value out of its range.
    #[error("{0}")]
    Faults(Faults),
    /// A field out of its range, by a flag or a variable.
    #[error("{}: {}", .0.key, .0.problem)]
    Field(Problem),
}

/// Every key with its type, default and range, as JSON Schema.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Config).to_value()
}

impl Config {
    /// Whether one token lets every node in: as told, or because proxies of a cluster find it there.
    pub fn enrols_openly(&self) -> bool {
        let published = self
            .kubernetes
            .as_ref()
            .is_some_and(|k| k.publish_enrolment);
        self.enrol_open || published
    }

    /// The defaults with a data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Config {
        Config {
            data_dir: data_dir.into(),
            ..Config::default()
        }
    }

    /// Reads a file, with the environment's variables put in. Ranges are checked by [`Config::check`], after flags were
    /// laid over it.
    ///
    /// # Errors
    /// Missing, unreadable, not TOML, or with unknown fields.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let (text, config) = read_text(path)?;
        config.map_err(|error| {
            let file = path.display().to_string();
            ConfigError::Faults(Faults::of_toml(&file, &text, &error))
        })
    }

    /// Everything that is wrong with a file, with its places.
    ///
    /// # Errors
    /// As [`Config::read`], and every value that is out of its range.
    pub fn check_file(path: &Path) -> Result<Config, ConfigError> {
        let config = Config::read(path)?;
        let problems = config.problems();
        if problems.is_empty() {
            return Ok(config);
        }
        let (text, _) = read_text(path)?;
        let file = path.display().to_string();
        Err(ConfigError::Faults(Faults::of_problems(
            &file, &text, problems,
        )))
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`ConfigError::Field`] with the first field found wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        match self.problems().into_iter().next() {
            None => Ok(()),
            Some(problem) => Err(ConfigError::Field(problem)),
        }
    }

    /// Every field that is out of its range.
    pub fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut wrong = |field: &str, problem: String| found.push(Problem::new(field, problem));
        if self.data_dir.as_os_str().is_empty() {
            wrong("data_dir", "must name a directory".to_owned());
        }
        if !(10..=60_000).contains(&self.period_ms) {
            wrong(
                "period_ms",
                format!("is {}; it must be from 10 to 60 000", self.period_ms),
            );
        }
        if self.drain_ms > 60_000 {
            wrong(
                "drain_ms",
                format!("is {}; it must be at most 60 000", self.drain_ms),
            );
        }
        if let Err(error) = SpiffeId::parse(&format!("spiffe://{}/node/a", self.trust_domain)) {
            wrong("trust_domain", format!("is not usable: {error}"));
        }
        if self.kubernetes.is_some() && !cfg!(feature = "kubernetes") {
            wrong(
                "kubernetes",
                "is set, and this controller was built without it; build it with --features kubernetes".to_owned(),
            );
        }
        let lists = [
            ("stream_names", &self.stream_names),
            ("rest_names", &self.rest_names),
        ];
        for (field, names) in lists {
            if let Some(name) = names.iter().find(|name| !is_host(name)) {
                let problem =
                    format!("has {name:?}, which is neither a DNS name nor an IP address");
                wrong(field, problem);
            }
        }
        if let Some(cluster) = &self.kubernetes
            && !(3..=300).contains(&cluster.lease_s)
        {
            let problem = format!("is {}; it must be from 3 to 300", cluster.lease_s);
            wrong("kubernetes.lease_s", problem);
        }
        if self.renewal_grace_h > 8760 {
            wrong(
                "renewal_grace_h",
                format!("is {}; it must be at most 8760", self.renewal_grace_h),
            );
        }
        if let Some(problem) = self.rest_problem() {
            wrong("rest_listen", problem);
        }
        if let Some((field, problem)) = self.rest_tls_problem() {
            wrong(field, problem.to_owned());
        }
        if self.store.is_shared() && self.kubernetes.as_ref().is_some_and(|k| k.lease) {
            let problem = "is on, and store.kind is etcd, where controllers elect one among themselves; leave it away";
            wrong("kubernetes.lease", problem.to_owned());
        }
        if !self.can_be_found() {
            let problem = "must say where the other controllers reach stream_listen, host:port";
            wrong("stream_advertise", problem.to_owned());
        }
        let (name, advertise) = (self.name.as_deref(), self.stream_advertise.as_deref());
        self.store.check(name, advertise, &mut found);
        self.discovery.check(&mut found);
        found
    }

    /// Whether other controllers, where there are any, find this one.
    fn can_be_found(&self) -> bool {
        let is_somewhere = !self.stream_listen.ip().is_unspecified();
        let is_named = self.stream_advertise.is_some() || !self.stream_names.is_empty();
        !self.store.is_shared() || is_somewhere || is_named
    }

    /// This controller's name, where several share the store.
    pub fn shared_name(&self) -> Option<String> {
        self.name.clone().filter(|_| self.store.is_shared())
    }

    /// Where other controllers reach this one, which listens at `stream`.
    pub fn advertised(&self, stream: SocketAddr) -> String {
        let named = || {
            let name = self.stream_names.first()?;
            Some(format!("{name}:{}", stream.port()))
        };
        let listen = || stream.to_string();
        let own = self.stream_advertise.clone();
        match stream.ip().is_unspecified() {
            true => own.or_else(named).unwrap_or_else(listen),
            false => own.unwrap_or_else(listen),
        }
    }

    fn rest_problem(&self) -> Option<String> {
        let (listen, is_loopback) = (self.rest_listen, self.rest_listen.ip().is_loopback());
        match (is_loopback, self.rest_open) {
            (true, _) | (_, false) => None,
            (false, true) => Some(format!(
                "is {listen}, which others can reach, and rest_open asks nobody who they are; \
                 listen on 127.0.0.1, or leave rest_open away"
            )),
        }
    }

    fn rest_tls_problem(&self) -> Option<(&'static str, &'static str)> {
        let wrong = |field, problem| Some((field, problem));
        let files = [&self.rest_certificate_file, &self.rest_key_file].map(Option::is_some);
        if files[0] != files[1] {
            return wrong("rest_key_file", "and rest_certificate_file need each other");
        }
        let asks = self.rest_client_ca_file.is_some() || !self.rest_clients.is_empty();
        if (files[0] || asks) && !self.rest_has_tls() {
            return wrong(
                "rest_insecure",
                "and rest_open mean plain HTTP, which has no certificates; leave them or rest_certificate_file, \
                 rest_client_ca_file and rest_clients away",
            );
        }
        if self.rest_client_ca_file.is_some() && self.rest_clients.is_empty() {
            return wrong(
                "rest_client_ca_file",
                "needs rest_clients, which say who has which role",
            );
        }
        if self.rest_clients.len() > CLIENTS_MAX {
            return wrong("rest_clients", "has more than 256 entries");
        }
        for client in &self.rest_clients {
            if client.identity.is_some() == client.subject.is_some() {
                return wrong(
                    "rest_clients",
                    "needs an identity or a subject in each entry, not both",
                );
            }
            if client.subject.is_some() && self.rest_client_ca_file.is_none() {
                let problem = "has a subject, which needs rest_client_ca_file: certificates of the mesh have identities";
                return wrong("rest_clients", problem);
            }
            if !client.namespaces.is_empty() && client.role != Role::Operator {
                return wrong("rest_clients", "may limit operators alone to namespaces");
            }
        }
        None
    }

    /// Whether the REST API speaks HTTPS.
    pub fn rest_has_tls(&self) -> bool {
        !self.rest_insecure && !self.rest_open
    }

    /// The files of the REST API's TLS.
    pub fn operator_files(&self) -> OperatorFiles {
        let (chain, key) = (&self.rest_certificate_file, &self.rest_key_file);
        OperatorFiles {
            shown: chain.clone().zip(key.clone()),
            client_ca: self.rest_client_ca_file.clone(),
        }
    }

    /// For how long after its certificate has ended a node may come back by itself.
    pub fn renewal_grace(&self) -> Duration {
        Duration::from_secs(self.renewal_grace_h * 3600)
    }

    /// The control period.
    pub fn period(&self) -> Duration {
        Duration::from_millis(self.period_ms)
    }

    /// How long streams and requests may take to end.
    pub fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }
}

/// A file's text with variables put in, and what it says.
fn read_text(path: &Path) -> Result<(String, Result<Config, toml::de::Error>), ConfigError> {
    let text = read_if_there(path)?.ok_or_else(|| ConfigError::Missing(path.to_owned()))?;
    let variable = |name: &str| std::env::var(name).ok();
    let text = environment::put_in(&text, variable).map_err(|problem| {
        let file = path.display();
        ConfigError::Field(Problem::new(format!("{file}: ${{…}}"), problem))
    })?;
    let config = toml::from_str(&text);
    Ok((text, config))
}

fn is_host(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok() || isobar_mesh_api::names::NodeId::new(name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|e| e.to_string())?;
        config.check().map_err(|e| e.to_string())?;
        Ok(config)
    }

    #[test]
    fn defaults_need_a_data_directory_alone() {
        let config = check("data_dir = '/tmp/x'").unwrap();
        assert_eq!(config, Config::new("/tmp/x"));
        assert_eq!(config.rest_listen.to_string(), "127.0.0.1:7400");
        assert_eq!(config.stream_listen.to_string(), "0.0.0.0:7401");
    }

    #[test]
    fn wrong_fields_are_named() {
        let cases = [
            ("", "data_dir"),
            ("data_dir = ''", "data_dir"),
            ("data_dir = 'd'\nperiod_ms = 5", "period_ms"),
            ("data_dir = 'd'\nperiod_ms = -5", "period_ms"),
            ("data_dir = 'd'\ndrain_ms = 60001", "drain_ms"),
            ("data_dir = 'd'\nrenewal_grace_h = 9000", "renewal_grace_h"),
            ("data_dir = 'd'\nauthority_algorithm = 'rsa'", "rsa"),
            ("data_dir = 'd'\ntrust_domain = 'A b'", "trust_domain"),
            ("data_dir = 'd'\nstream_names = ['a_b']", "stream_names"),
            ("data_dir = 'd'\nrest_listen = 'here'", "rest_listen"),
            ("data_dir = 'd'\nrest_names = ['a_b']", "rest_names"),
            (
                "data_dir = 'd'\nrest_key_file = 'k'",
                "rest_certificate_file",
            ),
            ("data_dir = 'd'\nrest_client_ca_file = 'c'", "rest_clients"),
            (
                "data_dir = 'd'\n[[rest_clients]]\nsubject = 'a'\nrole = 'viewer'",
                "rest_client_ca_file",
            ),
            (
                "data_dir = 'd'\n[[rest_clients]]\nrole = 'viewer'",
                "identity or a subject",
            ),
            (
                "data_dir = 'd'\n[[rest_clients]]\nidentity = 'spiffe://a/b'\nrole = 'viewer'\nnamespaces = ['a']",
                "operators alone",
            ),
            (
                "data_dir = 'd'\nrest_insecure = true\n[[rest_clients]]\nidentity = 'spiffe://a/b'\nrole = 'viewer'",
                "plain HTTP",
            ),
            (
                "data_dir = 'd'\nrest_listen = '0.0.0.0:1'\nrest_open = true\nrest_insecure = true",
                "rest_open",
            ),
            ("data_dir = 'd'\nrest_lissen = '127.0.0.1:1'", "rest_lissen"),
        ];
        for (text, field) in cases {
            let error = check(text).unwrap_err();
            assert!(error.contains(field), "{text}: {error}");
        }
        check("data_dir = 'd'\nrest_listen = '0.0.0.0:1'").unwrap();
        check("data_dir = 'd'\nrest_listen = '0.0.0.0:1'\nrest_insecure = true").unwrap();
        check("data_dir = 'd'\nrest_open = true").unwrap();
    }

    #[test]
    fn the_examples_of_the_page_are_good() {
        let page = include_str!("../../docs/controller-configuration.md");
        let mut examples = page.split("```toml\n").skip(1);
        assert_eq!(examples.clone().count(), 2);
        assert!(examples.all(|example| check(example.split("```").next().unwrap()).is_ok()));
    }

    #[test]
    fn a_file_is_read_or_its_name_is_in_the_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("controller.toml");
        let missing = Config::read(&path).unwrap_err().to_string();
        assert!(missing.contains("controller.toml"), "{missing}");
        std::fs::write(&path, "data_dir = 'd'\nperiod_ms = 200").unwrap();
        let period = Config::read(&path).unwrap().period();
        assert_eq!(period, Duration::from_millis(200));
        let wrong = "data_dir = 'd'\nperiod_ms = 5\n[discovery]\nkeep_s = 99999999";
        std::fs::write(&path, wrong).unwrap();
        let said = Config::check_file(&path).unwrap_err().to_string();
        assert!(said.contains("toml:2:1: period_ms: is 5"), "{said}");
        assert!(said.contains("toml:4:1: discovery.keep_s"), "{said}");
        std::fs::write(&path, "data_dir = 'd'\nrest_lissen = '127.0.0.1:1'").unwrap();
        let said = Config::read(&path).unwrap_err().to_string();
        assert!(
            said.contains("toml:2:1: ") && said.ends_with("did you mean `rest_listen`?"),
            "{said}"
        );
        std::fs::write(&path, "data_dir").unwrap();
        assert!(matches!(Config::read(&path), Err(ConfigError::Faults(_))));
    }
}
