//! Where the controller's state is: in its own directory, or in etcd for several controllers together.

use std::path::PathBuf;
use std::time::Duration;

use isobar_mesh_api::config_file::Problem;
use isobar_mesh_api::names::NodeId;
use schemars::JsonSchema;
use serde::Deserialize;

use super::is_host;
use crate::election::Timing;
use crate::etcd::{ENDPOINTS_MAX, EtcdOptions};
use crate::leadership::etcd::LEASE_MIN;

/// Which store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// In the data directory, for one controller.
    #[default]
    Sled,
    /// In etcd, for several.
    Etcd,
}

/// Where the state is.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// In `data_dir`, or shared.
    pub kind: StoreKind,
    /// The members of etcd, `http://host:port` or `https://host:port`, at most 16.
    pub endpoints: Vec<String>,
    /// What all keys begin with: two meshes can share one etcd.
    pub prefix: String,
    /// Roots to believe the members by, PEM; needed for `https`.
    pub ca_file: Option<PathBuf>,
    /// This controller's certificate for etcd, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
    /// This controller's name in etcd.
    pub user: Option<String>,
    /// The file with its password.
    pub password_file: Option<PathBuf>,
    /// How long the leader's lease lasts, in seconds; by default two control periods, at least 2 s.
    #[schemars(range(min = 2, max = 60))]
    pub lease_s: Option<u64>,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            kind: StoreKind::Sled,
            endpoints: Vec::new(),
            prefix: "/isobar".to_owned(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            user: None,
            password_file: None,
            lease_s: None,
        }
    }
}

impl StoreConfig {
    /// Whether several controllers share it.
    pub fn is_shared(&self) -> bool {
        self.kind == StoreKind::Etcd
    }

    /// What etcd's client is told.
    pub fn etcd(&self) -> EtcdOptions {
        EtcdOptions {
            endpoints: self.endpoints.clone(),
            ca_file: self.ca_file.clone(),
            client: self.cert_file.clone().zip(self.key_file.clone()),
            user: self.user.clone().zip(self.password_file.clone()),
        }
    }

    /// How long the lease lasts and how often it is looked at.
    pub fn timing(&self, period: Duration) -> Timing {
        let usual = Timing::new(period, LEASE_MIN);
        match self.lease_s {
            Some(lease_s) => Timing {
                lease: Duration::from_secs(lease_s),
                ..usual
            },
            None => usual,
        }
    }

    pub(super) fn check(
        &self,
        name: Option<&str>,
        advertise: Option<&str>,
        found: &mut Vec<Problem>,
    ) {
        let mut wrong = |field: &str, problem: &str| found.push(Problem::new(field, problem));
        if name.is_some_and(|name| NodeId::new(name).is_err()) {
            wrong("name", "must be a name: letters, digits, dots and dashes");
        }
        if advertise.is_some_and(|text| !is_address(text)) {
            wrong("stream_advertise", "must be written host:port");
        }
        if !self.is_shared() {
            if *self != StoreConfig::default() {
                wrong(
                    "store.kind",
                    "must be \"etcd\" for the other fields of [store]",
                );
            }
            return;
        }
        if name.is_none() {
            let problem = "must say which controller this is, where several share etcd";
            wrong("name", problem);
        }
        if self.endpoints.is_empty() || self.endpoints.len() > ENDPOINTS_MAX {
            wrong(
                "store.endpoints",
                "must have from 1 to 16 members, http://host:port or https://host:port",
            );
        }
        if !self.prefix.starts_with('/') || self.prefix.len() < 2 || self.prefix.ends_with('/') {
            wrong("store.prefix", "must begin with / and not end with it");
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            wrong("store.cert_file", "and store.key_file need each other");
        }
        if self.user.is_some() != self.password_file.is_some() {
            wrong("store.user", "and store.password_file need each other");
        }
        if self
            .lease_s
            .is_some_and(|lease_s| !(2..=60).contains(&lease_s))
        {
            wrong("store.lease_s", "must be from 2 to 60");
        }
    }
}

fn is_address(text: &str) -> bool {
    let cut = text.rsplit_once(':');
    cut.is_some_and(|(host, port)| {
        is_host(host.trim_matches(['[', ']'])) && port.parse::<u16>().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    const SHARED: &str =
        "data_dir = 'd'\nname = 'a'\nstream_advertise = 'a.example:7401'\n[store]\nkind = 'etcd'\n";

    fn check(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|e| e.to_string())?;
        config.check().map_err(|e| e.to_string())?;
        Ok(config)
    }

    #[test]
    fn what_several_controllers_need_is_asked_for() {
        let shared = |more: &str| format!("{SHARED}endpoints = ['http://e:2379']\n{more}");
        let config = check(&shared("")).unwrap();
        let timing = config.store.timing(config.period());
        assert_eq!(timing.lease.as_secs(), 2);
        let listen = "127.0.0.1:7401".parse().unwrap();
        assert_eq!(config.advertised(listen), "a.example:7401");
        let cases = [
            (SHARED.to_owned(), "store.endpoints"),
            (shared("prefix = 'x'"), "store.prefix"),
            (shared("cert_file = 'c'"), "store.cert_file"),
            (shared("user = 'u'"), "store.user"),
            (shared("lease_s = 1"), "store.lease_s"),
            (shared("").replace("name = 'a'\n", ""), "name"),
            (shared("").replace("name = 'a'", "name = 'a b'"), "name"),
            (
                shared("").replace("a.example:7401", "a.example"),
                "stream_advertise",
            ),
            (
                shared("").replace("stream_advertise = 'a.example:7401'\n", ""),
                "stream_advertise",
            ),
            (
                "data_dir = 'd'\n[store]\nuser = 'u'".to_owned(),
                "store.kind",
            ),
        ];
        for (text, field) in cases {
            let error = check(&text).unwrap_err();
            assert!(error.contains(field), "{text}: {error}");
        }
    }
}
