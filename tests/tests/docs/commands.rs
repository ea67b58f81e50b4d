//! Every command of the documentation is understood by the programs, and is run against a small mesh that is set up as the
//! documentation says; what cannot be run here is on a list, with the reason.

use std::collections::BTreeSet;

use clap::{Command, CommandFactory};
use isobar_mesh_api::metric::Metric;

use super::{pages, root};

#[path = "commands/inline.rs"]
mod inline;
#[path = "commands/replays.rs"]
mod replays;
#[path = "commands/sandbox.rs"]
mod sandbox;

use sandbox::Sandbox;

/// What is not run, by how it begins, and why.
const NOT_RUN: [(&str, &str); 20] = [
    ("cargo build", "what is tested was built by cargo"),
    (
        "cargo run --release -- demo",
        "a suite of its own runs the demo",
    ),
    ("cargo test", "would run itself"),
    (
        "k3s/build-arm.sh",
        "cross-compiles for minutes; a suite of its own looks at what it makes",
    ),
    (
        "k3s/image.py",
        "needs what k3s/build-arm.sh makes; a suite of its own makes images",
    ),
    (
        "isobar replay",
        "takes minutes; replays.rs runs each, made small",
    ),
    (
        "isobar demo",
        "takes a minute; a suite of its own runs the demo",
    ),
    (
        "openssl",
        "a suite of its own makes certificates of that kind and runs controllers with them",
    ),
    ("etcd ", "a suite of its own runs one like that"),
    (
        "etcdctl",
        "needs an etcd; a suite of its own asks one the same",
    ),
    ("peers", "measures other proxies for minutes"),
    ("ISOBAR_DATA_DIR=… cargo bench", "measures for minutes"),
    (
        "control-load",
        "measures for minutes; a suite of its own runs it once",
    ),
    (
        "cd controller/dashboard && npm ci",
        "needs a registry of packages",
    ),
    (
        "isobar install | kubectl",
        "needs a cluster; what stands before the bar is run",
    ),
    (
        "isobar uninstall | kubectl",
        "needs a cluster; what stands before the bar is run",
    ),
    (
        "kubectl",
        "needs a cluster; suites of their own speak with a Kubernetes API",
    ),
    ("valgrind", "measures for minutes"),
    ("wrk", "measures, beside valgrind"),
    ("promtool", "a suite of its own checks the rules with it"),
];

/// Commands that end with something else than 0, as the documentation says.
const ENDS_WITH: [(&str, i32); 1] = [("isobar policy diff", 1)];

/// Commands that go on until they are told to end, with what they say when they are at it.
const GOES_ON: [(&str, &str); 1] = [("isobar tap", "look for requests of")];

/// What stands for a value.
const PLACEHOLDERS: [(&str, &str); 1] = [("--synthetic SHAPE", "--synthetic step")];

/// The pages whose commands need others' first.
const IN_ORDER: [&str; 1] = ["docs/quick-start.md"];

/// One command of a page.
pub struct Line {
    page: String,
    number: usize,
    text: String,
}

impl Line {
    fn place(&self) -> String {
        format!("{}:{}: {}", self.page, self.number, self.text)
    }
}

/// A line without the comment at its end.
fn without_comment(line: &str) -> &str {
    let cut = if line.starts_with('#') {
        Some(0)
    } else {
        line.find(" #")
    };
    line[..cut.unwrap_or(line.len())].trim_end()
}

/// The commands of a page's shell blocks, continued lines as one.
fn commands(page: &str, text: &str) -> Vec<Line> {
    let (mut found, mut is_shell, mut open): (Vec<Line>, bool, bool) = (Vec::new(), false, false);
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if let Some(language) = line.strip_prefix("```") {
            in_code = !in_code;
            is_shell = in_code && ["sh", "bash", "shell", "console"].contains(&language);
            continue;
        }
        let shown = without_comment(line);
        if !is_shell || shown.is_empty() {
            continue;
        }
        let (part, goes_on) = match shown.strip_suffix('\\') {
            Some(part) => (part.trim_end(), true),
            None => (shown, false),
        };
        match (open, found.last_mut()) {
            (true, Some(last)) => {
                last.text.push(' ');
                last.text.push_str(part.trim_start());
            }
            _ => found.push(Line {
                page: page.to_owned(),
                number: index + 1,
                text: part.to_owned(),
            }),
        }
        open = goes_on;
    }
    found
}

fn all_commands() -> Vec<Line> {
    let mut pages = pages();
    pages.sort_by_key(|(path, _)| !IN_ORDER.contains(&path.as_str()));
    let found: Vec<Line> = pages
        .iter()
        .flat_map(|(page, text)| commands(page, text))
        .collect();
    assert!(found.len() > 40, "{} commands", found.len());
    found
}

/// The three programs, by name.
fn programs() -> [(&'static str, Command); 3] {
    [
        ("isobar", isobar_cli::arguments::Arguments::command()),
        ("isobar-proxy", isobar_edge_proxy::cli::command()),
        ("isobar-controller", isobar_controller::cli::Args::command()),
    ]
}

/// The words of a command for one of the programs: up to what the shell does with its output, quotes taken off.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in text.chars() {
        match (quote, c) {
            (Some(end), c) if c == end => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '|' | '>' | '<' | ';' | '&') => break,
            (None, ' ') => words.push(std::mem::take(&mut word)),
            (_, c) => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn every_command_is_understood() {
    let programs = programs();
    let mut wrong = Vec::new();
    for line in all_commands() {
        let text = PLACEHOLDERS
            .iter()
            .fold(line.text.clone(), |text, (word, value)| {
                text.replace(word, value)
            });
        let words = words(&text);
        let Some((_, program)) = programs
            .iter()
            .find(|(name, _)| Some(*name) == words.first().map(String::as_str))
        else {
            continue;
        };
        if let Err(error) = program.clone().try_get_matches_from(&words) {
            wrong.push(format!("{}\n{error}", line.place()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_command_works() {
    let lines = all_commands();
    let is_of = |line: &Line, beginning: &str| line.text.starts_with(beginning);
    let old: Vec<&str> = NOT_RUN
        .iter()
        .map(|(beginning, _)| *beginning)
        .filter(|beginning| !lines.iter().any(|line| is_of(line, beginning)))
        .collect();
    assert!(
        old.is_empty(),
        "no page has these commands any more: {old:?}"
    );
    let Some(mut sandbox) = Sandbox::new() else {
        return;
    };
    let mut ran = BTreeSet::new();
    for line in &lines {
        let is_left = NOT_RUN.iter().any(|(beginning, _)| is_of(line, beginning));
        let text = match line.text.split_once(" | kubectl") {
            Some((head, _)) => head,
            None if is_left => continue,
            None => &line.text,
        };
        let program = text.split(' ').next().unwrap().to_owned();
        let ends_with = ENDS_WITH
            .iter()
            .find(|(beginning, _)| is_of(line, beginning));
        let goes_on = GOES_ON.iter().find(|(beginning, _)| is_of(line, beginning));
        match (sandbox.is_program(text), goes_on) {
            (true, _) => sandbox.start(text),
            (_, Some((_, says))) => sandbox.watch(text, says),
            (_, None) => sandbox.run(&line.place(), text, ends_with.map_or(0, |(_, code)| *code)),
        }
        ran.insert(program);
    }
    for program in ["isobar", "isobar-proxy", "isobar-controller", "curl"] {
        assert!(ran.contains(program), "{program} was run");
    }
    let (proxy, controller) = sandbox.metrics();
    are_in_the_table(
        &proxy,
        &isobar_edge_proxy::metrics::all().collect::<Vec<_>>(),
    );
    are_in_the_table(
        &controller,
        &isobar_controller::metrics::all().collect::<Vec<_>>(),
    );
}

/// Every series that a program shows is of a metric of its table, of that kind, and told apart by those labels.
fn are_in_the_table(page: &str, table: &[Metric]) {
    let find = |name: &str| table.iter().find(|metric| metric.name == name);
    let mut seen = BTreeSet::new();
    for line in page.lines() {
        if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            let metric = find(name).unwrap_or_else(|| panic!("{name} is in no table"));
            assert_eq!(metric.kind.as_str(), kind, "{name}");
        }
        let Some((series, _)) = line.rsplit_once(' ').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let ends = ["_bucket", "_sum", "_count"];
        let of_histogram = || ends.iter().find_map(|end| find(name.strip_suffix(end)?));
        let metric = find(name).or_else(of_histogram);
        let metric = metric.unwrap_or_else(|| panic!("{name} is in no table"));
        seen.insert(metric.name);
        let labels = labels
            .trim_end_matches('}')
            .split("\",")
            .filter_map(|pair| pair.split_once("=\""));
        let labels: BTreeSet<&str> = labels
            .map(|(label, _)| label)
            .filter(|label| *label != "le")
            .collect();
        let told: BTreeSet<&str> = metric.labels.iter().copied().collect();
        // A request that nobody knew the service of has no such label.
        let lacks: Vec<&&str> = told
            .difference(&labels)
            .filter(|label| **label != "service")
            .collect();
        assert!(
            labels.is_subset(&told) && lacks.is_empty(),
            "{series} against {told:?}"
        );
    }
    assert!(seen.len() * 3 > table.len(), "{seen:?}");
}

#[test]
fn commands_stand_in_fenced_blocks_of_the_shell() {
    let names = ["isobar ", "isobar-proxy ", "isobar-controller ", "curl "];
    for (page, text) in pages() {
        let mut in_code = false;
        for (index, line) in text.lines().enumerate() {
            in_code ^= line.starts_with("```");
            let indented = line.strip_prefix("    ").unwrap_or("");
            let is_command = names.iter().any(|name| indented.starts_with(name));
            assert!(
                in_code || !is_command,
                "{page}:{}: put it between ```sh and ```",
                index + 1
            );
        }
    }
}

#[test]
fn packages_that_are_built_are_there() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for line in all_commands()
        .iter()
        .filter(|line| line.text.starts_with("cargo "))
    {
        for pair in words(&line.text).windows(2).filter(|pair| pair[0] == "-p") {
            assert!(
                manifest.contains(&format!("\n{} = {{ path", pair[1])),
                "{}",
                line.place()
            );
        }
    }
}
