//! `isobar top`: the busiest places, live.
//!
//! On a terminal the picture is redrawn on the other screen, and keys sort it; elsewhere one picture is written.

use std::cmp::Ordering;
use std::io::{IsTerminal, Read, Write};
use std::time::Duration;

use anyhow::anyhow;
use clap::ValueEnum;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::arguments::TopArguments;
use super::client::Client;
use super::output::{Format, Table, percent, rps, say, text};
use super::show::summary;
use crate::{Failure, Outcome, terminal};

/// Keys that were pressed and not looked at.
const KEYS_MAX: usize = 16;

/// What may be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Column {
    /// Served, of what can be served
    Used,
    /// Planned, of what can be served
    Planned,
    /// What enters
    Entered,
    /// What is served
    Served,
    /// What is moved to others
    Out,
    /// What comes from others
    In,
    /// What is refused for want of room
    Shed,
    /// What ends in an error
    Failed,
    /// Its name
    Node,
    /// Its name
    Service,
}

/// The order of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Order {
    by: Column,
    turned: bool,
}

impl Order {
    /// What a key does; `None` for leaving.
    fn pressed(mut self, key: u8) -> Option<Order> {
        let by = match key {
            b'q' | b'Q' | 0x03 => return None,
            b'r' => {
                self.turned = !self.turned;
                return Some(self);
            }
            b'u' => Column::Used,
            b'p' => Column::Planned,
            b'e' => Column::Entered,
            b's' => Column::Served,
            b'o' => Column::Out,
            b'i' => Column::In,
            b'x' => Column::Shed,
            b'f' => Column::Failed,
            b'n' => Column::Node,
            b'v' => Column::Service,
            _ => return Some(self),
        };
        self.by = by;
        Some(self)
    }

    /// The most first; names by the alphabet.
    fn compare(self, a: &Seat<'_>, b: &Seat<'_>) -> Ordering {
        let figure = |seat: &Seat<'_>| {
            let sum = |names: &[&str]| {
                names
                    .iter()
                    .filter_map(|n| seat.1[*n].as_f64())
                    .sum::<f64>()
            };
            match self.by {
                Column::Used => used(seat.1),
                Column::Planned => sum(&["planned_utilisation"]),
                Column::Entered => sum(&["entered_rps"]),
                Column::Served => sum(&["completed_rps"]),
                Column::Out => sum(&["moved_out_plan_rps", "moved_out_spill_rps"]),
                Column::In => sum(&["moved_in_rps"]),
                Column::Shed => sum(&["shed_rps"]),
                Column::Failed => sum(&["failed_rps"]),
                Column::Node | Column::Service => 0.0,
            }
        };
        let names = |seat: &Seat<'_>| (text(&seat.1["node"]), text(seat.0));
        let by_name = names(a).cmp(&names(b));
        let order = match self.by {
            Column::Node => by_name,
            Column::Service => text(a.0).cmp(&text(b.0)).then(by_name),
            _ => figure(b).total_cmp(&figure(a)).then(by_name),
        };
        match self.turned {
            true => order.reverse(),
            false => order,
        }
    }
}

/// A service and what it is like at one node.
type Seat<'a> = (&'a Value, &'a Value);

/// Shows the busiest places, on a terminal again and again until stopped.
pub async fn top(
    client: &Client,
    format: Format,
    how: &TopArguments,
    stop: &CancellationToken,
) -> Outcome {
    if !(0.1..=3600.0).contains(&how.every) {
        return Err(Failure::Input(anyhow!("--every must be from 0.1 to 3600")));
    }
    let order = Order {
        by: how.sort,
        turned: false,
    };
    let live = std::io::stdout().is_terminal() && !how.once && format == Format::Table;
    let status = client.get("/v1/status").await?;
    if !live {
        return format.print(&status, || picture(&status, order, usize::MAX));
    }
    let every = Duration::from_secs_f64(how.every);
    redraw(client, status, order, every, stop).await
}

async fn redraw(
    client: &Client,
    mut status: Value,
    mut order: Order,
    every: Duration,
    stop: &CancellationToken,
) -> Outcome {
    let _screen = Screen::new();
    let mut keys = keys();
    let mut due = tokio::time::interval(every);
    // The first is here already.
    due.tick().await;
    loop {
        let rows = terminal::size().rows.saturating_sub(8);
        let shown = picture(&status, order, rows);
        // Line by line over the old picture: clearing it first would flicker.
        let lines = shown.replace('\n', "\x1b[K\r\n");
        say(&format!("\x1b[H{lines}{KEYS}\x1b[K\x1b[J"))?;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            key = keys.recv() => match key {
                Some(key) => match order.pressed(key) {
                    Some(next) => order = next,
                    None => return Ok(()),
                },
                // Without a keyboard it just goes on.
                None => {
                    let (_open, closed) = mpsc::channel(1);
                    keys = closed;
                    due.tick().await;
                }
            },
            _ = due.tick() => status = client.get("/v1/status").await?,
        }
    }
}

const KEYS: &str = "\r\nq leave  r turn  sort: u used p planned e entered s served o out i in x shed f failed n node v service";

/// Keys as they are pressed.
fn keys() -> mpsc::Receiver<u8> {
    let (sender, keys) = mpsc::channel(KEYS_MAX);
    // Reading cannot be stopped; the thread ends with the program.
    std::thread::spawn(move || {
        let mut key = [0; 1];
        while let Ok(1) = std::io::stdin().read(&mut key) {
            if sender.blocking_send(key[0]).is_err() {
                return;
            }
        }
    });
    keys
}

/// The other screen of a terminal whose keys come at once; as it was when dropped.
struct Screen(Option<Termios>);

impl Screen {
    fn new() -> Screen {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.local_modes
                .remove(LocalModes::ECHO | LocalModes::ICANON);
            let _ = tcsetattr(&stdin, OptionalActions::Now, &raw);
        }
        let _ = std::io::stdout().write_all(b"\x1b[?1049h\x1b[?25l\x1b[2J");
        Screen(before)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut stdout = std::io::stdout();
        let _ = stdout.write_all(b"\x1b[?25h\x1b[?1049l");
        let _ = stdout.flush();
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

fn used(seat: &Value) -> f64 {
    let figure = |name: &str| seat[name].as_f64().unwrap_or(0.0);
    figure("completed_rps") / figure("capacity_rps").max(1e-9)
}

fn picture(status: &Value, order: Order, rows: usize) -> String {
    let services = status["services"].as_array().into_iter().flatten();
    let mut seats: Vec<Seat<'_>> = services
        .flat_map(|service| {
            let nodes = service["nodes"].as_array().into_iter().flatten();
            nodes.map(move |seat| (&service["service"], seat))
        })
        .collect();
    seats.sort_by(|a, b| order.compare(a, b));
    let heads = [
        "NODE", "SERVICE", "USED", "PLANNED", "ENTERED", "SERVED", "CAPACITY", "OUT", "SPILL",
        "IN", "SHED", "FAILED",
    ];
    let mut table = Table::new(heads);
    for (service, seat) in seats.into_iter().take(rows) {
        table.row([
            text(&seat["node"]),
            text(service),
            percent(&json!(used(seat))),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_the_order_asked_for() {
        let seat = |node: &str, served: f64, shed: f64| json!({ "node": node, "completed_rps": served, "capacity_rps": 10.0, "shed_rps": shed });
        let nodes = [
            seat("b", 5.0, 0.0),
            seat("a", 1.0, 3.0),
            seat("c", 9.0, 0.0),
        ];
        let status = json!({ "services": [{ "service": "shop/cart", "nodes": nodes }] });
        let check = |by: Column, turned: bool, expected: [&str; 3]| {
            let shown = picture(&status, Order { by, turned }, 9);
            let rows = shown.lines().skip(5).map(|line| line[..1].to_owned());
            assert_eq!(rows.collect::<Vec<_>>(), expected, "{by:?} {shown}");
        };
        check(Column::Used, false, ["c", "b", "a"]);
        check(Column::Used, true, ["a", "b", "c"]);
        check(Column::Shed, false, ["a", "b", "c"]);
        check(Column::Node, false, ["a", "b", "c"]);
        let order = Order {
            by: Column::Used,
            turned: false,
        };
        assert_eq!(order.pressed(b'q'), None);
        assert_eq!(order.pressed(b'x').map(|o| o.by), Some(Column::Shed));
        assert_eq!(order.pressed(b'r').map(|o| o.turned), Some(true));
        assert_eq!(order.pressed(b'?'), Some(order));
    }
}
