//! `isobar` as a person types it: help, mistakes, bad files, small replays.

#![allow(clippy::unwrap_used)] // A test that meets an error has failed; here is where.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_isobar-e2e");

fn isobar(line: &str, directory: &Path) -> (Option<i32>, String, String) {
    let output: Output = Command::new(PROGRAM)
        .args(line.split_whitespace())
        .current_dir(directory)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn help_has_examples_and_hides_what_is_internal() {
    let directory = tempfile::tempdir().unwrap();
    for line in ["--help", "demo --help", "replay --help"] {
        let (code, out, _) = isobar(line, directory.path());
        assert_eq!(code, Some(0), "{line}");
        assert!(out.contains("Examples:"), "{line}: {out}");
        assert!(!out.contains("--with-parent"), "{line}: {out}");
    }
    let (_, out, _) = isobar("demo --help", directory.path());
    assert!(out.contains("Verdict") && out.contains("0.1 %"), "{out}");
    let (code, out, _) = isobar("completions bash", directory.path());
    assert!(code == Some(0) && out.contains("_isobar()"), "{out}");
}

#[test]
fn wrong_usage_exits_2_and_says_what_would_be_right() {
    let directory = tempfile::tempdir().unwrap();
    let cases = [
        ("", "Usage"),
        ("replya", "replay"),
        ("replay", "--synthetic"),
        ("replay --synthetic sunny", "platoon"),
        (
            "replay --synthetic step --policies convex,magic",
            "waterfall",
        ),
        ("replay --synthetic step --base nan", "base"),
        ("replay --synthetic step --base 3", "from 0.01 to 2"),
        ("replay --synthetic step --grid 0x4", "grid"),
        ("replay --synthetic step --seeds 0", "seeds"),
        ("replay --synthetic step --rtt-ms 4..1", "rtt-ms"),
        (
            "replay --synthetic step --html nowhere/report.html",
            "nowhere",
        ),
        (
            "replay --synthetic step --cluster --policies ll",
            "simulator",
        ),
        ("replay --synthetic step --cluster --grid 20x20", "64"),
        (
            "replay --synthetic step --cluster --proxy-down nobody@5",
            "r0c0",
        ),
        ("replay --sites s.csv", "--load"),
        ("demo --json nowhere/demo.json", "nowhere"),
        ("demo --html", "--html"),
        ("completions tcsh", "zsh"),
        ("controller --config nothing.toml", "nothing.toml"),
        ("proxy --config nothing.toml", "nothing.toml"),
    ];
    for (line, part) in cases {
        let (code, out, error) = isobar(line, directory.path());
        assert_eq!(code, Some(2), "{line}\n{out}{error}");
        assert!(error.contains(part), "{line}: {error}");
    }
    let left = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 0, "mistakes leave no files");
}

/// Files of one replay.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Files {
        Files {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

const SITES: &str = "site,lat,lon\na,45.1,9.1\nb,45.2,9.2\n";
const LOAD: &str =
    "site,time,value\na,2024-01-01T00:00,1\na,2024-01-01T01:00,2\nb,2024-01-01T00:00,1\n";

#[test]
fn bad_files_exit_2_and_name_file_line_and_column() {
    let swapped = "site,lat,lon\na,103.8,1.3\n";
    // Sites, load, and what the message must have, in parts.
    let cases: [(&str, &str, &[&str]); 12] = [
        (
            "site,lat\na,45.1\n",
            LOAD,
            &["sites.csv", "line 1", "longitude", "site, lat"],
        ),
        (
            "site,lat,lon\na,45.1,9.1\nb,NaN,9.2\n",
            LOAD,
            &["sites.csv", "line 3", "column 2 (lat)", "NaN"],
        ),
        (
            "site,lat,lon\na,91,9.1\n",
            LOAD,
            &["sites.csv", "line 2", "column 2 (lat)", "91"],
        ),
        (swapped, LOAD, &["sites.csv", "line 2", "103.8", "swapped"]),
        (
            "site,lat,lon\na,45.1,9.1\na,45.2,9.2\n",
            LOAD,
            &["sites.csv", "line 3", "column 1 (site)", "line 2"],
        ),
        ("", LOAD, &["sites.csv", "empty"]),
        (SITES, "", &["load.csv", "empty"]),
        (
            SITES,
            "site,time,value\nc,2024-01-01T00:00,1\n",
            &["load.csv", "line 2", "column 1 (site)", "unknown", "`c`"],
        ),
        (
            SITES,
            "site,time,value\na,2024-01-01T00:00,NaN\n",
            &["load.csv", "line 2", "column 3 (value)", "NaN"],
        ),
        (
            SITES,
            "site,time,value\na,2024-01-01T00:00,-4\n",
            &["load.csv", "line 2", "column 3 (value)", "negative"],
        ),
        (
            SITES,
            "site,time,value\na,yesterday,4\n",
            &["load.csv", "line 2", "column 2 (time)", "yesterday"],
        ),
        (
            SITES,
            "site,2024-01-01T00:00,2024-01-01T01:00\na,1\n",
            &["load.csv", "line 2"],
        ),
    ];
    for (sites, load, parts) in cases {
        let files = Files::new();
        files.write("sites.csv", sites.as_bytes());
        files.write("load.csv", load.as_bytes());
        check_refused(&files, "replay --sites sites.csv --load load.csv", parts);
    }
}

fn check_refused(files: &Files, line: &str, parts: &[&str]) {
    let (code, out, error) = isobar(line, files.directory.path());
    assert_eq!(code, Some(2), "{line}\n{out}{error}");
    for part in parts {
        assert!(error.contains(part), "{line}: no {part:?} in\n{error}");
    }
}

#[test]
fn missing_truncated_and_strange_files_are_refused() {
    let files = Files::new();
    files.write("sites.csv", SITES.as_bytes());
    files.write("load.csv", LOAD.as_bytes());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let long: String = (0..5_000).map(|n| format!("s{n},45.1,9.{n}\n")).collect();
    gzip.write_all(format!("site,lat,lon\n{long}").as_bytes())
        .unwrap();
    let whole = gzip.finish().unwrap();
    files.write("cut.csv.gz", &whole[..whole.len() / 2]);
    files.write("noise.csv", &[0xff, 0xfe, 0x00, 0x01, 0x0a]);
    files.write("join.csv", b"square_id,site_id\n1,nobody\n");
    let cases: [(&str, &[&str]); 5] = [
        ("replay --sites none.csv --load load.csv", &["none.csv"]),
        (
            "replay --sites cut.csv.gz --load load.csv",
            &["cut.csv.gz", "truncated"],
        ),
        ("replay --sites noise.csv --load load.csv", &["noise.csv"]),
        (
            "replay --sites sites.csv --load load.csv --join join.csv",
            &["join.csv", "line 2", "nobody"],
        ),
        (
            "replay --sites sites.csv --load load.csv --from 1999-01-01T00:00 --to 1999-01-02T00:00",
            &["1999-01-01"],
        ),
    ];
    for (line, parts) in cases {
        check_refused(&files, line, parts);
    }
}

#[test]
fn a_small_replay_writes_what_it_says() {
    let directory = tempfile::tempdir().unwrap();
    let line = "replay --synthetic step --grid 3x3 --times 3 --policies home,convex --seeds 2 \
                --json figures.json --html page.html";
    let (code, out, error) = isobar(line, directory.path());
    assert_eq!(code, Some(0), "{out}{error}");
    assert!(out.contains("convex"), "{out}");
    let json = std::fs::read_to_string(directory.path().join("figures.json")).unwrap();
    let runs: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    let keys = |run: &serde_json::Value| (run["policy"].clone(), run["seed"].clone());
    let named: Vec<String> = runs
        .iter()
        .map(keys)
        .map(|(p, s)| format!("{p}{s}"))
        .collect();
    assert_eq!(
        named,
        ["\"home\"1", "\"home\"2", "\"convex\"1", "\"convex\"2"]
    );
    let fields = [
        "requests",
        "failures",
        "shed",
        "p50_ms",
        "p99_ms",
        "hot_p50_ms",
        "hot_p99_ms",
        "moved_share",
        "cloud_requests",
        "reversals",
        "settle_s",
        "max_planned_utilisation",
    ];
    for run in &runs {
        for field in fields {
            assert!(run.get(field).is_some(), "{field} is not in {run}");
        }
        assert!(
            run["requests"]
                .as_u64()
                .is_some_and(|requests| requests > 0)
        );
    }
    let page = std::fs::read_to_string(directory.path().join("page.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
}
