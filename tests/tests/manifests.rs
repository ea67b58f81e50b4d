//! The manifests: custom resource definitions are those of the code's types, and everything renders.
//!
//! `ISOBAR_UPDATE_MANIFESTS=1` writes the definitions anew.

#![allow(clippy::unwrap_used)] // A test that meets an error has failed; here is where.

use std::path::{Path, PathBuf};
use std::process::Command;

use isobar_mesh_api::resource::{AccessPolicySpec, NodeSpec, TrafficPolicySpec, WeightPolicySpec};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_owned()
}

/// A spec's schema as Kubernetes wants it: structural, nothing by reference.
fn spec<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    let schema = settings.into_generator().into_root_schema_for::<T>();
    structural(&serde_json::to_value(schema).unwrap())
}

/// Only what a structural schema may have; a null that may stand for absence is no type of its own.
fn structural(schema: &Value) -> Value {
    let fields = match schema {
        Value::Bool(_) => return json!({"x-kubernetes-preserve-unknown-fields": true}),
        fields => fields.as_object().unwrap(),
    };
    if let Some(choices) = fields.get("anyOf").or(fields.get("oneOf")) {
        return choice(fields, choices.as_array().unwrap());
    }
    let mut out = Map::new();
    for (name, value) in fields {
        match name.as_str() {
            "description" | "enum" | "required" | "minimum" | "maximum" | "minItems"
            | "maxItems" | "pattern" => {
                out.insert(name.clone(), value.clone());
            }
            "type" => {
                let one = match value {
                    Value::Array(types) => types.iter().find(|t| **t != "null").unwrap(),
                    one => one,
                };
                out.insert("type".to_owned(), one.clone());
            }
            "properties" => {
                let properties = value.as_object().unwrap().iter();
                let properties: Map<String, Value> = properties
                    .map(|(name, schema)| (name.clone(), structural(schema)))
                    .collect();
                out.insert(name.clone(), Value::Object(properties));
            }
            "items" => drop(out.insert(name.clone(), structural(value))),
            // What is not named is pruned; the controller refuses it by name if it gets through.
            "additionalProperties" if value.is_object() => {
                drop(out.insert(name.clone(), structural(value)))
            }
            "const" => drop(out.insert("enum".to_owned(), json!([value]))),
            _ => {}
        }
    }
    Value::Object(out)
}

/// An optional value, or an enum whose variants have descriptions.
fn choice(fields: &Map<String, Value>, choices: &[Value]) -> Value {
    let some: Vec<&Value> = choices.iter().filter(|one| one["type"] != "null").collect();
    let mut out = match some.as_slice() {
        [one] => structural(one),
        many => {
            let words = many
                .iter()
                .flat_map(|one| match (&one["const"], &one["enum"]) {
                    (Value::Null, Value::Array(words)) => words.clone(),
                    (Value::Null, _) => panic!("not structural: {one}"),
                    (word, _) => vec![word.clone()],
                });
            json!({"type": "string", "enum": words.collect::<Vec<_>>()})
        }
    };
    if let Some(description) = fields.get("description") {
        out["description"] = description.clone();
    }
    out
}

/// A custom resource definition.
fn definition(kind: &str, plural: &str, short: &str, columns: Value, spec: Value) -> Value {
    let condition = json!({"type": "object", "required": ["type", "status", "lastTransitionTime", "reason", "message"], "properties": {
        "type": {"type": "string"}, "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "observedGeneration": {"type": "integer"}, "lastTransitionTime": {"type": "string", "format": "date-time"},
        "reason": {"type": "string"}, "message": {"type": "string"}}});
    let status = json!({"type": "object", "properties": {"observedGeneration": {"type": "integer"},
        "conditions": {"type": "array", "items": condition, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}}});
    let mut printed = columns.as_array().unwrap().clone();
    printed.push(json!({"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status"}));
    printed.push(json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}));
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.isobar.dev")},
        "spec": {
            "group": "isobar.dev",
            "scope": "Cluster",
            "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase(), "shortNames": [short], "categories": ["isobar"]},
            "versions": [{
                "name": "v1alpha1",
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": printed,
                "schema": {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {
                    "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}, "spec": spec, "status": status}}},
            }],
        },
    })
}

fn column(name: &str, kind: &str, path: &str) -> Value {
    json!({"name": name, "type": kind, "jsonPath": path})
}

fn definitions() -> String {
    let all = [
        definition(
            "AccessPolicy",
            "accesspolicies",
            "ap",
            json!([
                column("Services", "string", ".spec.services"),
                column("Default", "string", ".spec.default"),
            ]),
            spec::<AccessPolicySpec>(),
        ),
        definition(
            "MeshNode",
            "meshnodes",
            "mn",
            json!([
                column("Latitude", "number", ".spec.location.lat_deg"),
                column("Longitude", "number", ".spec.location.lon_deg"),
                column("Site", "string", ".spec.site"),
            ]),
            spec::<NodeSpec>(),
        ),
        definition(
            "TrafficPolicy",
            "trafficpolicies",
            "tp",
            json!([column("Services", "string", ".spec.services")]),
            spec::<TrafficPolicySpec>(),
        ),
        definition(
            "WeightPolicy",
            "weightpolicies",
            "wp",
            json!([
                column("Algorithm", "string", ".spec.algorithm"),
                column("Services", "string", ".spec.services"),
            ]),
            spec::<WeightPolicySpec>(),
        ),
    ];
    let texts = all.iter().map(|one| serde_saphyr::to_string(one).unwrap());
    texts
        .map(|text| text.trim_start_matches("---\n").to_owned())
        .collect::<Vec<_>>()
        .join("---\n")
}

#[test]
fn the_definitions_are_those_of_the_code() {
    let file = root().join("k3s/base/crds.yaml");
    let wanted = format!(
        "# Made by ISOBAR_UPDATE_MANIFESTS=1 cargo test -p isobar-tests --test manifests\n{}",
        definitions()
    );
    if std::env::var_os("ISOBAR_UPDATE_MANIFESTS").is_some() {
        std::fs::write(&file, &wanted).unwrap();
    }
    let is = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        is == wanted,
        "{} is not up to date; its first line says how",
        file.display()
    );
}

/// A program that a test needs; what is missing is said, and is a failure under `ISOBAR_TEST_REQUIRE=all`.
fn has(program: &str, version: &[&str]) -> bool {
    let runs = Command::new(program).args(version).output().is_ok();
    assert!(
        runs || std::env::var("ISOBAR_TEST_REQUIRE").as_deref() != Ok("all"),
        "ISOBAR_TEST_REQUIRE=all, and there is no {program}"
    );
    if !runs {
        println!("skipped: there is no {program}");
    }
    runs
}

/// What `kubectl kustomize` makes of a directory.
fn rendered(directory: &str) -> Vec<Value> {
    let made = Command::new("kubectl")
        .arg("kustomize")
        .arg(root().join(directory))
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let text = String::from_utf8(made.stdout).unwrap();
    text.split("\n---\n")
        .map(|document| serde_saphyr::from_str(&format!("{document}\n")).unwrap())
        .collect()
}

/// Least privileges, and what belongs together by name.
fn check(objects: &[Value]) {
    for object in objects {
        let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
        let pod = &object["spec"]["template"]["spec"];
        for container in pod["containers"].as_array().into_iter().flatten() {
            let security = &container["securityContext"];
            assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{name}");
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
            assert_eq!(
                pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
                "{name}"
            );
            assert!(
                container["resources"]["requests"]["memory"].is_string(),
                "{name}"
            );
            assert!(
                container["resources"]["limits"]["memory"].is_string(),
                "{name}"
            );
            let image = container["image"].as_str().unwrap();
            assert!(
                image.contains(':') && !image.ends_with(":latest"),
                "{name}: {image}"
            );
            let volumes: Vec<&Value> = pod["volumes"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|v| &v["name"])
                .collect();
            let claims = object["spec"]["volumeClaimTemplates"]
                .as_array()
                .into_iter()
                .flatten();
            let claims: Vec<&Value> = claims.map(|claim| &claim["metadata"]["name"]).collect();
            for mount in container["volumeMounts"].as_array().unwrap() {
                assert!(
                    volumes.contains(&&mount["name"]) || claims.contains(&&mount["name"]),
                    "{name}: {mount}"
                );
            }
        }
        if !pod.is_null() {
            let labels = &object["spec"]["template"]["metadata"]["labels"];
            for (label, value) in object["spec"]["selector"]["matchLabels"]
                .as_object()
                .unwrap()
            {
                assert_eq!(&labels[label], value, "{name}");
            }
            let account = &pod["serviceAccountName"];
            let is_there =
                |o: &Value| o["kind"] == "ServiceAccount" && o["metadata"]["name"] == *account;
            assert!(objects.iter().any(is_there), "{name}: no {account}");
        }
    }
}

#[test]
fn base_and_overlays_render_with_least_privileges() {
    if !has("kubectl", &["version", "--client"]) {
        return;
    }
    for directory in [
        "k3s/base",
        "k3s/overlays/single-node",
        "k3s/overlays/ha",
        "k3s/overlays/ha-etcd",
        "k3s/overlays/sidecar",
    ] {
        let objects = rendered(directory);
        check(&objects);
        let kinds: Vec<&str> = objects
            .iter()
            .map(|o| o["kind"].as_str().unwrap())
            .collect();
        for kind in [
            "DaemonSet",
            "StatefulSet",
            "NetworkPolicy",
            "PodDisruptionBudget",
            "ClusterRole",
            "CustomResourceDefinition",
            "MutatingWebhookConfiguration",
        ] {
            assert!(kinds.contains(&kind), "{directory} has no {kind}");
        }
    }
}

/// Whether a selector of labels takes these.
fn selects(selector: &Value, labels: &Value) -> bool {
    let mut terms = selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten();
    terms.all(|term| {
        let label = &labels[term["key"].as_str().unwrap()];
        let is_one = term["values"].as_array().unwrap().contains(label);
        match term["operator"].as_str().unwrap() {
            "In" => is_one,
            "NotIn" => !is_one,
            other => panic!("{other}"),
        }
    })
}

#[test]
fn pods_are_injected_where_they_or_their_namespaces_say_so() {
    if !has("kubectl", &["version", "--client"]) {
        return;
    }
    let asked = |directory: &str, namespace: Value, pod: Value| {
        let objects = rendered(directory);
        let of = |kind: &str| objects.iter().find(|o| o["kind"] == kind).unwrap().clone();
        let hook = of("MutatingWebhookConfiguration");
        let hooks = hook["webhooks"].as_array().unwrap();
        let asked = hooks.iter().filter(|hook| {
            assert_eq!(hook["failurePolicy"], "Ignore");
            selects(&hook["namespaceSelector"], &namespace)
                && selects(&hook["objectSelector"], &pod)
        });
        asked.count()
    };
    let name = |name: &str| json!({"kubernetes.io/metadata.name": name});
    let with =
        |said: &str| json!({"kubernetes.io/metadata.name": "shop", "isobar.dev/inject": said});
    let pod = |said: &str| json!({"isobar.dev/inject": said});
    let cases = [
        (name("shop"), json!({}), 0, 1),
        (name("shop"), pod("enabled"), 1, 1),
        (name("shop"), pod("disabled"), 0, 0),
        (with("enabled"), json!({}), 1, 1),
        (with("enabled"), pod("enabled"), 1, 1),
        (with("enabled"), pod("disabled"), 0, 0),
        (with("disabled"), json!({}), 0, 0),
        (with("disabled"), pod("enabled"), 1, 1),
        (name("kube-system"), pod("enabled"), 0, 0),
        (name("isobar-system"), pod("enabled"), 0, 0),
    ];
    for (namespace, labels, base, sidecar) in cases {
        let is = |directory| asked(directory, namespace.clone(), labels.clone());
        let seen = (is("k3s/base"), is("k3s/overlays/sidecar"));
        assert_eq!(seen, (base, sidecar), "{namespace} {labels}");
    }
}

fn found<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is = |o: &&Value| o["kind"] == kind && o["metadata"]["name"] == name;
    objects.iter().find(is).unwrap()
}

fn controller_config(objects: &[Value]) -> &str {
    let map = found(objects, "ConfigMap", "isobar-controller");
    map["data"]["controller.toml"].as_str().unwrap()
}

#[test]
fn who_contends_for_the_lease_may_and_shares_its_store() {
    if !has("kubectl", &["version", "--client"]) {
        return;
    }
    let objects = rendered("k3s/overlays/ha");
    let find = |kind: &str, name: &str| found(&objects, kind, name);
    let text = controller_config(&objects);
    let config: isobar_controller::config::Config = toml::from_str(text).unwrap();
    config.check().unwrap();
    let cluster = config.kubernetes.unwrap();
    assert!(cluster.lease && cluster.probe_listen.is_some() && cluster.listen.is_some());
    let pod = &find("StatefulSet", "isobar-controller")["spec"]["template"]["spec"];
    let claim = find("PersistentVolumeClaim", "isobar-controller");
    assert_eq!(claim["spec"]["accessModes"], json!(["ReadWriteMany"]));
    let volumes = pod["volumes"].as_array().unwrap();
    assert!(
        volumes
            .iter()
            .any(|v| v["persistentVolumeClaim"]["claimName"] == "isobar-controller")
    );
    assert_eq!(
        pod["containers"][0]["readinessProbe"]["httpGet"]["path"],
        "/readyz"
    );
    let rules = find("Role", "isobar-controller-lease")["rules"].to_string();
    assert!(
        rules.contains("create") && rules.contains("update"),
        "{rules}"
    );
}

#[test]
fn who_shares_an_etcd_has_a_name_that_others_find() {
    if !has("kubectl", &["version", "--client"]) {
        return;
    }
    let objects = rendered("k3s/overlays/ha-etcd");
    let find = |kind: &str, name: &str| found(&objects, kind, name);
    let text = controller_config(&objects);
    let read = |text: &str| {
        let text = text.replace("${POD}", "isobar-controller-1");
        let config: isobar_controller::config::Config = toml::from_str(&text).unwrap();
        config
    };
    let config = read(text);
    config.check().unwrap();
    let set = find("StatefulSet", "isobar-controller");
    let (spec, pod) = (&set["spec"], &set["spec"]["template"]["spec"]);
    // A pod's own name is one of the service that the set names, and the certificate has it.
    let peers = find("Service", spec["serviceName"].as_str().unwrap());
    let host = format!(
        "isobar-controller-1.{}.isobar-system.svc",
        peers["metadata"]["name"].as_str().unwrap()
    );
    assert_eq!(peers["spec"]["publishNotReadyAddresses"], true);
    assert_eq!(config.stream_advertise, Some(format!("{host}:7401")));
    assert!(config.stream_names.contains(&host));
    assert_eq!(
        (&spec["replicas"], config.shared_name()),
        (&json!(3), Some("isobar-controller-1".to_owned()))
    );
    for variable in ["POD", "ISOBAR_AUTHORITY_KEY", "ISOBAR_PROXY_IMAGE"] {
        let mut all = pod["containers"][0]["env"].as_array().unwrap().iter();
        assert!(all.any(|one| one["name"] == variable), "{variable}");
    }
    let egress = find("NetworkPolicy", "isobar-controller")["spec"]["egress"].to_string();
    assert!(
        egress.contains("2379") && egress.contains("7401"),
        "{egress}"
    );
    assert_eq!(
        find("PodDisruptionBudget", "isobar-controller")["spec"],
        json!({"maxUnavailable": 1, "selector": {"matchLabels": {"app.kubernetes.io/name": "isobar-controller"}}})
    );
    // A Lease beside etcd is refused by name.
    let both = read(&format!("{text}\nlease = true\n"));
    let refused = both.check().unwrap_err().to_string();
    assert!(refused.contains("kubernetes.lease"), "{refused}");
}

#[test]
fn examples_name_what_is_there() {
    let documents = |file: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(root().join("k3s/examples").join(file)).unwrap();
        let documents = text.split("\n---\n");
        documents
            .map(|d| serde_saphyr::from_str(&format!("{d}\n")).unwrap())
            .collect()
    };
    use isobar_controller::kubernetes::load::Metric;
    let names = Metric::ALL.map(Metric::as_str);
    for file in ["application-hpa.yaml", "control-plane-hpa.yaml"] {
        let metric = &documents(file)[0]["spec"]["metrics"][0]["external"]["metric"]["name"];
        assert!(
            names.contains(&metric.as_str().unwrap()),
            "{file}: {metric}"
        );
    }
    let keda = documents("keda.yaml");
    let trigger = &keda.last().unwrap()["spec"]["triggers"][0]["metadata"];
    assert!(
        trigger["url"]
            .as_str()
            .unwrap()
            .ends_with(".svc/load/shop/cart")
    );
    let load = serde_json::to_value(isobar_controller::kubernetes::load::Load::default()).unwrap();
    assert!(load[trigger["valueLocation"].as_str().unwrap()].is_number());
    let rules = keda.iter().find(|o| o["kind"] == "Role").unwrap()["rules"].to_string();
    assert!(rules.contains(Metric::Demand.as_str()), "{rules}");
    // By what the controller knows a load balancer before the proxies.
    let balancer = &documents("load-balancer.yaml")[0];
    let text = std::fs::read_to_string(root().join("k3s/base/proxy.yaml")).unwrap();
    let mut pods = text
        .split("\n---\n")
        .map(|d| -> Value { serde_saphyr::from_str(&format!("{d}\n")).unwrap() });
    let pods = pods.find(|d| d["kind"] == "DaemonSet").unwrap();
    let labels = &pods["spec"]["template"]["metadata"]["labels"];
    let selector = &balancer["spec"]["selector"];
    assert!(
        selector.is_object() && selector == labels,
        "{selector} {labels}"
    );
    let (own, of_pods) = (&balancer["metadata"], &pods["metadata"]);
    assert_eq!(own["namespace"], of_pods["namespace"]);
    let gateway = documents("gateway.yaml");
    assert_eq!(
        gateway[0]["spec"]["controllerName"],
        "isobar.dev/controller"
    );
    assert_eq!(
        gateway[1]["spec"]["listeners"][0]["port"],
        isobar_controller::kubernetes::INGRESS_PORT
    );
}

/// What `isobar inject` makes of a text: whether it is content, what it prints and what it says.
fn inject(text: &str, arguments: &[&str]) -> (bool, String, String) {
    use std::io::Write;
    use std::process::Stdio;
    let mut child = Command::new(env!("CARGO_BIN_EXE_isobar-e2e"))
        .args(["inject", "-"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let ended = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        ended.status.success(),
        text(ended.stdout),
        text(ended.stderr),
    )
}

#[test]
fn manifests_are_injected_and_given_back() {
    let text = "# The shop.\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: cart, namespace: shop}\nspec:\n  selector: {matchLabels: {app: cart}}\n  \
        template:\n    metadata: {labels: {app: cart}}\n    spec:\n      containers: [{name: cart, image: 'cart:1'}]\n--- # and who finds it\n\
        apiVersion: v1\nkind: Service\nmetadata: {name: cart}\nspec: {ports: [{port: 80}]}\n";
    let (is_well, once, said) = inject(text, &["--image", "p:1"]);
    assert!(is_well && said.is_empty(), "{said}");
    assert!(
        once.contains("restartPolicy: Always")
            && once.contains("NET_ADMIN")
            && once.contains("kind: Service"),
        "{once}"
    );
    let (is_well, twice, _) = inject(&once, &["--image", "p:1"]);
    assert!(is_well);
    assert_eq!(once, twice);
    let (is_well, back, _) = inject(&once, &["--uninject"]);
    let read = |text: &str| -> Vec<Value> {
        let documents = text.trim_start_matches("---\n").split("\n---\n");
        documents
            .map(|d| serde_saphyr::from_str(&format!("{d}\n")).unwrap())
            .collect()
    };
    assert!(is_well);
    let (_, plain, _) = inject(text, &["--uninject"]);
    assert_eq!(read(&back), read(&plain));
    let (is_well, _, said) = inject(
        "kind: Pod\nmetadata: {name: a}\nspec: {hostNetwork: true, containers: []}\n",
        &[],
    );
    assert!(is_well && said.contains("Pod a is left as it is"), "{said}");
    for (text, named) in [
        ("", "no document"),
        ("- 1\n", "line 1"),
        ("kind: Pod\n---\nkind: [\n", "line 3"),
        ("kind: Deployment\nmetadata: {name: a}\n", "Deployment a"),
    ] {
        let (is_well, printed, said) = inject(text, &[]);
        assert!(
            !is_well && printed.is_empty() && said.contains(named),
            "{text:?}: {said}"
        );
    }
}

/// What `isobar` prints.
fn printed(arguments: &[&str]) -> Vec<Value> {
    let program = env!("CARGO_BIN_EXE_isobar-e2e");
    let made = Command::new(program).args(arguments).output().unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let text = String::from_utf8(made.stdout).unwrap();
    let documents = text.trim_start_matches("---\n").split("\n---\n");
    documents
        .map(|document| serde_saphyr::from_str(&format!("{document}\n")).unwrap())
        .collect()
}

#[test]
fn install_prints_what_kustomize_renders() {
    if !has("kubectl", &["version", "--client"]) {
        return;
    }
    let sorted = |mut objects: Vec<Value>| {
        objects.sort_by_key(|o| {
            format!(
                "{} {} {}",
                o["kind"], o["metadata"]["name"], o["metadata"]["namespace"]
            )
        });
        objects
    };
    for (arguments, directory) in [
        (&["install"][..], "k3s/base"),
        (
            &["install", "--single-node"][..],
            "k3s/overlays/single-node",
        ),
    ] {
        assert_eq!(
            sorted(printed(arguments)),
            sorted(rendered(directory)),
            "{directory}"
        );
    }
    let metrics = |objects: &[Value]| objects.iter().any(|o| o["kind"] == "APIService");
    for command in ["install", "uninstall"] {
        assert!(metrics(&printed(&[command, "--external-metrics"])));
        assert!(!metrics(&printed(&[command])));
    }
    let all = printed(&["uninstall", "--with-policies"]);
    let without = printed(&["uninstall"]);
    assert_eq!(all.len(), printed(&["install"]).len());
    assert_eq!(all.len(), without.len() + 4);
    assert_eq!(without.last().unwrap()["kind"], "Namespace");
}

/// Helm: the program that `ISOBAR_HELM` names, or the one on the path.
fn helm() -> String {
    std::env::var("ISOBAR_HELM").unwrap_or_else(|_| "helm".to_owned())
}

fn helm_renders(more: &[&str]) -> Result<Vec<Value>, String> {
    let chart = root().join("k3s/chart");
    let made = Command::new(helm())
        .args([
            "template",
            "isobar",
            "--include-crds",
            "--namespace",
            "isobar-system",
        ])
        .args(more)
        .arg(chart)
        .output()
        .unwrap();
    if !made.status.success() {
        return Err(String::from_utf8_lossy(&made.stderr).into_owned());
    }
    let text = String::from_utf8(made.stdout).unwrap();
    let documents = text.split("\n---\n").filter(|d| d.contains("kind:"));
    Ok(documents
        .map(|d| serde_saphyr::from_str(&format!("{d}\n")).unwrap())
        .collect())
}

#[test]
fn the_chart_renders_what_the_base_has_with_its_values_in() {
    if !has(&helm(), &["version"]) || !has("kubectl", &["version", "--client"]) {
        return;
    }
    let name = |o: &Value| format!("{} {}", o["kind"], o["metadata"]["name"]);
    let objects = helm_renders(&[]).unwrap();
    check(&objects);
    let mut base = rendered("k3s/base");
    // Helm makes the namespace itself, with --create-namespace.
    base.retain(|object| object["kind"] != "Namespace");
    assert_eq!(objects.len(), base.len());
    for object in &base {
        let same = objects.iter().find(|o| name(o) == name(object)).unwrap();
        assert_eq!(same, object);
    }
    let values = [
        "--set",
        "images.registry=registry.example/isobar,controller.storage.className=local-path",
        "--set-string",
        "sites=site\\,lat",
    ];
    let objects = helm_renders(&values).unwrap();
    let find = |kind: &str, name: &str| found(&objects, kind, name);
    let pod = &find("DaemonSet", "isobar-proxy")["spec"]["template"]["spec"];
    assert_eq!(
        pod["containers"][0]["image"],
        "registry.example/isobar/isobar-proxy:0.1.0"
    );
    let claim =
        &find("StatefulSet", "isobar-controller")["spec"]["volumeClaimTemplates"][0]["spec"];
    assert_eq!(claim["storageClassName"], "local-path");
    assert_eq!(
        find("ConfigMap", "isobar-sites")["data"]["sites.csv"],
        "site,lat"
    );
    let pod = &find("StatefulSet", "isobar-controller")["spec"]["template"]["spec"];
    assert_eq!(
        pod["containers"][0]["env"][0]["value"],
        "registry.example/isobar/isobar-proxy:0.1.0"
    );
    let objects = helm_renders(&["--set", "externalMetrics=true"]).unwrap();
    assert!(objects.iter().any(|o| o["kind"] == "APIService"));
    let refused = helm_renders(&["--set", "proxy.colour=red"]).unwrap_err();
    assert!(refused.contains("colour"), "{refused}");
}

#[test]
fn the_chart_has_several_controllers_share_an_etcd_as_the_overlay_does() {
    if !has(&helm(), &["version"]) || !has("kubectl", &["version", "--client"]) {
        return;
    }
    let values = |more: &str| {
        let endpoints = "store.etcd.endpoints={https://e1.example:2379,https://e2.example:2380}";
        helm_renders(&["--set", &format!("{endpoints},{more}")])
    };
    let secrets =
        "store.etcd.caSecret=roots,store.etcd.clientSecret=own,store.etcd.userSecret=user";
    let objects = values(secrets).unwrap();
    check(&objects);
    let overlay = rendered("k3s/overlays/ha-etcd");
    let read = |objects: &[Value]| {
        let text = controller_config(objects).replace("${POD}", "isobar-controller-1");
        let text = text.replace("${ETCD_USER}", "isobar");
        let config: isobar_controller::config::Config = toml::from_str(&text).unwrap();
        config.check().unwrap();
        config
    };
    let (chart, same) = (read(&objects), read(&overlay));
    let path = |name: &str| Some(format!("/etc/isobar-etcd/{name}").into());
    assert_eq!(chart.store.ca_file, path("ca/ca.crt"));
    assert_eq!(chart.store.cert_file, path("client/tls.crt"));
    assert_eq!(chart.store.key_file, path("client/tls.key"));
    assert_eq!(chart.store.password_file, path("user/password"));
    assert_eq!(chart.store.user.as_deref(), Some("isobar"));
    assert_eq!(chart.store.endpoints.len(), 2);
    assert_eq!(chart.stream_advertise, same.stream_advertise);
    let names = |config: &isobar_controller::config::Config| {
        let mut names = config.stream_names.clone();
        names.sort();
        names
    };
    assert_eq!(names(&chart), names(&same));
    assert_eq!(chart.shared_name(), same.shared_name());
    for (kind, name) in [
        ("Service", "isobar-controller-peers"),
        ("PodDisruptionBudget", "isobar-controller"),
    ] {
        assert_eq!(found(&objects, kind, name), found(&overlay, kind, name));
    }
    let set =
        |objects: &[Value]| found(objects, "StatefulSet", "isobar-controller")["spec"].clone();
    let (chart, same) = (set(&objects), set(&overlay));
    for field in ["replicas", "serviceName", "podManagementPolicy"] {
        assert_eq!(chart[field], same[field], "{field}");
    }
    let pods = [&chart, &same].map(|spec| &spec["template"]["spec"]);
    assert_eq!(pods[0]["affinity"], pods[1]["affinity"]);
    // Every file of the configuration is a key of a Secret, mounted where it is looked for.
    let volumes = pods[0]["volumes"].as_array().unwrap();
    for (name, secret, keys) in [
        ("ca", "roots", &["ca.crt"][..]),
        ("client", "own", &["tls.crt", "tls.key"]),
        ("user", "user", &["password"]),
    ] {
        let is_it = |v: &&Value| v["name"] == format!("etcd-{name}");
        let of = &volumes.iter().find(is_it).unwrap()["secret"];
        assert_eq!(
            (&of["secretName"], &of["defaultMode"]),
            (&json!(secret), &json!(0o440))
        );
        let items = of["items"].as_array().unwrap().iter();
        assert_eq!(
            items
                .map(|i| i["path"].as_str().unwrap())
                .collect::<Vec<_>>(),
            keys
        );
        let mounts = pods[0]["containers"][0]["volumeMounts"].as_array().unwrap();
        let path = format!("/etc/isobar-etcd/{name}");
        assert!(
            mounts.iter().any(|m| is_it(&m) && m["mountPath"] == path),
            "{name}"
        );
    }
    let variables = pods[0]["containers"][0]["env"].to_string();
    for variable in [
        "POD",
        "ISOBAR_AUTHORITY_KEY",
        "ISOBAR_PROXY_IMAGE",
        "ETCD_USER",
    ] {
        assert!(variables.contains(&format!("\"{variable}\"")), "{variable}");
    }
    let egress =
        found(&objects, "NetworkPolicy", "isobar-controller")["spec"]["egress"].to_string();
    for port in ["2379", "2380", "7401"] {
        assert!(egress.contains(port), "{egress}");
    }
    let refused = values("store.etcd.userSecret=user").unwrap_err();
    assert!(refused.contains("store.etcd.caSecret"), "{refused}");
    let refused = values(&format!("{secrets},store.etcd.colour=red")).unwrap_err();
    assert!(refused.contains("colour"), "{refused}");
    let refused = helm_renders(&["--set", "store.etcd.endpoints={e1.example}"]).unwrap_err();
    assert!(refused.contains("endpoints"), "{refused}");
}

#[test]
fn a_table_of_sites_is_read_before_it_is_installed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sites.csv");
    std::fs::write(&file, "site,lat,lon\nedge-1,45.4,9.1\n").unwrap();
    let objects = printed(&["install", "--sites", file.to_str().unwrap()]);
    let map = objects
        .iter()
        .find(|o| o["metadata"]["name"] == "isobar-sites")
        .unwrap();
    assert!(
        map["data"]["sites.csv"]
            .as_str()
            .unwrap()
            .contains("edge-1,45.4")
    );
    std::fs::write(&file, "site,lat,lon\nedge-1,145.4,9.1\n").unwrap();
    let program = env!("CARGO_BIN_EXE_isobar-e2e");
    let refused = Command::new(program)
        .args(["install", "--sites"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("sites.csv, line 2"));
}

#[test]
fn the_programs_read_the_configurations_of_the_manifests() {
    let config = |file: &str, key: &str| -> String {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let first: Value = serde_saphyr::from_str(text.split("\n---\n").next().unwrap()).unwrap();
        first["data"][key].as_str().unwrap().to_owned()
    };
    let text = config("k3s/base/controller.yaml", "controller.toml");
    let read: isobar_controller::config::Config = toml::from_str(&text).unwrap();
    read.check().unwrap();
    assert!(
        read.kubernetes
            .is_some_and(|kubernetes| kubernetes.publish_enrolment)
    );
    let text = config("k3s/base/proxy.yaml", "proxy.toml");
    let text = text
        .replace("${NODE}", "edge-1")
        .replace("${ADDRESS}", "192.0.2.1");
    isobar_edge_proxy::config::Config::parse("proxy.toml", &text).unwrap();
    // And the one that is put into pods.
    let injection = isobar_controller::injection::Injection {
        image: "p:1".to_owned(),
        controller: "isobar-controller.isobar-system.svc:7401".to_owned(),
        roots_pem: None,
    };
    let mut pod = json!({"metadata": {"annotations": {"isobar.dev/intercept-ports": "80,8080"}}, "spec": {"containers": []}});
    isobar_controller::injection::inject(&mut pod, &injection).unwrap();
    let text = pod["metadata"]["annotations"][isobar_controller::injection::CONFIG]
        .as_str()
        .unwrap();
    let environment = &pod["spec"]["initContainers"][1]["env"];
    let mut text = text.to_owned();
    for (variable, value) in [
        ("POD", "cart-1"),
        ("NAMESPACE", "shop"),
        ("NODE", "edge-1"),
        ("ADDRESS", "10.1.0.7"),
    ] {
        assert!(
            environment
                .as_array()
                .unwrap()
                .iter()
                .any(|e| e["name"] == variable),
            "{variable}"
        );
        text = text.replace(&format!("${{{variable}}}"), value);
    }
    let config = isobar_edge_proxy::config::Config::parse("proxy.toml", &text).unwrap();
    config.check().unwrap();
    assert_eq!(
        (config.node.as_str(), config.site.unwrap().as_str()),
        ("cart-1.shop", "edge-1")
    );
    let catches = config.listeners.iter();
    let catches: Vec<_> = catches
        .filter_map(isobar_edge_proxy::intercept::Catch::of)
        .collect();
    let rules = isobar_edge_proxy::intercept::rules(&catches, 65532, &[]).unwrap();
    assert!(
        rules
            .nft
            .contains("tcp dport { 80, 8080 } redirect to :7413"),
        "{}",
        rules.nft
    );
}
