//! Watches of a Kubernetes API: what every kind's objects are, and what changes.
//!
//! The watcher lists in pages, watches from the list's version, keeps up by bookmarks, lists again when its version is too old (410) and
//! waits longer each time the server does not answer. Here its objects are cut down to what anybody reads.

use std::pin::Pin;

use futures_util::stream::{Stream, StreamExt, select_all};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, watcher as watching};
use kube::{Api, Client};
use serde_json::Value;

use super::cluster::{Change, Object, ObjectName, Watched};

/// What is heard: of which kind, and what.
pub(super) type Heard = (Watched, Result<Change, watcher::Error>);

/// The one `ConfigMap` that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SitesMap {
    pub namespace: String,
    pub name: String,
}

/// Watches all kinds.
pub(super) fn watch_all(
    client: &Client,
    sites: &SitesMap,
) -> impl Stream<Item = Heard> + Send + use<> {
    select_all(Watched::ALL.map(|kind| watch(client.clone(), kind, sites)))
}

fn watch(
    client: Client,
    kind: Watched,
    sites: &SitesMap,
) -> Pin<Box<dyn Stream<Item = Heard> + Send>> {
    let resource = resource(kind);
    let mut config = watching::Config::default();
    let api: Api<DynamicObject> = match kind {
        Watched::Sites => {
            config = config.fields(&format!("metadata.name={}", sites.name));
            Api::namespaced_with(client, &sites.namespace, &resource)
        }
        _ => Api::all_with(client, &resource),
    };
    let events = watcher(api, config).default_backoff();
    events.map(move |event| (kind, heard(kind, event))).boxed()
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
        if matches!(kind, Watched::Node | Watched::Namespace) {
            fields.remove("spec");
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
