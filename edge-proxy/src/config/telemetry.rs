//! What is told of requests: the access log and traces. Both are off unless the operator writes their table.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, Uri};
use isobar_mesh_api::config_file::Problem;
use serde::{Deserialize, Serialize};

/// Most headers that an access log shows.
pub const HEADERS_MAX: usize = 8;
/// Most old files of an access log.
pub const FILES_KEPT_MAX: u32 = 100;
/// Shortest file of an access log, in bytes.
pub const FILE_LEN_MIN: u64 = 4096;
/// Smallest and largest buffer per worker, in bytes.
pub const QUEUE_LEN: std::ops::RangeInclusive<usize> = 4096..=64 * 1024 * 1024;
/// Longest wait for a collector, in milliseconds.
pub const COLLECTOR_WAIT_MS_MAX: u64 = 60_000;
/// Headers that say who somebody is: no log shows them.
const SECRET: [&str; 4] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
];

/// A line for each request that is told of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct AccessLogConfig {
    /// Where lines go.
    pub output: Output,
    /// How they are written.
    pub format: Format,
    /// Their file; by default `access.log` in the data directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// A file that would become longer is put aside, in bytes.
    #[cfg_attr(feature = "schema", schemars(range(min = FILE_LEN_MIN)))]
    pub file_len_max: u64,
    /// Files put aside that are kept, as `access.log.1` (the newest), `.2`, …
    #[cfg_attr(feature = "schema", schemars(range(max = FILES_KEPT_MAX)))]
    pub files_kept: u32,
    /// Where syslog listens: `unix:/dev/log` or `udp:10.0.0.1:514`.
    pub syslog: String,
    /// With `output = "otlp"`: where a collector listens for OTLP over HTTP, `http://host:port` or `https://host:port`; a path
    /// before `/v1/logs` may follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collector: Option<String>,
    /// Roots to believe an https collector by, PEM; by default those of the system. Read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Longest wait for the collector, in milliseconds.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = COLLECTOR_WAIT_MS_MAX)))]
    pub wait_ms_max: u64,
    /// What a line says, in this order.
    pub fields: Vec<Field>,
    /// Request headers that it shows besides, at most 8; never those that say who somebody is.
    pub headers: Vec<String>,
    /// What of a target's query is shown.
    pub query: Query,
    /// The share of ordinary requests that is told of, from 0 to 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 0.0, max = 1.0)))]
    pub share: f64,
    /// Requests that are told of in any case.
    pub always: Vec<Always>,
    /// A request that takes at least so long is slow, in milliseconds.
    pub slow_ms: u64,
    /// Lines that wait to be written, in bytes per worker; more are dropped and counted.
    #[cfg_attr(feature = "schema", schemars(range(min = *QUEUE_LEN.start(), max = *QUEUE_LEN.end())))]
    pub queue_len_max: usize,
}

impl Default for AccessLogConfig {
    fn default() -> AccessLogConfig {
        AccessLogConfig {
            output: Output::default(),
            format: Format::default(),
            file: None,
            file_len_max: 4 * 1024 * 1024,
            files_kept: 2,
            syslog: "unix:/dev/log".to_owned(),
            collector: None,
            ca_file: None,
            wait_ms_max: 5_000,
            fields: Field::DEFAULT.to_vec(),
            headers: Vec::new(),
            query: Query::default(),
            share: 0.01,
            always: vec![Always::Errors, Always::Slow],
            slow_ms: 1_000,
            queue_len_max: 128 * 1024,
        }
    }
}

/// Spans for a collector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TracesConfig {
    /// Where it listens for OTLP over HTTP, `http://host:port` or `https://host:port`; a path before `/v1/traces` may follow.
    pub collector: String,
    /// Roots to believe an https collector by, PEM; by default those of the system. Read again when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The share of traces that begin here and are recorded, from 0 to 1.
    #[serde(default = "trace_share_default")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0.0, max = 1.0)))]
    pub share: f64,
    /// What a client's word counts about whether a trace is recorded.
    #[serde(default)]
    pub parent: ParentRule,
    /// Requests of which this proxy's own spans are told in any case.
    #[serde(default = "trace_always_default")]
    pub always: Vec<Always>,
    /// A request that takes at least so long is slow, in milliseconds.
    #[serde(default = "slow_ms_default")]
    pub slow_ms: u64,
    /// Longest wait for the collector, in milliseconds.
    #[serde(default = "wait_ms_default")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = COLLECTOR_WAIT_MS_MAX)))]
    pub wait_ms_max: u64,
    /// Spans that wait to be sent, in bytes per worker; more are dropped and counted.
    #[serde(default = "span_queue_default")]
    #[cfg_attr(feature = "schema", schemars(range(min = *QUEUE_LEN.start(), max = *QUEUE_LEN.end())))]
    pub queue_len_max: usize,
}

fn trace_share_default() -> f64 {
    0.01
}

fn trace_always_default() -> Vec<Always> {
    vec![Always::Errors, Always::Slow]
}

fn slow_ms_default() -> u64 {
    1_000
}

fn wait_ms_default() -> u64 {
    5_000
}

fn span_queue_default() -> usize {
    256 * 1024
}

impl AccessLogConfig {
    /// Longest wait for the collector.
    pub fn wait_max(&self) -> Duration {
        Duration::from_millis(self.wait_ms_max)
    }
}

impl TracesConfig {
    /// Longest wait for the collector.
    pub fn wait_max(&self) -> Duration {
        Duration::from_millis(self.wait_ms_max)
    }
}

/// Where lines go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    /// A file, put aside when it is full.
    #[default]
    File,
    /// Standard output.
    Stdout,
    /// RFC 5424, one datagram a line.
    Syslog,
    /// The same collector that traces may go to.
    Otlp,
}

/// How lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One JSON object a line.
    #[default]
    Json,
    /// `name=value` (logfmt).
    Text,
}

/// What of a target's query is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Query {
    /// Its names; `*` stands for every value.
    #[default]
    Names,
    /// All of it.
    Whole,
    /// Nothing.
    None,
}

/// What a client's word counts about whether a trace is recorded. A trace goes on in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ParentRule {
    /// It is recorded when the client records it, and is not when the client does not.
    #[default]
    Follow,
    /// The share decides.
    Ignore,
}

/// Requests that are told of in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Always {
    /// A status of 5xx, or an answer that broke off.
    Errors,
    /// Those that took long.
    Slow,
    /// Those that another node served, or that came from one.
    Moved,
}

/// One thing that a line says. What a request does not have is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// When it arrived, RFC 3339, UTC.
    Time,
    /// This node.
    Node,
    /// `ingress`, `outbound` or `mesh`.
    Direction,
    /// The client's address.
    Client,
    /// The node that moved it here.
    Home,
    /// The method.
    Method,
    /// The host that was asked for; of a TCP connection, the address.
    Host,
    /// The target, with what [`Query`] shows.
    Path,
    /// `HTTP/1.1`, `TCP`.
    Protocol,
    /// `User-Agent`.
    UserAgent,
    /// The service.
    Service,
    /// The route, `kind namespace/name`, and its rule, from 0.
    Route,
    /// The status; 499 when the client left first.
    Status,
    /// `home`, `moved`, `cloud`, `shed`, `refused`, `failed`, `gone`, `route`.
    Outcome,
    /// Why the proxy answered by itself.
    Reason,
    /// From its arrival until its answer was passed on, in microseconds.
    DurationUs,
    /// Of this, the last try, in microseconds.
    UpstreamUs,
    /// Length of the request's body, where it was announced, in bytes; of a TCP connection, what came from the client.
    RequestLen,
    /// Bytes of the answer's body that were passed on; of a TCP connection, what went to the client.
    ResponseLen,
    /// The endpoint of the last try.
    Endpoint,
    /// The node of the last try, when it was moved.
    To,
    /// Why it was moved: `plan` or `spill`.
    Cause,
    /// How many tries there were.
    Tries,
    /// Its trace.
    TraceId,
    /// This proxy's span of it.
    SpanId,
}

impl Field {
    /// What a line says when nobody chooses.
    pub const DEFAULT: [Field; 21] = [
        Field::Time,
        Field::Node,
        Field::Direction,
        Field::Client,
        Field::Home,
        Field::Method,
        Field::Host,
        Field::Path,
        Field::Service,
        Field::Route,
        Field::Status,
        Field::Outcome,
        Field::Reason,
        Field::DurationUs,
        Field::RequestLen,
        Field::ResponseLen,
        Field::Endpoint,
        Field::To,
        Field::Cause,
        Field::Tries,
        Field::TraceId,
    ];

    /// Its name in a line.
    pub fn name(self) -> &'static str {
        match self {
            Field::Time => "time",
            Field::Node => "node",
            Field::Direction => "direction",
            Field::Client => "client",
            Field::Home => "home",
            Field::Method => "method",
            Field::Host => "host",
            Field::Path => "path",
            Field::Protocol => "protocol",
            Field::UserAgent => "user_agent",
            Field::Service => "service",
            Field::Route => "route",
            Field::Status => "status",
            Field::Outcome => "outcome",
            Field::Reason => "reason",
            Field::DurationUs => "duration_us",
            Field::UpstreamUs => "upstream_us",
            Field::RequestLen => "request_len",
            Field::ResponseLen => "response_len",
            Field::Endpoint => "endpoint",
            Field::To => "to",
            Field::Cause => "cause",
            Field::Tries => "tries",
            Field::TraceId => "trace_id",
            Field::SpanId => "span_id",
        }
    }
}

/// Where a syslog listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Syslog {
    /// A unix datagram socket.
    Unix(PathBuf),
    /// A UDP port.
    Udp(SocketAddr),
}

impl Syslog {
    /// Reads `unix:/path` or `udp:address:port`.
    pub fn parse(text: &str) -> Option<Syslog> {
        match text.split_once(':')? {
            ("unix", path) if path.starts_with('/') => Some(Syslog::Unix(path.into())),
            ("udp", address) => address.parse().ok().map(Syslog::Udp),
            _ => None,
        }
    }
}

/// What is wrong with the access log's table.
pub(super) fn access_log(log: &AccessLogConfig, found: &mut Vec<Problem>) {
    let mut wrong = |key: &str, problem: String| {
        found.push(Problem::new(format!("access_log.{key}"), problem));
    };
    if !(0.0..=1.0).contains(&log.share) {
        wrong("share", "must be from 0 to 1".to_owned());
    }
    if !QUEUE_LEN.contains(&log.queue_len_max) {
        wrong("queue_len_max", range(QUEUE_LEN));
    }
    if log.file_len_max < FILE_LEN_MIN {
        wrong("file_len_max", format!("must be at least {FILE_LEN_MIN}"));
    }
    if log.files_kept > FILES_KEPT_MAX {
        wrong("files_kept", format!("must be at most {FILES_KEPT_MAX}"));
    }
    if log.fields.is_empty() {
        wrong("fields", "must not be empty".to_owned());
    }
    if Syslog::parse(&log.syslog).is_none() {
        let problem = "must be written unix:/dev/log or udp:ADDRESS:PORT";
        wrong("syslog", problem.to_owned());
    }
    match (&log.collector, log.output) {
        (None, Output::Otlp) => wrong("output", "\"otlp\" needs a collector".to_owned()),
        (Some(_), Output::Otlp) | (None, _) => {}
        (Some(_), _) => wrong("collector", "needs output = \"otlp\"".to_owned()),
    }
    let collector = log.collector.as_deref();
    if let Some(problem) = collector.and_then(collector_problem) {
        wrong("collector", problem.to_owned());
    }
    if log.ca_file.is_some() && !collector.is_some_and(is_https) {
        wrong("ca_file", CA_FILE_UNUSED.to_owned());
    }
    if !(1..=COLLECTOR_WAIT_MS_MAX).contains(&log.wait_ms_max) {
        wrong("wait_ms_max", range(1..=COLLECTOR_WAIT_MS_MAX));
    }
    if log.headers.len() > HEADERS_MAX {
        wrong("headers", format!("must be at most {HEADERS_MAX}"));
    }
    for (index, header) in log.headers.iter().enumerate() {
        let key = format!("headers[{index}]");
        match HeaderName::from_bytes(header.as_bytes()) {
            Err(_) => wrong(&key, format!("{header:?} is no header's name")),
            Ok(name) if SECRET.contains(&name.as_str()) => {
                wrong(
                    &key,
                    format!("{name} says who somebody is: no log shows it"),
                );
            }
            Ok(_) => {}
        }
    }
}

/// What is wrong with the traces' table.
pub(super) fn traces(traces: &TracesConfig, found: &mut Vec<Problem>) {
    let mut wrong = |key: &str, problem: String| {
        found.push(Problem::new(format!("traces.{key}"), problem));
    };
    if let Some(problem) = collector_problem(&traces.collector) {
        wrong("collector", problem.to_owned());
    }
    if traces.ca_file.is_some() && !is_https(&traces.collector) {
        wrong("ca_file", CA_FILE_UNUSED.to_owned());
    }
    if !(0.0..=1.0).contains(&traces.share) {
        wrong("share", "must be from 0 to 1".to_owned());
    }
    if !(1..=COLLECTOR_WAIT_MS_MAX).contains(&traces.wait_ms_max) {
        wrong("wait_ms_max", range(1..=COLLECTOR_WAIT_MS_MAX));
    }
    if !QUEUE_LEN.contains(&traces.queue_len_max) {
        wrong("queue_len_max", range(QUEUE_LEN));
    }
}

fn range<T: std::fmt::Display>(range: std::ops::RangeInclusive<T>) -> String {
    format!("must be from {} to {}", range.start(), range.end())
}

fn collector_problem(collector: &str) -> Option<&'static str> {
    let uri: Option<Uri> = collector.parse().ok();
    let uri = uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
    match uri.as_ref().and_then(Uri::authority) {
        None => Some("must be written http://HOST:PORT or https://HOST:PORT"),
        Some(authority) if authority.as_str().contains('@') => {
            Some("must not have a name and a password: the proxy shows none to a collector")
        }
        Some(_) => None,
    }
}

/// What is wrong with roots for a collector that shows no certificate.
const CA_FILE_UNUSED: &str = "is for a collector at https://HOST:PORT; leave it away";

fn is_https(collector: &str) -> bool {
    let uri: Option<Uri> = collector.parse().ok();
    uri.is_some_and(|uri| uri.scheme_str() == Some("https"))
}
