//! A cluster, a controller that follows it, and words for both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use isobar_controller::config::{Config, KubernetesConfig};
use isobar_controller::program::Program;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::api_server::{ApiServer, CONTROLLER, Served};
use crate::gateway_api;
use crate::link::Link;

/// Longest wait for what should take a moment.
const PATIENCE: Duration = Duration::from_secs(120);
/// The label of everything that a test makes: which test's it is.
const MADE_BY: &str = "tests.isobar.dev/made-by";
/// What is as old as this was left behind by a run that was ended from outside.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);
/// Kinds without a namespace that tests make. What is in a namespace goes with it.
const CLUSTER_WIDE: [&str; 10] = [
    "ClusterRoleBinding",
    "ClusterRole",
    "MutatingWebhookConfiguration",
    "GatewayClass",
    "MeshNode",
    "WeightPolicy",
    "TrafficPolicy",
    "AccessPolicy",
    "Node",
    "Namespace",
];

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_owned()
}

/// The definitions of our custom resources, as they are installed.
fn own_definitions() -> Vec<Value> {
    let text = std::fs::read_to_string(root().join("k3s/base/crds.yaml")).unwrap();
    let documents = text.split("\n---\n").map(str::trim);
    let documents = documents.filter(|document| !document.is_empty());
    documents
        .map(|document| serde_saphyr::from_str(document).unwrap())
        .collect()
}

/// All definitions, as our server serves them.
fn customs() -> Vec<Served> {
    let one = |crd: &Value| {
        let (spec, version) = (&crd["spec"], &crd["spec"]["versions"][0]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Served {
            group: text(&spec["group"]),
            version: text(&version["name"]),
            kind: text(&spec["names"]["kind"]),
            plural: text(&spec["names"]["plural"]),
            is_namespaced: spec["scope"] == "Namespaced",
            schema: Some(version["schema"]["openAPIV3Schema"].clone()),
        }
    };
    let all = own_definitions().into_iter();
    let all: Vec<Value> = all.chain(gateway_api::definitions()).collect();
    all.iter().map(one).collect()
}

/// In which version a cluster that is not ours serves a kind, where it may be another than ours.
static SERVED: OnceCell<BTreeMap<String, String>> = OnceCell::const_new();

/// Installs what a cluster that is not ours lacks: ours anew, the Gateway API's where they are not. Returns in which version each is
/// served.
async fn install(client: &Client) -> BTreeMap<String, String> {
    sweep(client, MADE_BY, LEFT_BEHIND).await;
    let api: Api<DynamicObject> =
        Api::all_with(client.clone(), &resource("CustomResourceDefinition"));
    let how = PatchParams::apply("isobar-tests").force();
    let ours = own_definitions().into_iter().map(|one| (one, true));
    let theirs = gateway_api::definitions()
        .into_iter()
        .map(|one| (one, false));
    let mut served = BTreeMap::new();
    for (mut definition, is_ours) in ours.chain(theirs) {
        definition["apiVersion"] = json!("apiextensions.k8s.io/v1");
        let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
        if is_ours || api.get_opt(&name).await.unwrap().is_none() {
            let what = Patch::Apply(&definition);
            api.patch(&name, &how, &what).await.unwrap();
        }
        let found = until(&name, async || {
            let found = api.get(&name).await.unwrap().data;
            let established = condition(&found["status"]["conditions"], "Established");
            match established["status"] == "True" {
                true => Ok(found),
                false => Err(found["status"].clone()),
            }
        })
        .await;
        let versions = found["spec"]["versions"].as_array().unwrap();
        let version = versions.iter().find(|version| version["served"] == true);
        let (names, text) = (&found["spec"]["names"], |v: &Value| {
            v.as_str().unwrap().to_owned()
        });
        let gvk = GroupVersionKind {
            group: text(&found["spec"]["group"]),
            version: text(&version.unwrap()["name"]),
            kind: text(&names["kind"]),
        };
        served.insert(gvk.kind.clone(), gvk.version.clone());
        // It is established before it is served everywhere.
        let kind = ApiResource::from_gvk_with_plural(&gvk, &text(&names["plural"]));
        let all: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
        until(&name, async || {
            let listed = all.list(&Default::default()).await;
            listed.map(|_| ()).map_err(|error| json!(error.to_string()))
        })
        .await;
    }
    served
}

/// The file of `KUBECONFIG`, if there is one. Tests run in their crate's directory; who names a file is more likely in the workspace's.
fn named_file() -> Option<PathBuf> {
    let file = std::env::var_os("KUBECONFIG").filter(|file| !file.is_empty())?;
    Some(root().join(file))
}

/// A client of the cluster that a kubeconfig names.
pub async fn client_of(file: &Path) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let read = kube::config::Kubeconfig::read_from(file).unwrap();
    let config = kube::Config::from_custom_kubeconfig(read, &Default::default()).await;
    Client::try_from(config.unwrap()).unwrap()
}

/// Takes away what a test made, or what any test made that is old.
async fn sweep(client: &Client, of: &str, min_age: Duration) {
    let selected = kube::api::ListParams::default().labels(of);
    let before = k8s_openapi::jiff::Timestamp::now() - min_age;
    for kind in CLUSTER_WIDE {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(kind));
        let Ok(found) = api.list(&selected).await else {
            continue;
        };
        for object in found {
            let made = object.metadata.creation_timestamp.as_ref();
            if made.is_some_and(|made| made.0 <= before) {
                let name = object.metadata.name.unwrap();
                // Some tests have deleted theirs.
                let _ = api.delete(&name, &DeleteParams::default()).await;
            }
        }
    }
}

/// Takes away the events about a test's nodes, which have no namespace of their own to go with.
async fn sweep_events(client: &Client, tag: &str) {
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), "default", &resource("Event"));
    let Ok(all) = api.list(&Default::default()).await else {
        return;
    };
    for event in all {
        let about = event.data["regarding"]["name"].as_str();
        if about.is_some_and(|name| name.starts_with(tag)) {
            let name = event.metadata.name.unwrap();
            let _ = api.delete(&name, &DeleteParams::default()).await;
        }
    }
}

/// A cluster to test against.
pub struct Cluster {
    /// Ours, unless `KUBECONFIG` names another.
    server: Option<ApiServer>,
    /// The way there that controllers take.
    pub link: Link,
    /// The controller's: by that way.
    kubeconfig: PathBuf,
    directory: tempfile::TempDir,
    /// Goes straight there.
    pub client: Client,
    /// In the names of everything that this test makes.
    pub tag: String,
    /// Of another's cluster: its kubeconfig, and this test's turn.
    named: Option<(PathBuf, tokio::sync::OwnedMutexGuard<()>)>,
}

impl Cluster {
    pub async fn open() -> Cluster {
        match named_file() {
            Some(file) => Cluster::named(file).await,
            None => Cluster::ours().await,
        }
    }

    /// Ours, for what a cluster of others cannot be asked for. None where `KUBECONFIG` names one: then it is said that the test was skipped,
    /// and why.
    pub async fn own(why: &str) -> Option<Cluster> {
        if named_file().is_none() {
            return Some(Cluster::ours().await);
        }
        say_skipped(why);
        None
    }

    async fn ours() -> Cluster {
        let server = ApiServer::start(customs()).await;
        let directory = tempfile::tempdir().unwrap();
        let link = Link::open(server.address.to_string()).await;
        let write = |user: &str, at: std::net::SocketAddr| {
            let file = directory.path().join(user);
            std::fs::write(&file, server.kubeconfig(user, at)).unwrap();
            file
        };
        let (own, kubeconfig) = (
            write("tests", server.address),
            write(CONTROLLER, link.address),
        );
        let client = client_of(&own).await;
        let cluster = Cluster {
            client,
            server: Some(server),
            link,
            kubeconfig,
            directory,
            tag: tag(),
            named: None,
        };
        cluster.make_namespace().await;
        cluster
    }

    /// A cluster of others. One test at a time: a mesh has one controller, and two that make different things of one cluster would write over
    /// each other's statuses.
    async fn named(file: PathBuf) -> Cluster {
        static TURN: std::sync::LazyLock<std::sync::Arc<tokio::sync::Mutex<()>>> =
            std::sync::LazyLock::new(Default::default);
        let turn = TURN.clone().lock_owned().await;
        let directory = tempfile::tempdir().unwrap();
        let (link, config) = Link::to_cluster_of(&file).await;
        let kubeconfig = directory.path().join("controller");
        std::fs::write(&kubeconfig, serde_json::to_vec(&config).unwrap()).unwrap();
        let cluster = Cluster {
            client: client_of(&file).await,
            server: None,
            link,
            kubeconfig,
            directory,
            tag: tag(),
            named: Some((file, turn)),
        };
        SERVED.get_or_init(|| install(&cluster.client)).await;
        cluster.make_namespace().await;
        cluster
    }

    async fn make_namespace(&self) {
        self.apply(json!({"kind": "Namespace", "metadata": {"name": self.tag}}))
            .await;
    }

    /// The file that says where it is.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A kubeconfig of whoever has a token, by the way that controllers take; a name for its file.
    pub fn kubeconfig_with(&self, token: &str, name: &str) -> PathBuf {
        let read = kube::config::Kubeconfig::read_from(&self.kubeconfig).unwrap();
        let mut config = serde_json::to_value(&read).unwrap();
        for user in config["users"].as_array_mut().unwrap() {
            user["user"] = json!({"token": token});
        }
        let file = self.directory.path().join(name);
        std::fs::write(&file, config.to_string()).unwrap();
        file
    }

    /// A client that goes the way that controllers take.
    pub async fn client_by_link(&self) -> Client {
        client_of(&self.kubeconfig).await
    }

    /// Whether its server is ours, to be told what to do.
    pub fn is_own(&self) -> bool {
        self.server.is_some()
    }

    pub fn server(&self) -> &ApiServer {
        self.server.as_ref().unwrap()
    }

    /// A name that no other test has.
    pub fn name(&self, short: &str) -> String {
        format!("{}-{short}", self.tag)
    }

    pub fn api(&self, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
        let resource = resource(kind);
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// Creates an object, or changes it, as `kubectl apply --server-side` does. Repeated when the connection breaks, when the server has no
    /// time now, and when somebody else wrote at the same moment.
    pub async fn apply(&self, object: Value) -> DynamicObject {
        until("applied object", async || {
            match self.try_apply(object.clone()).await {
                Ok(applied) => Ok(applied),
                Err(error) if is_final(&error) => panic!("{error}: {object}"),
                Err(error) => Err(json!(error.to_string())),
            }
        })
        .await
    }

    pub async fn try_apply(&self, mut object: Value) -> Result<DynamicObject, kube::Error> {
        let kind = object["kind"].as_str().unwrap().to_owned();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
        object["apiVersion"] = json!(resource(&kind).api_version);
        object["metadata"]["labels"][MADE_BY] = json!(self.tag);
        let api = self.api(&kind, namespace.as_deref());
        let how = PatchParams::apply("isobar-tests").force();
        api.patch(&name, &how, &Patch::Apply(&object)).await
    }

    /// What the server would say to an apply; nothing is kept of it.
    pub async fn would_apply(&self, mut object: Value) -> Result<DynamicObject, kube::Error> {
        let kind = object["kind"].as_str().unwrap().to_owned();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        if object["metadata"]["namespace"].is_string() {
            object["metadata"]["namespace"] = json!(self.tag);
        }
        let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
        let api = self.api(&kind, namespace.as_deref());
        let how = PatchParams::apply("isobar-tests").force().dry_run();
        api.patch(&name, &how, &Patch::Apply(&object)).await
    }

    /// Creates an object: what is wrong with its fields is what the schema finds, where an apply does not get so far.
    pub async fn try_create(&self, mut object: Value) -> Result<DynamicObject, kube::Error> {
        let kind = object["kind"].as_str().unwrap().to_owned();
        let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
        object["apiVersion"] = json!(resource(&kind).api_version);
        object["metadata"]["labels"][MADE_BY] = json!(self.tag);
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let api = self.api(&kind, namespace.as_deref());
        api.create(&Default::default(), &object).await
    }

    pub async fn delete(&self, kind: &str, namespace: Option<&str>, name: &str) {
        let api = self.api(kind, namespace);
        until("deleted object", async || {
            match api.delete(name, &DeleteParams::default()).await {
                Ok(_) => Ok(()),
                Err(error) if is_final(&error) => panic!("{error}: {kind} {name}"),
                Err(error) => Err(json!(error.to_string())),
            }
        })
        .await;
    }

    /// Waits until an object's status is as it should be.
    pub async fn until_status(
        &self,
        kind: &str,
        namespace: Option<&str>,
        name: &str,
        is: impl Fn(&Value) -> bool,
    ) -> Value {
        let api = self.api(kind, namespace);
        let what = format!("status of {kind} {name}");
        until(&what, async || {
            let object = api.get(name).await;
            let object = object.map_err(|error| json!(error.to_string()))?;
            let mut whole = object.data["status"].clone();
            if let Some(generation) = object.metadata.generation {
                whole["generation"] = json!(generation);
            }
            match is(&whole) {
                true => Ok(whole),
                false => Err(whole),
            }
        })
        .await
    }

    /// A service with the endpoints `(address, node)`, in one slice.
    pub async fn apply_service(&self, name: &str, endpoints: &[(String, String)]) {
        // Without an address of its own: a cluster has few of these to give.
        self.apply(
            json!({"kind": "Service", "metadata": {"name": name, "namespace": self.tag},
                          "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}}),
        )
        .await;
        self.apply_slice(name, "a", endpoints).await;
    }

    pub async fn apply_slice(&self, service: &str, slice: &str, endpoints: &[(String, String)]) {
        let one = |(address, node): &(String, String)| json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": node});
        let endpoints: Vec<Value> = endpoints.iter().map(one).collect();
        let labels = json!({"kubernetes.io/service-name": service});
        self.apply(json!({"kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
                          "metadata": {"name": format!("{service}-{slice}"), "namespace": self.tag, "labels": labels},
                          "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}))
            .await;
    }

    /// A node that is annotated with a position.
    pub async fn apply_node(&self, name: &str, lat: &str, lon: &str) {
        let annotations = json!({"isobar.dev/latitude": lat, "isobar.dev/longitude": lon});
        self.apply(json!({"kind": "Node", "metadata": {"name": name, "annotations": annotations}}))
            .await;
    }

    /// A token of a service account of the test's namespace: bound to a pod or to none, for an audience or for the API server.
    pub async fn account_token(
        &self,
        account: &str,
        pod: Option<&str>,
        audience: Option<&str>,
    ) -> String {
        let mut spec = json!({"expirationSeconds": 3600});
        if let Some(pod) = pod {
            spec["boundObjectRef"] = json!({"apiVersion": "v1", "kind": "Pod", "name": pod});
        }
        if let Some(audience) = audience {
            spec["audiences"] = json!([audience]);
        }
        let body =
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let path = format!(
            "/api/v1/namespaces/{}/serviceaccounts/{account}/token",
            self.tag
        );
        let request = http::Request::post(path)
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes());
        let answer: Value = self.client.request(request.unwrap()).await.unwrap();
        answer["status"]["token"].as_str().unwrap().to_owned()
    }

    /// Says where a node is reached, as its kubelet would.
    pub async fn say_address(&self, node: &str, address: &str) {
        let addresses = json!([{"type": "InternalIP", "address": address}]);
        let status = json!({"status": {"addresses": addresses}});
        let (how, what) = (PatchParams::default(), Patch::Merge(&status));
        let nodes = self.api("Node", None);
        nodes.patch_status(node, &how, &what).await.unwrap();
    }

    /// A controller that follows the cluster; `number` tells its data directory.
    pub async fn controller(&self, number: u32) -> Controller {
        self.controller_with(number, |_| {}).await
    }

    /// The same, with something else in its configuration.
    pub async fn controller_with(
        &self,
        number: u32,
        change: impl FnOnce(&mut KubernetesConfig),
    ) -> Controller {
        let mut kubernetes = KubernetesConfig {
            kubeconfig: Some(self.kubeconfig.clone()),
            namespace: Some(self.tag.clone()),
            publish_enrolment: true,
            listen: Some("127.0.0.1:0".parse().unwrap()),
            proxy_image: Some("registry.example/isobar-proxy:1".to_owned()),
            ..KubernetesConfig::default()
        };
        change(&mut kubernetes);
        let any = "127.0.0.1:0".parse().unwrap();
        let config = Config {
            rest_listen: any,
            rest_open: true,
            stream_listen: any,
            period_ms: 200,
            kubernetes: Some(kubernetes),
            ..Config::new(self.data_dir(number))
        };
        let stop = CancellationToken::new();
        let program = Program::start(config, stop.clone()).await.unwrap();
        let data_dir = self.data_dir(number);
        Controller {
            program,
            stop,
            data_dir,
        }
    }

    /// Where a controller keeps its data.
    pub fn data_dir(&self, number: u32) -> PathBuf {
        self.directory.path().join(format!("controller-{number}"))
    }

    /// Takes away what the test made, so that a real cluster is as it was. A test that fails does so as well, when this is dropped.
    pub async fn close(mut self) {
        // Its turn is over when all is gone.
        let named = self.named.take();
        if named.is_some() {
            clean(&self.client, &self.tag).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some((file, _turn)) = self.named.take() else {
            return;
        };
        let tag = self.tag.clone();
        // The runtime of the test may be ending.
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async { clean(&client_of(&file).await, &tag).await });
        });
        let _ = cleaning.join();
    }
}

/// Takes away what a test made.
async fn clean(client: &Client, tag: &str) {
    sweep(client, &format!("{MADE_BY}={tag}"), Duration::ZERO).await;
    sweep_events(client, tag).await;
}

/// The name of a test's things, of no other run either: what one has left behind may still be going.
fn tag() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let run = fastrand::u32(..);
    format!("t{run:08x}-{}", NUMBER.fetch_add(1, Relaxed))
}

/// Whether it is of no use to ask again.
fn is_final(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => {
            let passes = status.code == 429 || status.code >= 500;
            !passes && status.reason != "Conflict"
        }
        _ => false,
    }
}

/// Says on standard error itself, which nothing captures, that a test, or a part of it, was skipped.
pub fn say_skipped(why: &str) {
    use std::io::Write;
    let test = std::thread::current();
    let name = test.name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "skipped: kubernetes {name}: {why}");
}

fn resource(kind: &str) -> ApiResource {
    let (group, version, plural) = match kind {
        "Node" => ("", "v1", "nodes"),
        "Namespace" => ("", "v1", "namespaces"),
        "Service" => ("", "v1", "services"),
        "ConfigMap" => ("", "v1", "configmaps"),
        "Secret" => ("", "v1", "secrets"),
        "DaemonSet" => ("apps", "v1", "daemonsets"),
        "StatefulSet" => ("apps", "v1", "statefulsets"),
        "EndpointSlice" => ("discovery.k8s.io", "v1", "endpointslices"),
        "Event" => ("events.k8s.io", "v1", "events"),
        "HTTPRoute" => ("gateway.networking.k8s.io", "v1", "httproutes"),
        "GRPCRoute" => ("gateway.networking.k8s.io", "v1", "grpcroutes"),
        "Pod" => ("", "v1", "pods"),
        "Lease" => ("coordination.k8s.io", "v1", "leases"),
        "MutatingWebhookConfiguration" => (
            "admissionregistration.k8s.io",
            "v1",
            "mutatingwebhookconfigurations",
        ),
        "APIService" => ("apiregistration.k8s.io", "v1", "apiservices"),
        "Gateway" => ("gateway.networking.k8s.io", "v1", "gateways"),
        "GatewayClass" => ("gateway.networking.k8s.io", "v1", "gatewayclasses"),
        "TCPRoute" => ("gateway.networking.k8s.io", "v1alpha2", "tcproutes"),
        "ReferenceGrant" => ("gateway.networking.k8s.io", "v1beta1", "referencegrants"),
        "AccessPolicy" => ("isobar.dev", "v1alpha1", "accesspolicies"),
        "CustomResourceDefinition" => ("apiextensions.k8s.io", "v1", "customresourcedefinitions"),
        "ServiceAccount" => ("", "v1", "serviceaccounts"),
        "ClusterRole" => ("rbac.authorization.k8s.io", "v1", "clusterroles"),
        "ClusterRoleBinding" => ("rbac.authorization.k8s.io", "v1", "clusterrolebindings"),
        "Role" => ("rbac.authorization.k8s.io", "v1", "roles"),
        "RoleBinding" => ("rbac.authorization.k8s.io", "v1", "rolebindings"),
        "NetworkPolicy" => ("networking.k8s.io", "v1", "networkpolicies"),
        "PodDisruptionBudget" => ("policy", "v1", "poddisruptionbudgets"),
        "MeshNode" => ("isobar.dev", "v1alpha1", "meshnodes"),
        "WeightPolicy" => ("isobar.dev", "v1alpha1", "weightpolicies"),
        "TrafficPolicy" => ("isobar.dev", "v1alpha1", "trafficpolicies"),
        other => panic!("what is a {other}?"),
    };
    let served = SERVED.get().and_then(|served| served.get(kind));
    let version = served.map_or(version, String::as_str);
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// A running controller.
pub struct Controller {
    pub program: Program,
    stop: CancellationToken,
    data_dir: PathBuf,
}

/// A certificate of a client, and its key.
pub type ClientIdentity = (
    rustls::pki_types::CertificateDer<'static>,
    rustls::pki_types::PrivateKeyDer<'static>,
);

impl Controller {
    pub async fn end(self) {
        self.stop.cancel();
        self.program.wait().await.unwrap();
    }

    /// What its REST API answers: the body of a 200, null otherwise.
    pub async fn get(&self, path: &str) -> Value {
        match self.exchange("GET", path, "").await {
            (200, body) => serde_json::from_str(&body).unwrap_or_else(|_| json!(body)),
            _ => Value::Null,
        }
    }

    /// What its REST API says to a resource that is written.
    pub async fn put(&self, path: &str, resource: &Value) -> u16 {
        self.exchange("PUT", path, &resource.to_string()).await.0
    }

    /// What its REST API says to what is posted.
    pub async fn post(&self, path: &str, body: &Value) -> u16 {
        self.exchange("POST", path, &body.to_string()).await.0
    }

    /// What the port answers that an API server calls: it must show a certificate of the mesh's roots.
    pub async fn call(
        &self,
        (method, path): (&str, &str),
        headers: &str,
        body: &[u8],
        identity: Option<ClientIdentity>,
    ) -> (u16, Value) {
        use rustls::pki_types::pem::PemObject;
        let mut roots = rustls::RootCertStore::empty();
        let pem = std::fs::read(self.data_dir.join("ca.pem")).unwrap();
        for root in rustls::pki_types::CertificateDer::pem_slice_iter(&pem) {
            roots.add(root.unwrap()).unwrap();
        }
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            Some((certificate, key)) => builder
                .with_client_auth_cert(vec![certificate], key)
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        let to = self.program.addresses().cluster.unwrap();
        let socket = tokio::net::TcpStream::connect(to).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        let name = rustls::pki_types::ServerName::IpAddress(to.ip().into());
        let mut stream = connector.connect(name, socket).await.unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // Who refuses a long body may have closed before it has all of it.
        let _ = stream.write_all(body).await;
        // Written is not sent: the end of a long body may still be with TLS.
        let _ = stream.flush().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (
            status,
            serde_json::from_str(body).unwrap_or_else(|_| json!(body)),
        )
    }

    async fn exchange(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let to = self.program.addresses().rest;
        let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    /// Waits until the REST API's answer is as it should be.
    pub async fn until(&self, path: &str, is: impl Fn(&Value) -> bool) -> Value {
        until(path, async || {
            let answer = self.get(path).await;
            match is(&answer) {
                true => Ok(answer),
                false => Err(answer),
            }
        })
        .await
    }
}

/// Waits until `look` finds something; what it saw last is in the panic.
pub async fn until<T>(what: &str, look: impl AsyncFn() -> Result<T, Value>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(saw) if Instant::now() > deadline => {
                panic!("{what} is not as it should be in {PATIENCE:?}: {saw}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The condition of a type, in a list of conditions.
pub fn condition<'a>(conditions: &'a Value, kind: &str) -> &'a Value {
    let all = conditions.as_array().into_iter().flatten();
    all.into_iter()
        .find(|condition| condition["type"] == kind)
        .unwrap_or(&Value::Null)
}

/// What a run leaves of itself in a cluster that is not ours; here it is ours, told of by a file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_others_is_left_as_it_was() {
    if named_file().is_some() {
        return say_skipped("it looks at the suite itself");
    }
    let server = ApiServer::start(customs()).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config");
    std::fs::write(&file, server.kubeconfig("tests", server.address)).unwrap();
    let client = client_of(&file).await;
    let left = async |tag: &str| {
        let mut left = Vec::new();
        for kind in CLUSTER_WIDE {
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(kind));
            let all = api.list(&Default::default()).await.unwrap();
            let names = all.items.into_iter().filter_map(|one| one.metadata.name);
            left.extend(names.filter(|name| name.starts_with(tag)));
        }
        left
    };
    for fails in [false, true] {
        let cluster = Cluster::named(file.clone()).await;
        let (tag, node) = (cluster.tag.clone(), cluster.name("n"));
        cluster.apply_node(&node, "45.0", "9.0").await;
        cluster
            .apply_service("cart", &[("10.1.0.1".to_owned(), node.clone())])
            .await;
        // Also by the way that breaks.
        let controller = cluster.controller(0).await;
        let is_there = |node: &Value| !node.is_null();
        controller
            .until(&format!("/v1/nodes/{node}"), is_there)
            .await;
        controller.end().await;
        assert_eq!(left(&tag).await.len(), 2);
        match fails {
            false => cluster.close().await,
            true => drop(
                tokio::spawn(async move {
                    let _cluster = cluster;
                    panic!("as a test that fails");
                })
                .await,
            ),
        }
        assert_eq!(left(&tag).await, Vec::<String>::new());
    }
}
