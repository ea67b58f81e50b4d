//! Replays of the documentation, as they stand there but small: one seed, fewer nodes, a shorter trace; files that are not
//! part of the repository have stand-ins of the same columns. What a replay says is compared nowhere, for it is of a smaller one.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{PLACEHOLDERS, all_commands, words};

const PROGRAM: &str = env!("CARGO_BIN_EXE_isobar-e2e");
/// Longest wait for one replay.
const PATIENCE: Duration = Duration::from_secs(240);
/// Where the stand-ins are: within a walk of the place that the documentation speaks of.
const NEAR: (f64, f64) = (45.478, 9.124);
/// Sites of the stand-ins.
const SITES: usize = 12;

fn zipped(path: &Path, lines: impl Iterator<Item = String>) {
    let file = std::fs::File::create(path).unwrap();
    let mut writer = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    for line in lines {
        writeln!(writer, "{line}").unwrap();
    }
    writer.finish().unwrap();
}

/// Sites round a stadium, and an evening with a peak at one of them.
fn write_stand_ins(directory: &Path) {
    let site = |index: usize| {
        let (lat, lon) = (NEAR.0 + index as f64 * 0.001, NEAR.1);
        format!("{},{lat},{lon},LTE,1,3", index + 1)
    };
    let header = "site_id,lat,lon,type,n_base_stations,n_cells".to_owned();
    let sites = std::iter::once(header).chain((0..SITES).map(site));
    zipped(&directory.join("milan_sites.csv.gz"), sites);
    let header = "square_id,site_id,dist_km".to_owned();
    let joined = (1..=SITES).map(|site| format!("{site},{site},0.1"));
    let joined = std::iter::once(header).chain(joined);
    zipped(&directory.join("milan_square_to_site.csv.gz"), joined);
    let bins = (0..24).map(|bin| format!("2013-12-16T{}:{}0Z", 19 + bin / 6, bin % 6));
    let header = format!("square_id,{}", bins.collect::<Vec<_>>().join(","));
    let load = |square: usize| {
        let at = |bin: usize| match (square, bin) {
            (3, 9..12) => "90".to_owned(),
            _ => "12.5".to_owned(),
        };
        let loads = (0..24).map(at).collect::<Vec<_>>().join(",");
        format!("{square},{loads}")
    };
    let loads = std::iter::once(header).chain((1..=SITES).map(load));
    let name = "milan_internet_2013-12-16_sansiro.csv.gz";
    zipped(&directory.join(name), loads);
}

/// Sets an option's value, whether it is there or not.
fn set(words: &mut Vec<String>, option: &str, value: &str) {
    if let Some(at) = words.iter().position(|word| word == option) {
        words.drain(at..at + 2);
    }
    words.extend([option.to_owned(), value.to_owned()]);
}

fn value<'a>(words: &'a [String], option: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| word == option)?;
    words.get(at + 1).map(String::as_str)
}

/// The same replay, made small. Returns the policies it is to speak of.
fn small(words: &mut Vec<String>) -> Vec<String> {
    let has = |words: &[String], option: &str| words.iter().any(|word| word == option);
    let mut policies: Vec<String> = value(words, "--policies")
        .map(|list| list.split(',').map(str::to_owned).collect())
        .unwrap_or_default();
    if has(words, "--regions") {
        set(words, "--nodes", "2000");
        set(words, "--regions", "4");
    }
    if has(words, "--cluster") {
        // Each policy has real processes for as long as the spike takes.
        policies.drain(..policies.len() - 1);
        set(words, "--policies", &policies[0]);
        set(words, "--base", "0.1");
    }
    if has(words, "--synthetic") {
        let grid = if has(words, "--cluster") {
            "2x2"
        } else {
            "6x6"
        };
        set(words, "--grid", grid);
        set(words, "--seeds", "1");
    }
    if has(words, "--auckland") || has(words, "--sites") {
        set(words, "--trace-s", "6");
        set(words, "--seeds", "1");
    }
    policies
}

#[test]
fn every_replay_works() {
    let directory = tempfile::tempdir().unwrap();
    write_stand_ins(directory.path());
    let program = directory.path().join("isobar");
    std::os::unix::fs::symlink(PROGRAM, &program).unwrap();
    let mut ran = 0;
    for line in all_commands() {
        let text = line
            .text
            .replace("cargo run --release -- replay", "isobar replay");
        if !text.starts_with("isobar replay") {
            continue;
        }
        let meant = |text: String, (word, value): &(&str, &str)| text.replace(word, value);
        let text = PLACEHOLDERS.iter().fold(text, meant);
        let mut words = words(&text);
        let policies = small(&mut words);
        let said = run(&program, &words[1..], directory.path());
        for policy in policies {
            assert!(
                said.contains(&policy),
                "{}: {policy}:\n{said}",
                line.place()
            );
        }
        ran += 1;
    }
    assert!(ran >= 10, "{ran} replays");
}

/// What a replay says; it must end well, and in time.
fn run(program: &Path, words: &[String], directory: &Path) -> String {
    let file = |name: &str| std::fs::File::create(directory.join(name)).unwrap();
    let mut child = Command::new(program)
        .args(words)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(file("said"))
        .stderr(file("complained"))
        .spawn()
        .unwrap();
    let until = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > until {
            child.kill().unwrap();
            break child.wait().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
    assert!(
        status.success(),
        "{words:?}: {status}\n{}",
        read("complained")
    );
    read("said")
}
