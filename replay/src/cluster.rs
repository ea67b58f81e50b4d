//! A real cluster: a controller, edge proxies and endpoints as processes on this machine.
//!
//! ```text
//!              ┌────────────────────── this process ──────────────────────┐
//!              │ generator (clients)      run (faults, samples)            │
//!              └──┬──────────────────────────────────┬────────────────────┘
//!                 ▼ ingress                           ▼ REST
//!   proxy 1 … proxy n ◀──── control streams ────▶ controller
//!     │   └── mesh ──▶ relays (half a round trip each way) ──▶ other proxies
//!     ▼
//!   endpoints (with the relays in one process)
//! ```
//!
//! The programs are the production ones; only distance and work are made up.
//! Everything listens on loopback ports that the system picks. Nothing
//! survives a [`Cluster`]: processes are killed and files removed when it is
//! dropped, and every child ends itself when this process is gone.
//!
//! In reading order:
//!
//! - [`spec`]: what a cluster consists of;
//! - [`process`], [`lifeline`]: a child process, seen from both sides;
//! - [`places`], [`endpoint`], [`link`]: the made-up work and distance;
//! - [`arrivals`], [`generator`], [`record`]: the clients and what they see;
//! - [`rest`], [`status`]: what the controller says;
//! - [`run`]: one load against one cluster, with faults;
//! - [`replay`]: the options of a replay, on real processes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;
use tokio::time::Instant;

pub mod addresses;
pub mod arrivals;
pub mod endpoint;
pub mod error;
pub mod generator;
pub mod lifeline;
pub mod link;
pub mod places;
pub mod process;
pub mod record;
pub mod replay;
pub mod rest;
pub mod run;
pub mod spec;
pub mod status;

pub use error::ClusterError;
pub use spec::{ClusterSpec, Place};

use process::Process;
use spec::{ControllerFiles, ProxyFiles};
use status::Status;

/// Longest wait for a program to listen or for a node to be heard of.
pub const READY_MAX: Duration = Duration::from_secs(30);
/// Longest wait for a program to end by itself before it is killed.
pub const STOP_MAX: Duration = Duration::from_secs(5);

/// The first argument of the program's children, by what they are.
pub mod child {
    /// The controller; `--config FILE`.
    pub const CONTROLLER: &str = "controller";
    /// An edge proxy; `--config FILE`.
    pub const PROXY: &str = "proxy";
    /// Endpoints and relays; `--config FILE`.
    pub const PLACES: &str = "places";
    /// Ends the child when its standard input ends.
    pub const WITH_PARENT: &str = "--with-parent";
}

/// Tells a person what is being done.
pub type Say<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    // Processes first: they are killed before the directory goes.
    controller: Option<Process>,
    proxies: Vec<Option<Process>>,
    places: Process,
    spec: ClusterSpec,
    program: PathBuf,
    rest: SocketAddr,
    stream: SocketAddr,
    ingress: Vec<SocketAddr>,
    mesh: Vec<SocketAddr>,
    relays: Vec<Option<SocketAddr>>,
    directory: tempfile::TempDir,
}

/// What [`Cluster::stop`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// Processes that did not end by themselves in time and were killed.
    pub killed: Vec<String>,
    /// Processes that ended with an error.
    pub failed: Vec<String>,
}

impl Cluster {
    /// Starts everything and waits until the controller has heard of every node. `program` is run
    /// with the subcommands of [`child`].
    ///
    /// # Errors
    /// The spec is wrong, or a program does not start, ends, or is not ready in [`READY_MAX`].
    pub async fn start(
        program: &Path,
        spec: ClusterSpec,
        say: Say<'_>,
    ) -> Result<Cluster, ClusterError> {
        spec.check()?;
        let directory = tempfile::Builder::new()
            .prefix("isobar-cluster-")
            .tempdir()
            .map_err(|source| file_error("create", &std::env::temp_dir(), source))?;
        let root = directory.path();

        say("starting endpoints and links");
        let (places, made) = start_places(program, root, &spec).await?;

        say("starting the controller");
        let data_dir = make_directory(&root.join("controller"))?;
        let resources = root.join("resources.json");
        write(&resources, &spec.resources(&made.endpoints).to_string())?;
        let files = ControllerFiles {
            data_dir: &data_dir,
            resources: &resources,
            listen: None,
        };
        write(&root.join("controller.toml"), &spec.controller_toml(&files))?;
        let mut controller = start_child(program, root, child::CONTROLLER, "controller")?;
        let rest = wait_address(&mut controller, &data_dir, "rest").await?;
        let stream = wait_address(&mut controller, &data_dir, "stream").await?;
        // The ports stay when it starts again, so that proxies and watchers find it.
        let files = ControllerFiles {
            listen: Some((rest, stream)),
            ..files
        };
        write(&root.join("controller.toml"), &spec.controller_toml(&files))?;

        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let nodes = spec.places.len();
        let mut cluster = Cluster {
            controller: Some(controller),
            proxies: (0..nodes).map(|_| None).collect(),
            places,
            program: program.to_owned(),
            rest,
            stream,
            ingress: vec![any; nodes],
            mesh: vec![any; nodes],
            relays: made.relays,
            directory,
            spec,
        };
        say(&format!("starting {nodes} proxies"));
        for node in 0..nodes {
            cluster.start_proxy(node)?;
        }
        for node in 0..nodes {
            cluster.wait_proxy(node).await?;
        }
        say("waiting for the first plan");
        cluster.wait_heard().await?;
        Ok(cluster)
    }

    /// What it was started with.
    pub fn spec(&self) -> &ClusterSpec {
        &self.spec
    }

    /// The controller's REST address.
    pub fn rest(&self) -> SocketAddr {
        self.rest
    }

    /// Every node's ingress.
    pub fn ingress(&self) -> &[SocketAddr] {
        &self.ingress
    }

    /// Ids of all processes that run.
    pub fn process_ids(&self) -> Vec<u32> {
        let children = self.proxies.iter().flatten().chain(&self.controller);
        children
            .map(Process::id)
            .chain([self.places.id()])
            .collect()
    }

    /// What the controller says of its nodes.
    ///
    /// # Errors
    /// It does not answer, or says something else.
    pub async fn status(&self) -> Result<Status, ClusterError> {
        let json = rest::send(self.rest, Method::GET, status::PATH, None).await?;
        Status::read(&json, &self.spec)
    }

    /// Kills the controller (SIGKILL), as a crash would.
    pub fn kill_controller(&mut self) {
        if let Some(mut controller) = self.controller.take() {
            controller.kill();
        }
    }

    /// Starts the controller again on its old data and ports.
    ///
    /// # Errors
    /// It does not start or does not listen in time.
    pub async fn restart_controller(&mut self) -> Result<(), ClusterError> {
        self.kill_controller();
        let root = self.directory.path();
        let data_dir = root.join("controller");
        remove_if_there(&data_dir.join(addresses::FILE_NAME))?;
        let mut controller = start_child(&self.program, root, child::CONTROLLER, "controller")?;
        wait_address(&mut controller, &data_dir, "rest").await?;
        self.controller = Some(controller);
        Ok(())
    }

    /// Kills a node's proxy (SIGKILL).
    pub fn kill_proxy(&mut self, node: usize) {
        if let Some(mut proxy) = self.proxies.get_mut(node).and_then(Option::take) {
            proxy.kill();
        }
    }

    /// Starts a node's proxy again on its old data and ports.
    ///
    /// # Errors
    /// It does not start or does not listen in time.
    pub async fn restart_proxy(&mut self, node: usize) -> Result<(), ClusterError> {
        self.kill_proxy(node);
        remove_if_there(&self.node_dir(node).join(addresses::FILE_NAME))?;
        self.start_proxy(node)?;
        self.wait_proxy(node).await
    }

    /// Fails when a process has ended that nobody killed.
    ///
    /// # Errors
    /// [`ClusterError::Ended`] with its log.
    pub fn check_running(&mut self) -> Result<(), ClusterError> {
        self.places.check_running()?;
        let children = self
            .proxies
            .iter_mut()
            .flatten()
            .chain(&mut self.controller);
        for process in children {
            process.check_running()?;
        }
        Ok(())
    }

    /// Ends everything in order: proxies first, together, then the controller, then the places.
    pub async fn stop(mut self) -> Stopped {
        let mut stopped = Stopped {
            killed: Vec::new(),
            failed: Vec::new(),
        };
        let proxies = std::mem::take(&mut self.proxies).into_iter().flatten();
        let rounds = [
            proxies.collect(),
            self.controller.take().into_iter().collect::<Vec<_>>(),
        ];
        for mut round in rounds {
            let deadline = Instant::now() + STOP_MAX;
            round.iter_mut().for_each(Process::ask_to_end);
            for process in &mut round {
                stopped.note(process, deadline).await;
            }
        }
        self.places.ask_to_end();
        stopped
            .note(&mut self.places, Instant::now() + STOP_MAX)
            .await;
        stopped
    }

    /// Where a node's proxy keeps its key, its certificate and what it was told last.
    pub fn node_dir(&self, node: usize) -> PathBuf {
        node_dir(self.directory.path(), node)
    }

    /// Starts a proxy without waiting for it.
    fn start_proxy(&mut self, node: usize) -> Result<(), ClusterError> {
        let root = self.directory.path();
        let nodes = self.spec.places.len();
        let name = format!("node-{node}");
        let data_dir = make_directory(&self.node_dir(node))?;
        let files = ProxyFiles {
            data_dir: &data_dir,
            controller: self.stream,
            ca: &root.join("controller").join("ca.pem"),
            token: &root.join("controller").join("enrol-token"),
            listen: self.ingress[node],
            mesh_listen: self.mesh[node],
            relays: &self.relays[node * nodes..(node + 1) * nodes],
        };
        write(
            &root.join(format!("{name}.toml")),
            &self.spec.proxy_toml(node, &files),
        )?;
        self.proxies[node] = Some(start_child(&self.program, root, child::PROXY, &name)?);
        Ok(())
    }

    async fn wait_proxy(&mut self, node: usize) -> Result<(), ClusterError> {
        let data_dir = self.node_dir(node);
        let Some(proxy) = &mut self.proxies[node] else {
            return Ok(());
        };
        self.ingress[node] = wait_address(proxy, &data_dir, "ingress").await?;
        self.mesh[node] = wait_address(proxy, &data_dir, "mesh").await?;
        Ok(())
    }

    /// Waits until the controller has a report of every node.
    async fn wait_heard(&mut self) -> Result<(), ClusterError> {
        let deadline = Instant::now() + READY_MAX;
        loop {
            self.check_running()?;
            let heard = self.status().await.map(|status| status.heard());
            if matches!(heard, Ok(heard) if heard == self.spec.places.len()) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let controller = self.controller.as_ref();
                return Err(ClusterError::NotReady {
                    name: "controller".to_owned(),
                    after_s: READY_MAX.as_secs(),
                    missing: match heard {
                        Ok(heard) => format!("it has heard of {heard} nodes"),
                        Err(error) => error.to_string(),
                    },
                    log: controller.map(Process::log_tail).unwrap_or_default(),
                });
            }
            tokio::time::sleep(5 * process::LOOK_EVERY).await;
        }
    }
}

impl Stopped {
    /// Whether everything ended by itself and without an error.
    pub fn is_clean(&self) -> bool {
        self.killed.is_empty() && self.failed.is_empty()
    }

    async fn note(&mut self, process: &mut Process, deadline: Instant) {
        match process.wait_or_kill(deadline).await {
            None => self.killed.push(process.name().to_owned()),
            Some(status) if !status.success() => {
                self.failed.push(format!("{} ({status})", process.name()));
            }
            Some(_) => {}
        }
    }
}

async fn start_places(
    program: &Path,
    root: &Path,
    spec: &ClusterSpec,
) -> Result<(Process, places::Addresses), ClusterError> {
    let data_dir = make_directory(&root.join("places"))?;
    let node = |(index, place): (usize, &Place)| places::Node {
        name: place.name.clone(),
        workers: place.workers,
        service_us: micros(place.service),
        proxy_data_dir: node_dir(root, index),
    };
    let config = places::Config {
        data_dir: data_dir.clone(),
        nodes: spec.places.iter().enumerate().map(node).collect(),
        rtt_us: spec.rtt.iter().copied().map(micros).collect(),
        seed: spec.seed,
    };
    let path = root.join("places.toml");
    let text = serde_json::to_string(&config).map_err(|e| file_error("write", &path, e.into()))?;
    write(&path, &text)?;
    let mut process = start_child(program, root, child::PLACES, "places")?;
    let listening = || places::read_addresses(&data_dir).map_err(|error| error.to_string());
    let made = wait_for(&mut process, listening).await?;
    Ok((process, made))
}

fn start_child(
    program: &Path,
    root: &Path,
    kind: &str,
    name: &str,
) -> Result<Process, ClusterError> {
    let config = root.join(format!("{name}.toml"));
    let config = config.to_string_lossy();
    let arguments = [kind, "--config", &config, child::WITH_PARENT];
    Process::start(name, program, &arguments, &root.join(format!("{name}.log")))
}

async fn wait_address(
    process: &mut Process,
    data_dir: &Path,
    name: &str,
) -> Result<SocketAddr, ClusterError> {
    let file = data_dir.join(addresses::FILE_NAME);
    wait_for(process, || addresses::read(&file, name)).await
}

/// Looks until there is something to see, the process has ended, or [`READY_MAX`] is over.
async fn wait_for<T>(
    process: &mut Process,
    look: impl Fn() -> Result<T, String>,
) -> Result<T, ClusterError> {
    let deadline = Instant::now() + READY_MAX;
    loop {
        let missing = match look() {
            Ok(seen) => return Ok(seen),
            Err(missing) => missing,
        };
        process.check_running()?;
        if Instant::now() >= deadline {
            return Err(ClusterError::NotReady {
                name: process.name().to_owned(),
                after_s: READY_MAX.as_secs(),
                missing,
                log: process.log_tail(),
            });
        }
        tokio::time::sleep(process::LOOK_EVERY).await;
    }
}

fn node_dir(root: &Path, node: usize) -> PathBuf {
    root.join(format!("node-{node}"))
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn file_error(verb: &'static str, path: &Path, source: std::io::Error) -> ClusterError {
    ClusterError::File {
        verb,
        path: path.to_owned(),
        source,
    }
}

fn write(path: &Path, text: &str) -> Result<(), ClusterError> {
    std::fs::write(path, text).map_err(|source| file_error("write", path, source))
}

fn make_directory(path: &Path) -> Result<PathBuf, ClusterError> {
    std::fs::create_dir_all(path).map_err(|source| file_error("create", path, source))?;
    Ok(path.to_owned())
}

fn remove_if_there(path: &Path) -> Result<(), ClusterError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(file_error("remove", path, error))
        }
        _ => Ok(()),
    }
}
