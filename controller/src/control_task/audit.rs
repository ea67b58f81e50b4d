//! Who changed what, when: one entry for every change that was made, kept in the same batch as the change.
//!
//! **Invariant**: an entry is on the disk if and only if its change is.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::change::{Etag, Outcome, Target};
use crate::store::{StoreError, Tree, Write};

/// Most entries kept; the oldest goes when one more comes.
pub const AUDIT_LEN_MAX: usize = 4_096;
/// Longest name of who asked, in bytes, that an entry keeps.
const WHO_LEN_MAX: usize = 256;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Counts up from 1 over the life of the store.
    pub number: u64,
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// Who asked.
    pub who: String,
    /// What became of the resource.
    pub outcome: Outcome,
    /// The resource's kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What it said before, as in its `ETag`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub before: Option<Etag>,
    /// What it says since.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub after: Option<Etag>,
}

/// The entries, oldest first.
#[derive(Debug, Default)]
pub(super) struct Audit {
    entries: VecDeque<AuditEntry>,
    last: u64,
}

impl Audit {
    /// What the store has.
    pub fn restore(mut entries: Vec<AuditEntry>) -> Audit {
        entries.sort_by_key(|entry| entry.number);
        let last = entries.last().map_or(0, |entry| entry.number);
        let kept = entries.len().saturating_sub(AUDIT_LEN_MAX);
        Audit {
            entries: entries.split_off(kept).into(),
            last,
        }
    }

    /// Adds an entry, and returns what the store must do for it.
    pub fn add(
        &mut self,
        at: &str,
        who: &str,
        target: &Target,
        outcome: Outcome,
        [before, after]: [Option<Etag>; 2],
    ) -> Result<Vec<Write>, StoreError> {
        let number = self.last + 1;
        let entry = AuditEntry {
            number,
            at: at.to_owned(),
            who: cut(who).to_owned(),
            outcome,
            kind: target.kind.to_owned(),
            name: target.name.clone(),
            before,
            after,
        };
        let mut writes = vec![Write::put(Tree::Audit, &place(number), &entry)?];
        self.last = number;
        self.entries.push_back(entry);
        if self.entries.len() > AUDIT_LEN_MAX
            && let Some(oldest) = self.entries.pop_front()
        {
            writes.push(Write::remove(Tree::Audit, &place(oldest.number)));
        }
        Ok(writes)
    }

    /// Entries before number `before`, newest first, at most `limit`, and whether there are older ones.
    pub fn page(&self, before: Option<u64>, limit: usize) -> (Vec<AuditEntry>, bool) {
        let older = |entry: &&AuditEntry| before.is_none_or(|before| entry.number < before);
        let mut found = self.entries.iter().rev().filter(older);
        let page = found.by_ref().take(limit).cloned().collect();
        (page, found.next().is_some())
    }
}

/// An entry's key: as long as any, so that keys are in the order of numbers.
fn place(number: u64) -> String {
    format!("{number:020}")
}

fn cut(who: &str) -> &str {
    let end = who.floor_char_boundary(WHO_LEN_MAX.min(who.len()));
    &who[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(audit: &mut Audit) -> Vec<Write> {
        let target = Target {
            kind: "Node",
            name: "a".to_owned(),
        };
        let who = "é".repeat(200);
        let added = audit.add("now", &who, &target, Outcome::Created, [None, None]);
        added.unwrap()
    }

    #[test]
    fn the_oldest_goes_when_there_is_one_more() {
        let mut audit = Audit::default();
        for _ in 0..AUDIT_LEN_MAX {
            assert_eq!(add(&mut audit).len(), 1);
        }
        let writes = add(&mut audit);
        assert_eq!(
            (writes[1].key.as_str(), &writes[1].value),
            (&*place(1), &None)
        );
        let (page, more) = audit.page(None, 2);
        let numbers: Vec<u64> = page.iter().map(|e| e.number).collect();
        let last = AUDIT_LEN_MAX as u64 + 1;
        assert_eq!((numbers, more), (vec![last, last - 1], true));
        let (page, more) = audit.page(Some(4), 9);
        assert_eq!((page.len(), more), (2, false));
        assert!(page[0].who.len() <= WHO_LEN_MAX);
        let restored = Audit::restore(audit.entries.into_iter().rev().collect());
        assert_eq!(restored.last, last);
    }
}
