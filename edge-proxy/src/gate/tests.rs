use super::*;
use crate::clock::Clock;

fn endpoints(workers: &[u32]) -> Arc<[Arc<EndpointLive>]> {
    let endpoint = |(i, &workers): (usize, &u32)| {
        Arc::new(EndpointLive::new(
            &format!("127.0.0.1:{}", i + 1),
            workers,
            1,
            Clock::start(),
            Arc::default(),
        ))
    };
    workers.iter().enumerate().map(endpoint).collect()
}

fn gate(endpoints: &Arc<[Arc<EndpointLive>]>) -> Arc<Gate> {
    let gate = Arc::new(Gate::default());
    gate.set_endpoints(Arc::clone(endpoints));
    gate
}

fn terms(workers: u32, per_worker_max: u32) -> Terms {
    Terms {
        limits: QueueLimits {
            wait_ms_max: 60_000,
            per_worker_max,
        },
        workers,
        latency_us: 1,
        left_us: u64::MAX,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

/// Lets every task run until it waits.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn slots_are_shared_by_load() {
    let endpoints = endpoints(&[1, 3]);
    let gate = gate(&endpoints);
    let slots: Vec<Slot> = std::iter::from_fn(|| gate.try_enter(&endpoints, None)).collect();
    assert_eq!(slots.len(), 4);
    assert_eq!(gate.active(), 4);
    let second = slots
        .iter()
        .filter(|slot| slot.endpoint().address() == "127.0.0.1:2");
    assert_eq!(second.count(), 3);
    drop(slots);
    assert_eq!(gate.active(), 0);
}

#[test]
fn own_requests_go_first_then_by_arrival() {
    runtime().block_on(async {
        let endpoints = endpoints(&[1]);
        let gate = gate(&endpoints);
        let held = gate.try_enter(&endpoints, None).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let arrivals = [
            ("moved 1", Class::Moved),
            ("own 1", Class::Own),
            ("moved 2", Class::Moved),
            ("own 2", Class::Own),
        ];
        let mut tasks = Vec::new();
        for (name, class) in arrivals {
            let (gate, endpoints, order) = (gate.clone(), endpoints.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let slot = gate.enter(class, &endpoints, terms(1, 50)).await.unwrap();
                order.lock().unwrap().push(name);
                drop(slot);
            }));
            settle().await;
        }
        assert_eq!(gate.waiting(), 4);
        // A newcomer does not overtake those who wait.
        drop(held);
        assert!(gate.try_enter(&endpoints, None).is_none());
        for task in tasks {
            task.await.unwrap();
        }
        let order = order.lock().unwrap().clone();
        assert_eq!(order, ["own 1", "own 2", "moved 1", "moved 2"]);
        assert_eq!((gate.waiting(), gate.active()), (0, 0));
    });
}

#[test]
fn a_full_queue_and_a_long_wait_are_refused() {
    runtime().block_on(async {
        let endpoints = endpoints(&[1]);
        let gate = gate(&endpoints);
        let _held = gate.try_enter(&endpoints, None).unwrap();
        let full = gate.enter(Class::Own, &endpoints, terms(1, 0)).await;
        assert!(full.is_err());
        let slow = Terms {
            latency_us: 61_000_000,
            ..terms(1, 50)
        };
        let late = gate.enter(Class::Own, &endpoints, slow).await;
        assert_eq!(late.unwrap_err().wait_us, 61_000_000);
        assert_eq!(gate.waiting(), 0);
    });
}

#[test]
fn those_who_give_up_pass_their_slot_on() {
    runtime().block_on(async {
        let endpoints = endpoints(&[1]);
        let gate = gate(&endpoints);
        let held = gate.try_enter(&endpoints, None).unwrap();
        let wait = |gate: Arc<Gate>, endpoints: Arc<[Arc<EndpointLive>]>| {
            tokio::spawn(async move {
                drop(
                    gate.enter(Class::Own, &endpoints, terms(1, 50))
                        .await
                        .unwrap(),
                );
            })
        };
        let first = wait(gate.clone(), endpoints.clone());
        settle().await;
        let second = wait(gate.clone(), endpoints.clone());
        settle().await;
        first.abort();
        settle().await;
        drop(held);
        second.await.unwrap();
        // All that is left in the queue gave up: its slot comes back.
        let held = gate.try_enter(&endpoints, None).unwrap();
        let third = wait(gate.clone(), endpoints.clone());
        settle().await;
        third.abort();
        settle().await;
        drop(held);
        assert_eq!((gate.waiting(), gate.active()), (0, 0));
        assert!(gate.try_enter(&endpoints, None).is_some());
    });
}

#[test]
fn more_endpoints_let_the_waiting_in() {
    runtime().block_on(async {
        let few = endpoints(&[1]);
        let gate = gate(&few);
        let _held = gate.try_enter(&few, None).unwrap();
        let waiter = {
            let (gate, few) = (gate.clone(), few.clone());
            tokio::spawn(async move {
                let slot = gate.enter(Class::Own, &few, terms(1, 50)).await.unwrap();
                slot.endpoint().address().to_owned()
            })
        };
        settle().await;
        let more = [Arc::clone(&few[0]), endpoints(&[1, 1])[1].clone()];
        gate.set_endpoints(more.into());
        assert_eq!(waiter.await.unwrap(), "127.0.0.1:2");
    });
}

#[test]
fn many_threads_lose_no_slot() {
    let endpoints = endpoints(&[2, 1]);
    let gate = gate(&endpoints);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (gate, endpoints) = (gate.clone(), endpoints.clone());
            std::thread::spawn(move || {
                runtime().block_on(async {
                    let enter = || async {
                        for _ in 0..500 {
                            let entered = gate.enter(Class::Own, &endpoints, terms(3, 50)).await;
                            let slot = entered.unwrap();
                            tokio::task::yield_now().await;
                            drop(slot);
                        }
                    };
                    tokio::join!(enter(), enter(), enter(), enter());
                });
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!((gate.waiting(), gate.active()), (0, 0));
    assert_eq!(
        std::iter::from_fn(|| gate.try_enter(&endpoints, None).map(std::mem::forget)).count(),
        3
    );
}
