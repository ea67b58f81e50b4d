//! Several controllers on a real etcd: what happens to the plan, to operators and to requests when one of them, or part of
//! etcd, goes.
//!
//! Without etcd these are skipped with a message; under `ISOBAR_TEST_REQUIRE=all` that is a failure. The times that are
//! printed are what this machine took; nothing depends on them.

#![allow(clippy::unwrap_used)] // A test that meets an error has failed; here is where.

mod etcd;
mod mesh;
mod tls;

use std::sync::Mutex;
use std::time::Instant;

use etcd::{Etcd, has};
use isobar_tests::process::wait_for;
use mesh::Mesh;

/// One mesh at a time: they share two processors.
pub(crate) static TURN: Mutex<()> = Mutex::new(());

#[test]
fn a_leader_that_dies_or_stops_is_followed_by_one_other() {
    if !has("etcd", "--version") {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(|broken| broken.into_inner());
    let etcd = Etcd::start(3, "127.0.0.1");
    let mut mesh = Mesh::start(&etcd, 3);
    mesh.start_proxies(&[&[0, 1, 2][..]; 3]);
    let first = mesh.leader();
    let epoch = mesh.until_all_have_epoch(1);

    let (status, said) = mesh.get((first + 1) % 3, "/v1/status");
    assert!(
        status == 200 && said.contains(&format!("\"leader\":{{\"name\":\"c{first}\"")),
        "{said}"
    );

    // Whoever is asked answers, and what one took in the others have.
    for at in 0..3 {
        let policy = format!("p{at}");
        let (status, said) = mesh.put_policy(at, &policy);
        assert_eq!(status, 201, "{said}");
        let (status, said) = mesh.get((at + 1) % 3, &format!("/v1/weight-policies/{policy}"));
        assert_eq!(status, 200, "{said}");
    }

    mesh.kill(first);
    let (second, took) = mesh.until_another_leads(first);
    println!("killed: another controller led {took:?} after its death");
    let began = Instant::now();
    let epoch = mesh.until_all_have_epoch(epoch + 1);
    println!(
        "killed: all proxies had its plan {:?} after that",
        began.elapsed()
    );
    let (status, said) = mesh.get(second, "/v1/weight-policies/p0");
    assert_eq!(status, 200, "{said}");
    mesh.start_controller(first);
    mesh.until_ready(first);

    mesh.signal(second, "STOP");
    let (third, took) = mesh.until_another_leads(second);
    println!("stopped: another controller led {took:?} after it was stopped");
    let epoch = mesh.until_all_have_epoch(epoch + 1);
    mesh.signal(second, "CONT");
    wait_for("the stopped one to follow", || {
        (mesh.leads(second) == Some(false)).then_some(())
    });
    mesh.until_ready(second);
    assert_eq!(mesh.leader(), third);

    mesh.terminate(third);
    let (_, took) = mesh.until_another_leads(third);
    println!("ended in order: another controller led {took:?} after it was asked to end");
    mesh.until_all_have_epoch(epoch + 1);
    mesh.assert_nothing_went_wrong();
}

#[test]
fn without_a_quorum_nothing_is_written_and_proxies_serve_on() {
    if !has("etcd", "--version") {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(|broken| broken.into_inner());
    let mut etcd = Etcd::start(3, "127.0.0.1");
    let mut mesh = Mesh::start(&etcd, 3);
    mesh.start_proxies(&[&[0, 1, 2][..]; 2]);
    mesh.leader();
    mesh.until_all_have_epoch(1);

    etcd.kill(0);
    wait_for("a write without one member", || {
        let (status, _) = mesh.put_policy(0, "one-member-less");
        matches!(status, 200 | 201).then_some(())
    });

    let leader = mesh.leader();
    etcd.kill(1);
    wait_for("the leader to know that it has no lease", || {
        (mesh.leads(leader) == Some(false)).then_some(())
    });
    for at in 0..3 {
        let (status, said) = mesh.put_policy(at, "never");
        assert_eq!(status, 503, "{said}");
        assert!(said.contains("\"detail\""), "{said}");
    }
    let (status, said) = mesh.get(leader, "/v1/weight-policies/one-member-less");
    assert_eq!(status, 200, "{said}");
    mesh.until_served(200);

    etcd.start_member(0);
    etcd.start_member(1);
    wait_for("a write with the quorum again", || {
        let (status, _) = mesh.put_policy(1, "again");
        matches!(status, 200 | 201).then_some(())
    });
    let (status, said) = mesh.get(2, "/v1/weight-policies/never");
    assert_eq!(status, 404, "{said}");
    mesh.assert_nothing_went_wrong();
}

#[test]
fn a_leader_that_is_cut_off_does_nothing_and_another_leads() {
    if !has("etcd", "--version") || !mesh::Cut::is_possible() {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(|broken| broken.into_inner());
    let cut = mesh::Cut::new();
    let etcd = Etcd::start(1, cut.host());
    let mut mesh = Mesh::start_cut(&etcd, &cut);
    mesh.until_led_by_cut_one();
    mesh.start_controller(1);
    mesh.until_ready(1);
    // One proxy knows the controller that follows alone; what it says goes through there.
    mesh.start_proxies(&[&[1], &[0, 1]]);
    mesh.until_relayed(1);
    let epoch = mesh.until_all_have_epoch(1);

    cut.set(false);
    let (_, took) = mesh.until_another_leads(0);
    println!("cut off: another controller led {took:?} after that");
    mesh.until_logged(0, "does nothing until there is one");
    mesh.until_all_have_epoch(epoch + 1);
    cut.set(true);
    mesh.until_logged(0, "this controller leads no more");
    mesh.assert_nothing_went_wrong();
}
