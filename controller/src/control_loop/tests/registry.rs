//! What comes in: registrations, reports good and bad, silence, restarts; and what goes out for it.

use super::*;

fn settled(side: usize, seed: u64) -> Grid {
    let mut grid = Grid::new(side, seed, 0);
    let calm = grid.hot(1.0);
    (0..12).for_each(|_| _ = grid.period(&calm));
    grid
}

fn rows(grid: &Grid) -> Vec<Row> {
    (0..grid.side * grid.side)
        .map(|index| grid.row(index))
        .collect()
}

/// The largest change of a home weight between two plans.
fn jump_ppm(before: &[Row], after: &[Row]) -> u32 {
    let pairs = before.iter().zip(after);
    pairs
        .map(|(b, a)| b.home_ppm.abs_diff(a.home_ppm))
        .max()
        .unwrap_or(0)
}

#[test]
fn at_rest_nothing_moves_whatever_the_algorithm() {
    use Algorithm::{Convex, Off, Static, Threshold, Waterfall};
    for algorithm in [Convex, Waterfall, Threshold, Static, Off] {
        let mut grid = Grid::new(5, 3, 0);
        grid.policy(|p| p.algorithm = algorithm);
        for _ in 0..20 {
            grid.period(|_| Some(90.0));
            assert!(
                rows(&grid).iter().all(|row| *row == Row::home()),
                "{algorithm:?}"
            );
        }
        let middle = &grid.have[&node(12)].services[0];
        assert!(middle.spill.len() == 8 && middle.credits.len() >= 8);
    }
}

#[test]
fn a_spike_is_moved_in_one_period_and_comes_home_to_the_last_part() {
    let mut grid = settled(7, 5);
    let hot = grid.hot(10.0);
    grid.period(&hot);
    let row = grid.row(grid.middle());
    assert!(row.home_ppm < 200_000 && row.moves.len() == 8, "{row:?}");
    (0..3).for_each(|_| _ = grid.period(&hot));
    let busiest = (0..49)
        .map(|index| grid.load_rps(index, &hot))
        .fold(0.0, f64::max);
    assert!(busiest < 200.0, "{busiest}");
    (0..60).for_each(|_| _ = grid.period(|_| Some(100.0)));
    assert!(rows(&grid).iter().all(|row| *row == Row::home()));
}

#[test]
fn reference_algorithms_relieve_a_hot_home_too() {
    for algorithm in [Algorithm::Waterfall, Algorithm::Threshold] {
        let mut grid = settled(7, 5);
        grid.policy(|p| p.algorithm = algorithm);
        let warm = grid.hot(2.5);
        (0..3).for_each(|_| _ = grid.period(&warm));
        let row = grid.row(grid.middle());
        assert!(row.home_ppm < 700_000, "{algorithm:?}: {row:?}");
        let busiest = (0..49)
            .map(|index| grid.load_rps(index, &warm))
            .fold(0.0, f64::max);
        assert!(busiest < 210.0, "{algorithm:?}: {busiest}");
    }
}

#[test]
fn credits_cover_the_plan_and_the_first_second() {
    let mut grid = settled(5, 1);
    let idle: f64 = grid.credits_rps(11).iter().map(|c| c.1).fold(0.0, f64::max);
    assert!(idle > 60.0, "{idle}");
    let hot = grid.hot(10.0);
    (0..3).for_each(|_| _ = grid.period(&hot));
    let middle = grid.middle();
    for step in grid.row(middle).moves {
        let receiver: usize = step.to.as_str()[1..].parse().unwrap();
        let granted = grid.credits_rps(receiver);
        let credit = granted.iter().find(|c| c.0 == node(middle)).unwrap().1;
        let flow_rps = f64::from(step.weight_ppm) / 1e6 * 1200.0;
        assert!(credit >= flow_rps, "{receiver}: {credit} < {flow_rps}");
    }
}

#[test]
fn what_endpoints_speak_is_told_to_proxies() {
    let mut grid = settled(3, 2);
    let told = |grid: &Grid| grid.have[&node(0)].services[0].protocol;
    assert_eq!(told(&grid), None);
    let http2 = isobar_mesh_api::resource::EndpointProtocol::Http2;
    let endpoint = |index| EndpointSpec {
        node: node(index),
        address: "127.0.0.1:8080".to_owned(),
        workers: 4,
        capacity_rps: Some(200.0),
    };
    let spec = ServiceSpec {
        protocol: Some(http2),
        hosts: vec!["cart.example".to_owned()],
        endpoints: (0..9).map(endpoint).collect(),
    };
    grid.mesh.set_service(cart(), spec);
    grid.tick();
    assert_eq!(told(&grid), Some(http2));
}

#[test]
fn what_is_known_already_pushes_nothing() {
    let mut grid = settled(5, 2);
    let spec = ServiceSpec {
        protocol: None,
        hosts: vec!["cart.example".to_owned()],
        endpoints: (0..25)
            .map(|index| EndpointSpec {
                node: node(index),
                address: "127.0.0.1:8080".to_owned(),
                workers: 4,
                capacity_rps: Some(200.0),
            })
            .collect(),
    };
    grid.tick();
    grid.mesh.set_service(cart(), spec);
    grid.policy(|_| {});
    grid.mesh.set_policies(Vec::new());
    let stats = grid.tick();
    assert_eq!(
        (stats.snapshots, stats.deltas, stats.services_renewed),
        (0, 0, 0)
    );
}

#[test]
fn after_a_nack_everything_is_sent_again() {
    let mut grid = settled(3, 1);
    let plan = grid.mesh.plan_id();
    grid.mesh.on_nack(&node(4), plan);
    let stats = grid.tick();
    assert_eq!((stats.snapshots, stats.deltas), (1, 0));
    assert!(grid.have[&node(4)].plan > plan);
    assert_eq!(grid.mesh.snapshot(&node(4)).unwrap(), grid.have[&node(4)]);
    assert_eq!(grid.mesh.snapshot(&node(99)), None);
}

#[test]
fn nonsense_is_counted_and_disturbs_nobody() {
    let mut grid = settled(5, 4);
    let hot = grid.hot(6.0);
    (0..4).for_each(|_| _ = grid.period(&hot));
    let before = grid.mesh.view();
    let sound = grid.report(3, 120.0);
    type Spoil = fn(&mut Report);
    let spoils: [Spoil; 5] = [
        |r| r.window_us = 0,
        |r| r.cpu_ratio = Some(f64::NAN),
        |r| r.services[0].entered = u64::MAX,
        |r| r.services[0].orca_capacity_rps = Some(f64::INFINITY),
        |r| r.services.push(r.services[0].clone()),
    ];
    for spoil in spoils {
        let mut report = sound.clone();
        spoil(&mut report);
        let error = grid
            .mesh
            .on_report(&node(3), &report, grid.now)
            .unwrap_err();
        assert!(matches!(error, ReportError::Nonsense(_)), "{error}");
    }
    let stranger = grid.mesh.on_report(&node(77), &sound, grid.now);
    assert_eq!(stranger, Err(ReportError::UnknownNode(node(77))));
    let mut after = grid.mesh.view();
    assert_eq!(after.nodes[3].reports.refused, 5);
    after.nodes[3].reports.refused = 0;
    assert_eq!(before, after);

    let mut odd = sound;
    odd.clock_ms = 0;
    odd.services.push(ServiceReport::idle(
        ServiceName::new("nobody/has-it").unwrap(),
    ));
    grid.mesh.on_report(&node(3), &odd, grid.now).unwrap();
    let counts = grid.mesh.view().nodes[3].reports;
    assert_eq!((counts.unknown_services, counts.clock_unset), (1, 1));
}

#[test]
fn a_silent_node_offers_less_and_less_and_then_leaves() {
    let mut grid = settled(5, 6);
    let hot = grid.hot(6.0);
    (0..4).for_each(|_| _ = grid.period(&hot));
    let (middle, quiet) = (grid.middle(), 11);
    let before = grid.row(middle);
    assert!(before.weight_ppm(&node(quiet)) > 0);
    let headroom = |grid: &Grid| {
        let seat = grid.mesh.services[0].seat(quiet as u32).unwrap();
        let least = seat
            .credits
            .iter()
            .map(|c| c.1)
            .fold(f64::INFINITY, f64::min);
        (least, grid.mesh.services[0].planning.moved_in_mrps[quiet])
    };
    let (_, taken_mrps) = headroom(&grid);
    for missed in 1..5 {
        grid.period(|index| hot(index).filter(|_| index != quiet));
        let (_, now_mrps) = headroom(&grid);
        assert!(
            now_mrps <= taken_mrps + taken_mrps / 4,
            "missed {missed}: {now_mrps} > {taken_mrps}"
        );
    }
    assert!(
        grid.row(middle).weight_ppm(&node(quiet)) > 0,
        "it keeps what it has"
    );
    (0..3).for_each(|_| _ = grid.period(|index| hot(index).filter(|_| index != quiet)));
    assert_eq!(grid.row(middle).weight_ppm(&node(quiet)), 0);
    let named = |grid: &Grid| {
        grid.have[&node(middle)].services[0]
            .spill
            .contains(&node(quiet))
    };
    assert!(!named(&grid));
    assert_eq!(grid.mesh.view().nodes[quiet].presence, Presence::Silent);
    (0..3).for_each(|_| _ = grid.period(&hot));
    assert!(named(&grid));
}

#[test]
fn one_lost_report_changes_nothing() {
    let mut grid = settled(5, 8);
    let hot = grid.hot(6.0);
    (0..6).for_each(|_| _ = grid.period(&hot));
    let before = rows(&grid);
    let middle = grid.middle();
    for lost in [11, middle] {
        grid.period(|index| hot(index).filter(|_| index != lost));
        grid.period(&hot);
        assert!(jump_ppm(&before, &rows(&grid)) < 40_000, "{lost}");
    }
}

#[test]
fn a_restarted_controller_goes_on_without_a_jump() {
    for seed in 0..5 {
        let mut grid = settled(7, seed);
        let hot = grid.hot(8.0);
        (0..8).for_each(|_| _ = grid.period(&hot));
        let before = rows(&grid);
        let text = serde_json::to_string(&grid.mesh.export_plan()).unwrap();
        let stored: StoredPlan = serde_json::from_str(&text).unwrap();

        let plan = grid.mesh.plan_id();
        let mut again = Grid::new(7, seed + 100, 0);
        again.mesh.restore_plan(stored);
        again.now = Duration::from_secs(5);
        again.have = std::mem::take(&mut grid.have);
        assert!(again.mesh.plan_id() > plan);
        // Before anybody reports, and while everybody does again.
        again.tick();
        assert_eq!(jump_ppm(&before, &rows(&again)), 0, "seed {seed}");
        for period in 0..6 {
            again.period(&hot);
            let jump = jump_ppm(&before, &rows(&again));
            assert!(jump < 130_000, "seed {seed}, period {period}: {jump} ppm");
        }
        let middle = again.middle();
        assert!(before[middle].home_ppm.abs_diff(again.row(middle).home_ppm) < 40_000);
    }
}

/// Where a service has neither endpoints nor had a request, nothing is kept of it and nothing is lost.
#[test]
fn what_is_kept_of_a_plan_are_seats_with_a_past() {
    let rare = ServiceName::new("shop/rare").unwrap();
    let spec = ServiceSpec {
        hosts: vec!["rare.example".to_owned()],
        endpoints: vec![EndpointSpec {
            node: node(0),
            address: "127.0.0.1:9090".to_owned(),
            workers: 4,
            capacity_rps: Some(200.0),
        }],
        protocol: None,
    };
    let of_rare = |plan: &StoredPlan| {
        let service = plan.services.iter().find(|s| s.service == rare).unwrap();
        let rows = service
            .seats
            .iter()
            .map(|seat| (seat.node.clone(), seat.row.clone()));
        rows.collect::<BTreeMap<NodeId, Row>>()
    };
    let mut grid = settled(5, 3);
    grid.mesh.set_service(rare.clone(), spec.clone());
    (0..3).for_each(|_| _ = grid.period(|_| Some(20.0)));
    let before = of_rare(&grid.mesh.export_plan());
    assert_eq!(before.len(), 25);
    assert_eq!(before[&node(24)].moves[0].to, node(0));
    let kept = grid.mesh.plan_to_keep();
    assert_eq!(of_rare(&kept).into_keys().collect::<Vec<_>>(), [node(0)]);
    let cart = |plan: &StoredPlan| {
        plan.services
            .iter()
            .find(|s| s.service == cart())
            .unwrap()
            .seats
            .len()
    };
    assert_eq!(cart(&kept), 25);

    let mut again = Grid::new(5, 103, 0);
    again.mesh.set_service(rare.clone(), spec);
    again.mesh.restore_plan(kept);
    (0..3).for_each(|_| _ = again.period(|_| Some(20.0)));
    assert_eq!(of_rare(&again.mesh.export_plan()), before);
}

/// Half a minute until the last is there: longer than anybody may be silent.
#[test]
fn while_nodes_come_back_nobody_is_taken_for_dead() {
    let mut grid = settled(5, 3);
    let hot = grid.hot(8.0);
    (0..8).for_each(|_| _ = grid.period(&hot));
    let before = rows(&grid);
    let mut again = Grid::new(5, 103, 0);
    again.mesh.restore_plan(grid.mesh.export_plan());
    again.now += Duration::from_secs(60);
    again.have = std::mem::take(&mut grid.have);
    let away = 24;
    for back in 0..away {
        again.mesh.on_hello(&hello(back), again.now);
        let stats = again.period(|index| hot(index).filter(|_| index <= back));
        assert_eq!(stats.nodes_silent, 0, "{back} are back");
        let jump = jump_ppm(&before, &rows(&again));
        assert!(jump < 150_000, "{back} are back: {jump} ppm");
    }
    let ticks = (0..8).map(|_| again.period(|index| hot(index).filter(|_| index < away)));
    let silent: Vec<usize> = ticks.map(|stats| stats.nodes_silent).collect();
    assert_eq!((silent[0], silent[7]), (0, 1), "{silent:?}");
}

#[test]
fn policies_decide() {
    let mut grid = settled(5, 9);
    let hot = grid.hot(6.0);
    grid.policy(|p| p.move_max = 0.25);
    (0..4).for_each(|_| _ = grid.period(&hot));
    let row = grid.row(grid.middle());
    assert!((750_000..770_000).contains(&row.home_ppm), "{row:?}");

    grid.policy(|p| p.neighbours = 0);
    (0..4).for_each(|_| _ = grid.period(&hot));
    assert!(grid.row(grid.middle()).shed_ppm > 0);
    grid.policy(|p| (p.neighbours, p.cloud_address) = (0, Some("cloud.example:443".to_owned())));
    (0..4).for_each(|_| _ = grid.period(&hot));
    let row = grid.row(grid.middle());
    assert!(row.cloud_ppm > 0 && row.shed_ppm == 0, "{row:?}");

    let weights = BTreeMap::from([(node(0), BTreeMap::from([(node(24), 300_000)]))]);
    grid.policy(|p| (p.algorithm, p.static_weights) = (Algorithm::Static, weights));
    (0..2).for_each(|_| _ = grid.period(&hot));
    assert_eq!(grid.row(0).weight_ppm(&node(24)), 300_000);
    assert_eq!(grid.row(grid.middle()), Row::home());

    let named = WeightPolicySpec {
        services: vec![cart()],
        algorithm: Algorithm::Off,
        ..WeightPolicySpec::default()
    };
    let broken = WeightPolicySpec {
        target_utilisation: f64::NAN,
        ..named.clone()
    };
    let all = WeightPolicySpec::default();
    let policies = [("a-all", all), ("b-broken", broken), ("c-named", named)];
    grid.mesh
        .set_policies(policies.map(|(name, spec)| (name.to_owned(), spec)).into());
    let service = &grid.mesh.view().services[0];
    assert_eq!(
        (service.policy.as_str(), service.algorithm),
        ("c-named", Algorithm::Off)
    );
}

#[test]
fn cordoned_and_removed_nodes_take_nothing() {
    let mut grid = settled(5, 10);
    let hot = grid.hot(6.0);
    (0..3).for_each(|_| _ = grid.period(&hot));
    let seat = NodeSeat {
        cordoned: true,
        position: grid.mesh.view().nodes[11].position,
        ..NodeSeat::default()
    };
    grid.mesh.set_node(node(11), seat);
    grid.mesh.remove_node(&node(13));
    grid.have.remove(&node(13));
    let rates = |index: usize| hot(index).filter(|_| index != 13);
    (0..3).for_each(|_| _ = grid.period(rates));
    let row = grid.row(grid.middle());
    assert_eq!(
        (row.weight_ppm(&node(11)), row.weight_ppm(&node(13))),
        (0, 0)
    );
    assert!(row.moves.len() >= 6);
    assert_eq!(grid.row(11).home_ppm, 1_000_000);
}

#[test]
fn services_come_with_a_hello_and_go_with_the_last_one() {
    let mut mesh = ControlLoop::new(1, PERIOD);
    let mut first = hello(0);
    first.services.push(LocalService {
        service: cart(),
        hosts: vec!["*".to_owned()],
        endpoints: vec![Endpoint {
            address: "127.0.0.1:1".to_owned(),
            workers: 0,
        }],
        capacity_rps: None,
    });
    mesh.on_hello(&first, PERIOD);
    mesh.on_hello(&hello(1), PERIOD);
    mesh.tick(PERIOD);
    let there = mesh.snapshot(&node(0)).unwrap();
    assert_eq!(there.services[0].endpoints[0].workers, 1);
    let elsewhere = mesh.snapshot(&node(1)).unwrap();
    assert!(elsewhere.services[0].endpoints.is_empty());
    mesh.on_hello(&hello(0), PERIOD);
    let tick = mesh.tick(PERIOD * 2);
    let gone = tick.pushes.iter().find(|(to, _)| *to == node(1)).unwrap();
    assert!(matches!(&gone.1, Down::Delta(d) if d.removed == [cart()]));
    assert!(mesh.view().services.is_empty());
}

#[test]
fn every_message_fits_a_line_and_nothing_is_left_out() {
    let mut mesh = ControlLoop::new(1, PERIOD);
    let long = |index: usize| NodeId::new(&format!("{}{index}", "n".repeat(240))).unwrap();
    for index in 0..40 {
        let seat = NodeSeat {
            position: Some(Position::new(45.0, 9.0 + index as f64 / 1000.0).unwrap()),
            ..NodeSeat::default()
        };
        mesh.set_node(long(index), seat);
        mesh.on_hello(
            &Hello {
                node: long(index),
                ..hello(index)
            },
            PERIOD,
        );
    }
    for service in 0..200 {
        let endpoint = |index: usize| EndpointSpec {
            node: long(index),
            address: "\u{1}".repeat(50),
            workers: 4,
            capacity_rps: Some(100.0),
        };
        let spec = ServiceSpec {
            protocol: None,
            hosts: vec![format!("s{service}.example")],
            endpoints: (0..40).map(endpoint).collect(),
        };
        mesh.set_service(ServiceName::new(&format!("ns/s{service}")).unwrap(), spec);
    }
    let tick = mesh.tick(PERIOD);
    let mut have: BTreeMap<NodeId, Snapshot> = BTreeMap::new();
    assert!(
        tick.stats.deltas > 0,
        "one line would do; the test shows nothing"
    );
    for (to, message) in tick.pushes {
        assert!(encode_line(&message).unwrap().len() <= LINE_LEN_MAX);
        let next = match message {
            Down::Snapshot(snapshot) => snapshot,
            Down::Delta(delta) => have[&to].apply(delta).unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(next.check(), Ok(()));
        have.insert(to, next);
    }
    assert!(have.values().all(|snapshot| snapshot.services.len() == 200));
    assert_eq!(have.len(), 40);
}

#[test]
fn the_same_input_gives_the_same_plan() {
    let run = || {
        let mut grid = settled(5, 11);
        let hot = grid.hot(7.0);
        (0..5).for_each(|_| _ = grid.period(&hot));
        (grid.mesh.view(), grid.mesh.export_plan())
    };
    assert_eq!(run(), run());
}

#[test]
fn a_late_home_whose_neighbour_leaves_is_planned_once_more() {
    let mut grid = settled(5, 6);
    let hot = grid.hot(8.0);
    (0..4).for_each(|_| _ = grid.period(&hot));
    let (middle, quiet) = (grid.middle(), 11);
    assert!(grid.row(middle).weight_ppm(&node(quiet)) > 0);
    // The neighbour falls silent, and in the period in which it leaves the home is late too.
    for _ in 1..5 {
        grid.period(|index| hot(index).filter(|_| index != quiet));
    }
    for _ in 0..2 {
        grid.period(|index| hot(index).filter(|_| index != quiet && index != middle));
        let service = &grid.mesh.services[0];
        let most_mrps = service.planning.load_mrps.iter().copied().max().unwrap();
        assert!(
            most_mrps <= 191_000,
            "{most_mrps} above the ceiling of 190/s"
        );
    }
    assert_eq!(grid.row(middle).weight_ppm(&node(quiet)), 0, "it has left");
}

#[test]
fn a_node_whose_endpoints_are_ill_attracts_nothing_and_sends_its_own_away() {
    let mut grid = settled(5, 11);
    let (middle, beside) = (grid.middle(), grid.middle() + 1);
    grid.up.insert(middle, 0);
    // Its neighbour is hot: it would be the first to help.
    let rate = move |index: usize| Some(if index == beside { 400.0 } else { 90.0 });
    (0..4).for_each(|_| _ = grid.period(rate));
    assert_eq!(grid.row(middle).home_ppm, 0);
    for index in (0..25).filter(|&index| index != middle) {
        assert_eq!(grid.row(index).weight_ppm(&node(middle)), 0, "{index}");
    }
    // Half of them are back.
    grid.up.insert(middle, 2);
    (0..12).for_each(|_| _ = grid.period(rate));
    let load_rps = grid.load_rps(middle, &rate);
    assert!((60.0..=97.0).contains(&load_rps), "{load_rps}");
    grid.up.clear();
    (0..40).for_each(|_| _ = grid.period(|_| Some(90.0)));
    assert_eq!(grid.row(middle), Row::home());
}
