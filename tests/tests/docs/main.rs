//! The documentation: the reference is what the code says, the book is whole, and every command in it works.
//!
//! `ISOBAR_UPDATE_REFERENCE=1` writes the pages of `docs/reference` anew.

#![allow(clippy::unwrap_used)] // A test that meets an error has failed; here is where.

use std::path::{Path, PathBuf};

mod book;
mod commands;
mod reference;

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_owned()
}

/// Every page of `docs/`, and the README, by its path from the root.
fn pages() -> Vec<(String, String)> {
    let mut found = vec!["README.md".to_owned()];
    for directory in ["docs", "docs/decisions", "docs/reference"] {
        for entry in std::fs::read_dir(root().join(directory)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                found.push(format!("{directory}/{name}"));
            }
        }
    }
    found.sort();
    let read = |path: String| {
        let text = std::fs::read_to_string(root().join(&path)).unwrap();
        (path, text)
    };
    found.into_iter().map(read).collect()
}
