//! What happens now: `top` and `events`.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::anyhow;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::arguments::{EventsArguments, TopArguments};
use super::client::Client;
use super::output::{Format, Table, percent, rps, say, text};
use super::show::summary;
use crate::{Failure, Outcome, terminal};

/// Longest line of an event, in bytes.
const LINE_LEN_MAX: usize = 1 << 20;

/// Shows the busiest places again and again, until stopped.
pub async fn top(
    client: &Client,
    format: Format,
    how: &TopArguments,
    stop: &CancellationToken,
) -> Outcome {
    if !(0.1..=3600.0).contains(&how.every) {
        return Err(Failure::Input(anyhow!("--every must be from 0.1 to 3600")));
    }
    let redraw = std::io::stdout().is_terminal() && !how.once;
    loop {
        let status = client.get("/v1/status").await?;
        if redraw && format == Format::Table {
            say("\x1b[H\x1b[2J")?;
        }
        format.print(&status, || {
            let rows = terminal::size().rows.saturating_sub(10);
            busiest(&status, if redraw { rows } else { usize::MAX })
        })?;
        if how.once {
            return Ok(());
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(Duration::from_secs_f64(how.every)) => {}
        }
    }
}

fn busiest(status: &Value, rows: usize) -> String {
    let services = status["services"].as_array().into_iter().flatten();
    let mut seats: Vec<(&Value, &Value)> = services
        .flat_map(|service| {
            let nodes = service["nodes"].as_array().into_iter().flatten();
            nodes.map(move |seat| (&service["service"], seat))
        })
        .collect();
    let busy = |seat: &Value| {
        let used = |name: &str| seat[name].as_f64().unwrap_or(0.0);
        used("completed_rps") / used("capacity_rps").max(1e-9)
    };
    seats.sort_by(|a, b| busy(b.1).total_cmp(&busy(a.1)));
    let heads = [
        "NODE", "SERVICE", "USED", "PLANNED", "ENTERED", "SERVED", "CAPACITY", "OUT", "SPILL",
        "IN", "SHED", "FAILED",
    ];
    let mut table = Table::new(heads);
    for (service, seat) in seats.into_iter().take(rows) {
        table.row([
            text(&seat["node"]),
            text(service),
            percent(&json!(busy(seat))),
            percent(&seat["planned_utilisation"]),
            rps(&seat["entered_rps"]),
            rps(&seat["completed_rps"]),
            rps(&seat["capacity_rps"]),
            rps(&seat["moved_out_plan_rps"]),
            rps(&seat["moved_out_spill_rps"]),
            rps(&seat["moved_in_rps"]),
            rps(&seat["shed_rps"]),
            rps(&seat["failed_rps"]),
        ]);
    }
    let head = summary(status);
    let head: Vec<&str> = head.lines().take(3).collect();
    format!("{}\n\n{table}", head.join("\n"))
}

/// Prints events until stopped, or so many.
pub async fn events(
    client: &Client,
    format: Format,
    which: &EventsArguments,
    stop: &CancellationToken,
) -> Outcome {
    let mut body = client.stream("/v1/events", which.since).await?;
    let (mut buffer, mut left) = (Vec::new(), which.count.unwrap_or(u64::MAX));
    while left > 0 {
        let frame = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            frame = body.frame() => frame,
        };
        let Some(Ok(frame)) = frame else {
            return Err(Failure::Run(anyhow!("the controller ended the events")));
        };
        buffer.extend_from_slice(&frame.into_data().unwrap_or_default());
        while left > 0
            && let Some(end) = buffer.iter().position(|&byte| byte == b'\n')
        {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let data = line.strip_prefix(b"data: ");
            let event = data.and_then(|data| serde_json::from_slice::<Value>(data).ok());
            if let Some(event) = event.filter(|event| !event["number"].is_null()) {
                print(&event, format)?;
                left -= 1;
            }
        }
        if buffer.len() > LINE_LEN_MAX {
            return Err(Failure::Run(anyhow!("an event has no end")));
        }
    }
    Ok(())
}

/// One event a line, whatever the format: programs read them as they come.
fn print(event: &Value, format: Format) -> Outcome {
    match format {
        Format::Json => say(&format!("{event}\n")),
        Format::Yaml => {
            say("---\n")?;
            format.print(event, String::new)
        }
        Format::Table => {
            let known = ["number", "at", "event"];
            let fields = event.as_object().into_iter().flatten();
            let rest = fields.filter(|(name, _)| !known.contains(&name.as_str()));
            let rest: Vec<String> = rest
                .map(|(name, value)| format!("{name}={}", text(value)))
                .collect();
            let [number, at, event] = known.map(|name| text(&event[name]));
            say(&format!(
                "{number:>6}  {at}  {event:<18}  {}\n",
                rest.join(" ")
            ))
        }
    }
}
