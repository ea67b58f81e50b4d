//! Isobar itself: the production control loop and the production proxy code.
//!
//! ```text
//! proxy (one per node) ── report, lag/2 ──► control loop, one tick a period
//!                      ◄── snapshot or delta, lag/2 ──
//! ```
//!
//! Nothing here decides: the control loop plans, the proxies' own modules
//! pick, spread, admit and decay. This module carries messages between them
//! with the delays and losses that the options ask for, and keeps what the
//! program around those modules keeps in production.

use std::time::Duration;

use isobar_controller::control_loop::{ControlLoop, NodeSeat, StoredPlan};
use isobar_edge_proxy::alert::is_too_short;
use isobar_edge_proxy::decay::share_left;
use isobar_edge_proxy::pick::{Cause, Choice};
use isobar_mesh_api::hop::LoadHint;
use isobar_mesh_api::message::{Down, Hello, PROTOCOL_VERSION};
use isobar_mesh_api::names::ServiceName;
use isobar_mesh_api::report::Report;
use isobar_mesh_api::resource::{ServiceSpec, WeightPolicySpec};
use isobar_mesh_api::snapshot::{PlanId, SnapshotError};

use super::{Policy, Reply, Step};
use crate::field::Field;
use crate::measure::Outcome;
use crate::options::{Options, PolicyName, Silence, WARM_UP_S};
use crate::simulator::Mesh;
use crate::simulator::request::{Moved, Request};

mod proxy;
mod spec;

use proxy::Proxy;
use spec::{service_spec, weight_policy};

/// The one service that everybody asks for.
const SERVICE: &str = "replay/app";
/// Where the controller's clock stands when a run begins: away from 0, where "never" is.
const CLOCK_START: Duration = Duration::from_secs(1_000);
/// A proxy that could not report this long begins a new window.
const WINDOW_NS_MAX: u64 = 60_000_000_000;

/// Something under way between programs, or a timer.
#[derive(Debug)]
enum Pending {
    ReportTimer(u32),
    /// The report with a spike's beginning is due.
    SpikeReport(u32),
    Report(u32, Box<Report>),
    Tick,
    Push(u32, Box<Down>),
    Acked(u32, PlanId),
    Refused(u32, PlanId),
    /// A probe reaches `to`.
    Probe {
        home: u32,
        to: u32,
    },
    /// Its answer reaches `home`.
    Probed {
        home: u32,
        from: u32,
        hint: LoadHint,
    },
    ControllerDies,
    ControllerReturns,
}

/// The whole of Isobar over one field.
pub(crate) struct Production {
    control: Option<ControlLoop>,
    stored: Option<StoredPlan>,
    epoch: u64,
    period: Duration,
    way_ns: u64,
    report_loss: f64,
    down_ns: Option<(u64, u64)>,
    silences: Vec<Silence>,
    service: ServiceName,
    spec: ServiceSpec,
    weight_policy: WeightPolicySpec,
    proxies: Vec<Proxy>,
    /// When proxies last heard of the controller, in nanoseconds since the run's start.
    word_ns: u64,
    pending: Vec<Option<Pending>>,
    free: Vec<u32>,
    utilisation_max: f64,
    rng: fastrand::Rng,
}

impl Production {
    /// Isobar with the planner that `policy` names.
    pub(crate) fn new(options: &Options, field: &Field, policy: PolicyName, seed: u64) -> Self {
        let period = Duration::from_millis(options.period_ms);
        let to_ns = |s: f64| ((WARM_UP_S + s).min(1e9) * 1e9) as u64;
        let down = options.controller_down.as_ref();
        let service = ServiceName::new(SERVICE).expect("a constant name");
        Production {
            control: None,
            stored: None,
            epoch: 1,
            period,
            way_ns: (options.lag_ms * 0.5e6) as u64,
            report_loss: options.report_loss,
            down_ns: down.map(|span| (to_ns(span.start), to_ns(span.end))),
            silences: options.silences.clone(),
            spec: service_spec(options, field),
            weight_policy: weight_policy(options, field, policy),
            proxies: (0..field.len() as u32)
                .map(|node| Proxy::new(node, &service))
                .collect(),
            service,
            word_ns: 0,
            pending: Vec::new(),
            free: Vec::new(),
            utilisation_max: 0.0,
            rng: fastrand::Rng::with_seed(seed ^ 0x1507),
        }
    }

    fn after(&mut self, delay_ns: u64, pending: Pending, mesh: &mut Mesh<'_>) {
        let id = match self.free.pop() {
            Some(id) => {
                self.pending[id as usize] = Some(pending);
                id
            }
            None => {
                self.pending.push(Some(pending));
                (self.pending.len() - 1) as u32
            }
        };
        mesh.call_back(delay_ns, id);
    }

    /// A controller that knows the field and continues from the stored plan, if there is one.
    fn start_controller(&mut self, mesh: &Mesh<'_>) {
        let now = clock(mesh);
        let mut control = ControlLoop::new(self.epoch, self.period);
        for (name, &position) in mesh.field.names.iter().zip(&mesh.field.positions) {
            let seat = NodeSeat {
                position: Some(position),
                mesh_address: mesh_address(name.as_str()),
                ..NodeSeat::default()
            };
            control.set_node(name.clone(), seat);
        }
        control.set_service(self.service.clone(), self.spec.clone());
        control.set_policies(vec![("replay".to_owned(), self.weight_policy.clone())]);
        if let Some(stored) = self.stored.take() {
            control.restore_plan(stored);
        }
        for node in 0..mesh.field.len() as u32 {
            if !self.is_silent(node, mesh.now_ns) {
                control.on_hello(&self.hello(node, mesh), now);
            }
        }
        self.control = Some(control);
        self.epoch += 1;
    }

    fn hello(&self, node: u32, mesh: &Mesh<'_>) -> Hello {
        let name = &mesh.field.names[node as usize];
        Hello {
            protocol: PROTOCOL_VERSION,
            node: name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mesh_address: mesh_address(name.as_str()),
            location: None,
            site: None,
            region: None,
            services: Vec::new(),
            plan: self.proxies[node as usize].plan(),
        }
    }

    fn is_silent(&self, node: u32, now_ns: u64) -> bool {
        let at_s = now_ns as f64 / 1e9 - WARM_UP_S;
        let covers = |s: &Silence| s.node == node && s.span_s.contains(&at_s);
        self.silences.iter().any(covers)
    }

    fn report_due(&mut self, node: u32, mesh: &mut Mesh<'_>) {
        if mesh.is_open() {
            let period_ns = self.period.as_nanos() as u64;
            self.after(period_ns, Pending::ReportTimer(node), mesh);
        }
        let window_ns = mesh.now_ns - self.proxies[node as usize].window_from_ns();
        if !is_too_short(Duration::from_nanos(window_ns), self.period) {
            self.report(node, mesh);
        }
    }

    fn report(&mut self, node: u32, mesh: &mut Mesh<'_>) {
        let silent = self.is_silent(node, mesh.now_ns);
        let proxy = &mut self.proxies[node as usize];
        // The last word everybody heard, unless the node was deaf.
        proxy.hear(self.word_ns, silent);
        let quiet = Duration::from_nanos(mesh.now_ns.saturating_sub(proxy.heard_ns()));
        proxy.set_share_left(share_left(quiet, self.period));
        if silent || self.control.is_none() {
            // Counters wait for the next stream, as far as a window may reach back.
            if mesh.now_ns - proxy.window_from_ns() > WINDOW_NS_MAX {
                proxy.report(mesh);
            }
            return;
        }
        let report = proxy.report(mesh);
        if self.report_loss > 0.0 && self.rng.f64() < self.report_loss {
            return;
        }
        self.after(self.way_ns, Pending::Report(node, Box::new(report)), mesh);
    }

    fn tick(&mut self, mesh: &mut Mesh<'_>) {
        if mesh.is_open() {
            self.after(self.period.as_nanos() as u64, Pending::Tick, mesh);
        }
        let Some(control) = &mut self.control else {
            return;
        };
        let tick = control.tick(clock(mesh));
        if mesh.now_ns >= (WARM_UP_S * 1e9) as u64 {
            let planned = planned_utilisation(control);
            self.utilisation_max = self.utilisation_max.max(planned);
        }
        // A push or a ping reaches everybody.
        self.word_ns = mesh.now_ns + self.way_ns;
        for (name, down) in tick.pushes {
            if let Some(node) = mesh.field.index_of(&name)
                && !self.is_silent(node, mesh.now_ns)
            {
                self.after(self.way_ns, Pending::Push(node, Box::new(down)), mesh);
            }
        }
    }

    fn pushed(&mut self, node: u32, down: Down, mesh: &mut Mesh<'_>) {
        let proxy = &mut self.proxies[node as usize];
        let answer: Result<PlanId, (PlanId, SnapshotError)> = match down {
            Down::Snapshot(snapshot) => {
                let plan = snapshot.plan;
                proxy
                    .apply(snapshot, mesh)
                    .map(|()| plan)
                    .map_err(|error| (plan, error))
            }
            Down::Delta(delta) => {
                let plan = delta.plan;
                proxy
                    .apply_delta(delta, mesh)
                    .map(|()| plan)
                    .map_err(|error| (plan, error))
            }
            Down::Certificate(_)
            | Down::Trust(_)
            | Down::Ping { .. }
            | Down::Tap(_)
            | Down::Untap { .. }
            | Down::Errand(_)
            | Down::Unknown => return,
        };
        let answer = match answer {
            Ok(plan) => Pending::Acked(node, plan),
            Err((plan, _)) => Pending::Refused(node, plan),
        };
        self.after(self.way_ns, answer, mesh);
    }

    /// Asks all neighbours that a request may spill to, if it is time to.
    fn probe(&mut self, home: u32, mesh: &mut Mesh<'_>) {
        if !self.proxies[home as usize].probe_is_due(mesh.now_ns) {
            return;
        }
        for n in 0..self.proxies[home as usize].spill_len() {
            let to = self.proxies[home as usize].spill(n);
            let way_ns = mesh.field.rtt_ns(home, to) / 2;
            self.after(way_ns, Pending::Probe { home, to }, mesh);
        }
    }

    fn step(choice: Choice, proxy: &mut Proxy) -> Step {
        match choice {
            Choice::Home => Step::Home,
            Choice::Cloud => Step::Cloud,
            Choice::Move { neighbour, cause } => {
                let moved = match cause {
                    Cause::Plan => Moved::Plan,
                    Cause::Spill => Moved::Spill,
                };
                Step::Move {
                    to: proxy.sent(neighbour, cause),
                    moved,
                }
            }
        }
    }
}

impl Policy for Production {
    fn start(&mut self, mesh: &mut Mesh<'_>) {
        self.start_controller(mesh);
        let period_ns = self.period.as_nanos() as u64;
        for node in 0..mesh.field.len() as u32 {
            let phase_ns = self.rng.u64(1..=period_ns);
            self.after(phase_ns, Pending::ReportTimer(node), mesh);
        }
        self.after(0, Pending::Tick, mesh);
        if let Some((from_ns, until_ns)) = self.down_ns {
            self.after(from_ns, Pending::ControllerDies, mesh);
            if until_ns < mesh.end_ns {
                self.after(until_ns, Pending::ControllerReturns, mesh);
            }
        }
    }

    fn place(&mut self, home: u32, mesh: &mut Mesh<'_>) -> Step {
        let own = hint(home, mesh);
        if own.in_flight > own.workers {
            self.probe(home, mesh);
        }
        let proxy = &mut self.proxies[home as usize];
        let choice = proxy.pick(own, mesh);
        let step = Self::step(choice, proxy);
        if let Some(due_ns) = self.proxies[home as usize].spike_began(mesh.now_ns, self.period) {
            self.report(home, mesh);
            self.after(due_ns, Pending::SpikeReport(home), mesh);
        }
        step
    }

    fn admit(&mut self, at: u32, home: u32, mesh: &mut Mesh<'_>) -> bool {
        let own = hint(at, mesh);
        self.proxies[at as usize].admit(home, own, mesh)
    }

    fn waiting_max(&self, at: u32, waiting_max: u32, workers: u32) -> u32 {
        let proxy = &self.proxies[at as usize];
        proxy.waiting_max(waiting_max, workers)
    }

    fn refused(&mut self, home: u32, by: u32, tries: u32, _: Reply, mesh: &mut Mesh<'_>) -> Step {
        let own = hint(home, mesh);
        let proxy = &mut self.proxies[home as usize];
        match proxy.refused(by, tries, own, mesh) {
            Some(choice) => Self::step(choice, proxy),
            None => Step::Home,
        }
    }

    fn responded(&mut self, home: u32, by: u32, reply: Reply, mesh: &mut Mesh<'_>) {
        if by != home {
            let hint = LoadHint {
                in_flight: reply.in_flight,
                workers: mesh.field.workers[by as usize],
                latency_us: reply.service_us,
            };
            self.proxies[home as usize].heard(by, hint, mesh.now_ns);
        }
    }

    fn ended(&mut self, request: &Request, outcome: Outcome, _mesh: &Mesh<'_>) {
        self.proxies[request.home as usize].ended(request.moved, outcome);
    }

    fn on_event(&mut self, id: u32, mesh: &mut Mesh<'_>) {
        let Some(pending) = self.pending[id as usize].take() else {
            return;
        };
        self.free.push(id);
        let now = clock(mesh);
        let name = |node: u32| &mesh.field.names[node as usize];
        match pending {
            Pending::ReportTimer(node) => self.report_due(node, mesh),
            Pending::SpikeReport(node) => {
                self.proxies[node as usize].spike_told();
                self.report(node, mesh);
            }
            Pending::Tick => self.tick(mesh),
            Pending::Push(node, down) => self.pushed(node, *down, mesh),
            Pending::Probe { home, to } => {
                let (hint, way_ns) = (hint(to, mesh), mesh.field.rtt_ns(home, to) / 2);
                self.after(
                    way_ns,
                    Pending::Probed {
                        home,
                        from: to,
                        hint,
                    },
                    mesh,
                );
            }
            Pending::Probed { home, from, hint } => {
                self.proxies[home as usize].heard(from, hint, mesh.now_ns);
            }
            Pending::Report(node, report) => {
                if let Some(control) = &mut self.control {
                    // A refused report is counted by the control loop; the proxy does not hear of it.
                    let _ = control.on_report(name(node), &report, now);
                }
            }
            Pending::Acked(node, plan) => {
                if let Some(control) = &mut self.control {
                    control.on_ack(name(node), plan);
                }
            }
            Pending::Refused(node, plan) => {
                if let Some(control) = &mut self.control {
                    control.on_nack(name(node), plan);
                }
            }
            Pending::ControllerDies => {
                self.stored = self.control.take().map(|control| control.export_plan());
            }
            Pending::ControllerReturns => self.start_controller(mesh),
        }
    }

    fn weights(&self, home: u32, row: &mut Vec<(u32, u32)>) -> bool {
        self.proxies[home as usize].weights(home, row);
        true
    }

    fn planned_utilisation_max(&self) -> Option<f64> {
        Some(self.utilisation_max)
    }

    fn own_first(&self) -> bool {
        true
    }
}

fn clock(mesh: &Mesh<'_>) -> Duration {
    CLOCK_START + Duration::from_nanos(mesh.now_ns)
}

fn mesh_address(name: &str) -> String {
    format!("{name}.replay:7411")
}

/// A node's load as its proxy states it.
fn hint(node: u32, mesh: &Mesh<'_>) -> LoadHint {
    let station = &mesh.stations[node as usize];
    LoadHint {
        in_flight: station.in_flight(),
        workers: station.workers,
        latency_us: station.latency_us as u32,
    }
}

/// The highest utilisation that the plan in force means for any node.
fn planned_utilisation(control: &ControlLoop) -> f64 {
    let view = control.view();
    let nodes = view.services.iter().flat_map(|service| &service.nodes);
    nodes
        .map(|node| node.planned_utilisation)
        .fold(0.0, f64::max)
}
