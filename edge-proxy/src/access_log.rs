//! The access log: one line for each request or TCP connection that is told of, with the fields that the operator chose.
//!
//! A line is made when its request has ended, by the worker that served it, straight into that worker's
//! [`Spool`]; [`output`] takes lines to their file, to standard output or to syslog, and [`crate::otlp`] to a collector.
//! No line has `Authorization`, a cookie, or, unless the operator says so, a value of the target's query.

use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use isobar_mesh_api::names::NodeId;
use isobar_mesh_api::resource::weight_policy::Timestamp;

use crate::config::telemetry::{AccessLogConfig, Field, Format, Output, Query};
use crate::json::{self, Value, attribute};
use crate::spool::Spool;
use crate::story::{Ended, Picks, To};
use crate::trace::Trace;

pub mod output;

/// What is told of, and how.
#[derive(Debug)]
pub struct AccessLog {
    config: AccessLogConfig,
    style: Style,
    headers: Vec<HeaderName>,
    picks: Picks,
    spool: Arc<Spool>,
}

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Json,
    Text,
    /// A record of OpenTelemetry's logs, with a comma before it.
    Otlp,
}

impl AccessLog {
    /// As the configuration says; lines go to `spool`.
    pub fn new(config: &AccessLogConfig, spool: Arc<Spool>) -> AccessLog {
        let headers = config.headers.iter();
        AccessLog {
            style: match (config.output, config.format) {
                (Output::Otlp, _) => Style::Otlp,
                (_, Format::Json) => Style::Json,
                (_, Format::Text) => Style::Text,
            },
            // Checked when the configuration was read.
            headers: headers
                .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
                .collect(),
            picks: Picks::new(&config.always, config.slow_ms),
            config: config.clone(),
            spool,
        }
    }

    /// Whether the next request is of the share that is told of.
    pub(crate) fn draws(&self) -> bool {
        self.config.share > 0.0 && fastrand::f64() < self.config.share
    }

    /// Whether a request may be told of that was not drawn.
    pub(crate) fn may_pick(&self) -> bool {
        !self.picks.are_none()
    }

    /// The place in a trace of a request, when nobody here records traces.
    pub(crate) fn place(&self, headers: &HeaderMap) -> Option<Trace> {
        let wanted = self.config.fields.contains(&Field::TraceId);
        wanted.then(|| Trace::known(headers)).flatten()
    }

    /// What it shows of a request's headers.
    pub(crate) fn headers(&self, headers: &HeaderMap) -> Vec<Option<HeaderValue>> {
        self.headers
            .iter()
            .map(|name| headers.get(name).cloned())
            .collect()
    }

    /// Tells of a finished request, if it is to be told of.
    pub(crate) fn hear(&self, node: &NodeId, ended: &Ended<'_>) {
        if ended.asked.is_drawn || self.picks.have(ended) {
            self.spool
                .put(ended.worker, |out| self.write(out, node, ended));
        }
    }

    fn write(&self, out: &mut Vec<u8>, node: &NodeId, ended: &Ended<'_>) {
        let since_us = u128::from(ended.now_us.saturating_sub(ended.arrived_us));
        // By the system's clock of now, which may have been set since the request arrived.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let arrived_us = now
            .map_or(0, |now| now.as_micros())
            .saturating_sub(since_us);
        let mut line = Line::begin(out, self.style, arrived_us);
        for field in &self.config.fields {
            match self.value(*field, node, ended, arrived_us) {
                Some(Said::Text(text)) => line.put(field.name(), Value::Text(&text)),
                Some(Said::Number(number)) => line.put(field.name(), Value::Number(number)),
                None => {}
            }
        }
        for (name, value) in self.headers.iter().zip(&ended.asked.headers) {
            if let Some(value) = value {
                line.put(name.as_str(), Value::Text(value.as_bytes()));
            }
        }
        line.end(ended);
    }

    /// What a field says of a request; `None` when the request has no such thing.
    fn value<'a>(
        &self,
        field: Field,
        node: &'a NodeId,
        ended: &Ended<'a>,
        arrived_us: u128,
    ) -> Option<Said<'a>> {
        let (asked, notes) = (ended.asked, ended.notes);
        let head = asked.head.as_ref();
        let last = notes.tries.last();
        let to = last.map(|last| &last.to);
        Some(match field {
            // A record of OpenTelemetry's has its time beside its fields.
            Field::Time if self.style == Style::Otlp => return None,
            Field::Time => time(arrived_us).into(),
            Field::Node => node.as_str().into(),
            Field::Direction => asked.direction.as_str().into(),
            Field::Client => asked.client?.to_string().into(),
            Field::Home => asked.home.as_ref()?.as_str().into(),
            Field::Method => head?.method.as_str().into(),
            Field::Host => match (head, asked.destination) {
                (Some(head), _) => Said::Text(head.host()?.into()),
                (None, destination) => destination?.to_string().into(),
            },
            Field::Path => Said::Text(target(&head?.uri, self.config.query).into()),
            Field::Protocol => match head {
                Some(head) => format!("{:?}", head.version).into(),
                None => "TCP".into(),
            },
            Field::UserAgent => Said::Text(head?.user_agent.as_ref()?.as_bytes().into()),
            Field::Service => notes.service.as_ref()?.service.to_string().into(),
            Field::Route => {
                let rule = notes.rule.as_ref()?;
                format!("{} {}", rule.route, rule.place).into()
            }
            Field::Status => Said::Number(head.map(|_| ended.status())?.into()),
            Field::Outcome => ended.outcome.as_str().into(),
            Field::Reason => match notes.reason()? {
                Cow::Borrowed(reason) => reason.into(),
                Cow::Owned(reason) => reason.into(),
            },
            Field::DurationUs => Said::Number(ended.took_us),
            Field::UpstreamUs => Said::Number(last?.ended_us.saturating_sub(last?.begun_us)),
            Field::RequestLen => {
                Said::Number(head.map_or(Some(ended.received_len), |head| head.len)?)
            }
            Field::ResponseLen => Said::Number(ended.sent_len),
            Field::Endpoint => match to? {
                To::Endpoint(at, _) | To::Cloud(at) => at.address().into(),
                To::Node(..) => return None,
            },
            Field::To | Field::Cause => match (to?, field) {
                (To::Node(neighbour, _), Field::To) => neighbour.node.as_str().into(),
                (To::Node(_, cause), _) => cause.as_str().into(),
                _ => return None,
            },
            Field::Tries => Said::Number(notes.tried.into()),
            Field::TraceId => format!("{:032x}", ended.trace?.own.trace).into(),
            Field::SpanId => format!("{:016x}", ended.trace?.span()?).into(),
        })
    }
}

/// What a field says.
enum Said<'a> {
    Text(Cow<'a, [u8]>),
    Number(u64),
}

impl<'a> From<&'a str> for Said<'a> {
    fn from(text: &'a str) -> Said<'a> {
        Said::Text(text.as_bytes().into())
    }
}

impl From<String> for Said<'_> {
    fn from(text: String) -> Self {
        Said::Text(text.into_bytes().into())
    }
}

/// A line that is being written.
struct Line<'a> {
    out: &'a mut Vec<u8>,
    style: Style,
    is_begun: bool,
}

impl<'a> Line<'a> {
    fn begin(out: &'a mut Vec<u8>, style: Style, arrived_us: u128) -> Line<'a> {
        match style {
            Style::Json => out.push(b'{'),
            Style::Text => {}
            Style::Otlp => {
                // `SEVERITY_NUMBER_INFO`.
                let _ = write!(
                    out,
                    ",{{\"timeUnixNano\":\"{}\",\"severityNumber\":9,\"severityText\":\"INFO\",\
                     \"body\":{{\"stringValue\":\"access\"}},\"attributes\":[",
                    arrived_us * 1000
                );
            }
        }
        Line {
            out,
            style,
            is_begun: false,
        }
    }

    fn put(&mut self, name: &str, value: Value<'_>) {
        let separator = match self.style {
            Style::Json => b',',
            Style::Text => b' ',
            Style::Otlp => return attribute(self.out, name, value),
        };
        if std::mem::replace(&mut self.is_begun, true) {
            self.out.push(separator);
        }
        if self.style == Style::Json {
            json::string(self.out, name.as_bytes());
            self.out.push(b':');
        } else {
            self.out.extend_from_slice(name.as_bytes());
            self.out.push(b'=');
        }
        match value {
            Value::Number(number) => json::number(self.out, number),
            Value::Text(text) if self.style == Style::Text && is_plain(text) => {
                self.out.extend_from_slice(text);
            }
            Value::Text(text) => json::string(self.out, text),
        }
    }

    fn end(self, ended: &Ended<'_>) {
        match self.style {
            Style::Json => self.out.extend_from_slice(b"}\n"),
            Style::Text => self.out.push(b'\n'),
            Style::Otlp => {
                self.out.push(b']');
                if let Some(trace) = ended.trace {
                    let _ = write!(self.out, ",\"traceId\":\"{:032x}\"", trace.own.trace);
                    if let Some(span) = trace.span() {
                        let _ = write!(self.out, ",\"spanId\":\"{span:016x}\"");
                    }
                }
                self.out.push(b'}');
            }
        }
    }
}

/// Whether a text can stand in a line of `name=value` as it is.
fn is_plain(text: &[u8]) -> bool {
    let fits = |byte: &u8| byte.is_ascii_graphic() && !b"\"=\\".contains(byte);
    (1..=json::TEXT_LEN_MAX).contains(&text.len()) && text.iter().all(fits)
}

/// RFC 3339, UTC, with milliseconds.
pub(crate) fn time(at_us: u128) -> String {
    let seconds = i64::try_from(at_us / 1_000_000).unwrap_or(i64::MAX);
    let mut text = Timestamp(seconds).to_string();
    text.pop();
    text.push_str(&format!(".{:03}Z", at_us / 1000 % 1000));
    text
}

/// A request's target with as much of its query as may be shown.
fn target(uri: &http::Uri, query: Query) -> Vec<u8> {
    let mut shown = uri.path().as_bytes().to_vec();
    let Some(asked) = uri.query().filter(|_| query != Query::None) else {
        return shown;
    };
    shown.push(b'?');
    if query == Query::Whole {
        shown.extend_from_slice(asked.as_bytes());
        return shown;
    }
    for (place, pair) in asked.split('&').enumerate() {
        if place > 0 {
            shown.push(b'&');
        }
        // What has no name is a value.
        if let Some((name, _)) = pair.split_once('=') {
            shown.extend_from_slice(name.as_bytes());
            shown.push(b'=');
        }
        shown.push(b'*');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_shown_as_far_as_they_may_be() {
        let uri = "/pay?user=7&token=s3cret&bare".parse().unwrap();
        let shown = |query| String::from_utf8(target(&uri, query)).unwrap();
        assert_eq!(shown(Query::Names), "/pay?user=*&token=*&*");
        assert_eq!(shown(Query::Whole), "/pay?user=7&token=s3cret&bare");
        assert_eq!(shown(Query::None), "/pay");
    }

    #[test]
    fn no_value_leaves_its_place() {
        let line = |style| {
            let mut out = Vec::new();
            let mut line = Line::begin(&mut out, style, 0);
            line.put("a", "plain".into());
            line.put("b", Value::Number(7));
            line.put("c", Value::Text(b"x y=\"1\"\n2"));
            line.put("d", "".into());
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            line(Style::Json),
            r#"{"a":"plain","b":7,"c":"x y=\"1\"\n2","d":"""#
        );
        assert_eq!(line(Style::Text), r#"a=plain b=7 c="x y=\"1\"\n2" d="""#);
    }

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(time(1_709_210_096_789_000), "2024-02-29T12:34:56.789Z");
    }
}
