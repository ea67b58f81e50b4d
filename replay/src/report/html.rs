//! One page that needs nothing but itself: no font, script or image is
//! fetched. Charts are inline SVG; only the map of loads uses a script.

use std::fmt::Write;

use super::svg::{self, Line, escape};
use super::table::{cells, header};
use super::{Report, Run};
use crate::measure::Bin;

/// The style of every page of ours: light and dark, wide and narrow.
pub const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// First of the printable characters that loads are written with, one per node and second.
const LOAD_ZERO: u8 = b'0';
/// Loads are written in steps of this many hundredths.
const LOAD_STEP: f32 = 2.0;
/// Highest step that is told apart: 120 %.
const LOAD_STEPS_MAX: u8 = 60;

/// The page of a report.
pub(super) fn page(report: &Report) -> String {
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>Isobar replay</title>",
    );
    let _ = write!(
        page,
        "<style>{STYLE}</style></head><body><main><h1>Isobar replay</h1>"
    );
    page.push_str("<dl>");
    for (what, value) in &report.setup {
        let _ = write!(
            page,
            "<div><dt>{}</dt><dd>{}</dd></div>",
            escape(what),
            escape(value)
        );
    }
    page.push_str("</dl>");
    comparison(&mut page, report);
    // One run per policy stands for its course; the first seed's.
    let mut firsts: Vec<&Run> = Vec::new();
    for run in &report.runs {
        if firsts.iter().all(|first| first.policy != run.policy) {
            firsts.push(run);
        }
    }
    courses(&mut page, &firsts);
    weights(&mut page, &firsts);
    map(&mut page, report, &firsts);
    page.push_str("</main></body></html>\n");
    page
}

fn comparison(page: &mut String, report: &Report) {
    let summaries = report.summaries();
    page.push_str("<h2>Policies</h2><div class=\"wide\"><table><thead><tr>");
    for column in header() {
        let _ = write!(page, "<th>{column}</th>");
    }
    page.push_str("</tr></thead><tbody>");
    for summary in &summaries {
        page.push_str("<tr>");
        for cell in cells(summary) {
            let _ = write!(page, "<td>{}</td>", escape(&cell));
        }
        page.push_str("</tr>");
    }
    page.push_str(
        "</tbody></table></div><p>Means over seeds with 95 % confidence. Latencies are of answered \
         requests; refused ones and answers after 2 s are failures. Hot: requests whose home was hot \
         when they entered. Turns: weights that turned round by more than 4 points while demand was \
         steady.</p><div class=\"charts\">",
    );
    type Pick = fn(&super::Summary) -> (f64, String);
    let charts: [(&str, Pick); 3] = [
        ("p99 of hot homes, ms", |s| {
            (s.hot_p99_ms.mean, s.hot_p99_ms.text(1.0, 0))
        }),
        ("failed, %", |s| (s.failed.mean, s.failed.text(100.0, 2))),
        ("moved, %", |s| {
            (s.moved_share.mean, s.moved_share.text(100.0, 1))
        }),
    ];
    for (title, pick) in charts {
        let bars: Vec<(String, f64, String)> = summaries
            .iter()
            .map(|s| {
                let (value, text) = pick(s);
                (s.policy.name().to_owned(), value, text)
            })
            .collect();
        let _ = write!(
            page,
            "<figure><figcaption>{title}</figcaption>{}</figure>",
            svg::bars(&bars)
        );
    }
    page.push_str("</div>");
}

fn legend(page: &mut String, names: impl Iterator<Item = String>) {
    page.push_str("<ul class=\"legend\">");
    for (n, name) in names.enumerate() {
        let _ = write!(
            page,
            "<li><i class=\"c{}\"></i>{}</li>",
            n % 12,
            escape(&name)
        );
    }
    page.push_str("</ul>");
}

/// One quantity over time.
struct Chart {
    title: &'static str,
    unit: &'static str,
    log: bool,
    pick: fn(&Bin) -> f64,
}

const CHARTS: [Chart; 5] = [
    Chart {
        title: "Median latency",
        unit: "ms",
        log: true,
        pick: |bin| bin.p50_ms,
    },
    Chart {
        title: "99th percentile",
        unit: "ms",
        log: true,
        pick: |bin| bin.p99_ms,
    },
    Chart {
        title: "99th percentile of hot homes",
        unit: "ms",
        log: true,
        pick: |bin| bin.hot_p99_ms,
    },
    Chart {
        title: "Failed",
        unit: "%",
        log: false,
        pick: |bin| percent(bin.failures, bin.ended),
    },
    Chart {
        title: "Moved",
        unit: "%",
        log: false,
        pick: |bin| percent(bin.moved, bin.ended),
    },
];

fn percent(part: u64, of: u64) -> f64 {
    100.0 * part as f64 / of.max(1) as f64
}

fn courses(page: &mut String, firsts: &[&Run]) {
    page.push_str("<h2>Over time</h2>");
    legend(page, firsts.iter().map(|run| run.policy.name().to_owned()));
    page.push_str("<div class=\"charts\">");
    for Chart {
        title,
        unit,
        log,
        pick,
    } in CHARTS
    {
        let lines: Vec<Line> = firsts
            .iter()
            .enumerate()
            .map(|(colour, run)| Line {
                name: run.policy.name().to_owned(),
                colour,
                values: run.counted.course.bins.iter().map(pick).collect(),
            })
            .collect();
        let chart = svg::lines(unit, &lines, log);
        let _ = write!(
            page,
            "<figure><figcaption>{title}</figcaption>{chart}</figure>"
        );
    }
    page.push_str("</div>");
}

fn weights(page: &mut String, firsts: &[&Run]) {
    let has_weights = |run: &&&Run| !run.counted.course.hot_row.at_s.is_empty();
    let with_weights: Vec<&&Run> = firsts.iter().filter(has_weights).collect();
    if with_weights.is_empty() {
        return;
    }
    page.push_str("<h2>Weights of the first hot home</h2><p>Home at the bottom, neighbours above.</p><div class=\"charts\">");
    for run in with_weights {
        let history = &run.counted.course.hot_row;
        let names: Vec<String> = history
            .nodes
            .iter()
            .map(|node| format!("node {node}"))
            .collect();
        let share = |row: &Vec<u32>| row.iter().map(|&ppm| f64::from(ppm) / 1e6).collect();
        let rows: Vec<Vec<f64>> = history.weights_ppm.iter().map(share).collect();
        let _ = write!(
            page,
            "<figure><figcaption>{}</figcaption>{}</figure>",
            escape(run.policy.title()),
            svg::stacked(&names, &history.at_s, &rows)
        );
    }
    page.push_str("</div>");
}

fn map(page: &mut String, report: &Report, firsts: &[&Run]) {
    let has_loads = |run: &&&Run| !run.counted.course.loads.is_empty();
    let with_loads: Vec<&&Run> = firsts.iter().filter(has_loads).collect();
    if with_loads.is_empty() {
        return;
    }
    page.push_str(
        "<h2>Load of every node</h2><p class=\"controls\"><label>Policy <select id=\"policy\"></select></label>\
         <label>Second <input id=\"second\" type=\"range\" min=\"0\" value=\"0\"></label>\
         <output id=\"when\"></output> <button id=\"play\" type=\"button\">Play</button></p>\
         <canvas id=\"map\" width=\"720\" height=\"720\"></canvas>\
         <p>Served in that second over what the node can serve: <span class=\"scale\"></span> 0 to 100 % and more.</p>",
    );
    let runs: Vec<serde_json::Value> = with_loads
        .iter()
        .map(|run| {
            let seconds: Vec<String> = run.counted.course.loads.iter().map(|s| encode(s)).collect();
            serde_json::json!({"policy": run.policy.name(), "loads": seconds})
        })
        .collect();
    let data = serde_json::json!({
        "places": report.places,
        "zero": LOAD_ZERO,
        "step": LOAD_STEP / 100.0,
        "runs": runs,
    });
    // "</script" cannot appear: texts here are names of policies and the characters of `encode`.
    let text = data.to_string().replace('<', "\\u003c");
    let _ = write!(
        page,
        "<script type=\"application/json\" id=\"data\">{text}</script><script>{SCRIPT}</script>"
    );
}

/// One second's loads, a character per node.
fn encode(loads: &[f32]) -> String {
    let step = |load: &f32| ((load * 100.0 / LOAD_STEP) as u8).min(LOAD_STEPS_MAX);
    loads
        .iter()
        .map(|load| char::from(LOAD_ZERO + step(load)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_one_plain_character_each() {
        assert_eq!(encode(&[0.0, 0.02, 0.5, 1.0, 9.0]), "01Ibl");
    }
}
