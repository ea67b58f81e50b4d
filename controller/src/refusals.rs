//! Who was refused, where and how often: the other half of the audit.
//!
//! Refusals that differ in nothing but time are one entry with a count, for an hour from its first one; so neither a program with an
//! old token nor a flood makes the store grow. They have a tree of their own: no number of them pushes out what is known of changes.
//!
//! **Invariant**: at most [`ENTRIES_MAX`] entries, at most [`NEW_MAX`] new ones between two writes to the store; what is more is
//! counted in one entry for all others.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::authority::seconds;
use crate::guesses::network;
use crate::store::{Store, StoreError, Tree, Write, read_all};

/// Most entries that are kept; the one that was refused longest ago goes when there is one more.
pub const ENTRIES_MAX: usize = 1024;
/// Most new entries between two writes to the store.
pub const NEW_MAX: usize = 64;
/// How long from its first refusal an entry takes up others.
pub const TOGETHER_S: u64 = 3600;
/// How often changes are written to the store.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// Longest text of an entry, in bytes.
const TEXT_LEN_MAX: usize = 256;

/// Where somebody was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Door {
    /// At the REST API.
    Rest,
    /// A proxy that asked for a certificate.
    Enrolment,
    /// A proxy that opened a control stream.
    Stream,
}

/// One refusal.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Where.
    pub door: Door,
    /// From where.
    pub address: IpAddr,
    /// Whose secret or certificate it was, as far as that is known; never a name that only the refused one says.
    pub who: String,
    /// What was asked for.
    pub what: String,
    /// Why not.
    pub reason: String,
    /// The answer's status.
    pub status: u16,
}

/// Refusals that are one entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedEntry {
    /// Counts up from 1 over the life of the store.
    pub number: u64,
    /// Where.
    pub door: Door,
    /// From where: an address, of IPv6 its /64; `others` for what found no entry of its own.
    pub address: String,
    /// Whose secret or certificate it was; empty when unknown.
    pub who: String,
    /// The answer's status.
    pub status: u16,
    /// What was asked for, the last time.
    pub what: String,
    /// Why not, the last time.
    pub reason: String,
    /// How often.
    pub count: u64,
    /// The first time, seconds since 1970.
    pub first_s: u64,
    /// The last time, seconds since 1970.
    pub last_s: u64,
}

/// What makes two refusals the same.
type Sort = (Door, String, String, u16);

/// The entries. Knows no store.
#[derive(Debug, Default)]
struct Book {
    entries: BTreeMap<u64, RefusedEntry>,
    by_sort: BTreeMap<Sort, u64>,
    last: u64,
    /// Numbers whose entry the store does not have as it is.
    changed: BTreeMap<u64, ()>,
    new: usize,
}

impl Book {
    fn restore(entries: Vec<RefusedEntry>) -> Book {
        let mut book = Book::default();
        for entry in entries {
            book.last = book.last.max(entry.number);
            book.by_sort.insert(sort(&entry), entry.number);
            book.entries.insert(entry.number, entry);
        }
        book
    }

    fn add(&mut self, refused: &Refused, now_s: u64) {
        let address = network(refused.address).to_string();
        let own = (refused.door, address, cut(&refused.who), refused.status);
        if self.add_to(&own, refused, now_s) {
            return;
        }
        let sort = match self.new < NEW_MAX {
            true => own,
            false => (refused.door, "others".to_owned(), String::new(), 0),
        };
        if self.add_to(&sort, refused, now_s) {
            return;
        }
        self.new += 1;
        self.last += 1;
        let (door, address, who, status) = sort.clone();
        let entry = RefusedEntry {
            number: self.last,
            door,
            address,
            who,
            status,
            what: cut(&refused.what),
            reason: cut(&refused.reason),
            count: 1,
            first_s: now_s,
            last_s: now_s,
        };
        self.by_sort.insert(sort, self.last);
        self.entries.insert(self.last, entry);
        self.changed.insert(self.last, ());
        if self.entries.len() > ENTRIES_MAX {
            self.forget_one();
        }
    }

    /// Counts a refusal in the entry of its sort, if there is one that is still open.
    fn add_to(&mut self, sort: &Sort, refused: &Refused, now_s: u64) -> bool {
        let number = self.by_sort.get(sort);
        let entry = number.and_then(|number| self.entries.get_mut(number));
        let Some(entry) = entry.filter(|entry| now_s < entry.first_s + TOGETHER_S) else {
            return false;
        };
        entry.count += 1;
        entry.last_s = now_s;
        entry.what = cut(&refused.what);
        entry.reason = cut(&refused.reason);
        self.changed.insert(entry.number, ());
        true
    }

    fn forget_one(&mut self) {
        let oldest = self
            .entries
            .values()
            .min_by_key(|entry| (entry.last_s, entry.number));
        let Some((number, sort)) = oldest.map(|entry| (entry.number, sort(entry))) else {
            return;
        };
        self.entries.remove(&number);
        if self.by_sort.get(&sort) == Some(&number) {
            self.by_sort.remove(&sort);
        }
        self.changed.insert(number, ());
    }

    /// What the store must do to have what is here.
    fn writes(&mut self) -> Result<Vec<Write>, StoreError> {
        self.new = 0;
        let changed = std::mem::take(&mut self.changed);
        let write = |number: u64| {
            let key = format!("{number:020}");
            match self.entries.get(&number) {
                Some(entry) => Write::put(Tree::Refusals, &key, entry),
                None => Ok(Write::remove(Tree::Refusals, &key)),
            }
        };
        changed.into_keys().map(write).collect()
    }

    fn page(&self, before: Option<u64>, limit: usize) -> (Vec<RefusedEntry>, bool) {
        let end = before.unwrap_or(u64::MAX);
        let mut older = self.entries.range(..end).rev().map(|(_, entry)| entry);
        let page = older.by_ref().take(limit).cloned().collect();
        (page, older.next().is_some())
    }
}

fn sort(entry: &RefusedEntry) -> Sort {
    let (address, who) = (entry.address.clone(), entry.who.clone());
    (entry.door, address, who, entry.status)
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_LEN_MAX.min(text.len()))].to_owned()
}

/// All refusals, as everybody finds them who refuses.
pub struct Refusals {
    store: Arc<dyn Store>,
    book: Mutex<Book>,
}

impl Refusals {
    /// Reads what the store has.
    ///
    /// # Errors
    /// The store fails.
    pub async fn open(store: Arc<dyn Store>) -> Result<Refusals, StoreError> {
        let refusals = Refusals {
            store,
            book: Mutex::default(),
        };
        refusals.reload().await?;
        Ok(refusals)
    }

    /// Reads what the store has now: another controller may have written it. What was refused here since then is forgotten.
    ///
    /// # Errors
    /// The store fails.
    pub async fn reload(&self) -> Result<(), StoreError> {
        let found = read_all(&*self.store, Tree::Refusals).await?;
        let entries = found.into_iter().map(|(_, entry)| entry).collect();
        *self.lock() = Book::restore(entries);
        Ok(())
    }

    /// Somebody was refused. Nobody waits for the store.
    pub fn add(&self, refused: &Refused) {
        self.lock().add(refused, seconds(SystemTime::now()));
    }

    /// Entries before number `before`, newest first, at most `limit`, and whether there are older ones.
    pub fn page(&self, before: Option<u64>, limit: usize) -> (Vec<RefusedEntry>, bool) {
        self.lock().page(before, limit)
    }

    /// Writes changes to the store until the signal, and what is left then.
    pub async fn keep(&self, signal: &CancellationToken) {
        loop {
            tokio::select! {
                () = signal.cancelled() => return self.write().await,
                () = tokio::time::sleep(WRITE_EVERY) => self.write().await,
            }
        }
    }

    async fn write(&self) {
        let writes = self.lock().writes();
        let written = match writes {
            Ok(writes) if writes.is_empty() => return,
            Ok(writes) => self.store.apply(writes).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "refusals are not stored"
            );
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str, who: &str) -> Refused {
        Refused {
            door: Door::Rest,
            address: address.parse().unwrap(),
            who: who.to_owned(),
            what: "GET /v1/nodes".to_owned(),
            reason: "é".repeat(400),
            status: 401,
        }
    }

    #[test]
    fn what_differs_in_nothing_but_time_is_one_entry_for_an_hour() {
        let mut book = Book::default();
        for at in [10, 11, 12] {
            book.add(&refused("2001:db8::1", "ops"), at);
            book.add(&refused("2001:db8::ffff", "ops"), at);
        }
        book.add(&refused("192.0.2.1", "ops"), 12);
        book.add(&refused("192.0.2.1", ""), 12);
        let (page, more) = book.page(None, 2);
        assert_eq!((page.len(), more), (2, true));
        let (page, _) = book.page(Some(2), 9);
        assert_eq!(
            (page[0].count, page[0].first_s, page[0].last_s),
            (6, 10, 12)
        );
        assert!(page[0].reason.len() <= TEXT_LEN_MAX);
        assert_eq!(book.writes().unwrap().len(), 3);
        assert!(book.writes().unwrap().is_empty());
        book.add(&refused("192.0.2.1", "ops"), 12 + TOGETHER_S);
        assert_eq!(book.entries.len(), 4);
    }

    #[test]
    fn a_flood_from_everywhere_fills_neither_memory_nor_store() {
        let mut book = Book::default();
        let mut written = 0;
        for n in 0..20_000u32 {
            let address = IpAddr::from(n.to_be_bytes()).to_string();
            book.add(&refused(&address, ""), 10 + u64::from(n / 1000));
            if n % 1000 == 999 {
                written += book.writes().unwrap().len();
            }
        }
        assert!(written <= 20 * 2 * (NEW_MAX + 1), "{written} writes");
        assert!(book.entries.len() <= ENTRIES_MAX);
        let total: u64 = book.entries.values().map(|entry| entry.count).sum();
        assert!(total > 18_000, "{total} are counted");
        let restored = Book::restore(book.entries.values().cloned().collect());
        assert_eq!(
            (restored.last, restored.by_sort.len()),
            (book.last, book.by_sort.len())
        );
    }
}
