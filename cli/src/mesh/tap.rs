//! `isobar tap`, `logs`, `bench-link`: what running programs are asked.

use clap::{Args, Subcommand};
use http::Method;
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::tap::{LINES_PER_S_MAX, Statuses};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::output::{Format, say, text};
use super::sse::Events;
use crate::{Failure, Outcome};

/// Which requests.
#[derive(Debug, Args)]
pub struct TapArguments {
    /// namespace/name
    #[arg(required_unless_present = "no_service", conflicts_with = "no_service")]
    pub service: Option<ServiceName>,
    /// Those that no known service is for
    #[arg(long)]
    pub no_service: bool,
    /// Those that entered at this node
    #[arg(long, value_name = "NODE")]
    pub from: Option<NodeId>,
    /// Those that this node served
    #[arg(long, value_name = "NODE")]
    pub to: Option<NodeId>,
    /// With this method
    #[arg(long, value_name = "METHOD")]
    pub method: Option<String>,
    /// With a path that begins so
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// Answered so: 503, 5xx, 500-503
    #[arg(long, value_name = "STATUS")]
    pub status: Option<Statuses>,
    /// Served by another node than they entered at
    #[arg(long)]
    pub moved: bool,
    /// Requests a second that each node tells at most; further ones are counted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(LINES_PER_S_MAX)))]
    pub max_rps: Option<u32>,
    /// Also this header of request and answer; may be repeated, not for what may hold a secret
    #[arg(long = "header", value_name = "NAME")]
    pub headers: Vec<String>,
    /// End after so many
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

impl TapArguments {
    /// The service, in words.
    fn of(&self) -> String {
        let service = self.service.as_ref();
        service.map_or_else(|| "no service".to_owned(), ServiceName::to_string)
    }
}

/// What to do with logs.
#[derive(Debug, Args)]
pub struct LogsArguments {
    /// What
    #[command(subcommand)]
    pub action: LogsAction,
}

/// What to do with logs.
#[derive(Debug, Subcommand)]
pub enum LogsAction {
    /// Log at other levels from now on, until the next start
    #[command(after_help = "Examples:
  isobar logs level north-7 debug
  isobar logs level north-7 isobar_edge_proxy::control=trace,info
  isobar logs level --of-controller debug")]
    Level {
        /// NODE LEVELS; with --of-controller LEVELS alone: error, warn, info, debug, trace, or target=level,…
        #[arg(required = true, num_args = 1..=2, value_name = "NODE|LEVELS")]
        words: Vec<String>,
        /// The controller's own log instead of a node's
        #[arg(long)]
        of_controller: bool,
    },
}

/// Which way.
#[derive(Debug, Args)]
pub struct BenchLinkArguments {
    /// The node that measures
    pub from: NodeId,
    /// The node that answers
    pub to: NodeId,
}

/// Prints requests as they end, until stopped, or so many.
pub async fn tap(
    client: &Client,
    format: Format,
    which: &TapArguments,
    stop: &CancellationToken,
) -> Outcome {
    let of = which.service.as_ref().map(|service| format!("/{service}"));
    let path = format!("/v1/tap{}{}", of.unwrap_or_default(), query(which));
    let mut events = Events::new(client.stream(&path, None).await?);
    let mut left = which.count.unwrap_or(u64::MAX);
    while left > 0 {
        let (name, data) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            next = events.next() => next?,
        };
        match name.as_str() {
            "tapping" => {
                let nodes = data["nodes"].as_array().map_or(0, Vec::len);
                eprintln!("isobar: {nodes} nodes look for requests of {}", which.of());
            }
            "left_out" => eprintln!(
                "isobar: left out so far: {} beyond the rate at their nodes, {} because this reader was slow",
                data["by_proxies"], data["by_reader"]
            ),
            "tapped" => {
                print(&data, which, format)?;
                left -= 1;
            }
            _ => {}
        }
    }
    Ok(())
}

fn query(which: &TapArguments) -> String {
    let mut parts = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        parts.extend(value.map(|value| format!("{name}={}", escaped(&value))));
    };
    add("from", which.from.as_ref().map(NodeId::to_string));
    add("to", which.to.as_ref().map(NodeId::to_string));
    add("method", which.method.clone());
    add("path", which.path.clone());
    add(
        "status",
        which.status.map(|s| format!("{}-{}", s.from, s.to)),
    );
    add("moved", which.moved.then(|| "true".to_owned()));
    add("max_rps", which.max_rps.map(|n| n.to_string()));
    let headers = which.headers.join(",");
    add("headers", (!headers.is_empty()).then_some(headers));
    match parts.is_empty() {
        true => String::new(),
        false => format!("?{}", parts.join("&")),
    }
}

/// As it stands in a query (RFC 3986, section 2.3).
fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/,".contains(&b);
    let escape = |b: u8| match plain(b) {
        true => char::from(b).to_string(),
        false => format!("%{b:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// One request a line, whatever the format: programs read them as they come.
fn print(request: &Value, which: &TapArguments, format: Format) -> Outcome {
    match format {
        Format::Json => say(&format!("{request}\n")),
        Format::Yaml => {
            say("---\n")?;
            format.print(request, String::new)
        }
        Format::Table => say(&line(request, which)),
    }
}

fn line(request: &Value, which: &TapArguments) -> String {
    let served = match (&request["served"], &request["moved"]) {
        (Value::String(node), _) => text(&json!(node)),
        (_, Value::String(cause)) if cause == "cloud" => "(cloud)".to_owned(),
        _ => "(nobody)".to_owned(),
    };
    let bytes = |way: &str| request[way].as_u64();
    let status = match (
        request["status"].as_u64(),
        bytes("received_len"),
        bytes("sent_len"),
    ) {
        (_, Some(received), Some(sent)) => format!("{received} B in, {sent} B out"),
        (Some(0) | None, ..) => "gone".to_owned(),
        (Some(status), ..) => status.to_string(),
    };
    // A connection has no path.
    let asked = match request["path"].as_str() {
        None | Some("") => text(&request["method"]),
        Some(_) => format!("{} {}", text(&request["method"]), text(&request["path"])),
    };
    let latency_ms = request["latency_us"].as_f64().unwrap_or(0.0) / 1e3;
    let mut line = format!(
        "{}  {} -> {served}  {}  {}  {status}  {latency_ms:.1} ms  {}",
        time(request["at_ms"].as_u64().unwrap_or(0)),
        text(&request["home"]),
        which.of(),
        asked,
        match &request["moved"] {
            Value::Null => "home".to_owned(),
            cause => text(cause),
        },
    );
    for (field, mark) in [("headers", ""), ("answer_headers", "<")] {
        for pair in request[field].as_array().into_iter().flatten() {
            line.push_str(&format!("  {mark}{}={}", text(&pair[0]), text(&pair[1])));
        }
    }
    line.push('\n');
    line
}

/// Time of day, UTC.
fn time(at_ms: u64) -> String {
    let (s, ms) = (at_ms / 1000 % 86_400, at_ms % 1000);
    format!("{:02}:{:02}:{:02}.{ms:03}", s / 3600, s / 60 % 60, s % 60)
}

/// Changes what is logged.
pub async fn logs(client: &Client, format: Format, action: &LogsAction) -> Outcome {
    let LogsAction::Level {
        words,
        of_controller,
    } = action;
    let (path, who, levels) = match (words.as_slice(), of_controller) {
        ([levels], true) => (
            "/v1/log-levels".to_owned(),
            "the controller".to_owned(),
            levels,
        ),
        ([node, levels], false) => {
            let node = NodeId::new(node).map_err(|error| Failure::Input(error.into()))?;
            (
                format!("/v1/nodes/{node}/log-levels"),
                node.to_string(),
                levels,
            )
        }
        _ => {
            let wrong = "say NODE LEVELS, or --of-controller LEVELS";
            return Err(Failure::Input(anyhow::anyhow!(wrong)));
        }
    };
    let body = json!({ "levels": levels });
    let answer = client.send(Method::PUT, &path, Some(&body)).await?.value;
    format.print(&answer, || {
        let before = text(&answer["before"]);
        format!("{who} logs at {levels} now, at {before} before\n")
    })
}

/// Measures the way between two nodes.
pub async fn bench_link(client: &Client, format: Format, which: &BenchLinkArguments) -> Outcome {
    let body = json!({ "from": which.from, "to": which.to });
    let answer = client.send(Method::POST, "/v1/bench-link", Some(&body));
    let link = answer.await?.value;
    format.print(&link, || {
        let ms = |name: &str| link[name].as_f64().unwrap_or(0.0) / 1e3;
        let mb = |bytes: &Value| bytes.as_f64().unwrap_or(0.0) / 1e6;
        format!(
            "{} -> {}\nround trip  p50 {:.2} ms, p99 {:.2} ms, least {:.2} ms ({} rounds)\nthroughput  {:.1} MB/s ({:.1} MB in {:.1} s)\n",
            which.from,
            which.to,
            ms("rtt_p50_us"),
            ms("rtt_p99_us"),
            ms("rtt_min_us"),
            link["rounds"],
            mb(&link["throughput_bytes_per_s"]),
            mb(&link["bytes"]),
            link["took_us"].as_f64().unwrap_or(0.0) / 1e6,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_served_what_how() {
        let which = TapArguments {
            service: ServiceName::new("shop/cart").ok(),
            no_service: false,
            from: None,
            to: None,
            method: None,
            path: Some("/a b&c".into()),
            status: "5xx".parse().ok(),
            moved: true,
            max_rps: Some(5),
            headers: vec!["a".into(), "b".into()],
            count: None,
        };
        assert_eq!(
            query(&which),
            "?path=/a%20b%26c&status=500-599&moved=true&max_rps=5&headers=a,b"
        );
        let request = json!({
            "home": "n1", "served": "n2", "moved": "spill", "at_ms": 3_723_004_u64, "method": "GET", "path": "/x\u{1b}",
            "status": 503, "latency_us": 12_345, "answer_headers": [["a", "1"]],
        });
        assert_eq!(
            line(&request, &which),
            "01:02:03.004  n1 -> n2  shop/cart  GET /x\u{fffd}  503  12.3 ms  spill  <a=1\n"
        );
        let connection = json!({
            "home": "n1", "served": "n1", "at_ms": 3_723_004_u64, "method": "TCP", "path": "", "status": 0,
            "latency_us": 2_000_000, "received_len": 12, "sent_len": 3400,
        });
        assert_eq!(
            line(&connection, &which),
            "01:02:03.004  n1 -> n1  shop/cart  TCP  12 B in, 3400 B out  2000.0 ms  home\n"
        );
    }
}
