//! Every page is in the table of contents, and every link leads somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::{pages, root};

/// A page's lines outside of code, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        (!in_code && !is_fence).then_some((index + 1, line))
    })
}

/// What a heading is called in an address.
fn slug(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        _ => None,
    });
    kept.collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let mut met: BTreeMap<String, usize> = BTreeMap::new();
    let headings = prose(text).filter_map(|(_, line)| {
        let heading = line.trim_start_matches('#');
        (heading.len() < line.len()).then(|| slug(heading))
    });
    let name = |slug: String| {
        let times = met.entry(slug.clone()).or_default();
        *times += 1;
        match *times {
            1 => slug,
            again => format!("{slug}-{}", again - 1),
        }
    };
    headings.map(name).collect()
}

/// Targets of links in a line.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let rest = line.split("](").skip(1);
    rest.filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// A path without `..`.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut out, part| {
        match part {
            Component::ParentDir => drop(out.pop()),
            part => out.push(part),
        }
        out
    })
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let summary = std::fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let listed: BTreeSet<&str> = summary.lines().flat_map(links).collect();
    let missing: Vec<String> = pages()
        .into_iter()
        .filter_map(|(path, _)| path.strip_prefix("docs/").map(str::to_owned))
        .filter(|page| page != "SUMMARY.md" && !listed.contains(page.as_str()))
        .collect();
    assert!(missing.is_empty(), "docs/SUMMARY.md lacks {missing:?}");
}

#[test]
fn every_link_leads_somewhere() {
    let pages: BTreeMap<String, String> = pages().into_iter().collect();
    let mut broken = Vec::new();
    for (page, text) in &pages {
        let directory = Path::new(page).parent().unwrap();
        for (line, target) in prose(text).flat_map(|(n, line)| links(line).map(move |t| (n, t))) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = match path {
                "" => PathBuf::from(page),
                path => plain(&directory.join(path)),
            };
            if !root().join(&path).exists() {
                broken.push(format!("{page}:{line}: there is no {}", path.display()));
            }
            let there = pages.get(path.to_str().unwrap());
            if !anchor.is_empty() && !there.is_some_and(|text| anchors(text).contains(anchor)) {
                broken.push(format!(
                    "{page}:{line}: {} has no #{anchor}",
                    path.display()
                ));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
