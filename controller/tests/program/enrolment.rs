//! Who gets a certificate, and who gets in with it.

use http::{Method, StatusCode};
use isobar_controller::authority::peer_identity;
use isobar_controller::guesses::WRONG_MAX;
use isobar_mesh_api::enrol::{ENROL_LEN_MAX, ENROL_PATH};
use isobar_mesh_api::message::Certificate;
use isobar_mesh_api::message::{Down, Up};
use isobar_mesh_api::names::{NodeId, ServiceName, SiteName};
use rcgen::SanType;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::mesh::{Door, Mesh};
use crate::proxy::{Proxy, Wire};

#[tokio::test]
async fn the_token_decides() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let proxy = Proxy::stranger("a");
    let issued = proxy
        .enrol(&door, &proxy.ask("a", &door.token))
        .await
        .unwrap();
    assert_eq!(issued.roots_pem, door.roots_pem);
    let other_id = door.token.replace("open", "other");
    let secret = door.token.split('_').nth(2).unwrap();
    let wrong_secret = door.token.replace(secret, &"0".repeat(64));
    for wrong in ["", "x", &other_id, &wrong_secret, secret] {
        let (status, problem) = proxy
            .enrol(&door, &proxy.ask("a", wrong))
            .await
            .unwrap_err();
        assert_eq!(status, StatusCode::FORBIDDEN, "{wrong:?}: {problem}");
        assert!(!problem.to_string().contains(&door.token));
    }
    door.until_metric("isobar_controller_enrolments_total{result=\"granted\"} 1")
        .await;
    door.until_metric("isobar_controller_enrolments_total{result=\"refused\"} 5")
        .await;
    mesh.stop().await;
}

#[tokio::test]
async fn bodies_that_are_no_enrolment_are_told_why() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let proxy = Proxy::stranger("a");
    let mut ask = proxy.ask("a", &door.token);
    ask.csr_pem = "no request".to_owned();
    let no_request = serde_json::to_vec(&ask).unwrap();
    let cases = [
        (Vec::new(), StatusCode::BAD_REQUEST, "enrolment"),
        (
            b"{\"node\": \"A b\"}".to_vec(),
            StatusCode::BAD_REQUEST,
            "node",
        ),
        (
            vec![b' '; ENROL_LEN_MAX + 1],
            StatusCode::PAYLOAD_TOO_LARGE,
            "bytes",
        ),
        (no_request, StatusCode::UNPROCESSABLE_ENTITY, "#/csr_pem"),
    ];
    for (body, status, word) in cases {
        let answer = proxy.post(&door, ENROL_PATH, body).await;
        assert_eq!(answer.0, status, "{}", answer.1);
        assert!(answer.1.to_string().contains(word), "{}", answer.1);
    }
    let (status, _) = proxy.post(&door, "/v1/other", Vec::new()).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    mesh.stop().await;
}

#[tokio::test]
async fn a_certificate_renews_itself_and_no_other() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let mut proxy = Proxy::enrolled(&door, "a").await;
    let renewed = proxy.enrol(&door, &proxy.ask("a", "")).await.unwrap();
    assert_ne!(Some(&renewed), proxy.certificate.as_ref());
    proxy.certificate = Some(renewed);
    proxy.stream(&door, proxy.hello()).await.unwrap();
    let (status, _) = proxy.enrol(&door, &proxy.ask("b", "")).await.unwrap_err();
    assert_eq!(status, StatusCode::FORBIDDEN);
    mesh.stop().await;
}

#[tokio::test]
async fn a_stream_needs_the_certificate_of_its_node() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let stranger = Proxy::stranger("a");
    let (status, _) = stranger
        .stream(&door, stranger.hello())
        .await
        .err()
        .unwrap();
    assert_eq!(status, StatusCode::FORBIDDEN);
    let proxy = Proxy::enrolled(&door, "a").await;
    let other = Proxy::stranger("b").hello();
    let (status, problem) = proxy.stream(&door, other).await.err().unwrap();
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(
        problem["detail"].as_str().unwrap().contains('b'),
        "{problem}"
    );
    mesh.stop().await;
}

#[tokio::test]
async fn a_certificate_of_another_mesh_does_not_get_in() {
    let (mesh, other) = (Mesh::start().await, Mesh::start().await);
    let proxy = Proxy::enrolled(&other.door(), "a").await;
    let opened = proxy.open(&mesh.door(), proxy.hello(), Wire::Upgrade).await;
    assert!(opened.is_err(), "a stream was opened");
    let wrong_roots = Door {
        roots_pem: other.door().roots_pem,
        ..mesh.door()
    };
    let trusting = Proxy::stranger("a");
    let opened = trusting
        .open(&wrong_roots, trusting.hello(), Wire::Upgrade)
        .await;
    assert!(opened.is_err(), "the controller was believed");
    mesh.stop().await;
    other.stop().await;
}

/// Makes a token; returns its text and its id.
async fn token(mesh: &Mesh, asked: Value) -> (String, String) {
    let asked = asked.to_string();
    let (status, made) = mesh.rest(Method::POST, "/v1/tokens", &asked).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&made["text"]), text(&made["token"]["id"]))
}

#[tokio::test]
async fn a_token_lets_in_whom_it_is_for_as_often_as_it_says() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let labelled = "{kind: Node, metadata: {name: cam, labels: {role: camera}}, spec: {}}";
    mesh.rest(Method::PUT, "/v1/nodes/cam", labelled).await;
    let (once, _) = token(&mesh, json!({})).await;
    let (named, _) = token(&mesh, json!({"node": "b", "uses_max": 9})).await;
    let (of_site, _) = token(&mesh, json!({"site": "x", "uses_max": 9})).await;
    let (cameras, _) = token(&mesh, json!({"labels": {"role": "camera"}, "uses_max": 9})).await;
    let (revoked, id) = token(&mesh, json!({})).await;
    let path = format!("/v1/tokens/{id}");
    assert_eq!(
        mesh.rest(Method::DELETE, &path, "").await.0,
        StatusCode::NO_CONTENT
    );
    let proxy = Proxy::stranger("a");
    let mut unsound = proxy.ask("a", &once);
    unsound.csr_pem = "x".to_owned();
    assert!(proxy.enrol(&door, &unsound).await.is_err());
    let at_site = |name: &str, site: &str| {
        let mut ask = proxy.ask(name, &of_site);
        ask.site = Some(SiteName::new(site).unwrap());
        ask
    };
    let cases = [
        (proxy.ask("a", &once), None),
        (proxy.ask("a", &once), Some("as often as it may")),
        (proxy.ask("b", &named), None),
        (proxy.ask("a", &named), Some("another node")),
        (proxy.ask("a", &of_site), Some("another site")),
        (at_site("a", "y"), Some("another site")),
        (at_site("s", "x"), None),
        (proxy.ask("cam", &cameras), None),
        (proxy.ask("a", &cameras), Some("another label")),
        (proxy.ask("a", &revoked), Some("was revoked")),
    ];
    for (ask, refused) in cases {
        let answer = proxy.enrol(&door, &ask).await;
        match (answer, refused) {
            (Ok(_), None) => {}
            (Err((StatusCode::FORBIDDEN, problem)), Some(word)) => {
                assert!(problem.to_string().contains(word), "{word}: {problem}");
            }
            (answer, refused) => panic!("{} {answer:?} {refused:?}", ask.node),
        }
    }
    // A node that enrolled for a site is of no other.
    let mut proxy = Proxy::stranger("s");
    let mut ask = proxy.ask("s", &of_site);
    ask.site = Some(SiteName::new("x").unwrap());
    proxy.certificate = Some(proxy.enrol(&door, &ask).await.unwrap());
    let (status, problem) = proxy.stream(&door, proxy.hello()).await.err().unwrap();
    assert_eq!(status, StatusCode::FORBIDDEN, "{problem}");
    let mut hello = proxy.hello();
    hello.site = Some(SiteName::new("x").unwrap());
    proxy.stream(&door, hello).await.unwrap();
    mesh.stop().await;
}

#[tokio::test]
async fn who_guesses_a_token_is_stopped_without_harm_to_others() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let (guessed, _) = token(&mesh, json!({"uses_max": 9})).await;
    let (other, _) = token(&mesh, json!({})).await;
    let secret = guessed.split('_').nth(2).unwrap();
    let wrong = guessed.replace(secret, &"0".repeat(64));
    let proxy = Proxy::stranger("a");
    for _ in 0..WRONG_MAX {
        let (status, _) = proxy
            .enrol(&door, &proxy.ask("a", &wrong))
            .await
            .unwrap_err();
        assert_eq!(status, StatusCode::FORBIDDEN);
    }
    for text in [&wrong, &guessed] {
        let (status, _) = proxy.enrol(&door, &proxy.ask("a", text)).await.unwrap_err();
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    }
    proxy.enrol(&door, &proxy.ask("a", &other)).await.unwrap();
    mesh.stop().await;
}

#[tokio::test]
async fn a_node_comes_back_with_its_last_credential_and_nobody_elses() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let a = Proxy::enrolled(&door, "a").await;
    let renewal = a.certificate.as_ref().unwrap().renewal.clone().unwrap();
    // Without a certificate, as when it has ended.
    let stranger = Proxy::stranger("a");
    let (status, _) = stranger
        .enrol(&door, &stranger.ask("b", &renewal))
        .await
        .unwrap_err();
    assert_eq!(status, StatusCode::FORBIDDEN);
    let second = stranger
        .enrol(&door, &stranger.ask("a", &renewal))
        .await
        .unwrap();
    let second = second.renewal.unwrap();
    stranger
        .enrol(&door, &stranger.ask("a", &second))
        .await
        .unwrap();
    // Replayed, after the one that follows it was used.
    let (status, problem) = stranger
        .enrol(&door, &stranger.ask("a", &renewal))
        .await
        .unwrap_err();
    assert_eq!(status, StatusCode::FORBIDDEN, "{problem}");
    mesh.stop().await;
}

#[tokio::test]
async fn a_removed_node_is_out_at_once_and_others_are_told() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let (a, b) = (
        Proxy::enrolled(&door, "a").await,
        Proxy::enrolled(&door, "b").await,
    );
    let mut of_a = a.stream(&door, a.hello()).await.unwrap();
    let mut of_b = b.stream(&door, b.hello()).await.unwrap();
    of_a.snapshot().await;
    let (status, _) = mesh.rest(Method::PUT, "/v1/revocations/a", "").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    while of_a.next().await.is_some() {}
    let told = loop {
        match of_b.next().await.expect("b's stream has ended") {
            Down::Trust(trust) if !trust.revoked.is_empty() => break trust,
            _ => {}
        }
    };
    assert_eq!(told.revoked[0].node, a.node);
    assert!(
        a.open(&door, a.hello(), Wire::Upgrade).await.is_err(),
        "a got in"
    );
    let renewal = a.certificate.as_ref().unwrap().renewal.clone().unwrap();
    let stranger = Proxy::stranger("a");
    let renewed = stranger.enrol(&door, &stranger.ask("a", &renewal)).await;
    assert_eq!(renewed.unwrap_err().0, StatusCode::FORBIDDEN);
    of_b.send(&Up::Trusted {
        version: told.version,
    })
    .await;
    let (_, status) = mesh.rest(Method::GET, "/v1/authority", "").await;
    assert_eq!(status["revoked"][0]["node"], "a");
    mesh.stop().await;
}

#[tokio::test]
async fn a_rotation_waits_for_nodes_and_is_seen() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let a = Proxy::enrolled(&door, "a").await;
    let mut stream = a.stream(&door, a.hello()).await.unwrap();
    let step = async |body: &str| mesh.rest(Method::POST, "/v1/authority/steps", body).await;
    let (status, said) = step("{step: begin}").await;
    assert_eq!(
        (status, &said["roots"][1]["stage"]),
        (StatusCode::OK, &json!("added"))
    );
    let (status, said) = step("{step: switch}").await;
    assert_eq!(status, StatusCode::CONFLICT, "{said}");
    let version = loop {
        match stream.next().await.expect("the stream has ended") {
            Down::Trust(trust) if trust.version > 1 => break trust.version,
            _ => {}
        }
    };
    stream.send(&Up::Trusted { version }).await;
    loop {
        let (_, said) = mesh.rest(Method::GET, "/v1/authority", "").await;
        if said["nodes_behind"] == 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    let (status, said) = step("{step: switch}").await;
    assert_eq!(status, StatusCode::OK, "{said}");
    // By the old certificate, the stream goes on and the next one opens; so does one by the new.
    stream
        .send(&Up::Trusted {
            version: version + 1,
        })
        .await;
    a.stream(&door, a.hello()).await.unwrap();
    let b = Proxy::enrolled(&mesh.door(), "b").await;
    b.stream(&mesh.door(), b.hello()).await.unwrap();
    mesh.stop().await;
}

/// Who a certificate says that it is, and at which node.
fn named(certificate: &Certificate) -> (String, Option<NodeId>) {
    let leaf = CertificateDer::from_pem_slice(certificate.chain_pem.as_bytes()).unwrap();
    let holder = peer_identity(&leaf, "isobar.local").unwrap();
    (holder.id.to_string(), holder.node)
}

#[tokio::test]
async fn the_proxy_of_a_workload_has_its_certificate_and_keeps_it() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let (text, _) = token(&mesh, json!({"workload": "shop/front", "uses_max": 9})).await;
    let node = |name: &str| NodeId::new(name).unwrap();
    let front = (
        "spiffe://isobar.local/ns/shop/sa/front".to_owned(),
        Some(node("till-3")),
    );
    let mut proxy = Proxy::stranger("till-3");
    let first = proxy.enrol(&door, &proxy.ask("till-3", &text)).await;
    let first = first.unwrap();
    assert_eq!(named(&first), front);
    // By its re-enrolment credential, as when the certificate has ended.
    let renewal = first.renewal.clone().unwrap();
    let again = proxy.enrol(&door, &proxy.ask("till-3", &renewal)).await;
    assert_eq!(named(&again.unwrap()), front);
    // By its certificate; for itself alone.
    proxy.certificate = Some(first);
    let renewed = proxy.enrol(&door, &proxy.ask("till-3", "")).await.unwrap();
    assert_eq!(named(&renewed), front);
    proxy.certificate = Some(renewed);
    let other = proxy.enrol(&door, &proxy.ask("till-4", "")).await;
    assert_eq!(other.unwrap_err().0, StatusCode::FORBIDDEN);
    // A request for more than it is.
    for name in ["ns/shop/sa/admin", "node/till-3", "ns/isobar/sa/controller"] {
        let mut params = rcgen::CertificateParams::default();
        let uri = format!("spiffe://isobar.local/{name}");
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        for token in ["", &text] {
            let mut ask = proxy.ask("till-3", token);
            ask.csr_pem = params.serialize_request(&proxy.key).unwrap().pem().unwrap();
            let (status, problem) = proxy.enrol(&door, &ask).await.unwrap_err();
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
            assert!(problem.to_string().contains("#/csr_pem"), "{problem}");
        }
    }
    // A node whose name no DNS name can say.
    let long = "a".repeat(64);
    let (status, problem) = proxy
        .enrol(&door, &proxy.ask(&long, &text))
        .await
        .unwrap_err();
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert!(problem.to_string().contains("#/node"), "{problem}");
    // An operator sees who it is.
    let stream = proxy.stream(&door, proxy.hello()).await.unwrap();
    let (status, shown) = mesh.rest(Method::GET, "/v1/nodes/till-3", "").await;
    assert_eq!(
        (status, &shown["status"]["identity"]),
        (StatusCode::OK, &json!(front.0))
    );
    drop(stream);
    let (_, all) = mesh.rest(Method::GET, "/v1/tokens", "").await;
    let of = |token: &Value| token["workload"] == "shop/front";
    assert!(all["items"].as_array().unwrap().iter().any(of), "{all}");
    mesh.stop().await;
}

#[tokio::test]
async fn the_proxy_of_a_workload_speaks_for_its_node_and_namespace_alone() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let (text, _) = token(&mesh, json!({"workload": "shop/front"})).await;
    let mut proxy = Proxy::stranger("till-3");
    let certificate = proxy.enrol(&door, &proxy.ask("till-3", &text)).await;
    proxy.certificate = Some(certificate.unwrap());
    let refused = async |hello, word: &str| {
        let (status, problem) = proxy.stream(&door, hello).await.err().unwrap();
        assert_eq!(status, StatusCode::FORBIDDEN, "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(word), "{problem}");
    };
    // As another node, and as one that has what another namespace serves.
    refused(Proxy::stranger("till-4").hello(), "till-4").await;
    let mut hello = proxy.hello_at(9.0, 100.0);
    hello.services[0].service = ServiceName::new("bank/pay").unwrap();
    refused(hello, "bank/pay").await;
    let mut stream = proxy
        .stream(&door, proxy.hello_at(9.0, 100.0))
        .await
        .unwrap();
    // It is revoked as every node is, on a stream that stands too.
    let (status, _) = mesh.rest(Method::PUT, "/v1/revocations/till-3", "").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    while stream.next().await.is_some() {}
    let opened = proxy.open(&door, proxy.hello(), Wire::Upgrade).await;
    assert!(opened.is_err(), "a revoked workload got in");
    // Nobody is the controller.
    let asked = json!({"workload": "isobar/controller"}).to_string();
    let (status, problem) = mesh.rest(Method::POST, "/v1/tokens", &asked).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    mesh.stop().await;
}
