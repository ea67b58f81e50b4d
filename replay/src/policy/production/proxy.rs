//! One node's proxy: what the program around the pure modules keeps.

use std::time::Duration;

use isobar_edge_proxy::alert::Alert;
use isobar_edge_proxy::credit::{Admission, CreditBook};
use isobar_edge_proxy::decay::decay;
use isobar_edge_proxy::neighbour_load::NeighbourLoad;
use isobar_edge_proxy::pick::{Cause, Choice, Memory, Now, Route};
use isobar_edge_proxy::shed;

use isobar_mesh_api::hop::LoadHint;
use isobar_mesh_api::names::ServiceName;
use isobar_mesh_api::report::{MovedIn, MovedOut, NeighbourReport, Report, ServiceReport};
use isobar_mesh_api::snapshot::{Delta, PlanId, QueueLimits, Row, Snapshot, SnapshotError};

use crate::measure::Outcome;
use crate::simulator::Mesh;
use crate::simulator::request::Moved;

/// Time between two rounds of probes while home is busy, in nanoseconds.
const PROBE_NS: u64 = 25_000_000;
/// The wall clock at the start of a run, milliseconds since 1970: some day in 2027.
const CLOCK_MS: u64 = 1_800_000_000_000;

#[derive(Debug, Clone, Copy, Default)]
struct Out {
    to: u32,
    plan: u64,
    spill: u64,
    refused: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct In {
    home: u32,
    accepted: u64,
    refused: u64,
}

/// Counters of one report window.
#[derive(Debug, Default)]
struct Counts {
    entered: u64,
    served_home: u64,
    shed: u64,
    out: Vec<Out>,
    taken: Vec<In>,
}

/// One node's proxy.
pub(super) struct Proxy {
    node: u32,
    service: ServiceName,
    snapshot: Option<Snapshot>,
    /// Field index by index of the snapshot's neighbours.
    near: Vec<u32>,
    /// The row that holds now, decay included.
    row: Row,
    share_left: f64,
    route: Route,
    memory: Memory,
    loads: NeighbourLoad,
    book: CreditBook,
    heard_ns: u64,
    probed_ns: Option<u64>,
    alert: Alert,
    counts: Counts,
    window_from_ns: u64,
    seq: u64,
}

impl Proxy {
    /// A proxy without a plan.
    pub(super) fn new(node: u32, service: &ServiceName) -> Proxy {
        Proxy {
            node,
            service: service.clone(),
            snapshot: None,
            near: Vec::new(),
            row: Row::home(),
            share_left: 1.0,
            route: Route::home_only(),
            memory: Memory::default(),
            loads: NeighbourLoad::default(),
            book: CreditBook::default(),
            heard_ns: 0,
            probed_ns: None,
            alert: Alert::default(),
            counts: Counts::default(),
            window_from_ns: 0,
            seq: 0,
        }
    }

    pub(super) fn plan(&self) -> Option<PlanId> {
        self.snapshot.as_ref().map(|snapshot| snapshot.plan)
    }

    pub(super) fn heard_ns(&self) -> u64 {
        self.heard_ns
    }

    pub(super) fn window_from_ns(&self) -> u64 {
        self.window_from_ns
    }

    /// Notes the last word from the controller.
    pub(super) fn hear(&mut self, word_ns: u64, deaf: bool) {
        if !deaf {
            self.heard_ns = self.heard_ns.max(word_ns);
        }
    }

    /// Takes a whole snapshot.
    pub(super) fn apply(&mut self, next: Snapshot, mesh: &Mesh<'_>) -> Result<(), SnapshotError> {
        next.check()?;
        if let Some(have) = &self.snapshot
            && next.plan < have.plan
        {
            return Err(SnapshotError::Old {
                offered: next.plan,
                have: have.plan,
            });
        }
        self.adopt(next, mesh);
        Ok(())
    }

    /// Takes a change of the snapshot it has.
    pub(super) fn apply_delta(
        &mut self,
        delta: Delta,
        mesh: &Mesh<'_>,
    ) -> Result<(), SnapshotError> {
        let Some(have) = &self.snapshot else {
            return Err(SnapshotError::Base {
                base: delta.base,
                have: PlanId::default(),
            });
        };
        let next = have.apply(delta)?;
        self.adopt(next, mesh);
        Ok(())
    }

    fn adopt(&mut self, next: Snapshot, mesh: &Mesh<'_>) {
        let before = self.snapshot.as_ref().map(|s| s.neighbours.as_slice());
        if before != Some(next.neighbours.as_slice()) {
            let index = |n: &isobar_mesh_api::snapshot::Neighbour| mesh.field.index_of(&n.node);
            let near: Vec<u32> = next.neighbours.iter().filter_map(index).collect();
            if near != self.near {
                self.loads = NeighbourLoad::new(near.len());
                self.near = near;
            }
        }
        self.heard_ns = mesh.now_ns;
        self.share_left = 1.0;
        self.snapshot = Some(next);
        if let Some(plan) = self.service_plan() {
            self.book = CreditBook::new(&plan.credits, Some(&self.book));
        }
        self.rebuild_route();
    }

    fn service_plan(&self) -> Option<&isobar_mesh_api::snapshot::ServicePlan> {
        let snapshot = self.snapshot.as_ref()?;
        snapshot
            .services
            .iter()
            .find(|plan| plan.service == self.service)
    }

    /// Lets the weights decay to this share of the plan's moves.
    pub(super) fn set_share_left(&mut self, share_left: f64) {
        if share_left != self.share_left {
            self.share_left = share_left;
            self.rebuild_route();
        }
    }

    fn rebuild_route(&mut self) {
        let Some(snapshot) = &self.snapshot else {
            return;
        };
        match snapshot
            .services
            .iter()
            .find(|plan| plan.service == self.service)
        {
            Some(plan) => {
                self.row = decay(&plan.row, self.share_left);
                self.route = Route::with_row(plan, &self.row, &snapshot.neighbours);
            }
            None => {
                self.row = Row::home();
                self.route = Route::home_only();
            }
        }
    }

    /// Whether neighbours should be asked for their load now.
    pub(super) fn probe_is_due(&mut self, now_ns: u64) -> bool {
        let due = self
            .probed_ns
            .is_none_or(|at_ns| now_ns - at_ns >= PROBE_NS);
        if due {
            self.probed_ns = Some(now_ns);
        }
        due
    }

    pub(super) fn spill_len(&self) -> usize {
        self.route.spill().count()
    }

    /// The `n`-th node that a request may spill to.
    pub(super) fn spill(&self, n: usize) -> u32 {
        self.route
            .spill()
            .nth(n)
            .map_or(self.node, |i| self.near[i])
    }

    pub(super) fn pick(&mut self, own: LoadHint, mesh: &mut Mesh<'_>) -> Choice {
        self.counts.entered += 1;
        let now = Now {
            home: own,
            neighbours: &self.loads,
            now_us: mesh.now_ns / 1000,
        };
        self.route.pick(&now, &mut self.memory, &mut mesh.rng)
    }

    /// Whether a spike began here that the controller should hear of now; if so, the time from now until the report that
    /// holds its beginning, in nanoseconds.
    pub(super) fn spike_began(&mut self, now_ns: u64, period: Duration) -> Option<u64> {
        let now = Duration::from_nanos(now_ns);
        let tell = self.memory.take_onset() && self.alert.on_onset(now, period);
        let due_at = self.alert.due_at().filter(|_| tell)?;
        Some(due_at.saturating_sub(now).as_nanos() as u64)
    }

    pub(super) fn spike_told(&mut self) {
        self.alert.on_reported();
    }

    /// `by` refused: one other or home (`None`).
    pub(super) fn refused(
        &mut self,
        by: u32,
        tries: u32,
        own: LoadHint,
        mesh: &mut Mesh<'_>,
    ) -> Option<Choice> {
        self.out(by).refused += 1;
        let refused = self.near.iter().position(|&node| node == by)?;
        if tries > 1 {
            return None;
        }
        let now = Now {
            home: own,
            neighbours: &self.loads,
            now_us: mesh.now_ns / 1000,
        };
        Some(self.route.pick_again(refused, &now, &mut mesh.rng))
    }

    /// Notes that a request leaves for a neighbour; gives its field index.
    pub(super) fn sent(&mut self, neighbour: usize, cause: Cause) -> u32 {
        self.loads.sent(neighbour);
        let to = self.near[neighbour];
        let out = self.out(to);
        match cause {
            Cause::Plan => out.plan += 1,
            Cause::Spill => out.spill += 1,
        }
        to
    }

    fn out(&mut self, to: u32) -> &mut Out {
        let out = &mut self.counts.out;
        let at = out.iter().position(|o| o.to == to).unwrap_or_else(|| {
            out.push(Out {
                to,
                ..Out::default()
            });
            out.len() - 1
        });
        &mut out[at]
    }

    pub(super) fn heard(&mut self, from: u32, hint: LoadHint, now_ns: u64) {
        if let Some(i) = self.near.iter().position(|&node| node == from) {
            self.loads.heard(i, hint, now_ns / 1000);
        }
    }

    pub(super) fn admit(&mut self, home: u32, own: LoadHint, mesh: &Mesh<'_>) -> bool {
        let name = &mesh.field.names[home as usize];
        let taken = self.book.admit(name, own, mesh.now_ns / 1000) == Admission::Take;
        let list = &mut self.counts.taken;
        let at = list.iter().position(|i| i.home == home).unwrap_or_else(|| {
            list.push(In {
                home,
                ..In::default()
            });
            list.len() - 1
        });
        if taken {
            list[at].accepted += 1;
        } else {
            list[at].refused += 1;
        }
        taken
    }

    pub(super) fn ended(&mut self, moved: Moved, outcome: Outcome) {
        match (outcome, moved) {
            (Outcome::Shed, _) => self.counts.shed += 1,
            (Outcome::Served, Moved::No) => self.counts.served_home += 1,
            (Outcome::Served, _) => {}
        }
    }

    /// Ends the window and gives its report.
    pub(super) fn report(&mut self, mesh: &mut Mesh<'_>) -> Report {
        let now_ns = mesh.now_ns;
        let counts = std::mem::take(&mut self.counts);
        let station = &mut mesh.stations[self.node as usize];
        let window = station.take_window(now_ns);
        let window_ns = (now_ns - self.window_from_ns).max(1);
        let (in_flight, backlog) = (station.in_flight(), station.waiting_own);
        self.window_from_ns = now_ns;
        self.seq += 1;
        let name = |node: u32| mesh.field.names[node as usize].clone();
        let moved_out = |o: &Out| MovedOut {
            to: name(o.to),
            plan: o.plan,
            spill: o.spill,
            refused: o.refused,
        };
        let moved_in = |i: &In| MovedIn {
            home: name(i.home),
            accepted: i.accepted,
            refused: i.refused,
        };
        let rtt = |&node: &u32| NeighbourReport {
            node: name(node),
            rtt_us: mesh.field.rtt_ns(self.node, node) / 1000,
        };
        Report {
            seq: self.seq,
            window_us: window_ns / 1000,
            clock_ms: CLOCK_MS + now_ns / 1_000_000,
            cpu_ratio: None,
            services: vec![ServiceReport {
                entered: counts.entered,
                served_home: counts.served_home,
                shed: counts.shed,
                moved_out: counts.out.iter().map(moved_out).collect(),
                moved_in: counts.taken.iter().map(moved_in).collect(),
                completed: window.completed,
                latency_sum_us: window.latency_sum_us,
                latency_min_us: window.latency_min_us,
                in_flight_mean_milli: window.busy_ns * 1000 / window_ns,
                in_flight: u64::from(in_flight),
                backlog: u64::from(backlog),
                ..ServiceReport::idle(self.service.clone())
            }],
            neighbours: self.near.iter().map(rtt).collect(),
        }
    }

    /// Most requests that may wait here, of `workers` workers, while the present row is in force.
    pub(super) fn waiting_max(&self, waiting_max: u32, workers: u32) -> u32 {
        let limits = shed::limits(QueueLimits::default(), &self.row, workers);
        waiting_max.min(limits.per_worker_max.saturating_mul(workers))
    }

    /// Appends the weights that hold now, home first.
    pub(super) fn weights(&self, home: u32, row: &mut Vec<(u32, u32)>) {
        row.push((home, self.row.home_ppm));
        let neighbours = self
            .snapshot
            .as_ref()
            .map_or(&[][..], |s| s.neighbours.as_slice());
        for to in &self.row.moves {
            if let Some(i) = neighbours.iter().position(|n| n.node == to.to)
                && let Some(&node) = self.near.get(i)
            {
                row.push((node, to.weight_ppm));
            }
        }
    }
}
