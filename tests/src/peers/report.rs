//! What is shown and what is written: tables for people, JSON for everything else.

use std::fmt::Write;
use std::fs;

use serde::Serialize;

use super::args::Args;
use super::peer::Program;
use super::scenario::{Scenario, Work};
use super::summary::{Row, Spread};

/// One run.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    settings: Settings,
    programs: Vec<Measured>,
    /// What was asked for and is not installed.
    pub missing: Vec<Missing>,
    /// What was measured.
    pub scenarios: Vec<ScenarioReport>,
}

#[derive(Debug, Serialize)]
struct Machine {
    processor: String,
    kernel: String,
    load_average: String,
}

#[derive(Debug, Serialize)]
struct Settings {
    rounds: u32,
    window_s: f64,
    warm_up_s: f64,
    load_core: usize,
    proxy_core: usize,
    quick: bool,
}

#[derive(Debug, Serialize)]
struct Measured {
    name: &'static str,
    version: String,
    stripped_bytes: Option<u64>,
}

/// A program that is not installed.
#[derive(Debug, Serialize)]
pub struct Missing {
    /// Which one.
    pub name: &'static str,
    /// What would bring it.
    pub remedy: String,
}

/// One scenario of a run.
#[derive(Debug, Serialize)]
pub struct ScenarioReport {
    name: &'static str,
    about: &'static str,
    /// Of the open loop, requests/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_rps: Option<f64>,
    /// How long it took, seconds.
    pub took_s: f64,
    /// One line a proxy.
    pub rows: Vec<Row>,
    #[serde(skip)]
    work: Work,
}

impl Report {
    /// A run in which nothing was measured yet.
    pub fn new(args: &Args, programs: &[Program], missing: Vec<Missing>) -> Report {
        let programs = programs.iter().map(|program| Measured {
            name: program.kind.name(),
            version: program.version.clone(),
            stripped_bytes: program.stripped_bytes,
        });
        Report {
            machine: Machine::here(),
            settings: Settings {
                rounds: args.round_count(),
                window_s: args.window().as_secs_f64(),
                warm_up_s: args.warm_up().as_secs_f64(),
                load_core: args.load_core,
                proxy_core: args.proxy_core(),
                quick: args.quick,
            },
            programs: programs.collect(),
            missing,
            scenarios: Vec::new(),
        }
    }

    /// What is known before the first measurement.
    pub fn opening(&self) -> String {
        let (machine, settings) = (&self.machine, &self.settings);
        let mut text = format!(
            "{}, Linux {}, load average {}\n{} rounds of {} s; load on core {}, proxies on core {}\n",
            machine.processor,
            machine.kernel,
            machine.load_average,
            settings.rounds,
            settings.window_s,
            settings.load_core,
            settings.proxy_core,
        );
        if settings.load_core == settings.proxy_core {
            text.push_str(
                "proxies share the core of the load: only CPU per request means anything here\n",
            );
        }
        let rows = self.programs.iter().map(|program| {
            let size = program
                .stripped_bytes
                .map(|bytes| format!("{:.1}", bytes as f64 / 1e6));
            vec![
                program.name.to_owned(),
                program.version.clone(),
                size.unwrap_or_else(dash),
            ]
        });
        text.push_str(&table(&["peer", "version", "program MB"], rows.collect()));
        for missing in &self.missing {
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "skipped: {}: not installed: {}",
                missing.name, missing.remedy
            );
        }
        text
    }
}

impl Machine {
    fn here() -> Machine {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo
            .lines()
            .find(|l| l.starts_with("model name") || l.starts_with("CPU part"));
        let model = model.and_then(|line| line.split_once(':'));
        let load = read("/proc/loadavg");
        Machine {
            processor: model.map_or_else(dash, |(_, name)| name.trim().to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average: load
                .split_whitespace()
                .next()
                .map_or_else(dash, str::to_owned),
        }
    }
}

/// A column: its title, its figure, how many digits, and whether lowest and highest are shown.
type Column = (&'static str, &'static str, usize, bool);

const CLOSED: &[Column] = &[
    ("CPU µs/request", "cpu_us", 1, true),
    ("user µs", "user_us", 1, false),
    ("× nginx", "cpu_to_nginx", 2, true),
    ("requests/s", "rate_rps", 0, true),
];
const BULK: &[Column] = &[
    ("MB per CPU s", "mb_per_cpu_s", 0, true),
    ("CPU µs/request", "cpu_us", 1, true),
    ("× nginx", "cpu_to_nginx", 2, true),
    ("requests/s", "rate_rps", 0, true),
];
const OPEN: &[Column] = &[
    ("p50 µs", "p50_us", 0, true),
    ("p99 µs", "p99_us", 0, true),
    ("added p50", "added_p50_us", 0, true),
    ("added p99", "added_p99_us", 0, true),
    ("CPU µs/request", "cpu_us", 1, false),
];
const MEMORY: &[Column] = &[
    ("idle MB", "rss_idle_mb", 1, false),
    ("idle PSS MB", "pss_idle_mb", 1, false),
    ("1,000 MB", "rss_1000_mb", 1, false),
    ("10,000 MB", "rss_10000_mb", 1, false),
    ("KB/connection", "per_connection_kb", 1, false),
    ("closed MB", "rss_closed_mb", 1, false),
    ("closed × idle", "closed_to_idle", 2, false),
];

impl ScenarioReport {
    /// A scenario without rows.
    pub fn new(scenario: &Scenario) -> ScenarioReport {
        ScenarioReport {
            name: scenario.name,
            about: scenario.about,
            rate_rps: None,
            took_s: 0.0,
            rows: Vec::new(),
            work: scenario.work,
        }
    }

    /// The scenario's table: medians, with lowest and highest where there was more than one round.
    pub fn table(&self) -> String {
        let columns = match self.work {
            Work::Memory => MEMORY,
            Work::Open { .. } => OPEN,
            Work::Closed { .. } if self.work.is_bulk() => BULK,
            Work::Closed { .. } | Work::Http2 { .. } | Work::Grpc { .. } | Work::Tls { .. } => {
                CLOSED
            }
        };
        let rate = self
            .rate_rps
            .map(|rps| format!(", {rps:.0} requests/s"))
            .unwrap_or_default();
        let mut text = format!(
            "\n{}: {}{rate} ({:.0} s)\n",
            self.name, self.about, self.took_s
        );
        let mut head = vec!["peer"];
        head.extend(columns.iter().map(|c| c.0));
        let rows = self.rows.iter().map(|row| {
            let mut cells = vec![row.peer.to_owned()];
            cells.extend(columns.iter().map(|&(_, figure, digits, spread)| {
                row.figures
                    .get(figure)
                    .map_or_else(dash, |s| cell(s, digits, spread))
            }));
            cells
        });
        text.push_str(&table(&head, rows.collect()));
        for row in &self.rows {
            if let Some(failure) = &row.failure {
                // Writing to a String does not fail.
                let _ = writeln!(text, "{} failed: {failure}", row.peer);
            }
        }
        text
    }
}

fn dash() -> String {
    String::from("–")
}

fn cell(figure: &Spread, digits: usize, spread: bool) -> String {
    let median = format!("{:.digits$}", figure.median);
    if spread && figure.rounds.len() > 1 {
        format!(
            "{median} ({:.digits$}–{:.digits$})",
            figure.low, figure.high
        )
    } else {
        median
    }
}

/// Columns padded to their widest cell; the first to the left, the rest to the right.
fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let head: Vec<String> = head.iter().map(|&h| h.to_owned()).collect();
    let width = |s: &String| s.chars().count();
    let widths: Vec<usize> = (0..head.len())
        .map(|at| {
            rows.iter()
                .chain([&head])
                .filter_map(|r| r.get(at))
                .map(width)
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in [&head].into_iter().chain(&rows) {
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a String does not fail.
            let _ = if at == 0 {
                write!(text, "  {cell:<width$}")
            } else {
                write!(text, "  {cell:>width$}")
            };
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![
            vec!["nginx".into(), "15.2 (15–16)".into()],
            vec!["raw".into(), "12.9".into()],
        ];
        let expected = "  peer             µs\n  nginx  15.2 (15–16)\n  raw            12.9\n";
        assert_eq!(table(&["peer", "µs"], rows), expected);
    }

    #[test]
    fn a_single_round_has_no_spread() {
        let one = Spread::of(vec![1.25]).unwrap();
        let two = Spread::of(vec![1.0, 2.0]).unwrap();
        assert_eq!(cell(&one, 2, true), "1.25");
        assert_eq!(cell(&two, 1, true), "1.5 (1.0–2.0)");
        assert_eq!(cell(&two, 1, false), "1.5");
    }
}
