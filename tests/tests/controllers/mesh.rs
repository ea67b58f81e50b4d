//! Controllers and proxies as processes, endpoints, and a light load that must never fail.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use isobar_tests::process::wait_for;
use serde_json::Value;
use tempfile::TempDir;

use crate::etcd::{Etcd, directory, free_port, missing};

const PROGRAM: &str = env!("CARGO_BIN_EXE_isobar-e2e");
/// Time between two requests of the load to one proxy.
const LOAD_PAUSE: Duration = Duration::from_millis(10);

/// One request over a connection of its own; `None` when there is no answer.
fn http(address: &str, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut socket = TcpStream::connect(address).ok()?;
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .ok()?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    socket.write_all(head.as_bytes()).ok()?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}

pub fn post(address: &str, path: &str, body: &str) -> Option<(u16, String)> {
    http(address, "POST", path, body)
}

struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(mut command: Command, log: PathBuf) -> Process {
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn();
        Process {
            child: child.unwrap(),
            log,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Controller {
    process: Option<Process>,
    config: PathBuf,
    log: PathBuf,
    rest: String,
    stream: String,
    /// The network namespace it runs in.
    namespace: Option<String>,
}

struct Proxy {
    process: Process,
    admin: String,
    load: Load,
}

/// Requests to one proxy, one after another.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    failures: Arc<std::sync::Mutex<Vec<String>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(address: String) -> Load {
        let (stop, served, failures) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
            Arc::<std::sync::Mutex<Vec<String>>>::default(),
        );
        let (stopped, count, failed) = (stop.clone(), served.clone(), failures.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match http(&address, "GET", "/", "") {
                    Some((200, _)) => drop(count.fetch_add(1, Ordering::Relaxed)),
                    other => failed.lock().unwrap().push(format!("{other:?}")),
                }
                std::thread::sleep(LOAD_PAUSE);
            }
        });
        Load {
            stop,
            served,
            failures,
            thread: Some(thread),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub struct Mesh {
    // Loads and processes first: they end before the directory goes.
    proxies: Vec<Proxy>,
    controllers: Vec<Controller>,
    endpoint: u16,
    directory: TempDir,
}

impl Mesh {
    /// Starts so many controllers and waits until all are ready.
    pub fn start(etcd: &Etcd, controllers: usize) -> Mesh {
        Mesh::start_with(etcd, controllers, "")
    }

    /// As [`Mesh::start`], with these lines of `[store]` beside the endpoints.
    pub fn start_with(etcd: &Etcd, controllers: usize, store: &str) -> Mesh {
        let mut mesh = Mesh::prepare();
        for at in 0..controllers {
            mesh.add(etcd, at, "127.0.0.1", None);
            let config = &mesh.controllers[at].config;
            let text = std::fs::read_to_string(config).unwrap();
            std::fs::write(config, text + store).unwrap();
            mesh.start_controller(at);
        }
        (0..controllers).for_each(|at| mesh.until_ready(at));
        mesh
    }

    /// Starts one controller in a network namespace of its own, and prepares another beside it.
    pub fn start_cut(etcd: &Etcd, cut: &Cut) -> Mesh {
        let mut mesh = Mesh::prepare();
        mesh.add(etcd, 0, &cut.inside, Some(cut.name.clone()));
        mesh.add(etcd, 1, &cut.host, None);
        mesh.start_controller(0);
        mesh
    }

    fn prepare() -> Mesh {
        let directory = directory();
        std::fs::write(directory.path().join("authority.key"), "k".repeat(64)).unwrap();
        Mesh {
            proxies: Vec::new(),
            controllers: Vec::new(),
            endpoint: serve_ok(),
            directory,
        }
    }

    fn root(&self) -> &Path {
        self.directory.path()
    }

    fn add(&mut self, etcd: &Etcd, at: usize, host: &str, namespace: Option<String>) {
        let bind = match namespace {
            Some(_) => "127.0.0.1",
            None => host,
        };
        let (rest, port) = (free_port("127.0.0.1"), free_port(bind));
        let (rest, stream) = (format!("127.0.0.1:{rest}"), format!("{host}:{port}"));
        let config = self.root().join(format!("controller-{at}.toml"));
        let text = format!(
            "data_dir = {:?}\nname = 'c{at}'\nperiod_ms = 1000\nrest_open = true\nenrol_open = true\n\
             rest_listen = '{rest}'\nstream_listen = '{stream}'\nauthority_key_file = {:?}\n\
             [store]\nkind = 'etcd'\nendpoints = {:?}\n",
            self.root().join(format!("controller-{at}")),
            self.root().join("authority.key"),
            etcd.endpoints(),
        );
        std::fs::write(&config, text).unwrap();
        self.controllers.push(Controller {
            process: None,
            config,
            log: self.root().join(format!("controller-{at}.log")),
            rest,
            stream,
            namespace,
        });
    }

    /// What one controller says that cannot begin, with these lines of `[store]` instead of endpoints.
    pub fn refused(store: &str) -> String {
        let mesh = Mesh::prepare();
        let nowhere = free_port("127.0.0.1");
        let config = mesh.root().join("refused.toml");
        let text = format!(
            "data_dir = {:?}\nname = 'c'\nrest_open = true\nrest_listen = '127.0.0.1:0'\nstream_listen = '127.0.0.1:0'\n\
             stream_advertise = '127.0.0.1:{nowhere}'\nauthority_key_file = {:?}\n[store]\nkind = 'etcd'\n{store}",
            mesh.root().join("refused"),
            mesh.root().join("authority.key"),
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("controller").arg("--config").arg(&config);
        let log = mesh.root().join("refused.log");
        let mut process = Process::start(command, log.clone());
        let ended = wait_for("a controller that cannot begin to end", || {
            process.child.try_wait().unwrap()
        });
        assert!(!ended.success());
        std::fs::read_to_string(log).unwrap()
    }

    pub fn start_controller(&mut self, at: usize) {
        let controller = &mut self.controllers[at];
        let mut command = match &controller.namespace {
            None => Command::new(PROGRAM),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name, PROGRAM]);
                command
            }
        };
        command
            .arg("controller")
            .arg("--config")
            .arg(&controller.config);
        controller.process = Some(Process::start(command, controller.log.clone()));
    }

    /// Starts proxies, each of which knows some controllers, with an endpoint and a load; waits until all have served.
    pub fn start_proxies(&mut self, known: &[&[usize]]) {
        let data = |at: usize| self.root().join(format!("controller-{at}"));
        let token = wait_for("the token to enrol with", || {
            let paths = (0..self.controllers.len()).map(|at| data(at).join("enrol-token"));
            paths.into_iter().find(|path| path.exists())
        });
        let mut started = Vec::new();
        for (at, known) in known.iter().enumerate() {
            let each = known.iter().map(|&at| self.controllers[at].stream.as_str());
            let streams: Vec<&str> = each.collect();
            let dir = self.root().join(format!("proxy-{at}"));
            let config = self.root().join(format!("proxy-{at}.toml"));
            let text = format!(
                "node = 'n{at}'\ndata_dir = {dir:?}\ncontrollers = {streams:?}\nca_file = {:?}\ntoken_file = {token:?}\n\
                 listen = '127.0.0.1:0'\nmesh_listen = '127.0.0.1:0'\nadmin_listen = '127.0.0.1:0'\n\
                 location = {{ lat_deg = 45.0, lon_deg = 9.0{at} }}\nworkers = 1\nreport_cpu = false\n\
                 [[services]]\nservice = 'shop/cart'\nhosts = ['*']\ncapacity_rps = 500.0\n\
                 endpoints = [{{ address = '127.0.0.1:{}', workers = 8 }}]\n",
                data(0).join("ca.pem"),
                self.endpoint,
            );
            std::fs::write(&config, text).unwrap();
            let mut command = Command::new(PROGRAM);
            command.arg("proxy").arg("--config").arg(&config);
            let process = Process::start(command, self.root().join(format!("proxy-{at}.log")));
            started.push((process, dir));
        }
        for (process, dir) in started {
            let addresses: Value = wait_for("a proxy's addresses", || {
                let text = std::fs::read_to_string(dir.join("addresses.json")).ok()?;
                serde_json::from_str(&text).ok()
            });
            let address = |key: &str| addresses[key].as_str().unwrap().to_owned();
            let ingress = address("ingress");
            wait_for("a proxy to serve", || {
                (http(&ingress, "GET", "/", "")?.0 == 200).then_some(())
            });
            self.proxies.push(Proxy {
                process,
                admin: address("admin"),
                load: Load::start(ingress),
            });
        }
    }

    /// Whether a controller leads and may act; `None` when it does not answer.
    pub fn leads(&self, at: usize) -> Option<bool> {
        let (_, text) = http(&self.controllers[at].rest, "GET", "/metrics", "")?;
        let line = text
            .lines()
            .find(|line| line.starts_with("isobar_controller_leader "))?;
        Some(line.ends_with(" 1"))
    }

    /// Waits until exactly one leads.
    pub fn leader(&self) -> usize {
        wait_for("one leader", || {
            let mut leading = (0..self.controllers.len()).filter(|&at| {
                self.controllers[at].namespace.is_none() && self.leads(at) == Some(true)
            });
            let leader = leading.next()?;
            assert_eq!(leading.next(), None, "two lead");
            Some(leader)
        })
    }

    /// Waits until one leads that is not this one; which, and how long it took.
    pub fn until_another_leads(&self, not: usize) -> (usize, Duration) {
        let began = Instant::now();
        let others = || (0..self.controllers.len()).filter(move |&at| at != not);
        let found = wait_for("another leader", || {
            others().find(|&at| self.leads(at) == Some(true))
        });
        (found, began.elapsed())
    }

    pub fn until_ready(&self, at: usize) {
        wait_for("a controller to be ready", || {
            (http(&self.controllers[at].rest, "GET", "/readyz", "")?.0 == 200).then_some(())
        });
    }

    /// Waits until every proxy has a plan of that epoch or a later one; the latest.
    pub fn until_all_have_epoch(&self, epoch: u64) -> u64 {
        let epochs = self.proxies.iter().map(|proxy| {
            wait_for("a proxy to have a plan of the new epoch", || {
                let (_, text) = http(&proxy.admin, "GET", "/config", "")?;
                let said: Value = serde_json::from_str(&text).ok()?;
                let has = said["snapshot"]["plan"]["epoch"].as_u64()?;
                (has >= epoch).then_some(has)
            })
        });
        epochs.max().unwrap()
    }

    /// Waits until a controller has passed on reports to the leader and pushes back.
    pub fn until_relayed(&self, at: usize) {
        wait_for("reports and pushes that are passed on", || {
            let (_, text) = http(&self.controllers[at].rest, "GET", "/metrics", "")?;
            let is_some = |kind: &str| {
                let name = format!("isobar_controller_relayed_total{{kind=\"{kind}\"}} ");
                let mut counts = text.lines().filter_map(|line| line.strip_prefix(&name));
                counts.any(|count| count != "0")
            };
            (is_some("report") && is_some("push") && is_some("enrolment")).then_some(())
        });
    }

    pub fn get(&self, at: usize, path: &str) -> (u16, String) {
        http(&self.controllers[at].rest, "GET", path, "").unwrap()
    }

    pub fn put_policy(&self, at: usize, name: &str) -> (u16, String) {
        let path = format!("/v1/weight-policies/{name}");
        let body = format!(
            "{{\"kind\":\"WeightPolicy\",\"metadata\":{{\"name\":\"{name}\"}},\"spec\":{{}}}}"
        );
        http(&self.controllers[at].rest, "PUT", &path, &body).unwrap()
    }

    /// Waits until a policy of that name is stored, by whoever leads.
    pub fn until_written(&self, name: &str) {
        wait_for("a write", || {
            let leader = self.leader();
            matches!(self.put_policy(leader, name).0, 200 | 201).then_some(())
        });
    }

    pub fn kill(&mut self, at: usize) {
        self.controllers[at].process = None;
    }

    pub fn signal(&self, at: usize, signal: &str) {
        let process = self.controllers[at].process.as_ref().unwrap();
        let pid = process.child.id().to_string();
        let sent = Command::new("kill")
            .args([format!("-{signal}"), pid])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Asks a controller to end, and waits until it has.
    pub fn terminate(&mut self, at: usize) {
        self.signal(at, "TERM");
        let mut process = self.controllers[at].process.take().unwrap();
        assert!(process.child.wait().unwrap().success());
    }

    pub fn until_led_by_cut_one(&self) {
        self.until_logged(0, "this controller leads");
        self.until_logged(0, "listening");
    }

    pub fn until_logged(&self, at: usize, words: &str) {
        wait_for(words, || {
            let log = std::fs::read_to_string(&self.controllers[at].log).ok()?;
            log.contains(words).then_some(())
        });
    }

    /// Waits until the loads have served so many requests more.
    pub fn until_served(&self, more: u64) {
        for proxy in &self.proxies {
            let until = proxy.load.served.load(Ordering::Relaxed) + more;
            wait_for("requests to be served", || {
                (proxy.load.served.load(Ordering::Relaxed) >= until).then_some(())
            });
        }
    }

    /// No request failed, no proxy was offered an older plan, and no epoch was taken twice.
    pub fn assert_nothing_went_wrong(&mut self) {
        let (status, said) = self.get(self.leader(), "/v1/audit?limit=1000");
        assert_eq!(status, 200, "{said}");
        let said: Value = serde_json::from_str(&said).unwrap();
        let entries = said["items"].as_array().unwrap().iter();
        let taken: Vec<u64> = entries
            .filter(|entry| entry["kind"] == "Epoch")
            .map(|entry| entry["name"].as_str().unwrap().parse().unwrap())
            .collect();
        assert!(
            taken.windows(2).all(|two| two[0] > two[1]),
            "newest first: {taken:?}"
        );
        assert!(!taken.is_empty());
        for proxy in std::mem::take(&mut self.proxies) {
            let served = proxy.load.served.load(Ordering::Relaxed);
            let failures = proxy.load.failures.lock().unwrap().clone();
            assert!(failures.is_empty(), "{served} served, failed: {failures:?}");
            assert!(served > 100, "{served}");
            let log = std::fs::read_to_string(&proxy.process.log).unwrap();
            assert!(!log.contains("a plan was refused"), "{log}");
        }
        for controller in &self.controllers {
            let log = std::fs::read_to_string(&controller.log).unwrap();
            assert!(!log.contains("panicked"), "{log}");
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for controller in &self.controllers {
                let log = std::fs::read_to_string(&controller.log).unwrap_or_default();
                println!("== {}\n{log}", controller.log.display());
            }
            for proxy in &self.proxies {
                let log = std::fs::read_to_string(&proxy.process.log).unwrap_or_default();
                println!("== {}\n{log}", proxy.process.log.display());
            }
        }
    }
}

/// Answers every request with 200, for as long as this program runs.
fn serve_ok() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let Ok(mut socket) = socket else { continue };
            std::thread::spawn(move || {
                let (mut seen, mut bytes) = (Vec::new(), [0; 4096]);
                while let Ok(read @ 1..) = socket.read(&mut bytes) {
                    seen.extend_from_slice(&bytes[..read]);
                    if seen.ends_with(b"\r\n\r\n") {
                        seen.clear();
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                        if socket.write_all(answer).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    port
}

/// A network namespace with a cable to this one that can be cut.
pub struct Cut {
    name: String,
    inside: String,
    host: String,
    cable: String,
}

impl Cut {
    /// Whether this user may make one; otherwise that is said.
    pub fn is_possible() -> bool {
        let name = format!("isobar-try-{}", std::process::id());
        match ip(&format!("netns add {name}")) {
            true => ip(&format!("netns del {name}")),
            false => {
                println!("skipped: no network namespace can be made here");
                false
            }
        }
    }

    pub fn new() -> Cut {
        let id = std::process::id();
        let net = format!("10.{}.{}", 64 + id / 250 % 64, id % 250);
        let cut = Cut {
            name: format!("isobar-cut-{id}"),
            inside: format!("{net}.2"),
            host: format!("{net}.1"),
            cable: format!("ic{id}"),
        };
        let Cut {
            name,
            inside,
            host,
            cable,
        } = &cut;
        for line in [
            format!("netns add {name}"),
            format!("link add {cable} type veth peer name e0 netns {name}"),
            format!("addr add {host}/24 dev {cable}"),
            format!("link set {cable} up"),
            format!("-n {name} addr add {inside}/24 dev e0"),
            format!("-n {name} link set e0 up"),
            format!("-n {name} link set lo up"),
        ] {
            if !ip(&line) {
                missing(&format!("ip {line} failed"));
            }
        }
        cut
    }

    /// This side's address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Mends or cuts the cable, at its far end: this side keeps its address.
    pub fn set(&self, is_whole: bool) {
        let state = if is_whole { "up" } else { "down" };
        assert!(ip(&format!("-n {} link set e0 {state}", self.name)));
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        ip(&format!("link del {}", self.cable));
        ip(&format!("netns del {}", self.name));
    }
}

fn ip(line: &str) -> bool {
    let mut command = Command::new("ip");
    command
        .args(line.split(' '))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
