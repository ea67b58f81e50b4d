//! What the proxy measures of itself, by the names an operator sees.
//!
//! The request path counts in [`crate::live`] and [`crate::golden`]; what they have is put on a page when somebody asks, and the
//! page forgotten: what is no more, an endpoint, a neighbour, a service, is on the next page no more. No label is a name that
//! a client chooses.
//!
//! Names are ours, `isobar_proxy_…`, but for what OpenTelemetry names for HTTP.

use std::collections::BTreeMap;
use std::fmt::Write;

use isobar_mesh_api::metric::Metric;
use isobar_mesh_api::names::ServiceName;
use metrics::{Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use crate::golden::{BOUNDS_US, Kind, Reading};
use crate::proxy::Proxy;

mod node;
mod service;

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
const PLAIN_CALLS: &str = "isobar_proxy_plain_text_calls_total";
const CERTIFICATE: &str = "isobar_proxy_certificate_expiry_timestamp_seconds";
const SERVER_DURATION: &str = "http_server_request_duration_seconds";
const MOVED_DURATION: &str = "isobar_proxy_moved_duration_seconds";
const ROUTE_REQUESTS: &str = "isobar_proxy_route_requests_total";
const IDLE: &str = "isobar_proxy_endpoint_connections_idle";
const ACTIVE: &str = "isobar_proxy_endpoint_requests_in_flight";
const RETRY_BUDGET: &str = "isobar_proxy_retry_budget_left";
const CERTIFICATE_LEFT: &str = "isobar_proxy_certificate_remaining_seconds";
const SNAPSHOT_AGE: &str = "isobar_proxy_snapshot_age_seconds";
const CONTROL_UP: &str = "isobar_proxy_control_connected";
const CONTROL_SILENCE: &str = "isobar_proxy_control_silence_seconds";
const CONTROL_STREAMS: &str = "isobar_proxy_control_streams_total";
const LOG_LINES: &str = "isobar_proxy_access_log_lines_total";
const SPANS: &str = "isobar_proxy_spans_total";
const INFO: &str = "isobar_proxy_info";

/// Every metric.
const METRICS: [Metric; 65] = [
    Metric::counter(
        ENTERED,
        &["service"],
        "First attempts that entered the mesh here",
    ),
    Metric::counter(
        SERVED_HOME,
        &["service"],
        "Of these, given to an endpoint of this node",
    ),
    Metric::counter(
        SHED,
        &["service"],
        "Of these, refused because nobody had room",
    ),
    Metric::counter(
        FAILED,
        &["service"],
        "Of these, ended in an error of the mesh or an endpoint",
    ),
    Metric::counter(
        CLOUD,
        &["service"],
        "Of these, sent to the upstream of last resort",
    ),
    Metric::counter(
        COMPLETED,
        &["service"],
        "Requests that endpoints of this node completed, moved-in ones included",
    ),
    Metric::counter(
        MOVED_OUT,
        &["service", "to", "cause"],
        "Requests sent to another node, by cause",
    ),
    Metric::counter(
        MOVED_OUT_REFUSED,
        &["service", "to"],
        "Requests that another node refused, brought back",
    ),
    Metric::counter(MOVED_IN, &["service", "home"], "Requests taken from a home"),
    Metric::counter(
        MOVED_IN_REFUSED,
        &["service", "home"],
        "Requests of a home refused",
    ),
    Metric::counter(
        RETRIES,
        &["service", "outcome"],
        "Tries after the first, made and denied by the budget",
    ),
    Metric::counter(
        LIMITED,
        &["service", "limit"],
        "Requests that a limit refused or ended",
    ),
    Metric::gauge(
        CIRCUIT,
        &["service", "endpoint"],
        "An endpoint's circuit: 0 Closed, 0.5 HalfOpen, 1 Open",
    ),
    Metric::counter(
        CIRCUIT_OPENINGS,
        &["service", "endpoint"],
        "Times that a circuit opened",
    ),
    Metric::counter(
        EJECTIONS,
        &["service", "endpoint"],
        "Times that an endpoint was left alone as an outlier",
    ),
    Metric::counter(
        SPARED,
        &["service"],
        "Outliers that kept their traffic because too many were left alone",
    ),
    Metric::gauge(
        HEALTHY,
        &["service", "endpoint"],
        "Whether an endpoint passes its health check",
    ),
    Metric::counter(
        HEALTH_CHECKS,
        &["service", "endpoint", "outcome"],
        "Answers to health checks",
    ),
    Metric::counter(
        RATE,
        &["service", "limit", "outcome"],
        "Requests that a rate limit passed and refused",
    ),
    Metric::gauge(
        RATE_SHARE,
        &["service", "limit"],
        "This node's share of a rate limit of the mesh",
    ),
    Metric::counter(
        SHED_BY_CLASS,
        &["service", "class"],
        "Requests that found no room in the queue, by class",
    ),
    Metric::counter(
        MIRRORED,
        &["outcome"],
        "Copies of requests, by what became of them",
    ),
    Metric::gauge(
        CONCURRENCY,
        &["service"],
        "Requests that the endpoints here are given at once",
    ),
    Metric::counter(LOST, &[], "Requests that no service and no rule is for"),
    Metric::counter(REDIRECTED, &[], "Redirects by routes"),
    Metric::counter(NO_BACKEND, &[], "Requests to a backend that does not exist"),
    Metric::counter(DELAYED, &[], "Delays made on purpose"),
    Metric::counter(NOT_DELAYED, &[], "Delays left out because too many waited"),
    Metric::counter(ABORTED, &[], "Failures made on purpose"),
    Metric::gauge(
        IN_FLIGHT,
        &["service"],
        "Requests at endpoints of this node now",
    ),
    Metric::gauge(WAITING, &["service"], "Requests in the queue now"),
    Metric::gauge(
        WEIGHT,
        &["service", "to"],
        "Part of the demand here that is sent to whom",
    ),
    Metric::gauge(RTT, &["neighbour"], "Smoothed round trip to a neighbour"),
    Metric::gauge(CONNECTIONS, &[], "Connections open now"),
    Metric::counter(LISTENER_CONNECTIONS, &["listener"], "Connections accepted"),
    Metric::counter(
        LISTENER_REFUSED,
        &["listener", "cause"],
        "Connections closed before they were served, by cause",
    ),
    Metric::counter(
        LISTENER_DETECTED,
        &["listener", "protocol"],
        "Connections by the protocol that was detected",
    ),
    Metric::counter(
        LISTENER_HANDSHAKES,
        &["listener"],
        "TLS handshakes that succeeded",
    ),
    Metric::counter(
        LISTENER_RELOADS,
        &["listener", "outcome"],
        "Certificates read again",
    ),
    Metric::gauge(TCP_OPEN, &["service"], "TCP connections open now"),
    Metric::counter(
        TCP_BYTES,
        &["service", "direction"],
        "Bytes of TCP connections",
    ),
    Metric::counter(
        CONFIG_RELOADS,
        &["outcome"],
        "Times that the configuration file was read again",
    ),
    Metric::gauge(PLAN_EPOCH, &[], "Epoch of the plan in force"),
    Metric::gauge(PLAN_GENERATION, &[], "Generation of the plan in force"),
    Metric::gauge(
        SHARE_LEFT,
        &[],
        "Share of the plan's moves that still holds",
    ),
    Metric::counter(
        REFUSED_MESSAGES,
        &["side", "reason"],
        "Messages that are none, by side and reason",
    ),
    Metric::gauge(
        CLOCK_SKEW,
        &[],
        "How far this clock is ahead of the controller's",
    ),
    Metric::counter(
        ACCESS_REFUSED,
        &["cause"],
        "Requests that access policies refused",
    ),
    Metric::counter(
        ACCESS_WATCHED,
        &[],
        "Requests that they would have refused, were they not only watching",
    ),
    Metric::counter(
        PLAIN_CALLS,
        &["service", "caller"],
        "Requests in plain text where a policy has them counted, by caller",
    ),
    Metric::gauge(
        CERTIFICATE,
        &[],
        "When this node's certificate ends, in seconds since 1970",
    ),
    Metric::histogram(
        SERVER_DURATION,
        &[
            "service",
            "direction",
            "outcome",
            "http_request_method",
            "http_response_status_code",
        ],
        "Time from a request's arrival until its answer had come, by what was asked and what came of it",
    ),
    Metric::histogram(
        MOVED_DURATION,
        &["service", "to"],
        "Time that moved requests took, by the node that served them",
    ),
    Metric::counter(
        ROUTE_REQUESTS,
        &["kind", "route", "rule", "http_response_status_class"],
        "Answers to requests that followed a rule of a route",
    ),
    Metric::gauge(
        IDLE,
        &["service", "endpoint"],
        "Connections kept open to an endpoint for the next request",
    ),
    Metric::gauge(
        ACTIVE,
        &["service", "endpoint"],
        "Requests at an endpoint now",
    ),
    Metric::gauge(
        RETRY_BUDGET,
        &["service"],
        "Retries that the budget would allow now",
    ),
    Metric::gauge(
        CERTIFICATE_LEFT,
        &[],
        "How long this node's certificate still holds",
    ),
    Metric::gauge(
        SNAPSHOT_AGE,
        &[],
        "How long ago the snapshot in force was applied",
    ),
    Metric::gauge(CONTROL_UP, &[], "Whether the control stream is open"),
    Metric::gauge(
        CONTROL_SILENCE,
        &[],
        "How long ago the controller was heard",
    ),
    Metric::counter(
        CONTROL_STREAMS,
        &[],
        "Times that the control stream was opened",
    ),
    Metric::counter(
        LOG_LINES,
        &["outcome"],
        "Lines of the access log, by what became of them",
    ),
    Metric::counter(SPANS, &["outcome"], "Spans, by what became of them"),
    Metric::gauge(
        INFO,
        &["node", "version"],
        "1; its labels say which program this is",
    ),
];

/// Every metric of the program.
pub fn all() -> impl Iterator<Item = Metric> {
    METRICS.into_iter()
}

/// All metrics as of now, in Prometheus's text format.
pub fn render(proxy: &Proxy) -> String {
    let mut page = Page {
        recorder: PrometheusBuilder::new().build_recorder(),
        histograms: String::new(),
    };
    for Metric { name, help, .. } in METRICS {
        let name = KeyName::from_const_str(name);
        page.recorder.describe_gauge(name, None, help.into());
    }
    node::update(&page, proxy);
    service::update(&mut page, proxy);
    let mut text = page.recorder.handle().render();
    text.push_str(&page.histograms);
    text
}

/// What is shown of one instant.
struct Page {
    recorder: PrometheusRecorder,
    /// Histograms, as text: the recorder makes its own from single values alone.
    histograms: String,
}

impl Page {
    fn counter(&self, name: &'static str, labels: Vec<Label>, value: u64) {
        let key = Key::from_parts(name, labels);
        self.recorder
            .register_counter(&key, &metadata())
            .absolute(value);
    }

    fn gauge(&self, name: &'static str, labels: Vec<Label>, value: f64) {
        let key = Key::from_parts(name, labels);
        self.recorder.register_gauge(&key, &metadata()).set(value);
    }

    /// Says that a histogram's series follow.
    fn begin_histogram(&mut self, name: &str) {
        let known = METRICS.iter().find(|metric| metric.name == name);
        let help = known.map_or("", |metric| metric.help);
        let _ = write!(
            self.histograms,
            "# HELP {name} {help}\n# TYPE {name} histogram\n"
        );
    }

    /// One series of a histogram; `labels` as they stand between the braces.
    fn histogram(&mut self, name: &str, labels: &str, reading: &Reading) {
        let out = &mut self.histograms;
        let mut count = 0;
        let bounds = BOUNDS_US.map(|bound_us| (bound_us as f64 / 1e6).to_string());
        let bounds = bounds.iter().map(String::as_str).chain(["+Inf"]);
        for (bound, bucket) in bounds.zip(reading.buckets) {
            count += bucket;
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
        }
        let sum_s = reading.sum_us as f64 / 1e6;
        let _ = writeln!(out, "{name}_sum{{{labels}}} {sum_s}");
        let _ = writeln!(out, "{name}_count{{{labels}}} {count}");
    }

    /// How requests went; of no service, when nobody knew whose they were.
    fn golden(&mut self, service: Option<&ServiceName>, readings: &BTreeMap<Kind, Reading>) {
        for (kind, reading) in readings {
            let [direction, outcome, method] = kind.words();
            let mut labels = service.map_or_else(String::new, |s| format!("service=\"{s}\","));
            let _ = write!(
                labels,
                "direction=\"{direction}\",outcome=\"{outcome}\",http_request_method=\"{method}\",\
                 http_response_status_code=\""
            );
            let _ = match kind.status() {
                Some(status) => write!(labels, "{status}\""),
                None => write!(labels, "_OTHER\""),
            };
            self.histogram(SERVER_DURATION, &labels, reading);
        }
    }
}

fn service_label(service: &ServiceName) -> Label {
    Label::new("service", service.to_string())
}

fn metadata() -> Metadata<'static> {
    Metadata::new(module_path!(), Level::INFO, None)
}
