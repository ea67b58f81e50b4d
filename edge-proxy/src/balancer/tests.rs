use super::*;
use crate::endpoint::Siblings;
use isobar_mesh_api::resource::span::Span;

const S: u64 = 1_000_000;

/// Endpoints of one service with eight workers each.
fn endpoints(count: usize) -> Arc<[Arc<EndpointLive>]> {
    let siblings = Arc::new(Siblings::default());
    let endpoint = |at: usize| {
        let address = format!("10.0.0.1:{at}");
        let siblings = Arc::clone(&siblings);
        Arc::new(EndpointLive::new(&address, 8, 1, Clock::start(), siblings))
    };
    (0..count).map(endpoint).collect()
}

fn balancer(policy: &LoadBalancing, endpoints: &Arc<[Arc<EndpointLive>]>) -> Arc<Balancer> {
    Balancer::new(policy, Arc::clone(endpoints), Clock::start(), None)
}

/// How often each endpoint is chosen for one of many requests, each alone.
fn chosen(balancer: &Balancer, wish: Wish<'_>) -> Vec<u32> {
    let rng = &mut fastrand::Rng::with_seed(3);
    let mut times = vec![0; balancer.endpoints.len()];
    for turn in 0..10_000 {
        let taken = balancer.take(Wish { turn, ..wish }, rng).unwrap();
        let is_it = |e: &Arc<EndpointLive>| Arc::ptr_eq(e, taken.endpoint);
        times[balancer.endpoints.iter().position(is_it).unwrap()] += 1;
        taken.endpoint.leave();
    }
    times
}

#[test]
fn who_came_back_starts_slowly() {
    for algorithm in [
        Balance::RoundRobin,
        Balance::Random,
        Balance::Weighted,
        Balance::PeakEwma,
    ] {
        let endpoints = endpoints(2);
        let policy = LoadBalancing {
            algorithm,
            slow_start: Span::from_secs(100),
            ..LoadBalancing::default()
        };
        let balancer = balancer(&policy, &endpoints);
        endpoints[0].circuit.set_healthy(false, 900 * S);
        endpoints[0].circuit.set_healthy(true, 1000 * S);
        let share = |after_s: u64| {
            let now_us = (1000 + after_s) * S;
            let times = chosen(
                &balancer,
                Wish {
                    now_us,
                    ..Wish::default()
                },
            );
            f64::from(times[0]) / 10_000.0
        };
        let (at_once, later, in_the_end) = (share(0), share(50), share(100));
        assert!(at_once < 0.15, "{algorithm:?} {at_once}");
        assert!(at_once <= later && later < 0.4, "{algorithm:?} {later}");
        assert!(
            (0.47..0.53).contains(&in_the_end),
            "{algorithm:?} {in_the_end}"
        );
    }
}

#[test]
fn who_is_slow_or_failed_just_now_gets_less() {
    let endpoints = endpoints(3);
    let balancer = balancer(&LoadBalancing::default(), &endpoints);
    let wish = Wish {
        now_us: S,
        ..Wish::default()
    };
    for (at, latency_us) in [(0, 90_000), (1, 1000), (2, 1000)] {
        endpoints[at].note_latency(latency_us, true, S);
    }
    assert_eq!(chosen(&balancer, wish)[0], 0);
    // A fast failure says nothing of how fast it answers, a slow one does.
    endpoints[1].note_latency(10, false, S);
    assert_eq!(endpoints[1].peak_us(S), 1000.0);
    endpoints[1].note_latency(400_000, false, S);
    assert_eq!(endpoints[1].peak_us(S), 400_000.0);
    let avoid = Some(&endpoints[2]);
    assert_eq!(chosen(&balancer, Wish { avoid, ..wish })[2], 0);
}

#[test]
fn open_circuits_get_probes_and_nothing_else() {
    let endpoints = endpoints(2);
    let balancer = balancer(&LoadBalancing::default(), &endpoints);
    let rng = &mut fastrand::Rng::with_seed(1);
    endpoints[0].circuit.set_healthy(false, S);
    let wish = |now_us| Wish {
        now_us,
        ..Wish::default()
    };
    assert_eq!(chosen(&balancer, wish(2 * S)), [0, 10_000]);
    // Eight slots of the other, then none.
    let taken = std::iter::from_fn(|| balancer.take(wish(2 * S), rng).map(|t| t.is_probe));
    assert_eq!(taken.collect::<Vec<_>>(), [false; 8]);
    endpoints[0].circuit.set_healthy(true, 3 * S);
    assert_eq!(
        balancer.take(wish(3 * S), rng).map(|t| t.is_probe),
        Some(false)
    );
    // One that opened by itself is probed when its time is over.
    let rules = crate::traffic::Traffic::default().outlier;
    endpoints[0].circuit.eject(&rules, 4 * S);
    assert!(balancer.take(wish(5 * S), rng).is_none());
    assert_eq!(
        balancer.take(wish(40 * S), rng).map(|t| t.is_probe),
        Some(true)
    );
    assert!(balancer.take(wish(40 * S), rng).is_none());
}

#[test]
fn what_is_the_same_is_kept() {
    let endpoints = endpoints(2);
    let policy = LoadBalancing::default();
    let first = balancer(&policy, &endpoints);
    let again = |endpoints: Arc<[Arc<EndpointLive>]>, policy: &LoadBalancing| {
        let next = Balancer::new(policy, endpoints, Clock::start(), Some(&first));
        Arc::ptr_eq(&next, &first)
    };
    assert!(again(Arc::clone(&endpoints), &policy));
    assert!(!again([Arc::clone(&endpoints[0])].into(), &policy));
    let other = LoadBalancing {
        algorithm: Balance::Random,
        ..policy
    };
    assert!(!again(Arc::clone(&endpoints), &other));
}
