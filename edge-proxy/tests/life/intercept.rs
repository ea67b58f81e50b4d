//! Connections that were going elsewhere, in network namespaces of their own with rules that `isobar-proxy intercept` makes.
//!
//! ```text
//! redirect   near: application, proxy ───── far: servers
//! tproxy     client ───── middle: proxy ───── far: servers
//! ```

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::{Proxy, addresses};

const PROXY: &str = env!("CARGO_BIN_EXE_isobar-proxy");
/// An application's user; the proxy is root's here.
const APPLICATION: &str = "65534";

/// Whether the tests can run; else says why not. What is missing though it could be there is a failure under
/// `ISOBAR_TEST_REQUIRE=all`.
fn can_run(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("{test} was skipped: it needs root");
        return false;
    }
    let runs = |program: &&str| {
        let found = Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        found.is_ok()
    };
    let Some(missing) = ["nft", "ip", "nsenter", "bash", "timeout"]
        .into_iter()
        .find(|p| !runs(p))
    else {
        return true;
    };
    assert!(
        std::env::var("ISOBAR_TEST_REQUIRE").as_deref() != Ok("all"),
        "ISOBAR_TEST_REQUIRE=all, and there is no {missing}"
    );
    eprintln!("{test} was skipped: there is no {missing}");
    false
}

/// A network namespace; gone when the test ends, with all that is in it.
struct Namespace(String);

impl Namespace {
    fn new(name: &str) -> Namespace {
        let name = format!("isobar-{}-{name}", std::process::id());
        ip(&format!("netns add {name}"));
        ip(&format!("-n {name} link set lo up"));
        Namespace(name)
    }

    /// Joins two of them by a cable with an address at each end.
    fn join(&self, own: &str, other: &Namespace, others: &str, cable: &str) {
        let (a, b) = (&self.0, &other.0);
        ip(&format!(
            "link add {cable}a netns {a} type veth peer name {cable}b netns {b}"
        ));
        for (namespace, end, address) in [(a, "a", own), (b, "b", others)] {
            ip(&format!(
                "-n {namespace} address add {address}/24 dev {cable}{end}"
            ));
            ip(&format!("-n {namespace} link set {cable}{end} up"));
        }
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    fn run(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg(program);
        command
    }

    /// A server here that says who it is and what it heard, a line or a request's head.
    async fn server(&self, address: &str, name: &'static str) {
        let (path, address) = (self.path(), address.parse::<SocketAddr>().unwrap());
        // A thread of its own, since it stays in the namespace.
        let bound = std::thread::spawn(move || {
            let namespace = File::open(path).unwrap();
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), kind).unwrap();
            std::net::TcpListener::bind(address).unwrap()
        });
        let listener = bound.join().unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut heard = Vec::new();
                    while !heard.ends_with(b"\n")
                        || (heard.starts_with(b"GET") && !heard.ends_with(b"\r\n\r\n"))
                    {
                        if stream.read_buf(&mut heard).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let answer = match heard.starts_with(b"GET") {
                        true => format!(
                            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}",
                            name.len()
                        ),
                        false => format!("{name} heard {}", String::from_utf8_lossy(&heard)),
                    };
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
    }

    /// What an application here hears when it says this to an address.
    async fn ask(&self, address: &str, say: &str) -> String {
        let (host, port) = address.rsplit_once(':').unwrap();
        let talk = format!("exec 3<>/dev/tcp/{host}/{port} && printf '{say}' >&3 && cat <&3");
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path()));
        command.args([
            "--setuid",
            APPLICATION,
            "timeout",
            "30",
            "bash",
            "-c",
            &talk,
        ]);
        let asked = tokio::task::spawn_blocking(move || command.output()).await;
        String::from_utf8(asked.unwrap().unwrap().stdout).unwrap()
    }

    /// The body of an answer to a request.
    async fn get(&self, address: &str, host: &str) -> String {
        let say = format!("GET / HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n");
        let answer = self.ask(address, &say).await;
        let body = answer
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.to_owned());
        body.unwrap_or(answer)
    }

    fn proxy(&self, dir: &Path) -> Proxy {
        let child: std::io::Result<Child> = self
            .run(PROXY)
            .args(["--log", "warn", "--config"])
            .arg(dir.join("proxy.toml"))
            .stdout(Stdio::null())
            .spawn();
        Proxy(child.unwrap())
    }

    fn intercept(&self, arguments: &str) -> String {
        let mut command = self.run(PROXY);
        command.arg("intercept").args(arguments.split(' '));
        said(command.output().unwrap(), arguments)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(arguments: &str) {
    let ran = Command::new("ip").args(arguments.split(' ')).output();
    said(ran.unwrap(), arguments);
}

fn said(output: Output, what: &str) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// A configuration with a service by host, one by destination, and `listeners`.
fn write_config(dir: &Path, cart: &str, db: &str, listeners: &str) {
    let text = format!(
        "node = \"a\"\ndata_dir = \"{data}\"\nlisten = \"0.0.0.0:7410\"\nmesh_listen = \"0.0.0.0:7411\"\n\
         admin_listen = \"127.0.0.1:7419\"\nworkers = 1\n\
         [[services]]\nservice = \"shop/cart\"\nhosts = [\"cart.example\"]\nendpoints = [{{ address = \"{cart}\", workers = 4 }}]\n\
         [[services]]\nservice = \"shop/db\"\nendpoints = [{{ address = \"{db}\", workers = 4 }}]\n{listeners}",
        data = dir.join("data").display(),
    );
    std::fs::write(dir.join("proxy.toml"), text).unwrap();
}

fn listener(name: &str, port: u16, how: &str, by_destination: &str) -> String {
    format!(
        "[[listeners]]\nname = \"{name}\"\naddress = \"0.0.0.0:{port}\"\nprotocol = \"detect\"\nintercept = \"{how}\"\n\
         [listeners.by_destination]\n\"{by_destination}\" = \"shop/db\"\n"
    )
}

#[tokio::test]
async fn redirected_connections_reach_whom_they_were_for() {
    if !can_run("redirected_connections_reach_whom_they_were_for") {
        return;
    }
    let (near, far) = (Namespace::new("near"), Namespace::new("far"));
    near.join("10.77.0.1", &far, "10.77.0.2", "i");
    far.server("10.77.0.2:8001", "cart").await;
    far.server("10.77.0.2:8002", "db").await;
    far.server("10.77.0.2:9002", "outside").await;
    let dir = TempDir::new().unwrap();
    let listeners = [
        listener("out", 7414, "redirect", "10.77.0.2:9001"),
        listener("in", 7413, "redirect", "10.77.0.1:9003"),
    ];
    write_config(
        dir.path(),
        "10.77.0.2:8001",
        "10.77.0.2:8002",
        &listeners.concat(),
    );
    let _proxy = near.proxy(dir.path());
    addresses(dir.path(), |_| true).await;
    // Before there are rules nobody is there.
    assert_eq!(near.get("10.77.0.2:80", "cart.example").await, "");
    let flags = "--mode redirect --inbound 7413 --outbound 7414 --exempt-uid 0";
    let script = near.intercept(&format!("{flags} --print"));
    assert!(script.contains("redirect to :7414"), "{script}");
    near.intercept(flags);
    // HTTP by its host, TCP by where it was going, what the mesh does not know on to where it was going.
    assert_eq!(near.get("10.77.0.2:80", "cart.example").await, "cart");
    assert_eq!(near.ask("10.77.0.2:9001", "one\\n").await, "db heard one\n");
    assert_eq!(
        near.ask("10.77.0.2:9002", "two\\n").await,
        "outside heard two\n"
    );
    // Who speaks to the proxy itself is served as ever.
    assert_eq!(near.get("10.77.0.1:7410", "cart.example").await, "cart");
    // What arrives is redirected too, but for the proxy's own ports.
    assert_eq!(
        far.ask("10.77.0.1:9003", "three\\n").await,
        "db heard three\n"
    );
    assert_eq!(far.get("10.77.0.1:7410", "cart.example").await, "cart");
    near.intercept("--remove");
    assert_eq!(near.get("10.77.0.2:80", "cart.example").await, "");
    assert_eq!(near.get("10.77.0.1:7410", "cart.example").await, "cart");
}

#[tokio::test]
async fn connections_that_pass_through_are_given_to_the_proxy_as_they_are() {
    if !can_run("connections_that_pass_through_are_given_to_the_proxy_as_they_are") {
        return;
    }
    let (client, middle, far) = (
        Namespace::new("client"),
        Namespace::new("middle"),
        Namespace::new("behind"),
    );
    client.join("10.78.1.2", &middle, "10.78.1.1", "c");
    middle.join("10.78.2.1", &far, "10.78.2.2", "f");
    ip(&format!("-n {} route add default via 10.78.1.1", client.0));
    far.server("10.78.2.2:8001", "cart").await;
    far.server("10.78.2.2:8002", "db").await;
    far.server("10.78.2.2:9002", "outside").await;
    let dir = TempDir::new().unwrap();
    let listeners = listener("through", 7415, "tproxy", "10.78.2.2:9001");
    write_config(dir.path(), "10.78.2.2:8001", "10.78.2.2:8002", &listeners);
    let _proxy = middle.proxy(dir.path());
    addresses(dir.path(), |_| true).await;
    middle.intercept(&format!("--config {}/proxy.toml", dir.path().display()));
    // Nobody listens there, nor is anybody known by that address.
    assert_eq!(client.get("10.99.9.9:80", "cart.example").await, "cart");
    assert_eq!(
        client.ask("10.78.2.2:9001", "one\\n").await,
        "db heard one\n"
    );
    assert_eq!(
        client.ask("10.78.2.2:9002", "two\\n").await,
        "outside heard two\n"
    );
    assert_eq!(client.get("10.78.1.1:7410", "cart.example").await, "cart");
    middle.intercept("--remove");
}
