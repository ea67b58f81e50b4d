//! The table for a terminal.

use super::{Report, Summary};

const HEADER: [&str; 9] = [
    "policy",
    "failed %",
    "hot fail %",
    "p50 ms",
    "p99 ms",
    "hot p99 ms",
    "moved %",
    "turns",
    "settled s",
];

/// A table of all policies: means over seeds with 95 % confidence.
pub(super) fn table(report: &Report) -> String {
    let mut rows: Vec<Vec<String>> = vec![HEADER.iter().map(ToString::to_string).collect()];
    rows.extend(report.summaries().iter().map(cells));
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEADER.len()).map(width).collect();
    let mut text = String::new();
    for (what, value) in &report.setup {
        text.push_str(&format!("{what}: {value}\n"));
    }
    text.push('\n');
    for row in rows {
        let padded = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, &width))| {
                // Words to the left, numbers to the right.
                if column == 0 {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            });
        let line = padded.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

pub(super) fn cells(summary: &Summary) -> Vec<String> {
    let seconds = |s: f64| format!("{s:.1}");
    vec![
        summary.policy.title().to_owned(),
        summary.failed.text(100.0, 3),
        summary.hot_failed.text(100.0, 2),
        summary.p50_ms.text(1.0, 1),
        summary.p99_ms.text(1.0, 1),
        summary.hot_p99_ms.text(1.0, 1),
        summary.moved_share.text(100.0, 2),
        summary.reversals.to_string(),
        summary.settle_s.map_or_else(|| "-".to_owned(), seconds),
    ]
}

pub(super) fn header() -> [&'static str; 9] {
    HEADER
}
