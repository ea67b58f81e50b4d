//! The admission webhook, by whom the API server knows it, and pods' proxies that enrol with their accounts.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::environment::{Cluster, say_skipped, until};

fn question(object: Value) -> Vec<u8> {
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
           "request": {"uid": "u-1", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE", "object": object}})
    .to_string()
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_webhook_answers_what_is_a_question() {
    let cluster = Cluster::open().await;
    let controller = cluster.controller(0).await;
    let inject = ("POST", "/inject");
    let pod = json!({"metadata": {"name": "cart-1"}, "spec": {"containers": [{"name": "cart"}]}});
    let (status, answer) = controller.call(inject, "", &question(pod), None).await;
    let response = &answer["response"];
    assert_eq!(
        (status, &response["allowed"], &response["uid"]),
        (200, &json!(true), &json!("u-1"))
    );
    assert_eq!(response["patchType"], "JSONPatch");
    let on_host =
        json!({"metadata": {"name": "cart-1"}, "spec": {"containers": [], "hostNetwork": true}});
    let (status, answer) = controller.call(inject, "", &question(on_host), None).await;
    assert!(
        status == 200 && answer["response"]["patch"].is_null(),
        "{answer}"
    );
    let too_long = vec![b' '; isobar_controller::injection::REVIEW_LEN_MAX + 1];
    for (body, wanted) in [
        (&b"garbage"[..], 400),
        (&b"{\"kind\": \"Pod\"}"[..], 400),
        (&b"\xff\xfe"[..], 400),
        (&too_long, 413),
    ] {
        let (status, answer) = controller.call(inject, "", body, None).await;
        assert_eq!(
            (status, &answer["kind"]),
            (wanted, &json!("Status")),
            "{answer}"
        );
    }
    let (status, _) = controller.call(("GET", "/inject"), "", b"", None).await;
    assert_eq!(status, 404);
    let (status, _) = controller.call(("GET", "/readyz"), "", b"", None).await;
    assert_eq!(status, 200);
    controller.end().await;
    cluster.close().await;
}

/// Whether an API server says that it could not connect to a webhook.
fn is_out_of_reach(error: &kube::Error) -> bool {
    let said = error.to_string();
    let reasons = ["refused", "no route", "unreachable", "timeout", "deadline"];
    said.contains("failed calling webhook") && reasons.iter().any(|reason| said.contains(reason))
}

/// Called by its address: where an API server that is not ours cannot reach this machine, that is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_pod_that_asks_for_a_proxy_has_one() {
    let cluster = Cluster::open().await;
    let controller = cluster.controller(0).await;
    let roots = std::fs::read(cluster.data_dir(0).join("ca.pem")).unwrap();
    let port = controller.program.addresses().cluster.unwrap();
    let hook = json!({
        "name": "test.isobar.dev", "admissionReviewVersions": ["v1"], "sideEffects": "None", "timeoutSeconds": 5, "failurePolicy": "Fail",
        "clientConfig": {"url": format!("https://{port}/inject"), "caBundle": k8s_openapi::ByteString(roots)},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"], "scope": "Namespaced"}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": cluster.tag}},
    });
    cluster
        .apply(json!({"kind": "MutatingWebhookConfiguration", "metadata": {"name": cluster.name("hook")}, "webhooks": [hook]}))
        .await;
    cluster
        .apply(json!({"kind": "ServiceAccount", "metadata": {"name": "cart", "namespace": cluster.tag}}))
        .await;
    let number = std::cell::Cell::new(0);
    // An API server takes a webhook up a moment after it is written.
    let made = until("a pod with a proxy", async || {
        number.set(number.get() + 1);
        let name = format!("cart-{}", number.get());
        let pod = json!({"kind": "Pod", "metadata": {"name": name, "namespace": cluster.tag, "labels": {"isobar.dev/inject": "enabled"}},
                         "spec": {"serviceAccountName": "cart", "automountServiceAccountToken": false, "containers": [{"name": "cart", "image": "cart:1"}]}});
        match cluster.try_create(pod).await {
            Ok(pod) if pod.data["spec"]["initContainers"].is_array() => Ok(Some(pod)),
            Ok(pod) => Err(pod.data),
            // Anything else that it says of the webhook is a fault of ours: of its certificate, or its answer.
            Err(error) if !cluster.is_own() && is_out_of_reach(&error) => {
                say_skipped(&format!("in part: the API server does not reach this machine: {error}"));
                Ok(None)
            }
            Err(error) => Err(json!(error.to_string())),
        }
    })
    .await;
    if let Some(pod) = made {
        let containers = pod.data["spec"]["initContainers"].as_array().unwrap();
        let names = containers.iter().map(|one| one["name"].as_str().unwrap());
        let names: Vec<&str> = names.collect();
        assert_eq!(names, ["isobar-intercept", "isobar-proxy"]);
        assert_eq!(containers[1]["restartPolicy"], "Always");
    }
    cluster
        .delete("MutatingWebhookConfiguration", None, &cluster.name("hook"))
        .await;
    controller.end().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_server_knows_the_controller_by_the_roots_of_now() {
    let Some(cluster) = Cluster::own("webhooks and APIServices under Isobar's fixed names are a cluster's own; one whose server is not there would stop the deletion of every namespace").await else {
        return;
    };
    let hook = |policy: &str| {
        let service =
            json!({"service": {"name": "isobar-controller", "namespace": "isobar-system"}});
        json!({"kind": "MutatingWebhookConfiguration", "metadata": {"name": "isobar-injection"},
        "webhooks": [{"name": "a.isobar.dev", "failurePolicy": policy, "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": service},
                     {"name": "b.isobar.dev", "failurePolicy": policy, "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": service}]})
    };
    cluster.apply(hook("Ignore")).await;
    cluster
        .apply(json!({"kind": "APIService", "metadata": {"name": "v1beta1.external.metrics.k8s.io"}, "spec": crate::permissions::external_metrics()}))
        .await;
    let controller = cluster.controller(0).await;
    let hooks = cluster.api("MutatingWebhookConfiguration", None);
    let bundle = until("bundle", async || {
        let object = hooks.get("isobar-injection").await.unwrap();
        let bundle = |at: usize| object.data["webhooks"][at]["clientConfig"]["caBundle"].clone();
        match bundle(0).is_string() && bundle(0) == bundle(1) {
            true => Ok(bundle(0)),
            false => Err(object.data),
        }
    })
    .await;
    let services = cluster.api("APIService", None);
    until("bundle of metrics", async || {
        let object = services
            .get("v1beta1.external.metrics.k8s.io")
            .await
            .unwrap();
        (object.data["spec"]["caBundle"] == bundle)
            .then_some(())
            .ok_or(object.data)
    })
    .await;
    // Another root: the bundle has both, until the old one is dropped.
    assert_eq!(
        controller
            .post("/v1/authority/steps", &json!({"step": "begin"}))
            .await,
        200
    );
    until("another bundle", async || {
        let object = hooks.get("isobar-injection").await.unwrap();
        let now = object.data["webhooks"][0]["clientConfig"]["caBundle"].clone();
        (now != bundle && now.is_string()).then_some(()).ok_or(now)
    })
    .await;
    let object = hooks.get("isobar-injection").await.unwrap();
    assert_eq!(object.data["webhooks"][1]["failurePolicy"], "Ignore");
    controller.end().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_in_a_pod_enrols_with_its_account_and_as_itself_alone() {
    let cluster = Cluster::open().await;
    let node = cluster.name("n");
    cluster.apply_node(&node, "45.0", "9.0").await;
    let controller = cluster.controller(0).await;
    let account =
        json!({"kind": "ServiceAccount", "metadata": {"name": "cart", "namespace": cluster.tag}});
    cluster.apply(account).await;
    // No kubelet is asked to run them.
    for name in ["cart-1", "cart-3"] {
        cluster
            .apply(json!({"kind": "Pod", "metadata": {"name": name, "namespace": cluster.tag},
                          "spec": {"serviceAccountName": "cart", "automountServiceAccountToken": false, "containers": [{"name": "cart", "image": "cart:1"}]}}))
            .await;
    }
    // A machine whose name is that of a pod.
    let machine = format!("cart-3.{}", cluster.tag);
    cluster.apply_node(&machine, "45.0", "9.0").await;
    let path = format!("/v1/nodes/{machine}");
    controller
        .until(&path, |node| node["status"]["declared"] == true)
        .await;
    let token = async |pod, audience| cluster.account_token("cart", pod, audience).await;
    let of_pod = token(Some("cart-1"), Some("isobar")).await;
    let of_namesake = token(Some("cart-3"), Some("isobar")).await;
    let of_api = token(Some("cart-1"), None).await;
    let of_none = token(None, Some("isobar")).await;
    let own = format!("cart-1.{}", cluster.tag);
    let other = format!("cart-2.{}", cluster.tag);
    let number = std::cell::Cell::new(0);
    let proxy = |name: &str, token: &str| {
        number.set(number.get() + 1);
        let directory = cluster.data_dir(0).join(format!("proxy-{}", number.get()));
        std::fs::create_dir_all(&directory).unwrap();
        let token_file = directory.join("token-of-account");
        std::fs::write(&token_file, token).unwrap();
        let text = format!(
            "node = \"{name}\"\nsite = \"{node}\"\nlisten = \"127.0.0.1:0\"\nmesh_listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
             data_dir = {directory:?}\ncontroller = \"{}\"\nca_file = {:?}\ntoken_file = {token_file:?}\n",
            controller.program.addresses().stream,
            cluster.data_dir(0).join("ca.pem"),
        );
        let config = isobar_edge_proxy::config::Config::parse("proxy.toml", &text).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(isobar_edge_proxy::program::run(config, stop.clone()));
        (stop, running, directory)
    };
    let is_refused = async |name: &str, token: &str, reason: &str| {
        let (stop, running, _) = proxy(name, token);
        until(reason, async || {
            let said = controller.get("/v1/audit/refused").await;
            let is_told = said.to_string().contains(reason);
            is_told.then_some(()).ok_or(said)
        })
        .await;
        stop.cancel();
        running.await.unwrap().unwrap();
    };
    is_refused(&other, &of_pod, "is for the node").await;
    is_refused(&machine, &of_namesake, "a node of the cluster").await;
    let path = format!("/v1/nodes/{own}");
    assert!(controller.get(&path).await.is_null());
    let (stop, running, directory) = proxy(&own, &of_pod);
    let is_there = |node: &Value| node["status"]["connected"] == true;
    let seen = controller.until(&path, is_there).await;
    assert_eq!(seen["status"]["site"], json!(node));
    // Its certificate is its account's, at this one node.
    let identity = format!("spiffe://isobar.local/ns/{}/sa/cart", cluster.tag);
    assert_eq!(seen["status"]["identity"], json!(identity));
    let chain = std::fs::read_to_string(directory.join("node-chain.pem")).unwrap();
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
    let holder = isobar_edge_proxy::identity::verify::holder(&leaf).unwrap();
    assert_eq!(holder.id.to_string(), identity);
    assert_eq!(holder.node.unwrap().as_str(), own);
    stop.cancel();
    running.await.unwrap().unwrap();
    // Last, for wrong tokens keep their address out for a while.
    is_refused(&own, &of_api, "has expired").await;
    is_refused(&own, &of_none, "bound to no pod").await;
    controller.end().await;
    cluster.close().await;
}
