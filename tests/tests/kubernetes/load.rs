//! Load as autoscalers read it, and who may.

use serde_json::{Value, json};

use crate::environment::{ClientIdentity, Cluster, until};

const GROUP: &str = "/apis/external.metrics.k8s.io/v1beta1";

/// An authority, and a certificate of it for a name.
fn identity(
    name: &str,
    authority: Option<&rcgen::Issuer<'static, rcgen::KeyPair>>,
) -> (
    String,
    ClientIdentity,
    rcgen::Issuer<'static, rcgen::KeyPair>,
) {
    let mut root = rcgen::CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let signed = root.self_signed(&key).unwrap();
    let own = rcgen::Issuer::new(root, key);
    let mut leaf = rcgen::CertificateParams::new(Vec::new()).unwrap();
    leaf.distinguished_name
        .push(rcgen::DnType::CommonName, name);
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = leaf.signed_by(&key, authority.unwrap_or(&own)).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    (signed.pem(), (certificate.der().clone(), key), own)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_are_for_the_front_proxy_and_for_who_may() {
    let Some(cluster) =
        Cluster::own("nobody has the key of a cluster's front proxy, or knows tokens of its users")
            .await
    else {
        return;
    };
    let node = cluster.name("n");
    cluster.apply_node(&node, "45.0", "9.0").await;
    cluster
        .apply(json!({"kind": "Service", "metadata": {"name": "cart", "namespace": cluster.tag, "annotations": {"isobar.dev/capacity-rps": "50"}},
                      "spec": {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}}))
        .await;
    cluster
        .apply_slice(
            "cart",
            "a",
            &[
                ("10.1.0.1".to_owned(), node.clone()),
                ("10.1.0.2".to_owned(), node.clone()),
            ],
        )
        .await;
    let (ca, front, issuer) = identity("front-proxy-client", None);
    let data = json!({"requestheader-client-ca-file": ca, "requestheader-allowed-names": "[\"front-proxy-client\"]"});
    cluster
        .apply(json!({"kind": "ConfigMap", "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"}, "data": data}))
        .await;
    let controller = cluster.controller(0).await;
    controller
        .until(&format!("/v1/services/{}/cart", cluster.tag), |service| {
            service["spec"]["endpoints"]
                .as_array()
                .is_some_and(|e| e.len() == 2)
        })
        .await;

    // What there is, anybody may know.
    let (status, list) = controller.call(("GET", GROUP), "", b"", None).await;
    assert_eq!((status, &list["kind"]), (200, &json!("APIResourceList")));
    let names: Vec<&str> = list["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"isobar_utilisation_ratio"), "{list}");
    let (status, group) = controller
        .call(("GET", "/apis/external.metrics.k8s.io"), "", b"", None)
        .await;
    assert_eq!(
        (status, &group["preferredVersion"]["version"]),
        (200, &json!("v1beta1"))
    );

    let capacity = format!("{GROUP}/namespaces/{}/isobar_capacity_rps", cluster.tag);
    let of_cart = format!("{capacity}?labelSelector=service%3Dcart");
    let clone = |(certificate, key): &ClientIdentity| (certificate.clone(), key.clone_key());
    // The controller reads whom it believes as the front proxy when it starts.
    let list = until("figures", async || {
        match controller
            .call(("GET", &of_cart), "", b"", Some(clone(&front)))
            .await
        {
            (200, list) => Ok(list),
            (_, answer) => Err(answer),
        }
    })
    .await;
    assert_eq!(list["kind"], "ExternalMetricValueList");
    let items = list["items"].as_array().unwrap();
    assert_eq!(
        (items.len(), &items[0]["value"]),
        (1, &json!("100000m")),
        "{list}"
    );
    assert_eq!(items[0]["metricLabels"], json!({"service": "cart"}));
    let by_node = format!("{capacity}?labelSelector=service%3Dcart%2Cnode%3D{node}");
    let (_, list) = controller
        .call(("GET", &by_node), "", b"", Some(clone(&front)))
        .await;
    assert_eq!(list["items"][0]["metricLabels"]["node"], json!(node));

    // Nobody, somebody else's certificate, and another name of the right authority.
    let (_, stranger, _) = identity("front-proxy-client", None);
    let (_, other, _) = identity("somebody", Some(&issuer));
    for who in [None, Some(stranger), Some(other)] {
        let (status, answer) = controller.call(("GET", &of_cart), "", b"", who).await;
        assert_eq!((status, &answer["reason"]), (401, &json!("Unauthorized")));
    }
    // A token of the cluster: who may, who may not, and none.
    cluster
        .server()
        .know_token("good", json!({"username": "keda"}), &["api"]);
    cluster
        .server()
        .know_token("poor", json!({"username": "eve"}), &["api"]);
    cluster.server().let_read("keda");
    let plain = format!("/load/{}/cart", cluster.tag);
    for (token, wanted) in [("good", 200), ("poor", 403), ("made-up", 401)] {
        let header = format!("authorization: Bearer {token}\r\n");
        for path in [&of_cart, &plain] {
            let (status, answer) = controller.call(("GET", path), &header, b"", None).await;
            assert_eq!(status, wanted, "{token}: {answer}");
        }
    }
    let header = "authorization: Bearer good\r\n";
    let (_, load) = controller.call(("GET", &plain), header, b"", None).await;
    assert_eq!(
        (&load["capacity_rps"], &load["nodes"][0]["node"]),
        (&json!(100.0), &json!(node)),
        "{load}"
    );
    let cases = [
        (format!("{plain}?node=nowhere"), 404),
        (format!("/load/{}/nobody", cluster.tag), 404),
        (
            format!("{GROUP}/namespaces/{}/isobar_moods", cluster.tag),
            404,
        ),
        (format!("{capacity}?labelSelector=colour%3Dred"), 400),
        (format!("{capacity}?labelSelector=service%3Dnobody"), 404),
        ("/nonsense".to_owned(), 404),
    ];
    for (path, wanted) in cases {
        let (status, answer): (u16, Value) =
            controller.call(("GET", &path), header, b"", None).await;
        assert_eq!(
            (status, &answer["kind"]),
            (wanted, &json!("Status")),
            "{path}: {answer}"
        );
    }
    // The API server cannot say who asks.
    cluster.link.stop();
    let (status, _) = controller.call(("GET", &of_cart), header, b"", None).await;
    assert_eq!(status, 503);
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_of_the_cluster_reads_what_its_role_lets_it() {
    let cluster = Cluster::open().await;
    let tag = &cluster.tag;
    cluster.apply_service("cart", &[]).await;
    cluster
        .apply(json!({"kind": "ServiceAccount", "metadata": {"name": "scaler", "namespace": tag}}))
        .await;
    let controller = cluster.controller(0).await;
    controller
        .until(&format!("/v1/services/{tag}/cart"), |s| !s.is_null())
        .await;
    let token = cluster.account_token("scaler", None, None).await;
    let header = format!("authorization: Bearer {token}\r\n");
    let path = format!("/load/{tag}/cart");
    let ask = async |header: &str| controller.call(("GET", &path), header, b"", None).await;
    assert_eq!(ask("authorization: Bearer eyJ.made.up\r\n").await.0, 401);
    let (status, answer) = ask(&header).await;
    assert_eq!(status, 403, "{answer}");
    let rule = json!({"apiGroups": ["external.metrics.k8s.io"], "resources": ["isobar_demand_rps"], "verbs": ["get"]});
    cluster
        .apply(json!({"kind": "Role", "metadata": {"name": "reader", "namespace": tag}, "rules": [rule]}))
        .await;
    let group = "rbac.authorization.k8s.io";
    cluster
        .apply(json!({"kind": "RoleBinding", "metadata": {"name": "reader", "namespace": tag},
                      "roleRef": {"apiGroup": group, "kind": "Role", "name": "reader"},
                      "subjects": [{"kind": "ServiceAccount", "name": "scaler", "namespace": tag}]}))
        .await;
    until("figures", async || match ask(&header).await {
        (200, load) => Ok(load),
        (_, answer) => Err(answer),
    })
    .await;
    controller.end().await;
    cluster.close().await;
}
