//! The distributed store and its election on a real etcd of one member. Skipped with a message where there is no etcd; under
//! `ISOBAR_TEST_REQUIRE=all` that is a failure.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use isobar_controller::election::{Ballot, Leader, Timing, Tried};
use isobar_controller::etcd::{Etcd, EtcdOptions, Op, Txn};
use isobar_controller::leadership::etcd::{EtcdBallot, LEASE_MIN};
use isobar_controller::store::etcd::{EtcdStore, Fence};
use isobar_controller::store::{Store, StoreCounts, StoreError, Tree, Write};

use crate::mesh::PATIENCE;

const PREFIX: &str = "/mesh";

/// A member of its own.
struct Member {
    child: Child,
    options: EtcdOptions,
    _directory: tempfile::TempDir,
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Member {
    async fn start() -> Option<Member> {
        let directory = tempfile::tempdir().unwrap();
        let free = || {
            TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
        };
        let (client, peer) = (format!("http://{}", free()), format!("http://{}", free()));
        let started = Command::new("etcd")
            .args(["--name", "m", "--data-dir"])
            .arg(directory.path().join("data"))
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &format!("m={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = started else {
            assert!(
                std::env::var("ISOBAR_TEST_REQUIRE").as_deref() != Ok("all"),
                "ISOBAR_TEST_REQUIRE=all, and there is no etcd"
            );
            println!("skipped: there is no etcd");
            return None;
        };
        let options = EtcdOptions {
            endpoints: vec![client],
            ..EtcdOptions::default()
        };
        let member = Member {
            child,
            options,
            _directory: directory,
        };
        let etcd = member.client();
        let ready = async {
            while etcd.range("a", "", 1, 0).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready)
            .await
            .expect("etcd does not answer");
        Some(member)
    }

    fn client(&self) -> Arc<Etcd> {
        Arc::new(Etcd::new(&self.options).unwrap())
    }

    /// A controller's store and ballot.
    fn controller(&self, name: &str) -> (EtcdStore, EtcdBallot) {
        let fence = Fence::default();
        let store = EtcdStore::new(self.client(), PREFIX, fence.clone(), StoreCounts::default());
        let me = Leader {
            name: name.to_owned(),
            address: format!("{name}:7401"),
        };
        let timing = Timing::new(Duration::from_secs(1), LEASE_MIN);
        let ballot = EtcdBallot::new(self.client(), PREFIX, me, timing, fence);
        (store, ballot)
    }
}

fn put(tree: Tree, key: &str, value: &[u8]) -> Write {
    Write {
        tree,
        key: key.to_owned(),
        value: Some(value.to_vec()),
    }
}

/// Bytes that differ from place to place.
fn long(len: usize, salt: u8) -> Vec<u8> {
    (0..len)
        .map(|at| (at / 251) as u8 ^ (at as u8) ^ salt)
        .collect()
}

#[tokio::test]
async fn values_and_batches_of_any_length_are_there_whole() {
    let Some(member) = Member::start().await else {
        return;
    };
    let (store, mut ballot) = member.controller("a");
    assert_eq!(ballot.lead().await.unwrap(), Tried::Won);
    for (salt, len) in [(1, 10), (2, 5 << 20), (3, 700_000), (4, 0), (5, 300_000)] {
        let value = long(len, salt);
        store
            .apply(vec![put(Tree::Plan, "last", &value)])
            .await
            .unwrap();
        let found = store.get(Tree::Plan, "last").await.unwrap();
        assert!(found == Some(value), "{len} bytes came back differently");
    }
    // Parts of what was overwritten are gone: those of the last value stay alone.
    let parts = member
        .client()
        .range("/mesh/parts/", "/mesh/parts0", 0, 0)
        .await
        .unwrap();
    assert_eq!(parts.kvs.len(), 2, "300 000 bytes are two parts");

    let batch: Vec<Write> = (0..1_500)
        .map(|at| put(Tree::Nodes, &format!("n{at:04}"), &long(900, at as u8)))
        .chain([
            Write::remove(Tree::Nodes, "n0007"),
            put(Tree::Services, "s", b"x"),
        ])
        .collect();
    store.apply(batch).await.unwrap();
    let nodes = store.list(Tree::Nodes).await.unwrap();
    assert_eq!(nodes.len(), 1_499);
    assert!(nodes.windows(2).all(|two| two[0].0 < two[1].0));
    assert_eq!(nodes[7].0, "n0008");
    assert_eq!(nodes[7].1, long(900, 8));
    let journal = member
        .client()
        .range("/mesh/journal", "", 1, 0)
        .await
        .unwrap();
    assert!(journal.kvs.is_empty(), "the journal is still there");

    assert!(store.create(put(Tree::Meta, "k", b"1")).await.unwrap());
    assert!(store.create(put(Tree::Meta, "k", b"1")).await.unwrap());
    assert!(!store.create(put(Tree::Meta, "k", b"2")).await.unwrap());
    assert_eq!(
        store.get(Tree::Meta, "k").await.unwrap().as_deref(),
        Some(&b"1"[..])
    );
}

#[tokio::test]
async fn who_leads_no_more_writes_nothing_and_the_next_finishes_what_was_begun() {
    let Some(member) = Member::start().await else {
        return;
    };
    let (first, mut first_ballot) = member.controller("a");
    let (second, mut second_ballot) = member.controller("b");
    let refused = second.apply(vec![put(Tree::Epoch, "last", b"0")]).await;
    assert!(
        matches!(refused, Err(StoreError::NotLeading)),
        "{refused:?}"
    );
    assert_eq!(first_ballot.lead().await.unwrap(), Tried::Won);
    assert_eq!(
        first_ballot.lead().await.unwrap(),
        Tried::Won,
        "its own key"
    );
    let leader = Leader {
        name: "a".to_owned(),
        address: "a:7401".to_owned(),
    };
    assert_eq!(second_ballot.lead().await.unwrap(), Tried::Lost(leader));
    first
        .apply(vec![put(Tree::Epoch, "last", b"1")])
        .await
        .unwrap();

    // A long write of which only the journal was written, in the form that the store gives it.
    let journal = r#"v[{"key":"/mesh/store/nodes/x","value":"eA=="},{"key":"/mesh/store/nodes/y","value":null}]"#;
    let journal = Txn {
        then: vec![Op::Put {
            key: "/mesh/journal".to_owned(),
            value: journal.as_bytes().to_vec(),
            lease: 0,
        }],
        ..Txn::default()
    };
    member.client().txn(&journal).await.unwrap();

    // The first is stopped; its lease ends, and it does not know.
    let won = async {
        while second_ballot.lead().await.unwrap() != Tried::Won {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, won)
        .await
        .expect("the lease never ended");
    let late = first.apply(vec![put(Tree::Epoch, "last", b"9")]).await;
    assert!(matches!(late, Err(StoreError::NotLeading)), "{late:?}");
    second
        .apply(vec![put(Tree::Epoch, "last", b"2")])
        .await
        .unwrap();
    let epoch = second.get(Tree::Epoch, "last").await.unwrap();
    assert_eq!(epoch.as_deref(), Some(&b"2"[..]));
    let nodes = second.list(Tree::Nodes).await.unwrap();
    assert_eq!(nodes, [("x".to_owned(), b"x".to_vec())]);
    assert!(!first_ballot.keep().await.unwrap());

    second_ballot.resign().await;
    assert_eq!(
        first_ballot.lead().await.unwrap(),
        Tried::Won,
        "given back at once"
    );
    first
        .apply(vec![put(Tree::Epoch, "last", b"3")])
        .await
        .unwrap();
}

#[tokio::test]
async fn while_etcd_is_away_who_waits_is_told_and_what_was_asked_is_done_later() {
    let Some(mut member) = Member::start().await else {
        return;
    };
    let (store, mut ballot) = member.controller("a");
    assert_eq!(ballot.lead().await.unwrap(), Tried::Won);
    let stop = |signal: &str, member: &Member| {
        let pid = member.child.id().to_string();
        Command::new("kill").args([signal, &pid]).status().unwrap();
    };
    stop("-STOP", &member);
    let told = store.apply(vec![put(Tree::Nodes, "a", b"1")]).await;
    assert!(matches!(told, Err(StoreError::Unavailable(_))), "{told:?}");
    stop("-CONT", &member);
    let kept = async {
        // Whether the lease lived through it or not, one of the two is certain in the end.
        loop {
            match ballot.keep().await {
                Ok(kept) => break kept,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let kept = tokio::time::timeout(PATIENCE, kept)
        .await
        .expect("etcd does not come back");
    let then = store.apply(vec![put(Tree::Nodes, "b", b"2")]).await;
    assert_eq!(then.is_ok(), kept, "{then:?}");
    let nodes = store.list(Tree::Nodes).await.unwrap();
    let names: Vec<&str> = nodes.iter().map(|(name, _)| name.as_str()).collect();
    match kept {
        true => assert_eq!(names, ["a", "b"]),
        false => assert!(!names.contains(&"b"), "{names:?}"),
    }
    member.child.kill().unwrap();
}
