//! Every metric of the controller, by name, and the handles that count.
//!
//! The recorder belongs to the program, not to the process, so that several controllers can run
//! in one process (tests, `isobar demo`) without mixing their counts. Handles are made once:
//! counting is an atomic addition.
//!
//! **Invariant**: label values are bounded: fixed words, and at most [`SERVICES_MAX`] service
//! names over the life of the program; further services are summed under `other`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use isobar_mesh_api::metric::{Metric, MetricKind};
use metrics::{
    Counter, Gauge, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::store::StoreCounts;
use table::METRICS;

mod counts;
mod service;
mod table;

pub use counts::{Relayed, RestRefused, StreamsEnded, TickSeconds};
pub use service::ServiceSums;

/// Most services with a label of their own.
pub const SERVICES_MAX: usize = 256;

/// How often histograms are folded, see [`Metrics::upkeep`].
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

const TICKS: &str = "isobar_controller_ticks_total";
const TICK_SECONDS: &str = "isobar_controller_tick_seconds";
const TICKS_LATE: &str = "isobar_controller_ticks_late_total";
const STREAMS: &str = "isobar_controller_streams";
const STREAMS_ENDED: &str = "isobar_controller_streams_ended_total";
const HANDSHAKES_FAILED: &str = "isobar_controller_handshakes_failed_total";
const DEFERRED: &str = "isobar_controller_connections_deferred_total";
const ENROLMENTS: &str = "isobar_controller_enrolments_total";
const REST_REFUSED: &str = "isobar_controller_rest_refused_total";
const REPORTS: &str = "isobar_controller_reports_total";
const LINES_SKIPPED: &str = "isobar_controller_lines_skipped_total";
const PUSHES: &str = "isobar_controller_pushes_total";
const ANSWERS: &str = "isobar_controller_plan_answers_total";
const EPOCH: &str = "isobar_controller_plan_epoch";
const GENERATION: &str = "isobar_controller_plan_generation";
const UNPLACED: &str = "isobar_controller_plan_unplaced_rps";
const GENERATION_STORED: &str = "isobar_controller_plan_generation_stored";
const AUTHORITY_ENDS: &str = "isobar_controller_authority_left_seconds";
const AUTHORITY_ROOTS: &str = "isobar_controller_authority_roots";
const AUTHORITY_BEHIND: &str = "isobar_controller_authority_nodes_behind";
const STORE_WRITES: &str = "isobar_controller_store_writes_total";
const LEADS: &str = "isobar_controller_leader";
const TAKEOVERS: &str = "isobar_controller_takeovers_total";
const RELAYED: &str = "isobar_controller_relayed_total";
const RELAYED_STREAMS: &str = "isobar_controller_relayed_streams";
/// What autoscalers ask for by name (`external.metrics.k8s.io`), beside what is scraped.
pub mod external {
    /// See `kubernetes::load`.
    pub const DEMAND: &str = "isobar_demand_rps";
    /// See [`DEMAND`].
    pub const CAPACITY: &str = "isobar_capacity_rps";
    /// See [`DEMAND`].
    pub const UTILISATION: &str = "isobar_utilisation_ratio";
    /// See [`DEMAND`].
    pub const MOVED_OUT: &str = "isobar_moved_out_rps";
    /// See [`DEMAND`].
    pub const SHED: &str = "isobar_shed_rps";
    /// See [`DEMAND`].
    pub const NODES_CONNECTED: &str = "isobar_nodes_connected";
}

const WATCH_FAILURES: &str = "isobar_controller_kubernetes_watch_failures_total";
const CONFIG_RELOADS: &str = "isobar_controller_config_reloads_total";
const DISCOVERY_ANSWERS: &str = "isobar_controller_discovery_answers_total";
const DISCOVERED: &str = "isobar_controller_discovered_endpoints";
const KUBERNETES_OBJECTS: &str = "isobar_controller_kubernetes_objects";

/// A metric of every service: its name, what it means, and where it is found.
type OfService = (&'static str, &'static str, fn(&ServiceSums) -> f64);

/// Gauges by service, over all nodes.
const OF_SERVICE: [OfService; 9] = [
    (
        "isobar_controller_service_demand_rps",
        "Demand over all homes, requests per second",
        |sums| sums.demand_rps,
    ),
    (
        "isobar_controller_service_capacity_rps",
        "Capacity over all nodes, requests per second",
        |sums| sums.capacity_rps,
    ),
    (
        "isobar_controller_service_headroom_rps",
        "Capacity beyond the planned load, node by node, requests per second",
        |sums| sums.headroom_rps,
    ),
    (
        "isobar_controller_service_utilisation_ratio",
        "Planned load by capacity",
        ServiceSums::utilisation_ratio,
    ),
    (
        "isobar_controller_service_moved_planned_rps",
        "Load that the plan moves, requests per second",
        |sums| sums.moved_planned_rps,
    ),
    (
        "isobar_controller_service_moved_by_plan_rps",
        "Load that proxies moved by weight, requests per second",
        |sums| sums.moved_plan_rps,
    ),
    (
        "isobar_controller_service_moved_by_spill_rps",
        "Load that proxies moved because home was full, requests per second",
        |sums| sums.moved_spill_rps,
    ),
    (
        "isobar_controller_service_shed_rps",
        "Load that proxies refused, requests per second",
        |sums| sums.shed_rps,
    ),
    (
        "isobar_controller_service_failed_rps",
        "Requests that failed, requests per second",
        |sums| sums.failed_rps,
    ),
];

/// Bounds of [`TICK_SECONDS`]' buckets, in seconds; the budget is 50 ms.
const TICK_BUCKETS: [f64; 10] = [
    0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
];

/// The handles.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    services: Mutex<BTreeMap<String, ServiceGauges>>,
    /// Ticks of the control loop.
    pub ticks: Counter,
    /// Ticks that began more than a period after they should have.
    pub ticks_late: Counter,
    /// Time of a tick's phases.
    pub tick_seconds: TickSeconds,
    /// Control streams open now.
    pub streams: Gauge,
    /// Streams that ended, by cause.
    pub streams_ended: StreamsEnded,
    /// TLS handshakes that failed or took too long.
    pub handshakes_failed: Counter,
    /// Proxies that were sent away to come again, by what there were too many of.
    pub deferred: Deferred,
    /// Certificates given out.
    pub enrolments_granted: Counter,
    /// Enrolments refused.
    pub enrolments_refused: Counter,
    /// Requests to the REST API that were not let in, by cause.
    pub rest_refused: RestRefused,
    /// Reports taken into the load book.
    pub reports_accepted: Counter,
    /// Reports that were nonsense or of an unknown node.
    pub reports_refused: Counter,
    /// Lines that are not messages.
    pub lines_nonsense: Counter,
    /// Messages of a later version, or out of place.
    pub lines_unknown: Counter,
    /// Messages queued for proxies, by kind.
    pub pushes: Pushes,
    /// Plans that proxies applied.
    pub acks: Counter,
    /// Plans that proxies refused.
    pub nacks: Counter,
    /// The plan's epoch.
    pub epoch: Gauge,
    /// The plan's generation.
    pub generation: Gauge,
    /// Demand that has no place in the plan yet, requests/s.
    pub unplaced: Gauge,
    /// The generation of the plan that would survive a crash now.
    pub generation_stored: Gauge,
    /// What the authority is.
    pub authority: AuthorityGauges,
    /// Batches of the store.
    pub store: StoreCounts,
    /// 1 while this controller leads and may act, else 0.
    pub leads: Gauge,
    /// Terms that this controller began.
    pub takeovers: Counter,
    /// What was passed on between a proxy or an operator and the leader.
    pub relayed: Relayed,
}

/// Proxies that were sent away to come again, by what there were too many of.
pub struct Deferred {
    /// TLS handshakes under way.
    pub handshakes: Counter,
    /// Hellos that wait for the control task.
    pub hellos: Counter,
}

/// Messages queued for proxies, by kind.
pub struct Pushes {
    /// Whole snapshots.
    pub snapshot: Counter,
    /// Changes.
    pub delta: Counter,
    /// Signs of life.
    pub ping: Counter,
    /// Certificates.
    pub certificate: Counter,
    /// Taps and errands.
    pub asked: Counter,
    /// Messages that do not fit a line and were left out.
    pub too_long: Counter,
}

/// What the authority is.
#[derive(Clone)]
pub struct AuthorityGauges {
    /// Seconds until the active root ends.
    pub root_left: Gauge,
    /// Seconds until what signs leaves ends.
    pub issuer_left: Gauge,
    /// Roots that are believed; more than one while one follows another.
    pub roots: Gauge,
    /// Connected nodes that do not know the roots of now yet.
    pub nodes_behind: Gauge,
}

/// One gauge for each of [`OF_SERVICE`].
type ServiceGauges = [Gauge; OF_SERVICE.len()];

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Deferred {
    fn new(count: impl Fn(&'static str) -> Counter) -> Deferred {
        Deferred {
            handshakes: count("handshake"),
            hellos: count("hello"),
        }
    }
}

impl Metrics {
    /// A recorder with all handles at zero.
    pub fn new() -> Metrics {
        // Fails on an empty list alone.
        let builder = PrometheusBuilder::new().set_buckets(&TICK_BUCKETS);
        let recorder = builder.unwrap_or_default().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, describe);
        let count = |name, label, value| {
            metrics::with_local_recorder(&recorder, || counter!(name, label => value))
        };
        let plain = |name| metrics::with_local_recorder(&recorder, || counter!(name));
        let level = |name| metrics::with_local_recorder(&recorder, || gauge!(name));
        let phase = |value| {
            metrics::with_local_recorder(&recorder, || histogram!(TICK_SECONDS, "phase" => value))
        };
        Metrics {
            handle,
            services: Mutex::default(),
            ticks: plain(TICKS),
            ticks_late: plain(TICKS_LATE),
            tick_seconds: TickSeconds {
                inbox: phase("inbox"),
                plan: phase("plan"),
                push: phase("push"),
            },
            streams: level(STREAMS),
            streams_ended: StreamsEnded {
                closed: count(STREAMS_ENDED, "cause", "closed"),
                slow: count(STREAMS_ENDED, "cause", "slow"),
                replaced: count(STREAMS_ENDED, "cause", "replaced"),
                too_long: count(STREAMS_ENDED, "cause", "too_long"),
            },
            handshakes_failed: plain(HANDSHAKES_FAILED),
            deferred: Deferred::new(|at| count(DEFERRED, "at", at)),
            enrolments_granted: count(ENROLMENTS, "result", "granted"),
            enrolments_refused: count(ENROLMENTS, "result", "refused"),
            rest_refused: RestRefused::new(|cause| count(REST_REFUSED, "cause", cause)),
            reports_accepted: count(REPORTS, "result", "accepted"),
            reports_refused: count(REPORTS, "result", "refused"),
            lines_nonsense: count(LINES_SKIPPED, "cause", "nonsense"),
            lines_unknown: count(LINES_SKIPPED, "cause", "unknown"),
            pushes: Pushes {
                snapshot: count(PUSHES, "kind", "snapshot"),
                delta: count(PUSHES, "kind", "delta"),
                ping: count(PUSHES, "kind", "ping"),
                certificate: count(PUSHES, "kind", "certificate"),
                asked: count(PUSHES, "kind", "asked"),
                too_long: count(PUSHES, "kind", "too_long"),
            },
            acks: count(ANSWERS, "answer", "ack"),
            nacks: count(ANSWERS, "answer", "nack"),
            epoch: level(EPOCH),
            generation: level(GENERATION),
            unplaced: level(UNPLACED),
            generation_stored: level(GENERATION_STORED),
            authority: AuthorityGauges::new(&recorder),
            store: StoreCounts {
                written: count(STORE_WRITES, "result", "written"),
                failed: count(STORE_WRITES, "result", "failed"),
            },
            leads: level(LEADS),
            takeovers: plain(TAKEOVERS),
            relayed: Relayed::new(
                |kind| count(RELAYED, "kind", kind),
                metrics::with_local_recorder(&recorder, || gauge!(RELAYED_STREAMS)),
            ),
            recorder,
        }
    }

    /// A watch of the Kubernetes API failed. `resource` is one of the few that are watched.
    pub fn watch_failed(&self, resource: &'static str) {
        let count = || counter!(WATCH_FAILURES, "resource" => resource);
        metrics::with_local_recorder(&self.recorder, count).increment(1);
    }

    /// Counts a configuration that was read again.
    pub fn reloaded(&self, is_good: bool) {
        let result = if is_good { "applied" } else { "refused" };
        let count = || counter!(CONFIG_RELOADS, "result" => result);
        metrics::with_local_recorder(&self.recorder, count).increment(1);
    }

    /// Counts an answer of a source, or its absence. Sources are those of the configuration.
    pub fn discovered(&self, source: &str, has_answered: bool) {
        let result = if has_answered { "answered" } else { "failed" };
        let count =
            || counter!(DISCOVERY_ANSWERS, "source" => source.to_owned(), "result" => result);
        metrics::with_local_recorder(&self.recorder, count).increment(1);
    }

    /// Sets how many endpoints were discovered, and how many of them are on no node.
    pub fn set_discovered(&self, placed: usize, homeless: usize) {
        for (state, endpoints) in [("placed", placed), ("homeless", homeless)] {
            let level = || gauge!(DISCOVERED, "state" => state);
            metrics::with_local_recorder(&self.recorder, level).set(endpoints as f64);
        }
    }

    /// Sets how many objects of the cluster are in force, refused, and complained about.
    pub fn set_kubernetes(&self, in_force: usize, refused: usize, complaints: usize) {
        for (state, objects) in [
            ("in_force", in_force),
            ("refused", refused),
            ("complaint", complaints),
        ] {
            let level = || gauge!(KUBERNETES_OBJECTS, "state" => state);
            metrics::with_local_recorder(&self.recorder, level).set(objects as f64);
        }
    }

    /// Sets the sums of every service, in requests/s; services that are not among them become 0.
    pub fn set_services(&self, sums: impl IntoIterator<Item = (String, ServiceSums)>) {
        let mut by_label: BTreeMap<String, ServiceSums> = BTreeMap::new();
        let mut gauges = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let mut labels = gauges.len();
        for (service, sums) in sums {
            let known = gauges.contains_key(&service) || by_label.contains_key(&service);
            let label = if known {
                service
            } else if labels < SERVICES_MAX {
                labels += 1;
                service
            } else {
                "other".to_owned()
            };
            *by_label.entry(label).or_default() += sums;
        }
        for label in by_label.keys() {
            if !gauges.contains_key(label) {
                gauges.insert(label.clone(), self.service_gauges(label));
            }
        }
        for (label, gauges) in gauges.iter() {
            let sums = by_label.get(label).copied().unwrap_or_default();
            for (gauge, (_, _, found)) in gauges.iter().zip(OF_SERVICE) {
                gauge.set(found(&sums));
            }
        }
    }

    fn service_gauges(&self, label: &str) -> ServiceGauges {
        let gauge = |(name, ..): OfService| gauge!(name, "service" => label.to_owned());
        metrics::with_local_recorder(&self.recorder, || OF_SERVICE.map(gauge))
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds what histograms gathered; without it they grow. Called every [`UPKEEP_INTERVAL`].
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

impl AuthorityGauges {
    fn new(recorder: &PrometheusRecorder) -> AuthorityGauges {
        metrics::with_local_recorder(recorder, || AuthorityGauges {
            root_left: gauge!(AUTHORITY_ENDS, "certificate" => "root"),
            issuer_left: gauge!(AUTHORITY_ENDS, "certificate" => "issuer"),
            roots: gauge!(AUTHORITY_ROOTS),
            nodes_behind: gauge!(AUTHORITY_BEHIND),
        })
    }
}

/// Every metric of the program.
pub fn all() -> impl Iterator<Item = Metric> {
    let of_service = OF_SERVICE.map(|(name, help, _)| Metric::gauge(name, &["service"], help));
    METRICS.into_iter().chain(of_service)
}

fn describe() {
    for Metric {
        name, kind, help, ..
    } in all()
    {
        match kind {
            MetricKind::Counter => describe_counter!(name, help),
            MetricKind::Gauge => describe_gauge!(name, help),
            MetricKind::Histogram => describe_histogram!(name, help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_programs_do_not_mix_and_services_are_bounded() {
        let (first, second) = (Metrics::new(), Metrics::new());
        first.ticks.increment(3);
        assert!(first.render().contains("isobar_controller_ticks_total 3"));
        assert!(second.render().contains("isobar_controller_ticks_total 0"));
        let one = ServiceSums {
            demand_rps: 1.0,
            capacity_rps: 2.0,
            ..ServiceSums::default()
        };
        let many = (0..SERVICES_MAX + 5).map(|i| (format!("n/s{i}"), one));
        first.set_services(many);
        let lines = |text: &str| {
            text.lines()
                .filter(|l| l.starts_with(OF_SERVICE[0].0))
                .count()
        };
        assert_eq!(lines(&first.render()), SERVICES_MAX + 1);
        assert!(first.render().contains("demand_rps{service=\"other\"} 5"));
        first.set_services([("n/s0".to_owned(), one)]);
        assert_eq!(lines(&first.render()), SERVICES_MAX + 1);
        assert!(first.render().contains("demand_rps{service=\"n/s1\"} 0"));
    }

    #[test]
    fn ticks_are_histograms() {
        let metrics = Metrics::new();
        metrics.tick_seconds.plan.record(0.002);
        metrics.upkeep();
        let text = metrics.render();
        assert!(
            text.contains("isobar_controller_tick_seconds_bucket{phase=\"plan\",le=\"0.005\"} 1")
        );
    }
}
