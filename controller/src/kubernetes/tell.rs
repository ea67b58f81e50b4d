//! What the cluster is told: statuses of its objects, and events about those that have none of ours.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use tokio::time::timeout;

use super::cluster::{Cluster, ObjectName, Watched};
use super::declare::{Complaint, Verdict};
use super::status::{CONTROLLER_NAME, patch};
use super::watch::resource;

/// Longest wait for one answer of the API server.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Most events written in one round; further complaints are in the log alone.
const EVENTS_MAX: usize = 64;

/// Longest note of an event, in bytes; the API server takes no longer one.
const NOTE_BYTES_MAX: usize = 1_024;

/// The `ConfigMap` with the mesh's roots, and the `Secret` with the token, that proxies enrol with.
const ROOTS_NAME: &str = "isobar-roots";
/// See [`ROOTS_NAME`].
const ENROLMENT_NAME: &str = "isobar-enrolment";
/// Who owns what is applied.
const FIELD_MANAGER: &str = "isobar-controller";

/// What proxies need to enrol. No `Debug`: the token is a secret.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Enrolment {
    /// PEM.
    pub roots: String,
    /// The token; none where another controller made it: that one has told the cluster.
    pub token: Option<String>,
}

/// The beginning of a text, of whole characters.
fn within(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev();
    let mut end = end.skip_while(|at| !text.is_char_boundary(*at));
    &text[..end.next().unwrap_or_default()]
}

/// Writes to the API server.
pub(super) struct Teller {
    client: Client,
    recorder: Recorder,
    /// Statuses that were written and may not have come back by the watch: which version they were made from.
    written: BTreeMap<(Watched, ObjectName), String>,
}

impl Teller {
    pub fn new(client: Client) -> Teller {
        let reporter = Reporter {
            controller: CONTROLLER_NAME.to_owned(),
            instance: std::env::var("HOSTNAME").ok(),
        };
        Teller {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            written: BTreeMap::new(),
        }
    }

    /// Writes the statuses that are not up to date. Returns whether all were taken; after the first that the server has no answer to,
    /// the others wait for the next round.
    pub async fn judge(&mut self, cluster: &Cluster, verdicts: &[Verdict], now: &str) -> bool {
        let mut all_taken = true;
        for verdict in verdicts {
            let Some(object) = cluster.get(verdict.kind, &verdict.name) else {
                continue;
            };
            let Some(status) = patch(object, verdict, now) else {
                continue;
            };
            let key = (verdict.kind, verdict.name.clone());
            if self.written.get(&key) == Some(&object.resource_version) {
                continue;
            }
            let resource = resource(verdict.kind, object.version);
            let api = self.api(&resource, &verdict.name.namespace);
            let (how, what) = (PatchParams::default(), Patch::Merge(&status));
            let answer = api.patch_status(&verdict.name.name, &how, &what);
            match timeout(ANSWER_MAX, answer).await {
                Ok(Ok(_)) => drop(self.written.insert(key, object.resource_version.clone())),
                // It has changed, or is gone: the watch will say so.
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {}
                Ok(Err(error @ kube::Error::Api(_))) => {
                    all_taken = false;
                    tracing::warn!(kind = verdict.kind.api().kind, name = %verdict.name, %error, "a status was not written");
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the Kubernetes API takes no status");
                    return false;
                }
                Err(_) => {
                    tracing::warn!("the Kubernetes API does not answer to a status");
                    return false;
                }
            }
        }
        self.written.retain(|(kind, name), version| {
            let object = cluster.get(*kind, name);
            object.is_some_and(|object| object.resource_version == *version)
        });
        all_taken
    }

    /// Writes complaints as events. They are for people: what is lost is in the log.
    pub async fn complain(&self, complaints: &[Complaint]) {
        for complaint in complaints.iter().take(EVENTS_MAX) {
            let api = complaint.kind.api();
            let about = ObjectReference {
                api_version: Some(resource(complaint.kind, api.versions[0]).api_version),
                kind: Some(api.kind.to_owned()),
                name: Some(complaint.name.name.clone()),
                namespace: (!complaint.name.namespace.is_empty())
                    .then(|| complaint.name.namespace.clone()),
                ..ObjectReference::default()
            };
            let event = Event {
                type_: EventType::Warning,
                reason: complaint.reason.to_owned(),
                note: Some(within(&complaint.message, NOTE_BYTES_MAX).to_owned()),
                action: "Discover".to_owned(),
                secondary: None,
            };
            let written = self.recorder.publish(&event, &about);
            match timeout(ANSWER_MAX, written).await {
                Ok(Ok(())) => {}
                // This one alone: its namespace may be going.
                Ok(Err(error @ kube::Error::Api(_))) => {
                    tracing::warn!(%error, "an event was not taken");
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "an event was not written");
                    return;
                }
                Err(_) => return,
            }
        }
    }

    /// Writes what proxies need to enrol into the controller's namespace. Returns whether the server took it.
    pub async fn publish(&self, namespace: &str, enrolment: &Enrolment) -> bool {
        let named = |name: &str| ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        };
        let map = ConfigMap {
            metadata: named(ROOTS_NAME),
            data: Some(BTreeMap::from([(
                "ca.pem".to_owned(),
                enrolment.roots.clone(),
            )])),
            ..ConfigMap::default()
        };
        let secret = enrolment.token.clone().map(|token| Secret {
            metadata: named(ENROLMENT_NAME),
            string_data: Some(BTreeMap::from([("token".to_owned(), token)])),
            ..Secret::default()
        });
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let how = PatchParams::apply(FIELD_MANAGER).force();
        let both = async {
            let map = maps.patch(ROOTS_NAME, &how, &Patch::Apply(&map)).await;
            if let Some(secret) = secret {
                let what = Patch::Apply(&secret);
                secrets.patch(ENROLMENT_NAME, &how, &what).await?;
            }
            map
        };
        match timeout(ANSWER_MAX, both).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => {
                tracing::warn!(%error, "what proxies need to enrol was not written");
                false
            }
            Err(_) => false,
        }
    }

    fn api(&self, resource: &ApiResource, namespace: &str) -> Api<DynamicObject> {
        match namespace {
            "" => Api::all_with(self.client.clone(), resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, resource),
        }
    }
}
