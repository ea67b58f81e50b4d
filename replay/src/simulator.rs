//! A request's life, event by event.
//!
//! ```text
//! Arrive ─ place ─┬─ home ─────────── queue ─ worker ─ Done ──────────────► end
//!                 ├─ ask a neighbour ─ Ask ─ Answer ─ place again
//!                 ├─ move ─ Land ─┬─ queue ─ worker ─ Done ─ Back ────────► end
//!                 │               └─ refused ─ Back ─ place again
//!                 └─ cloud ─ Back ────────────────────────────────────────► end
//! ```
//!
//! A moved request pays half the round trip on each way. The queue before an
//! endpoint is bounded as in production: a request that finds it full is shed
//! at once, and one that has waited longer than it may is dropped when its
//! turn comes. Arrivals stop at the end of the run; what is under way then is
//! still served, so every request ends exactly once.
//!
//! Time is integer nanoseconds. The same options and seed give the same
//! numbers: nothing here asks a clock, draws entropy or walks a hash map.

use isobar_mesh_api::snapshot::QueueLimits;

use crate::field::{Field, mix};
use crate::load::Load;
use crate::measure::{Counted, Measure, Outcome};
use crate::options::{Options, WARM_UP_S};
use crate::policy::{Policy, Reply, Step};

pub(crate) mod arrivals;
pub(crate) mod calendar;
pub(crate) mod request;
pub(crate) mod station;

use arrivals::Arrivals;
use calendar::{Calendar, Event, What};
use request::{Fate, Moved, NONE, Request, Requests};
use station::Station;

/// Time between two looks at weights and loads, in nanoseconds.
pub(crate) const SAMPLE_NS: u64 = 100_000_000;

/// What a policy can see and do: the state of all nodes, the clock, a timer.
pub(crate) struct Mesh<'a> {
    /// Nanoseconds since the run's start.
    pub(crate) now_ns: u64,
    /// When arrivals stop; policies stop their timers then too.
    pub(crate) end_ns: u64,
    pub(crate) field: &'a Field,
    pub(crate) load: &'a Load,
    pub(crate) stations: Vec<Station>,
    /// For the policy's own draws.
    pub(crate) rng: fastrand::Rng,
    /// Round trip to the upstream of last resort; `None` = there is none.
    pub(crate) cloud_rtt_ns: Option<u64>,
    calendar: Calendar,
}

impl Mesh<'_> {
    /// Has the policy's [`Policy::on_event`] called with `id`, `delay_ns` from now.
    pub(crate) fn call_back(&mut self, delay_ns: u64, id: u32) {
        self.schedule(delay_ns, What::Policy, id);
    }

    /// Whether the run still has arrivals; periodic work stops when not.
    pub(crate) fn is_open(&self) -> bool {
        self.now_ns < self.end_ns
    }

    fn schedule(&mut self, delay_ns: u64, what: What, id: u32) {
        let at_ns = self.now_ns + delay_ns;
        self.calendar.push(Event { at_ns, what, id });
    }
}

/// One run: one policy, one seed.
pub(crate) struct Simulator<'a, P> {
    mesh: Mesh<'a>,
    policy: P,
    arrivals: Vec<Arrivals>,
    requests: Requests,
    measure: Measure,
    waiting_per_worker: f64,
    wait_max_ns: u64,
    own_first: bool,
}

impl<'a, P: Policy> Simulator<'a, P> {
    /// A run that has not begun.
    pub(crate) fn new(
        options: &Options,
        field: &'a Field,
        load: &'a Load,
        seed: u64,
        policy: P,
    ) -> Self {
        let limits = QueueLimits::default();
        let wait_max_ns = limits.wait_ms_max * 1_000_000;
        // A newcomer's wait is what waits before it, by workers: the longest queue that keeps to the limit.
        let waiting_per_worker =
            (wait_max_ns as f64 / field.service_ns).min(f64::from(limits.per_worker_max));
        let nodes = field.len() as u32;
        let end_ns = (options.duration_s() * 1e9) as u64;
        let expected_rps = options.base * field.total_rps();
        Simulator {
            mesh: Mesh {
                now_ns: 0,
                end_ns,
                field,
                load,
                stations: field.workers.iter().map(|&w| Station::new(w)).collect(),
                rng: fastrand::Rng::with_seed(mix(seed ^ 0x5eed)),
                cloud_rtt_ns: options.cloud_rtt_ms.map(|ms| (ms * 1e6) as u64),
                calendar: Calendar::new(2.5 * expected_rps),
            },
            own_first: policy.own_first(),
            policy,
            arrivals: (0..nodes).map(|node| Arrivals::new(node, seed)).collect(),
            requests: Requests::default(),
            measure: Measure::new(field, load, WARM_UP_S, end_ns),
            waiting_per_worker,
            wait_max_ns,
        }
    }

    /// Runs to the end and gives what was counted.
    pub(crate) fn run(mut self) -> Counted {
        self.policy.start(&mut self.mesh);
        for node in 0..self.arrivals.len() as u32 {
            self.await_arrival(node);
        }
        self.mesh.schedule(SAMPLE_NS, What::Sample, 0);
        while let Some(event) = self.mesh.calendar.pop() {
            debug_assert!(event.at_ns >= self.mesh.now_ns, "time runs forward");
            self.mesh.now_ns = event.at_ns;
            match event.what {
                What::Arrive => self.arrive(event.id),
                What::Done => self.done(event.id),
                What::Land => self.land(event.id),
                What::Back => self.back(event.id),
                What::Ask => self.ask(event.id),
                What::Answer => self.answer(event.id),
                What::Policy => self.policy.on_event(event.id, &mut self.mesh),
                What::Sample => self.sample(),
            }
        }
        debug_assert_eq!(self.requests.len(), 0, "every request ends");
        let planned_utilisation_max = self.policy.planned_utilisation_max();
        self.measure.finish(planned_utilisation_max)
    }

    fn await_arrival(&mut self, node: u32) {
        let mesh = &mut self.mesh;
        let next = self.arrivals[node as usize].next_ns(mesh.load, mesh.now_ns, mesh.end_ns);
        if let Some(at_ns) = next {
            mesh.schedule(at_ns - mesh.now_ns, What::Arrive, node);
        }
    }

    fn arrive(&mut self, home: u32) {
        let arrivals = &mut self.arrivals[home as usize];
        let hot = arrivals.is_hot();
        let service_ns = arrivals.service_ns(self.mesh.field.service_ns);
        self.await_arrival(home);
        let id = self.requests.insert(Request {
            entered_ns: self.mesh.now_ns,
            queued_ns: 0,
            service_ns,
            home,
            at: home,
            next: NONE,
            heard_in_flight: 0,
            heard_latency_us: 0,
            refusals: 0,
            moved: Moved::No,
            fate: Fate::Served,
            hot,
            needless: false,
        });
        self.measure.entered();
        let step = self.policy.place(home, &mut self.mesh);
        self.take_step(id, step);
    }

    fn take_step(&mut self, id: u32, step: Step) {
        let home = self.requests[id].home;
        match step {
            Step::Home => {
                self.requests[id].at = home;
                self.requests[id].moved = Moved::No;
                if !self.enqueue(home, id) {
                    self.end(id, Outcome::Shed);
                }
            }
            Step::Move { to, moved } => {
                let station = &self.mesh.stations[home as usize];
                let idle = station.in_flight() < station.workers;
                let request = &mut self.requests[id];
                request.at = to;
                request.moved = moved;
                request.needless = idle;
                request.fate = Fate::Served;
                let way_ns = self.mesh.field.rtt_ns(home, to) / 2;
                self.mesh.schedule(way_ns, What::Land, id);
            }
            Step::Ask { to } => {
                self.requests[id].at = to;
                let way_ns = self.mesh.field.rtt_ns(home, to) / 2;
                self.mesh.schedule(way_ns, What::Ask, id);
            }
            Step::Cloud => match self.mesh.cloud_rtt_ns {
                Some(rtt_ns) => {
                    let request = &mut self.requests[id];
                    request.moved = Moved::Cloud;
                    let delay_ns = rtt_ns + u64::from(request.service_ns);
                    self.mesh.schedule(delay_ns, What::Back, id);
                }
                None => self.end(id, Outcome::Shed),
            },
            Step::Shed => self.end(id, Outcome::Shed),
        }
    }

    /// Gives a request to a worker or lets it wait; `false` when the queue is full.
    fn enqueue(&mut self, at: u32, id: u32) -> bool {
        let now_ns = self.mesh.now_ns;
        let station = &mut self.mesh.stations[at as usize];
        if station.busy < station.workers {
            station.begin(now_ns);
            let service_ns = u64::from(self.requests[id].service_ns);
            self.mesh.schedule(service_ns, What::Done, id);
            return true;
        }
        let waiting_max = (self.waiting_per_worker * f64::from(station.workers)) as u32;
        if station.waiting >= self.policy.waiting_max(at, waiting_max, station.workers) {
            return false;
        }
        let first = !self.own_first || self.requests[id].home == at;
        self.requests[id].queued_ns = now_ns;
        station.push(id, first, &mut self.requests);
        true
    }

    fn done(&mut self, id: u32) {
        let request = self.requests[id];
        let now_ns = self.mesh.now_ns;
        let station = &mut self.mesh.stations[request.at as usize];
        station.finish(request.service_ns, now_ns);
        self.next_turn(request.at);
        if request.moved == Moved::No {
            let reply = Reply {
                latency_ns: now_ns - request.entered_ns,
                in_flight: 0,
                service_us: 0,
            };
            self.policy
                .responded(request.home, request.home, reply, &mut self.mesh);
            self.end(id, Outcome::Served);
        } else {
            self.send_back(id, Fate::Served);
        }
    }

    /// A worker is free: whose turn is it?
    fn next_turn(&mut self, at: u32) {
        let now_ns = self.mesh.now_ns;
        while let Some(id) = self.mesh.stations[at as usize].pop(&self.requests) {
            let request = self.requests[id];
            if now_ns - request.queued_ns <= self.wait_max_ns {
                self.mesh.stations[at as usize].begin(now_ns);
                self.mesh
                    .schedule(u64::from(request.service_ns), What::Done, id);
                return;
            }
            match request.moved {
                Moved::No => self.end(id, Outcome::Shed),
                _ => self.send_back(id, Fate::Dropped),
            }
        }
    }

    fn send_back(&mut self, id: u32, fate: Fate) {
        let request = &mut self.requests[id];
        let station = &self.mesh.stations[request.at as usize];
        request.fate = fate;
        request.heard_in_flight = station.in_flight();
        request.heard_latency_us = station.latency_us as u32;
        let way_ns = self.mesh.field.rtt_ns(request.home, request.at) / 2;
        self.mesh.schedule(way_ns, What::Back, id);
    }

    fn land(&mut self, id: u32) {
        let Request { home, at, .. } = self.requests[id];
        let taken = self.policy.admit(at, home, &mut self.mesh) && self.enqueue(at, id);
        if !taken {
            self.send_back(id, Fate::Refused);
        }
    }

    fn back(&mut self, id: u32) {
        let request = self.requests[id];
        if request.moved == Moved::Cloud {
            return self.end(id, Outcome::Served);
        }
        let reply = Reply {
            latency_ns: self.mesh.now_ns - request.entered_ns,
            in_flight: request.heard_in_flight,
            service_us: request.heard_latency_us,
        };
        match request.fate {
            Fate::Served => {
                self.policy
                    .responded(request.home, request.at, reply, &mut self.mesh);
                self.end(id, Outcome::Served);
            }
            Fate::Dropped => self.end(id, Outcome::Shed),
            Fate::Refused => {
                self.requests[id].refusals += 1;
                let tries = u32::from(request.refusals) + 1;
                let step =
                    self.policy
                        .refused(request.home, request.at, tries, reply, &mut self.mesh);
                self.take_step(id, step);
            }
        }
    }

    fn ask(&mut self, id: u32) {
        let request = &mut self.requests[id];
        request.heard_in_flight = self.mesh.stations[request.at as usize].in_flight();
        let way_ns = self.mesh.field.rtt_ns(request.home, request.at) / 2;
        self.mesh.schedule(way_ns, What::Answer, id);
    }

    fn answer(&mut self, id: u32) {
        let Request {
            home,
            at,
            heard_in_flight,
            ..
        } = self.requests[id];
        let step = self
            .policy
            .answered(home, at, heard_in_flight, &mut self.mesh);
        self.take_step(id, step);
    }

    fn end(&mut self, id: u32, outcome: Outcome) {
        let request = self.requests.remove(id);
        self.policy.ended(&request, outcome, &self.mesh);
        self.measure.ended(&request, outcome, self.mesh.now_ns);
    }

    fn sample(&mut self) {
        self.measure.sample(&mut self.mesh, &self.policy);
        if self.mesh.is_open() {
            self.mesh.schedule(SAMPLE_NS, What::Sample, 0);
        }
    }
}

#[cfg(test)]
mod tests;
