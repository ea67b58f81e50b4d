//! Access logs: what a line says and does not say, where it goes, and that nobody waits for it.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::listeners::{listener, with_listener};
use crate::support::{
    Authority, HOST, TestEndpoint, TestProxy, config, connected, full, moves_to, nobody, send,
    snapshot, takes_from,
};
use crate::tcp::{Greeter, database, hello, local, talk, with_plan};
use http::{Request, StatusCode};
use isobar_edge_proxy::config::Config;
use isobar_edge_proxy::config::listener::ListenerProtocol;
use isobar_edge_proxy::config::telemetry::{AccessLogConfig, Always, Field, Format, Output, Query};
use isobar_edge_proxy::snapshot_file;
use isobar_mesh_api::message::LocalService;
use isobar_mesh_api::names::ServiceName;
use isobar_mesh_api::snapshot::Snapshot;
use isobar_mesh_api::weight::WHOLE_PPM;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// Every request, in the proxy's directory.
pub fn every_request() -> AccessLogConfig {
    AccessLogConfig {
        share: 1.0,
        ..AccessLogConfig::default()
    }
}

/// A proxy with this snapshot, configured further.
pub async fn proxy_with(
    snapshot: &Snapshot,
    authority: &Authority,
    configure: impl FnOnce(&mut Config),
) -> TestProxy {
    let dir = tempfile::tempdir().unwrap();
    authority.enrol(&dir, &format!("node/{}", snapshot.node));
    snapshot_file::save(dir.path(), snapshot).unwrap();
    let mut config = config(snapshot.node.as_str(), &dir);
    configure(&mut config);
    TestProxy::start(config, dir).await
}

/// The same with one more service, whose endpoint cannot be reached.
pub fn with_nobody(mut snapshot: Snapshot) -> Snapshot {
    let mut service = snapshot.services[0].clone();
    service.service = ServiceName::new("shop/nobody").unwrap();
    service.hosts = vec![NOBODY.to_owned()];
    service.endpoints[0].address = nobody().to_string();
    snapshot.services.push(service);
    snapshot
}

/// Asks that service, in vain.
pub async fn get_from_nobody(proxy: &TestProxy, headers: &[(&str, &str)]) {
    let mut request = Request::get("/").header("host", NOBODY);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (status, ..) = send(proxy.addresses.ingress, request.body(full("")).unwrap()).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
}

const NOBODY: &str = "nobody.example";

/// Waits until `look` sees something.
pub async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The lines of a file, once there are so many.
async fn lines(dir: &Path, count: usize) -> Vec<String> {
    wait_for("the access log is written", || {
        let text = std::fs::read_to_string(dir.join("access.log")).ok()?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count).then_some(lines)
    })
    .await
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[tokio::test]
async fn a_line_says_what_happened_and_tells_no_secret() {
    let a = TestEndpoint::start("a").await;
    let authority = Authority::new();
    let plan = snapshot("a", &a, 8);
    let proxy = proxy_with(&plan, &authority, |config| {
        let mut log = every_request();
        log.headers = vec!["x-tenant".to_owned()];
        log.fields.extend([
            Field::UserAgent,
            Field::RequestLen,
            Field::UpstreamUs,
            Field::Protocol,
        ]);
        config.access_log = Some(log);
    })
    .await;
    let request = Request::post("/echo?user=7&token=s3cret")
        .header("host", HOST)
        .header("authorization", "Bearer s3cret")
        .header("cookie", "session=s3cret")
        .header("x-tenant", "blue")
        .header("user-agent", "a \"quoted\" agent")
        .header(
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        );
    let request = request.body(full("12345")).unwrap();
    let (status, ..) = send(proxy.addresses.ingress, request).await;
    assert_eq!(status, StatusCode::OK);
    let strange = Request::get("/x")
        .header("host", "strange.example")
        .body(full(""))
        .unwrap();
    let (status, ..) = send(proxy.addresses.outbound.unwrap(), strange).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let found = lines(proxy.dir.path(), 2).await;
    assert!(!found.concat().contains("s3cret"), "{found:?}");
    let (first, second) = (json(&found[0]), json(&found[1]));
    let expected = serde_json::json!({
        "node": "a", "direction": "ingress", "client": "127.0.0.1", "method": "POST", "host": HOST,
        "path": "/echo?user=*&token=*", "service": "shop/cart", "status": 200, "outcome": "home",
        "endpoint": a.address.to_string(), "tries": 1, "response_len": 5, "request_len": 5,
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "x-tenant": "blue",
        "user_agent": "a \"quoted\" agent", "protocol": "HTTP/1.1",
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(first[name], *value, "{name}: {first}");
    }
    assert!(first["time"].as_str().unwrap().ends_with('Z'), "{first}");
    assert!(
        first["duration_us"].as_u64() >= first["upstream_us"].as_u64(),
        "{first}"
    );
    let expected = serde_json::json!({
        "direction": "outbound", "status": 404, "outcome": "refused", "path": "/x", "tries": 0,
        "reason": "no service has this host name", "host": "strange.example",
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(second[name], *value, "{name}: {second}");
    }
    assert_eq!(second["service"], Value::Null);
    let (_, metrics) = proxy.admin("GET", "/metrics").await;
    let written = "isobar_proxy_access_log_lines_total{outcome=\"written\"} 2\n";
    assert!(metrics.contains(written), "{metrics}");
    proxy.end().await;
}

#[tokio::test]
async fn a_moved_request_is_told_of_at_both_nodes() {
    let (a, b) = (
        TestEndpoint::start("a").await,
        TestEndpoint::start("b").await,
    );
    let authority = Authority::new();
    let moved_alone = |config: &mut Config| {
        config.access_log = Some(AccessLogConfig {
            share: 0.0,
            always: vec![Always::Moved],
            format: Format::Text,
            query: Query::Whole,
            ..AccessLogConfig::default()
        });
    };
    let receiver = takes_from(snapshot("b", &b, 8), "a");
    let receiver = proxy_with(&receiver, &authority, moved_alone).await;
    let to_b = moves_to(
        snapshot("a", &a, 8),
        "b",
        receiver.addresses.mesh,
        WHOLE_PPM,
    );
    let home = proxy_with(&to_b, &authority, moved_alone).await;
    // An ordinary one is not told of.
    receiver.get("/").await;
    assert_eq!(home.get("/x?a=1%20b").await.2, "b");
    let told = lines(home.dir.path(), 1).await;
    // A value with `=` in it needs quotes.
    for part in [
        " outcome=moved ",
        " to=b ",
        " cause=plan ",
        " path=\"/x?a=1%20b\" ",
    ] {
        assert!(told[0].contains(part), "{part} {told:?}");
    }
    let taken = lines(receiver.dir.path(), 1).await;
    assert!(taken[0].contains(" direction=mesh home=a "), "{taken:?}");
    assert!(
        taken[0].contains(&format!(" endpoint={} ", b.address)),
        "{taken:?}"
    );
    assert_eq!((told.len(), taken.len()), (1, 1));
    home.end().await;
    receiver.end().await;
}

#[tokio::test]
async fn the_share_and_the_always_decide_and_change_while_it_runs() {
    let a = TestEndpoint::start("a").await;
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    authority.enrol(&dir, "node/a");
    snapshot_file::save(dir.path(), &with_nobody(snapshot("a", &a, 8))).unwrap();
    let data_dir = dir.path().to_owned();
    let text = |table: &str| {
        format!(
            "node = \"a\"\ndata_dir = {:?}\nlisten = \"127.0.0.1:0\"\nmesh_listen = \"127.0.0.1:0\"\n\
             admin_listen = \"127.0.0.1:0\"\nworkers = 1\nlimits = {{ drain_idle_ms_max = 20 }}\n{table}",
            data_dir
        )
    };
    let file = dir.path().join("proxy.toml");
    std::fs::write(
        &file,
        text("[access_log]\nshare = 0.0\nalways = [\"errors\"]\n"),
    )
    .unwrap();
    let config = Config::read(&file).unwrap();
    let proxy = TestProxy::start(config, dir).await;
    proxy.get("/").await;
    get_from_nobody(&proxy, &[]).await;
    let told = lines(proxy.dir.path(), 1).await;
    assert_eq!(told.len(), 1, "{told:?}");
    let told = json(&told[0]);
    assert_eq!(
        (&told["outcome"], &told["status"]),
        (&"failed".into(), &502.into())
    );
    std::fs::write(
        &file,
        text("[access_log]\nshare = 1.0\nfields = [\"status\", \"path\"]\n"),
    )
    .unwrap();
    proxy.admin("POST", "/reload").await;
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        proxy.get("/later").await;
        let text = std::fs::read_to_string(proxy.dir.path().join("access.log")).unwrap();
        if text.contains("{\"status\":200,\"path\":\"/later\"}\n") {
            break;
        }
        assert!(Instant::now() < until, "{text}");
    }
    proxy.end().await;
}

#[tokio::test]
async fn syslog_gets_lines_over_udp() {
    let a = TestEndpoint::start("a").await;
    let authority = Authority::new();
    let syslog = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = syslog.local_addr().unwrap();
    let proxy = proxy_with(&snapshot("a", &a, 8), &authority, |config| {
        config.access_log = Some(AccessLogConfig {
            output: Output::Syslog,
            syslog: format!("udp:{at}"),
            fields: vec![Field::Method, Field::Status],
            ..every_request()
        });
    })
    .await;
    proxy.get("/").await;
    let mut datagram = [0; 2048];
    let received = tokio::time::timeout(Duration::from_secs(30), syslog.recv(&mut datagram));
    let len = received.await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&datagram[..len]);
    let parts: Vec<&str> = text.splitn(8, ' ').collect();
    assert_eq!(
        (parts[0], parts[2], parts[3]),
        ("<134>1", "a", "isobar-proxy"),
        "{text}"
    );
    assert_eq!(parts[4], std::process::id().to_string());
    assert_eq!(
        parts[5..],
        ["access", "-", "{\"method\":\"GET\",\"status\":200}"],
        "{text}"
    );
    proxy.end().await;
}

#[tokio::test]
async fn requests_do_not_wait_for_a_full_disk_and_lines_are_counted() {
    let a = TestEndpoint::start("a").await;
    let authority = Authority::new();
    let proxy = proxy_with(&snapshot("a", &a, 8), &authority, |config| {
        config.access_log = Some(AccessLogConfig {
            file: Some("/dev/full".into()),
            ..every_request()
        });
    })
    .await;
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        assert_eq!(proxy.get("/").await.0, StatusCode::OK);
        let (_, metrics) = proxy.admin("GET", "/metrics").await;
        let none = "isobar_proxy_access_log_lines_total{outcome=\"lost\"} 0\n";
        if !metrics.contains(none) {
            assert!(
                metrics.contains("lines_total{outcome=\"written\"} 0\n"),
                "{metrics}"
            );
            break;
        }
        assert!(Instant::now() < until, "{metrics}");
    }
    proxy.end().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_told_of_and_what_was_heard_is_written_at_the_end() {
    let a = TestEndpoint::start("a").await;
    let authority = Authority::new();
    let proxy = proxy_with(&snapshot("a", &a, 8), &authority, |config| {
        config.access_log = Some(every_request());
    })
    .await;
    let request = Request::get("/hold")
        .header("host", HOST)
        .body(full(""))
        .unwrap();
    let leaving = tokio::spawn(send(proxy.addresses.ingress, request));
    a.arrival().await;
    leaving.abort();
    let told = json(&lines(proxy.dir.path(), 1).await[0]);
    assert_eq!(
        (&told["outcome"], &told["status"]),
        (&"gone".into(), &499.into()),
        "{told}"
    );
    proxy.get("/last").await;
    let dir = proxy.end().await;
    let text = std::fs::read_to_string(dir.path().join("access.log")).unwrap();
    assert!(text.contains("\"path\":\"/last\""), "{text}");
}

/// Everything that is known of connections, whether they are drawn or not.
fn every_connection() -> AccessLogConfig {
    AccessLogConfig {
        fields: [&Field::DEFAULT[..], &[Field::Protocol]].concat(),
        ..every_request()
    }
}

#[tokio::test]
async fn connections_are_told_of_with_their_bytes_or_why_nobody_got_them() {
    let greeter = Greeter::start().await;
    let mut own = listener(ListenerProtocol::Tcp);
    own.service = Some(database());
    let mut by_name = listener(ListenerProtocol::TlsPassthrough);
    by_name.name = "by-name".to_owned();
    by_name.by_server_name = [("db.example".to_owned(), database())].into();
    let mut connects = listener(ListenerProtocol::Http);
    connects.name = "connects".to_owned();
    connects.connect = true;
    let proxy = with_listener(greeter.address, own, |config| {
        config.services = vec![local(greeter.address)];
        config.listeners.extend([by_name, connects]);
        config.access_log = Some(every_connection());
    })
    .await;
    talk(proxy.own(), 1000).await;
    let told = json(&lines(proxy.dir.path(), 1).await[0]);
    let expected = serde_json::json!({
        "node": "a", "direction": "ingress", "client": "127.0.0.1", "host": proxy.own().to_string(), "service": "shop/db",
        "outcome": "home", "request_len": 1000, "response_len": 1008, "endpoint": greeter.address.to_string(), "tries": 1,
        "protocol": "TCP",
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(told[name], *value, "{name}: {told}");
    }
    for none in ["method", "path", "status", "reason"] {
        assert_eq!(told[none], Value::Null, "{none}: {told}");
    }
    // Nobody is called so.
    let mut strange = TcpStream::connect(proxy.addresses.listeners["by-name"])
        .await
        .unwrap();
    strange.write_all(&hello("other.example")).await.unwrap();
    assert_eq!(strange.read(&mut [0; 8]).await.unwrap_or(0), 0);
    let told = json(&lines(proxy.dir.path(), 2).await[1]);
    assert_eq!(
        (&told["outcome"], &told["reason"], &told["service"]),
        (&"refused".into(), &"no service for it".into(), &Value::Null)
    );
    // What an HTTP client asked for by CONNECT is a request and a connection.
    for (named, expected) in [
        ("db.shop", ["home", "200"]),
        ("none.shop", ["refused", "404"]),
    ] {
        let mut client = TcpStream::connect(proxy.addresses.listeners["connects"])
            .await
            .unwrap();
        let asked = format!("CONNECT {named}:5432 HTTP/1.1\r\nhost: {named}:5432\r\n\r\n");
        client.write_all(asked.as_bytes()).await.unwrap();
        let mut head = [0; 12];
        client.read_exact(&mut head).await.unwrap();
        assert_eq!(&head[9..], expected[1].as_bytes(), "{named}");
        client.shutdown().await.unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
    }
    let all = lines(proxy.dir.path(), 4).await;
    assert_eq!(all.len(), 4, "{all:?}");
    let (opened, refused) = (json(&all[2]), json(&all[3]));
    let expected = serde_json::json!({
        "method": "CONNECT", "status": 200, "service": "shop/db", "outcome": "home", "response_len": 8,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(opened[name], *value, "{name}: {opened}");
    }
    assert_eq!(refused["status"], 404, "{refused}");
    proxy.end().await;
}

#[tokio::test]
async fn of_connections_the_failed_and_the_moved_are_always_told_of() {
    let (a, b) = (Greeter::start().await, Greeter::start().await);
    let unused = TestEndpoint::start("unused").await;
    let authority = Authority::new();
    let plan = takes_from(snapshot("b", &unused, 8), "a");
    let moved = || AccessLogConfig {
        share: 0.0,
        always: vec![Always::Errors, Always::Moved],
        ..AccessLogConfig::default()
    };
    let receiver = with_plan(plan, &b, &authority, |config| {
        config.access_log = Some(moved());
    })
    .await;
    let mesh = receiver.addresses.mesh;
    let plan = moves_to(snapshot("a", &unused, 8), "b", mesh, WHOLE_PPM);
    let nobody = nobody();
    let home = with_plan(plan, &a, &authority, |config| {
        config.services.push(LocalService {
            service: ServiceName::new("shop/nobody").unwrap(),
            ..local(nobody)
        });
        let mut to_nobody = listener(ListenerProtocol::Tcp);
        to_nobody.name = "to-nobody".to_owned();
        to_nobody.service = Some(ServiceName::new("shop/nobody").unwrap());
        config.listeners.push(to_nobody);
        config.access_log = Some(moved());
    })
    .await;
    talk(home.own(), 10).await;
    let told = json(&lines(receiver.dir.path(), 1).await[0]);
    let expected = serde_json::json!({
        "direction": "mesh", "home": "a", "client": "127.0.0.1", "outcome": "home", "request_len": 10, "response_len": 18,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(told[name], *value, "{name}: {told}");
    }
    let told = json(&lines(home.dir.path(), 1).await[0]);
    let expected = serde_json::json!({
        "outcome": "moved", "to": "b", "cause": "plan", "request_len": 10, "response_len": 18,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(told[name], *value, "{name}: {told}");
    }
    let mut failed = connected(home.addresses.listeners["to-nobody"]);
    assert!(failed.read(&mut [0; 8]).await.is_err());
    let told = json(&lines(home.dir.path(), 2).await[1]);
    assert_eq!(
        (&told["outcome"], &told["reason"], &told["service"]),
        (
            &"failed".into(),
            &"nobody has room".into(),
            &"shop/nobody".into()
        )
    );
    home.end().await;
    receiver.end().await;
}
