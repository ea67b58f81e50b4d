//! A controller under many control streams, in small: all are held, steps are answered, and all come back after a kill.

use clap::Parser;
use isobar_tests::control_load::{Args, run};

use crate::{PROGRAM, TURN};

const NODES: u32 = 50;
/// More than a row changes from one plan to the next because counts are random; a row that went home and came back would
/// change by three times as much.
const JUMP_PPM_MAX: u32 = 150_000;

fn args(more: &[&str]) -> Args {
    let nodes = NODES.to_string();
    let line = ["control-load", "--nodes", &nodes, "--period-ms", "400"];
    let controller = ["--controller", PROGRAM, "controller"];
    Args::parse_from([&line[..], more, &controller].concat())
}

#[test]
fn streams_are_held_and_steps_are_answered() {
    let _turn = TURN.blocking_lock();
    let more = ["--services", "5", "--services-per-node", "3"];
    let steps = ["--steps-ppm", "50000", "--settle", "2", "--seconds", "8"];
    let measured = run(&args(&[&more[..], &steps].concat())).unwrap();
    assert_eq!(measured.streams, u64::from(NODES), "{measured:?}");
    assert_eq!(measured.services_per_node, 3);
    assert_eq!(measured.errors.connections(), 0, "{measured:?}");
    assert_eq!(measured.errors.nacks, 0, "{measured:?}");
    assert!(measured.plan_latency.answered > 0, "{measured:?}");
    assert!(measured.messages.acks >= measured.messages.deltas);
    assert!(measured.controller_cpu_ratio > 0.0 && measured.node_kib > 0.0);
    let text = measured.to_text();
    assert!(text.contains("streams held      50\n"), "{text}");
}

#[test]
fn after_a_kill_all_come_back_to_the_same_plan() {
    let _turn = TURN.blocking_lock();
    let times = ["--settle", "0", "--seconds", "1", "--steps-ppm", "0"];
    let measured = run(&args(
        &[&times[..], &["--storms", "2", "--away-ms", "300"]].concat(),
    ))
    .unwrap();
    assert_eq!(measured.recoveries.len(), 2);
    for recovery in &measured.recoveries {
        let [before, after] = recovery.epochs;
        assert_eq!(after, before + 1, "{recovery:?}");
        assert_eq!(recovery.nacks, 0, "{recovery:?}");
        assert!(
            recovery.rows_moved > 0,
            "nothing could have jumped: {recovery:?}"
        );
        assert!(recovery.jump_ppm_max < JUMP_PPM_MAX, "{recovery:?}");
        assert!(recovery.listens_s <= recovery.half_s && recovery.half_s <= recovery.all_s);
    }
}
