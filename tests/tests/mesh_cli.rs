//! `isobar` against a real controller and a real proxy: what it says, and what it ends with.

#![allow(clippy::unwrap_used)] // A test that meets an error has failed; here is where.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use isobar_tests::process::{PATIENCE, Process, addresses, wait_for};
use serde_json::Value;

#[path = "mesh_cli/interop.rs"]
mod interop;

const PROGRAM: &str = env!("CARGO_BIN_EXE_isobar-e2e");

struct Mesh {
    directory: tempfile::TempDir,
    url: String,
    stream: Value,
    programs: Vec<Process>,
}

fn start(kind: &str, config: &Path) -> Process {
    let mut command = Command::new(PROGRAM);
    command.arg(kind).arg("--config").arg(config);
    // Beside its configuration, by the same name.
    let log = std::fs::File::create(config.with_extension("log")).unwrap();
    Process(
        command
            .env_remove("ISOBAR_LOG")
            .stderr(log)
            .spawn()
            .unwrap(),
    )
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
        let mut mesh = Mesh {
            directory,
            url,
            stream: said["stream"].clone(),
            programs: vec![controller],
        };
        let services = "[[services]]\nservice = 'shop/cart'\nhosts = ['cart.example']\ncapacity_rps = 50.0\n\
             endpoints = [{ address = '127.0.0.1:9', workers = 4 }]\n";
        let proxy = mesh.proxy("north-1", services);
        mesh.programs.push(proxy);
        wait_for("a live node", || {
            let status: Value = serde_json::from_str(&mesh.ok("status -o json")).ok()?;
            (status["nodes"][0]["presence"] == "live").then_some(())
        });
        mesh
    }

    /// A proxy with these services; north-1's files are called proxy, others' by their node.
    fn proxy(&self, node: &str, services: &str) -> Process {
        let root = self.directory.path();
        let name = if node == "north-1" { "proxy" } else { node };
        let config = root.join(format!("{name}.toml"));
        let text = format!(
            "node = '{node}'\ndata_dir = {:?}\ncontroller = {}\nca_file = {:?}\ntoken_file = {:?}\n\
             listen = '127.0.0.1:0'\nmesh_listen = '127.0.0.1:0'\nadmin_listen = '127.0.0.1:0'\n\
             location = {{ lat_deg = 45.0, lon_deg = 9.0 }}\nregion = 'piedmont'\nworkers = 1\nreport_cpu = false\n\
             {services}",
            root.join(name),
            self.stream,
            root.join("controller/ca.pem"),
            root.join("controller/enrol-token"),
        );
        std::fs::write(&config, text).unwrap();
        start("proxy", &config)
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

/// Passes connections on to `to`, and has something done when a request to write comes by.
fn before_writes(
    to: std::net::SocketAddr,
    mut act: impl FnMut() + Send + 'static,
) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut server = std::net::TcpStream::connect(to).unwrap();
            let mut first = [0; 16 * 1024];
            let len = client.read(&mut first).unwrap();
            if first.starts_with(b"PUT ") {
                act();
            }
            server.write_all(&first[..len]).unwrap();
            let (mut from, mut into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut into));
            std::thread::spawn(move || std::io::copy(&mut server, &mut client));
        }
    });
    address
}

#[test]
fn of_two_who_write_at_once_the_second_is_told() {
    let mesh = Mesh::start();
    let file = "kind: WeightPolicy\nmetadata: {name: night}\nspec: {neighbours: 3}\n";
    for (name, neighbours) in [
        ("first.yaml", "3"),
        ("theirs.yaml", "4"),
        ("ours.yaml", "5"),
    ] {
        mesh.write(name, &file.replace('3', neighbours));
    }
    let controller = mesh.url.strip_prefix("http://").unwrap().parse().unwrap();
    let raced = |what: &'static str| {
        let mut theirs = mesh.command();
        theirs.args(what.split(' '));
        let through = before_writes(controller, move || {
            assert!(theirs.status().unwrap().success())
        });
        let mut ours = mesh.command();
        ours.env("ISOBAR_CONTROLLER", format!("http://{through}"));
        let output = ours
            .args(["policy", "apply", "-f", "ours.yaml"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(6), "{what}: {said}");
        has(&said, &["changed meanwhile", "isobar policy diff"]);
    };
    // Both create, both replace, one replaces what the other deletes.
    raced("policy apply -f theirs.yaml");
    has(
        &mesh.ok("policy get weight-policy night"),
        &["neighbours: 4"],
    );
    raced("policy apply -f first.yaml");
    has(
        &mesh.ok("policy get weight-policy night"),
        &["neighbours: 3"],
    );
    raced("policy delete weight-policy night");
    assert_eq!(mesh.json("policy get")["items"], Value::Array(vec![]));
    has(&mesh.ok("policy apply -f ours.yaml"), &["night created"]);
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
    let rest = addresses(&data)["rest"].as_str().unwrap().to_owned();
    let url = format!("https://{rest}");
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
    let ca = data.join("ca.pem");
    let (shown_ca, token) = (ca.display(), data.join("admin-token"));
    // Who is not believed gets no request, and how to believe is said, with what to compare.
    let (code, err) = run(&format!("status --controller {url}"));
    assert_eq!(code, Some(3), "{err}");
    has(
        &err,
        &[
            "nobody vouches",
            "--ca-file",
            "--pin sha256:",
            "openssl x509",
        ],
    );
    let pin = err
        .split("--pin ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned();
    let (code, err) = run(&format!("status --controller {url} --ca-file {shown_ca}"));
    assert_eq!(code, Some(4), "{err}");
    has(&err, &["refused", "Authorization: Bearer"]);
    // The one that is named when nobody vouches is the root's.
    let line = format!(
        "context set here --url {url} --pin {pin} --token-file {}",
        token.display()
    );
    assert_eq!(run(&line), (Some(0), String::new()));
    let (code, err) = run("status");
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(run("audit --refused").0, Some(0));
    // A controller that was named by hand does not get the context's token, nor its pin.
    assert_eq!(run(&format!("status --controller {url}")).0, Some(3));
    assert_eq!(
        run(&format!("status --controller {url} --pin {pin}")).0,
        Some(4)
    );
    let other = format!("sha256:{}", "0".repeat(64));
    let (code, err) = run(&format!("status --controller {url} --pin {other}"));
    assert_eq!(code, Some(3), "{err}");
    has(&err, &["pinned", "somebody else answers"]);
    let (code, err) = run(&format!("status --controller http://{rest}"));
    assert_eq!(code, Some(2), "{err}");
    has(&err, &["use https://"]);
    let (code, err) = run(&format!("status --controller {url} --pin ab"));
    assert_eq!(code, Some(2), "{err}");
    has(&err, &["64 hexadecimal digits"]);
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

/// Every command that people see, with the words that call it.
fn commands(command: &clap::Command, words: &str, found: &mut Vec<(String, String)>) {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let words = format!("{words} {}", sub.get_name());
        let after = sub.get_after_help().map(ToString::to_string);
        found.push((words.clone(), after.unwrap_or_default()));
        commands(sub, &words, found);
    }
}

#[test]
fn every_command_has_an_example() {
    let arguments = <isobar_cli::arguments::Arguments as clap::CommandFactory>::command();
    let mut found = Vec::new();
    commands(&arguments, "isobar", &mut found);
    assert!(found.len() > 50, "{} commands", found.len());
    for (words, after) in &found {
        assert!(after.contains("Example"), "{words} has no example");
        assert!(
            after.contains(words),
            "{words} is not in its example:\n{after}"
        );
    }
    // What stands in an example is a command line that is understood.
    for line in found.iter().flat_map(|(_, after)| after.lines()) {
        let line = line
            .split(['|', '>', '<'])
            .next()
            .unwrap_or_default()
            .trim();
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first() != Some(&"isobar") || line.contains('\'') {
            continue;
        }
        let read = arguments.clone().try_get_matches_from(&words);
        assert!(read.is_ok(), "{line}: {}", read.unwrap_err());
    }
    // A secret is never an argument.
    for (words, _) in found {
        let output = Command::new(PROGRAM)
            .args(words.split(' ').skip(1))
            .arg("--help")
            .output();
        let help = String::from_utf8(output.unwrap().stdout).unwrap();
        assert!(
            !help.contains("--token ") && !help.contains("--password"),
            "{help}"
        );
    }
}

#[test]
fn manual_pages_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    let output = Command::new(PROGRAM)
        .arg("man")
        .arg(&pages)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    for name in ["isobar.1", "isobar-tap.1", "isobar-policy-apply.1"] {
        let page = std::fs::read_to_string(pages.join(name)).unwrap();
        assert!(
            page.contains(".TH") && page.contains("isobar"),
            "{name}: {page}"
        );
    }
    let page = std::fs::read_to_string(pages.join("isobar-tap.1")).unwrap();
    has(&page, &["Bodies and query strings are never shown", "5xx"]);
    assert!(!pages.join("isobar-proxy.1").exists());
}

/// A server that says what it was asked, until the test ends.
fn endpoint() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            std::thread::spawn(move || drop(answer(socket.unwrap())));
        }
    });
    address
}

fn answer(mut socket: std::net::TcpStream) -> std::io::Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0; 1]);
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let status = match head.starts_with(b"GET /bad") {
        true => "503 Service Unavailable",
        false => "200 OK",
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nset-cookie: id=very-secret\r\nx-shown: yes\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
    );
    socket.write_all(answer.as_bytes())
}

/// Two nodes; what enters at north-1 is served at south-2, where the endpoint is.
struct Pair {
    mesh: Mesh,
    ingress: String,
}

impl Pair {
    fn start() -> Pair {
        let mut mesh = Mesh::start();
        let address = endpoint();
        let services = format!(
            "[[services]]\nservice = 'shop/cart'\nhosts = ['cart.example']\ncapacity_rps = 5000.0\n\
             endpoints = [{{ address = '{address}', workers = 64 }}]\n"
        );
        let south = mesh.proxy("south-2", &services);
        mesh.programs.push(south);
        mesh.ok("nodes drain north-1");
        let ingress = addresses(&mesh.directory.path().join("proxy"))["ingress"].clone();
        let pair = Pair {
            mesh,
            ingress: ingress.as_str().unwrap().to_owned(),
        };
        wait_for("a moved request that is served", || {
            pair.get("/").contains(" 200 ").then_some(())
        });
        pair
    }

    /// One request at north-1; its whole answer, empty when there is none.
    fn get(&self, path: &str) -> String {
        let asked = || -> std::io::Result<String> {
            let mut socket = std::net::TcpStream::connect(&self.ingress)?;
            let request = format!(
                "GET {path} HTTP/1.1\r\nhost: cart.example\r\nuser-agent: e2e\r\ncookie: very-secret\r\nconnection: close\r\n\r\n"
            );
            socket.write_all(request.as_bytes())?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer)?;
            Ok(answer)
        };
        asked().unwrap_or_default()
    }

    /// Runs a command while requests come in, until it ends.
    fn with_load(&self, line: &str, paths: &[&str]) -> (Option<i32>, String, String) {
        let mut command = self.mesh.command();
        command.args(line.split_whitespace());
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = Process(child.unwrap());
        let began = Instant::now();
        while child.0.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < PATIENCE, "isobar {line} does not end");
            paths.iter().for_each(|path| drop(self.get(path)));
        }
        let (mut out, mut err) = (String::new(), String::new());
        child
            .0
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut out)
            .unwrap();
        child
            .0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut err)
            .unwrap();
        (child.0.wait().unwrap().code(), out, err)
    }
}

#[test]
fn requests_are_tapped_across_nodes() {
    let pair = Pair::start();
    let line = "tap shop/cart --from north-1 --moved --path /x --count 2 -o json";
    let (code, out, err) = pair.with_load(line, &["/x/1?password=very-secret", "/y"]);
    assert_eq!(code, Some(0), "{out}{err}");
    has(&err, &["1 nodes look for requests of shop/cart"]);
    assert_eq!(out.lines().count(), 2, "{out}");
    for line in out.lines() {
        let request: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&request["home"], &request["served"]),
            (&"north-1".into(), &"south-2".into())
        );
        assert_eq!(
            (&request["path"], &request["status"]),
            (&"/x/1".into(), &200.into())
        );
        has(line, &["\"method\":\"GET\"", "\"moved\":"]);
        assert!(!line.contains("very-secret"), "{line}");
        assert!(request["latency_us"].as_u64().unwrap() > 0, "{line}");
    }
    let line =
        "tap shop/cart --to south-2 --status 5xx --header user-agent --header x-shown --count 1";
    let (code, out, err) = pair.with_load(line, &["/bad", "/good"]);
    assert_eq!(code, Some(0), "{out}{err}");
    has(
        &out,
        &[
            "north-1 -> south-2",
            "shop/cart",
            "GET /bad",
            "503",
            " ms",
            "user-agent=e2e",
            "<x-shown=yes",
        ],
    );

    let (code, _, err) = pair.mesh.run("tap");
    assert_eq!(code, Some(2), "{err}");
    let (code, _, err) = pair.mesh.run("tap shop/cart --no-service");
    assert_eq!(code, Some(2), "{err}");
    let (code, _, err) = pair.mesh.run("tap shop/cart --header cookie");
    assert_eq!(code, Some(2), "{err}");
    has(&err, &["cookie", "may hold a secret"]);
    let (code, _, err) = pair.mesh.run("tap shop/none");
    assert_eq!(code, Some(5), "{err}");
    let (code, _, err) = pair.mesh.run("tap shop/cart --from nobody");
    assert_eq!(code, Some(5), "{err}");
    assert_eq!(pair.mesh.run("tap shop/cart --status 7xx").0, Some(2));
    has(
        &pair.mesh.ok("audit"),
        &["asked", "Tap", "shop/cart from=north-1 path=/x moved=true"],
    );
}

#[test]
fn beyond_the_rate_of_a_tap_requests_are_counted() {
    let pair = Pair::start();
    let mut command = pair.mesh.command();
    command.args(["tap", "shop/cart", "--max-rps", "1", "--path", "/many"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = Process(child.unwrap());
    let lines = BufReader::new(child.0.stderr.take().unwrap()).lines();
    let (sender, counted) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let is_count = |line: &String| line.contains("beyond the rate at their nodes");
        let found = lines.map_while(Result::ok).find(is_count);
        let _ = sender.send(found);
    });
    let line = wait_for("a count", || {
        pair.get("/many");
        counted.try_recv().ok().flatten()
    });
    has(
        &line,
        &["left out so far", "0 because this reader was slow"],
    );
}

#[test]
fn programs_log_at_other_levels_from_now_on() {
    let mesh = Mesh::start();
    let log = |name: &str| std::fs::read_to_string(mesh.directory.path().join(name)).unwrap();
    for (line, name, who) in [
        (
            "logs level north-1 trace",
            "proxy.log",
            "north-1 logs at trace now, at info before",
        ),
        (
            "logs level --of-controller trace",
            "controller.log",
            "the controller logs at trace now, at info before",
        ),
    ] {
        assert!(!log(name).contains("TRACE"));
        has(&mesh.ok(line), &[who]);
        wait_for("a line of that level", || {
            log(name).contains("TRACE").then_some(())
        });
    }
    assert_eq!(mesh.json("logs level north-1 info")["before"], "trace");
    mesh.ok("logs level --of-controller info");
    for (line, code) in [
        ("logs level north-1 loud=very", 2),
        ("logs level debug", 2),
        ("logs level nobody debug", 5),
    ] {
        let (ended, _, err) = mesh.run(line);
        assert_eq!(ended, Some(code), "{line}: {err}");
    }
    has(
        &mesh.ok("audit"),
        &["LogLevels", "north-1 trace", "controller trace"],
    );
}

#[test]
fn the_way_between_two_nodes_is_measured() {
    let pair = Pair::start();
    let said = pair.mesh.ok("bench-link north-1 south-2");
    has(
        &said,
        &[
            "north-1 -> south-2",
            "round trip  p50",
            "p99",
            "throughput",
            "MB/s",
        ],
    );
    let figures = pair.mesh.json("bench-link south-2 north-1");
    let figure = |name: &str| figures[name].as_f64().unwrap();
    assert!(
        figure("rounds") >= 1.0 && figure("bytes") >= 1.0,
        "{figures}"
    );
    assert!(
        figure("rtt_min_us") <= figure("rtt_p50_us")
            && figure("rtt_p50_us") <= figure("rtt_p99_us"),
        "{figures}"
    );
    assert!(figure("throughput_bytes_per_s") > 0.0, "{figures}");
    assert_eq!(pair.mesh.run("bench-link north-1 nobody").0, Some(5));
    let (code, _, err) = pair.mesh.run("bench-link north-1 north-1");
    assert_eq!(code, Some(2), "{err}");
    has(&err, &["another node"]);
    has(&pair.mesh.ok("audit"), &["BenchLink", "north-1 south-2"]);
}

#[test]
fn a_support_bundle_has_everything_but_secrets() {
    let mesh = Mesh::start();
    let route = "kind: HTTPRoute\nmetadata: {name: r, namespace: shop}\nspec:\n  hostnames: [cart.example]\n  rules:\n  \
                 - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-key, value: very-secret}]}}]\n    \
                 backendRefs: [{name: cart}]\n";
    mesh.write("route.yaml", route);
    mesh.ok("policy apply -f route.yaml");
    let token = mesh.ok("token create --node north-9");
    let said = mesh.ok("support-bundle -f b.tar.gz");
    has(&said, &["parts in b.tar.gz", "redacted"]);
    let path = mesh.directory.path().join("b.tar.gz");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let file = flate2::read::GzDecoder::new(std::fs::File::open(&path).unwrap());
    let mut parts = std::collections::BTreeMap::new();
    for entry in tar::Archive::new(file).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        parts.insert(name, text);
    }
    let part = |name: &str| &parts[&format!("isobar-support/{name}")];
    let manifest: Value = serde_json::from_str(part("manifest.json")).unwrap();
    for told in manifest["parts"].as_array().unwrap() {
        assert!(told["missing"].is_null(), "{told}");
        part(told["name"].as_str().unwrap());
    }
    has(part("status.json"), &["north-1", "shop/cart"]);
    has(part("explain/shop-cart-north-1.json"), &["home_ppm"]);
    has(part("events.json"), &["node_connected"]);
    has(part("metrics.txt"), &["isobar_controller_plan_epoch"]);
    has(part("audit.json"), &["HTTPRoute"]);
    has(part("http-routes.json"), &["x-key", "(redacted)"]);
    for (name, text) in &parts {
        assert!(!text.contains("very-secret"), "{name}");
        assert!(
            !text.contains(token.trim()) && !text.contains("PRIVATE KEY"),
            "{name}"
        );
    }
    let (code, _, err) = mesh.run("support-bundle -f b.tar.gz");
    assert_eq!(code, Some(2), "{err}");
    let (code, _, _) = mesh.run("support-bundle -f c.tar.gz --controller http://127.0.0.1:1");
    assert_eq!(code, Some(3));
    assert!(!mesh.directory.path().join("c.tar.gz").exists());
}

#[test]
fn who_logs_in_is_let_in_until_the_token_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (config, data) = (
        directory.path().join("c.toml"),
        directory.path().join("data"),
    );
    let text = format!(
        "data_dir = {data:?}\nrest_insecure = true\nrest_listen = '127.0.0.1:0'\nstream_listen = '127.0.0.1:0'\n"
    );
    std::fs::write(&config, text).unwrap();
    let _controller = start("controller", &config);
    let url = format!("http://{}", addresses(&data)["rest"].as_str().unwrap());
    let run = |line: &str, input: &str| {
        let mut command = Command::new(PROGRAM);
        command
            .env("ISOBAR_CONFIG", directory.path().join("config.yaml"))
            .env_remove("ISOBAR_CONTROLLER")
            .env_remove("ISOBAR_CONTEXT")
            .env_remove("ISOBAR_TOKEN")
            .args(line.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // It may end without reading.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let admin = std::fs::read_to_string(data.join("admin-token")).unwrap();
    let (code, _, err) = run(
        &format!("login site --controller {url}"),
        "credential_admin_wrong\n",
    );
    assert_eq!(code, Some(4), "{err}");
    assert_eq!(run("login", "").0, Some(2));
    let (code, out, err) = run(&format!("login site --controller {url}"), &admin);
    assert_eq!(code, Some(0), "{err}");
    has(&out, &["as context site", "site.token"]);
    assert!(!out.contains(admin.trim()) && !err.contains(admin.trim()));
    let mode = std::fs::metadata(directory.path().join("site.token")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    assert_eq!(run("context current", "").1, "site\n");
    assert_eq!(run("status", "").0, Some(0));
    let (_, short, err) = run("credential create brief --role viewer --lasts 2", "");
    assert!(short.starts_with("credential_brief_"), "{short}{err}");
    let (code, _, err) = run("login", &short);
    assert_eq!(code, Some(0), "{err}");
    // A viewer looks at no single requests.
    let (code, _, err) = run("tap shop/cart", "");
    assert_eq!(code, Some(4), "{err}");
    let err = wait_for("the end of the token", || {
        let (code, _, err) = run("status", "");
        (code == Some(4)).then_some(err)
    });
    has(
        &err,
        &[
            &format!("the controller at {url} refused: token expired"),
            "ago; isobar login",
        ],
    );
}

#[test]
fn top_is_live_on_a_terminal_and_one_picture_elsewhere() {
    let mesh = Mesh::start();
    // Without --once: standard output is no terminal here.
    has(
        &mesh.ok("top --sort node"),
        &["north-1", "shop/cart", "USED"],
    );
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let open = || {
        std::fs::File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap()
    };
    let mut command = mesh.command();
    command.args(["top", "--every", "0.1"]);
    command.stdin(open()).stdout(open()).stderr(Stdio::null());
    let mut child = Process(command.spawn().unwrap());
    drop(command);
    let mut screen = std::fs::File::from(terminal);
    let mut keyboard = screen.try_clone().unwrap();
    let (sender, pieces) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(len @ 1..) = screen.read(&mut piece) {
            if sender.send(piece[..len].to_vec()).is_err() {
                return;
            }
        }
    });
    let shown = std::cell::RefCell::new(Vec::new());
    let until = |words: &str| {
        wait_for(words, || {
            shown.borrow_mut().extend(pieces.try_iter().flatten());
            String::from_utf8_lossy(&shown.borrow())
                .contains(words)
                .then_some(())
        });
    };
    until("north-1");
    until("q leave");
    keyboard.write_all(b"nq").unwrap();
    let status = wait_for("the end", || child.0.try_wait().unwrap());
    assert!(status.success(), "{status:?}");
    // The screen that was there before is back.
    until("\u{1b}[?1049l");
}
