use super::*;
use crate::clock::Clock;
use crate::endpoint::{EndpointLive, Siblings};
use isobar_mesh_api::resource::traffic_policy::LoadBalancing;

fn endpoint(at: usize, workers: u32) -> Arc<EndpointLive> {
    let address = format!("127.0.0.1:{at}");
    let siblings = Arc::new(Siblings::default());
    Arc::new(EndpointLive::new(
        &address,
        workers,
        1,
        Clock::start(),
        siblings,
    ))
}

fn balancer(endpoints: Vec<Arc<EndpointLive>>) -> Arc<Balancer> {
    let policy = LoadBalancing::default();
    Balancer::new(&policy, endpoints.into(), Clock::start(), None)
}

fn endpoints(workers: &[u32]) -> Arc<Balancer> {
    let all = workers.iter().enumerate();
    balancer(
        all.map(|(at, &workers)| endpoint(at + 1, workers))
            .collect(),
    )
}

fn gate(endpoints: &Arc<Balancer>) -> Arc<Gate> {
    let gate = Arc::new(Gate::default());
    gate.set_balancer(Arc::clone(endpoints));
    gate
}

fn any() -> Wish<'static> {
    Wish::default()
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
        rank: 0,
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
    let slots: Vec<Slot> = std::iter::from_fn(|| gate.try_enter(&endpoints, any())).collect();
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
        let held = gate.try_enter(&endpoints, any()).unwrap();
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
                let slot = gate
                    .enter(class, &endpoints, any(), terms(1, 50))
                    .await
                    .unwrap();
                order.lock().unwrap().push(name);
                drop(slot);
            }));
            settle().await;
        }
        assert_eq!(gate.waiting(), 4);
        // A newcomer does not overtake those who wait.
        drop(held);
        assert!(gate.try_enter(&endpoints, any()).is_none());
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
        let _held = gate.try_enter(&endpoints, any()).unwrap();
        let full = gate.enter(Class::Own, &endpoints, any(), terms(1, 0)).await;
        assert!(full.is_err());
        let slow = Terms {
            latency_us: 61_000_000,
            ..terms(1, 50)
        };
        let late = gate.enter(Class::Own, &endpoints, any(), slow).await;
        assert_eq!(late.unwrap_err().wait_us, 61_000_000);
        assert_eq!(gate.waiting(), 0);
    });
}

#[test]
fn those_who_give_up_pass_their_slot_on() {
    runtime().block_on(async {
        let endpoints = endpoints(&[1]);
        let gate = gate(&endpoints);
        let held = gate.try_enter(&endpoints, any()).unwrap();
        let wait = |gate: Arc<Gate>, endpoints: Arc<Balancer>| {
            tokio::spawn(async move {
                drop(
                    gate.enter(Class::Own, &endpoints, any(), terms(1, 50))
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
        let held = gate.try_enter(&endpoints, any()).unwrap();
        let third = wait(gate.clone(), endpoints.clone());
        settle().await;
        third.abort();
        settle().await;
        drop(held);
        assert_eq!((gate.waiting(), gate.active()), (0, 0));
        assert!(gate.try_enter(&endpoints, any()).is_some());
    });
}

#[test]
fn more_endpoints_let_the_waiting_in() {
    runtime().block_on(async {
        let few = endpoints(&[1]);
        let gate = gate(&few);
        let _held = gate.try_enter(&few, any()).unwrap();
        let waiter = {
            let (gate, few) = (gate.clone(), few.clone());
            tokio::spawn(async move {
                let slot = gate
                    .enter(Class::Own, &few, any(), terms(1, 50))
                    .await
                    .unwrap();
                slot.endpoint().address().to_owned()
            })
        };
        settle().await;
        let more = vec![Arc::clone(&few.endpoints()[0]), endpoint(2, 1)];
        gate.set_balancer(balancer(more));
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
                            let entered = gate
                                .enter(Class::Own, &endpoints, any(), terms(3, 50))
                                .await;
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
        std::iter::from_fn(|| gate.try_enter(&endpoints, any()).map(std::mem::forget)).count(),
        3
    );
}

#[test]
fn the_least_important_wait_longest_and_are_shed_first() {
    runtime().block_on(async {
        let endpoints = endpoints(&[1]);
        let gate = gate(&endpoints);
        let held = gate.try_enter(&endpoints, any()).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        // Room for three.
        let arrivals = [
            ("low 1", Class::Own, 2),
            ("low 2", Class::Own, 2),
            ("mid", Class::Own, 1),
            // Full: takes the place of the last of the least important.
            ("high 1", Class::Own, 0),
            // The same.
            ("high 2", Class::Moved, 0),
            // Nobody is less important.
            ("low 3", Class::Own, 2),
            ("mid 2", Class::Own, 1),
        ];
        let mut tasks = Vec::new();
        for (name, class, rank) in arrivals {
            let (gate, endpoints, order) = (gate.clone(), endpoints.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let terms = Terms {
                    rank,
                    ..terms(1, 3)
                };
                let entered = gate.enter(class, &endpoints, any(), terms).await;
                let note = if entered.is_ok() {
                    name.to_owned()
                } else {
                    format!("no {name}")
                };
                order.lock().unwrap().push(note);
            }));
            settle().await;
        }
        assert_eq!(gate.waiting(), 3);
        drop(held);
        for task in tasks {
            task.await.unwrap();
        }
        let order = order.lock().unwrap().clone();
        let shed = ["no low 2", "no low 1", "no low 3", "no mid 2"];
        assert_eq!(order[..4], shed);
        assert_eq!(order[4..], ["high 1", "mid", "high 2"]);
        assert_eq!((gate.waiting(), gate.active()), (0, 0));
    });
}

#[test]
fn who_could_not_be_answered_in_time_does_not_wait() {
    runtime().block_on(async {
        let endpoints = endpoints(&[1]);
        let gate = gate(&endpoints);
        let _held = gate.try_enter(&endpoints, any()).unwrap();
        let left = |left_us| Terms {
            latency_us: 50_000,
            left_us,
            ..terms(1, 50)
        };
        // A slot in 50 ms, an answer in 100.
        let late = gate
            .enter(Class::Own, &endpoints, any(), left(90_000))
            .await;
        assert_eq!(late.unwrap_err().wait_us, 50_000);
        assert_eq!(gate.waiting(), 0);
    });
}
