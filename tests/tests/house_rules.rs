//! The rules of the house, as tests: who may know whom, what pure code may touch, how long a file may be.
//!
//! Rules are read off the sources as text. Code from `#[cfg(test)]` on, files named `tests.rs` and what
//! stands under `tests/` and `benches/` is test code and may do more.

#![allow(clippy::unwrap_used)] // A test that meets an error has failed; here is where.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Longest file, in lines, tests at its end not counted.
const FILE_LINES_MAX: usize = 500;
/// Longest function, in lines.
const FUNCTION_LINES_MAX: usize = 70;

/// Every crate of ours and which others it may depend on.
const EDGES: [(&str, &[&str]); 7] = [
    ("mesh-api", &[]),
    ("geo-data", &[]),
    ("controller", &["geo-data", "mesh-api"]),
    ("edge-proxy", &["mesh-api"]),
    (
        "replay",
        &["controller", "edge-proxy", "geo-data", "mesh-api"],
    ),
    (
        "cli",
        &["controller", "edge-proxy", "geo-data", "mesh-api", "replay"],
    ),
    (
        "tests",
        &[
            "cli",
            "controller",
            "edge-proxy",
            "geo-data",
            "mesh-api",
            "replay",
        ],
    ),
];

/// Modules that decide and must give the same answer for the same input: a file, or a folder and the
/// file of the same name beside it.
const PURE: &[&str] = &[
    "mesh-api/src",
    "geo-data/src",
    "controller/src/access",
    "controller/src/authority/rotation",
    "controller/src/guesses",
    "controller/src/control_loop",
    "controller/src/injection",
    "controller/src/load_book",
    "controller/src/demand",
    "controller/src/discovery/merge",
    "controller/src/election",
    "controller/src/capacity",
    "controller/src/neighbourhood",
    "controller/src/rate_share",
    "controller/src/past",
    "controller/src/picture",
    "controller/src/planner",
    "edge-proxy/src/access",
    "controller/src/kubernetes/cluster",
    "controller/src/kubernetes/declare",
    "controller/src/kubernetes/election",
    "controller/src/kubernetes/gateways",
    "controller/src/kubernetes/load",
    "controller/src/kubernetes/nodes",
    "controller/src/kubernetes/notices",
    "controller/src/kubernetes/remote",
    "controller/src/kubernetes/routes",
    "controller/src/kubernetes/services",
    "controller/src/kubernetes/status",
    "edge-proxy/src/alert",
    "edge-proxy/src/pick",
    "edge-proxy/src/pressure",
    "edge-proxy/src/shed",
    "edge-proxy/src/spread",
    "edge-proxy/src/neighbour_load",
    "edge-proxy/src/credit",
    "edge-proxy/src/control/backoff",
    "edge-proxy/src/decay",
    "edge-proxy/src/balance",
    "edge-proxy/src/circuit",
    "edge-proxy/src/gradient",
    "edge-proxy/src/health",
    "edge-proxy/src/outlier",
    "edge-proxy/src/rate_limit",
    "edge-proxy/src/retry",
    "edge-proxy/src/route",
    "edge-proxy/src/client_hello",
    "edge-proxy/src/detect",
    "edge-proxy/src/forwarded",
    "edge-proxy/src/proxy_protocol",
];

/// What pure modules must not name: runtimes, sockets, clocks, entropy.
const IMPURE: [&str; 12] = [
    "tokio",
    "hyper::",
    "kube::",
    "sled::",
    "std::net::Tcp",
    "std::net::Udp",
    "Instant::now",
    "SystemTime::now",
    "fastrand::Rng::new()",
    "fastrand::u",
    "fastrand::f",
    "std::thread",
];

/// What modules that decide must not name either: the order of a hash could reach an answer. Readers may
/// look things up by hash.
const HASHED: [&str; 2] = ["HashMap", "HashSet"];

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("the crate stands in the workspace")
        .to_owned()
}

/// A source file: its path from the root, and its text without the tests at its end.
struct Source {
    path: String,
    text: String,
    is_test: bool,
}

fn sources() -> Vec<Source> {
    let root = root();
    let mut files = Vec::new();
    for (name, _) in EDGES {
        collect(&root.join(name), &mut files);
    }
    files.sort();
    assert!(files.len() > 50, "only {} source files found", files.len());
    let source = |file: PathBuf| {
        let whole = fs::read_to_string(&file).unwrap();
        let path = file
            .strip_prefix(&root)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let is_test = path.ends_with("/tests.rs")
            || path.contains("/benches/")
            || path.split('/').skip(1).any(|part| part == "tests");
        let code = whole
            .find("\n#[cfg(test)]\nmod ")
            .map_or(whole.len(), |at| at + 1);
        Source {
            path,
            text: whole[..code].to_owned(),
            is_test,
        }
    };
    files.into_iter().map(source).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
}

/// Lines of code: comments are blanked, so that they may speak of what code must not do.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = |line: &'_ str| !line.trim_start().starts_with("//");
    text.lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line))
        .filter(move |(_, line)| code(line))
}

fn report(broken: Vec<String>) {
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn nobody_knows_whom_they_should_not() {
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let workspace: toml::Table = toml::from_str(&workspace).unwrap();
    let members: Vec<&str> = workspace["workspace"]["members"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|member| member.as_str())
        .collect();
    let named = EDGES.iter().map(|(name, _)| *name).collect();
    let members: BTreeSet<&str> = members.into_iter().collect();
    assert_eq!(
        members, named,
        "a crate without a rule, or a rule without a crate"
    );

    let mut broken = Vec::new();
    for (name, allowed) in EDGES {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = toml::from_str(&manifest).unwrap();
        for (kind, table) in dependency_tables(&manifest) {
            for dependency in table.keys() {
                let ours = dependency.strip_prefix("isobar-");
                // A crate may name itself: its tests have a feature that it is shipped without.
                if ours.is_some_and(|ours| ours != name && !allowed.contains(&ours)) {
                    broken.push(format!("{name} has {dependency} in its {kind}"));
                }
            }
        }
    }
    report(broken);
}

/// All dependency tables of a manifest, also those of targets.
fn dependency_tables(manifest: &toml::Table) -> Vec<(String, &toml::Table)> {
    let mut tables = Vec::new();
    for (key, value) in manifest {
        let Some(table) = value.as_table() else {
            continue;
        };
        if key.ends_with("dependencies") {
            tables.push((key.clone(), table));
        } else if key == "target" {
            let targets = table.values().filter_map(|target| target.as_table());
            tables.extend(targets.flat_map(dependency_tables));
        }
    }
    tables
}

#[test]
fn pure_modules_touch_no_world() {
    let mut broken = Vec::new();
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for source in sources() {
        let own = PURE.iter().find(|pure| {
            source.path == format!("{pure}.rs") || source.path.starts_with(&format!("{pure}/"))
        });
        let Some(pure) = own else {
            continue;
        };
        *found.entry(pure).or_default() += 1;
        if source.is_test {
            continue;
        }
        for (line, code) in code_lines(&source.text) {
            let decides = !source.path.starts_with("geo-data/src/read/");
            let hashed = HASHED.iter().filter(|_| decides);
            for word in IMPURE.iter().chain(hashed) {
                if code.contains(word) {
                    broken.push(format!("{}:{line} names {word}", source.path));
                }
            }
        }
    }
    for pure in PURE {
        assert!(
            found.contains_key(pure),
            "there is no module {pure}: correct this list"
        );
    }
    report(broken);
}

#[test]
fn stores_and_discoveries_are_named_where_they_live_alone() {
    let places = [
        (
            "sled",
            ["controller/src/store/sled.rs", "controller/src/store/sled/"],
        ),
        (
            "kube",
            ["controller/src/kubernetes.rs", "controller/src/kubernetes/"],
        ),
    ];
    let mut broken = Vec::new();
    for source in sources() {
        for (name, homes) in &places {
            let at_home = homes.iter().any(|home| source.path.starts_with(home));
            if at_home || source.is_test {
                continue;
            }
            for (line, code) in code_lines(&source.text) {
                // A module of ours may have the name: `store::sled::SledStore`.
                let own_path = format!("store::{name}::");
                let code = code.replace(&own_path, "");
                if code.contains(&format!("{name}::"))
                    || code.contains(&format!("extern crate {name}"))
                {
                    broken.push(format!("{}:{line} names {name}", source.path));
                }
            }
        }
    }
    report(broken);
}

#[test]
fn metric_names_stand_in_one_file_per_program() {
    let macros = ["counter!(", "gauge!(", "histogram!("];
    // Crates of ours begin like metrics do; a name with one of these endings is a metric's.
    let endings = ["_total\"", "_seconds\"", "_bytes\"", "_ratio\"", "_rps\""];
    let mut broken = Vec::new();
    let mut homes = 0;
    for source in sources().iter().filter(|source| !source.is_test) {
        let program = ["controller/src/", "edge-proxy/src/"]
            .into_iter()
            .any(|program| source.path.starts_with(program));
        if program && source.path.ends_with("/metrics.rs") {
            homes += 1;
            continue;
        }
        for (line, code) in code_lines(&source.text) {
            let name = code.contains("\"isobar_") && endings.iter().any(|end| code.contains(end));
            if program && (name || macros.iter().any(|word| code.contains(word))) {
                broken.push(format!("{}:{line} has a metric", source.path));
            }
        }
    }
    assert_eq!(homes, 2, "each program has one metrics.rs");
    report(broken);
}

#[test]
fn files_are_short() {
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test) {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            broken.push(format!(
                "{} has {lines} lines before its tests",
                source.path
            ));
        }
        if source.path.ends_with("/mod.rs") {
            broken.push(format!("{}: write foo.rs beside foo/", source.path));
        }
    }
    report(broken);
}

#[test]
fn functions_fit_a_screen() {
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let body = line.trim_start();
            let indent = &line[..line.len() - body.len()];
            let words = body.split_whitespace();
            let mut words = words.skip_while(|word| {
                word.starts_with("pub")
                    || ["async", "const", "unsafe"].contains(word)
                    || *word == "crate)"
            });
            if words.next() != Some("fn") {
                continue;
            }
            // Sources are formatted: a function ends at the first brace that stands where it began.
            let close = format!("{indent}}}");
            let length = lines[at..]
                .iter()
                .position(|line| **line == close)
                .unwrap_or(0)
                + 1;
            // A function without a body ends with a semicolon instead.
            let bodiless = lines[at..].iter().take(length).any(|line| {
                line.ends_with(';')
                    && line.starts_with(indent)
                    && !line[indent.len()..].starts_with(' ')
                    && !line.contains('{')
            });
            if length > FUNCTION_LINES_MAX && !bodiless {
                broken.push(format!("{}:{} is {length} lines long", source.path, at + 1));
            }
        }
    }
    report(broken);
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not find itself.
    let words = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["XX", "X:"].concat(),
    ];
    let ignored = ["#[ign", "ore"].concat();
    let mut broken = Vec::new();
    for source in sources() {
        let whole = fs::read_to_string(root().join(&source.path)).unwrap();
        for (at, line) in whole.lines().enumerate() {
            let left = words.iter().any(|word| line.contains(word.as_str()));
            if left || line.contains(&ignored) {
                broken.push(format!("{}:{} {}", source.path, at + 1, line.trim()));
            }
        }
    }
    report(broken);
}

#[test]
fn nothing_unwraps_outside_tests() {
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test) {
        for (line, code) in code_lines(&source.text) {
            if code.contains(".unwrap()") || code.contains("unwrap_unchecked") {
                broken.push(format!("{}:{line} unwraps", source.path));
            }
        }
    }
    report(broken);
}
