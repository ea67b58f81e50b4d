//! A real Prometheus: it scrapes a mesh that moves load, its rules hold, and every query of the dashboards finds data.

#![allow(clippy::unwrap_used)] // A test that meets an error has failed; here is where.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use isobar_mesh_api::message::Location;
use isobar_mesh_api::resource::WeightPolicySpec;
use isobar_replay::cluster::{Cluster, ClusterSpec, Place, addresses};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_isobar-e2e");
/// Longest that anything here may take on the busiest machine; no test depends on it being short.
const PATIENCE: Duration = Duration::from_secs(120);
/// Clients of the first node, each with one request at a time; it works on two.
const CLIENTS: usize = 8;

fn k3s() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join("k3s")
}

/// Whether a program is there. Says so when it is not; under `ISOBAR_TEST_REQUIRE=all` that is a failure.
fn is_there(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        let required = std::env::var("ISOBAR_TEST_REQUIRE").is_ok_and(|v| v == "all");
        assert!(!required, "{program} is not installed");
        eprintln!("skipped: {program} is not installed");
    }
    found
}

#[test]
fn rules_are_sound_and_alert_when_they_should() {
    if !is_there("promtool") {
        return;
    }
    for words in [
        ["check", "rules", "isobar.rules.yaml"],
        ["test", "rules", "isobar.rules.test.yaml"],
    ] {
        let mut command = Command::new("promtool");
        let ran = command
            .args(words)
            .current_dir(k3s().join("prometheus"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned()
            + &String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{words:?}: {said}");
    }
}

/// What stands behind a key at the beginning of lines.
fn values<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines()
        .filter_map(move |line| line.trim().strip_prefix(key))
}

#[test]
fn every_alert_has_a_runbook_and_the_operators_rules_are_the_same() {
    let read = |name: &str| std::fs::read_to_string(k3s().join(name)).unwrap();
    let rules = read("prometheus/isobar.rules.yaml");
    let runbooks = read("../docs/runbooks.md");
    let alerts: BTreeSet<&str> = values(&rules, "- alert: ").collect();
    let headings: BTreeSet<&str> = values(&runbooks, "## ").collect();
    assert_eq!(alerts, headings);
    let body = |text: &str| -> Vec<String> {
        let lines = text.lines().skip_while(|line| line.trim() != "groups:");
        lines.map(|line| line.trim().to_owned()).collect()
    };
    assert_eq!(body(&rules), body(&read("prometheus/prometheusrule.yaml")));
}

/// Expressions of a dashboard's panels, with every service chosen.
fn queries(dashboard: &str) -> Vec<String> {
    let text = std::fs::read_to_string(k3s().join("grafana").join(dashboard)).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let panels = json["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    targets
        .map(|target| target["expr"].as_str().unwrap().replace("$service", ".*"))
        .collect()
}

/// A Prometheus of its own directory; ends when dropped.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// Starts one on a port that was free a moment ago; another port when somebody was faster.
    fn start(controller: SocketAddr, proxies: &[SocketAddr]) -> Prometheus {
        let list = |targets: &[SocketAddr]| {
            let targets: Vec<String> = targets.iter().map(|t| format!("'{t}'")).collect();
            targets.join(", ")
        };
        let rules = k3s().join("prometheus/isobar.rules.yaml");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\nscrape_configs:\n\
             - job_name: controller\n  static_configs: [{{targets: [{}]}}]\n- job_name: proxy\n  static_configs: [{{targets: [{}]}}]\n",
            rules.display(),
            list(&[controller]),
            list(proxies),
        );
        for _ in 0..10 {
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join("prometheus.yaml"), &config).unwrap();
            let free = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap();
            let mut child = Command::new("prometheus")
                .arg("--config.file=prometheus.yaml")
                .arg("--storage.tsdb.path=data")
                .arg(format!("--web.listen-address={free}"))
                .current_dir(directory.path())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut log = BufReader::new(child.stderr.take().unwrap());
            let mut said = String::new();
            while log.read_line(&mut said).unwrap_or(0) > 0 {
                if said.contains("Server is ready") {
                    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
                    return Prometheus {
                        child,
                        address: free,
                        _directory: directory,
                    };
                }
            }
            let _ = child.wait();
            assert!(said.contains("address already in use"), "{said}");
        }
        panic!("no free port");
    }

    fn get(&self, path: &str) -> Value {
        let mut socket = TcpStream::connect(self.address).unwrap();
        write!(socket, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }

    /// How many series a query finds.
    fn found(&self, query: &str) -> usize {
        let escape = |b: u8| match b.is_ascii_alphanumeric() {
            true => char::from(b).to_string(),
            false => format!("%{b:02X}"),
        };
        let escaped: String = query.bytes().map(escape).collect();
        let answer = self.get(&format!("/api/v1/query?query={escaped}"));
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().len()
    }
}

/// Three nodes near each other, two workers of 50 ms each.
fn spec() -> ClusterSpec {
    let place = |node: usize| Place {
        name: format!("n{node}"),
        location: Location {
            lat_deg: 45.46,
            lon_deg: 9.1 + 0.0064 * node as f64,
        },
        workers: 2,
        service: Duration::from_millis(50),
        capacity_rps: Some(40.0),
    };
    ClusterSpec {
        places: (0..3).map(place).collect(),
        rtt: vec![Duration::from_millis(2); 9],
        policy: WeightPolicySpec::default(),
        period_ms: 500,
        seed: 3,
    }
}

/// Sends one request after the other until told to stop.
fn client(ingress: SocketAddr, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut socket) = TcpStream::connect(ingress) else {
            continue;
        };
        let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let mut answer = Vec::new();
        let _ = socket
            .write_all(request)
            .and_then(|()| socket.read_to_end(&mut answer));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_the_dashboards_finds_data_in_a_real_prometheus() {
    if !is_there("prometheus") {
        return;
    }
    let cluster = Cluster::start(Path::new(PROGRAM), spec(), &|_| ())
        .await
        .unwrap();
    let admin = |node| {
        addresses::read(&cluster.node_dir(node).join(addresses::FILE_NAME), "admin").unwrap()
    };
    let prometheus = Prometheus::start(cluster.rest(), &[admin(0), admin(1), admin(2)]);
    let stop = Arc::new(AtomicBool::new(false));
    let hot = cluster.ingress()[0];
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            std::thread::spawn({
                let stop = stop.clone();
                move || client(hot, &stop)
            })
        })
        .collect();
    let rules = std::fs::read_to_string(k3s().join("prometheus/isobar.rules.yaml")).unwrap();
    let mut queries: Vec<String> = [queries("mesh.json"), queries("controller.json")].concat();
    queries.extend(values(&rules, "- record: ").map(str::to_owned));
    let (begun, all) = (Instant::now(), queries.len());
    assert!(all > 30, "{queries:?}");
    while !queries.is_empty() {
        queries.retain(|query| prometheus.found(query) == 0);
        assert!(
            begun.elapsed() < PATIENCE,
            "of {all} queries these found nothing: {queries:#?}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    // Alerts are evaluated without an error.
    let groups = prometheus.get("/api/v1/rules");
    for group in groups["data"]["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            assert_eq!(rule["health"], "ok", "{rule}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    assert!(cluster.stop().await.is_clean());
}
