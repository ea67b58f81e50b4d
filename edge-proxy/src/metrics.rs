//! What the proxy measures of itself, by the names an operator sees.
//!
//! The request path counts in [`crate::live`] and [`crate::golden`]; what they have is put on a page when somebody asks, and the
//! page forgotten: what is no more, an endpoint, a neighbour, a service, is on the next page no more. No label is a name that
//! a client chooses.
//!
//! Names are ours, `isobar_proxy_…`, but for what OpenTelemetry names for HTTP.

use std::collections::BTreeMap;
use std::fmt::Write;

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

/// What each of them says, in one line.
const HELP: [(&str, &str); 65] = [
    (ENTERED, "First attempts that entered the mesh here"),
    (SERVED_HOME, "Of these, given to an endpoint of this node"),
    (SHED, "Of these, refused because nobody had room"),
    (
        FAILED,
        "Of these, ended in an error of the mesh or an endpoint",
    ),
    (CLOUD, "Of these, sent to the upstream of last resort"),
    (
        COMPLETED,
        "Requests that endpoints of this node completed, moved-in ones included",
    ),
    (MOVED_OUT, "Requests sent to another node, by cause"),
    (
        MOVED_OUT_REFUSED,
        "Requests that another node refused, brought back",
    ),
    (MOVED_IN, "Requests taken from a home"),
    (MOVED_IN_REFUSED, "Requests of a home refused"),
    (
        RETRIES,
        "Tries after the first, made and denied by the budget",
    ),
    (LIMITED, "Requests that a limit refused or ended"),
    (
        CIRCUIT,
        "An endpoint's circuit: 0 Closed, 0.5 HalfOpen, 1 Open",
    ),
    (CIRCUIT_OPENINGS, "Times that a circuit opened"),
    (
        EJECTIONS,
        "Times that an endpoint was left alone as an outlier",
    ),
    (
        SPARED,
        "Outliers that kept their traffic because too many were left alone",
    ),
    (HEALTHY, "Whether an endpoint passes its health check"),
    (HEALTH_CHECKS, "Answers to health checks"),
    (RATE, "Requests that a rate limit passed and refused"),
    (RATE_SHARE, "This node's share of a rate limit of the mesh"),
    (
        SHED_BY_CLASS,
        "Requests that found no room in the queue, by class",
    ),
    (MIRRORED, "Copies of requests, by what became of them"),
    (
        CONCURRENCY,
        "Requests that the endpoints here are given at once",
    ),
    (LOST, "Requests that no service and no rule is for"),
    (REDIRECTED, "Redirects by routes"),
    (NO_BACKEND, "Requests to a backend that does not exist"),
    (DELAYED, "Delays made on purpose"),
    (NOT_DELAYED, "Delays left out because too many waited"),
    (ABORTED, "Failures made on purpose"),
    (IN_FLIGHT, "Requests at endpoints of this node now"),
    (WAITING, "Requests in the queue now"),
    (WEIGHT, "Part of the demand here that is sent to whom"),
    (RTT, "Smoothed round trip to a neighbour"),
    (CONNECTIONS, "Connections open now"),
    (LISTENER_CONNECTIONS, "Connections accepted"),
    (
        LISTENER_REFUSED,
        "Connections closed before they were served, by cause",
    ),
    (
        LISTENER_DETECTED,
        "Connections by the protocol that was detected",
    ),
    (LISTENER_HANDSHAKES, "TLS handshakes that succeeded"),
    (LISTENER_RELOADS, "Certificates read again"),
    (TCP_OPEN, "TCP connections open now"),
    (TCP_BYTES, "Bytes of TCP connections"),
    (
        CONFIG_RELOADS,
        "Times that the configuration file was read again",
    ),
    (PLAN_EPOCH, "Epoch of the plan in force"),
    (PLAN_GENERATION, "Generation of the plan in force"),
    (SHARE_LEFT, "Share of the plan's moves that still holds"),
    (
        REFUSED_MESSAGES,
        "Messages that are none, by side and reason",
    ),
    (
        CLOCK_SKEW,
        "How far this clock is ahead of the controller's",
    ),
    (ACCESS_REFUSED, "Requests that access policies refused"),
    (
        ACCESS_WATCHED,
        "Requests that they would have refused, were they not only watching",
    ),
    (
        PLAIN_CALLS,
        "Requests in plain text where a policy has them counted, by caller",
    ),
    (
        CERTIFICATE,
        "When this node's certificate ends, in seconds since 1970",
    ),
    (
        SERVER_DURATION,
        "Time from a request's arrival until its answer had come, by what was asked and what came of it",
    ),
    (
        MOVED_DURATION,
        "Time that moved requests took, by the node that served them",
    ),
    (
        ROUTE_REQUESTS,
        "Answers to requests that followed a rule of a route",
    ),
    (
        IDLE,
        "Connections kept open to an endpoint for the next request",
    ),
    (ACTIVE, "Requests at an endpoint now"),
    (RETRY_BUDGET, "Retries that the budget would allow now"),
    (
        CERTIFICATE_LEFT,
        "How long this node's certificate still holds",
    ),
    (
        SNAPSHOT_AGE,
        "How long ago the snapshot in force was applied",
    ),
    (CONTROL_UP, "Whether the control stream is open"),
    (CONTROL_SILENCE, "How long ago the controller was heard"),
    (CONTROL_STREAMS, "Times that the control stream was opened"),
    (LOG_LINES, "Lines of the access log, by what became of them"),
    (SPANS, "Spans, by what became of them"),
    (INFO, "1; its labels say which program this is"),
];

/// Every metric's name and what it says.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    HELP.into_iter()
}

/// All metrics as of now, in Prometheus's text format.
pub fn render(proxy: &Proxy) -> String {
    let mut page = Page {
        recorder: PrometheusBuilder::new().build_recorder(),
        histograms: String::new(),
    };
    for (name, help) in HELP {
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
        let help = HELP.iter().find(|(known, _)| *known == name);
        let help = help.map_or("", |(_, help)| help);
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
