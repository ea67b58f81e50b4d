//! Real processes: controller, proxies, endpoints, a load that jumps, and what goes wrong on purpose.
//!
//! Loads are small, so that a busy machine can carry them; what is asserted is
//! what must hold at any speed.

#![allow(clippy::unwrap_used)] // A test that meets an error has failed; here is where.

mod control_load;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use isobar_mesh_api::message::Location;
use isobar_mesh_api::resource::WeightPolicySpec;
use isobar_replay::cluster::generator::{self, Traffic};
use isobar_replay::cluster::record::Record;
use isobar_replay::cluster::run::{Experiment, Fault, FaultKind, Seen, run};
use isobar_replay::cluster::{Cluster, ClusterSpec, Place, rest};
use isobar_tests::process::{PATIENCE, wait_for};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

const PROGRAM: &str = env!("CARGO_BIN_EXE_isobar-e2e");
/// Requests/s that one node can serve: 2 workers, 50 ms each.
const CAPACITY_RPS: f64 = 40.0;
/// The hot node's demand jumps here and stays.
const STEP_S: f64 = 3.0;

/// One cluster at a time: they share two processors.
static TURN: Mutex<()> = Mutex::const_new(());

/// Nodes in a row, half a kilometre apart; the first one's demand jumps to 1.6 of its capacity.
fn jump(nodes: usize, duration_s: f64, faults: Vec<Fault>) -> Experiment {
    let place = |node: usize| Place {
        name: format!("n{node}"),
        location: Location {
            lat_deg: 45.46,
            lon_deg: 9.1 + 0.0064 * node as f64,
        },
        workers: 2,
        service: Duration::from_millis(50),
        capacity_rps: Some(CAPACITY_RPS),
    };
    Experiment {
        spec: ClusterSpec {
            places: (0..nodes).map(place).collect(),
            rtt: vec![Duration::from_millis(2); nodes * nodes],
            policy: WeightPolicySpec::default(),
            period_ms: 500,
            seed: 11,
        },
        rate: Arc::new(|node, at_s| match (node, at_s < STEP_S) {
            (0, false) => 1.6 * CAPACITY_RPS,
            _ => 0.3 * CAPACITY_RPS,
        }),
        hot: Arc::new(|node, at_s| node == 0 && at_s >= STEP_S),
        duration_s,
        measure_from_s: 0.0,
        seed: 5,
        faults,
    }
}

async fn play(experiment: Experiment) -> Seen {
    let stop = CancellationToken::new();
    let seen = run(Path::new(PROGRAM), &experiment, &stop, &|_| (), &mut |_| ()).await;
    let seen = seen.unwrap_or_else(|error| panic!("{error}"));
    assert!(seen.stopped.is_clean(), "{:?}", seen.stopped);
    seen
}

#[tokio::test]
async fn a_jump_is_carried_by_the_neighbours_and_nothing_is_lost() {
    let _turn = TURN.lock().await;
    let seen = play(jump(4, 12.0, Vec::new())).await;
    let counted = seen.record.counted();
    assert!(counted.requests > 500, "{counted:?}");
    assert_eq!(counted.failures, 0, "{counted:?}");
    assert!(counted.moved > 50, "{counted:?}");
    assert!(seen.record.first_move_s(0, STEP_S).is_some());
    // What cannot be served at home is moved by plan, not only by spill.
    let row = |sample: &isobar_replay::cluster::run::Sample| sample.status.nodes[0].moves.clone();
    let planned: Vec<_> = seen
        .samples
        .iter()
        .map(row)
        .filter(|moves| !moves.is_empty())
        .collect();
    assert!(!planned.is_empty(), "no row ever moved anything");
    for sample in &seen.samples {
        assert!(
            sample
                .status
                .nodes
                .iter()
                .all(|node| node.planned_utilisation < 1.0),
            "{sample:?}"
        );
    }
}

#[tokio::test]
async fn a_controller_killed_in_the_spike_costs_nothing_and_comes_back_as_the_next_epoch() {
    let _turn = TURN.lock().await;
    let (killed_s, back_s) = (STEP_S + 2.0, STEP_S + 5.0);
    let faults = vec![
        Fault {
            at_s: killed_s,
            kind: FaultKind::KillController,
        },
        Fault {
            at_s: back_s,
            kind: FaultKind::RestartController,
        },
    ];
    let seen = play(jump(4, STEP_S + 12.0, faults)).await;
    let counted = seen.record.counted();
    assert_eq!(counted.failures, 0, "{counted:?}");
    assert!(
        seen.record
            .moves()
            .iter()
            .any(|moved| (killed_s..back_s).contains(&moved.due_s))
    );
    let epochs: BTreeSet<u64> = seen.samples.iter().map(|s| s.status.plan.epoch).collect();
    assert_eq!(epochs.len(), 2, "{epochs:?}");
    let last = seen.samples.last().unwrap();
    assert!(last.at_s > back_s && Some(&last.status.plan.epoch) == epochs.last());
    assert_eq!(last.status.heard(), 4, "all are back: {last:?}");
    // It goes on from its last plan: it does not send everything home first.
    let back = seen
        .samples
        .iter()
        .find(|sample| sample.at_s > back_s)
        .unwrap();
    assert!(!back.status.nodes[0].moves.is_empty(), "{back:?}");
}

#[tokio::test]
async fn a_killed_proxy_costs_its_own_clients_alone_and_serves_again() {
    let _turn = TURN.lock().await;
    let (killed_s, back_s, end_s) = (STEP_S + 2.0, STEP_S + 6.0, STEP_S + 12.0);
    let faults = vec![
        Fault {
            at_s: killed_s,
            kind: FaultKind::KillProxy(1),
        },
        Fault {
            at_s: back_s,
            kind: FaultKind::RestartProxy(1),
        },
    ];
    let seen = play(jump(4, end_s, faults)).await;
    // Requests that were in the killed process are gone; from the next second on nobody else fails.
    let quiet_from = killed_s as usize + 3;
    for second in quiet_from..end_s as usize {
        let bins = seen.record.bins(second).unwrap();
        for node in [0, 2, 3] {
            assert_eq!(
                bins[node].failed, 0,
                "node {node} in second {second}: {:?}",
                bins[node]
            );
        }
    }
    let at_the_end = seen.record.bins(end_s as usize - 2).unwrap()[1];
    assert!(
        at_the_end.served > 0 && at_the_end.failed == 0,
        "{at_the_end:?}"
    );
}

/// Takes a step of the authority when it can be taken: nodes may not have heard of the one before.
async fn step(cluster: &Cluster, name: &str) {
    let body = serde_json::json!({ "step": name });
    let deadline = Instant::now() + PATIENCE;
    let path = "/v1/authority/steps";
    while let Err(error) = rest::send(cluster.rest(), Method::POST, path, Some(&body)).await {
        assert!(Instant::now() < deadline, "{name}: {error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until every node has another certificate than before.
async fn until_renewed(cluster: &Cluster, before: &mut [String]) {
    for (node, before) in before.iter_mut().enumerate() {
        let path = cluster.node_dir(node).join("node-chain.pem");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = std::fs::read_to_string(&path).unwrap_or_default();
            if !now.is_empty() && now != *before {
                *before = now;
                break;
            }
            assert!(
                Instant::now() < deadline,
                "node {node} has its old certificate"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn leaf_intermediate_and_root_follow_one_another_under_load_and_no_request_fails() {
    let _turn = TURN.lock().await;
    let Experiment { spec, .. } = jump(2, 0.0, Vec::new());
    let cluster = Cluster::start(Path::new(PROGRAM), spec, &|_| ()).await;
    let cluster = cluster.unwrap_or_else(|error| panic!("{error}"));
    let (record, stop) = (
        Arc::new(std::sync::Mutex::new(Record::new(2, 0.0))),
        CancellationToken::new(),
    );
    let traffic = Traffic {
        ingress: cluster.ingress().to_vec(),
        names: cluster
            .spec()
            .places
            .iter()
            .map(|place| place.name.clone())
            .collect(),
        // The first node's demand is above its capacity throughout: part of it moves, over mutual TLS.
        rate: Arc::new(|node, _| [1.3, 0.2][node] * CAPACITY_RPS),
        hot: Arc::new(|_, _| false),
        duration_s: 600.0,
        seed: 5,
    };
    let load = generator::spawn(
        traffic,
        tokio::time::Instant::now(),
        record.clone(),
        stop.clone(),
    )
    .unwrap();
    let moved = || record.lock().unwrap().counted().moved;
    let until_moved = async |what: &str| {
        let (before, deadline) = (moved(), Instant::now() + PATIENCE);
        while moved() < before + 20 {
            assert!(Instant::now() < deadline, "nothing moves {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let read =
        |node| std::fs::read_to_string(cluster.node_dir(node).join("node-chain.pem")).unwrap();
    let mut chains = [read(0), read(1)];
    until_moved("before").await;
    // Another intermediate below the same root; then another root, below which all renew their leaves.
    step(&cluster, "renew").await;
    until_moved("after another intermediate").await;
    step(&cluster, "begin").await;
    until_moved("while two roots are believed").await;
    step(&cluster, "switch").await;
    until_renewed(&cluster, &mut chains).await;
    until_moved("below the new root").await;
    step(&cluster, "retire").await;
    until_moved("after the old root is gone").await;
    let status = rest::send(cluster.rest(), Method::GET, "/v1/authority", None)
        .await
        .unwrap();
    assert_eq!(status["roots"].as_array().unwrap().len(), 1, "{status}");
    stop.cancel();
    tokio::task::spawn_blocking(move || load.join().unwrap())
        .await
        .unwrap();
    let counted = record.lock().unwrap().counted();
    assert_eq!(counted.failures, 0, "{counted:?}");
    assert!(counted.requests > 200, "{counted:?}");
    let stopped = cluster.stop().await;
    assert!(stopped.is_clean(), "{stopped:?}");
}

/// A demo in a directory of its own, killed at the latest when dropped.
struct Demo {
    child: Child,
    directory: tempfile::TempDir,
}

impl Demo {
    fn start() -> Demo {
        let directory = tempfile::tempdir().unwrap();
        let child = Command::new(PROGRAM)
            .args(["demo", "--quick"])
            .current_dir(directory.path())
            // Its temporary files go where we can see whether they are gone.
            .env("TMPDIR", directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Demo { child, directory }
    }

    /// Its children, as soon as there are proxies among them.
    fn children(&self) -> Vec<u32> {
        wait_for("proxies", || {
            let children = children_of(self.child.id());
            (children.len() > 10).then_some(children)
        })
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("/bin/sh")
            .args(["-c", &format!("kill -{name} {id}")])
            .status();
        assert!(sent.unwrap().success());
    }

    fn left(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.directory.path()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ids of the processes whose parent is `id`; zombies do not count.
fn children_of(id: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|child| state_and_parent(*child).is_some_and(|(_, parent)| parent == id))
        .collect()
}

fn is_running(id: u32) -> bool {
    state_and_parent(id).is_some_and(|(state, _)| state != 'Z')
}

/// The fourth field of `/proc/ID/stat`; the second, the name in brackets, may have anything in it.
fn state_and_parent(id: u32) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

#[test]
fn ctrl_c_ends_a_demo_and_leaves_nothing() {
    let _turn = TURN.blocking_lock();
    let mut demo = Demo::start();
    let children = demo.children();
    demo.signal("INT");
    let status = demo.child.wait().unwrap();
    assert_eq!(status.code(), Some(1), "a stopped demo is no success");
    let running: Vec<u32> = children.into_iter().filter(|id| is_running(*id)).collect();
    assert_eq!(running, Vec::<u32>::new(), "still running");
    assert_eq!(demo.left(), Vec::<PathBuf>::new());
}

#[test]
fn a_killed_demo_takes_its_children_with_it() {
    let _turn = TURN.blocking_lock();
    let mut demo = Demo::start();
    let children = demo.children();
    demo.child.kill().unwrap();
    demo.child.wait().unwrap();
    wait_for("end of all children", || {
        (!children.iter().any(|id| is_running(*id))).then_some(())
    });
}
