//! The admission webhook, by whom the API server knows it, and pods' proxies that enrol with their accounts.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::environment::{Cluster, until};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_server_knows_the_controller_by_the_roots_of_now() {
    let cluster = Cluster::own().await;
    let hook = |policy: &str| {
        json!({"kind": "MutatingWebhookConfiguration", "metadata": {"name": "isobar-injection"},
        "webhooks": [{"name": "a.isobar.dev", "failurePolicy": policy, "clientConfig": {"service": {"name": "isobar-controller"}}},
                     {"name": "b.isobar.dev", "failurePolicy": policy, "clientConfig": {"service": {"name": "isobar-controller"}}}]})
    };
    cluster.apply(hook("Ignore")).await;
    cluster
        .apply(json!({"kind": "APIService", "metadata": {"name": "v1beta1.external.metrics.k8s.io"}, "spec": {"group": "external.metrics.k8s.io"}}))
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
    let cluster = Cluster::own().await;
    let node = cluster.name("n");
    cluster.apply_node(&node, "45.0", "9.0").await;
    let controller = cluster.controller(0).await;
    let user =
        |extra: Value| json!({"username": "system:serviceaccount:shop:cart", "extra": extra});
    let pod = json!({"authentication.kubernetes.io/pod-name": ["cart-1"]});
    cluster
        .server()
        .know_token("eyJ.of.pod", user(pod.clone()), &["isobar"]);
    cluster
        .server()
        .know_token("eyJ.of.api", user(pod), &["https://kubernetes.default.svc"]);
    cluster
        .server()
        .know_token("eyJ.of.none", user(json!({})), &["isobar"]);
    let proxy = |name: &str, token: &str| {
        let directory = cluster.data_dir(0).join(format!("proxy-{name}-{token}"));
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
        (stop, running)
    };
    let refusals = [
        proxy("cart-2.shop", "eyJ.of.pod"),
        proxy("cart-1.shop", "eyJ.of.api"),
        proxy("cart-1.shop", "eyJ.of.none"),
    ];
    until("refusals", async || {
        let metrics = controller.get("/metrics").await;
        let line = metrics.as_str().unwrap_or_default().lines().find(|line| {
            line.starts_with("isobar_controller_enrolments_total") && line.contains("refused")
        });
        let refused = line
            .and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .unwrap_or_default();
        (refused >= 3.0).then_some(()).ok_or(json!(refused))
    })
    .await;
    assert!(controller.get("/v1/nodes/cart-1.shop").await.is_null());
    for (stop, running) in refusals {
        stop.cancel();
        running.await.unwrap().unwrap();
    }
    let (stop, running) = proxy("cart-1.shop", "eyJ.of.pod");
    let is_there = |node: &Value| node["status"]["connected"] == true;
    let seen = controller.until("/v1/nodes/cart-1.shop", is_there).await;
    assert_eq!(seen["status"]["site"], json!(node));
    stop.cancel();
    running.await.unwrap().unwrap();
    controller.end().await;
    cluster.close().await;
}
