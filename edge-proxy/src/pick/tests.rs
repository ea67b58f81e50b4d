use super::*;
use isobar_mesh_api::names::ServiceName;
use isobar_mesh_api::snapshot::{Move, QueueLimits};

fn node(i: usize) -> NodeId {
    NodeId::new(&format!("n{i}")).unwrap()
}

fn load(in_flight: u32) -> LoadHint {
    LoadHint {
        in_flight,
        workers: 4,
        latency_us: 20_000,
    }
}

/// A route over three neighbours at 1 ms with these weights; spill to all of them, or none.
fn route(weights: &[(usize, u32)], spill: bool) -> Route {
    let away: u32 = weights.iter().map(|w| w.1).sum();
    let neighbours: Vec<Neighbour> = (0..3)
        .map(|i| Neighbour {
            node: node(i),
            mesh_address: String::new(),
            rtt_us: 1000,
        })
        .collect();
    let to_move = |&(to, weight_ppm): &(usize, u32)| Move {
        to: node(to),
        weight_ppm,
    };
    let plan = ServicePlan {
        service: ServiceName::new("n/s").unwrap(),
        hosts: Vec::new(),
        endpoints: Vec::new(),
        row: Row {
            home_ppm: 1_000_000 - away,
            moves: weights.iter().map(to_move).collect(),
            ..Row::home()
        },
        credits: Vec::new(),
        spill: if spill {
            (0..3).map(node).collect()
        } else {
            Vec::new()
        },
        cloud_address: None,
        queue: QueueLimits::default(),
        access: Vec::new(),
        traffic: None,
        protocol: None,
        rate_shares: Vec::new(),
    };
    Route::new(&plan, &neighbours)
}

/// How often each of home and the neighbours 0 to 2 is chosen in 3000 picks by a calm home.
fn shares(route: &Route, home: u32, neighbours: [Option<u32>; 3]) -> [u32; 4] {
    shares_of(route, home, neighbours, false)
}

fn shares_of(route: &Route, home: u32, neighbours: [Option<u32>; 3], pressed: bool) -> [u32; 4] {
    let heard = NeighbourLoad::new(3);
    for (i, in_flight) in neighbours.iter().enumerate() {
        if let Some(n) = in_flight {
            heard.heard(i, load(*n), 0);
        }
    }
    let now = Now {
        home: load(home),
        neighbours: &heard,
        now_us: 1,
    };
    let mut memory = Memory::default();
    let mut rng = fastrand::Rng::with_seed(7);
    let mut counts = [0; 4];
    for _ in 0..100 {
        memory.pressure.arrived(load(9), 1);
    }
    for _ in 0..3000 {
        if !pressed {
            memory.pressure = Pressure::default();
        }
        match route.pick(&now, &mut memory, &mut rng) {
            Choice::Home => counts[0] += 1,
            Choice::Move { neighbour, .. } => counts[neighbour + 1] += 1,
            Choice::Cloud => panic!("no cloud in this row"),
        }
    }
    counts
}

#[test]
fn without_correction_the_weights_rule() {
    let route = route(&[(0, 200_000), (2, 300_000)], false);
    assert_eq!(shares(&route, 0, [None; 3]), [1500, 600, 0, 900]);
    assert_eq!(shares(&route, 99, [Some(0); 3]), [1500, 600, 0, 900]);
}

#[test]
fn an_idle_home_serves_itself() {
    let route = route(&[(0, 900_000)], true);
    assert_eq!(shares(&route, 3, [Some(0); 3]), [3000, 0, 0, 0]);
    assert_eq!(shares(&route, 4, [Some(0); 3]), [300, 2700, 0, 0]);
}

#[test]
fn a_full_home_spills_to_who_is_clearly_better() {
    let route = route(&[], true);
    let [home, a, b, c] = shares(&route, 8, [Some(0), Some(8), Some(8)]);
    assert_eq!((b, c), (0, 0), "no gain there");
    // Of two random ones out of three, the first is among them two times in three.
    assert!((1800..2200).contains(&a), "{a}");
    assert_eq!(home + a, 3000);
    assert_eq!(shares(&route, 7, [Some(0); 3])[0], 3000, "a small crowd");
    let [home, a, b, c] = shares_of(&route, 4, [Some(0), Some(4), Some(9)], true);
    assert_eq!((b, c), (0, 0), "no gain there");
    assert!((1800..2200).contains(&a) && home + a == 3000, "{home} {a}");
    assert_eq!(
        shares_of(&route, 3, [Some(0); 3], true)[0],
        3000,
        "an idle worker"
    );
}

#[test]
fn nobody_known_means_home() {
    let route = route(&[], true);
    assert_eq!(shares(&route, 50, [None; 3]), [3000, 0, 0, 0]);
}

#[test]
fn a_crowded_target_is_replaced() {
    let route = route(&[(0, 1_000_000)], true);
    let [home, a, b, c] = shares(&route, 9, [Some(20), Some(0), Some(0)]);
    assert_eq!((home, a), (0, 0));
    assert!(b > 1300 && c > 1300, "{b} {c}");
    assert_eq!(shares(&route, 5, [Some(20); 3]), [3000, 0, 0, 0]);
}

#[test]
fn a_node_without_workers_is_never_better() {
    let none = LoadHint {
        in_flight: 0,
        workers: 0,
        latency_us: 0,
    };
    assert!(wait_us(none).is_infinite());
    assert!(is_busy(none));
}

#[test]
fn after_a_refusal_home_or_one_other() {
    let route = route(&[(0, 1_000_000)], true);
    let heard = NeighbourLoad::new(3);
    for i in 0..3 {
        heard.heard(i, load(1), 0);
    }
    let mut rng = fastrand::Rng::with_seed(1);
    let pick = |in_flight, rng: &mut fastrand::Rng| {
        let now = Now {
            home: load(in_flight),
            neighbours: &heard,
            now_us: 1,
        };
        route.pick_again(0, &now, rng)
    };
    assert_eq!(pick(3, &mut rng), Choice::Home);
    for _ in 0..100 {
        match pick(40, &mut rng) {
            Choice::Move { neighbour, cause } => {
                assert_ne!(neighbour, 0);
                assert_eq!(cause, Cause::Spill);
            }
            choice => panic!("{choice:?}"),
        }
    }
}

#[test]
fn a_session_stays_with_its_node_while_that_has_a_weight() {
    let choose = |route: &Route, home: u32, busy: Option<usize>, key: u64| {
        let heard = NeighbourLoad::new(3);
        for i in 0..3 {
            heard.heard(i, load(if busy == Some(i) { 9 } else { 0 }), 0);
        }
        let now = Now {
            home: load(home),
            neighbours: &heard,
            now_us: 1,
        };
        let mut rng = fastrand::Rng::with_seed(key);
        route.pick_for(key, &now, &mut Memory::default(), &mut rng)
    };
    let by_plan = |neighbour| Choice::Move {
        neighbour,
        cause: Cause::Plan,
    };
    let before = route(&[(0, 300_000), (1, 200_000)], true);
    let after = route(&[(0, 300_000), (1, 300_000)], true);
    let gone = route(&[(1, 300_000)], true);
    let (mut at_home, mut moved) = (0, 0);
    for key in (0..2000_u64).map(|key| hash::of(&key.to_le_bytes())) {
        // Whether home is idle or not: who has a session keeps it.
        let was = choose(&before, 0, None, key);
        assert_eq!(choose(&before, 7, None, key), was);
        at_home += u32::from(was == Choice::Home);
        // Nobody goes home, whose weight fell, nobody leaves 1, whose weight rose.
        let is = choose(&after, 0, None, key);
        moved += u32::from(is != was);
        let may = was != by_plan(1) && is != Choice::Home;
        assert!(is == was || may, "{was:?} {is:?}");
        assert_ne!(choose(&gone, 0, None, key), by_plan(0));
        // While its node is full, a request is served as any other.
        match was {
            Choice::Home => assert_ne!(choose(&before, 9, None, key), Choice::Home),
            _ => assert_ne!(choose(&before, 0, Some(0), key), by_plan(0)),
        }
    }
    assert!((900..1100).contains(&at_home), "{at_home}");
    // A tenth at least, and not much more.
    assert!((200..320).contains(&moved), "{moved}");
}
