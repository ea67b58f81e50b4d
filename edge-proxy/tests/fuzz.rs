//! The entries of `tests/fuzz` on the stable compiler: their corpora, and mutations of these.
//!
//! Always the same few thousand mutations; `ISOBAR_FUZZ_SECONDS` goes on with others for so long, and says which seed failed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

#[path = "../../tests/fuzz/src/lib.rs"]
mod entries;

/// Mutations of each corpus that always run.
const MUTATIONS: u64 = 2_000;
/// Longest mutated input, in bytes.
const LEN_MAX: usize = 4096;

type Entry = fn(&[u8]);

const ENTRIES: [(&str, Entry); 6] = [
    ("http1", entries::http1),
    ("answer", entries::answer),
    ("proxy_protocol", entries::proxy_protocol),
    ("client_hello", entries::client_hello),
    ("route", entries::route),
    ("snapshot", entries::snapshot),
];

#[test]
fn whatever_comes_holds() {
    let seconds = std::env::var("ISOBAR_FUZZ_SECONDS").ok();
    let seconds: u64 = seconds.map_or(0, |text| text.parse().unwrap());
    for (name, entry) in ENTRIES {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "{name} has no corpus");
        for bytes in &corpus {
            entry(bytes);
        }
        let until = Instant::now() + Duration::from_secs(seconds / ENTRIES.len() as u64);
        let mut seed = 0;
        while seed < MUTATIONS || Instant::now() < until {
            let bytes = mutated(&corpus, &mut fastrand::Rng::with_seed(seed));
            let held = catch_unwind(AssertUnwindSafe(|| entry(&bytes)));
            let shown = bytes.escape_ascii();
            assert!(held.is_ok(), "{name} does not hold at seed {seed}: {shown}");
            seed += 1;
        }
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = format!("{}/../tests/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect()
}

/// One of the corpus, changed in a few places.
fn mutated(corpus: &[Vec<u8>], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = corpus[rng.usize(..corpus.len())].clone();
    for _ in 0..rng.usize(1..6) {
        let at = rng.usize(..=bytes.len());
        match rng.u8(..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
            1 if at < bytes.len() => bytes[at] = *rng.choice(b"\r\n\0 :;,0/").unwrap(),
            2 => bytes.insert(at, rng.u8(..)),
            3 if at < bytes.len() => drop(bytes.remove(at)),
            4 => bytes.truncate(at),
            // A part of another one.
            _ => {
                let other = &corpus[rng.usize(..corpus.len())];
                let from = rng.usize(..=other.len());
                let to = rng.usize(from..=other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
        }
        bytes.truncate(LEN_MAX);
    }
    bytes
}
