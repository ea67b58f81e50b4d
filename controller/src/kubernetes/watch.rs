//! Watches of a Kubernetes API: what every kind's objects are, and what changes.
//!
//! The watcher lists in pages, watches from the list's version, keeps up by bookmarks, lists again when its version is too old (410) and
//! waits longer each time the server does not answer. Here its objects are cut down to what anybody reads.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, watcher as watching};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::cluster::{Change, Object, ObjectName, Watched};
use super::remote::REMOTE;

/// What is heard: of which cluster (ours has no name), of which kind, and what.
pub(super) type Heard = (Arc<str>, Watched, Result<Change, watcher::Error>);

/// What the watcher says.
type Told = Result<Event<DynamicObject>, watcher::Error>;

/// A kind that the server has in no version is looked for again after this.
const ABSENT_WAIT: Duration = Duration::from_secs(10);

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
    let sites = sites.clone();
    let begin = move |version| events(client.clone(), kind, version, &sites).boxed();
    let reader = Reader {
        kind,
        at: 0,
        is_absent: false,
        events: begin(kind.api().versions[0]),
        begin,
    };
    let changes = stream::unfold(reader, |mut reader| async move {
        let change = reader.next().await?;
        Some((change, reader))
    });
    changes
        .map(move |change| (cluster.clone(), kind, change))
        .boxed()
}

/// What the watcher of one version of a kind says.
fn events(
    client: Client,
    kind: Watched,
    version: &str,
    sites: &SitesMap,
) -> impl Stream<Item = Told> + Send + use<> {
    let resource = resource(kind, version);
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
    watcher(api, config).default_backoff()
}

/// Reads a kind in the first of its versions that the server has, and in another when that one is gone.
struct Reader<F> {
    kind: Watched,
    /// Which of its versions is read.
    at: usize,
    /// None was there: it is looked for again in a while.
    is_absent: bool,
    events: BoxStream<'static, Told>,
    begin: F,
}

impl<F: Fn(&'static str) -> BoxStream<'static, Told>> Reader<F> {
    async fn next(&mut self) -> Option<Result<Change, watcher::Error>> {
        let versions = self.kind.api().versions;
        if std::mem::take(&mut self.is_absent) {
            tokio::time::sleep(ABSENT_WAIT).await;
        }
        loop {
            let version = versions[self.at];
            match heard(self.kind, version, self.events.next().await?) {
                Ok(Change::NotInstalled) => {}
                other => return Some(other),
            }
            self.at = (self.at + 1) % versions.len();
            self.events = (self.begin)(versions[self.at]);
            if self.at == 0 {
                self.is_absent = true;
                return Some(Ok(Change::NotInstalled));
            }
        }
    }
}

/// How the client names a kind.
pub(super) fn resource(kind: Watched, version: &str) -> ApiResource {
    let api = kind.api();
    let gvk = GroupVersionKind::gvk(api.group, version, api.kind);
    ApiResource::from_gvk_with_plural(&gvk, api.plural)
}

fn heard(kind: Watched, version: &'static str, event: Told) -> Result<Change, watcher::Error> {
    Ok(match event {
        Ok(Event::Init) => Change::ListBegins,
        Ok(Event::InitApply(object)) => Change::Listed(Box::new(cut_down(kind, version, object))),
        Ok(Event::InitDone) => Change::ListEnds,
        Ok(Event::Apply(object)) => Change::Applied(Box::new(cut_down(kind, version, object))),
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

fn cut_down(kind: Watched, version: &'static str, object: DynamicObject) -> Object {
    let name = name(&object);
    let mut body = object.data;
    if let Value::Object(fields) = &mut body {
        fields.remove("apiVersion");
        fields.remove("kind");
        // Of a status that is not ours to write: where a machine, or a load balancer, is reached. Heartbeats are no change to us.
        let place = match kind {
            Watched::Node => Some("addresses"),
            Watched::Service => Some("loadBalancer"),
            _ => None,
        };
        let place = place.and_then(|field| {
            let value = fields.get("status")?.get(field)?;
            // A Service that nobody balances has an empty one.
            (*value != json!({})).then(|| (field, value.clone()))
        });
        if !kind.has_status() {
            fields.remove("status");
        }
        if let Some((field, value)) = place {
            fields.insert("status".to_owned(), json!({field: value}));
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
    let resource_version = object.metadata.resource_version.unwrap_or_default();
    let created = object.metadata.creation_timestamp;
    Object {
        name,
        labels: object.metadata.labels.unwrap_or_default(),
        annotations: object.metadata.annotations.unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        created: created.map(|time| time.0.to_string()).unwrap_or_default(),
        version,
        resource_version: if kind.has_status() {
            resource_version
        } else {
            String::new()
        },
        body,
    }
}
