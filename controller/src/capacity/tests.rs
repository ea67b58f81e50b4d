use super::*;
use isobar_mesh_api::names::ServiceName;

const WINDOW: Duration = Duration::from_secs(1);
const WORKERS: u32 = 4;
const SERVICE_S: f64 = 0.02;
const TRUE_RPS: f64 = 200.0;

fn exponential(rng: &mut fastrand::Rng, mean: f64) -> f64 {
    -(1.0 - rng.f64()).ln() * mean
}

/// Four workers with exponential times behind one queue. A request that finds `2 × workers` at the node is spilled.
struct Endpoints {
    rng: fastrand::Rng,
    now_s: f64,
    next_arrival_s: f64,
    /// When the busy workers finish, and when they began.
    busy: Vec<(f64, f64)>,
    waiting: std::collections::VecDeque<f64>,
    longest_wait_s: f64,
}

impl Endpoints {
    fn new(seed: u64) -> Endpoints {
        Endpoints {
            rng: fastrand::Rng::with_seed(seed),
            now_s: 0.0,
            next_arrival_s: 0.0,
            busy: Vec::new(),
            waiting: std::collections::VecDeque::new(),
            longest_wait_s: 0.0,
        }
    }

    fn start(&mut self) {
        let takes_s = exponential(&mut self.rng, SERVICE_S);
        self.busy.push((self.now_s + takes_s, self.now_s));
    }

    fn window(&mut self, rate_rps: f64) -> ServiceReport {
        let end_s = self.now_s + WINDOW.as_secs_f64();
        let mut seen = ServiceReport::idle(ServiceName::new("shop/cart").unwrap());
        let (mut area, mut latency_s) = (0.0, 0.0);
        self.next_arrival_s = self.now_s + exponential(&mut self.rng, 1.0 / rate_rps);
        loop {
            let done_s = self.busy.iter().map(|b| b.0).fold(f64::INFINITY, f64::min);
            let next_s = done_s.min(self.next_arrival_s).min(end_s);
            area += (next_s - self.now_s) * self.busy.len() as f64;
            self.now_s = next_s;
            if next_s == end_s {
                break;
            } else if next_s == done_s {
                let at = self.busy.iter().position(|b| b.0 == done_s).unwrap();
                latency_s += done_s - self.busy.swap_remove(at).1;
                seen.completed += 1;
                if let Some(since_s) = self.waiting.pop_front() {
                    self.longest_wait_s = self.longest_wait_s.max(self.now_s - since_s);
                    self.start();
                }
            } else {
                seen.entered += 1;
                if self.busy.len() < WORKERS as usize {
                    self.start();
                } else if self.waiting.len() < WORKERS as usize {
                    self.waiting.push_back(self.now_s);
                }
                self.next_arrival_s = self.now_s + exponential(&mut self.rng, 1.0 / rate_rps);
            }
        }
        seen.latency_sum_us = (latency_s * 1e6) as u64;
        seen.in_flight_mean_milli = (area / WINDOW.as_secs_f64() * 1e3) as u64;
        seen.in_flight = (self.busy.len() + self.waiting.len()) as u64;
        seen.backlog = self.waiting.len() as u64;
        seen
    }
}

fn learning(start_rps: f64) -> Configured {
    Configured {
        workers: WORKERS,
        up_share: 1.0,
        declared_rps: Some(start_rps),
        source: CapacitySource::Learned,
    }
}

#[test]
fn learns_from_too_high_and_too_low_without_failures() {
    for seed in 0..20 {
        for start in [0.7, 1.0, 1.3] {
            // What is offered beyond the plan's ceiling is planned elsewhere.
            for offered_rps in [120.0, 170.0, 1000.0] {
                let configured = learning(start * TRUE_RPS);
                let mut endpoints = Endpoints::new(seed);
                let mut capacity = Capacity::default();
                for period in 0..60 {
                    let planned_rps = 0.95 * capacity.figure(configured).0;
                    let seen = endpoints.window(f64::min(offered_rps, planned_rps));
                    let before_rps = capacity.figure(configured).0;
                    capacity.observe(&seen, WINDOW, configured);
                    let (rps, obtained) = capacity.figure(configured);
                    let case = format!(
                        "seed {seed}, start {start}, offered {offered_rps}, period {period}"
                    );
                    assert_eq!(obtained, Obtained::Learned, "{case}");
                    let served_rps = capacity.served_rps();
                    assert!(
                        (0.899..1.101).contains(&(rps / before_rps)) || rps == served_rps,
                        "{case}: {rps}"
                    );
                    if period >= 15 {
                        assert!((0.87..1.13).contains(&(rps / TRUE_RPS)), "{case}: {rps}");
                    }
                }
                assert!(
                    endpoints.longest_wait_s < 0.5,
                    "seed {seed}: waited {} s",
                    endpoints.longest_wait_s
                );
            }
        }
    }
}

#[test]
fn workers_that_were_never_there_are_found_out() {
    // Sixteen are configured, four work; the other twelve requests queue inside.
    let configured = Configured {
        workers: 16,
        ..learning(800.0)
    };
    let mut capacity = Capacity::default();
    let mut seen = ServiceReport::idle(ServiceName::new("shop/cart").unwrap());
    seen.completed = 100;
    seen.latency_sum_us = 100 * 20_000;
    seen.in_flight_mean_milli = 2_000;
    capacity.observe(&seen, WINDOW, configured);
    seen.completed = 200;
    seen.latency_sum_us = 200 * 80_000;
    seen.in_flight_mean_milli = 16_000;
    for _ in 0..25 {
        capacity.observe(&seen, WINDOW, configured);
    }
    let rps = capacity.figure(configured).0;
    assert!((190.0..215.0).contains(&rps), "{rps}");
}

#[test]
fn an_idle_node_teaches_nothing() {
    let configured = learning(260.0);
    let mut endpoints = Endpoints::new(7);
    let mut capacity = Capacity::default();
    for _ in 0..50 {
        let seen = endpoints.window(50.0);
        capacity.observe(&seen, WINDOW, configured);
    }
    assert_eq!(capacity.figure(configured), (260.0, Obtained::Learned));
}

#[test]
fn declared_before_reported_before_learned_before_assumed() {
    let mut configured = Configured {
        workers: WORKERS,
        up_share: 1.0,
        declared_rps: None,
        source: CapacitySource::Auto,
    };
    let mut capacity = Capacity::default();
    assert_eq!(capacity.figure(configured), (40.0, Obtained::Assumed));
    let mut endpoints = Endpoints::new(1);
    let mut seen = endpoints.window(100.0);
    capacity.observe(&seen, WINDOW, configured);
    assert_eq!(capacity.figure(configured).1, Obtained::Learned);
    seen.orca_capacity_rps = Some(180.0);
    capacity.observe(&seen, WINDOW, configured);
    assert_eq!(capacity.figure(configured), (180.0, Obtained::Reported));
    configured.declared_rps = Some(190.0);
    assert_eq!(capacity.figure(configured), (190.0, Obtained::Declared));
    configured.up_share = 0.5;
    assert_eq!(capacity.figure(configured).0, 95.0);
    assert!(capacity.hold(configured, 1.0));
    assert_eq!(capacity.held_rps(), 95.0);
    configured.declared_rps = None;
    assert_eq!(capacity.figure(configured).0, 90.0);
    configured.workers = 0;
    assert_eq!(capacity.figure(configured).0, 0.0);
}

#[test]
fn the_held_figure_rests_within_noise() {
    let configured = learning(200.0);
    let mut endpoints = Endpoints::new(3);
    let mut capacity = Capacity::default();
    let mut changes = 0;
    for _ in 0..300 {
        let seen = endpoints.window(150.0);
        capacity.observe(&seen, WINDOW, configured);
        changes += usize::from(capacity.hold(configured, 1.0));
    }
    assert!(changes <= 30, "{changes}");
    assert!((180.0..220.0).contains(&capacity.held_rps()));
}
