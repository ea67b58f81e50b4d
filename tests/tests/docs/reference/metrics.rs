//! Every metric of the two programs.

use std::fmt::Write;

use isobar_mesh_api::metric::Metric;

use super::{cell, compare, head, row};

fn table(out: &mut String, title: &str, metrics: impl Iterator<Item = Metric>) {
    let _ = writeln!(out, "## {title}\n");
    head(out, &["name", "type", "unit", "labels", "meaning"]);
    for metric in metrics {
        let labels: Vec<String> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
        let name = format!("`{}`", metric.name);
        let (kind, unit) = (metric.kind.as_str(), metric.unit().unwrap_or(""));
        row(
            out,
            &[&name, kind, unit, &labels.join(", "), &cell(metric.help)],
        );
    }
    out.push('\n');
}

#[test]
fn metrics_are_those_of_the_code() {
    let mut out = String::new();
    table(&mut out, "The proxy", isobar_edge_proxy::metrics::all());
    table(
        &mut out,
        "The controller",
        isobar_controller::metrics::all(),
    );
    let about = "What `/metrics` has, on the proxy's admin port and on the controller's REST port: \
                 [what it is good for](../observability.md). Buckets, sums and counts of a histogram have its name with\n\
                 `_bucket`, `_sum` and `_count`.";
    compare("metrics.md", "Metrics", about, &out);
}
