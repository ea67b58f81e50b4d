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

pub struct Etcd {
    directory: TempDir,
    host: String,
    /// Client and peer port of each member.
    ports: Vec<(u16, u16)>,
    members: Vec<Option<Child>>,
}

impl Etcd {
    /// Starts so many members and waits for their quorum.
    pub fn start(members: usize, host: &str) -> Etcd {
        let ports = (0..members).map(|_| (free_port(host), free_port(host)));
        let mut etcd = Etcd {
            directory: directory(),
            host: host.to_owned(),
            ports: ports.collect(),
            members: (0..members).map(|_| None).collect(),
        };
        (0..members).for_each(|at| etcd.start_member(at));
        wait_for("etcd's quorum", || {
            let (status, said) =
                crate::mesh::post(&etcd.address(0), "/v3/kv/range", "{\"key\":\"YQ==\"}")?;
            (status == 200 && said.contains("header")).then_some(())
        });
        etcd
    }

    fn address(&self, at: usize) -> String {
        format!("{}:{}", self.host, self.ports[at].0)
    }

    /// As the controller's configuration has them.
    pub fn endpoints(&self) -> Vec<String> {
        let each = (0..self.ports.len()).map(|at| format!("http://{}", self.address(at)));
        each.collect()
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
        let client = format!("http://{}", self.address(at));
        let child = Command::new("etcd")
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
