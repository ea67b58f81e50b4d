//! Watches of a Kubernetes API: what every kind's objects are, and what changes.
//!
//! The watcher lists in pages, watches from the list's version, keeps up by bookmarks, lists again when its version is too old (410) and
//! waits longer each time the server does not answer. Here its objects are cut down to what anybody reads.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{Stream, StreamExt};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, watcher as watching};
use kube::{Api, Client};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::cluster::{Change, Object, ObjectName, Watched};
use super::remote::REMOTE;

/// What is heard: of which cluster (ours has no name), of which kind, and what.
pub(super) type Heard = (Arc<str>, Watched, Result<Change, watcher::Error>);

/// What says so.
pub(super) type Watch = Pin<Box<dyn Stream<Item = Heard> + Send>>;

/// The one `ConfigMap` that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SitesMap {
    pub namespace: String,
    pub name: String,
}

/// Watches some kinds of a cluster, until the signal.
pub(super) fn watch_all(
    client: &Client,
    sites: &SitesMap,
    cluster: &str,
    kinds: &[Watched],
    signal: &CancellationToken,
) -> Vec<Watch> {
    let name: Arc<str> = cluster.into();
    let one = |kind: &Watched| {
        let events = watch(client.clone(), *kind, sites, name.clone());
        events.take_until(signal.clone().cancelled_owned()).boxed()
    };
    kinds.iter().map(one).collect()
}

fn watch(client: Client, kind: Watched, sites: &SitesMap, cluster: Arc<str>) -> Watch {
    let resource = resource(kind);
    let mut config = watching::Config::default();
    let api: Api<DynamicObject> = match kind {
        Watched::Sites => {
            config = config.fields(&format!("metadata.name={}", sites.name));
            Api::namespaced_with(client, &sites.namespace, &resource)
        }
        Watched::RemoteCluster => {
            config = config.labels(REMOTE);
            Api::namespaced_with(client, &sites.namespace, &resource)
        }
        _ => Api::all_with(client, &resource),
    };
    let events = watcher(api, config).default_backoff();
    let heard = move |event| (cluster.clone(), kind, heard(kind, event));
    events.map(heard).boxed()
}

/// How the client names a kind.
pub(super) fn resource(kind: Watched) -> ApiResource {
    let api = kind.api();
    let gvk = GroupVersionKind::gvk(api.group, api.version, api.kind);
    ApiResource::from_gvk_with_plural(&gvk, api.plural)
}

fn heard(
    kind: Watched,
    event: Result<Event<DynamicObject>, watcher::Error>,
) -> Result<Change, watcher::Error> {
    Ok(match event {
        Ok(Event::Init) => Change::ListBegins,
        Ok(Event::InitApply(object)) => Change::Listed(Box::new(cut_down(kind, object))),
        Ok(Event::InitDone) => Change::ListEnds,
        Ok(Event::Apply(object)) => Change::Applied(Box::new(cut_down(kind, object))),
        Ok(Event::Delete(object)) => Change::Deleted(name(&object)),
        Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) if status.code == 404 => {
            Change::NotInstalled
        }
        Err(error) => return Err(error),
    })
}

fn name(object: &DynamicObject) -> ObjectName {
    ObjectName {
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        name: object.metadata.name.clone().unwrap_or_default(),
    }
}

fn cut_down(kind: Watched, object: DynamicObject) -> Object {
    let name = name(&object);
    let mut body = object.data;
    if let Value::Object(fields) = &mut body {
        fields.remove("apiVersion");
        fields.remove("kind");
        // A machine's heartbeats are no change to us.
        if !kind.has_status() {
            fields.remove("status");
        }
        match kind {
            Watched::Namespace => drop(fields.remove("spec")),
            // Of a machine's spec what `kubectl cordon` says.
            Watched::Node => {
                if let Some(Value::Object(spec)) = fields.get_mut("spec") {
                    spec.retain(|field, _| field == "unschedulable");
                }
            }
            _ => {}
        }
    }
    let version = object.metadata.resource_version.unwrap_or_default();
    let created = object.metadata.creation_timestamp;
    Object {
        name,
        labels: object.metadata.labels.unwrap_or_default(),
        annotations: object.metadata.annotations.unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        created: created.map(|time| time.0.to_string()).unwrap_or_default(),
        resource_version: if kind.has_status() {
            version
        } else {
            String::new()
        },
        body,
    }
}
