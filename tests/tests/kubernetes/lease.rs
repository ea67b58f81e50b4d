//! Who leads, among many that contend for one Lease.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use isobar_controller::config::{Config, KubernetesConfig};
use isobar_controller::kubernetes::lease::Contender;
use isobar_controller::program::ProgramError;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::environment::{Cluster, until};

const CONTENDERS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_twenty_contenders_one_leads_at_a_time() {
    let cluster = Cluster::open().await;
    let (leading, led) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(Mutex::new(Vec::new())),
    );
    let signal = CancellationToken::new();
    let mut tasks = Vec::new();
    for number in 0..CONTENDERS {
        let (leading, led, signal) = (leading.clone(), led.clone(), signal.clone());
        let (client, namespace) = (cluster.client.clone(), cluster.tag.clone());
        tasks.push(tokio::spawn(async move {
            let me = format!("contender-{number}");
            let lasts = Duration::from_secs(5);
            let mut contender = Contender::new(client, &namespace, "isobar-controller", &me, lasts);
            if !contender.win(&signal).await {
                return;
            }
            assert_eq!(leading.fetch_add(1, SeqCst), 0, "two lead");
            led.lock().unwrap().push(number);
            tokio::select! {
                () = contender.hold() => panic!("{me} lost the lease"),
                () = tokio::time::sleep(Duration::from_millis(300)) => {}
            }
            assert_eq!(leading.fetch_sub(1, SeqCst), 1);
            contender.give_back().await;
        }));
    }
    // Every one has its turn: who led gives the lease back.
    let wanted = 5;
    until("leaders", async || {
        let led = led.lock().unwrap().clone();
        (led.len() >= wanted).then_some(()).ok_or(json!(led))
    })
    .await;
    signal.cancel();
    for task in tasks {
        task.await.unwrap();
    }
    let leases = cluster.api("Lease", Some(&cluster.tag));
    let lease = leases.get("isobar-controller").await.unwrap();
    let transitions = lease.data["spec"]["leaseTransitions"].as_u64().unwrap();
    assert!(transitions >= wanted as u64 - 1, "{:?}", lease.data);
    cluster
        .delete("Lease", Some(&cluster.tag), "isobar-controller")
        .await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_cannot_renew_gives_up_before_another_begins() {
    let cluster = Cluster::open().await;
    let client = cluster.client_by_link().await;
    let lasts = Duration::from_secs(3);
    let contender =
        |me: &str| Contender::new(client.clone(), &cluster.tag, "isobar-controller", me, lasts);
    let signal = CancellationToken::new();
    let (mut first, mut second) = (contender("a"), contender("b"));
    assert!(first.win(&signal).await);
    cluster.link.stop();
    // It leads no longer, by itself.
    first.hold().await;
    cluster.link.come_back().await;
    assert!(second.win(&signal).await);
    let api = cluster.api("Lease", Some(&cluster.tag));
    let lease = api.get("isobar-controller").await.unwrap();
    assert_eq!(lease.data["spec"]["holderIdentity"], "b");
    // Who was told to stop before it led does not lead.
    signal.cancel();
    assert!(!first.win(&signal).await);
    cluster.close().await;
}

/// What a probe answers; nothing while nobody listens.
async fn probe(port: u16, path: &str) -> Option<u16> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_stands_by_opens_nothing_and_takes_over() {
    let cluster = Cluster::open().await;
    // Both know one data directory, as two machines know one volume: only who leads opens it.
    let start = |probes: u16| {
        let config = Config {
            rest_listen: "127.0.0.1:0".parse().unwrap(),
            rest_open: true,
            stream_listen: "127.0.0.1:0".parse().unwrap(),
            period_ms: 200,
            kubernetes: Some(KubernetesConfig {
                kubeconfig: Some(cluster.kubeconfig().to_owned()),
                namespace: Some(cluster.tag.clone()),
                lease: true,
                lease_s: 3,
                probe_listen: Some(([127, 0, 0, 1], probes).into()),
                ..KubernetesConfig::default()
            }),
            ..Config::new(cluster.data_dir(0))
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(isobar_controller::program::run(config, stop.clone()));
        (stop, running)
    };
    let free = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let (one, other) = (free(), free());
    let is = async |port: u16, path: &str, wanted: u16| {
        until(path, async || match probe(port, path).await {
            Some(status) if status == wanted => Ok(()),
            status => Err(json!(status)),
        })
        .await;
    };
    let (stop, first) = start(one);
    is(one, "/readyz", 200).await;
    let (stop_other, second) = start(other);
    is(other, "/livez", 200).await;
    is(other, "/readyz", 503).await;
    assert!(!second.is_finished());
    stop.cancel();
    first.await.unwrap().unwrap();
    is(other, "/readyz", 200).await;
    // It cannot renew any more: it ends before another may begin, without being told to.
    cluster.link.stop();
    let ended = second.await.unwrap();
    assert!(matches!(ended, Err(ProgramError::LeadLost)), "{ended:?}");
    drop(stop_other);
    cluster.close().await;
}
