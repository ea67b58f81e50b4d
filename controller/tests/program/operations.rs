//! What operators do to a mesh that runs: nodes, endpoints, plans, events, everything out and in.

use http::{Method, StatusCode};
use isobar_mesh_api::message::{Down, Up};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::mesh::{Mesh, PATIENCE};
use crate::proxy::{Proxy, Stream, report};

/// Two nodes near each other, `a` with more demand than it has room for.
struct Pair {
    mesh: Mesh,
    at_a: Stream,
    neighbour: tokio::task::JoinHandle<()>,
}

impl Pair {
    async fn start() -> Pair {
        let mesh = Mesh::start().await;
        let door = mesh.door();
        let (a, b) = (
            Proxy::enrolled(&door, "a").await,
            Proxy::enrolled(&door, "b").await,
        );
        let mut at_b = b.stream(&door, b.hello_at(9.1, 100.0)).await.unwrap();
        let neighbour = tokio::spawn(async move {
            while let Some(down) = at_b.next().await {
                match down {
                    Down::Ping { .. } => at_b.send(&Up::Report(report(0))).await,
                    Down::Snapshot(snapshot) => at_b.send(&Up::Ack(snapshot.plan)).await,
                    Down::Delta(delta) => at_b.send(&Up::Ack(delta.plan)).await,
                    _ => {}
                }
            }
        });
        let at_a = a.stream(&door, a.hello_at(9.0, 100.0)).await.unwrap();
        let mut pair = Pair {
            mesh,
            at_a,
            neighbour,
        };
        pair.until(|moved_ppm| moved_ppm > 100_000).await;
        pair
    }

    /// Reports on until the part of `a`'s row that moves to `b` fits.
    async fn until(&mut self, fits: impl Fn(u32) -> bool) {
        let to_b = |row: &isobar_mesh_api::snapshot::Row| {
            fits(row.moves.iter().map(|m| m.weight_ppm).sum())
        };
        self.at_a.until_row(&report(150), to_b).await;
    }

    async fn get(&self, path: &str) -> Value {
        let (status, value) = self.mesh.rest(Method::GET, path, "").await;
        assert_eq!(status, StatusCode::OK, "{path}: {value}");
        value
    }

    async fn post(&self, path: &str, body: &str) -> Value {
        let (status, value) = self.mesh.rest(Method::POST, path, body).await;
        assert!(status.is_success(), "{path}: {status} {value}");
        value
    }

    async fn stop(self) {
        self.mesh.stop().await;
        self.neighbour.await.unwrap();
    }
}

#[tokio::test]
async fn a_cordoned_node_takes_nothing_and_a_drained_one_keeps_nothing() {
    let mut pair = Pair::start().await;
    let tried = pair.post("/v1/nodes/b/cordon?dry_run=true", "").await;
    assert_eq!(
        tried["plan"]["seats"][0]["after"]["row"]["moves"],
        json!([])
    );
    let cordoned = pair.post("/v1/nodes/b/cordon", "").await;
    assert_eq!(cordoned["spec"], json!({"cordoned": true}));
    assert_eq!(cordoned["status"]["declared"], true);
    pair.until(|moved_ppm| moved_ppm == 0).await;
    pair.post("/v1/nodes/b/uncordon", "").await;
    pair.until(|moved_ppm| moved_ppm > 100_000).await;
    pair.post("/v1/nodes/a/drain", "").await;
    pair.until(|moved_ppm| moved_ppm == 1_000_000).await;
    pair.post("/v1/nodes/a/uncordon", "").await;
    pair.until(|moved_ppm| moved_ppm < 1_000_000).await;
    // Where it is stays its own word until somebody says otherwise.
    let node = pair.get("/v1/nodes/a").await;
    assert_eq!(node["spec"], json!({}));
    assert_eq!(node["status"]["position"]["lon_deg"], 9.0);
    let body = "{location: {lat_deg: 45, lon_deg: 10}, region: south}";
    pair.post("/v1/nodes/a/relocate", body).await;
    let node = pair.get("/v1/nodes/a").await;
    assert_eq!(node["status"]["position"]["lon_deg"], 10.0);
    assert_eq!(node["status"]["region"], "south");
    assert_eq!(node["status"]["connected"], true);
    let wrong = "{location: {lat_deg: 95, lon_deg: 10}}";
    let path = "/v1/nodes/a/relocate";
    let (status, problem) = pair.mesh.rest(Method::POST, path, wrong).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(problem["errors"][0]["pointer"], "#/spec/location/lat_deg");
    let (status, _) = pair.mesh.rest(Method::POST, "/v1/nodes/z/drain", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    pair.stop().await;
}

#[tokio::test]
async fn endpoints_come_with_a_lease_and_go_without_a_word() {
    let mut pair = Pair::start().await;
    let list = "/v1/services/shop/cart/endpoints";
    let path = format!("{list}/a/127.0.0.1:9001");
    let body = "{workers: 8, capacity_rps: 500, lease_s: 3600}";
    let tried = format!("{path}?dry_run=true");
    let (_, tried) = pair.mesh.rest(Method::PUT, &tried, body).await;
    assert_eq!(tried["plan"]["services"][0]["after"]["moved_rps"], 0.0);
    let (status, _) = pair.mesh.rest(Method::PUT, &path, body).await;
    assert_eq!(status, StatusCode::CREATED);
    // More capacity at home: nothing moves.
    pair.until(|moved_ppm| moved_ppm == 0).await;
    let (status, _) = pair.mesh.rest(Method::PUT, &path, body).await;
    assert_eq!(status, StatusCode::OK);
    let listed = pair.get(list).await;
    assert_eq!(listed["items"][0]["address"], "127.0.0.1:9001");
    assert!(listed["items"][0]["left_ms"].as_u64().unwrap() > 0);
    assert_eq!(pair.get(&path).await["workers"], 8);
    // A renewal is no change: there is one entry of it.
    let audit = pair.get("/v1/audit").await;
    assert_eq!(audit["items"].as_array().unwrap().len(), 1, "{audit}");
    assert_eq!(audit["items"][0]["name"], "shop/cart/a/127.0.0.1:9001");
    let gone = pair.mesh.rest(Method::DELETE, &path, "").await;
    assert_eq!(gone.0, StatusCode::NO_CONTENT);
    pair.until(|moved_ppm| moved_ppm > 100_000).await;
    let short = "{capacity_rps: 500, lease_s: 1}";
    let (status, _) = pair.mesh.rest(Method::PUT, &path, short).await;
    assert_eq!(status, StatusCode::CREATED);
    let mut lines = watch(&pair.mesh, "last-event-id: 0\r\n").await;
    let expired = |event: &Value| event["event"] == "endpoint_expired";
    let expired = until_event(&mut lines, expired).await;
    assert_eq!(expired["name"], "shop/cart/a/127.0.0.1:9001");
    let (status, _) = pair.mesh.rest(Method::GET, &path, "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    for (path, body, pointer) in [
        (path.as_str(), "{lease_s: 0}", "#/lease_s"),
        (&path, "{workers: 0}", "#/workers"),
        (&path, "{colour: red}", "#/colour"),
        (&format!("{list}/a/nowhere"), "{}", "#/address"),
    ] {
        let (status, problem) = pair.mesh.rest(Method::PUT, path, body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}");
    }
    pair.stop().await;
}

#[tokio::test]
async fn plans_say_who_was_told_and_why_a_row_is_as_it_is() {
    let pair = Pair::start().await;
    let rows = pair.get("/v1/weights?service=shop/cart&node=a").await;
    let row = &rows["items"][0]["row"];
    assert_eq!(rows["items"].as_array().unwrap().len(), 1);
    assert_eq!(row["moves"][0]["to"], "b");
    let plans = pair.get("/v1/plans?limit=1").await;
    let plan = &plans["items"][0];
    assert!(plan["told"].as_u64().unwrap() > 0, "{plans}");
    let (epoch, generation) = (&plan["plan"]["epoch"], &plan["plan"]["generation"]);
    let whole = pair.get(&format!("/v1/plans/{epoch}/{generation}")).await;
    let told = whole["told"].as_object().unwrap();
    assert_eq!(told.len() as u64, plan["told"].as_u64().unwrap());
    let after = plans["after"].as_str().unwrap();
    let older = pair.get(&format!("/v1/plans?after={after}")).await;
    assert!(!older["items"].as_array().unwrap().is_empty());

    let why = pair.get("/v1/explain/shop/cart/a").await;
    assert_eq!(why["policy"]["name"], "default");
    assert_eq!(why["capacity"]["obtained"], "declared");
    assert_eq!(why["capacity"]["planned_rps"], 100.0);
    assert!(why["demand"]["planned_rps"].as_f64().unwrap() > 100.0);
    let neighbour = &why["neighbours"][0];
    assert_eq!(neighbour["node"], "b");
    assert!(neighbour["credit_rps"].as_f64().unwrap() > 0.0);
    assert_eq!(neighbour["rtt_measured"], false);
    assert_eq!(why["held_by"][0]["constraint"], "target");
    let (status, _) = pair
        .mesh
        .rest(Method::GET, "/v1/explain/shop/cart/z", "")
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    pair.stop().await;
}

#[tokio::test]
async fn what_if_answers_and_touches_nothing() {
    let pair = Pair::start().await;
    let calm = json!({"demand": [{"service": "shop/cart", "node": "a", "rps": 10}]});
    let said = pair.post("/v1/what-if", &calm.to_string()).await;
    let service = &said["plan"]["services"][0];
    assert_eq!(service["after"]["moved_rps"], 0.0, "{said}");
    assert!(service["before"]["moved_rps"].as_f64().unwrap() > 20.0);
    let double = json!({"demand": [{"service": "shop/cart", "times": 2}]});
    let said = pair.post("/v1/what-if", &double.to_string()).await;
    let after = &said["plan"]["services"][0]["after"];
    assert!(after["shed_rps"].as_f64().unwrap() > 50.0, "{after}");
    let said = pair.post("/v1/what-if", r#"{"fail": ["b"]}"#).await;
    let seats = said["plan"]["seats"].as_array().unwrap();
    let a = seats.iter().find(|seat| seat["node"] == "a").unwrap();
    assert_eq!(a["after"]["row"]["moves"], json!([]));
    let policy = json!({"resources": [{"kind": "WeightPolicy", "metadata": {"name": "p"}, "spec": {"move_max": 0.0}}]});
    let said = pair.post("/v1/what-if", &policy.to_string()).await;
    assert_eq!(said["plan"]["services"][0]["after"]["policy"], "p");
    let wrong = [
        ("{}", "#"),
        (r#"{"fail": ["z"]}"#, "#/fail/0"),
        (
            r#"{"demand": [{"service": "shop/cart", "times": -1}]}"#,
            "#/demand/0",
        ),
        (
            r#"{"demand": [{"service": "shop/cart", "rps": 1}]}"#,
            "#/demand/0",
        ),
        (
            r#"{"demand": [{"service": "no/such", "times": 1}]}"#,
            "#/demand/0",
        ),
        (
            r#"{"delete": [{"kind": "Weather", "name": "a"}]}"#,
            "#/delete/0/kind",
        ),
        (
            r#"{"resources": [{"kind": "Node", "metadata": {"name": "a"}, "spec": {"x": 1}}]}"#,
            "#/resources/0/spec/x",
        ),
    ];
    for (body, pointer) in wrong {
        let (status, problem) = pair.mesh.rest(Method::POST, "/v1/what-if", body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}");
    }
    let audit = pair.get("/v1/audit").await;
    assert_eq!(audit, json!({"items": []}));
    pair.stop().await;
}

/// The lines of an event stream.
async fn watch(mesh: &Mesh, last: &str) -> BufReader<TcpStream> {
    let address = mesh.addresses().rest;
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /v1/events HTTP/1.1\r\nhost: {address}\r\n{last}\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    BufReader::new(socket)
}

/// Reads on until an event's data fits.
async fn until_event(lines: &mut BufReader<TcpStream>, fits: impl Fn(&Value) -> bool) -> Value {
    let found = async {
        loop {
            let mut line = String::new();
            let read = lines.read_line(&mut line).await.unwrap();
            assert!(read > 0, "the events have ended");
            let data = line.strip_prefix("data: ");
            let event = data.and_then(|data| serde_json::from_str(data).ok());
            if let Some(event) = event.filter(|event| fits(event)) {
                return event;
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    found.expect("no such event came")
}

#[tokio::test]
async fn events_come_as_they_happen_and_missed_ones_are_sent_again() {
    let mesh = Mesh::start().await;
    let mut lines = watch(&mesh, "").await;
    // The head has come: from here on events are heard.
    let mut head = String::new();
    lines.read_line(&mut head).await.unwrap();
    assert!(head.contains("200"), "{head}");
    let node = "{kind: Node, metadata: {name: a}, spec: {}}";
    mesh.rest(Method::PUT, "/v1/nodes/a", node).await;
    let changed = |event: &Value| event["event"] == "resource_changed";
    let first = until_event(&mut lines, changed).await;
    assert_eq!(
        (&first["name"], &first["outcome"]),
        (&"a".into(), &"created".into())
    );
    let door = mesh.door();
    let proxy = Proxy::enrolled(&door, "a").await;
    let stream = proxy.stream(&door, proxy.hello_at(9.0, 1.0)).await.unwrap();
    let connected = |event: &Value| event["event"] == "node_connected";
    let second = until_event(&mut lines, connected).await;
    assert!(second["number"].as_u64() > first["number"].as_u64());
    until_event(&mut lines, |event| event["event"] == "plan_told").await;
    drop(stream);
    until_event(&mut lines, |event| event["event"] == "node_disconnected").await;
    until_event(&mut lines, |event| event["event"] == "node_silent").await;
    let last = format!("last-event-id: {}\r\n", first["number"]);
    let mut again = watch(&mesh, &last).await;
    let missed = until_event(&mut again, |_| true).await;
    assert_eq!(
        missed["number"].as_u64(),
        first["number"].as_u64().map(|n| n + 1)
    );
    // Open streams of events do not hold up the end.
    mesh.stop().await;
}

#[tokio::test]
async fn everything_goes_out_and_comes_in_whole_or_not_at_all() {
    let mesh = Mesh::start().await;
    let rest = |method, path: &str, body: String| {
        let (mesh, path) = (&mesh, path.to_owned());
        async move { mesh.rest(method, &path, &body).await }
    };
    let none = String::new;
    for (path, kind) in [
        ("/v1/nodes/a", "Node"),
        ("/v1/weight-policies/a", "WeightPolicy"),
    ] {
        let text = format!("{{kind: {kind}, metadata: {{name: a}}, spec: {{}}}}");
        rest(Method::PUT, path, text).await;
    }
    let endpoint = "/v1/services/shop/cart/endpoints/a/h:1";
    rest(Method::PUT, endpoint, "{lease_s: 3600}".to_owned()).await;
    let (status, export) = rest(Method::GET, "/v1/export", none()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(export["resources"].as_array().unwrap().len(), 2);
    assert_eq!(export["endpoints"][0]["address"], "h:1");
    let node = "{kind: Node, metadata: {name: z}, spec: {}}".to_owned();
    rest(Method::PUT, "/v1/nodes/z", node).await;
    rest(Method::DELETE, "/v1/weight-policies/a", none()).await;
    let broken = export
        .to_string()
        .replace("\"spec\":{", "\"spec\":{\"x\":1,");
    let (status, problem) = rest(Method::POST, "/v1/import?prune=true", broken).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(problem["errors"][0]["pointer"], "#/resources/0/spec/x");
    let (status, _) = rest(Method::GET, "/v1/nodes/z", none()).await;
    assert_eq!(status, StatusCode::OK);
    let path = "/v1/import?prune=true&dry_run=true";
    let (status, tried) = rest(Method::POST, path, export.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{tried}");
    let path = "/v1/import?prune=true";
    let (status, count) = rest(Method::POST, path, export.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{count}");
    assert_eq!(count, json!({"created": 1, "replaced": 1, "deleted": 1}));
    let (_, again) = rest(Method::GET, "/v1/export", none()).await;
    assert_eq!(again, export);
    let later = export.to_string().replace("\"version\":1", "\"version\":9");
    let (_, problem) = rest(Method::POST, "/v1/import", later).await;
    assert_eq!(problem["errors"][0]["pointer"], "#/version");
    // A registered endpoint outlives the controller, its lease begins anew.
    let Mesh {
        directory,
        program,
        shutdown,
    } = mesh;
    shutdown.cancel();
    program.wait().await.unwrap();
    let mesh = Mesh::start_in(directory).await;
    let (_, after) = mesh.rest(Method::GET, "/v1/export", "").await;
    assert_eq!(after, export);
    mesh.stop().await;
}
