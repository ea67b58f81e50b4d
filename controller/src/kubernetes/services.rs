//! Services of the mesh out of a cluster's: host names, the port that is served, what is spoken there (`appProtocol`), and the endpoints
//! that are ready, by node.

use std::collections::BTreeMap;

use isobar_mesh_api::resource::EndpointProtocol;
use serde::Deserialize;
use serde_json::{Value, json};

use super::cluster::{Cluster, Object, ObjectName, Watched};
use super::declare::{Declaration, as_resource, spec_of};
use crate::resource_text::{Kind, decode};

/// The label, of a service or of its namespace, that says whether it is in the mesh: `enabled` or `disabled`.
pub const MESH: &str = "isobar.dev/mesh";
/// Annotation: which port is served, by name or number. By default the first for TCP.
pub const PORT: &str = "isobar.dev/port";
/// Annotation: more host names, separated by commas.
pub const HOSTS: &str = "isobar.dev/hosts";
/// Annotation: requests that one endpoint works on at once.
pub const WORKERS: &str = "isobar.dev/workers";
/// Annotation: what one endpoint serves within its latency target, requests/s.
pub const CAPACITY: &str = "isobar.dev/capacity-rps";

/// Namespaces of Kubernetes itself: not in the mesh unless they say so.
const SYSTEM: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// The label of a slice that names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The part of a `Service` that is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    #[serde(default)]
    name: String,
    port: u32,
    #[serde(default)]
    protocol: String,
    app_protocol: Option<String>,
}

/// The part of an `EndpointSlice` that is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Slice {
    address_type: String,
    #[serde(default)]
    endpoints: Option<Vec<SliceEndpoint>>,
    #[serde(default)]
    ports: Option<Vec<SlicePort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SliceEndpoint {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Conditions,
    node_name: Option<String>,
}

/// Absent means yes for `ready`, no for `terminating`.
#[derive(Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlicePort {
    #[serde(default)]
    name: Option<String>,
    port: Option<u16>,
    app_protocol: Option<String>,
}

pub(super) fn declare(cluster: &Cluster, declaration: &mut Declaration) {
    let slices = slices_by_service(cluster);
    for service in cluster
        .all(Watched::Service)
        .filter(|s| in_mesh(cluster, s))
    {
        let read = Spec::deserialize(spec_of(service));
        let Some(spec) = read.ok().filter(|spec| spec.kind != "ExternalName") else {
            continue;
        };
        let port = match served_port(service, &spec) {
            Ok(Some(port)) => port,
            // A service for UDP alone, or without ports: nothing to serve.
            Ok(None) => continue,
            Err(message) => {
                declaration.complain(Watched::Service, service, "BadAnnotation", message);
                continue;
            }
        };
        let of_service = slices.get(&service.name).map(Vec::as_slice);
        let (endpoints, homeless) = endpoints(service, port, of_service.unwrap_or_default());
        if homeless > 0 {
            let message = format!("{homeless} endpoints are on no node and are left out");
            declaration.complain(Watched::Service, service, "NoNode", message);
        }
        let mut spec = json!({"hosts": hosts(service), "endpoints": endpoints});
        match speaks(port, of_service.unwrap_or_default()) {
            Spoken::Http2 => spec["protocol"] = json!(EndpointProtocol::Http2),
            Spoken::Any => {}
            Spoken::Tls(said) => {
                let message = format!(
                    "appProtocol is {said}, and proxies speak to endpoints without TLS; let clients' TLS through with a listener of protocol tls-passthrough"
                );
                declaration.complain(Watched::Service, service, "UnsupportedProtocol", message);
            }
        }
        match decode(as_resource(service, "Service", spec)) {
            Ok(declared) => {
                declaration.resources.insert(declared.key.clone(), declared);
            }
            Err(problem) => {
                let refusal = declaration.hold(service, Kind::Service, &problem);
                declaration.complain(Watched::Service, service, refusal.reason, refusal.message);
            }
        }
    }
}

/// What `appProtocol` says of a port.
enum Spoken<'a> {
    /// HTTP/2 without TLS, by prior knowledge.
    Http2,
    /// What proxies speak anyway: HTTP/1.1, also where it becomes a WebSocket, and bytes.
    Any,
    /// TLS, which proxies do not speak to endpoints.
    Tls(&'a str),
}

/// The port's own word, else the first of its slices.
fn speaks<'a>(port: &'a Port, slices: &'a [Slice]) -> Spoken<'a> {
    let ports = slices.iter().flat_map(|slice| slice.ports.iter().flatten());
    let mut of_port = ports.filter(|p| p.name.as_deref().unwrap_or_default() == port.name);
    let of_slices = || of_port.find_map(|p| p.app_protocol.as_deref());
    match port.app_protocol.as_deref().or_else(of_slices) {
        Some("kubernetes.io/h2c" | "h2c" | "http2" | "grpc") => Spoken::Http2,
        Some(said @ ("https" | "tls" | "grpcs" | "kubernetes.io/wss")) => Spoken::Tls(said),
        _ => Spoken::Any,
    }
}

/// The service's own label, else its namespace's, else all but those of Kubernetes itself.
fn in_mesh(cluster: &Cluster, service: &Object) -> bool {
    let namespace = ObjectName {
        namespace: String::new(),
        name: service.name.namespace.clone(),
    };
    let of_namespace = cluster.get(Watched::Namespace, &namespace);
    let said = service.labels.get(MESH);
    match said.or_else(|| of_namespace?.labels.get(MESH)) {
        Some(said) => said != "disabled",
        // The API server's own service has no endpoints on nodes of the mesh.
        None => {
            !SYSTEM.contains(&service.name.namespace.as_str())
                && (service.name.namespace != "default" || service.name.name != "kubernetes")
        }
    }
}

fn slices_by_service(cluster: &Cluster) -> BTreeMap<ObjectName, Vec<Slice>> {
    let mut by_service: BTreeMap<ObjectName, Vec<Slice>> = BTreeMap::new();
    for slice in cluster.all(Watched::EndpointSlice) {
        let read = Slice::deserialize(&slice.body);
        if let (Some(service), Ok(read)) = (slice.labels.get(SERVICE_NAME), read) {
            let name = ObjectName {
                namespace: slice.name.namespace.clone(),
                name: service.clone(),
            };
            by_service.entry(name).or_default().push(read);
        }
    }
    by_service
}

fn served_port<'a>(service: &Object, spec: &'a Spec) -> Result<Option<&'a Port>, String> {
    let Some(wanted) = service.annotations.get(PORT) else {
        let tcp = |port: &&Port| matches!(port.protocol.as_str(), "" | "TCP");
        return Ok(spec.ports.iter().find(tcp));
    };
    let number = wanted.parse::<u32>().ok();
    let is = |port: &&Port| port.name == *wanted || Some(port.port) == number;
    match spec.ports.iter().find(is) {
        Some(port) => Ok(Some(port)),
        None => Err(format!("{PORT} is {wanted:?}, and it has no such port")),
    }
}

/// The port of a service that its endpoints in the mesh serve, as its clients name it.
pub(super) fn port_of(service: &Object) -> Option<u32> {
    let spec = Spec::deserialize(spec_of(service)).ok()?;
    let port = served_port(service, &spec).ok()??;
    Some(port.port)
}

/// The names by which clients in the cluster call it, and those it is annotated with.
pub(super) fn hosts(service: &Object) -> Vec<String> {
    let ObjectName { namespace, name } = &service.name;
    let mut hosts = vec![
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}.svc.cluster.local"),
    ];
    let more = service.annotations.get(HOSTS).into_iter();
    let more = more.flat_map(|list| list.split(',')).map(str::trim);
    for host in more.filter(|host| !host.is_empty()) {
        if !hosts.iter().any(|had| had == host) {
            hosts.push(host.to_owned());
        }
    }
    hosts
}

/// The ready endpoints of one family of addresses, and how many are on no node.
fn endpoints(service: &Object, port: &Port, slices: &[Slice]) -> (Vec<Value>, usize) {
    let four = slices.iter().any(|slice| {
        slice.address_type == "IPv4" && slice.endpoints.as_ref().is_some_and(|e| !e.is_empty())
    });
    // A pod with addresses of both families is one endpoint.
    let family = if four { "IPv4" } else { "IPv6" };
    let (mut found, mut homeless) = (BTreeMap::new(), 0);
    for slice in slices.iter().filter(|slice| slice.address_type == family) {
        let ports = slice.ports.iter().flatten();
        let mut ports = ports.filter(|p| p.name.as_deref().unwrap_or_default() == port.name);
        let Some(number) = ports.find_map(|p| p.port) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = &endpoint.conditions;
            if conditions.ready == Some(false) || conditions.terminating == Some(true) {
                continue;
            }
            let Some(address) = endpoint.addresses.first() else {
                continue;
            };
            let Some(node) = &endpoint.node_name else {
                homeless += 1;
                continue;
            };
            let address = match four {
                true => format!("{address}:{number}"),
                false => format!("[{address}]:{number}"),
            };
            // The same endpoint may stand in two slices while it moves from one to the other.
            found.insert((node, address), ());
        }
    }
    let one = |(node, address): (&String, String)| {
        let mut endpoint = json!({"node": node, "address": address});
        let number = |name: &str| service.annotations.get(name)?.trim().parse::<f64>().ok();
        if let Some(workers) = number(WORKERS) {
            // A cast saturates; what is out of range is refused with its name.
            endpoint["workers"] = json!(workers as u32);
        }
        if let Some(capacity) = number(CAPACITY) {
            endpoint["capacity_rps"] = json!(capacity);
        }
        endpoint
    };
    (found.into_keys().map(one).collect(), homeless)
}
