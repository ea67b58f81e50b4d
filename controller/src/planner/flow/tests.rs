use fastrand::Rng;
use good_lp::{Expression, Solution, SolverModel, constraint, microlp, variable, variables};
use proptest::prelude::*;

use super::*;

const MS: i64 = 1_000_000;

/// A problem as plain data, so that it can be given to several solvers.
#[derive(Clone, Debug)]
struct Problem {
    neighbours: Vec<Vec<(u32, i64)>>,
    upto_ppm: Vec<u32>,
    excess_ppm: Vec<u32>,
    exits: Exits,
    demand_mrps: Vec<i64>,
    facility: Vec<Facility>,
}

impl Problem {
    fn nodes(&self) -> usize {
        self.demand_mrps.len()
    }

    fn flow(&self) -> Flow {
        let arcs = Arcs::new(&self.neighbours).unwrap();
        let curve = Curve::new(self.upto_ppm.clone(), self.excess_ppm.clone()).unwrap();
        let mut flow = Flow::new(arcs, curve, self.exits);
        for node in 0..self.nodes() {
            flow.set_demand(node as u32, self.demand_mrps[node]);
            flow.set_facility(node as u32, self.facility[node]);
        }
        flow
    }

    /// (slope in ns, room in mrps) of the segments of a facility above what is fixed, by the definition.
    fn rooms(&self, node: usize) -> Vec<(i64, i64)> {
        let facility = self.facility[node];
        let mut from_mrps = facility.fixed_mrps;
        let mut rooms = Vec::new();
        for (&upto_ppm, &excess_ppm) in self.upto_ppm.iter().zip(&self.excess_ppm) {
            let end_mrps = facility.capacity_mrps * i64::from(upto_ppm) / 1_000_000;
            let slope_ns = i128::from(excess_ppm) * i128::from(facility.service_ns) / 1_000_000;
            rooms.push((slope_ns as i64, (end_mrps - from_mrps).max(0)));
            from_mrps = from_mrps.max(end_mrps);
        }
        rooms
    }

    /// The optimum by linear programming, in ns × mrps.
    fn lp(&self) -> f64 {
        let mut vars = variables!();
        let mut cost = Expression::from(0.0);
        let mut inflow = vec![Expression::from(0.0); self.nodes()];
        let mut rows = Vec::new();
        let exit_ns = self
            .exits
            .cloud_ns
            .unwrap_or(i64::MAX)
            .min(self.exits.shed_ns);
        for (node, list) in self.neighbours.iter().enumerate() {
            let exit = vars.add(variable().min(0.0));
            cost += exit * (exit_ns as f64 / 1e6);
            let mut row = Expression::from(exit);
            let home = [(node as u32, 0)];
            for &(to, cost_ns) in home.iter().chain(list) {
                let moved = vars.add(variable().min(0.0));
                cost += moved * (cost_ns as f64 / 1e6);
                row += moved;
                inflow[to as usize] += moved;
            }
            rows.push(constraint!(row == self.demand_mrps[node] as f64 / 1e3));
        }
        for (node, inflow) in inflow.into_iter().enumerate() {
            let mut served = Expression::from(0.0);
            for (slope_ns, room_mrps) in self.rooms(node) {
                let part = vars.add(variable().min(0.0).max(room_mrps as f64 / 1e3));
                cost += part * (slope_ns as f64 / 1e6);
                served += part;
            }
            rows.push(constraint!(inflow == served));
        }
        let solution = rows
            .into_iter()
            .fold(vars.minimise(&cost).using(microlp), |model, row| {
                model.with(row)
            });
        solution.solve().unwrap().eval(&cost) * 1e9
    }
}

/// A random problem of any shape the solver takes.
fn problem(rng: &mut Rng) -> Problem {
    let nodes = rng.usize(5..=60);
    let degree = rng.usize(1..=8).min(nodes - 1);
    let equal_costs = rng.u8(..4) == 0;
    let (mut upto_ppm, mut excess_ppm) = (Vec::new(), Vec::new());
    let (mut end_ppm, mut slope_ppm) = (0, 0);
    for _ in 0..rng.usize(1..=8) {
        end_ppm += rng.u32(1..=250_000);
        slope_ppm += if rng.bool() { rng.u32(0..2_000_000) } else { 0 };
        upto_ppm.push(end_ppm);
        excess_ppm.push(slope_ppm);
    }
    let neighbours = (0..nodes).map(|node| {
        let mut others: Vec<u32> = (0..nodes as u32)
            .filter(|&other| other != node as u32)
            .collect();
        rng.shuffle(&mut others);
        let cost_ns = |rng: &mut Rng| if equal_costs { MS } else { rng.i64(0..5 * MS) };
        others[..degree]
            .iter()
            .map(|&to| (to, cost_ns(rng)))
            .collect()
    });
    let neighbours = neighbours.collect();
    let scarcity = rng.i64(1..=6);
    Problem {
        neighbours,
        upto_ppm,
        excess_ppm,
        exits: Exits {
            cloud_ns: rng.bool().then(|| rng.i64(0..200 * MS)),
            shed_ns: rng.i64(50 * MS..2_000 * MS),
        },
        demand_mrps: (0..nodes).map(|_| demand(rng, scarcity)).collect(),
        facility: (0..nodes).map(|_| facility(rng)).collect(),
    }
}

fn demand(rng: &mut Rng, scarcity: i64) -> i64 {
    match rng.u8(..6) {
        0 => 0,
        1 => rng.i64(0..1_000_000 * scarcity),
        _ => rng.i64(0..50_000 * scarcity),
    }
}

fn facility(rng: &mut Rng) -> Facility {
    let capacity_mrps = if rng.u8(..6) == 0 {
        0
    } else {
        rng.i64(0..300_000)
    };
    let fixed_mrps = match rng.u8(..6) {
        0 => rng.i64(0..=2 * capacity_mrps),
        1 => rng.i64(0..=capacity_mrps),
        _ => 0,
    };
    Facility {
        capacity_mrps,
        service_ns: rng.i64(0..50 * MS),
        fixed_mrps,
    }
}

/// What holds whatever the costs are: demand is conserved and nobody is above the ceiling.
fn check_feasible(flow: &Flow, problem: &Problem) {
    let ceiling_ppm = i64::from(*problem.upto_ppm.last().unwrap());
    let mut inflow_mrps = vec![0; problem.nodes()];
    for node in 0..problem.nodes() {
        let number = node as u32;
        let mut row_mrps = flow.shed_mrps(number) + flow.cloud_mrps(number);
        assert!(flow.shed_mrps(number) >= 0 && flow.cloud_mrps(number) >= 0);
        for arc in flow.row(number) {
            assert!(flow.arc_mrps(arc) >= 0);
            row_mrps += flow.arc_mrps(arc);
            inflow_mrps[flow.arc_head(arc) as usize] += flow.arc_mrps(arc);
        }
        assert_eq!(row_mrps, problem.demand_mrps[node], "demand of node {node}");
    }
    for (node, &moved_in_mrps) in inflow_mrps.iter().enumerate() {
        let facility = problem.facility[node];
        let ceiling_mrps = facility.capacity_mrps * ceiling_ppm / 1_000_000;
        let load_mrps = flow.load_mrps(node as u32);
        assert_eq!(
            load_mrps,
            facility.fixed_mrps + moved_in_mrps,
            "load of node {node}"
        );
        assert!(
            moved_in_mrps == 0 || load_mrps <= ceiling_mrps,
            "node {node} above its ceiling"
        );
    }
}

#[test]
fn equals_an_exact_linear_program() {
    for seed in 0..200 {
        let problem = problem(&mut Rng::with_seed(seed));
        let mut flow = problem.flow();
        flow.solve();
        flow.check_optimal()
            .unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        check_feasible(&flow, &problem);
        let (ours, theirs) = (flow.objective() as f64, problem.lp());
        let error = (ours - theirs).abs() / theirs.max(1e9);
        assert!(error < 1e-6, "seed {seed}: {ours} against {theirs}");
    }
}

#[test]
fn with_one_flat_segment_it_is_the_transport_problem() {
    for seed in 0..200 {
        let mut problem = problem(&mut Rng::with_seed(1_000 + seed));
        problem.upto_ppm = vec![900_000];
        problem.excess_ppm = vec![0];
        let mut flow = problem.flow();
        flow.solve();
        let exit_ns = problem
            .exits
            .cloud_ns
            .unwrap_or(i64::MAX)
            .min(problem.exits.shed_ns);
        let mut transport = 0;
        for node in 0..problem.nodes() as u32 {
            let exits_mrps = flow.shed_mrps(node) + flow.cloud_mrps(node);
            transport += i128::from(exits_mrps) * i128::from(exit_ns);
            for (arc, &(_, cost_ns)) in flow
                .row(node)
                .skip(1)
                .zip(&problem.neighbours[node as usize])
            {
                transport += i128::from(flow.arc_mrps(arc)) * i128::from(cost_ns);
            }
        }
        assert_eq!(flow.objective(), transport, "seed {seed}");
        let theirs = problem.lp();
        assert!(
            (transport as f64 - theirs).abs() / theirs.max(1e9) < 1e-6,
            "seed {seed}"
        );
    }
}

/// One random change of a problem, made to the retained flow as well.
fn change(problem: &mut Problem, flow: &mut Flow, rng: &mut Rng) {
    let node = rng.usize(..problem.nodes());
    match rng.u8(..6) {
        0 => problem.demand_mrps[node] = 0,
        1 | 2 => problem.demand_mrps[node] = demand(rng, 3),
        3 => problem.facility[node] = Facility::default(),
        4 => problem.facility[node] = facility(rng),
        _ => {
            let place = rng.usize(..problem.neighbours[node].len());
            let cost_ns = rng.i64(0..6 * MS);
            problem.neighbours[node][place].1 = cost_ns;
            flow.set_arc_cost(flow.row(node as u32).start + 1 + place as u32, cost_ns);
        }
    }
    flow.set_demand(node as u32, problem.demand_mrps[node]);
    flow.set_facility(node as u32, problem.facility[node]);
}

/// Solves after every batch of changes, incrementally and from scratch, and compares.
fn check_incremental(seed: u64, rounds: usize, changes: usize) {
    let rng = &mut Rng::with_seed(seed);
    let mut problem = problem(rng);
    let mut flow = problem.flow();
    flow.solve();
    for round in 0..rounds {
        for _ in 0..rng.usize(1..=changes) {
            change(&mut problem, &mut flow, rng);
        }
        let before = flow.clone();
        let touched = flow.solve();
        let place = format!("seed {seed}, round {round}");
        flow.check_optimal()
            .unwrap_or_else(|violation| panic!("{place}: {violation}"));
        check_feasible(&flow, &problem);
        let mut fresh = problem.flow();
        fresh.solve();
        assert_eq!(flow.objective(), fresh.objective(), "{place}");
        assert!(touched.rows.is_sorted(), "{place}");
        for node in 0..problem.nodes() as u32 {
            let row = |flow: &Flow| -> Vec<i64> {
                let exits = [flow.shed_mrps(node), flow.cloud_mrps(node)];
                flow.row(node)
                    .map(|arc| flow.arc_mrps(arc))
                    .chain(exits)
                    .collect()
            };
            if touched.rows.binary_search(&node).is_err() {
                assert_eq!(
                    row(&before),
                    row(&flow),
                    "{place}: row {node} changed untold"
                );
            }
        }
    }
}

#[test]
fn incremental_equals_from_scratch() {
    for seed in 0..150 {
        check_incremental(seed, 12, 3);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn incremental_equals_from_scratch_for_any_seed(seed: u64, changes in 1_usize..12) {
        check_incremental(seed, 6, changes);
    }
}

#[test]
fn what_comes_back_costs_what_it_cost() {
    for seed in 0..30 {
        let problem = problem(&mut Rng::with_seed(5_000 + seed));
        let mut flow = problem.flow();
        flow.solve();
        let at_first = flow.objective();
        for node in 0..problem.nodes() as u32 {
            flow.set_demand(node, 0);
            flow.set_facility(node, Facility::default());
            flow.solve();
        }
        assert_eq!(flow.objective(), 0, "seed {seed}");
        for node in 0..problem.nodes() {
            flow.set_facility(node as u32, problem.facility[node]);
            flow.set_demand(node as u32, problem.demand_mrps[node]);
            flow.solve();
        }
        flow.check_optimal().unwrap();
        assert_eq!(flow.objective(), at_first, "seed {seed}");
    }
}

#[test]
fn the_same_calls_give_the_same_flow() {
    for seed in 0..20 {
        let run = || {
            let rng = &mut Rng::with_seed(seed);
            let mut problem = problem(rng);
            let mut flow = problem.flow();
            (0..5).for_each(|_| {
                change(&mut problem, &mut flow, rng);
                flow.solve();
            });
            (0..flow.arcs.len() as u32)
                .map(|arc| flow.arc_mrps(arc))
                .collect::<Vec<_>>()
        };
        assert_eq!(run(), run(), "seed {seed}");
    }
}

/// Nodes in a row, each with its neighbours left and right at 1 ms; 100 requests/s and 10 ms each.
fn line(demands_rps: &[i64]) -> Flow {
    let nodes = demands_rps.len() as u32;
    let beside = |node: u32| {
        [
            node.checked_sub(1),
            Some(node + 1).filter(|&next| next < nodes),
        ]
    };
    let rows: Vec<Vec<(u32, i64)>> = (0..nodes)
        .map(|node| {
            beside(node)
                .into_iter()
                .flatten()
                .map(|to| (to, MS))
                .collect()
        })
        .collect();
    let curve = Curve::new(
        vec![750_000, 850_000, 950_000],
        vec![0, 1_000_000, 4_000_000],
    )
    .unwrap();
    let exits = Exits {
        cloud_ns: None,
        shed_ns: 1_000 * MS,
    };
    let mut flow = Flow::new(Arcs::new(&rows).unwrap(), curve, exits);
    for (node, &demand_rps) in (0..).zip(demands_rps) {
        flow.set_demand(node, demand_rps * 1_000);
        let facility = Facility {
            capacity_mrps: 100_000,
            service_ns: 10 * MS,
            fixed_mrps: 0,
        };
        flow.set_facility(node, facility);
    }
    flow
}

#[test]
fn at_rest_nothing_moves() {
    let mut flow = line(&[75, 60, 0, 74, 1]);
    for _ in 0..2 {
        flow.solve();
        for (node, demand_mrps) in (0..).zip([75_000, 60_000, 0, 74_000, 1_000]) {
            assert_eq!(flow.home_mrps(node), demand_mrps);
        }
        assert_eq!(flow.objective(), 0);
        // And again on the way that repairs.
        flow.set_demand(0, 30_000);
        flow.solve();
        flow.set_demand(0, 75_000);
    }
}

#[test]
fn a_full_neighbour_moves_its_own_load_outward() {
    // A may only reach B, which is full of its own load; B may reach C, which is idle.
    let mut flow = line(&[95, 75, 0]);
    flow.solve();
    flow.check_optimal().unwrap();
    let [a, b, c] = [0, 1, 2];
    let [a_to_b, b_to_c] = [flow.row(a).start + 1, flow.row(b).start + 2];
    assert_eq!((flow.arc_head(a_to_b), flow.arc_head(b_to_c)), (b, c));
    assert_eq!((flow.home_mrps(a), flow.arc_mrps(a_to_b)), (75_000, 20_000));
    assert_eq!((flow.home_mrps(b), flow.arc_mrps(b_to_c)), (55_000, 20_000));
    assert_eq!(
        [a, b, c].map(|node| flow.load_mrps(node)),
        [75_000, 75_000, 20_000]
    );
    assert_eq!([a, b, c].map(|node| flow.price_ns(node)), [2 * MS, MS, 0]);
}

#[test]
fn what_nobody_can_take_leaves_by_the_cheaper_exit() {
    let mut flow = line(&[500, 0, 0]);
    flow.solve();
    // Home and B up to their ceilings: B has no load of its own to displace.
    assert_eq!((flow.home_mrps(0), flow.shed_mrps(0)), (95_000, 310_000));
    assert_eq!((flow.load_mrps(1), flow.load_mrps(2)), (95_000, 0));
    assert_eq!(flow.price_ns(0), 1_000 * MS);

    let facility = Facility {
        capacity_mrps: 100_000,
        service_ns: 10 * MS,
        fixed_mrps: 0,
    };
    let curve = Curve::new(vec![500_000, 900_000], vec![0, 3_000_000]).unwrap();
    let exits = Exits {
        cloud_ns: Some(20 * MS),
        shed_ns: 1_000 * MS,
    };
    let mut flow = Flow::new(Arcs::new(&[vec![]]).unwrap(), curve, exits);
    flow.set_facility(0, facility);
    flow.set_demand(0, 90_000);
    flow.solve();
    // Above 50 % a request costs 30 ms here and 20 ms there.
    assert_eq!(
        (flow.home_mrps(0), flow.cloud_mrps(0), flow.shed_mrps(0)),
        (50_000, 40_000, 0)
    );
}

#[test]
fn absurd_numbers_are_clamped() {
    let extremes = [
        i64::MIN,
        -1,
        0,
        1,
        RATE_MRPS_MAX,
        1_000_000_000_000_000,
        i64::MAX,
    ];
    let rows = vec![
        vec![(1, i64::MAX), (2, i64::MIN)],
        vec![(2, i64::MAX)],
        vec![(0, 3)],
    ];
    for excess_ppm in [0, u32::MAX] {
        for exit_ns in extremes {
            let curve = Curve::new(vec![1, UTILISATION_PPM_MAX], vec![0, excess_ppm]).unwrap();
            let exits = Exits {
                cloud_ns: None,
                shed_ns: exit_ns,
            };
            let mut flow = Flow::new(Arcs::new(&rows).unwrap(), curve, exits);
            for (step, &value) in extremes.iter().cycle().take(60).enumerate() {
                let node = step as u32 % 3;
                flow.set_demand(node, value);
                let other = extremes[step * 5 % extremes.len()];
                let fixed_mrps = extremes[step * 3 % extremes.len()];
                flow.set_facility(
                    node,
                    Facility {
                        capacity_mrps: value,
                        service_ns: other,
                        fixed_mrps,
                    },
                );
                flow.set_arc_cost(step as u32 % 7, other);
                flow.solve();
                flow.check_optimal().unwrap();
                assert!(flow.objective() >= 0);
            }
        }
    }
}

#[test]
fn a_solve_that_stops_early_is_sound_and_the_next_ones_finish_it() {
    let mut stopped = 0;
    for seed in 0..300 {
        let rng = &mut Rng::with_seed(seed);
        let mut problem = problem(rng);
        let mut flow = problem.flow();
        for round in 0..6 {
            for _ in 0..rng.usize(0..=problem.nodes()) {
                change(&mut problem, &mut flow, rng);
            }
            flow.solve_within(rng.u64(0..12));
            stopped += u32::from(!flow.left.is_empty());
            for node in 0..problem.nodes() {
                let row = flow.row(node as u32).skip(1);
                let others_mrps: i64 = row.map(|arc| flow.arc_mrps(arc)).sum();
                let node_u32 = node as u32;
                let out_mrps = flow.shed_mrps(node_u32) + flow.cloud_mrps(node_u32);
                let placed_mrps = flow.home_mrps(node_u32) + others_mrps + out_mrps;
                // Nothing is forgotten; what is to be taken back may still be there.
                assert!(
                    placed_mrps >= problem.demand_mrps[node],
                    "seed {seed}, round {round}, node {node}"
                );
            }
        }
        for _ in 0..10_000 {
            if flow.left.is_empty() {
                break;
            }
            flow.solve_within(8);
        }
        flow.solve();
        flow.check_optimal()
            .unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        assert_eq!(flow.unplaced_mrps(), 0);
        let mut fresh = problem.flow();
        fresh.solve();
        assert_eq!(flow.objective(), fresh.objective(), "seed {seed}");
    }
    assert!(stopped > 300, "only {stopped} solves had work left");
}

#[test]
fn the_home_arc_stays_free() {
    let mut flow = line(&[10, 10]);
    flow.set_arc_cost(flow.row(0).start, 5 * MS);
    flow.solve();
    assert_eq!((flow.home_mrps(0), flow.objective()), (10_000, 0));
}

#[test]
fn bad_problems_are_refused() {
    let arcs = |rows: &[Vec<(u32, i64)>]| Arcs::new(rows).unwrap_err();
    assert_eq!(arcs(&[vec![(0, 1)]]), FlowError::ArcSelf { node: 0 });
    assert_eq!(
        arcs(&[vec![], vec![(2, 1)]]),
        FlowError::ArcRange { from: 1, to: 2 }
    );
    assert_eq!(
        arcs(&[vec![(1, 1), (1, 2)], vec![]]),
        FlowError::ArcTwice { from: 0, to: 1 }
    );

    let curve = |upto_ppm: &[u32], excess_ppm: &[u32]| {
        Curve::new(upto_ppm.to_vec(), excess_ppm.to_vec()).unwrap_err()
    };
    assert_eq!(
        curve(&[], &[]),
        FlowError::CurveShape { ends: 0, slopes: 0 }
    );
    assert_eq!(
        curve(&[1, 2], &[0]),
        FlowError::CurveShape { ends: 2, slopes: 1 }
    );
    assert_eq!(
        curve(&[1; 65], &[0; 65]),
        FlowError::CurveShape {
            ends: 65,
            slopes: 65
        }
    );
    assert_eq!(curve(&[0], &[0]), FlowError::CurveEnd { segment: 0 });
    assert_eq!(curve(&[5, 5], &[0, 1]), FlowError::CurveEnd { segment: 1 });
    assert_eq!(
        curve(&[UTILISATION_PPM_MAX + 1], &[0]),
        FlowError::CurveEnd { segment: 0 }
    );
    assert_eq!(
        curve(&[5, 6], &[2, 1]),
        FlowError::CurveConcave { segment: 1 }
    );
}

#[test]
fn an_empty_problem_is_solved() {
    let curve = Curve::new(vec![950_000], vec![0]).unwrap();
    let exits = Exits {
        cloud_ns: None,
        shed_ns: MS,
    };
    let mut flow = Flow::new(Arcs::new(&[]).unwrap(), curve, exits);
    assert_eq!(flow.solve(), Touched::default());
    flow.check_optimal().unwrap();
}

#[test]
fn agenda_gives_the_least_first_whatever_was_changed() {
    let rng = &mut Rng::with_seed(3);
    let mut agenda = agenda::Agenda::new(50);
    let mut model = std::collections::BTreeMap::new();
    for _ in 0..5_000 {
        let node = rng.u32(..50);
        if rng.u8(..3) == 0 {
            agenda.remove(node);
            model.remove(&node);
        } else {
            let key = rng.i64(..40);
            agenda.set(node, key);
            model.insert(node, key);
        }
        let least = model.iter().map(|(&node, &key)| (key, node)).min();
        assert_eq!(agenda.first(), least);
    }
}
