//! Lists in pages.
//!
//! A page says how to ask for the next: `after`, a token that names where to go on. It is signed with
//! a key of this process, so that nobody makes one up: a token of another list, of an edit, or from
//! before a restart is refused, and the reader begins again.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use serde::Serialize;

use super::call::{Parameters, refused};
use crate::problem::Problem;

/// Most items of one page.
pub const PAGE_LEN_MAX: usize = 1_000;
/// Items of a page when nothing is said.
pub const PAGE_LEN_DEFAULT: usize = 500;

/// Signs tokens. Cloning is a reference count.
#[derive(Debug, Clone, Default)]
pub struct Pager(Arc<RandomState>);

/// Where a page begins and how long it may be.
pub(super) struct Asked {
    pub after: Option<String>,
    pub limit: usize,
}

/// A page's wire form.
#[derive(Debug, Serialize)]
pub(super) struct Items<T> {
    /// What there is.
    pub items: Vec<T>,
    /// How to ask for more; absent when this is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

impl<T> Items<T> {
    /// The page that was asked for, of all items with their names.
    pub fn cut(
        all: impl Iterator<Item = (String, T)>,
        asked: &Asked,
        token: impl Fn(&str) -> String,
    ) -> Items<T> {
        let after = asked.after.as_deref();
        let mut later =
            all.skip_while(|(name, _)| after.is_some_and(|after| name.as_str() <= after));
        let mut last = String::new();
        let page = later.by_ref().take(asked.limit);
        let items: Vec<T> = page
            .map(|(name, item)| {
                last = name;
                item
            })
            .collect();
        let more = later.next().is_some();
        Items {
            items,
            after: more.then(|| token(&last)),
        }
    }
}

impl Pager {
    /// Reads `limit` and `after` of a request for the list of this name.
    ///
    /// # Errors
    /// Out of range, or not a token of this list (400).
    pub(super) fn asked(&self, list: &str, parameters: &Parameters) -> Result<Asked, Problem> {
        let range = format!("must be a number from 1 to {PAGE_LEN_MAX}");
        let limit: Option<usize> = parameters.parsed("limit", &range)?;
        let limit = limit.unwrap_or(PAGE_LEN_DEFAULT);
        if !(1..=PAGE_LEN_MAX).contains(&limit) {
            return Err(refused("limit", &range));
        }
        let forged = || {
            let detail = "is not from a page of this list, or the controller has restarted since; \
                          ask for the list from its beginning";
            refused("after", detail)
        };
        let after = parameters.get("after");
        let after = after.map(|token| self.read(list, token).ok_or_else(forged));
        Ok(Asked {
            after: after.transpose()?,
            limit,
        })
    }

    /// The token to go on after `last`.
    pub(super) fn token(&self, list: &str, last: &str) -> String {
        let name: String = last.bytes().map(|byte| format!("{byte:02x}")).collect();
        format!("{name}{:016x}", self.sign(list, last))
    }

    fn read(&self, list: &str, token: &str) -> Option<String> {
        let cut = token.len().checked_sub(16)?;
        let (name, signature) = token.is_ascii().then(|| token.split_at(cut))?;
        let bytes = name.as_bytes().chunks(2).map(|pair| {
            let digits = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(digits, 16).ok()
        });
        let last = String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()?;
        let signature = u64::from_str_radix(signature, 16).ok()?;
        (signature == self.sign(list, &last)).then_some(last)
    }

    fn sign(&self, list: &str, last: &str) -> u64 {
        self.0.hash_one((list, last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_by_who_made_them_for_the_list_they_are_for() {
        let (pager, other) = (Pager::default(), Pager::default());
        let token = pager.token("nodes", "north-7");
        assert_eq!(pager.read("nodes", &token).as_deref(), Some("north-7"));
        assert_eq!(pager.read("services", &token), None);
        assert_eq!(other.read("nodes", &token), None);
        for forged in [
            "",
            "6",
            "é",
            &"0".repeat(16),
            &token[2..],
            &token[..token.len() - 1],
        ] {
            assert_eq!(pager.read("nodes", forged), None, "{forged}");
        }
    }
}
