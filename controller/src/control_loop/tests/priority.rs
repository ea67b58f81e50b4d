//! Two services of one node whose processors cannot serve both, and two idle nodes beside it.

use super::*;

const SERVICES: [&str; 2] = ["shop/pay", "shop/batch"];
/// What each is good for alone, and both together.
const ALONE_RPS: f64 = 200.0;

fn service(index: usize) -> ServiceName {
    ServiceName::new(SERVICES[index]).unwrap()
}

/// Node 0 has the demand; the others have the same services and nothing to do. A node's processors are full when what its
/// two services complete comes to [`ALONE_RPS`].
struct Three {
    mesh: ControlLoop,
    now: Duration,
    priorities: [i32; 2],
}

impl Three {
    fn new(priorities: [i32; 2]) -> Three {
        let mut mesh = ControlLoop::new(1, PERIOD);
        let at = Position::new(45.4, 9.1).unwrap();
        for index in 0..3 {
            let seat = NodeSeat {
                position: Some(at.destination(90.0, 500.0 * index as f64)),
                ..NodeSeat::default()
            };
            mesh.set_node(node(index), seat);
        }
        for index in 0..2 {
            let endpoint = |n: usize| EndpointSpec {
                node: node(n),
                address: format!("127.0.0.1:808{index}"),
                workers: 4,
                capacity_rps: Some(ALONE_RPS),
            };
            let spec = ServiceSpec {
                hosts: vec![format!("s{index}.example")],
                endpoints: (0..3).map(endpoint).collect(),
                protocol: None,
            };
            mesh.set_service(service(index), spec);
        }
        (0..3).for_each(|index| mesh.on_hello(&hello(index), Duration::from_secs(100)));
        let mut three = Three {
            mesh,
            now: Duration::from_secs(100),
            priorities: [0, 0],
        };
        three.rank(priorities, false);
        three
    }

    fn policies(priorities: [i32; 2], observe_only: bool) -> Vec<(String, WeightPolicySpec)> {
        let policy = |index: usize| WeightPolicySpec {
            services: vec![service(index)],
            priority: priorities[index],
            observe_only,
            ..WeightPolicySpec::default()
        };
        (0..2).map(|i| (format!("p{i}"), policy(i))).collect()
    }

    fn rank(&mut self, priorities: [i32; 2], observe_only: bool) {
        self.priorities = priorities;
        let policies = Three::policies(priorities, observe_only);
        self.mesh.set_policies(policies);
    }

    fn why(&self, index: usize) -> Explanation {
        self.mesh.explain(&service(index), &node(0)).unwrap()
    }

    fn load_rps(&self, index: usize, at: usize) -> f64 {
        let why = self.mesh.explain(&service(index), &node(at));
        why.map_or(0.0, |why| why.load_rps)
    }

    /// So many periods with so much of each service entering at node 0. Returns how busy its processors were in each.
    fn run(&mut self, periods: usize, enters_rps: [f64; 2]) -> Vec<f64> {
        let mut busy = Vec::new();
        for _ in 0..periods {
            for at in 0..3 {
                let loads = [0, 1].map(|index| self.load_rps(index, at));
                let asked = loads.iter().sum::<f64>() / ALONE_RPS;
                let (cpu_ratio, loads) = (asked.min(1.0), loads.map(|rps| rps / asked.max(1.0)));
                let seen = |index: usize| {
                    let mut seen = ServiceReport::idle(service(index));
                    seen.entered = if at == 0 { enters_rps[index] as u64 } else { 0 };
                    seen.completed = loads[index] as u64;
                    seen.latency_sum_us = seen.completed * 20_000;
                    seen.in_flight_mean_milli = (loads[index] * 20.0) as u64;
                    seen
                };
                let report = Report {
                    seq: 1,
                    window_us: PERIOD.as_micros() as u64,
                    clock_ms: 1_700_000_000_000,
                    cpu_ratio: Some(cpu_ratio),
                    neighbours: Vec::new(),
                    services: vec![seen(0), seen(1)],
                };
                self.mesh.on_report(&node(at), &report, self.now).unwrap();
                busy.extend((at == 0).then_some(cpu_ratio));
            }
            self.now += PERIOD;
            self.mesh.tick(self.now);
        }
        busy
    }

    /// What of each service's demand stays at node 0, by the row in force, in percent.
    fn home(&self) -> [u32; 2] {
        [0, 1].map(|index| self.why(index).row.home_ppm / 10_000)
    }
}

#[test]
fn when_processors_are_scarce_the_important_keeps_its_demand() {
    let mut three = Three::new([10, 0]);
    let before = three.run(10, [60.0, 60.0]);
    assert_eq!(three.home(), [100, 100]);
    assert!(before.iter().all(|busy| *busy < 0.9));
    // Together they now ask for more than the processors have.
    let busy = three.run(40, [60.0, 180.0]);
    let [pay, batch] = three.home();
    assert_eq!(pay, 100, "batch keeps {batch} %");
    assert!((20..75).contains(&batch), "batch keeps {batch} %");
    assert!(busy[15..].iter().all(|busy| *busy <= 0.95), "{busy:?}");
    let (pay, batch) = (three.why(0), three.why(1));
    assert_eq!((pay.capacity.priority, batch.capacity.priority), (10, 0));
    assert!(pay.capacity.planned_rps > 0.8 * ALONE_RPS, "{pay:?}");
    assert!(batch.capacity.cpu_factor < pay.capacity.cpu_factor);
    let because = |why: &Explanation| {
        let held = why.held_by.iter().find(|b| b.constraint == "priority");
        held.map(|b| b.because.clone()).unwrap_or_default()
    };
    assert!(
        because(&batch).contains("serve shop/pay (10) first"),
        "{batch:?}"
    );
    assert!(
        because(&pay).contains("taken from shop/batch (0) first"),
        "{pay:?}"
    );
    // The important one's demand grows: the other makes room in the very plan that hears of it.
    let had = three.why(1).capacity.planned_rps;
    three.run(1, [140.0, 180.0]);
    let has = three.why(1).capacity.planned_rps;
    assert!(has < had - 20.0, "{has}, and had {had}");
    let batch = three.why(1).capacity;
    assert!(batch.cpu_factor < batch.node_cpu_factor, "{batch:?}");
    assert_eq!(three.home()[0], 100);
    // It passes, and everything comes home.
    three.run(80, [60.0, 60.0]);
    assert_eq!(three.home(), [100, 100]);
    assert!(
        three
            .why(1)
            .held_by
            .iter()
            .all(|b| b.constraint != "priority")
    );
}

#[test]
fn services_of_one_priority_shrink_together() {
    let told = [[0, 0], [7, 7], [-100, -100]].map(|priorities| {
        let mut three = Three::new(priorities);
        three.run(5, [60.0, 60.0]);
        let busy = three.run(30, [110.0, 130.0]);
        let view = three.mesh.view();
        let mut seats = view.services.into_iter().flat_map(|s| s.nodes);
        let seats: Vec<_> = seats
            .by_ref()
            .map(|s| (s.capacity_rps.to_bits(), s.row))
            .collect();
        let [a, b] = [0, 1].map(|index| three.why(index).capacity);
        assert_eq!(a.cpu_factor.to_bits(), b.cpu_factor.to_bits());
        assert!(a.cpu_factor < 1.0 && a.cpu_factor == a.node_cpu_factor);
        assert!(
            three.home().iter().all(|kept| *kept < 100),
            "{:?}",
            three.home()
        );
        (busy, seats)
    });
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0], told[2]);
}

#[test]
fn what_only_observes_takes_nothing_and_a_fork_shows_what_a_priority_would_do() {
    let mut three = Three::new([0, 0]);
    three.run(40, [140.0, 110.0]);
    let was = three.home();
    assert!(was[0] < 100, "{was:?}");
    // What would be if pay came first.
    let mut before = three.mesh.fork();
    before.plan_at_once();
    let mut after = three.mesh.fork();
    after.set_policies(Three::policies([5, 0], false));
    after.plan_at_once();
    let why = |mesh: &ControlLoop, index| mesh.explain(&service(index), &node(0)).unwrap();
    assert!(why(&after, 0).capacity.planned_rps > why(&before, 0).capacity.planned_rps);
    assert!(why(&after, 1).capacity.planned_rps < why(&before, 1).capacity.planned_rps);
    assert_eq!(why(&after, 0).row.home_ppm, 1_000_000);
    let differs = difference(&before.view(), &after.view());
    let [pay, batch] = [0, 1].map(|index| {
        let seat = differs
            .seats
            .iter()
            .find(|s| s.service == service(index) && s.node == node(0));
        let seat = seat.unwrap();
        (seat.before.clone().unwrap(), seat.after.clone().unwrap())
    });
    assert!(pay.1.row.home_ppm > pay.0.row.home_ppm);
    assert!(batch.1.row.home_ppm < batch.0.row.home_ppm);
    assert_eq!(three.home(), was);
    // Policies that only observe have no rank.
    three.rank([5, 0], true);
    three.run(1, [140.0, 110.0]);
    let [pay, batch] = [0, 1].map(|index| three.why(index).capacity);
    assert_eq!((pay.priority, pay.cpu_factor), (0, batch.cpu_factor));
}
