//! Small charts as inline SVG. Colours are CSS variables, so a page's light
//! and dark themes both fit.

use std::fmt::Write;

/// Size of a chart's drawing, in its own units; the page scales it.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 52.0;
const BOTTOM: f64 = 24.0;
const TOP: f64 = 8.0;

/// Text that is safe inside an element or attribute.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// One line of a chart.
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Which of the page's line colours, 0 to 11.
    pub colour: usize,
    /// One value per second; 0 is drawn at the bottom of a logarithmic axis.
    pub values: Vec<f64>,
}

/// Lines over seconds. With `log` the vertical axis is logarithmic from 1 up.
pub fn lines(unit: &str, lines: &[Line], log: bool) -> String {
    let seconds = lines
        .iter()
        .map(|l| l.values.len())
        .max()
        .unwrap_or(0)
        .max(2);
    let most = lines
        .iter()
        .flat_map(|l| &l.values)
        .copied()
        .fold(0.0, f64::max);
    let axis = Axis::new(most, log);
    let mut svg = open(unit);
    axis.draw(&mut svg);
    draw_seconds(&mut svg, seconds);
    for line in lines {
        let points: Vec<String> = line
            .values
            .iter()
            .enumerate()
            .map(|(second, &value)| {
                format!("{:.1},{:.1}", x(second as f64, seconds), axis.y(value))
            })
            .collect();
        let _ = write!(
            svg,
            r#"<polyline class="line c{}" points="{}"><title>{}</title></polyline>"#,
            line.colour % 12,
            points.join(" "),
            escape(&line.name)
        );
    }
    svg.push_str("</svg>");
    svg
}

/// Areas stacked to a whole over time: `rows` of shares (0 to 1) at `at_s`.
pub fn stacked(names: &[String], at_s: &[f64], rows: &[Vec<f64>]) -> String {
    let seconds = at_s.last().map_or(2, |s| s.ceil() as usize).max(2);
    let axis = Axis::new(100.0, false);
    let mut svg = open("% of demand");
    axis.draw(&mut svg);
    draw_seconds(&mut svg, seconds);
    let upto = |row: &Vec<f64>, n: usize| 100.0 * row.iter().take(n).sum::<f64>();
    for (n, name) in names.iter().enumerate() {
        let point = |(s, row): (&f64, &Vec<f64>), n| {
            format!("{:.1},{:.1}", x(*s, seconds), axis.y(upto(row, n)))
        };
        let above = at_s.iter().zip(rows).map(|at| point(at, n + 1));
        let below = at_s.iter().zip(rows).rev().map(|at| point(at, n));
        let points: Vec<String> = above.chain(below).collect();
        let _ = write!(
            svg,
            r#"<polygon class="area c{}" points="{}"><title>{}</title></polygon>"#,
            n % 12,
            points.join(" "),
            escape(name)
        );
    }
    svg.push_str("</svg>");
    svg
}

/// Horizontal bars with their values; `(name, value, text)`.
pub fn bars(bars: &[(String, f64, String)]) -> String {
    const ROW: f64 = 26.0;
    let most = bars.iter().map(|bar| bar.1).fold(0.0, f64::max);
    let height = ROW * bars.len() as f64;
    let mut svg = format!(r#"<svg viewBox="0 0 {WIDTH} {height}" role="img">"#);
    for (n, (name, value, text)) in bars.iter().enumerate() {
        let top = ROW * n as f64;
        let length = if most > 0.0 {
            330.0 * value / most
        } else {
            0.0
        };
        let _ = write!(
            svg,
            r#"<text x="150" y="{:.1}" class="right">{}</text><rect class="bar c{}" x="158" y="{:.1}" width="{:.1}" height="16" rx="2"/><text x="{:.1}" y="{:.1}">{}</text>"#,
            top + 17.0,
            escape(name),
            n % 12,
            top + 5.0,
            length.max(1.0),
            166.0 + length,
            top + 17.0,
            escape(text)
        );
    }
    svg.push_str("</svg>");
    svg
}

fn open(unit: &str) -> String {
    format!(
        r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><text x="{LEFT}" y="{:.0}" class="unit">{}</text>"#,
        TOP + 8.0,
        escape(unit)
    )
}

fn x(second: f64, seconds: usize) -> f64 {
    LEFT + (WIDTH - LEFT - 8.0) * second / (seconds - 1).max(1) as f64
}

fn draw_seconds(svg: &mut String, seconds: usize) {
    let step = [1, 5, 10, 30, 60, 300, 600, 3600]
        .into_iter()
        .find(|step| seconds / step <= 12)
        .unwrap_or(86_400);
    for second in (0..seconds).step_by(step) {
        let at = x(second as f64, seconds);
        let _ = write!(
            svg,
            r#"<text x="{at:.1}" y="{:.1}" class="middle">{second} s</text>"#,
            HEIGHT - 6.0
        );
    }
}

/// The vertical axis.
struct Axis {
    most: f64,
    log: bool,
}

impl Axis {
    fn new(most: f64, log: bool) -> Axis {
        let most = if most > 0.0 { most } else { 1.0 };
        let most = if log {
            10_f64.powf(most.max(10.0).log10().ceil())
        } else {
            round_up(most)
        };
        Axis { most, log }
    }

    fn y(&self, value: f64) -> f64 {
        let part = if self.log {
            value.max(1.0).log10() / self.most.log10()
        } else {
            value / self.most
        };
        let floor = HEIGHT - BOTTOM;
        floor - (floor - TOP) * part.clamp(0.0, 1.0)
    }

    fn draw(&self, svg: &mut String) {
        let ticks: Vec<f64> = if self.log {
            (0..=self.most.log10() as i32)
                .map(|power| 10_f64.powi(power))
                .collect()
        } else {
            (0..=4)
                .map(|quarter| self.most * f64::from(quarter) / 4.0)
                .collect()
        };
        for tick in ticks {
            let y = self.y(tick);
            let _ = write!(
                svg,
                r#"<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{y:.1}" y2="{y:.1}"/><text x="{:.1}" y="{:.1}" class="right">{}</text>"#,
                LEFT - 6.0,
                y + 4.0,
                number(tick)
            );
        }
    }
}

/// The next of 1, 2, 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    let step = steps.into_iter().find(|step| step * power >= value * 0.999);
    step.unwrap_or(10.0) * power
}

fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_round_up_and_stay_inside() {
        for (value, top) in [
            (0.0003, 0.0005),
            (1.0, 1.0),
            (1.2, 2.0),
            (48.0, 50.0),
            (99.0, 100.0),
        ] {
            assert!((round_up(value) - top).abs() < 1e-9 * top, "{value}");
        }
        let axis = Axis::new(900.0, true);
        assert_eq!(axis.y(0.0), HEIGHT - BOTTOM);
        assert_eq!(axis.y(1e9), TOP);
        assert!(axis.y(10.0) > axis.y(100.0));
    }

    #[test]
    fn names_cannot_break_out() {
        let svg = lines(
            "ms",
            &[Line {
                name: "<b>&\"".into(),
                colour: 0,
                values: vec![1.0, 2.0],
            }],
            false,
        );
        assert!(svg.contains("&lt;b&gt;&amp;&quot;") && !svg.contains("<b>"));
    }
}
