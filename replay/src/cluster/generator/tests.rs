//! The generator against an endpoint without any mesh between them.

use super::*;
use crate::cluster::endpoint::{self, Endpoint};

async fn run(traffic: Traffic) -> Record {
    let record = Arc::new(Mutex::new(Record::new(traffic.names.len(), 0.0)));
    let thread = spawn(
        traffic,
        Instant::now(),
        record.clone(),
        CancellationToken::new(),
    )
    .unwrap();
    tokio::task::spawn_blocking(|| thread.join())
        .await
        .unwrap()
        .unwrap();
    Arc::into_inner(record).unwrap().into_inner().unwrap()
}

fn traffic(ingress: SocketAddr, rate_rps: f64) -> Traffic {
    Traffic {
        names: vec!["a".to_owned(), "b".to_owned()],
        ingress: vec![ingress; 2],
        rate: Arc::new(move |node, _| if node == 0 { rate_rps } else { 0.0 }),
        hot: Arc::new(|_, _| false),
        duration_s: 1.0,
        seed: 3,
    }
}

#[tokio::test]
async fn what_is_intended_is_sent_and_who_served_is_known() {
    let (listener, address) = endpoint::listen().await.unwrap();
    let endpoint = Endpoint {
        node: http::HeaderValue::from_static("b"),
        workers: 100,
        service: Duration::from_millis(1),
        seed: 1,
    };
    tokio::spawn(endpoint.serve(listener));
    let record = run(traffic(address, 300.0)).await;
    let mut arrivals = Arrivals::new(3, 0, 1.0);
    let intended = std::iter::from_fn(|| arrivals.next(|_| 300.0)).count();
    let counted = record.counted();
    assert_eq!(counted.requests, intended as u64);
    assert_eq!((counted.failures, counted.moved), (0, intended as u64));
}

#[tokio::test]
async fn a_wait_is_in_the_latency_of_every_request_that_came_meanwhile() {
    let (listener, address) = endpoint::listen().await.unwrap();
    // One worker that needs 10 ms can serve a quarter of this: the rest waits ever longer.
    let endpoint = Endpoint {
        node: http::HeaderValue::from_static("a"),
        workers: 1,
        service: Duration::from_millis(10),
        seed: 1,
    };
    tokio::spawn(endpoint.serve(listener));
    let record = run(traffic(address, 400.0)).await;
    assert!(record.total_ms(0.5) > 300.0, "{}", record.total_ms(0.5));
}

#[tokio::test]
async fn nobody_listening_is_a_failure_not_a_hang() {
    let (listener, address) = endpoint::listen().await.unwrap();
    drop(listener);
    let counted = run(traffic(address, 100.0)).await.counted();
    assert!(counted.requests > 0);
    assert_eq!(counted.failures, counted.requests);
}
