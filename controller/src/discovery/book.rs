//! What each source said last, and when it last answered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::merge::Said;
use crate::control_task::{Leased, Registered};

/// What is known of one source.
#[derive(Debug)]
struct Page {
    said: Vec<Said>,
    /// Whether it has spoken since the program's start.
    has_spoken: bool,
    answered: Instant,
}

/// All sources, in the order of their precedence.
#[derive(Debug, Default)]
pub struct Book {
    pages: Vec<(String, Page)>,
    /// Endpoints that a controller before this one heard of from a source that has not spoken yet, by name.
    adopted: BTreeMap<String, Registered>,
}

impl Book {
    /// Takes over the sources of a configuration; what sources that stay said is kept.
    pub fn begin(&mut self, names: &[String], registered: &[Leased], now: Instant) {
        let mut before: BTreeMap<String, Page> = self.pages.drain(..).collect();
        let page = |name: &String| {
            let fresh = Page {
                said: Vec::new(),
                has_spoken: false,
                answered: now,
            };
            (name.clone(), before.remove(name).unwrap_or(fresh))
        };
        let mut seen = BTreeSet::new();
        let names = names.iter().filter(|name| seen.insert((*name).clone()));
        self.pages = names.map(page).collect();
        let silent: BTreeSet<&str> = self.silent().collect();
        let of_silent = registered.iter().filter(|leased| {
            let source = leased.registered.source.as_deref();
            source.is_some_and(|source| silent.contains(source))
        });
        self.adopted = of_silent
            .map(|leased| (leased.registered.name(), leased.registered.clone()))
            .collect();
    }

    /// Takes an answer. Returns whether it says something else than before.
    pub fn said(&mut self, source: &str, said: Vec<Said>, now: Instant) -> bool {
        let Some((_, page)) = self.pages.iter_mut().find(|(name, _)| name == source) else {
            return false;
        };
        page.answered = now;
        let is_new = !page.has_spoken || page.said != said;
        page.has_spoken = true;
        page.said = said;
        let is_of = |_: &String, r: &mut Registered| r.source.as_deref() != Some(source);
        self.adopted.retain(is_of);
        is_new
    }

    /// Forgets what sources said that have been silent for longer than `keep`.
    pub fn forget(&mut self, keep: Duration, now: Instant) {
        for (source, page) in &mut self.pages {
            if now.duration_since(page.answered) <= keep
                || (page.has_spoken && page.said.is_empty())
            {
                continue;
            }
            tracing::warn!(
                source,
                "a source has been silent for too long; its endpoints are given up"
            );
            page.has_spoken = true;
            page.said.clear();
            let is_of = |_: &String, r: &mut Registered| r.source.as_deref() != Some(source);
            self.adopted.retain(is_of);
        }
    }

    /// What all sources said, in order.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Said)> {
        let pages = self.pages.iter();
        pages.flat_map(|(source, page)| page.said.iter().map(move |said| (source.as_str(), said)))
    }

    /// See the field.
    pub fn adopted(&self) -> &BTreeMap<String, Registered> {
        &self.adopted
    }

    /// Whether every source has spoken, so that what nobody named is gone.
    pub fn is_settled(&self) -> bool {
        self.silent().next().is_none()
    }

    fn silent(&self) -> impl Iterator<Item = &str> {
        let silent = self.pages.iter().filter(|(_, page)| !page.has_spoken);
        silent.map(|(source, _)| source.as_str())
    }
}
