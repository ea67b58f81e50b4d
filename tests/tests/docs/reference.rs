//! The pages of `docs/reference` are made of what the programs are made of.

use std::fmt::Write;

use super::root;

#[path = "reference/api.rs"]
mod api;
#[path = "reference/cli.rs"]
mod cli;
#[path = "reference/configuration.rs"]
mod configuration;
#[path = "reference/fields.rs"]
mod fields;
#[path = "reference/metrics.rs"]
mod metrics;

/// Compares a page with what it should be, or writes it.
fn compare(name: &str, title: &str, about: &str, body: &str) {
    let path = root().join("docs/reference").join(name);
    let page = format!(
        "# {title}\n\n{about}\n\nThis page is made from the code: `ISOBAR_UPDATE_REFERENCE=1 cargo test -p isobar-tests --test docs reference`\nwrites it, and a test fails when it lags.\n\n{}\n",
        body.trim()
    );
    if std::env::var_os("ISOBAR_UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = there.lines().zip(page.lines()).position(|(a, b)| a != b);
    assert!(
        there == page,
        "docs/reference/{name} lags behind the code at line {}; ISOBAR_UPDATE_REFERENCE=1 writes it anew",
        differs.map_or(there.lines().count(), |line| line + 1)
    );
}

/// A text as it may stand in a cell of a table.
fn cell(text: &str) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // Links within the code's own documentation.
    let plain = one_line.replace("[`", "`").replace("`]", "`");
    let mut out = String::new();
    for (index, part) in plain.replace('|', "\\|").split('`').enumerate() {
        match index % 2 {
            0 => out.push_str(&part.replace('<', "&lt;")),
            _ => drop(write!(out, "`{part}`")),
        }
    }
    out
}

/// A row of a table.
fn row(out: &mut String, cells: &[&str]) {
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

/// The head of a table.
fn head(out: &mut String, names: &[&str]) {
    row(out, names);
    let _ = writeln!(out, "|{}", "---|".repeat(names.len()));
}
