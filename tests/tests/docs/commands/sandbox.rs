//! A directory that stands for the machine that a reader has: paths and addresses of the documentation lead into it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use isobar_tests::process::{Process, addresses, wait_for};
use serde_json::Value;

use super::super::root;

const PROGRAM: &str = env!("CARGO_BIN_EXE_isobar-e2e");
/// Nodes that the documentation speaks of beside the one that the quick start sets up.
const MORE_NODES: [&str; 2] = ["edge-7", "north-7"];

pub struct Sandbox {
    directory: tempfile::TempDir,
    /// What is written, and what is meant here.
    meant: Vec<(String, String)>,
    programs: Vec<Process>,
}

/// The block of a page that begins with this line.
fn block(page: &str, language: &str, has: &str) -> String {
    let text = std::fs::read_to_string(root().join("docs").join(page)).unwrap();
    let fence = format!("```{language}\n");
    let mut blocks = text
        .split(&fence)
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap());
    blocks.find(|block| block.contains(has)).unwrap().to_owned()
}

/// An endpoint that answers every request.
fn endpoint() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = BufReader::new(&socket);
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|len| len > 0) {
                    if line.ends_with("\r\n\r\n") {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n";
                        if (&socket).write_all(answer).is_err() {
                            return;
                        }
                        line.clear();
                    }
                }
            });
        }
    });
    address
}

impl Sandbox {
    /// A machine with the three programs and the files that the documentation has one write; none where curl is missing.
    pub fn new() -> Option<Sandbox> {
        if Command::new("curl").arg("--version").output().is_err() {
            let required = std::env::var("ISOBAR_TEST_REQUIRE").is_ok_and(|v| v == "all");
            assert!(!required, "curl is not installed");
            eprintln!("skipped: curl is not installed");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        for path in ["bin", "etc/isobar", "var/lib"] {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        for name in ["isobar", "isobar-proxy", "isobar-controller"] {
            std::os::unix::fs::symlink(PROGRAM, at("bin").join(name)).unwrap();
        }
        std::fs::write(at(".curlrc"), "fail\nmax-time = 60\n").unwrap();
        let policy = block("weight-policy.md", "yaml", "kind: WeightPolicy");
        std::fs::write(at("policy.yaml"), &policy).unwrap();
        std::fs::write(at("etc/isobar/mesh.yaml"), &policy).unwrap();
        let mut sandbox = Sandbox {
            meant: ["/var/lib/", "/etc/isobar/"]
                .map(|path| {
                    (
                        path.to_owned(),
                        format!("{}{path}", directory.path().display()),
                    )
                })
                .to_vec(),
            directory,
            programs: Vec::new(),
        };
        sandbox.meant.push(("sudo ".to_owned(), String::new()));
        let controller = sandbox.here(&block("controller-configuration.md", "toml", "rest_listen"));
        std::fs::write(sandbox.at("etc/isobar/controller.toml"), controller).unwrap();
        Some(sandbox)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// A text of the documentation with what it means here.
    fn here(&self, text: &str) -> String {
        let meant =
            |text: String, (written, meant): &(String, String)| text.replace(written, meant);
        self.meant.iter().fold(text.to_owned(), meant)
    }

    /// The shell, with what earlier commands exported.
    fn shell(&self, text: &str) -> Command {
        let mut command = Command::new("bash");
        let path = std::env::var("PATH").unwrap();
        command
            .arg("-c")
            .arg(format!("source ./exported 2>/dev/null; {text}"))
            .current_dir(self.directory.path())
            .env("PATH", format!("{}:{path}", self.at("bin").display()))
            .env("HOME", self.directory.path())
            .env("CURL_HOME", self.directory.path())
            .env_remove("ISOBAR_LOG")
            .env_remove("ISOBAR_TOKEN")
            .stdin(Stdio::null());
        command
    }

    /// Whether a command is one of the mesh's programs, which run until they are told to end.
    pub fn is_program(&self, text: &str) -> bool {
        let runs = |program: &str| {
            text.strip_prefix(program)
                .is_some_and(|rest| rest.starts_with(" --"))
        };
        runs("isobar-controller") || runs("isobar-proxy")
    }

    /// Starts one of the mesh's programs, on free ports.
    pub fn start(&mut self, text: &str) {
        if text.starts_with("isobar-controller") {
            self.spawn(&format!(
                "{text} --rest-listen 127.0.0.1:0 --stream-listen 127.0.0.1:0 --period-ms 100"
            ));
            let said = addresses(&self.at("var/lib/isobar-controller"));
            let rest = format!("https://{}", said["rest"].as_str().unwrap());
            let stream = said["stream"].as_str().unwrap().to_owned();
            let exported = format!("export ISOBAR_CONTROLLER={rest}\n");
            std::fs::write(self.at("exported"), exported).unwrap();
            self.meant.push(("https://127.0.0.1:7400".to_owned(), rest));
            self.meant.push(("control.example:7401".to_owned(), stream));
            self.write_proxy();
        } else {
            std::fs::copy(self.at("token"), self.at("etc/isobar/token")).unwrap();
            self.spawn(text);
            let said = addresses(&self.at("var/lib/isobar"));
            let address = |name: &str| said[name].as_str().unwrap().to_owned();
            self.meant
                .push(("edge-1:7410".to_owned(), address("ingress")));
            self.meant
                .push(("localhost:7419".to_owned(), address("admin")));
            MORE_NODES.iter().for_each(|node| self.add_node(node));
            self.wait_for_nodes();
        }
    }

    fn spawn(&mut self, text: &str) {
        let log = std::fs::File::create(self.at(&format!("{}.log", self.programs.len()))).unwrap();
        let command = format!("exec {}", self.here(text));
        let child = self
            .shell(&command)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.programs.push(Process(child.unwrap()));
    }

    /// The quick start's proxy, on free ports, with an endpoint that there is.
    fn proxy(&self) -> String {
        let text = block("quick-start.md", "toml", "token_file");
        let text = self
            .here(&text)
            .replace("127.0.0.1:8080", &endpoint().to_string());
        let ports = ["listen", "mesh_listen", "admin_listen"]
            .map(|key| format!("{key} = \"127.0.0.1:0\"\n"));
        format!("{}workers = 1\nreport_cpu = false\n{text}", ports.concat())
    }

    fn write_proxy(&self) {
        std::fs::write(self.at("etc/isobar/proxy.toml"), self.proxy()).unwrap();
    }

    /// Another board, as the quick start says: `node` and the token differ.
    fn add_node(&mut self, node: &str) {
        self.run(
            node,
            &format!("isobar token create --node {node} > token-{node}"),
            0,
        );
        let data = format!("{}-{node}", self.at("var/lib/isobar").display());
        let text = self
            .proxy()
            .replace("\"edge-1\"", &format!("{node:?}"))
            .replace(
                &self.at("etc/isobar/token").display().to_string(),
                &self.at(&format!("token-{node}")).display().to_string(),
            )
            .replace(
                &format!("\"{}\"", self.at("var/lib/isobar").display()),
                &format!("{data:?}"),
            );
        std::fs::write(self.at(&format!("{node}.toml")), text).unwrap();
        self.spawn(&format!("isobar-proxy --config {node}.toml"));
    }

    /// Until the controller plans for every node.
    fn wait_for_nodes(&self) {
        wait_for("all nodes", || {
            let said = self.shell("isobar status -o json").output().unwrap();
            let status: Value = serde_json::from_slice(&said.stdout).ok()?;
            let nodes = status["nodes"].as_array()?;
            let live = nodes
                .iter()
                .filter(|node| node["presence"] == "live")
                .count();
            (live == 1 + MORE_NODES.len()).then_some(())
        });
    }

    /// Runs a command to its end.
    pub fn run(&self, place: &str, text: &str, ends_with: i32) {
        let text = self.here(text);
        let script = format!("{text}\ncode=$?; export -p > exported; exit $code");
        let ran = self.shell(&script).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
        assert_eq!(
            ran.status.code(),
            Some(ends_with),
            "{place}\nas {text}\n{said}"
        );
    }

    /// What the proxy and the controller show of themselves.
    pub fn metrics(&self) -> (String, String) {
        let shown = |text: &str| {
            let ran = self.shell(&self.here(text)).output().unwrap();
            let said = String::from_utf8_lossy(&ran.stderr).into_owned();
            assert!(ran.status.success(), "{text}: {said}");
            String::from_utf8(ran.stdout).unwrap()
        };
        let proxy = shown("curl localhost:7419/metrics");
        let asked = "curl --cacert $ISOBAR_CA_FILE -H \"Authorization: Bearer $ISOBAR_TOKEN\" https://127.0.0.1:7400/metrics";
        (proxy, shown(asked))
    }

    /// Runs a command that goes on until it has said something, and ends it.
    pub fn watch(&self, text: &str, says: &str) {
        let command = format!("exec {} 2>&1", self.here(text));
        let mut child = Process(self.shell(&command).stdout(Stdio::piped()).spawn().unwrap());
        let mut out = child.0.stdout.take().unwrap();
        let (mut said, mut bytes) = (String::new(), [0; 1024]);
        while !said.contains(says) {
            let len = out.read(&mut bytes).unwrap();
            assert!(len > 0, "{text} ended and said {said}");
            said.push_str(&String::from_utf8_lossy(&bytes[..len]));
        }
    }
}
