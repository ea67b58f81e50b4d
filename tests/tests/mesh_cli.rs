//! `isobar` against a real controller and a real proxy: what it says, and what it ends with.

#![allow(clippy::unwrap_used)] // A test that meets an error has failed; here is where.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_isobar-e2e");
/// Longest that anything here may take on the busiest machine; no test depends on it being short.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program of the mesh; ends when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Mesh {
    directory: tempfile::TempDir,
    url: String,
    _programs: Vec<Process>,
}

fn start(kind: &str, config: &Path) -> Process {
    let mut command = Command::new(PROGRAM);
    command.arg(kind).arg("--config").arg(config);
    Process(command.stderr(Stdio::null()).spawn().unwrap())
}

fn wait_for<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what} never came");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn addresses(data: &Path) -> Value {
    let path = data.join("addresses.json");
    wait_for("addresses.json", || {
        serde_json::from_str(&std::fs::read_to_string(&path).ok()?).ok()
    })
}

impl Mesh {
    /// A controller and a proxy that the controller hears of.
    fn start() -> Mesh {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        let config = root.join("controller.toml");
        let data = root.join("controller");
        let text = format!(
            "data_dir = {data:?}\nperiod_ms = 100\nrest_open = true\nenrol_open = true\nrest_listen = '127.0.0.1:0'\nstream_listen = '127.0.0.1:0'\n"
        );
        std::fs::write(&config, text).unwrap();
        let controller = start("controller", &config);
        let said = addresses(&data);
        let url = format!("http://{}", said["rest"].as_str().unwrap());
        let config = root.join("proxy.toml");
        let text = format!(
            "node = 'north-1'\ndata_dir = {:?}\ncontroller = {}\nca_file = {:?}\ntoken_file = {:?}\n\
             listen = '127.0.0.1:0'\nmesh_listen = '127.0.0.1:0'\nadmin_listen = '127.0.0.1:0'\n\
             location = {{ lat_deg = 45.0, lon_deg = 9.0 }}\nregion = 'piedmont'\nworkers = 1\nreport_cpu = false\n\
             [[services]]\nservice = 'shop/cart'\nhosts = ['cart.example']\ncapacity_rps = 50.0\n\
             endpoints = [{{ address = '127.0.0.1:9', workers = 4 }}]\n",
            root.join("proxy"),
            said["stream"],
            data.join("ca.pem"),
            data.join("enrol-token"),
        );
        std::fs::write(&config, text).unwrap();
        let proxy = start("proxy", &config);
        let mesh = Mesh {
            directory,
            url,
            _programs: vec![proxy, controller],
        };
        wait_for("a live node", || {
            let status: Value = serde_json::from_str(&mesh.ok("status -o json")).ok()?;
            (status["nodes"][0]["presence"] == "live").then_some(())
        });
        mesh
    }

    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .current_dir(self.directory.path())
            .env("ISOBAR_CONFIG", self.directory.path().join("config.yaml"))
            .env("ISOBAR_CONTROLLER", &self.url)
            .env_remove("ISOBAR_CONTEXT")
            .env_remove("ISOBAR_TOKEN");
        command
    }

    fn run(&self, line: &str) -> (Option<i32>, String, String) {
        let output = self.command().args(line.split_whitespace()).output();
        let output = output.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        (output.status.code(), out, err)
    }

    fn ok(&self, line: &str) -> String {
        let (code, out, err) = self.run(line);
        assert_eq!(code, Some(0), "isobar {line}: {out}{err}");
        out
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{line} -o json"))).unwrap()
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

#[test]
fn who_may_come_in() {
    let mesh = Mesh::start();
    let token = mesh.ok("token create --node north-2 --lasts 60");
    assert!(
        token.starts_with("enrol_") && token.lines().count() == 1,
        "{token}"
    );
    has(&mesh.ok("token list"), &["ID", "north-2"]);
    let tokens = mesh.json("token list");
    let all = tokens["items"].as_array().unwrap();
    let ours = all.iter().find(|t| t["node"] == "north-2").unwrap();
    let id = ours["id"].as_str().unwrap();
    assert!(token.contains(id) && !mesh.ok("token list").contains(token.trim()));
    has(&mesh.ok(&format!("token revoke {id}")), &["revoked"]);
    assert_eq!(mesh.run(&format!("token revoke {id}")).0, Some(5));

    has(
        &mesh.ok("ca status"),
        &["STAGE", "nodes connected 1", "next:"],
    );
    has(&mesh.ok("ca revoke north-1"), &["north-1 is refused"]);
    wait_for("the end of its stream", || {
        let nodes = mesh.json("nodes");
        let node = &nodes["items"][0]["status"];
        (node["connected"] == false).then_some(())
    });
}

#[test]
fn what_there_is() {
    let mesh = Mesh::start();
    has(
        &mesh.ok("status"),
        &["nodes     1: 1 live", "shop/cart", "default", "convex"],
    );
    has(&mesh.ok("nodes"), &["NODE", "north-1", "live", "piedmont"]);
    has(
        &mesh.ok("nodes show north-1"),
        &["kind: Node", "presence: live"],
    );
    has(&mesh.ok("services"), &["SERVICE", "shop/cart", "50.0"]);
    has(
        &mesh.ok("services shop/cart"),
        &["policy default", "north-1", "declared"],
    );
    has(&mesh.ok("weights --node north-1"), &["HOME", "100.0 %"]);
    has(&mesh.ok("edges"), &["nothing moves"]);
    has(
        &mesh.ok("explain shop/cart north-1"),
        &[
            "100.0 % stays home",
            "50.0 rps, declared",
            "no policy selects",
            "below_target",
        ],
    );
    has(&mesh.ok("top --once"), &["north-1", "shop/cart", "USED"]);
    has(&mesh.ok("routes"), &["HOSTNAMES"]);
    has(
        &mesh.ok("events --since 0 --count 1"),
        &["node_connected", "node=north-1"],
    );
    assert_eq!(
        mesh.json("nodes")["items"][0]["metadata"]["name"],
        "north-1"
    );
    has(&mesh.ok("weights -o yaml"), &["home_ppm: 1000000"]);
    let (code, _, err) = mesh.run("explain shop/cart north-2");
    assert_eq!(code, Some(5), "{err}");
    has(&err, &["refused", "not known at north-2"]);
    let (code, _, err) = mesh.run("services shop/none");
    assert_eq!(code, Some(5), "{err}");
}

#[test]
fn what_is_changed() {
    let mesh = Mesh::start();
    let file = "kind: WeightPolicy\nmetadata: {name: night}\nspec: {neighbours: 3, services: [shop/cart]}\n";
    mesh.write("night.yaml", file);
    has(&mesh.ok("check night.yaml"), &["good, 1 WeightPolicy"]);
    let (code, out, _) = mesh.run("policy diff -f night.yaml");
    assert_eq!(code, Some(1), "{out}");
    has(
        &mesh.ok("policy apply -f night.yaml --dry-run"),
        &["before", "after", "night"],
    );
    assert_eq!(mesh.json("policy get")["items"], Value::Array(vec![]));
    has(
        &mesh.ok("policy apply -f night.yaml"),
        &["WeightPolicy night created"],
    );
    has(
        &mesh.ok("policy apply -f night.yaml"),
        &["WeightPolicy night unchanged"],
    );
    assert_eq!(mesh.ok("policy diff -f night.yaml"), "");
    mesh.write("other.yaml", &file.replace('3', "4"));
    let (code, out, _) = mesh.run("policy diff -f other.yaml");
    assert_eq!(code, Some(1), "{out}");
    has(&out, &["/spec/neighbours: 3 -> 4"]);
    has(
        &mesh.ok("policy get weight-policy night"),
        &["neighbours: 3"],
    );
    has(
        &mesh.ok("what-if --times shop/cart=3 --demand shop/cart@north-1=90"),
        &["BUSIEST", "270.0"],
    );
    has(&mesh.ok("nodes cordon north-1"), &["north-1 cordoned"]);
    has(&mesh.ok("nodes"), &["cordoned"]);
    has(&mesh.ok("nodes uncordon north-1"), &["north-1 uncordoned"]);
    has(&mesh.ok("nodes drain north-1 --dry-run"), &["BUSIEST"]);
    has(
        &mesh.ok("nodes relocate north-1 --lat 45 --lon -9.5"),
        &["relocated"],
    );
    assert_eq!(
        mesh.json("nodes show north-1")["spec"]["location"]["lon_deg"],
        -9.5
    );
    has(
        &mesh.ok("audit --limit 2"),
        &["anonymous", "replaced", "north-1"],
    );
    has(
        &mesh.ok("export -f mesh.json"),
        &["2 resources in mesh.json"],
    );
    has(
        &mesh.ok("policy delete weight-policy night --dry-run"),
        &["night"],
    );
    has(&mesh.ok("policy delete weight-policy night"), &["deleted"]);
    has(
        &mesh.ok("import -f mesh.json --prune --dry-run"),
        &["night"],
    );
    has(
        &mesh.ok("import -f mesh.json --prune"),
        &["1 created, 1 replaced, 0 deleted"],
    );
    let (code, _, err) = mesh.run("policy delete weight-policy none");
    assert_eq!(code, Some(5), "{err}");
    mesh.write("wrong.yaml", &file.replace("neighbours", "neighbors"));
    for line in ["check wrong.yaml", "policy apply -f wrong.yaml"] {
        let (code, _, err) = mesh.run(line);
        assert_eq!(code, Some(2), "{err}");
        has(&err, &["wrong.yaml", "#/spec/neighbors"]);
    }
}

#[test]
fn which_controller_is_asked() {
    let mesh = Mesh::start();
    let run = |line: &str, token: &str| {
        let mut command = mesh.command();
        command
            .env_remove("ISOBAR_CONTROLLER")
            .env("ISOBAR_TOKEN", token);
        let output = command.args(line.split_whitespace()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (code, _, err) = run(&format!("context set here --url {}", mesh.url), "");
    assert_eq!(code, Some(0), "{err}");
    let config = mesh.directory.path().join("config.yaml");
    let mode = std::fs::metadata(&config).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    has(&run("status", "").1, &["1 live"]);
    run("context set gone --url http://127.0.0.1:1", "");
    has(&run("context list", "").1, &["*", "here", "gone"]);
    let (code, _, err) = run("status --context gone", "secret-token");
    assert_eq!(code, Some(3), "{err}");
    has(&err, &["cannot reach the controller at http://127.0.0.1:1"]);
    assert!(!err.contains("secret-token"));
    let (code, _, err) = run("status --context nowhere", "");
    assert_eq!(code, Some(2), "{err}");
    let open = mesh.write("token", "t");
    let line = format!(
        "context set open --url {} --token-file {}",
        mesh.url,
        open.display()
    );
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o644)).unwrap();
    let (code, _, err) = run(&line, "");
    assert_eq!(code, Some(2), "{err}");
    has(&err, &["can be read by others", "chmod 600"]);
    std::fs::set_permissions(&config, PermissionsExt::from_mode(0o644)).unwrap();
    has(&run("status", "").2, &["can be read by others"]);
    let (code, _, err) = mesh.run("status --controller ftp://x");
    assert_eq!(code, Some(2), "{err}");
}

#[test]
fn who_asks_says_so_with_a_token_file() {
    let directory = tempfile::tempdir().unwrap();
    let (config, data) = (
        directory.path().join("c.toml"),
        directory.path().join("data"),
    );
    let text = format!(
        "data_dir = {data:?}\nrest_listen = '127.0.0.1:0'\nstream_listen = '127.0.0.1:0'\n"
    );
    std::fs::write(&config, text).unwrap();
    let _controller = start("controller", &config);
    let url = format!("http://{}", addresses(&data)["rest"].as_str().unwrap());
    let run = |line: &str| {
        let mut command = Command::new(PROGRAM);
        command.env("ISOBAR_CONFIG", directory.path().join("config.yaml"));
        command
            .env_remove("ISOBAR_CONTROLLER")
            .env_remove("ISOBAR_TOKEN");
        let output = command.args(line.split_whitespace()).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), err)
    };
    let (code, err) = run(&format!("status --controller {url}"));
    assert_eq!(code, Some(4), "{err}");
    has(&err, &["refused", "Authorization: Bearer"]);
    let token = data.join("admin-token");
    let line = format!(
        "context set here --url {url} --token-file {}",
        token.display()
    );
    assert_eq!(run(&line).0, Some(0));
    let (code, err) = run("status");
    assert_eq!(code, Some(0), "{err}");
    // A controller that was named by hand does not get the context's token.
    assert_eq!(run(&format!("status --controller {url}")).0, Some(4));
}

#[test]
fn events_are_printed_as_they_come() {
    let mesh = Mesh::start();
    let mut command = mesh.command();
    command
        .args(["events", "-o", "json"])
        .stdout(Stdio::piped());
    let mut child = Process(command.spawn().unwrap());
    let lines = BufReader::new(child.0.stdout.take().unwrap());
    mesh.ok("nodes cordon north-1");
    // The reader may have come late; then another change comes.
    let (sender, first) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let changed = |line: &String| line.contains("resource_changed");
        let found = lines.lines().map_while(Result::ok).find(changed);
        let _ = sender.send(found);
    });
    let line = wait_for("a change", || {
        mesh.ok("nodes uncordon north-1");
        first.try_recv().ok().flatten()
    });
    let event: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(event["name"], "north-1");
}

#[test]
fn every_command_has_an_example() {
    let commands = [
        "status", "nodes", "services", "weights", "explain", "top", "edges", "routes", "events",
        "policy", "what-if", "check", "audit", "export", "import", "context",
    ];
    for command in commands {
        let output = Command::new(PROGRAM).args([command, "--help"]).output();
        let help = String::from_utf8(output.unwrap().stdout).unwrap();
        has(&help, &["Examples:", &format!("isobar {command}")]);
        assert!(!help.contains("--token "), "{help}");
    }
}
