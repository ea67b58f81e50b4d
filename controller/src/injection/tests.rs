use serde_json::{Value, json};

use super::*;

fn injection() -> Injection {
    Injection {
        image: "registry.example/isobar-proxy:1".to_owned(),
        controller: "isobar-controller.isobar-system.svc:7401".to_owned(),
        roots_pem: Some("-----BEGIN CERTIFICATE-----\n".to_owned()),
    }
}

fn pod() -> Value {
    json!({"kind": "Pod", "metadata": {"name": "cart-1"}, "spec": {"containers": [{"name": "cart", "image": "cart:1"}],
           "initContainers": [{"name": "migrate", "image": "cart:1"}]}})
}

fn injected(mut pod: Value) -> Value {
    assert_eq!(inject(&mut pod, &injection()), Ok(None));
    pod
}

/// What an API server makes of a patch.
fn apply(target: &mut Value, operations: &[Value]) {
    for operation in operations {
        let path = operation["path"].as_str().unwrap();
        let (parent, last) = path.rsplit_once('/').unwrap();
        let last = last.replace("~1", "/").replace("~0", "~");
        let parent = target.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        match operation["op"].as_str().unwrap() {
            "remove" => assert!(parent.remove(&last).is_some(), "{operation}"),
            "add" => assert!(
                parent.insert(last, operation["value"].clone()).is_none(),
                "{operation}"
            ),
            "replace" => assert!(
                parent.insert(last, operation["value"].clone()).is_some(),
                "{operation}"
            ),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn the_proxy_starts_first_and_may_do_least() {
    let pod = injected(pod());
    let inits = pod["spec"]["initContainers"].as_array().unwrap();
    let names: Vec<&str> = inits.iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, [INTERCEPT_NAME, PROXY_NAME, "migrate"]);
    assert_eq!(inits[1]["restartPolicy"], "Always");
    assert_eq!(
        inits[0]["securityContext"]["capabilities"],
        json!({"drop": ["ALL"], "add": ["NET_ADMIN"]})
    );
    assert_eq!(
        inits[1]["securityContext"]["capabilities"],
        json!({"drop": ["ALL"]})
    );
    for container in &inits[..2] {
        let security = &container["securityContext"];
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
        assert!(container["resources"]["limits"]["memory"].is_string());
    }
    let config = pod["metadata"]["annotations"][CONFIG].as_str().unwrap();
    assert!(config.contains("intercept_ports = [80]"), "{config}");
    assert_eq!(pod["spec"]["containers"].as_array().unwrap().len(), 1);
}

#[test]
fn twice_is_once_and_back_is_as_before() {
    let once = injected(pod());
    assert_eq!(injected(once.clone()), once);
    let mut newer = once.clone();
    let image = "registry.example/isobar-proxy:2".to_owned();
    inject(
        &mut newer,
        &Injection {
            image: image.clone(),
            ..injection()
        },
    )
    .unwrap();
    assert_eq!(newer["spec"]["initContainers"][1]["image"], json!(image));
    assert_eq!(newer["spec"]["initContainers"].as_array().unwrap().len(), 3);
    let mut back = newer;
    assert!(uninject(&mut back));
    assert_eq!(back, pod());
    assert!(!uninject(&mut back));
}

#[test]
fn who_does_not_want_it_or_cannot_have_it_is_left() {
    let with = |pointer: &str, value: Value| {
        let mut pod = pod();
        pod[pointer.split('/').next().unwrap()][pointer.split('/').nth(1).unwrap()] = value;
        pod
    };
    let cases = [
        (
            with("metadata/annotations", json!({INJECT: "disabled"})),
            Left::OptedOut,
        ),
        (
            with("metadata/labels", json!({INJECT: "disabled"})),
            Left::OptedOut,
        ),
        (with("spec/hostNetwork", json!(true)), Left::HostNetwork),
    ];
    for (mut pod, why) in cases {
        let before = pod.clone();
        assert_eq!(inject(&mut pod, &injection()), Ok(Some(why)));
        assert_eq!(pod, before);
    }
}

#[test]
fn what_is_wrong_is_named_and_nothing_is_changed() {
    let taken = json!([{"name": "isobar-proxy", "image": "theirs"}]);
    let cases = [
        (json!({}), "spec"),
        (json!({"spec": []}), "spec"),
        (json!({"spec": {"containers": "none"}}), "spec.containers"),
        (
            json!({"metadata": 7, "spec": {"containers": []}}),
            "metadata",
        ),
        (
            json!({"metadata": {"annotations": []}, "spec": {"containers": []}}),
            "annotations",
        ),
        (
            json!({"spec": {"containers": [], "volumes": {}}}),
            "spec.volumes",
        ),
        (
            json!({"spec": {"containers": [], "initContainers": 1}}),
            "spec.initContainers",
        ),
        (json!({"spec": {"containers": taken}}), "isobar-proxy"),
        (
            json!({"spec": {"containers": [], "volumes": [{"name": "isobar-data"}]}}),
            "isobar-data",
        ),
        (
            json!({"metadata": {"annotations": {INTERCEPT_PORTS: "80,0"}}, "spec": {"containers": []}}),
            "80,0",
        ),
        (
            json!({"metadata": {"annotations": {INTERCEPT_PORTS: "http"}}, "spec": {"containers": []}}),
            "http",
        ),
    ];
    for (mut pod, named) in cases {
        let before = pod.clone();
        let error = inject(&mut pod, &injection()).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
        assert_eq!(pod, before);
    }
}

#[test]
fn ports_are_those_of_the_annotation() {
    let mut asks = pod();
    asks["metadata"]["annotations"] = json!({INTERCEPT_PORTS: "8080, 80,8080"});
    let pod = injected(asks);
    let config = pod["metadata"]["annotations"][CONFIG].as_str().unwrap();
    assert!(config.contains("intercept_ports = [80,8080]"), "{config}");
}

#[test]
fn roots_are_the_pods_or_its_namespaces() {
    let sources = |injection: &Injection| {
        let mut pod = pod();
        inject(&mut pod, injection).unwrap();
        let volumes = pod["spec"]["volumes"].as_array().unwrap().clone();
        volumes[0]["projected"]["sources"].to_string()
    };
    assert!(sources(&injection()).contains("metadata.annotations['isobar.dev/roots']"));
    let without = Injection {
        roots_pem: None,
        ..injection()
    };
    assert!(sources(&without).contains(r#""configMap":{"name":"isobar-roots"}"#));
}

#[test]
fn pods_are_found_where_people_write_them() {
    let template = json!({"metadata": {"labels": {"app": "cart"}}, "spec": {"containers": []}});
    let of = |kind: &str| json!({"kind": kind, "metadata": {"name": "w", "namespace": "shop"}, "spec": {"template": template}});
    let kinds = [
        "Deployment",
        "StatefulSet",
        "DaemonSet",
        "ReplicaSet",
        "Job",
    ];
    let mut items: Vec<Value> = kinds.iter().map(|kind| of(kind)).collect();
    items.push(pod());
    items.push(json!({"kind": "CronJob", "metadata": {"name": "w"}, "spec": {"jobTemplate": {"spec": {"template": template}}}}));
    let mut list = json!({"kind": "List", "items": items});
    let outcomes = inject_all(&mut list, &injection());
    assert!(
        outcomes
            .iter()
            .all(|outcome| outcome.result == Ok(None) && outcome.has_pod),
        "{outcomes:?}"
    );
    assert_eq!(outcomes[0].about, "Deployment shop/w");
    assert_eq!(
        list.to_string()
            .matches("\"restartPolicy\":\"Always\"")
            .count(),
        items.len()
    );
    let before = list.clone();
    inject_all(&mut list, &injection());
    assert_eq!(list, before);
    uninject_all(&mut list);
    assert_eq!(list, json!({"kind": "List", "items": items}));

    let mut other = json!({"kind": "Service", "metadata": {"name": "cart"}});
    assert!(!inject_all(&mut other, &injection())[0].has_pod);
    let mut broken = json!({"kind": "Deployment", "metadata": {"name": "w"}, "spec": {}});
    assert!(inject_all(&mut broken, &injection())[0].result.is_err());
}

fn question(object: &Value) -> Value {
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
           "request": {"uid": "u-1", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE", "object": object}})
}

fn answered(question: &Value) -> Value {
    let answer = review(question.to_string().as_bytes(), &injection()).unwrap();
    assert_eq!(answer["response"]["uid"], "u-1");
    answer["response"].clone()
}

fn decode(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let letters: Vec<u8> = text.bytes().filter(|b| *b != b'=').map(value).collect();
    let mut bytes = Vec::new();
    for chunk in letters.chunks(4) {
        let bits = chunk
            .iter()
            .fold(0_u32, |bits, six| bits << 6 | u32::from(*six));
        let bits = bits << (6 * (4 - chunk.len()));
        bytes.extend(bits.to_be_bytes()[1..chunk.len()].iter());
    }
    bytes
}

#[test]
fn the_api_servers_patch_makes_what_inject_makes() {
    let response = answered(&question(&pod()));
    assert_eq!(
        (&response["allowed"], &response["patchType"]),
        (&json!(true), &json!("JSONPatch"))
    );
    let patch: Value =
        serde_json::from_slice(&decode(response["patch"].as_str().unwrap())).unwrap();
    let mut patched = pod();
    apply(&mut patched, patch.as_array().unwrap());
    assert_eq!(patched, injected(pod()));
    // It may be asked again, about what it has changed itself.
    let again = answered(&question(&patched));
    assert_eq!(
        (&again["allowed"], &again["patch"]),
        (&json!(true), &Value::Null)
    );
}

#[test]
fn questions_that_are_none_and_pods_that_are_none() {
    for (text, named) in [
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "AdmissionReview"),
        (
            r#"{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1"}"#,
            "v1",
        ),
        (
            r#"{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"}"#,
            "uid",
        ),
    ] {
        let error = review(text.as_bytes(), &injection())
            .unwrap_err()
            .to_string();
        assert!(error.contains(named), "{text}: {error}");
    }
    let mut other = question(&pod());
    other["request"]["kind"]["kind"] = json!("Deployment");
    let response = answered(&other);
    assert!(response["allowed"] == true && response["patch"].is_null());
    let mut update = question(&pod());
    update["request"]["operation"] = json!("UPDATE");
    assert!(answered(&update)["patch"].is_null());
    let response = answered(&question(&json!("nonsense")));
    assert!(
        response["allowed"] == false && response["status"]["code"] == 422,
        "{response}"
    );
    let mut on_host = pod();
    on_host["spec"]["hostNetwork"] = json!(true);
    let response = answered(&question(&on_host));
    assert!(response["allowed"] == true && response["patch"].is_null());
    assert!(
        response["warnings"][0]
            .as_str()
            .unwrap()
            .contains("hostNetwork")
    );
}

#[test]
fn differences_escape_names() {
    let (before, after) = (json!({"a/b": 1, "c~d": 2}), json!({"a/b": 2, "e": 3}));
    let mut patched = before.clone();
    let operations = difference(&before, &after);
    assert!(
        operations.iter().any(|o| o["path"] == "/c~0d"),
        "{operations:?}"
    );
    apply(&mut patched, &operations);
    assert_eq!(patched, after);
}
