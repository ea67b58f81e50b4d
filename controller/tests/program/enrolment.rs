//! Who gets a certificate, and who gets in with it.

use http::StatusCode;
use isobar_mesh_api::enrol::{ENROL_LEN_MAX, ENROL_PATH};

use crate::mesh::{Door, Mesh};
use crate::proxy::Proxy;

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
    let longer = format!("{}0", door.token);
    let shorter = &door.token[..door.token.len() - 1];
    for wrong in ["", "x", &longer, shorter, &"0".repeat(64)] {
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
    let opened = proxy.open(&mesh.door(), proxy.hello(), 1 << 20).await;
    assert!(opened.is_err(), "a stream was opened");
    let wrong_roots = Door {
        roots_pem: other.door().roots_pem,
        ..mesh.door()
    };
    let trusting = Proxy::stranger("a");
    let opened = trusting.open(&wrong_roots, trusting.hello(), 1 << 20).await;
    assert!(opened.is_err(), "the controller was believed");
    mesh.stop().await;
    other.stop().await;
}
