//! Kill -9 at any moment: what was acknowledged is there afterwards.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use isobar_controller::program::Addresses;
use tokio::net::TcpStream;

use crate::mesh::rest;

/// How long the controller is killed again and again.
const TIME: Duration = Duration::from_secs(8);
/// Kills that there are at least, however slow the machine.
const KILLS_MIN: u64 = 5;
/// Most kills.
const KILLS_MAX: u64 = 200;
const WRITERS: u64 = 3;

fn start(directory: &Path) -> (Child, Addresses) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_isobar-controller"))
        .arg("--data-dir")
        .arg(directory.join("data"))
        .args([
            "--rest-listen",
            "127.0.0.1:0",
            "--stream-listen",
            "127.0.0.1:0",
        ])
        .args(["--rest-open", "--log", "info"])
        .env_remove("ISOBAR_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("listening") {
        let read = log.read_line(&mut said).unwrap();
        assert!(read > 0, "the controller did not start: {said}");
    }
    // The rest of its log goes nowhere.
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    let text = std::fs::read_to_string(directory.join("data/addresses.json")).unwrap();
    (child, serde_json::from_str(&text).unwrap())
}

/// Writes numbers that only grow until the controller is gone; `acknowledged` has the last that was answered.
async fn write(addresses: Addresses, writer: u64, acknowledged: Arc<AtomicU64>) {
    let Ok(socket) = TcpStream::connect(addresses.rest).await else {
        return;
    };
    let Ok((mut sender, connection)) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await
    else {
        return;
    };
    tokio::spawn(connection);
    loop {
        let next = acknowledged.load(Ordering::SeqCst) + 1;
        let body = format!(
            "{{\"kind\": \"Node\", \"metadata\": {{\"name\": \"w{writer}\", \"labels\": {{\"n\": \"{next}\"}}}}, \"spec\": {{}}}}"
        );
        let request = Request::put(format!("/v1/nodes/w{writer}"))
            .header("host", addresses.rest.to_string())
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let Ok(response) = sender.send_request(request).await else {
            return;
        };
        let fine = response.status().is_success();
        if !fine || response.into_body().collect().await.is_err() {
            return;
        }
        acknowledged.store(next, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9_at_any_moment() {
    let directory = tempfile::tempdir().unwrap();
    let acknowledged: Vec<Arc<AtomicU64>> = (0..WRITERS).map(|_| Arc::default()).collect();
    let (began, mut kills, mut audited) = (Instant::now(), 0, 0);
    while kills < KILLS_MAX && (kills < KILLS_MIN || began.elapsed() < TIME) {
        let (mut child, addresses) = start(directory.path());
        for (writer, last) in acknowledged.iter().enumerate() {
            let last = last.load(Ordering::SeqCst);
            let path = format!("/v1/nodes/w{writer}");
            let (status, node) = rest(addresses, Method::GET, &path, "").await;
            let there: u64 = match status {
                StatusCode::OK => node["metadata"]["labels"]["n"]
                    .as_str()
                    .unwrap()
                    .parse()
                    .unwrap(),
                _ => 0,
            };
            // One more may have been on its way.
            assert!(
                (last..=last + 1).contains(&there),
                "kill {kills}: {last} was acknowledged, {there} is there"
            );
            acknowledged[writer].store(there, Ordering::SeqCst);
        }
        // The audit has every change, and none twice.
        let written: u64 = acknowledged.iter().map(|n| n.load(Ordering::SeqCst)).sum();
        let (_, audit) = rest(addresses, Method::GET, "/v1/audit?limit=1", "").await;
        let number = audit["items"][0]["number"].as_u64().unwrap_or(0);
        assert_eq!(number, written, "kill {kills}");
        assert!(number >= audited);
        audited = number;
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let last = acknowledged[writer as usize].clone();
                tokio::spawn(write(addresses, writer, last))
            })
            .collect();
        // Somewhere in the middle of the next writes, another place each time.
        let until = written + 1 + kills * 7 % 23;
        while acknowledged
            .iter()
            .map(|n| n.load(Ordering::SeqCst))
            .sum::<u64>()
            < until
        {
            assert!(
                began.elapsed() < Duration::from_secs(300),
                "nothing is acknowledged"
            );
            tokio::task::yield_now().await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for writer in writers {
            writer.await.unwrap();
        }
        kills += 1;
    }
    println!("{kills} kills, {audited} changes, none lost");
}
