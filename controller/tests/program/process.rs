//! The binary: signals, kill -9, a directory in use.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use http::Method;
use isobar_controller::program::Addresses;
use isobar_mesh_api::message::{Down, Up};

use crate::mesh::{Door, rest};
use crate::proxy::{Proxy, Stream, report, row};

/// A controller of its own process; killed when dropped.
struct Process {
    child: Child,
    door: Door,
    log: std::thread::JoinHandle<String>,
}

fn command(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isobar-controller"));
    command
        .arg("--data-dir")
        .arg(directory.join("data"))
        .args([
            "--rest-listen",
            "127.0.0.1:0",
            "--stream-listen",
            "127.0.0.1:0",
        ])
        .args([
            "--rest-open",
            "--enrol-open",
            "--period-ms",
            "200",
            "--log",
            "info",
        ])
        .env_remove("ISOBAR_LOG")
        .stderr(Stdio::piped());
    command
}

impl Process {
    /// Returns when the process says that it listens.
    fn start(directory: &Path) -> Process {
        Process::of(command(directory), directory)
    }

    fn of(mut command: Command, directory: &Path) -> Process {
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("listening") {
            let read = log.read_line(&mut said).unwrap();
            assert!(read > 0, "the controller ended: {said}");
        }
        let log = std::thread::spawn(move || {
            let mut rest = String::new();
            log.read_to_string(&mut rest).unwrap();
            rest
        });
        let text = std::fs::read_to_string(directory.join("data/addresses.json")).unwrap();
        let addresses: Addresses = serde_json::from_str(&text).unwrap();
        Process {
            child,
            door: Door::new(directory, addresses),
            log,
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.log.join().unwrap();
    }

    /// SIGTERM, and the end it leads to.
    fn terminate(mut self) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        let status = self.child.wait().unwrap();
        (status.code(), self.log.join().unwrap())
    }
}

/// An idle neighbour that reports whenever it hears something, until its stream ends.
fn idle(mut stream: Stream) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(down) = stream.next().await {
            if let Down::Ping { .. } = down {
                stream.send(&Up::Report(report(0))).await;
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_kill_the_next_goes_on_from_the_last_plan() {
    let directory = tempfile::tempdir().unwrap();
    let first = Process::start(directory.path());
    let door = first.door.clone();
    let (a, b) = (
        Proxy::enrolled(&door, "a").await,
        Proxy::enrolled(&door, "b").await,
    );
    let neighbour = idle(b.stream(&door, b.hello_at(9.1, 100.0)).await.unwrap());
    let mut stream = a.stream(&door, a.hello_at(9.0, 100.0)).await.unwrap();
    let moves = |row: &isobar_mesh_api::snapshot::Row| row.weight_ppm(&b.node) > 100_000;
    let (plan, _) = stream.until_row(&report(150), moves).await;
    let last = loop {
        // Until what the proxy was told is on the disk.
        let (_, current) = rest(door.addresses, Method::GET, "/v1/plans/current", "").await;
        let (_, text) = rest(door.addresses, Method::GET, "/metrics", "").await;
        let stored = |line: &str| {
            let value = line.strip_prefix("isobar_controller_plan_generation_stored ")?;
            value.parse::<u64>().ok()
        };
        let stored = text.as_str().unwrap().lines().find_map(stored).unwrap();
        if stored >= plan.generation && current["plan"]["generation"] == stored {
            break current;
        }
        stream.send(&Up::Report(report(150))).await;
    };
    let last_row = &last["services"][0]["seats"][0]["row"];
    assert_eq!(last["services"][0]["seats"][0]["node"], "a");
    first.kill();
    neighbour.await.unwrap();

    let second = Process::start(directory.path());
    let mut stream = a
        .stream(&second.door, a.hello_at(9.0, 100.0))
        .await
        .unwrap();
    let snapshot = stream.snapshot().await;
    assert_eq!(snapshot.plan.epoch, plan.epoch + 1);
    let row = serde_json::to_value(row(snapshot.services).unwrap()).unwrap();
    assert_eq!(&row, last_row, "the row jumped");
    second.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_streams_in_order_and_the_process_well() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    let proxy = Proxy::enrolled(&process.door, "a").await;
    let mut stream = proxy.stream(&process.door, proxy.hello()).await.unwrap();
    stream.snapshot().await;
    let reading = tokio::spawn(async move { stream.end().await });
    let ended = tokio::task::spawn_blocking(move || process.terminate())
        .await
        .unwrap();
    assert!(reading.await.unwrap(), "the stream broke");
    assert_eq!(ended.0, Some(0), "{}", ended.1);
    assert!(!directory.path().join("data/addresses.json").exists());
}

#[test]
fn a_second_process_on_one_directory_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let first = Process::start(directory.path());
    let second = command(directory.path()).output().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("in use by another process"), "{said}");
    assert!(said.contains("its own data_dir"), "{said}");
    first.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_configuration_comes_into_force_on_sighup_and_a_wrong_one_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let service = |host: &str| {
        format!("[{{kind: Service, metadata: {{name: cart}}, spec: {{hosts: [{host}]}}}}]")
    };
    std::fs::write(at("mesh.yaml"), service("one.example")).unwrap();
    let good = "resources = ['${MESH_FILE}']\nrenewal_grace_h = 5\n";
    std::fs::write(at("c.toml"), good).unwrap();
    let mut command = command(directory.path());
    command
        .arg("--config")
        .arg(at("c.toml"))
        .env("MESH_FILE", at("mesh.yaml"));
    // Flags come before variables.
    command.env("ISOBAR_CONTROLLER_REST_LISTEN", "127.0.0.1:1");
    let process = Process::of(command, directory.path());
    let addresses = process.door.addresses;
    let pid = process.child.id().to_string();
    let hang_up = || {
        assert!(
            Command::new("kill")
                .args(["-HUP", &pid])
                .status()
                .unwrap()
                .success()
        )
    };
    let host = async || {
        let (_, service) = rest(addresses, Method::GET, "/v1/services/default/cart", "").await;
        service["spec"]["hosts"][0].as_str().unwrap().to_owned()
    };
    assert_eq!(host().await, "one.example");
    std::fs::write(at("mesh.yaml"), service("two.example")).unwrap();
    std::fs::write(at("c.toml"), "resorces = []").unwrap();
    hang_up();
    let is_refused = async || {
        let (_, text) = rest(addresses, Method::GET, "/metrics", "").await;
        text.as_str()
            .unwrap()
            .contains("config_reloads_total{result=\"refused\"} 1")
    };
    while !is_refused().await {
        tokio::task::yield_now().await;
    }
    assert_eq!(host().await, "one.example");
    std::fs::write(at("c.toml"), good.replace('5', "6")).unwrap();
    hang_up();
    while host().await != "two.example" {
        tokio::task::yield_now().await;
    }
    let (status, log) = tokio::task::spawn_blocking(move || process.terminate())
        .await
        .unwrap();
    assert_eq!(status, Some(0), "{log}");
    assert!(log.contains("renewal_grace_h"), "{log}");
}

#[test]
fn a_file_is_checked_and_each_fault_has_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("c.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut check = Command::new(env!("CARGO_BIN_EXE_isobar-controller"));
        let ran = check.arg("check").arg(&file).output().unwrap();
        let said = String::from_utf8(ran.stdout).unwrap() + &String::from_utf8(ran.stderr).unwrap();
        (ran.status.code(), said)
    };
    let (status, said) = check("data_dir = 'd'");
    assert!(status == Some(0) && said.contains("is good"), "{said}");
    let (status, said) =
        check("data_dir = 'd'\nperiod_ms = 1\n[[discovery.dns]]\nservice = 'a/b'\nname = 'x'\n");
    assert_eq!(status, Some(1), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines.len() == 2
            && lines[0].contains("c.toml:2:1: period_ms")
            && lines[1].contains("discovery.dns[0].port"),
        "{said}"
    );
    let (status, said) = check("data_dir = 'd'\n[discovery]\nfile = 'x'");
    assert!(
        status == Some(1) && said.contains("c.toml:3:1") && said.contains("did you mean `files`?"),
        "{said}"
    );
    let (status, said) = check("data_dir = 'd'\nresources = ['/nowhere.yaml']");
    assert!(status == Some(1) && said.contains("nowhere.yaml"), "{said}");
}

#[test]
fn a_wrong_configuration_is_named_and_nothing_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let mut open = command(directory.path());
    let refused = open.args(["--stream-name", "a_b"]).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("stream_names"), "{said}");
    assert!(!directory.path().join("data").exists());
    let help = command(directory.path()).arg("--help").output().unwrap();
    let said = String::from_utf8(help.stdout).unwrap();
    assert!(
        said.contains("Examples:") && help.status.success(),
        "{said}"
    );
}
