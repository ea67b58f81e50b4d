//! The proxy as it is shipped for ARM, run by qemu: it enrols, forwards, takes what is moved to it, reports and drains.
//!
//! `k3s/build-arm.sh --target aarch64 proxy` makes it; `ISOBAR_ARM_PROXY` names another, for 64 or 32 bits. Its image is made and
//! read back as well.

#![allow(clippy::unwrap_used)] // A test that meets an error has failed; here is where.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};

use isobar_tests::process::{PATIENCE, Process, wait_for};
use serde_json::{Value, json};

/// Runs programs for aarch64.
const QEMU_64: &str = "qemu-aarch64-static";
/// Runs programs for armv7.
const QEMU_32: &str = "qemu-arm-static";
/// Where an ELF file says how wide its machine is, and what it says if that is 32 bits.
const ELF_CLASS: (usize, u8) = (4, 1);
/// Checks images.
const SKOPEO: &str = "skopeo";
/// Largest image of the proxy, in bytes.
const IMAGE_LEN_MAX: u64 = 8_000_000;

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_owned()
}

/// Whether the ARM proxy is for boards of 32 bits.
fn is_narrow() -> bool {
    let program = fs::read(named_proxy()).unwrap_or_default();
    program.get(ELF_CLASS.0) == Some(&ELF_CLASS.1)
}

/// The qemu that runs the ARM proxy.
fn qemu() -> &'static str {
    match is_narrow() {
        true => QEMU_32,
        false => QEMU_64,
    }
}

fn named_proxy() -> PathBuf {
    let named = std::env::var_os("ISOBAR_ARM_PROXY").map(PathBuf::from);
    named.unwrap_or_else(|| root().join("target/arm/out/aarch64/isobar-proxy"))
}

/// The ARM proxy, if it and the program that a test needs beside it are there. What is missing is said, and is a
/// failure under `ISOBAR_TEST_REQUIRE=all`.
fn arm_proxy(needed: &str) -> Option<PathBuf> {
    let proxy = named_proxy();
    let runs = Command::new(needed)
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    let missing = match (proxy.exists(), runs.is_ok()) {
        (true, true) => return Some(proxy),
        (false, _) => format!("{} (k3s/build-arm.sh makes it)", proxy.display()),
        (_, false) => needed.to_owned(),
    };
    assert!(
        std::env::var("ISOBAR_TEST_REQUIRE").as_deref() != Ok("all"),
        "ISOBAR_TEST_REQUIRE=all, and there is no {missing}"
    );
    println!("skipped: there is no {missing}");
    None
}

fn started(command: &mut Command) -> Process {
    Process(command.stdin(Stdio::null()).spawn().unwrap())
}

/// One HTTP/1.1 exchange on a connection of its own: status and body.
fn exchange(to: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(to).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}

/// An endpoint that says its name, and keeps requests for `/held` until they are let go.
struct Endpoint {
    address: SocketAddr,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

#[derive(Default)]
struct Gate {
    held: usize,
    is_open: bool,
}

impl Endpoint {
    fn start(name: &'static str) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let gate: Arc<(Mutex<Gate>, Condvar)> = Arc::default();
        let shared = gate.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let gate = shared.clone();
                std::thread::spawn(move || serve(stream, name, &gate));
            }
        });
        Endpoint { address, gate }
    }

    /// Waits until a request is held.
    fn wait_held(&self) {
        let gate = self.gate.0.lock().unwrap();
        let waited = self
            .gate
            .1
            .wait_timeout_while(gate, PATIENCE, |g| g.held == 0);
        assert!(!waited.unwrap().1.timed_out(), "no request came");
    }

    fn let_go(&self) {
        self.gate.0.lock().unwrap().is_open = true;
        self.gate.1.notify_all();
    }
}

fn serve(stream: TcpStream, name: &str, gate: &(Mutex<Gate>, Condvar)) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        if head.starts_with("GET /held ") {
            let mut state = gate.0.lock().unwrap();
            state.held += 1;
            gate.1.notify_all();
            drop(gate.1.wait_while(state, |g| !g.is_open).unwrap());
        }
        let length = name.len();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{name}");
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn read_json(file: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

fn address(value: &Value) -> SocketAddr {
    value.as_str().unwrap().parse().unwrap()
}

/// What a test's programs are told: a controller, node `arm`, and node `home`, which has no endpoint of its own.
fn write_files(dir: &Path, endpoint: &Endpoint) {
    let node = |name: &str, lon: f64| json!({"kind": "Node", "metadata": {"name": name}, "spec": {"location": {"lat_deg": 45.0, "lon_deg": lon}}});
    let endpoints = json!([{"node": "arm", "address": endpoint.address.to_string()}]);
    let resources = json!([
        node("arm", 9.0),
        node("home", 9.01),
        {"kind": "Service", "metadata": {"name": "cart", "namespace": "shop"}, "spec": {"hosts": ["*"], "endpoints": endpoints}},
        {"kind": "WeightPolicy", "metadata": {"name": "all-to-arm"},
         "spec": {"algorithm": "static", "static_weights": {"home": {"arm": 1_000_000}}}},
    ]);
    fs::write(dir.join("mesh.json"), resources.to_string()).unwrap();
    let text = format!(
        "data_dir = '{0}/controller'\nrest_listen = '127.0.0.1:0'\nrest_open = true\nenrol_open = true\nstream_listen = '127.0.0.1:0'\nperiod_ms = 250\n\
         resources = ['{0}/mesh.json']\n",
        dir.display()
    );
    fs::write(dir.join("controller.toml"), text).unwrap();
}

fn write_proxy(dir: &Path, name: &str, controller: SocketAddr) -> PathBuf {
    let text = format!(
        "node = '{name}'\ndata_dir = '{0}/{name}'\ncontroller = '{controller}'\nca_file = '{0}/controller/ca.pem'\n\
         token_file = '{0}/controller/enrol-token'\nlisten = '127.0.0.1:0'\nmesh_listen = '127.0.0.1:0'\n\
         admin_listen = '127.0.0.1:0'\nworkers = 1\nreport_cpu = false\n",
        dir.display()
    );
    let file = dir.join(format!("{name}.toml"));
    fs::write(&file, text).unwrap();
    file
}

#[test]
fn an_arm_proxy_enrols_forwards_takes_moves_reports_and_drains() {
    let Some(program) = arm_proxy(qemu()) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let endpoint = Endpoint::start("served");
    write_files(dir, &endpoint);
    let ours = env!("CARGO_BIN_EXE_isobar-e2e");
    let mut command = Command::new(ours);
    let _controller = started(
        command
            .args(["controller", "--config"])
            .arg(dir.join("controller.toml")),
    );
    let told = wait_for("controller", || {
        read_json(&dir.join("controller/addresses.json"))
    });
    let (rest, stream) = (address(&told["rest"]), address(&told["stream"]));

    let config = write_proxy(dir, "arm", stream);
    let mut arm = started(
        Command::new(qemu())
            .arg(&program)
            .arg("--config")
            .arg(config),
    );
    let config = write_proxy(dir, "home", stream);
    let _home = started(Command::new(ours).args(["proxy", "--config"]).arg(config));
    let listens = |name: &str| {
        let file = dir.join(name).join("addresses.json");
        wait_for("proxy", || read_json(&file))
    };
    let (arm_at, home_at) = (listens("arm"), listens("home"));
    let arm_admin = address(&arm_at["admin"]);

    // Its own clients, by the snapshot that came over the control stream.
    let served = (200, "served".to_owned());
    wait_for("answer from the ARM proxy", || {
        (exchange(address(&arm_at["ingress"]), "GET", "/", "") == served).then_some(())
    });
    // Another node's, over mutual TLS.
    let moved_in = || {
        // 503 until it has a plan: it has no endpoint of its own.
        exchange(address(&home_at["ingress"]), "GET", "/", "");
        let (_, metrics) = exchange(arm_admin, "GET", "/metrics", "");
        let taken = metrics.lines().any(|line| {
            line.starts_with("isobar_proxy_requests_moved_in_total") && !line.ends_with(" 0")
        });
        taken.then_some(())
    };
    wait_for("moved request at the ARM proxy", moved_in);
    // The controller hears of both.
    wait_for("report of the ARM proxy", || {
        exchange(address(&arm_at["ingress"]), "GET", "/", "");
        let (status, body) = exchange(rest, "GET", "/v1/status", "");
        assert_eq!(status, 200, "{body}");
        let status: Value = serde_json::from_str(&body).unwrap();
        let seats = status["services"][0]["nodes"].as_array()?;
        let seat = seats.iter().find(|seat| seat["node"] == "arm")?;
        let heard = seat["demand_rps"].as_f64()? > 0.0;
        let live = status["nodes"].as_array()?.iter().any(|node| {
            node["node"] == "arm" && node["connected"] == true && !node["acked"].is_null()
        });
        (heard && live).then_some(())
    });
    // A request under way ends well, then the process does.
    let ingress = address(&arm_at["ingress"]);
    let held = std::thread::spawn(move || exchange(ingress, "GET", "/held", ""));
    endpoint.wait_held();
    assert_eq!(exchange(arm_admin, "POST", "/drain", "").0, 202);
    endpoint.let_go();
    assert_eq!(held.join().unwrap(), served);
    assert_eq!(arm.0.wait().unwrap().code(), Some(0));
}

#[test]
fn the_image_is_small_reproducible_and_runs_as_nobody() {
    let Some(program) = arm_proxy(SKOPEO) else {
        return;
    };
    let (platform, architecture) = match is_narrow() {
        true => ("arm/v7", "arm"),
        false => ("arm64", "arm64"),
    };
    let directory = tempfile::tempdir().unwrap();
    let make = |file: &str| {
        let out = directory.path().join(file);
        let native = env!("CARGO_BIN_EXE_isobar-e2e");
        let made = Command::new(root().join("k3s/image.py"))
            .args([
                &out,
                Path::new("isobar-proxy:test"),
                Path::new("isobar-proxy"),
            ])
            .arg(format!("{platform}={}", program.display()))
            .arg(format!("amd64={native}"))
            .status();
        assert!(made.unwrap().success());
        out
    };
    let (one, two) = (make("one.tar"), make("two.tar"));
    assert_eq!(fs::read(&one).unwrap(), fs::read(two).unwrap());

    let inspect = |arguments: &[&str]| -> Value {
        let said = Command::new(SKOPEO)
            .args(["inspect", "--override-arch", architecture])
            .args(arguments)
            .arg(format!("oci-archive:{}", one.display()))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{error}");
        serde_json::from_slice(&said.stdout).unwrap()
    };
    let image = inspect(&[]);
    assert_eq!(image["Architecture"], architecture);
    assert_eq!(image["Layers"].as_array().unwrap().len(), 1);
    // What a node stores, unpacked; what it fetches is half of it.
    let size = fs::metadata(&program).unwrap().len();
    assert!(size <= IMAGE_LEN_MAX, "{size} bytes");
    let config = inspect(&["--config"]);
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"], json!(["/isobar-proxy"]));
    let index = inspect(&["--raw"]);
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
}
