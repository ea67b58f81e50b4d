//! A real etcd: members that are killed and started again.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use isobar_tests::process::wait_for;

/// Whether a program is there; a missing one is said, and is a failure under `ISOBAR_TEST_REQUIRE=all`.
pub fn has(program: &str, question: &str) -> bool {
    let mut command = Command::new(program);
    command
        .arg(question)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if command.status().is_ok() {
        return true;
    }
    missing(&format!("there is no {program}"))
}

/// Says what is missing.
pub fn missing(what: &str) -> bool {
    assert!(
        std::env::var("ISOBAR_TEST_REQUIRE").as_deref() != Ok("all"),
        "ISOBAR_TEST_REQUIRE=all, and {what}"
    );
    println!("skipped: {what}");
    false
}

/// A port that nobody has now.
pub fn free_port(host: &str) -> u16 {
    let listener = TcpListener::bind((host, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// In memory where that is possible: a member waits for its disk with every write.
pub fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory)
            .or_else(|_| tempfile::tempdir())
            .unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// How a member speaks TLS.
#[derive(Debug, Clone)]
pub struct Tls {
    pub ca: PathBuf,
    pub server: Identity,
    /// Whether clients must show a certificate.
    pub asks_clients: bool,
    /// Who sets it up.
    pub admin: Identity,
}

pub struct Etcd {
    directory: TempDir,
    tls: Option<Tls>,
    host: String,
    /// Client and peer port of each member.
    ports: Vec<(u16, u16)>,
    members: Vec<Option<Child>>,
}

impl Etcd {
    /// Starts so many members and waits for their quorum.
    pub fn start(members: usize, host: &str) -> Etcd {
        let etcd = Etcd::launch(members, host, None);
        wait_for("etcd's quorum", || {
            let (status, said) =
                crate::mesh::post(&etcd.address(0), "/v3/kv/range", "{\"key\":\"YQ==\"}")?;
            (status == 200 && said.contains("header")).then_some(())
        });
        etcd
    }

    /// Starts one member whose clients speak TLS, and waits until it is well.
    pub fn start_tls(tls: Tls) -> Etcd {
        let etcd = Etcd::launch(1, "127.0.0.1", Some(tls));
        etcd.until_well();
        etcd
    }

    /// Waits until the one member with TLS is well.
    pub fn until_well(&self) {
        wait_for("etcd to be well", || {
            self.curl("/health", None, None)?
                .contains("true")
                .then_some(())
        });
    }

    fn launch(members: usize, host: &str, tls: Option<Tls>) -> Etcd {
        let ports = (0..members).map(|_| (free_port(host), free_port(host)));
        let mut etcd = Etcd {
            directory: directory(),
            tls,
            host: host.to_owned(),
            ports: ports.collect(),
            members: (0..members).map(|_| None).collect(),
        };
        (0..members).for_each(|at| etcd.start_member(at));
        etcd
    }

    /// What the first member answers to a request by TLS; `None` without an answer.
    fn curl(&self, path: &str, body: Option<&str>, token: Option<&str>) -> Option<String> {
        let tls = self.tls.as_ref()?;
        let mut command = Command::new("curl");
        command.args(["--silent", "--http1.1", "--max-time", "20"]);
        command.arg("--cacert").arg(&tls.ca);
        command.arg("--cert").arg(&tls.admin.certificate);
        command.arg("--key").arg(&tls.admin.key);
        if let Some(body) = body {
            command.args(["--data-raw", body]);
        }
        if let Some(token) = token {
            command.args(["--header", &format!("authorization: {token}")]);
        }
        let done = command.arg(format!("https://{}{path}", self.address(0)));
        let done = done.output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        (done.status.success() && !said.is_empty()).then_some(said)
    }

    /// One request to the API of the first member, by TLS.
    pub fn admin(
        &self,
        path: &str,
        body: &serde_json::Value,
        token: Option<&str>,
    ) -> serde_json::Value {
        let said = self.curl(path, Some(&body.to_string()), token).unwrap();
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert!(said["error"].is_null(), "{path}: {said}");
        said
    }

    fn address(&self, at: usize) -> String {
        format!("{}:{}", self.host, self.ports[at].0)
    }

    /// As the controller's configuration has them.
    pub fn endpoints(&self) -> Vec<String> {
        let each = (0..self.ports.len()).map(|at| self.client_url(at));
        each.collect()
    }

    fn client_url(&self, at: usize) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address(at))
    }

    pub fn start_member(&mut self, at: usize) {
        let peer = |at: usize| format!("http://{}:{}", self.host, self.ports[at].1);
        let cluster: Vec<String> = (0..self.ports.len())
            .map(|at| format!("m{at}={}", peer(at)))
            .collect();
        let data: PathBuf = self.directory.path().join(format!("m{at}"));
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join(format!("m{at}.log")))
            .unwrap();
        let client = self.client_url(at);
        let mut command = Command::new("etcd");
        if let Some(tls) = &self.tls {
            command.arg("--cert-file").arg(&tls.server.certificate);
            command.arg("--key-file").arg(&tls.server.key);
            if tls.asks_clients {
                command.arg("--client-cert-auth");
                command.arg("--trusted-ca-file").arg(&tls.ca);
            }
        }
        let child = command
            .args(["--name", &format!("m{at}"), "--data-dir"])
            .arg(data)
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer(at),
                "--initial-advertise-peer-urls",
                &peer(at),
            ])
            .args([
                "--initial-cluster",
                &cluster.join(","),
                "--initial-cluster-state",
                "new",
            ])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.members[at] = Some(child.unwrap());
    }

    pub fn kill(&mut self, at: usize) {
        let mut member = self.members[at].take().unwrap();
        member.kill().unwrap();
        member.wait().unwrap();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in self.members.iter_mut().flatten() {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}
