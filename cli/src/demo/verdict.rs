//! Did it help? A table and an answer.
//!
//! The verdict is a pass when all three hold:
//!
//! 1. home-only had a problem: more than [`FAILED_MAX`] of its requests failed,
//!    or its p99 was [`SLOW_MS`] or more (else there is nothing to help with);
//! 2. with Isobar at most [`FAILED_MAX`] of the requests failed;
//! 3. with Isobar p99 was at most [`P99_PART`] of home-only's.
//!
//! A request fails when it is refused, ends in an error, or takes more than 2 s
//! from when its client meant to send it. Latencies are of served requests.

use isobar_replay::cluster::replay::figures;
use isobar_replay::cluster::run::Seen;
use isobar_replay::measure::Figures;
use serde_json::{Value, json};

use super::Act;

/// The part of requests that may fail.
pub const FAILED_MAX: f64 = 0.001;
/// The part of home-only's p99 that Isobar may have.
pub const P99_PART: f64 = 0.5;
/// A p99 that is slow, in milliseconds.
pub const SLOW_MS: f64 = 500.0;

/// Both runs' figures and what they mean.
#[derive(Debug, Clone)]
pub struct Verdict {
    home: Figures,
    isobar: Figures,
}

impl Verdict {
    /// Compares two runs.
    pub fn new(home: &Seen, isobar: &Seen) -> Verdict {
        Verdict {
            home: figures(home),
            isobar: figures(isobar),
        }
    }

    /// Both runs, with their names.
    pub fn runs(&self) -> [(Act, &Figures); 2] {
        [(Act::HomeOnly, &self.home), (Act::Isobar, &self.isobar)]
    }

    /// The three conditions, each as a sentence and whether it holds.
    pub fn conditions(&self) -> [(String, bool); 3] {
        let failed = |figures: &Figures| part(figures.failures, figures.requests);
        let ratio = self.isobar.p99_ms / self.home.p99_ms.max(1e-9);
        [
            (
                format!(
                    "home-only failed {:.2} % of requests and had a p99 of {:.0} ms (more than {:.1} % or at least {SLOW_MS:.0} ms)",
                    100.0 * failed(&self.home),
                    self.home.p99_ms,
                    100.0 * FAILED_MAX
                ),
                failed(&self.home) > FAILED_MAX || self.home.p99_ms >= SLOW_MS,
            ),
            (
                format!(
                    "Isobar failed {:.3} % of requests (at most {:.1} %)",
                    100.0 * failed(&self.isobar),
                    100.0 * FAILED_MAX
                ),
                self.isobar.requests > 0 && failed(&self.isobar) <= FAILED_MAX,
            ),
            (
                format!("Isobar's p99 is {ratio:.2} of home-only's (at most {P99_PART})"),
                self.isobar.requests > 0 && ratio <= P99_PART,
            ),
        ]
    }

    /// Whether all conditions hold.
    pub fn passed(&self) -> bool {
        self.conditions().iter().all(|(_, holds)| *holds)
    }

    /// `PASS` or `FAIL`.
    pub fn word(&self) -> &'static str {
        if self.passed() { "PASS" } else { "FAIL" }
    }

    /// Rows of the comparison: what, home-only, Isobar.
    pub fn rows(&self) -> Vec<[String; 3]> {
        let row = |what: &str, cell: &dyn Fn(&Figures) -> String| {
            [what.to_owned(), cell(&self.home), cell(&self.isobar)]
        };
        let of = |count: u64, all: u64| format!("{count} ({:.2} %)", 100.0 * part(count, all));
        vec![
            row("requests", &|f| f.requests.to_string()),
            row("failed", &|f| of(f.failures, f.requests)),
            row("of these shed", &|f| f.shed.to_string()),
            row("p50", &|f| format!("{:.0} ms", f.p50_ms)),
            row("p99", &|f| format!("{:.0} ms", f.p99_ms)),
            row("p99, hot sites", &|f| format!("{:.0} ms", f.hot_p99_ms)),
            row("moved", &|f| format!("{:.2} %", 100.0 * f.moved_share)),
        ]
    }

    /// For a terminal.
    pub fn table(&self) -> String {
        let mut text = format!("{:<16}{:>20}{:>20}\n", "", "home-only", "Isobar");
        for [what, home, isobar] in self.rows() {
            text.push_str(&format!("{what:<16}{home:>20}{isobar:>20}\n"));
        }
        text.push('\n');
        for (sentence, holds) in self.conditions() {
            text.push_str(&format!(
                "  {}  {sentence}\n",
                if holds { "yes" } else { "NO " }
            ));
        }
        text.push_str(&format!("\nVerdict: {}", self.word()));
        text
    }

    /// One object per run, as a replay writes them, the second with the verdict.
    pub fn json(&self, seed: u64) -> String {
        let run = |(act, figures): (Act, &Figures)| {
            let mut object = json!({ "policy": act.policy(), "seed": seed });
            if let (Value::Object(object), Ok(Value::Object(figures))) =
                (&mut object, serde_json::to_value(figures))
            {
                object.extend(figures);
                if act == Act::Isobar {
                    object.insert("verdict".to_owned(), json!(self.word().to_lowercase()));
                }
            }
            object.to_string()
        };
        format!("[\n{}\n]\n", self.runs().map(run).join(",\n"))
    }
}

fn part(count: u64, all: u64) -> f64 {
    count as f64 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(failures: u64, p99_ms: f64) -> Figures {
        Figures {
            requests: 100_000,
            failures,
            p99_ms,
            ..Figures::default()
        }
    }

    #[test]
    fn a_pass_needs_a_problem_and_its_cure() {
        let cases = [
            (run(900, 1000.0), run(0, 150.0), true),
            (run(900, 1000.0), run(100, 500.0), true),
            (run(0, 900.0), run(0, 150.0), true),
            // Nothing to help with.
            (run(10, 100.0), run(0, 20.0), false),
            (run(900, 1000.0), run(101, 150.0), false),
            (run(900, 1000.0), run(0, 501.0), false),
            (run(900, 1000.0), Figures::default(), false),
        ];
        for (home, isobar, passes) in cases {
            let verdict = Verdict { home, isobar };
            assert_eq!(verdict.passed(), passes, "{}", verdict.table());
            assert_eq!(verdict.table().ends_with("PASS"), passes);
        }
    }

    #[test]
    fn the_json_is_that_of_a_replay() {
        let verdict = Verdict {
            home: run(900, 1000.0),
            isobar: run(0, 150.0),
        };
        let read: Value = serde_json::from_str(&verdict.json(7)).unwrap();
        assert_eq!(read[0]["policy"], "home");
        assert_eq!(
            (&read[1]["seed"], &read[1]["verdict"]),
            (&json!(7), &json!("pass"))
        );
        for field in [
            "requests",
            "shed",
            "hot_p99_ms",
            "cloud_requests",
            "reversals",
            "settle_s",
        ] {
            assert!(!read[0][field].is_null() || field == "settle_s", "{field}");
        }
    }
}
