//! Proxies beside workloads: whose their calls are, at home and where they are served.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use http::{Request, StatusCode};
use isobar_edge_proxy::config::Config;
use isobar_edge_proxy::config::listener::{ListenerConfig, ListenerProtocol};
use isobar_edge_proxy::config::sources::Sources;
use isobar_mesh_api::snapshot::Snapshot;
use isobar_mesh_api::weight::WHOLE_PPM;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::access::{ISSUER, Issuer, claims, guarded, jwks, start};
use crate::listeners::listener;
use crate::support::{
    Authority, HOST, TestEndpoint, TestProxy, config, connect_http2, full, moves_to, send,
    snapshot, takes_from,
};
use crate::tcp::{Greeter, database, talk, to_database, with_plan};
use crate::wire::Wire;

const FRONT: &str = "spiffe://isobar.local/ns/shop/sa/front";

/// The proxy beside a workload, `namespace/account`, at the snapshot's node.
async fn beside(
    account: &str,
    plan: &Snapshot,
    authority: &Authority,
    change: impl FnOnce(&mut Config),
) -> TestProxy {
    let dir = tempfile::tempdir().unwrap();
    authority.enrol_beside(dir.path(), account, plan.node.as_str());
    let mut config = config(plan.node.as_str(), &dir);
    change(&mut config);
    start(config, dir, plan).await
}

/// A home without endpoints whose plan sends everything to b. It judges nothing: its plan has no policy.
fn sends_all(name: &str, unused: &TestEndpoint, receiver: &TestProxy) -> Snapshot {
    let mut plan = moves_to(
        snapshot(name, unused, 8),
        "b",
        receiver.addresses.mesh,
        WHOLE_PPM,
    );
    plan.services[0].endpoints.clear();
    plan
}

fn by_identity() -> Value {
    json!({"allow": [{"from": [{"identities": [FRONT]}]}]})
}

#[tokio::test]
async fn a_receiver_lets_in_by_the_identity_of_the_certificate() {
    let (endpoint, unused) = (
        TestEndpoint::start("b").await,
        TestEndpoint::start("unused").await,
    );
    let (ours, authority) = (
        guarded(snapshot("b", &endpoint, 8), &[by_identity()]),
        Authority::new(),
    );
    let ours = ["a", "c", "d"]
        .iter()
        .fold(ours, |plan, home| takes_from(plan, home));
    let receiver = TestProxy::with_snapshot(&ours, &authority).await;
    for (name, account, expected) in [
        ("a", "shop/front", StatusCode::OK),
        ("c", "shop/back", StatusCode::FORBIDDEN),
        ("d", "mail/front", StatusCode::FORBIDDEN),
    ] {
        let plan = sends_all(name, &unused, &receiver);
        let home = beside(account, &plan, &authority, |_| {}).await;
        let (status, headers, body) = home.get("/").await;
        assert_eq!(status, expected, "{account}");
        // Nobody is told why.
        let told = format!("{body} {headers:?}");
        assert!(
            !told.contains("policy-0") && !told.contains("front"),
            "{told}"
        );
        if expected == StatusCode::FORBIDDEN {
            // A gRPC client is told in its own words.
            let mut client = connect_http2(home.addresses.ingress).await;
            let call = Request::post(format!("http://{HOST}/shop.Cart/Get"));
            let call = call.header("content-type", "application/grpc");
            let answer = client.send_request(call.body(full("")).unwrap()).await;
            let answer = answer.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.headers()["grpc-status"], "7");
        }
        home.end().await;
    }
    assert_eq!((endpoint.served(), unused.served()), (1, 0));
    receiver
        .metric("isobar_proxy_access_refused_total{cause=\"policy\"} 4")
        .await;
    // A node is believed to have judged.
    let home = TestProxy::with_snapshot(&sends_all("a", &unused, &receiver), &authority).await;
    assert_eq!(home.get("/").await.0, StatusCode::OK);
    home.end().await;
    receiver.end().await;
}

#[tokio::test]
async fn what_of_a_policy_a_receiver_looks_at() {
    let (endpoint, unused) = (
        TestEndpoint::start("b").await,
        TestEndpoint::start("unused").await,
    );
    let authority = Authority::new();
    let from = |who: Value| json!({"allow": [{"from": [who]}]});
    let cases = [
        (from(json!({"namespaces": ["shop"]})), 200),
        (from(json!({"namespaces": ["mail"]})), 403),
        (from(json!({"nodes": ["a"]})), 200),
        (from(json!({"nodes": ["b"]})), 403),
        // Where the connection to the mesh port comes from.
        (from(json!({"addresses": ["127.0.0.0/8"]})), 200),
        (from(json!({"addresses": ["10.0.0.0/8"]})), 403),
        // Which only its home can know.
        (
            json!({"allow": [{"from": [{"identities": [FRONT], "regions": ["north"]}], "to": [{"ports": [80]}]}]}),
            200,
        ),
        (json!({"allow": [{"to": [{"methods": ["POST"]}]}]}), 403),
        (json!({"deny": [{"from": [{"identities": [FRONT]}]}]}), 403),
        (json!({"deny": [{"to": [{"paths": ["/admin*"]}]}]}), 200),
        (json!({"mtls": {"mode": "strict"}}), 200),
        (
            json!({"tokens": [{"issuer": ISSUER, "audiences": ["shop"], "jwks": jwks(&[]), "required": true}]}),
            401,
        ),
        (json!({"default": "deny", "audit": true}), 200),
    ];
    for (policy, expected) in cases {
        let plan = guarded(snapshot("b", &endpoint, 8), std::slice::from_ref(&policy));
        let receiver = TestProxy::with_snapshot(&takes_from(plan, "a"), &authority).await;
        let plan = sends_all("a", &unused, &receiver);
        let home = beside("shop/front", &plan, &authority, |_| {}).await;
        assert_eq!(home.get("/").await.0, expected, "{policy}");
        if policy["audit"] == true {
            let watched = "isobar_proxy_access_would_refuse_total 1";
            receiver.metric(watched).await;
        }
        home.end().await;
        receiver.end().await;
    }
}

#[tokio::test]
async fn claims_are_those_of_the_token_and_not_of_a_workloads_proxy() {
    let (endpoint, unused) = (
        TestEndpoint::start("b").await,
        TestEndpoint::start("unused").await,
    );
    let (authority, issuer) = (Authority::new(), Issuer::new("a"));
    let policy = json!({
        "default": "allow",
        "tokens": [{"issuer": ISSUER, "audiences": ["shop"], "jwks": jwks(&[&issuer]),
            "claims_to_headers": {"sub": "x-user"}}],
    });
    let plan = guarded(snapshot("b", &endpoint, 8), &[policy]);
    let receiver = TestProxy::with_snapshot(&takes_from(plan, "a"), &authority).await;
    let plan = sends_all("a", &unused, &receiver);
    let home = beside("shop/front", &plan, &authority, |_| {}).await;
    let ask = async |token: Option<&str>| {
        let mut request = Request::get("/headers").header("host", HOST);
        request = request.header("x-user", "root");
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        send(home.addresses.ingress, request.body(full("")).unwrap()).await
    };
    let (status, _, seen) = ask(None).await;
    assert_eq!(status, StatusCode::OK);
    assert!(!seen.contains("x-user"), "{seen}");
    let good = issuer.bearer(claims("ann"));
    // The keys are there a moment after the policy.
    let seen = loop {
        match ask(Some(&good)).await {
            (StatusCode::OK, _, seen) => break seen,
            (status, _, _) => assert_eq!(status, StatusCode::UNAUTHORIZED),
        }
    };
    assert!(
        seen.contains("x-user: ann\n") && !seen.contains("root"),
        "{seen}"
    );
    home.end().await;
    receiver.end().await;
}

#[tokio::test]
async fn connections_are_judged_by_the_certificate_too() {
    let greeter = Greeter::start().await;
    let unused = TestEndpoint::start("unused").await;
    let authority = Authority::new();
    let plan = guarded(snapshot("b", &unused, 8), &[by_identity()]);
    let plan = ["a", "c"]
        .iter()
        .fold(plan, |plan, home| takes_from(plan, home));
    let receiver = with_plan(plan, &greeter, &authority, |_| {}).await;
    let mut connects: ListenerConfig = listener(ListenerProtocol::Http);
    connects.connect = true;
    let home = async |name, account, own: ListenerConfig| {
        let mut plan = sends_all(name, &unused, &receiver);
        plan.services[0].service = database();
        plan.services[0].hosts = Vec::new();
        let push = |config: &mut Config| config.listeners.push(own);
        beside(account, &plan, &authority, push).await
    };
    let connect = async |home: &TestProxy| {
        let mut client = Wire::connect(home.own()).await;
        let head = "CONNECT db.shop:5432 HTTP/1.1\r\nhost: db.shop:5432\r\n\r\n";
        client.send(head).await;
        client.head().await
    };
    let front = home("a", "shop/front", to_database()).await;
    talk(front.own(), 70_000).await;
    front.end().await;
    let front = home("a", "shop/front", connects.clone()).await;
    let head = connect(&front).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    front.end().await;
    let back = home("c", "shop/back", to_database()).await;
    let mut stream = TcpStream::connect(back.own()).await.unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
    back.end().await;
    let back = home("c", "shop/back", connects).await;
    let head = connect(&back).await;
    assert!(!head.starts_with("HTTP/1.1 200 "), "{head}");
    back.end().await;
    receiver
        .metric("isobar_proxy_requests_moved_in_total{service=\"shop/db\",home=\"c\"} 0")
        .await;
    receiver
        .metric("isobar_proxy_access_refused_total{cause=\"policy\"} 2")
        .await;
    receiver.end().await;
}

/// An address of this machine that is not loopback, if it has one.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Sends nothing: it asks for the way there (RFC 5737).
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback()).then_some(own)
}

#[tokio::test]
async fn at_home_it_is_the_workload_that_calls_on_loopback() {
    let endpoint = TestEndpoint::start("home").await;
    let authority = Authority::new();
    let policies = [by_identity(), json!({"mtls": {"mode": "strict"}})];
    let plan = guarded(snapshot("a", &endpoint, 4), &policies);
    let everywhere = |config: &mut Config| {
        config.listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    };
    let proxy = beside("shop/front", &plan, &authority, everywhere).await;
    let port = proxy.addresses.ingress.port();
    let ask = async |ip: IpAddr| {
        let request = Request::get("/").header("host", HOST);
        let request = request.header("x-forwarded-for", "127.0.0.1");
        send(SocketAddr::new(ip, port), request.body(full("")).unwrap())
            .await
            .0
    };
    assert_eq!(ask(Ipv4Addr::LOCALHOST.into()).await, StatusCode::OK);
    match own_address() {
        Some(own) => assert_eq!(ask(own).await, StatusCode::FORBIDDEN, "{own}"),
        None => println!("skipped: this machine has no address but loopback"),
    }
    proxy.end().await;
    // Another workload; and somebody who is trusted to say for whom it asks, and so is not the workload.
    let proxy = beside("shop/back", &plan, &authority, |_| {}).await;
    assert_eq!(proxy.get("/").await.0, StatusCode::FORBIDDEN);
    proxy.end().await;
    let proxy = beside("shop/front", &plan, &authority, |config| {
        config.trusted_sources = Sources::new(vec!["127.0.0.1".parse().unwrap()]);
    })
    .await;
    assert_eq!(proxy.get("/").await.0, StatusCode::FORBIDDEN);
    proxy.end().await;
    assert_eq!(endpoint.served(), 1, "a refused call was served");
}

#[tokio::test]
async fn the_proxy_of_a_workload_is_a_neighbour_by_its_node_alone() {
    let (a, b) = (
        TestEndpoint::start("a").await,
        TestEndpoint::start("b").await,
    );
    let authority = Authority::new();
    let plan = takes_from(snapshot("b", &b, 8), "a");
    let receiver = beside("shop/front", &plan, &authority, |_| {}).await;
    for (name, served) in [("b", "b"), ("c", "a")] {
        let mesh = receiver.addresses.mesh;
        let plan = moves_to(snapshot("a", &a, 8), name, mesh, WHOLE_PPM);
        let home = TestProxy::with_snapshot(&plan, &authority).await;
        assert_eq!(home.get("/").await.2, served, "{name}");
        home.end().await;
    }
    receiver.end().await;
}
