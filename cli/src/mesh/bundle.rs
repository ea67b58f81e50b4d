//! `isobar support-bundle`: what somebody who helps needs to see, in one file, without secrets.
//!
//! Everything is read through the REST API, redacted by [`super::redact`] and bounded; `manifest.json` in the bundle says
//! what was taken, what could not be, and how much was redacted.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};
use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::client::Client;
use super::output::Format;
use super::redact::{redact, redacted};
use super::sse::Events;
use crate::{Failure, Outcome};

/// Largest part, in bytes; one that is larger is left out.
const PART_LEN_MAX: usize = 32 << 20;
/// Most explanations: of the services and nodes that are busiest.
const EXPLAINED_MAX: usize = 10;
/// Most events; the controller keeps no more.
const EVENTS_MAX: usize = 1_024;
/// Events that are kept come at once; the bundle does not wait longer for the next.
const EVENT_WAIT: Duration = Duration::from_secs(1);
/// Everything below this path of the archive.
const ROOT: &str = "isobar-support";

/// What is read, under which name.
const PARTS: [(&str, &str); 9] = [
    ("status.json", "/v1/status"),
    ("plan.json", "/v1/plans/current"),
    ("plans.json", "/v1/plans?limit=50"),
    ("audit.json", "/v1/audit?limit=200"),
    ("authority.json", "/v1/authority"),
    ("openapi.json", "/openapi.json"),
    ("metrics.txt", "/metrics"),
    ("ready.txt", "/readyz"),
    ("live.txt", "/livez"),
];

/// Lists that are read with all their pages.
const LISTS: [(&str, &str); 9] = [
    ("nodes.json", "/v1/nodes"),
    ("services.json", "/v1/services"),
    ("endpoints.json", "/v1/endpoints"),
    ("weight-policies.json", "/v1/weight-policies"),
    ("traffic-policies.json", "/v1/traffic-policies"),
    ("access-policies.json", "/v1/access-policies"),
    ("http-routes.json", "/v1/http-routes"),
    ("grpc-routes.json", "/v1/grpc-routes"),
    ("weights.json", "/v1/weights"),
];

/// Where to.
#[derive(Debug, Args)]
pub struct BundleArguments {
    /// The archive; it must not be there yet
    #[arg(short, long, value_name = "FILE.tar.gz")]
    pub file: PathBuf,
}

/// What was gathered.
#[derive(Default)]
struct Bundle {
    parts: Vec<(String, Vec<u8>)>,
    manifest: Vec<Value>,
}

/// Writes the bundle.
pub async fn run(client: &Client, format: Format, how: &BundleArguments) -> Outcome {
    // Before anything is asked: it may not be writable.
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&how.file);
    let shown = how.file.display();
    let file = file.with_context(|| format!("cannot create {shown}"));
    let file = file.map_err(Failure::Input)?;
    let gathered = gather(client).await;
    if gathered.is_err() {
        // Half a bundle helps nobody.
        let _ = std::fs::remove_file(&how.file);
    }
    let (bundle, manifest) = gathered?;
    write(file, &bundle)
        .with_context(|| format!("cannot write {shown}"))
        .map_err(Failure::Run)?;
    format.print(&manifest, || summary(&how.file, &manifest))
}

fn summary(file: &Path, manifest: &Value) -> String {
    let parts = manifest["parts"].as_array().cloned().unwrap_or_default();
    let missing: Vec<String> = parts
        .iter()
        .filter(|part| !part["missing"].is_null())
        .map(|part| format!("  without {}: {}\n", part["name"], part["missing"]))
        .collect();
    let redacted: u64 = parts
        .iter()
        .filter_map(|part| part["redacted"].as_u64())
        .sum();
    let taken = parts.len() - missing.len();
    format!(
        "{taken} parts in {}, {redacted} values redacted\n{}",
        file.display(),
        missing.join("")
    )
}

async fn gather(client: &Client) -> Result<(Bundle, Value), Failure> {
    let mut bundle = Bundle::default();
    // When this cannot be read, nothing can.
    let status = client.get("/v1/status").await?;
    for (name, path) in PARTS {
        bundle.add(name, path, client.get(path).await);
    }
    for (name, path) in LISTS {
        let items = client.list(path).await;
        bundle.add(name, path, items.map(|items| json!({ "items": items })));
    }
    for (service, node) in hottest(&status) {
        let path = format!("/v1/explain/{service}/{node}");
        let name = format!("explain/{}-{node}.json", service.replace('/', "-"));
        bundle.add(&name, &path, client.get(&path).await);
    }
    bundle.add("events.json", "/v1/events", events(client).await);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let manifest = json!({
        "made_s": since.map_or(0, |t| t.as_secs()),
        "isobar": env!("CARGO_PKG_VERSION"),
        "controller": client.url(),
        "parts": bundle.manifest,
    });
    let text = format!("{manifest:#}\n").into_bytes();
    bundle.parts.insert(0, ("manifest.json".to_owned(), text));
    Ok((bundle, manifest))
}

/// Services at nodes, those nearest to their ceiling first.
fn hottest(status: &Value) -> Vec<(String, String)> {
    let services = status["services"].as_array().into_iter().flatten();
    let mut seats: Vec<(f64, String, String)> = services
        .flat_map(|service| {
            let nodes = service["nodes"].as_array().into_iter().flatten();
            nodes.filter_map(|seat| {
                let used = seat["planned_utilisation"].as_f64().unwrap_or(0.0);
                let names = (service["service"].as_str()?, seat["node"].as_str()?);
                Some((used, names.0.to_owned(), names.1.to_owned()))
            })
        })
        .collect();
    seats.sort_by(|a, b| b.0.total_cmp(&a.0));
    let names = seats.into_iter().map(|(_, service, node)| (service, node));
    names.take(EXPLAINED_MAX).collect()
}

/// The events that the controller keeps.
async fn events(client: &Client) -> Result<Value, Failure> {
    let mut from = Events::new(client.stream("/v1/events", Some(0)).await?);
    let mut kept = Vec::new();
    while kept.len() < EVENTS_MAX {
        match tokio::time::timeout(EVENT_WAIT, from.next()).await {
            Ok(Ok((_, event))) => kept.push(event),
            Ok(Err(error)) => return Err(error),
            Err(_) => break,
        }
    }
    Ok(json!({ "items": kept }))
}

impl Bundle {
    fn add(&mut self, name: &str, path: &str, read: Result<Value, Failure>) {
        let entry = match read {
            Ok(value) => {
                let (bytes, taken) = text(value);
                match bytes.len() > PART_LEN_MAX {
                    true => {
                        json!({ "name": name, "path": path, "missing": "too large", "bytes": bytes.len() })
                    }
                    false => {
                        let entry = json!({ "name": name, "path": path, "bytes": bytes.len(), "redacted": taken });
                        self.parts.push((name.to_owned(), bytes));
                        entry
                    }
                }
            }
            Err(failure) => {
                let why = failure.to_string();
                let why = redacted(&why).unwrap_or(why);
                json!({ "name": name, "path": path, "missing": why })
            }
        };
        self.manifest.push(entry);
    }
}

/// What stands in the file, and how much was redacted.
fn text(mut value: Value) -> (Vec<u8>, u64) {
    if let Value::String(text) = &value {
        // Metrics and health are lines of text.
        let lines = text.lines().map(|line| match redacted(line) {
            Some(line) => (line, 1),
            None => (line.to_owned(), 0),
        });
        let (lines, taken): (Vec<String>, Vec<u64>) = lines.unzip();
        return (
            format!("{}\n", lines.join("\n")).into_bytes(),
            taken.iter().sum(),
        );
    }
    let taken = redact(&mut value);
    (format!("{value:#}\n").into_bytes(), taken)
}

fn write(file: std::fs::File, bundle: &Bundle) -> anyhow::Result<()> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now_s = since.map_or(0, |t| t.as_secs());
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for (name, bytes) in &bundle.parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now_s);
        archive.append_data(&mut header, format!("{ROOT}/{name}"), bytes.as_slice())?;
    }
    let mut file = archive.into_inner()?.finish()?;
    file.flush()?;
    file.sync_all().map_err(|error| anyhow!(error))
}
