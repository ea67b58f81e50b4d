use super::*;
use proptest::prelude::*;

const ALL: [Algorithm; 5] = [
    Algorithm::Convex,
    Algorithm::Waterfall,
    Algorithm::Threshold,
    Algorithm::Static,
    Algorithm::Off,
];

/// Nodes in a ring, each with its `reach` next and previous ones as neighbours, nearer ones cheaper.
fn ring(spots: &[Spot], reach: u32, cloud_ns: Option<i64>) -> Field {
    let count = spots.len() as u32;
    let row = |home: u32| {
        let arc = |to: u32, step: u32| Arc {
            to,
            cost_ns: 2_000_000 + i64::from(step) * 500_000,
            static_ppm: 0,
        };
        let pair = |step| {
            [
                arc((home + step) % count, step),
                arc((home + count - step) % count, step),
            ]
        };
        let mut row: Vec<Arc> = (1..=reach).flat_map(pair).collect();
        let mut listed = std::collections::BTreeSet::from([home]);
        row.retain(|a| listed.insert(a.to));
        row
    };
    let rows: Vec<Vec<Arc>> = (0..count).map(row).collect();
    let mut field = Field::new(&rows, 750_000, 950_000, cloud_ns);
    field.spots.copy_from_slice(spots);
    field
}

fn spot(demand_rps: i64, capacity_rps: i64) -> Spot {
    Spot {
        demand_mrps: demand_rps * 1000,
        capacity_mrps: capacity_rps * 1000,
        service_ns: 20_000_000,
        fixed_mrps: 0,
    }
}

fn plan(algorithm: Algorithm, field: &Field) -> Flows {
    let mut flows = Flows::none(field);
    planner(algorithm).plan(field, &mut flows, u64::MAX);
    flows
}

fn load_mrps(field: &Field, flows: &Flows, node: u32) -> i64 {
    let arcs = field.arcs().iter().zip(&flows.arc_mrps);
    let moved_in: i64 = arcs.filter(|(a, _)| a.to == node).map(|(_, f)| f).sum();
    field.spots[node as usize].fixed_mrps + flows.home_mrps[node as usize] + moved_in
}

#[test]
fn at_rest_nothing_moves() {
    let field = ring(
        &[
            spot(150, 200),
            spot(0, 200),
            spot(10, 200),
            spot(149, 200),
            spot(75, 100),
        ],
        2,
        Some(1),
    );
    for algorithm in ALL {
        let flows = plan(algorithm, &field);
        assert!(flows.arc_mrps.iter().all(|&f| f == 0), "{algorithm:?}");
        assert!(flows.cloud_mrps.iter().all(|&f| f == 0), "{algorithm:?}");
    }
}

#[test]
fn a_hot_home_among_idle_ones_is_relieved() {
    let mut spots = vec![spot(100, 200); 9];
    spots[0] = spot(300, 200);
    let field = ring(&spots, 4, None);
    // Nearest first fills two neighbours; the others go by their own rule.
    let near = plan(Algorithm::Waterfall, &field);
    assert_eq!(near.home_mrps[0], 190_000);
    assert_eq!(&near.arc_mrps[field.row(0)][..3], [90_000, 20_000, 0]);
    let even = plan(Algorithm::Threshold, &field);
    assert_eq!(even.home_mrps[0], 150_000);
    assert!(even.arc_mrps[field.row(0)].iter().all(|&f| f == 18_750));
    let best = plan(Algorithm::Convex, &field);
    assert_eq!(best.home_mrps[0], 150_000);
    assert_eq!(best.arc_mrps[field.row(0)].iter().sum::<i64>(), 150_000);
}

#[test]
fn only_the_exact_planner_displaces() {
    // A(hot) – B(full) – C(idle), in a line.
    let arc = |to| Arc {
        to,
        cost_ns: 2_000_000,
        static_ppm: 0,
    };
    let rows = [vec![arc(1)], vec![arc(0), arc(2)], vec![arc(1)]];
    let mut field = Field::new(&rows, 750_000, 950_000, None);
    field
        .spots
        .copy_from_slice(&[spot(250, 200), spot(190, 200), spot(0, 200)]);
    let best = plan(Algorithm::Convex, &field);
    assert_eq!(best.shed_mrps, [0, 0, 0]);
    assert!(best.arc_mrps[0] > 0 && best.arc_mrps[2] > 0, "{best:?}");
    assert_eq!(plan(Algorithm::Waterfall, &field).shed_mrps, [60_000, 0, 0]);
}

#[test]
fn fixed_weights_are_what_the_policy_says() {
    let row = vec![Arc {
        to: 1,
        cost_ns: 1,
        static_ppm: 250_000,
    }];
    let mut field = Field::new(&[row, Vec::new()], 750_000, 950_000, None);
    field.spots[0] = spot(100, 1000);
    let flows = plan(Algorithm::Static, &field);
    assert_eq!((flows.home_mrps[0], flows.arc_mrps[0]), (75_000, 25_000));
    assert_eq!(plan(Algorithm::Off, &field).home_mrps[0], 100_000);
}

fn any_spot() -> impl Strategy<Value = Spot> {
    let demand = prop_oneof![Just(0_i64), 0_i64..300_000, 0_i64..3_000_000];
    let capacity = prop_oneof![Just(0_i64), 1_i64..400_000];
    let fixed = prop_oneof![Just(0_i64), 0_i64..500_000];
    (demand, capacity, fixed).prop_map(|(demand_mrps, capacity_mrps, fixed_mrps)| Spot {
        demand_mrps,
        capacity_mrps,
        service_ns: 20_000_000,
        fixed_mrps,
    })
}

proptest! {
    #[test]
    fn demand_is_conserved_and_nothing_is_planned_above_a_ceiling(
        spots in prop::collection::vec(any_spot(), 3..24), reach in 1_u32..4, cloud in prop::option::of(1_i64..100_000_000),
    ) {
        let field = ring(&spots, reach, cloud);
        for algorithm in ALL {
            let flows = plan(algorithm, &field);
            for home in 0..spots.len() as u32 {
                let at = home as usize;
                let moved: i64 = flows.arc_mrps[field.row(home)].iter().sum();
                let placed = flows.home_mrps[at] + moved + flows.cloud_mrps[at] + flows.shed_mrps[at];
                prop_assert_eq!(placed, spots[at].demand_mrps, "{:?}", algorithm);
                prop_assert!(flows.home_mrps[at] >= 0 && flows.cloud_mrps[at] >= 0 && flows.shed_mrps[at] >= 0);
                let limited = !matches!(algorithm, Algorithm::Static | Algorithm::Off);
                let ceiling = field.ceiling_mrps(home).max(spots[at].fixed_mrps);
                prop_assert!(!limited || load_mrps(&field, &flows, home) <= ceiling, "{:?}", algorithm);
            }
            prop_assert!(flows.arc_mrps.iter().all(|&f| f >= 0));
        }
    }

    #[test]
    fn a_plan_brought_up_to_date_costs_what_a_new_one_does(
        spots in prop::collection::vec(any_spot(), 8..24),
        changes in prop::collection::vec((0_usize..24, any_spot()), 1..6),
    ) {
        let mut field = ring(&spots, 2, None);
        let mut flows = Flows::none(&field);
        let mut kept = convex::Convex::default();
        kept.plan(&field, &mut flows, u64::MAX);
        field.renewed = false;
        for (at, spot) in changes {
            let at = at % spots.len();
            field.spots[at] = spot;
            field.changed = vec![at as u32];
            kept.plan(&field, &mut flows, u64::MAX);
        }
        field.renewed = true;
        let anew = plan(Algorithm::Convex, &field);
        prop_assert_eq!(flows.shed_mrps.iter().sum::<i64>(), anew.shed_mrps.iter().sum::<i64>());
    }
}
