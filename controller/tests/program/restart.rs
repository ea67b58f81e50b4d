//! What a controller finds again after it ended, however it ended.

use http::{Method, StatusCode};
use isobar_controller::program::{Program, ProgramError};
use isobar_controller::store::StoreError;
use tokio_util::sync::CancellationToken;

use crate::mesh::{Mesh, config};
use crate::proxy::Proxy;

const CART: &str = "{kind: Service, metadata: {name: cart, namespace: shop}, spec: {hosts: ['*']}}";

async fn epoch(mesh: &Mesh) -> u64 {
    let (status, view) = mesh.rest(Method::GET, "/v1/status", "").await;
    assert_eq!(status, StatusCode::OK);
    view["plan"]["epoch"].as_u64().unwrap()
}

#[tokio::test]
async fn resources_and_authority_survive_and_the_epoch_rises() {
    let mesh = Mesh::start().await;
    assert_eq!(epoch(&mesh).await, 1);
    let proxy = Proxy::enrolled(&mesh.door(), "a").await;
    let path = "/v1/services/shop/cart";
    assert_eq!(
        mesh.rest(Method::PUT, path, CART).await.0,
        StatusCode::CREATED
    );
    let (roots, token) = (mesh.file("ca.pem"), mesh.file("enrol-token"));
    let Mesh {
        directory,
        program,
        shutdown,
    } = mesh;
    shutdown.cancel();
    program.wait().await.unwrap();
    let mesh = Mesh::start_in(directory).await;
    assert_eq!(epoch(&mesh).await, 2);
    assert_eq!(mesh.rest(Method::GET, path, "").await.0, StatusCode::OK);
    assert_eq!(
        (roots, token),
        (mesh.file("ca.pem"), mesh.file("enrol-token"))
    );
    let mut stream = proxy.stream(&mesh.door(), proxy.hello()).await.unwrap();
    assert_eq!(stream.snapshot().await.plan.epoch, 2);
    mesh.stop().await;
}

#[tokio::test]
async fn a_directory_in_use_is_refused_and_left_alone() {
    let mesh = Mesh::start().await;
    let addresses = mesh.file("addresses.json");
    let second = config(mesh.directory.path());
    let error = Program::start(second, CancellationToken::new())
        .await
        .err()
        .unwrap();
    assert!(
        matches!(&error, ProgramError::Store(StoreError::Locked(_))),
        "{error:?}"
    );
    assert_eq!(mesh.file("addresses.json"), addresses);
    assert_eq!(
        mesh.rest(Method::GET, "/readyz", "").await.0,
        StatusCode::OK
    );
    mesh.stop().await;
}

#[tokio::test]
async fn resource_files_are_applied_at_each_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("mesh.yaml");
    std::fs::write(
        &file,
        format!("- {CART}\n- {{kind: Node, metadata: {{name: a}}, spec: {{}}}}\n"),
    )
    .unwrap();
    let mut with_file = config(directory.path());
    with_file.resources = vec![file.clone()];
    let shutdown = CancellationToken::new();
    let program = Program::start(with_file.clone(), shutdown.clone())
        .await
        .unwrap();
    let addresses = program.addresses();
    let (_, nodes) = crate::mesh::rest(addresses, Method::GET, "/v1/nodes", "").await;
    assert_eq!(nodes["items"][0]["metadata"]["name"], "a");
    shutdown.cancel();
    program.wait().await.unwrap();
    std::fs::write(
        &file,
        "- {kind: Node, metadata: {name: a}, spec: {speed: 1}}",
    )
    .unwrap();
    let error = Program::start(with_file, CancellationToken::new())
        .await
        .err()
        .unwrap();
    let ProgramError::ResourceFile { path, source } = error else {
        panic!("{error:?}");
    };
    assert_eq!((path, source.pointer.as_str()), (file, "#/0/spec/speed"));
}

#[tokio::test]
async fn what_listens_is_known_while_it_listens() {
    let mesh = Mesh::start().await;
    let said: isobar_controller::program::Addresses =
        serde_json::from_str(&mesh.file("addresses.json")).unwrap();
    assert_eq!(said, mesh.addresses());
    let path = mesh.directory.path().join("data/addresses.json");
    let Mesh {
        directory,
        program,
        shutdown,
    } = mesh;
    shutdown.cancel();
    program.wait().await.unwrap();
    assert!(!path.exists());
    drop(directory);
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_end() {
    let mesh = Mesh::start().await;
    let rest = tokio::net::TcpStream::connect(mesh.addresses().rest)
        .await
        .unwrap();
    let stream = tokio::net::TcpStream::connect(mesh.addresses().stream)
        .await
        .unwrap();
    // The drain would wait a minute, as long as this test's patience, for a connection that does not end.
    mesh.rest(Method::GET, "/livez", "").await;
    mesh.stop().await;
    drop((rest, stream));
}
