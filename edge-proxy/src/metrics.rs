//! What the proxy measures of itself, by the names an operator sees.
//!
//! The request path counts in [`crate::live`]; its totals are copied here when
//! somebody asks. Only the duration is recorded as it happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use isobar_mesh_api::names::ServiceName;
use metrics::{Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusRecorder};

use crate::circuit::State;
use crate::config::listener::ListenerProtocol;
use crate::endpoint::EndpointLive;
use crate::http1::fault::{Fault, Side};
use crate::limit::Limit;
use crate::listener::Listener;
use crate::live::ServiceLive;
use crate::proxy::Proxy;
use crate::routing::RoutingCounts;

const ENTERED: &str = "isobar_proxy_requests_entered_total";
const SERVED_HOME: &str = "isobar_proxy_requests_served_home_total";
const SHED: &str = "isobar_proxy_requests_shed_total";
const FAILED: &str = "isobar_proxy_requests_failed_total";
const CLOUD: &str = "isobar_proxy_requests_cloud_total";
const COMPLETED: &str = "isobar_proxy_requests_completed_total";
const MOVED_OUT: &str = "isobar_proxy_requests_moved_out_total";
const MOVED_OUT_REFUSED: &str = "isobar_proxy_requests_moved_out_refused_total";
const MOVED_IN: &str = "isobar_proxy_requests_moved_in_total";
const MOVED_IN_REFUSED: &str = "isobar_proxy_requests_moved_in_refused_total";
const RETRIES: &str = "isobar_proxy_retries_total";
const LIMITED: &str = "isobar_proxy_limited_total";
const CIRCUIT: &str = "isobar_proxy_circuit_open";
const CIRCUIT_OPENINGS: &str = "isobar_proxy_circuit_openings_total";
const EJECTIONS: &str = "isobar_proxy_outlier_ejections_total";
const SPARED: &str = "isobar_proxy_outliers_spared_total";
const HEALTHY: &str = "isobar_proxy_endpoint_healthy";
const HEALTH_CHECKS: &str = "isobar_proxy_health_checks_total";
const RATE: &str = "isobar_proxy_rate_limit_requests_total";
const RATE_SHARE: &str = "isobar_proxy_rate_limit_share_ratio";
const SHED_BY_CLASS: &str = "isobar_proxy_requests_shed_by_class_total";
const MIRRORED: &str = "isobar_proxy_mirrored_total";
const CONCURRENCY: &str = "isobar_proxy_concurrency_limit";
const LOST: &str = "isobar_proxy_route_requests_lost_total";
const REDIRECTED: &str = "isobar_proxy_route_requests_redirected_total";
const NO_BACKEND: &str = "isobar_proxy_route_requests_without_backend_total";
const DELAYED: &str = "isobar_proxy_route_faults_delayed_total";
const NOT_DELAYED: &str = "isobar_proxy_route_faults_not_delayed_total";
const ABORTED: &str = "isobar_proxy_route_faults_aborted_total";
const DURATION: &str = "isobar_proxy_request_duration_seconds";
const IN_FLIGHT: &str = "isobar_proxy_requests_in_flight";
const WAITING: &str = "isobar_proxy_requests_waiting";
const WEIGHT: &str = "isobar_proxy_weight_ratio";
const RTT: &str = "isobar_proxy_neighbour_rtt_seconds";
const CONNECTIONS: &str = "isobar_proxy_connections";
const LISTENER_CONNECTIONS: &str = "isobar_proxy_listener_connections_total";
const LISTENER_REFUSED: &str = "isobar_proxy_listener_refused_total";
const LISTENER_DETECTED: &str = "isobar_proxy_listener_detected_total";
const LISTENER_HANDSHAKES: &str = "isobar_proxy_listener_handshakes_total";
const LISTENER_RELOADS: &str = "isobar_proxy_listener_certificate_reloads_total";
const TCP_OPEN: &str = "isobar_proxy_tcp_connections";
const TCP_BYTES: &str = "isobar_proxy_tcp_bytes_total";
const CONFIG_RELOADS: &str = "isobar_proxy_config_reloads_total";
const PLAN_EPOCH: &str = "isobar_proxy_plan_epoch";
const PLAN_GENERATION: &str = "isobar_proxy_plan_generation";
const SHARE_LEFT: &str = "isobar_proxy_plan_share_left_ratio";
const REFUSED_MESSAGES: &str = "isobar_proxy_messages_refused_total";
const CLOCK_SKEW: &str = "isobar_proxy_clock_skew_seconds";
const ACCESS_REFUSED: &str = "isobar_proxy_access_refused_total";
const ACCESS_WATCHED: &str = "isobar_proxy_access_would_refuse_total";
const CERTIFICATE: &str = "isobar_proxy_certificate_expiry_timestamp_seconds";

/// Upper bounds of the duration's buckets, in seconds.
const DURATION_BUCKETS_S: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Registers and shows metrics. Not the process's recorder: two proxies can live in one process.
#[derive(Clone)]
pub struct Metrics(Arc<PrometheusRecorder>);

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// No metrics yet.
    ///
    /// # Errors
    /// Never with the buckets above.
    pub fn new() -> Result<Metrics, BuildError> {
        let duration = Matcher::Full(DURATION.to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(duration, &DURATION_BUCKETS_S)?
            .build_recorder();
        Ok(Metrics(Arc::new(recorder)))
    }

    /// The duration of a service's own requests.
    pub fn duration(&self, service: &ServiceName) -> metrics::Histogram {
        let key = Key::from_parts(DURATION, vec![service_label(service)]);
        self.0.register_histogram(&key, &metadata())
    }

    /// Sorts what was recorded into buckets. Called now and then, so that little gathers.
    pub fn upkeep(&self) {
        self.0.handle().run_upkeep();
    }

    /// All metrics as of now, in Prometheus's text format.
    pub fn render(&self, proxy: &Proxy) -> String {
        for live in proxy.table.services() {
            self.update_service(&live, proxy);
        }
        let reload = &proxy.reload;
        for (outcome, count) in [("ok", &reload.ok), ("failed", &reload.failed)] {
            let labels = vec![Label::new("outcome", outcome)];
            self.counter(CONFIG_RELOADS, labels, count.load(Relaxed));
        }
        for listener in proxy.listeners.all() {
            self.update_listener(&listener);
        }
        let routes = proxy.table.load();
        for route in &routes.services {
            let label = service_label(&route.live.service);
            let row = &route.row;
            let moves = row.moves.iter().map(|m| (m.to.as_str(), m.weight_ppm));
            let own = [("home", row.home_ppm), ("cloud", row.cloud_ppm)];
            for (to, weight_ppm) in own.into_iter().chain(moves) {
                let labels = vec![label.clone(), Label::new("to", to.to_owned())];
                self.gauge(WEIGHT, labels, f64::from(weight_ppm) / 1e6);
            }
            self.gauge(CONCURRENCY, vec![label.clone()], f64::from(route.places()));
            if let Some(classes) = &route.traffic.priority {
                let shed = route.live.shed_by_rank();
                for (class, count) in classes.names().iter().zip(shed) {
                    let labels = vec![label.clone(), Label::new("class", class.clone())];
                    self.counter(SHED_BY_CLASS, labels, count);
                }
            }
            for endpoint in route.endpoints.iter() {
                self.update_endpoint(&label, endpoint, proxy);
            }
        }
        for neighbour in routes.neighbours.iter() {
            if neighbour.rtt_us() > 0 {
                let labels = vec![Label::new("neighbour", neighbour.node.to_string())];
                self.gauge(RTT, labels, f64::from(neighbour.rtt_us()) / 1e6);
            }
        }
        self.update_routing(&proxy.routing);
        for (outcome, count) in proxy.mirrors.counts() {
            self.counter(MIRRORED, vec![Label::new("outcome", outcome)], count);
        }
        let plan = routes.snapshot.plan;
        self.gauge(PLAN_EPOCH, Vec::new(), plan.epoch as f64);
        self.gauge(PLAN_GENERATION, Vec::new(), plan.generation as f64);
        self.gauge(SHARE_LEFT, Vec::new(), routes.share_left);
        self.gauge(CONNECTIONS, Vec::new(), proxy.drain.open() as f64);
        self.update_faults(proxy);
        self.update_access(proxy);
        self.gauge(CLOCK_SKEW, Vec::new(), proxy.skew.ahead_s());
        if let Some(identity) = proxy.identity.get() {
            let ends = identity.validity.not_after;
            let ends = ends.duration_since(std::time::SystemTime::UNIX_EPOCH);
            self.gauge(
                CERTIFICATE,
                Vec::new(),
                ends.map_or(0.0, |t| t.as_secs_f64()),
            );
        }
        self.0.handle().render()
    }

    fn update_endpoint(&self, service: &Label, endpoint: &EndpointLive, proxy: &Proxy) {
        let view = endpoint.circuit.view(proxy.clock.now_us());
        let address = Label::new("endpoint", endpoint.address().to_owned());
        let labels = || vec![service.clone(), address.clone()];
        let open = match view.state {
            State::Closed => 0.0,
            State::HalfOpen => 0.5,
            State::Open => 1.0,
        };
        self.gauge(CIRCUIT, labels(), open);
        self.counter(CIRCUIT_OPENINGS, labels(), view.openings);
        self.counter(EJECTIONS, labels(), view.ejections);
        self.gauge(HEALTHY, labels(), f64::from(u8::from(view.is_healthy)));
        let checks = &endpoint.checks;
        for (outcome, count) in [("good", &checks.good), ("bad", &checks.bad)] {
            let mut labels = labels();
            labels.push(Label::new("outcome", outcome));
            self.counter(HEALTH_CHECKS, labels, count.load(Relaxed));
        }
    }

    fn update_listener(&self, listener: &Listener) {
        let counts = &listener.counts;
        let labels = |more: &[(&'static str, &'static str)]| {
            let own = Label::new("listener", listener.name.clone());
            let more = more.iter().map(|(name, value)| Label::new(*name, *value));
            [own].into_iter().chain(more).collect::<Vec<_>>()
        };
        self.counter(
            LISTENER_CONNECTIONS,
            labels(&[]),
            counts.accepted.load(Relaxed),
        );
        for (cause, count) in counts.refused() {
            self.counter(LISTENER_REFUSED, labels(&[("cause", cause)]), count);
        }
        if listener.protocol == ListenerProtocol::Detect {
            for (protocol, count) in counts.detected() {
                self.counter(LISTENER_DETECTED, labels(&[("protocol", protocol)]), count);
            }
        }
        if listener.termination.is_some() {
            self.counter(
                LISTENER_HANDSHAKES,
                labels(&[]),
                counts.handshakes.load(Relaxed),
            );
            let reloads = [("ok", &counts.reloaded), ("failed", &counts.reload_failed)];
            for (outcome, count) in reloads {
                let labels = labels(&[("outcome", outcome)]);
                self.counter(LISTENER_RELOADS, labels, count.load(Relaxed));
            }
        }
    }

    fn update_faults(&self, proxy: &Proxy) {
        for (side, fault) in Side::ALL.iter().flat_map(|s| Fault::ALL.map(|f| (*s, f))) {
            let count = proxy.faults.get(side, fault);
            // A series for each fault that was met, not for each that could be.
            if count > 0 {
                let reason = Label::new("reason", fault.label());
                let labels = vec![Label::new("side", side.label()), reason];
                self.counter(REFUSED_MESSAGES, labels, count);
            }
        }
    }

    fn update_access(&self, proxy: &Proxy) {
        let counts = &proxy.access;
        let by = |cause: &'static str| vec![Label::new("cause", cause)];
        let (denied, untold) = (&counts.denied, &counts.unauthenticated);
        self.counter(ACCESS_REFUSED, by("policy"), denied.load(Relaxed));
        self.counter(ACCESS_REFUSED, by("token"), untold.load(Relaxed));
        self.counter(ACCESS_WATCHED, Vec::new(), counts.watched.load(Relaxed));
    }

    fn update_service(&self, live: &ServiceLive, proxy: &Proxy) {
        let service = || vec![service_label(&live.service)];
        let with = |name: &'static str, value: String| {
            let mut labels = service();
            labels.push(Label::new(name, value));
            labels
        };
        let totals = live.totals(proxy.clock.now_us());
        self.counter(ENTERED, service(), totals.entered);
        self.counter(SERVED_HOME, service(), totals.served_home);
        self.counter(SHED, service(), totals.shed);
        self.counter(FAILED, service(), totals.failed);
        self.counter(CLOUD, service(), totals.cloud);
        self.counter(COMPLETED, service(), totals.completed);
        let (limited, retries) = live.limited();
        for (limit, count) in Limit::ALL.into_iter().zip(limited) {
            self.counter(LIMITED, with("limit", limit.as_str().to_owned()), count);
        }
        for (outcome, count) in ["made", "denied"].into_iter().zip(retries) {
            self.counter(RETRIES, with("outcome", outcome.to_owned()), count);
        }
        self.update_rates(live);
        let spared = live.outliers_spared.load(Relaxed);
        self.counter(SPARED, service(), spared);
        self.gauge(IN_FLIGHT, service(), f64::from(live.gate.active()));
        self.gauge(WAITING, service(), f64::from(live.gate.waiting()));
        let read = |count: &AtomicU64| count.load(Relaxed);
        self.gauge(TCP_OPEN, service(), f64::from(live.tcp.open.load(Relaxed)));
        let bytes = &live.tcp.bytes;
        for (direction, count) in [("received", &bytes.received), ("sent", &bytes.sent)] {
            let labels = with("direction", direction.to_owned());
            self.counter(TCP_BYTES, labels, read(count));
        }
        for (to, counts) in live.moved_out_all() {
            for (cause, count) in [("plan", &counts.plan), ("spill", &counts.spill)] {
                let mut labels = with("to", to.to_string());
                labels.push(Label::new("cause", cause));
                self.counter(MOVED_OUT, labels, read(count));
            }
            let labels = with("to", to.to_string());
            self.counter(MOVED_OUT_REFUSED, labels, read(&counts.refused));
        }
        for (home, counts) in live.moved_in_all() {
            let labels = || with("home", home.to_string());
            self.counter(MOVED_IN, labels(), read(&counts.accepted));
            self.counter(MOVED_IN_REFUSED, labels(), read(&counts.refused));
        }
    }

    fn update_rates(&self, live: &ServiceLive) {
        for (name, rate) in live.rates() {
            let service = service_label(&live.service);
            let labels = vec![service, Label::new("limit", name)];
            for (outcome, count) in [("passed", &rate.passed), ("refused", &rate.refused)] {
                let mut labels = labels.clone();
                labels.push(Label::new("outcome", outcome));
                self.counter(RATE, labels, count.load(Relaxed));
            }
            let share_ppm = rate.share_ppm.load(Relaxed);
            if share_ppm > 0 {
                self.gauge(RATE_SHARE, labels, share_ppm as f64 / 1e6);
            }
        }
    }

    fn update_routing(&self, counts: &RoutingCounts) {
        for (name, count) in [
            (LOST, &counts.lost),
            (REDIRECTED, &counts.redirected),
            (NO_BACKEND, &counts.no_backend),
            (DELAYED, &counts.delayed),
            (NOT_DELAYED, &counts.not_delayed),
            (ABORTED, &counts.aborted),
        ] {
            let value = count.load(Relaxed);
            self.counter(name, Vec::new(), value);
        }
    }

    fn counter(&self, name: &'static str, labels: Vec<Label>, value: u64) {
        let key = Key::from_parts(name, labels);
        self.0.register_counter(&key, &metadata()).absolute(value);
    }

    fn gauge(&self, name: &'static str, labels: Vec<Label>, value: f64) {
        let key = Key::from_parts(name, labels);
        self.0.register_gauge(&key, &metadata()).set(value);
    }
}

fn service_label(service: &ServiceName) -> Label {
    Label::new("service", service.to_string())
}

fn metadata() -> Metadata<'static> {
    Metadata::new(module_path!(), Level::INFO, None)
}
