//! What happens now: `events`.

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::arguments::EventsArguments;
use super::client::Client;
use super::output::{Format, say, text};
use super::sse::Events;
use crate::Outcome;

/// Prints events until stopped, or so many.
pub async fn events(
    client: &Client,
    format: Format,
    which: &EventsArguments,
    stop: &CancellationToken,
) -> Outcome {
    let mut events = Events::new(client.stream("/v1/events", which.since).await?);
    let mut left = which.count.unwrap_or(u64::MAX);
    while left > 0 {
        let (_, event) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            next = events.next() => next?,
        };
        if !event["number"].is_null() {
            print(&event, format)?;
            left -= 1;
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
