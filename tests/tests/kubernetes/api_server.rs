//! A small Kubernetes API server: list in pages, watch with bookmarks from a global version, 409, 410, merge and apply patches, the
//! status subresource, label and field selectors, schemas of custom resources with their defaults, what an apply declares, validation
//! of its own kinds (`strict.rs`), refusals by verb.
//!
//! It keeps objects in memory and serves them over HTTPS, so that the real client works against it. What it does it does as Kubernetes
//! documents it; the same suite runs against a real cluster, which is how we know.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{admission, schema, strict};

/// The user whose requests are counted.
pub const CONTROLLER: &str = "controller";
/// Namespaces of every cluster.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// Changes that watches can go back over.
const HISTORY_MAX: usize = 4096;
/// How often an idle watch is told the current version.
const BOOKMARK_INTERVAL: Duration = Duration::from_millis(500);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A kind that the server knows.
#[derive(Debug, Clone)]
pub struct Served {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub is_namespaced: bool,
    /// The schema of a custom resource.
    pub schema: Option<Value>,
}

/// An object's place: group and plural, namespace, name.
type Place = (String, String, String);

#[derive(Clone)]
struct Event {
    version: u64,
    resource: String,
    kind: &'static str,
    object: Value,
}

#[derive(Clone, Default)]
struct State {
    version: u64,
    objects: BTreeMap<Place, Value>,
    history: VecDeque<Event>,
    /// Versions up to here are forgotten.
    forgotten: u64,
    /// What was last applied: fields that an apply leaves out and the one before had go.
    applied: BTreeMap<Place, Value>,
    forbidden: BTreeSet<(String, String)>,
    /// Whose tokens are good: the `status` of their review.
    tokens: BTreeMap<String, Value>,
    /// Users that may read metrics.
    readers: BTreeSet<String>,
    /// Requests by verb and plural.
    asked: BTreeMap<(String, String), u64>,
}

/// The server; it ends when dropped.
pub struct ApiServer {
    shared: Arc<Shared>,
    acceptor: TlsAcceptor,
    ca_pem: String,
    pub address: SocketAddr,
    ended: CancellationToken,
}

struct Shared {
    served: Vec<Served>,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

/// A refusal, as Kubernetes words it.
struct Refused(StatusCode, &'static str, String);

type Answer = Result<(StatusCode, Value), Refused>;

fn refuse<T>(
    code: StatusCode,
    reason: &'static str,
    message: impl Into<String>,
) -> Result<T, Refused> {
    Err(Refused(code, reason, message.into()))
}

impl ApiServer {
    pub async fn start(customs: Vec<Served>) -> ApiServer {
        let mut served: Vec<Served> = [
            ("", "v1", "Node", "nodes", false),
            ("", "v1", "Namespace", "namespaces", false),
            ("", "v1", "Service", "services", true),
            ("", "v1", "ConfigMap", "configmaps", true),
            ("", "v1", "Secret", "secrets", true),
            (
                "discovery.k8s.io",
                "v1",
                "EndpointSlice",
                "endpointslices",
                true,
            ),
            ("", "v1", "Pod", "pods", true),
            ("coordination.k8s.io", "v1", "Lease", "leases", true),
            (
                "admissionregistration.k8s.io",
                "v1",
                "MutatingWebhookConfiguration",
                "mutatingwebhookconfigurations",
                false,
            ),
            (
                "apiregistration.k8s.io",
                "v1",
                "APIService",
                "apiservices",
                false,
            ),
            (
                "authentication.k8s.io",
                "v1",
                "TokenReview",
                "tokenreviews",
                false,
            ),
            (
                "authorization.k8s.io",
                "v1",
                "SubjectAccessReview",
                "subjectaccessreviews",
                false,
            ),
            (
                "rbac.authorization.k8s.io",
                "v1",
                "ClusterRole",
                "clusterroles",
                false,
            ),
            (
                "rbac.authorization.k8s.io",
                "v1",
                "ClusterRoleBinding",
                "clusterrolebindings",
                false,
            ),
            ("rbac.authorization.k8s.io", "v1", "Role", "roles", true),
            (
                "rbac.authorization.k8s.io",
                "v1",
                "RoleBinding",
                "rolebindings",
                true,
            ),
            ("", "v1", "ServiceAccount", "serviceaccounts", true),
            (
                "networking.k8s.io",
                "v1",
                "NetworkPolicy",
                "networkpolicies",
                true,
            ),
            (
                "policy",
                "v1",
                "PodDisruptionBudget",
                "poddisruptionbudgets",
                true,
            ),
            (
                "apiextensions.k8s.io",
                "v1",
                "CustomResourceDefinition",
                "customresourcedefinitions",
                false,
            ),
            ("apps", "v1", "DaemonSet", "daemonsets", true),
            ("apps", "v1", "StatefulSet", "statefulsets", true),
            ("events.k8s.io", "v1", "Event", "events", true),
        ]
        .map(|(group, version, kind, plural, is_namespaced)| Served {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            is_namespaced,
            schema: None,
        })
        .into();
        served.extend(customs);
        let key = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let chain = vec![key.cert.der().clone()];
        let secret = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, secret.unwrap())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = ApiServer {
            shared: Arc::new(Shared {
                served,
                state: Mutex::default(),
                changed: watch::channel(0).0,
            }),
            acceptor: TlsAcceptor::from(Arc::new(config)),
            ca_pem: key.cert.pem(),
            address: listener.local_addr().unwrap(),
            ended: CancellationToken::new(),
        };
        server.accept(listener);
        server
    }

    fn accept(&self, listener: TcpListener) {
        let (shared, acceptor) = (self.shared.clone(), self.acceptor.clone());
        let ended = self.ended.clone();
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = ended.cancelled() => return,
                };
                let (stream, _) = accepted.unwrap();
                let (shared, acceptor) = (shared.clone(), acceptor.clone());
                let ended = ended.clone();
                tokio::spawn(async move {
                    let serving = async {
                        let Ok(stream) = acceptor.accept(stream).await else {
                            return;
                        };
                        let answer = service_fn(move |request| {
                            let shared = shared.clone();
                            async move { Ok::<_, Infallible>(shared.handle(request).await) }
                        });
                        let mut builder = hyper::server::conn::http1::Builder::new();
                        builder.timer(TokioTimer::new());
                        let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
                    };
                    tokio::select! {
                        () = serving => {}
                        () = ended.cancelled() => {}
                    }
                });
            }
        });
    }

    /// A kubeconfig for it, by an address that leads to it. What [`CONTROLLER`] asks is counted, and may be forbidden.
    pub fn kubeconfig(&self, user: &str, at: SocketAddr) -> String {
        let ca = base64(&self.ca_pem);
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters:\n- name: test\n  cluster:\n    server: https://{}\n    \
             certificate-authority-data: {ca}\nusers:\n- name: test\n  user: {{token: {user}}}\ncontexts:\n- name: test\n  context: \
             {{cluster: test, user: test, namespace: isobar-system}}\n",
            at
        )
    }

    /// Forgets history: watches from before get 410.
    pub fn forget(&self) {
        let mut state = self.shared.state.lock().unwrap();
        state.version += 1;
        state.forgotten = state.version;
        state.history.clear();
    }

    /// Refuses a verb on a resource (`httproutes`, `httproutes/status`) from here on.
    pub fn forbid(&self, verb: &str, resource: &str) {
        let mut state = self.shared.state.lock().unwrap();
        state
            .forbidden
            .insert((verb.to_owned(), resource.to_owned()));
    }

    /// Makes a token good; a review of it for other audiences says no.
    pub fn know_token(&self, token: &str, user: Value, audiences: &[&str]) {
        let mut state = self.shared.state.lock().unwrap();
        let status = json!({"authenticated": true, "user": user, "audiences": audiences});
        state.tokens.insert(token.to_owned(), status);
    }

    /// Lets a user read metrics.
    pub fn let_read(&self, user: &str) {
        let mut state = self.shared.state.lock().unwrap();
        state.readers.insert(user.to_owned());
    }

    /// Allows again what was forbidden.
    pub fn allow(&self, verb: &str, resource: &str) {
        let mut state = self.shared.state.lock().unwrap();
        state
            .forbidden
            .remove(&(verb.to_owned(), resource.to_owned()));
    }

    pub fn allow_all(&self) {
        self.shared.state.lock().unwrap().forbidden.clear();
    }

    /// Every verb that was asked of every resource.
    pub fn all_asked(&self) -> BTreeSet<(String, String)> {
        let state = self.shared.state.lock().unwrap();
        state.asked.keys().cloned().collect()
    }

    /// How often a verb was asked of a resource.
    pub fn asked(&self, verb: &str, resource: &str) -> u64 {
        let state = self.shared.state.lock().unwrap();
        let key = (verb.to_owned(), resource.to_owned());
        state.asked.get(&key).copied().unwrap_or_default()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

fn base64(text: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        for place in 0..4 {
            match place <= chunk.len() {
                true => out.push(LETTERS[(bits >> (18 - 6 * place) & 63) as usize].into()),
                false => out.push('='),
            }
        }
    }
    out
}

/// What a request is about.
struct Asked {
    served: Served,
    namespace: String,
    name: Option<String>,
    is_status: bool,
    query: BTreeMap<String, String>,
}

impl Asked {
    fn resource(&self) -> String {
        format!("{}/{}", self.served.group, self.served.plural)
    }

    fn place(&self, name: &str) -> Place {
        (self.resource(), self.namespace.clone(), name.to_owned())
    }

    fn is_set(&self, parameter: &str) -> bool {
        self.query
            .get(parameter)
            .is_some_and(|v| v == "true" || v == "1")
    }

    /// Whether an object is among those that are asked for.
    fn selects(&self, place: &Place, object: &Value) -> bool {
        let in_namespace = self.namespace.is_empty() || self.namespace == place.1;
        let fields = self.query.get("fieldSelector").map_or("", String::as_str);
        let named = fields.split(',').all(|term| match term.split_once('=') {
            Some(("metadata.name", name)) => place.2 == name.trim_start_matches('='),
            _ => true,
        });
        let labels = self.query.get("labelSelector").map_or("", String::as_str);
        let labelled = labels.split(',').filter(|t| !t.is_empty()).all(|term| {
            let label = |key: &str| object["metadata"]["labels"].get(key.trim()).cloned();
            match (term.split_once("!="), term.split_once('=')) {
                (Some((key, value)), _) => label(key) != Some(json!(value)),
                (None, Some((key, value))) => {
                    label(key) == Some(json!(value.trim_start_matches('=')))
                }
                (None, None) => label(term).is_some(),
            }
        });
        place.0 == self.resource() && in_namespace && named && labelled
    }
}

impl Shared {
    async fn handle(self: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let answer = match self.read(&request) {
            _ if path == "/version" => Ok((
                StatusCode::OK,
                json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0"}),
            )),
            _ if self.kinds_of(&path).is_some() => {
                let kinds = self.kinds_of(&path);
                Ok((
                    StatusCode::OK,
                    json!({"kind": "APIResourceList", "resources": kinds}),
                ))
            }
            _ if path.ends_with("/token") => {
                let bytes = request.into_body().collect().await.unwrap().to_bytes();
                self.state.lock().unwrap().account_token(&path, &bytes)
            }
            // Of the operator; those that the controller asks are counted with what else it asks.
            _ if path.ends_with("/selfsubjectaccessreviews") => {
                let bytes = request.into_body().collect().await.unwrap().to_bytes();
                let mut review: Value = serde_json::from_slice(&bytes).unwrap();
                let asked = &review["spec"]["resourceAttributes"];
                let key =
                    [&asked["verb"], &asked["resource"]].map(|v| v.as_str().unwrap().to_owned());
                let is_allowed = !self
                    .state
                    .lock()
                    .unwrap()
                    .forbidden
                    .contains(&(key[0].clone(), key[1].clone()));
                review["status"] = json!({"allowed": is_allowed});
                Ok((StatusCode::CREATED, review))
            }
            Ok((asked, "watch")) => return self.watch(asked),
            Ok((asked, _)) => {
                let method = request.method().clone();
                let kind = request.headers().get("content-type");
                let kind = kind.and_then(|k| k.to_str().ok()).unwrap_or_default();
                let kind = kind.to_owned();
                let bytes = request.into_body().collect().await.unwrap().to_bytes();
                let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                match self.admit(&asked, &method, body).await {
                    Ok(body) => self.answer(&asked, &method, &kind, body),
                    Err(message) => {
                        refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
                    }
                }
            }
            Err(refused) => Err(refused),
        };
        let (status, body) = answer.unwrap_or_else(|Refused(code, reason, message)| {
            let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
                              "reason": reason, "code": code.as_u16()});
            (code, body)
        });
        Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .body(Full::from(body.to_string()).boxed_unsync())
            .unwrap()
    }

    /// What a group has in a version, where a path names these and the server has any.
    fn kinds_of(&self, path: &str) -> Option<Vec<Value>> {
        let (group, version) = path.strip_prefix("/apis/")?.split_once('/')?;
        let is = |one: &&Served| one.group == group && one.version == version;
        let one = |one: &Served| json!({"name": one.plural, "kind": one.kind, "namespaced": one.is_namespaced});
        let kinds: Vec<Value> = self.served.iter().filter(is).map(one).collect();
        (!kinds.is_empty()).then_some(kinds)
    }

    /// What webhooks make of a new pod.
    async fn admit(&self, asked: &Asked, method: &Method, body: Value) -> Result<Value, String> {
        if asked.served.plural != "pods" || method != Method::POST {
            return Ok(body);
        }
        let hooks: Vec<Value> = {
            let state = self.state.lock().unwrap();
            let place = (
                "/namespaces".to_owned(),
                String::new(),
                asked.namespace.clone(),
            );
            let labels = state.objects.get(&place);
            let labels = labels.map_or(Value::Null, |o| o["metadata"]["labels"].clone());
            let of = "admissionregistration.k8s.io/mutatingwebhookconfigurations";
            let all = state.objects.iter().filter(|(place, _)| place.0 == of);
            let hooks = all.flat_map(|(_, o)| o["webhooks"].as_array().into_iter().flatten());
            hooks
                .filter(|hook| admission::is_for(hook, &labels))
                .cloned()
                .collect()
        };
        let mut object = body;
        for hook in &hooks {
            match admission::admit(hook, object.clone()).await {
                Ok(admitted) => object = admitted,
                Err(_) if hook["failurePolicy"] == "Ignore" => {}
                Err(message) => return Err(message),
            }
        }
        Ok(object)
    }

    /// What is asked, and by which verb; that it is known and allowed.
    fn read<B>(&self, request: &Request<B>) -> Result<(Asked, &'static str), Refused> {
        let path: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
        let (group, version, rest) = match path.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return refuse(StatusCode::NOT_FOUND, "NotFound", "no such path"),
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let (plural, name, is_status) = match rest {
            [plural] => (*plural, None, false),
            [plural, name] => (*plural, Some(*name), false),
            [plural, name, "status"] => (*plural, Some(*name), true),
            _ => return refuse(StatusCode::NOT_FOUND, "NotFound", "no such path"),
        };
        let served = self
            .served
            .iter()
            .find(|s| s.group == group && s.version == version && s.plural == plural);
        let Some(served) = served.cloned() else {
            return refuse(
                StatusCode::NOT_FOUND,
                "NotFound",
                "the server could not find the requested resource",
            );
        };
        let query = request.uri().query().unwrap_or_default();
        let asked = Asked {
            served,
            namespace: namespace.to_owned(),
            name: name.map(str::to_owned),
            is_status,
            query: query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .map(|(key, value)| (key.to_owned(), unescape(value)))
                .collect(),
        };
        let verb = match (request.method(), name) {
            (&Method::GET, None) if asked.is_set("watch") => "watch",
            (&Method::GET, None) => "list",
            (&Method::GET, Some(_)) => "get",
            (&Method::POST, _) => "create",
            (&Method::PUT, _) => "update",
            (&Method::PATCH, _) => "patch",
            _ => "delete",
        };
        let who = request.headers().get("authorization");
        if who.is_none_or(|who| who != &format!("Bearer {CONTROLLER}")) {
            return Ok((asked, verb));
        }
        let mut state = self.state.lock().unwrap();
        let resource = match is_status {
            true => format!("{plural}/status"),
            false => plural.to_owned(),
        };
        let key = (verb.to_owned(), resource);
        *state.asked.entry(key.clone()).or_default() += 1;
        match state.forbidden.contains(&key) {
            true => refuse(
                StatusCode::FORBIDDEN,
                "Forbidden",
                format!("cannot {verb} resource {:?}", key.1),
            ),
            false => Ok((asked, verb)),
        }
    }

    fn answer(&self, asked: &Asked, method: &Method, kind: &str, body: Value) -> Answer {
        let mut state = self.state.lock().unwrap();
        // What is only tried out is done to something that nobody sees.
        if asked.query.get("dryRun").is_some_and(|what| what == "All") {
            return state.clone().answer(asked, method, kind, body);
        }
        let answer = state.answer(asked, method, kind, body);
        self.changed.send_replace(state.version);
        answer
    }

    /// Streams changes from a version on, until the time that was asked for has passed. One that is forgotten is an event too.
    fn watch(self: Arc<Shared>, asked: Asked) -> Response<Body> {
        let from = asked.query.get("resourceVersion");
        let from = from.and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
        let seconds = asked.query.get("timeoutSeconds");
        let seconds = seconds.and_then(|v| v.parse().ok()).unwrap_or(300);
        let until = tokio::time::Instant::now() + Duration::from_secs(seconds);
        let changed = self.changed.subscribe();
        let start = (self, asked, changed, from);
        let lines = futures_util::stream::unfold(start, move |at| async move {
            let (shared, asked, mut changed, from) = at;
            loop {
                changed.mark_unchanged();
                let (lines, version) = shared.since(&asked, from);
                if !lines.is_empty() {
                    let frame = Ok::<_, Infallible>(Frame::data(Bytes::from(lines)));
                    return Some((frame, (shared, asked, changed, version)));
                }
                tokio::select! {
                    _ = changed.changed() => {}
                    () = tokio::time::sleep(BOOKMARK_INTERVAL), if asked.is_set("allowWatchBookmarks") => {
                        let frame = Ok(Frame::data(Bytes::from(bookmark(&asked, version))));
                        return Some((frame, (shared, asked, changed, version)));
                    }
                    () = tokio::time::sleep_until(until) => return None,
                }
            }
        });
        let response = Response::builder().header("content-type", "application/json");
        response
            .body(StreamBody::new(lines).boxed_unsync())
            .unwrap()
    }

    /// The lines of a watch after a version, and the version they lead to.
    fn since(&self, asked: &Asked, from: u64) -> (String, u64) {
        let state = self.state.lock().unwrap();
        if from < state.forgotten {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410,
                                "message": "too old resource version"});
            let line = json!({"type": "ERROR", "object": status});
            return (format!("{line}\n"), state.version);
        }
        let mut lines = String::new();
        for event in state.history.iter().filter(|event| event.version > from) {
            let metadata = &event.object["metadata"];
            let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
            let place = (event.resource.clone(), text("namespace"), text("name"));
            if asked.selects(&place, &event.object) {
                let line = json!({"type": event.kind, "object": event.object});
                lines.push_str(&format!("{line}\n"));
            }
        }
        (lines, state.version)
    }
}

/// Leases and custom resources are replaced only by who says which version of them.
fn must_name_version(asked: &Asked, body: &Value) -> bool {
    let is_strict = asked.served.kind == "Lease" || asked.served.schema.is_some();
    is_strict && !body["metadata"]["resourceVersion"].is_string()
}

fn bookmark(asked: &Asked, version: u64) -> String {
    let served = &asked.served;
    let object = json!({"kind": served.kind, "apiVersion": api_version(served), "metadata": {"resourceVersion": version.to_string()}});
    format!("{}\n", json!({"type": "BOOKMARK", "object": object}))
}

fn api_version(served: &Served) -> String {
    match served.group.as_str() {
        "" => served.version.clone(),
        group => format!("{group}/{}", served.version),
    }
}

fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let pair = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
                let pair = std::str::from_utf8(&pair).unwrap_or("3f");
                out.push(u8::from_str_radix(pair, 16).unwrap_or(b'?'));
            }
            b'+' => out.push(b' '),
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl State {
    fn answer(&mut self, asked: &Asked, method: &Method, kind: &str, body: Value) -> Answer {
        match (method, &asked.name) {
            (&Method::GET, None) => self.list(asked),
            (&Method::GET, Some(name)) => self.get(asked, name).map(|o| (StatusCode::OK, o)),
            (&Method::POST, _) if asked.served.plural.ends_with("reviews") => {
                Ok((StatusCode::CREATED, self.review(&asked.served.plural, body)))
            }
            (&Method::POST, _) => self.create(asked, body),
            (&Method::PUT, Some(name)) => match must_name_version(asked, &body) {
                true => refuse(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "Invalid",
                    "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update",
                ),
                false => self.update(asked, name, body),
            },
            (&Method::PATCH, Some(name)) => self.patch(asked, name, kind, body),
            (&Method::DELETE, Some(name)) => self.delete(asked, name),
            _ => refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                "MethodNotAllowed",
                "not served here",
            ),
        }
    }

    fn list(&self, asked: &Asked) -> Answer {
        let limit = asked.query.get("limit").and_then(|l| l.parse().ok());
        let limit: usize = limit.filter(|l| *l > 0).unwrap_or(usize::MAX);
        let skip = asked.query.get("continue").and_then(|c| c.parse().ok());
        let skip: usize = skip.unwrap_or(0);
        let all: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(place, object)| asked.selects(place, object))
            .map(|(_, object)| object)
            .collect();
        let items: Vec<&Value> = all.iter().copied().skip(skip).take(limit).collect();
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if skip + items.len() < all.len() {
            metadata["continue"] = json!((skip + items.len()).to_string());
        }
        let kind = format!("{}List", asked.served.kind);
        let list = json!({"kind": kind, "apiVersion": api_version(&asked.served), "metadata": metadata, "items": items});
        Ok((StatusCode::OK, list))
    }

    fn get(&self, asked: &Asked, name: &str) -> Result<Value, Refused> {
        match self.objects.get(&asked.place(name)) {
            Some(object) => Ok(object.clone()),
            None => refuse(
                StatusCode::NOT_FOUND,
                "NotFound",
                format!("{} {name:?} not found", asked.served.plural),
            ),
        }
    }

    /// A token of a service account, bound to a pod or to nothing.
    fn account_token(&mut self, path: &str, body: &[u8]) -> Answer {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let [.., namespace, "serviceaccounts", name, "token"] = parts.as_slice() else {
            return refuse(StatusCode::NOT_FOUND, "NotFound", "no such path");
        };
        let place = |plural: &str, name: &str| {
            (plural.to_owned(), (*namespace).to_owned(), name.to_owned())
        };
        let mut request: Value = serde_json::from_slice(body).unwrap();
        let bound = &request["spec"]["boundObjectRef"];
        let pod = bound["name"].as_str().unwrap_or_default();
        let runs_as = self.objects.get(&place("/pods", pod));
        let runs_as = runs_as.map(|pod| pod["spec"]["serviceAccountName"].clone());
        if runs_as.is_some_and(|account| account != *name) {
            return refuse(
                StatusCode::BAD_REQUEST,
                "BadRequest",
                "cannot bind token to a pod that runs as another account",
            );
        }
        if request["spec"]["expirationSeconds"]
            .as_i64()
            .is_some_and(|seconds| seconds < 600)
        {
            return refuse(
                StatusCode::UNPROCESSABLE_ENTITY,
                "Invalid",
                "spec.expirationSeconds: Invalid value: may not specify a duration less than 10 minutes",
            );
        }
        let is_there = self.objects.contains_key(&place("/serviceaccounts", name))
            && (pod.is_empty() || self.objects.contains_key(&place("/pods", pod)));
        if !is_there {
            return refuse(
                StatusCode::NOT_FOUND,
                "NotFound",
                "account or pod not found",
            );
        }
        let audiences = request["spec"]["audiences"].as_array().cloned();
        let audiences = audiences.unwrap_or_else(|| vec![json!("https://kubernetes.default.svc")]);
        let mut user = json!({"username": format!("system:serviceaccount:{namespace}:{name}"),
            "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{namespace}"), "system:authenticated"]});
        if !pod.is_empty() {
            user["extra"] = json!({"authentication.kubernetes.io/pod-name": [pod]});
        }
        let token = format!("eyJ.{namespace}-{name}.{}", self.tokens.len());
        let status = json!({"authenticated": true, "user": user, "audiences": audiences});
        self.tokens.insert(token.clone(), status);
        request["status"] = json!({"token": token, "expirationTimestamp": "2999-01-01T00:00:00Z"});
        Ok((StatusCode::CREATED, request))
    }

    /// Whether a role of a namespace that is bound to an account lets it do something.
    fn is_let(&self, user: &str, of: &Value) -> bool {
        let namespace = of["namespace"].as_str().unwrap_or_default();
        let in_group = |plural: &str| format!("rbac.authorization.k8s.io/{plural}");
        let bindings = self.objects.iter();
        let bindings = bindings
            .filter(|(place, _)| place.0 == in_group("rolebindings") && place.1 == namespace);
        let has = |list: &Value, wanted: &Value| {
            let mut list = list.as_array().into_iter().flatten();
            list.any(|one| one == wanted || one == "*")
        };
        bindings.into_iter().any(|(_, binding)| {
            let mut subjects = binding["subjects"].as_array().into_iter().flatten();
            let name = |subject: &Value| {
                let text = |field: &str| subject[field].as_str().unwrap_or_default().to_owned();
                format!(
                    "system:serviceaccount:{}:{}",
                    text("namespace"),
                    text("name")
                )
            };
            let role = binding["roleRef"]["name"].as_str().unwrap_or_default();
            let place = (in_group("roles"), namespace.to_owned(), role.to_owned());
            let rules = self.objects.get(&place).map(|role| &role["rules"]);
            let mut rules = rules.and_then(Value::as_array).into_iter().flatten();
            subjects.any(|subject| name(subject) == user)
                && rules.any(|rule| {
                    has(&rule["apiGroups"], &of["group"])
                        && has(&rule["resources"], &of["resource"])
                        && has(&rule["verbs"], &of["verb"])
                })
        })
    }

    /// Whose a token is, and whether they may: kept nowhere.
    fn review(&self, plural: &str, mut review: Value) -> Value {
        let spec = review["spec"].clone();
        review["status"] = match plural {
            "tokenreviews" => {
                let known = spec["token"]
                    .as_str()
                    .and_then(|token| self.tokens.get(token));
                let asked = spec["audiences"].as_array().cloned().unwrap_or_default();
                let is_for = |status: &&Value| {
                    let had = status["audiences"].as_array().unwrap();
                    asked.is_empty() || asked.iter().any(|one| had.contains(one))
                };
                known
                    .filter(is_for)
                    .cloned()
                    .unwrap_or_else(|| json!({"authenticated": false}))
            }
            _ => {
                let of = &spec["resourceAttributes"];
                let key = [&of["verb"], &of["resource"]]
                    .map(|v| v.as_str().unwrap_or_default().to_owned());
                let user = spec["user"].as_str().unwrap_or_default();
                let is_metrics = of["group"] == "external.metrics.k8s.io";
                let is_allowed = match is_metrics {
                    true => self.readers.contains(user) || self.is_let(user, of),
                    false => !self.forbidden.contains(&key.into()),
                };
                json!({"allowed": is_allowed})
            }
        };
        review
    }

    /// Whether there is such a namespace, of those that are made or that every cluster has.
    fn has_namespace(&self, name: &str) -> bool {
        let place = ("/namespaces".to_owned(), String::new(), name.to_owned());
        NAMESPACES.contains(&name) || self.objects.contains_key(&place)
    }

    fn create(&mut self, asked: &Asked, mut object: Value) -> Answer {
        if asked.served.is_namespaced && !self.has_namespace(&asked.namespace) {
            return refuse(
                StatusCode::NOT_FOUND,
                "NotFound",
                format!("namespaces {:?} not found", asked.namespace),
            );
        }
        let name = match (
            &object["metadata"]["name"],
            &object["metadata"]["generateName"],
        ) {
            (Value::String(name), _) => name.clone(),
            (_, Value::String(prefix)) => format!("{prefix}{:05}", self.version),
            _ => {
                return refuse(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "Invalid",
                    "metadata.name: Required value",
                );
            }
        };
        if self.objects.contains_key(&asked.place(&name)) {
            return refuse(
                StatusCode::CONFLICT,
                "AlreadyExists",
                format!("{name:?} already exists"),
            );
        }
        object["metadata"]["name"] = json!(name);
        if asked.served.is_namespaced {
            object["metadata"]["namespace"] = json!(asked.namespace);
        }
        let metadata = &mut object["metadata"];
        if asked.served.kind == "Namespace" {
            metadata["labels"]["kubernetes.io/metadata.name"] = json!(name);
        }
        metadata["uid"] = json!(format!("00000000-0000-0000-0000-{:012}", self.version + 1));
        metadata["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        // The oldest kinds do not count.
        if !asked.served.group.is_empty() {
            metadata["generation"] = json!(1);
        }
        if asked.served.schema.is_some() {
            object.as_object_mut().unwrap().remove("status");
        }
        if asked.served.kind == "CustomResourceDefinition" {
            let established = json!({"type": "Established", "status": "True"});
            object["status"] = json!({"conditions": [established]});
        }
        self.check(asked, &mut object)?;
        Ok((
            StatusCode::CREATED,
            self.keep(asked, &name, object, "ADDED"),
        ))
    }

    fn update(&mut self, asked: &Asked, name: &str, mut object: Value) -> Answer {
        let before = self.get(asked, name)?;
        let said = &object["metadata"]["resourceVersion"];
        if !said.is_null() && *said != before["metadata"]["resourceVersion"] {
            return refuse(
                StatusCode::CONFLICT,
                "Conflict",
                format!("Operation cannot be fulfilled on {name:?}: the object has been modified"),
            );
        }
        let (mut next, given) = (before.clone(), object.clone());
        match asked.is_status {
            true => next["status"] = given["status"].clone(),
            false => {
                next = given;
                match before.get("status") {
                    Some(status) => next["status"] = status.clone(),
                    None => drop(next.as_object_mut().unwrap().remove("status")),
                }
            }
        }
        for field in [
            "uid",
            "creationTimestamp",
            "generation",
            "namespace",
            "name",
        ] {
            if let Some(value) = before["metadata"].get(field) {
                next["metadata"][field] = value.clone();
            }
        }
        object = next;
        self.check(asked, &mut object)?;
        let generation = before["metadata"]["generation"].as_i64();
        if let Some(generation) = generation.filter(|_| object.get("spec") != before.get("spec")) {
            object["metadata"]["generation"] = json!(generation + 1);
        }
        object["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
        if object == before {
            return Ok((StatusCode::OK, before));
        }
        Ok((StatusCode::OK, self.keep(asked, name, object, "MODIFIED")))
    }

    /// A merge patch (RFC 7386), or an apply patch by one manager that owns what it names.
    fn patch(&mut self, asked: &Asked, name: &str, kind: &str, patch: Value) -> Answer {
        let applies = kind.starts_with("application/apply-patch");
        let is_owned = asked
            .query
            .get("fieldManager")
            .is_some_and(|m| !m.is_empty());
        if applies && !is_owned {
            return refuse(
                StatusCode::UNPROCESSABLE_ENTITY,
                "Invalid",
                "fieldManager: Required value: is required for apply patch",
            );
        }
        if let Some(schema) = asked.served.schema.as_ref().filter(|_| applies)
            && let Err(message) = schema::typed(schema, &patch, "")
        {
            return refuse(
                StatusCode::INTERNAL_SERVER_ERROR,
                "InternalError",
                format!("failed to create typed patch object: {message}"),
            );
        }
        let owned = match applies {
            true => self.applied.insert(asked.place(name), patch.clone()),
            false => None,
        };
        if applies && !asked.is_status && !self.objects.contains_key(&asked.place(name)) {
            return self.create(asked, patch);
        }
        if !applies && !kind.starts_with("application/merge-patch") {
            return refuse(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "UnsupportedMediaType",
                kind.to_owned(),
            );
        }
        let mut next = self.get(asked, name)?;
        let said = patch["metadata"]["resourceVersion"].clone();
        if applies {
            // An apply without a version is never stale.
            next["metadata"]
                .as_object_mut()
                .unwrap()
                .remove("resourceVersion");
        }
        leave_out(&mut next, &owned.unwrap_or_default(), &patch);
        merge(&mut next, patch);
        if !said.is_null() {
            next["metadata"]["resourceVersion"] = said;
        }
        self.update(asked, name, next)
    }

    fn delete(&mut self, asked: &Asked, name: &str) -> Answer {
        let object = self.get(asked, name)?;
        if asked.served.kind == "Namespace" {
            self.empty(name);
        }
        self.objects.remove(&asked.place(name));
        self.note(asked, object, "DELETED");
        Ok((
            StatusCode::OK,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
        ))
    }

    /// Removes all that is in a namespace.
    fn empty(&mut self, namespace: &str) {
        let inside = |place: &&Place| place.1 == namespace;
        let all: Vec<Place> = self.objects.keys().filter(inside).cloned().collect();
        for place in all {
            if let Some(object) = self.objects.remove(&place) {
                self.tell(place.0, object, "DELETED");
            }
        }
    }

    /// What the API server checks of an object before it is kept.
    fn check(&self, asked: &Asked, object: &mut Value) -> Result<(), Refused> {
        if let Some(schema) = &asked.served.schema {
            schema::prune(schema, object);
            schema::fill(schema, object);
            if let Err(message) = schema::check(schema, object, "") {
                return refuse(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
            }
        }
        match strict::check(&asked.served.kind, object) {
            Ok(()) => Ok(()),
            Err(message) => refuse(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message),
        }
    }

    fn keep(&mut self, asked: &Asked, name: &str, mut object: Value, kind: &'static str) -> Value {
        object["apiVersion"] = json!(api_version(&asked.served));
        object["kind"] = json!(asked.served.kind);
        let object = self.note(asked, object, kind);
        self.objects.insert(asked.place(name), object.clone());
        object
    }

    fn note(&mut self, asked: &Asked, object: Value, kind: &'static str) -> Value {
        self.tell(asked.resource(), object, kind)
    }

    fn tell(&mut self, resource: String, mut object: Value, kind: &'static str) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.history.push_back(Event {
            version: self.version,
            resource,
            kind,
            object: object.clone(),
        });
        if self.history.len() > HISTORY_MAX {
            let gone = self.history.pop_front();
            self.forgotten = gone.map_or(self.forgotten, |event| event.version);
        }
        object
    }
}

/// Removes what was owned and is not applied any more.
fn leave_out(target: &mut Value, owned: &Value, applied: &Value) {
    let (Value::Object(fields), Value::Object(owned)) = (target, owned) else {
        return;
    };
    for (field, owned) in owned {
        match (fields.get_mut(field), applied.get(field)) {
            (Some(_), None) => drop(fields.remove(field)),
            (Some(target), Some(applied)) => leave_out(target, owned, applied),
            (None, _) => {}
        }
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(fields) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (field, value) in fields {
        match value {
            Value::Null => drop(target.as_object_mut().unwrap().remove(&field)),
            value => merge(&mut target[field.as_str()], value),
        }
    }
}
