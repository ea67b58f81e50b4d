//! What of a changed configuration comes into force while the controller runs, and what waits for the next start.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::config::{Config, ConfigError, DiscoveryConfig};
use crate::control_task::{Asked, Change, ControlError, ControlHandle};
use crate::discovery::Discovery;
use crate::metrics::Metrics;
use crate::program::{ProgramError, read_resources};

/// A field's name, and whether two configurations agree on it.
type Field = (&'static str, fn(&Config, &Config) -> bool);

/// Fields that are read at the start alone.
const AT_START: [Field; 22] = [
    ("data_dir", |a, b| a.data_dir == b.data_dir),
    ("rest_listen", |a, b| a.rest_listen == b.rest_listen),
    ("rest_open", |a, b| a.rest_open == b.rest_open),
    ("rest_insecure", |a, b| a.rest_insecure == b.rest_insecure),
    ("rest_names", |a, b| a.rest_names == b.rest_names),
    ("rest_certificate_file", |a, b| {
        a.rest_certificate_file == b.rest_certificate_file
    }),
    ("rest_key_file", |a, b| a.rest_key_file == b.rest_key_file),
    ("rest_client_ca_file", |a, b| {
        a.rest_client_ca_file == b.rest_client_ca_file
    }),
    ("rest_clients", |a, b| a.rest_clients == b.rest_clients),
    ("stream_listen", |a, b| a.stream_listen == b.stream_listen),
    ("stream_names", |a, b| a.stream_names == b.stream_names),
    ("name", |a, b| a.name == b.name),
    ("stream_advertise", |a, b| {
        a.stream_advertise == b.stream_advertise
    }),
    ("store", |a, b| a.store == b.store),
    ("period_ms", |a, b| a.period_ms == b.period_ms),
    ("authority_key_file", |a, b| {
        a.authority_key_file == b.authority_key_file
    }),
    ("authority_algorithm", |a, b| {
        a.authority_algorithm == b.authority_algorithm
    }),
    ("renewal_grace_h", |a, b| {
        a.renewal_grace_h == b.renewal_grace_h
    }),
    ("enrol_open", |a, b| a.enrol_open == b.enrol_open),
    ("trust_domain", |a, b| a.trust_domain == b.trust_domain),
    ("kubernetes", |a, b| a.kubernetes == b.kubernetes),
    ("drain_ms", |a, b| a.drain_ms == b.drain_ms),
];

/// Brings changed configurations into force.
pub struct Reloader {
    /// The one that the program started with.
    started: Config,
    control: ControlHandle,
    metrics: Arc<Metrics>,
    discovery: Mutex<watch::Sender<DiscoveryConfig>>,
}

impl Reloader {
    /// For a program that started with a configuration. Returns also the discovery that it tells of changes.
    pub fn new(
        started: Config,
        control: ControlHandle,
        metrics: Arc<Metrics>,
    ) -> (Reloader, Discovery) {
        let (sender, receiver) = watch::channel(started.discovery.clone());
        let discovery = Discovery {
            config: receiver,
            control: control.clone(),
            metrics: metrics.clone(),
        };
        let reloader = Reloader {
            started,
            control,
            metrics,
            discovery: Mutex::new(sender),
        };
        (reloader, discovery)
    }

    /// Brings a configuration that was read again into force, as far as that can be while the program runs, and counts it. Returns
    /// the fields that differ from those that the program started with and wait for the next start.
    ///
    /// # Errors
    /// It could not be read, or not be applied: nothing changes then.
    pub async fn reload(
        &self,
        read: Result<Config, ConfigError>,
    ) -> Result<Vec<&'static str>, ProgramError> {
        let done = match read {
            Ok(config) => self.apply(config).await,
            Err(error) => Err(error.into()),
        };
        self.metrics.reloaded(done.is_ok());
        done
    }

    /// The files of `resources`, which are read again, and `discovery`.
    async fn apply(&self, config: Config) -> Result<Vec<&'static str>, ProgramError> {
        config.check()?;
        let resources = read_resources(&config.resources)?;
        if !resources.is_empty() {
            let asked = Asked {
                changes: resources.into_iter().map(Change::Put).collect(),
                who: "configuration".to_owned(),
                ..Asked::default()
            };
            match self.control.change(asked).await {
                // Where another controller leads, that one's files count.
                Ok(_) | Err(ControlError::Stopping | ControlError::NotLeading) => {}
                Err(error) => return Err(ProgramError::Resources(error)),
            }
        }
        let discovery = self
            .discovery
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        discovery.send_if_modified(|now| {
            let is_new = *now != config.discovery;
            *now = config.discovery.clone();
            is_new
        });
        let differ = AT_START
            .iter()
            .filter(|(_, same)| !same(&self.started, &config));
        Ok(differ.map(|(field, _)| *field).collect())
    }
}
