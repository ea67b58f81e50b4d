//! The night as it happens, in a terminal.

use isobar_replay::cluster::record::{Bin, Record};
use isobar_replay::cluster::run::Moment;

use super::night::{Night, WARM_UP_S};
use crate::terminal::Size;

/// Narrowest useful picture, in characters.
const COLUMNS_MIN: usize = 60;
/// Width of the load bar, in characters.
const BAR: usize = 24;
/// A full bar is this utilisation.
const BAR_FULL: f64 = 1.5;
/// Moves shown per site.
const MOVES_SHOWN: usize = 3;
/// Lines of the picture that are not sites.
const FRAME_LINES: usize = 7;
/// Seconds over which load and moves are shown: long enough that noise does not flicker.
const SHOWN_S: usize = 2;

const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[1;31m";
const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// What is drawn.
#[derive(Debug)]
pub struct View<'a> {
    /// The night.
    pub night: &'a Night,
    /// What the run is called.
    pub title: &'a str,
    /// The run before, to compare with.
    pub before: Option<(&'a str, &'a Record)>,
}

/// One site now.
struct Row {
    site: usize,
    /// Requests/s that entered.
    offered_rps: f64,
    /// What entered, over capacity.
    demand: f64,
    /// What its server did, over capacity.
    worked: f64,
    failed: u32,
    /// Where its load went: site and requests/s, most first.
    moves: Vec<(usize, f64)>,
}

impl View<'_> {
    /// The picture, line by line, with colours.
    pub fn picture(&self, moment: &Moment<'_>, size: Size) -> Vec<String> {
        let columns = size.columns.clamp(COLUMNS_MIN, 120);
        let mut lines = vec![self.head(moment, columns), progress(moment, columns)];
        lines.push(numbers("now", moment.record, last_second(moment)));
        lines.push(match self.before {
            Some((title, record)) => {
                format!(
                    "{DIM}{}{PLAIN}",
                    numbers(title, record, last_second(moment))
                )
            }
            None => String::new(),
        });
        lines.push(String::new());
        lines.push(format!(
            "{DIM}{:<28} {:>6}  {:<BAR$} {:>5}  moved to{PLAIN}",
            "site", "in /s", "work / capacity", "%"
        ));
        let mut rows = self.rows(moment);
        let room = size.rows.saturating_sub(FRAME_LINES + 1).max(3);
        if rows.len() > room {
            rows.sort_by(|a, b| b.demand.total_cmp(&a.demand).then(a.site.cmp(&b.site)));
            rows.truncate(room);
        }
        lines.extend(rows.iter().map(|row| self.site(row, columns)));
        lines
    }

    /// The same in one line.
    pub fn line(&self, moment: &Moment<'_>) -> String {
        let second = last_second(moment);
        let hottest = self
            .rows(moment)
            .into_iter()
            .max_by(|a, b| a.demand.total_cmp(&b.demand).then(b.site.cmp(&a.site)));
        let hottest = hottest.map_or_else(String::new, |row| {
            format!(
                ", {} at {:.0} %",
                self.night.name(row.site),
                100.0 * row.demand
            )
        });
        format!(
            "{} {}{hottest}",
            self.night.clock(moment.at_s),
            numbers(self.title, moment.record, second)
        )
    }

    fn head(&self, moment: &Moment<'_>, columns: usize) -> String {
        let left = format!("Auckland, New Year's Eve 2024 · {}", self.title);
        let clock = self.night.clock(moment.at_s);
        let gap = columns.saturating_sub(left.chars().count() + clock.len());
        format!("{BOLD}{left}{PLAIN}{}{BOLD}{clock}{PLAIN}", " ".repeat(gap))
    }

    fn rows(&self, moment: &Moment<'_>) -> Vec<Row> {
        let to = last_second(moment) + 1;
        let seconds = to.saturating_sub(SHOWN_S)..to;
        let spans = seconds.len().max(1) as f64;
        let flows = moment.record.flows(seconds.clone());
        let sites = self.night.sites();
        let row = |site: usize| {
            let sum = |count: fn(&Bin) -> u32| -> u32 {
                let bins = seconds
                    .clone()
                    .filter_map(|second| moment.record.bins(second));
                bins.map(|bins| count(&bins[site])).sum()
            };
            let capacity_rps = self.night.capacity_rps(site);
            let offered_rps = f64::from(sum(|bin| bin.offered)) / spans;
            let mut moves: Vec<(usize, f64)> = (0..sites)
                .map(|to| (to, f64::from(flows[site * sites + to]) / spans))
                .filter(|(_, rps)| *rps >= 1.0)
                .collect();
            moves.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            Row {
                site,
                offered_rps,
                demand: offered_rps / capacity_rps,
                worked: f64::from(sum(Bin::worked)) / spans / capacity_rps,
                failed: sum(|bin| bin.failed),
                moves,
            }
        };
        (0..sites).map(row).collect()
    }

    fn site(&self, row: &Row, columns: usize) -> String {
        let colour = match row.worked.max(row.demand) {
            _ if row.failed > 0 => RED,
            high if high > 0.95 => YELLOW,
            _ => GREEN,
        };
        let name = cut(self.night.name(row.site), 28);
        let failed = match row.failed {
            0 => String::new(),
            failed => format!(" {failed} failed"),
        };
        let moves: Vec<String> = row
            .moves
            .iter()
            .take(MOVES_SHOWN)
            .map(|(to, rps)| format!("{} {rps:.0}/s", self.night.name(*to)))
            .collect();
        let used = 28 + 1 + 6 + 2 + BAR + 1 + 5 + 2 + failed.len();
        let moves = cut(&moves.join(", "), columns.saturating_sub(used));
        format!(
            "{name:<28} {:>6.0}  {colour}{}{PLAIN} {:>5.0}  {moves}{RED}{failed}{PLAIN}",
            row.offered_rps,
            bar(row.worked, row.demand),
            100.0 * row.worked
        )
    }
}

/// The last second whose requests have mostly ended.
fn last_second(moment: &Moment<'_>) -> usize {
    (moment.at_s.clamp(0.0, moment.duration_s) as usize).saturating_sub(1)
}

fn numbers(title: &str, record: &Record, second: usize) -> String {
    let bins = record.bins(second).unwrap_or_default();
    let sum = |count: fn(&Bin) -> u32| -> u32 { bins.iter().map(count).sum() };
    let failed: u32 = (0..=second)
        .filter_map(|second| record.bins(second))
        .flatten()
        .map(|bin| bin.failed)
        .sum();
    let served = sum(|bin| bin.served);
    let moved = 100.0 * f64::from(sum(|bin| bin.moved)) / f64::from(served.max(1));
    format!(
        "{title:<10} {:>5}/s  p50 {:>4.0} ms  p99 {:>5.0} ms  moved {moved:>4.1} %  failed so far {failed}",
        sum(|bin| bin.offered),
        record.second_ms(second, 0.5),
        record.second_ms(second, 0.99),
    )
}

fn progress(moment: &Moment<'_>, columns: usize) -> String {
    let night_s = moment.duration_s - WARM_UP_S;
    let part = ((moment.at_s - WARM_UP_S) / night_s).clamp(0.0, 1.0);
    let width = columns.saturating_sub(2);
    let done = (part * width as f64) as usize;
    format!("[{}{}]", "=".repeat(done), " ".repeat(width - done))
}

/// Work as blocks; what entered beyond them as dots; `|` at full capacity.
fn bar(worked: f64, demand: f64) -> String {
    let place = |utilisation: f64| {
        (utilisation.clamp(0.0, BAR_FULL) / BAR_FULL * BAR as f64).round() as usize
    };
    let (worked, demand, full) = (place(worked), place(demand), place(1.0));
    (0..BAR)
        .map(|at| match at {
            _ if at < worked => '█',
            _ if at < demand => '·',
            _ if at == full => '|',
            _ => ' ',
        })
        .collect()
}

fn cut(text: &str, len: usize) -> String {
    match text.chars().count() > len {
        false => text.to_owned(),
        true => text
            .chars()
            .take(len.saturating_sub(1))
            .chain(['…'])
            .take(len)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isobar_replay::cluster::record::{Ended, Outcome};

    fn record(night: &Night) -> Record {
        let mut record = Record::new(night.sites(), 0.0);
        for n in 0..400 {
            let due_s = 10.0 + f64::from(n) / 200.0;
            record.offer(6, due_s);
            let by = Some(if n % 4 == 0 { 7 } else { 6 });
            let outcome = if n == 399 {
                Outcome::Shed
            } else {
                Outcome::Served { by }
            };
            record.end(Ended {
                home: 6,
                due_s,
                hot: true,
                outcome,
                latency_us: 50_000,
            });
        }
        record
    }

    #[test]
    fn a_picture_fits_its_terminal_and_says_what_happens() {
        let night = Night::new(60.0).unwrap();
        let record = record(&night);
        let moment = Moment {
            at_s: 12.5,
            duration_s: 63.0,
            record: &record,
            status: None,
        };
        let view = View {
            night: &night,
            title: "Isobar",
            before: Some(("home-only", &record)),
        };
        for (columns, rows) in [(80, 24), (200, 50), (60, 10), (1, 1)] {
            let lines = view.picture(&moment, Size { columns, rows });
            assert!(
                rows < 12 || lines.len() < rows,
                "{} lines in {rows}",
                lines.len()
            );
            let plain: Vec<String> = lines.iter().map(|line| strip(line)).collect();
            let text = plain.join("\n");
            assert!(text.contains("45 Queen Street"), "{text}");
            assert!(text.contains("1 failed"), "{text}");
            if columns >= 80 {
                assert!(text.contains("30 Queen"), "{text}");
                let longest = plain.iter().map(|line| line.chars().count()).max().unwrap();
                assert!(longest <= columns, "{longest} of {columns}\n{text}");
            }
        }
        let line = view.line(&moment);
        assert!(
            line.contains("p99") && line.contains("45 Queen Street"),
            "{line}"
        );
    }

    fn strip(line: &str) -> String {
        let mut plain = String::new();
        let mut chars = line.chars();
        while let Some(c) = chars.next() {
            match c {
                '\x1b' => while chars.next().is_some_and(|c| c != 'm') {},
                c => plain.push(c),
            }
        }
        plain
    }
}
