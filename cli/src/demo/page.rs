//! The report of the night: one page that needs nothing but itself.

use std::fmt::Write;
use std::ops::Range;

use isobar_replay::cluster::record::{Bin, Record};
use isobar_replay::cluster::run::Seen;
use isobar_replay::report::html::STYLE;
use isobar_replay::report::svg::{Line, escape, lines};

use super::Act;
use super::night::{Night, WARM_UP_S};
use super::verdict::Verdict;

/// What this page has beyond the style of a replay's.
const STYLE_MORE: &str = "\
.verdict{font-size:1.3rem;font-weight:700;padding:.4rem .9rem;border-radius:6px;display:inline-block;color:#fff}\
.pass{background:#23794f}.fail{background:#b3394b}\
.strip rect{shape-rendering:crispEdges}.map circle{stroke:var(--paper);stroke-width:1}\
.map path{fill:none;stroke:var(--c0);opacity:.6;stroke-linecap:round}";
/// Colours of utilisation, by their lower end: cool, busy, full, beyond.
const HEAT: [(f64, &str); 7] = [
    (0.0, "#9ecae1"),
    (0.3, "#6baed6"),
    (0.5, "#41ab5d"),
    (0.7, "#addd8e"),
    (0.85, "#fec44f"),
    (1.0, "#f16913"),
    (1.2, "#cb181d"),
];
/// Moves that are drawn on the map, most requests first.
const ARCS_MAX: usize = 40;

/// The page of a demo.
pub fn page(night: &Night, home: &Seen, isobar: &Seen, verdict: &Verdict) -> String {
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <title>Isobar: New Year's Eve in Auckland</title>",
    );
    let _ = write!(
        page,
        "<style>{STYLE}{STYLE_MORE}</style></head><body><main>"
    );
    page.push_str("<h1>New Year's Eve 2024 in Auckland, with and without Isobar</h1>");
    judgement(&mut page, verdict);
    about(&mut page, night);
    courses(&mut page, night, [&home.record, &isobar.record]);
    page.push_str("<h2>What every server did</h2>");
    legend(&mut page);
    page.push_str("<div class=\"charts\">");
    for (act, seen) in [(Act::HomeOnly, home), (Act::Isobar, isobar)] {
        strips(&mut page, night, act, &seen.record);
    }
    page.push_str("</div><h2>Who helped whom, an hour around midnight</h2><div class=\"charts\">");
    map(&mut page, night, &isobar.record);
    page.push_str(
        "</div><p>Load: hourly pedestrian counts of Heart of the City Auckland, CC BY 4.0, scaled.</p>\
         </main></body></html>\n",
    );
    page
}

fn judgement(page: &mut String, verdict: &Verdict) {
    let word = verdict.word();
    let _ = write!(
        page,
        "<p><span class=\"verdict {}\">{word}</span></p><ul>",
        word.to_lowercase()
    );
    for (sentence, holds) in verdict.conditions() {
        let _ = write!(
            page,
            "<li>{} {}</li>",
            if holds { "✓" } else { "✗" },
            escape(&sentence)
        );
    }
    page.push_str("</ul><div class=\"wide\"><table><thead><tr><th></th><th>home-only</th><th>Isobar</th></tr></thead><tbody>");
    for cells in verdict.rows() {
        page.push_str("<tr>");
        for cell in cells {
            let _ = write!(page, "<td>{}</td>", escape(&cell));
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table></div>");
}

fn about(page: &mut String, night: &Night) {
    let capacity_rps: f64 = (0..night.sites())
        .map(|site| night.capacity_rps(site))
        .sum();
    let _ = write!(
        page,
        "<p>{} sites, each with an edge proxy and an endpoint as real processes, and a controller. A site's \
         server was built so that it ran at {:.0} % in the busiest hour between 18:00 and 03:00 of the year \
         before. The city's busiest moment is {:.0} requests/s; all servers together can do {capacity_rps:.0}. \
         Nine hours take {:.0} s here: one second is {:.0} minutes of the night. Both runs get the same \
         requests at the same instants.</p>",
        night.sites(),
        100.0 * super::night::BUILT_FOR,
        super::night::PEAK_RPS,
        night.replayed_s,
        540.0 / night.replayed_s,
    );
}

fn courses(page: &mut String, night: &Night, records: [&Record; 2]) {
    page.push_str("<h2>Over the night</h2><ul class=\"legend\">");
    for (colour, act) in [(1, Act::HomeOnly), (0, Act::Isobar)] {
        let _ = write!(page, "<li><i class=\"c{colour}\"></i>{}</li>", act.title());
    }
    page.push_str("</ul><div class=\"charts\">");
    let seconds = seconds(night);
    let sum = |record: &Record, second: usize, count: fn(&Bin) -> u32| {
        let bins = record.bins(second).unwrap_or_default().iter();
        f64::from(bins.map(count).sum::<u32>())
    };
    type Pick<'a> = &'a dyn Fn(&Record, usize) -> f64;
    let charts: [(&str, &str, bool, Pick<'_>); 5] = [
        ("99th percentile", "ms", true, &|record, second| {
            record.second_ms(second, 0.99)
        }),
        ("Median latency", "ms", true, &|record, second| {
            record.second_ms(second, 0.5)
        }),
        ("Failed", "requests/s", false, &|record, second| {
            sum(record, second, |bin| bin.failed)
        }),
        ("Moved", "requests/s", false, &|record, second| {
            sum(record, second, |bin| bin.moved)
        }),
        ("Entered", "requests/s", false, &|record, second| {
            sum(record, second, |bin| bin.offered)
        }),
    ];
    for (title, unit, log, pick) in charts {
        let drawn: Vec<Line> = [(1, Act::HomeOnly, records[0]), (0, Act::Isobar, records[1])]
            .into_iter()
            .map(|(colour, act, record)| Line {
                name: act.title().to_owned(),
                colour,
                values: seconds.clone().map(|second| pick(record, second)).collect(),
            })
            .collect();
        let chart = lines(unit, &drawn, log);
        let _ = write!(
            page,
            "<figure><figcaption>{title}</figcaption>{chart}</figure>"
        );
    }
    page.push_str("</div>");
}

/// Whole seconds of the night, without the warm-up.
fn seconds(night: &Night) -> Range<usize> {
    WARM_UP_S as usize..night.duration_s() as usize
}

fn heat(utilisation: f64) -> &'static str {
    let found = HEAT.iter().rev().find(|(from, _)| utilisation >= *from);
    found.map_or(HEAT[0].1, |(_, colour)| colour)
}

fn legend(page: &mut String) {
    page.push_str("<p>Work done over capacity, by second; a line under a second: requests failed.</p><ul class=\"legend\">");
    for (from, colour) in HEAT {
        let _ = write!(
            page,
            "<li><i style=\"background:{colour}\"></i>from {:.0} %</li>",
            100.0 * from
        );
    }
    page.push_str("</ul>");
}

/// One row per site, one cell per second.
fn strips(page: &mut String, night: &Night, act: Act, record: &Record) {
    const NAMES: f64 = 170.0;
    const ROW: f64 = 16.0;
    let seconds = seconds(night);
    let cell = (640.0 - NAMES) / seconds.len().max(1) as f64;
    let height = ROW * night.sites() as f64 + 20.0;
    let _ = write!(
        page,
        "<figure><figcaption>{}</figcaption><svg class=\"strip\" viewBox=\"0 0 640 {height}\" role=\"img\">",
        act.title()
    );
    for site in 0..night.sites() {
        let top = ROW * site as f64;
        let name: String = night.name(site).chars().take(26).collect();
        let _ = write!(
            page,
            "<text class=\"right\" x=\"{:.0}\" y=\"{:.1}\">{}</text>",
            NAMES - 6.0,
            top + 12.0,
            escape(&name)
        );
        for (at, second) in seconds.clone().enumerate() {
            let Some(bin) = record.bins(second).map(|bins| bins[site]) else {
                continue;
            };
            let utilisation = f64::from(bin.worked()) / night.capacity_rps(site);
            let left = NAMES + cell * at as f64;
            let _ = write!(
                page,
                "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"13\" fill=\"{}\"/>",
                cell + 0.1,
                heat(utilisation)
            );
            if bin.failed > 0 {
                let _ = write!(
                    page,
                    "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{cell:.1}\" height=\"3\" fill=\"#000\"/>",
                    top + 10.0
                );
            }
        }
    }
    for hour in 0..9 {
        let at = NAMES + (640.0 - NAMES) * f64::from(hour) / 9.0;
        let _ = write!(
            page,
            "<text x=\"{at:.1}\" y=\"{:.1}\">{:02}</text>",
            height - 4.0,
            (18 + hour) % 24
        );
    }
    page.push_str("</svg></figure>");
}

/// Sites where they are, arcs for what moved between them.
fn map(page: &mut String, night: &Night, record: &Record) {
    const SIZE: f64 = 640.0;
    const EDGE: f64 = 40.0;
    let places: Vec<(f64, f64)> = (0..night.sites()).map(|site| night.place(site)).collect();
    let bounds = |pick: fn(&(f64, f64)) -> f64| {
        let values = places.iter().map(pick);
        values.fold((f64::MAX, f64::MIN), |(low, high), v| {
            (low.min(v), high.max(v))
        })
    };
    let (east, north) = (bounds(|place| place.0), bounds(|place| place.1));
    // A degree of longitude is shorter by the cosine of the latitude.
    let shrink = north.0.to_radians().cos();
    let scale = (SIZE - 2.0 * EDGE)
        / ((east.1 - east.0) * shrink)
            .max(north.1 - north.0)
            .max(1e-9);
    let point = |site: usize| {
        let (lon, lat) = places[site];
        (
            EDGE + (lon - east.0) * shrink * scale,
            EDGE + (north.1 - lat) * scale,
        )
    };
    let midnight = WARM_UP_S + night.replayed_s * 6.5 / 9.0;
    let half_hour = night.replayed_s / 18.0;
    let around = (midnight - half_hour) as usize..(midnight + half_hour) as usize + 1;
    let flows = record.flows(around.clone());
    let _ = write!(
        page,
        "<figure><svg class=\"map\" viewBox=\"0 0 {SIZE} {SIZE}\" role=\"img\">"
    );
    arcs(page, night, &flows, point);
    for site in 0..night.sites() {
        let (x, y) = point(site);
        let bins = around.clone().filter_map(|second| record.bins(second));
        let worked: u32 = bins.map(|bins| bins[site].worked()).sum();
        let capacity = night.capacity_rps(site) * around.len() as f64;
        let _ = write!(
            page,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{:.1}\" fill=\"{}\"><title>{}: {:.0} % of {:.0} requests/s</title></circle>",
            3.0 + night.capacity_rps(site).sqrt() / 1.6,
            heat(f64::from(worked) / capacity),
            escape(night.name(site)),
            100.0 * f64::from(worked) / capacity,
            night.capacity_rps(site),
        );
    }
    page.push_str("</svg></figure>");
}

fn arcs(page: &mut String, night: &Night, flows: &[u32], point: impl Fn(usize) -> (f64, f64)) {
    let sites = night.sites();
    let mut moved: Vec<(usize, u32)> = flows
        .iter()
        .copied()
        .enumerate()
        .filter(|flow| flow.1 > 0)
        .collect();
    moved.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let most = moved.first().map_or(1.0, |flow| f64::from(flow.1));
    for (pair, count) in moved.into_iter().take(ARCS_MAX) {
        let (from, to) = (pair / sites, pair % sites);
        let ((x1, y1), (x2, y2)) = (point(from), point(to));
        // Bent to one side, so that both directions can be seen.
        let (bend_x, bend_y) = (
            (x1 + x2) / 2.0 + (y1 - y2) * 0.2,
            (y1 + y2) / 2.0 + (x2 - x1) * 0.2,
        );
        let _ = write!(
            page,
            "<path d=\"M{x1:.1} {y1:.1}Q{bend_x:.1} {bend_y:.1} {x2:.1} {y2:.1}\" stroke-width=\"{:.1}\"><title>{} → {}: {count} requests</title></path>",
            0.8 + 6.0 * f64::from(count) / most,
            escape(night.name(from)),
            escape(night.name(to)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isobar_replay::cluster::Stopped;
    use isobar_replay::cluster::record::{Ended, Outcome};

    fn seen(night: &Night, by: usize) -> Seen {
        let mut record = Record::new(night.sites(), WARM_UP_S);
        for n in 0..1_000 {
            let due_s = 4.0 + f64::from(n) * 0.05;
            record.offer(6, due_s);
            let outcome = if n % 100 == 0 {
                Outcome::Shed
            } else {
                Outcome::Served { by: Some(by) }
            };
            record.end(Ended {
                home: 6,
                due_s,
                hot: true,
                outcome,
                latency_us: 30_000,
            });
        }
        let stopped = Stopped {
            killed: Vec::new(),
            failed: Vec::new(),
        };
        Seen {
            record,
            samples: Vec::new(),
            stopped,
        }
    }

    #[test]
    fn the_page_is_whole_and_fetches_nothing() {
        let night = Night::new(60.0).unwrap();
        let (home, isobar) = (seen(&night, 6), seen(&night, 7));
        let page = page(&night, &home, &isobar, &Verdict::new(&home, &isobar));
        for part in [
            "FAIL",
            "45 Queen Street → 30 Queen Street",
            "CC BY 4.0",
            "</html>",
        ] {
            assert!(page.contains(part), "{part}");
        }
        for outside in ["http:", "https:", "<script src", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        let (open, close) = (page.matches("<svg").count(), page.matches("</svg>").count());
        assert_eq!((open, close), (8, 8));
    }
}
