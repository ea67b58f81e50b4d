//! Batches of any length in requests that etcd takes: parts of long values, and a journal for long batches.
//!
//! ```text
//! value ≤ PART_LEN_MAX:  key ─ 'v' value
//! longer:                parts/key/number/0 … n ─ pieces;  key ─ 'p' number, count    (written after all its parts)
//! batch ≤ one request:   one transaction
//! longer:                journal ─ the whole batch as one value ▸ its writes, request by request ▸ journal removed
//! ```
//!
//! The number of a new set of parts is higher than that of the last, so that the old ones can be removed when the key
//! names the new ones; a reader that came between finds the key gone on and reads again.

use serde::{Deserialize, Serialize};

use super::{Keys, Leading, Write, end_of};
use crate::etcd::{EtcdError, Op, Txn};
use crate::store::StoreError;

/// Longest value of one key, in bytes: three of them in base64 fit etcd's request limit of 1.5 MiB.
pub const PART_LEN_MAX: usize = 256 << 10;
/// Most writes of one transaction; etcd's own limit is 128.
pub const OPS_MAX: usize = 100;
/// Most bytes of one transaction.
pub const TXN_LEN_MAX: usize = 768 << 10;

/// First byte of a value that stands whole at its key.
const WHOLE: u8 = b'v';
/// First byte of a head: the value stands in parts.
const PARTED: u8 = b'p';

/// Where the parts of a long value are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    /// Which set of parts.
    number: i64,
    /// How many.
    parts: usize,
}

/// A write as the journal has it.
#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    key: String,
    #[serde(with = "in_base64")]
    value: Option<Vec<u8>>,
}

mod in_base64 {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &Option<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
        value
            .as_ref()
            .map(|value| STANDARD.encode(value))
            .serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<u8>>, D::Error> {
        let text: Option<String> = Option::deserialize(from)?;
        let decode = |text| STANDARD.decode(text).map_err(serde::de::Error::custom);
        text.map(decode).transpose()
    }
}

/// Why a batch was not written.
#[derive(Debug)]
pub(super) enum Unwritten {
    /// The leader's key is not ours.
    Fenced,
    /// Etcd; the batch may have been written.
    Etcd(EtcdError),
}

impl From<EtcdError> for Unwritten {
    fn from(error: EtcdError) -> Unwritten {
        Unwritten::Etcd(error)
    }
}

/// What a write takes of a request, in bytes.
pub(super) fn len(write: &Write) -> usize {
    let value = write.value.as_ref().map_or(0, Vec::len);
    // A long value is written before; its head is short.
    write.key.len() + value.min(PART_LEN_MAX) + 64
}

/// Whether a batch is one transaction.
pub(super) fn is_one(writes: &[Write]) -> bool {
    writes.len() <= OPS_MAX && writes.iter().map(len).sum::<usize>() <= TXN_LEN_MAX
}

impl Keys {
    /// A value by what stands at its key; `None` when it was removed meanwhile.
    pub async fn whole(&self, key: &str, at_key: Vec<u8>) -> Result<Option<Vec<u8>>, EtcdError> {
        let mut at_key = at_key;
        loop {
            match at_key.split_first() {
                Some((&PARTED, head)) => {
                    let strange = || EtcdError::Strange(key.to_owned());
                    let head: Head = serde_json::from_slice(head).map_err(|_| strange())?;
                    if let Some(value) = self.parts(key, head).await? {
                        return Ok(Some(value));
                    }
                }
                Some((_, value)) => return Ok(Some(value.to_vec())),
                None => return Ok(Some(Vec::new())),
            }
            // The parts were replaced while they were read.
            let again = self.etcd.range(key, "", 1, 0).await?;
            match again.kvs.into_iter().next() {
                Some(found) if found.value != at_key => at_key = found.value,
                Some(_) => return Err(EtcdError::Strange(key.to_owned())),
                None => return Ok(None),
            }
        }
    }

    async fn parts(&self, key: &str, head: Head) -> Result<Option<Vec<u8>>, EtcdError> {
        let mut value = Vec::new();
        for part in 0..head.parts {
            let found = self
                .etcd
                .range(&self.part(key, head.number, part), "", 1, 0)
                .await?;
            match found.kvs.into_iter().next() {
                Some(found) => value.extend(found.value),
                None => return Ok(None),
            }
        }
        Ok(Some(value))
    }

    fn journal(&self) -> String {
        format!("{}/journal", self.prefix)
    }

    fn parts_of(&self, key: &str) -> String {
        let below = key.strip_prefix(&self.prefix).unwrap_or(key);
        format!("{}/parts{below}/", self.prefix)
    }

    /// Numbers have a fixed width, so that sets of parts stand in order.
    fn part(&self, key: &str, number: i64, part: usize) -> String {
        format!("{}{number:020}/{part:06}", self.parts_of(key))
    }

    /// Writes all or nothing. Asking twice says the same.
    pub async fn write(&self, fence: &Leading, writes: &[Write]) -> Result<(), Unwritten> {
        let notes = writes.iter().map(|write| Noted {
            key: self.key(write.tree, &write.key),
            value: write.value.clone(),
        });
        let notes: Vec<Noted> = notes.collect();
        if is_one(writes) {
            return self.write_once(fence, &notes).await;
        }
        // Strings and bytes always have a JSON form.
        let journal = serde_json::to_vec(&notes).unwrap_or_default();
        let journal = Noted {
            key: self.journal(),
            value: Some(journal),
        };
        self.write_once(fence, std::slice::from_ref(&journal))
            .await?;
        self.finish(fence, &notes).await
    }

    /// Finishes what a leader before began.
    pub async fn recover(&self, fence: &Leading) -> Result<(), Unwritten> {
        let key = self.journal();
        let found = self.etcd.range(&key, "", 1, 0).await?;
        let Some(found) = found.kvs.into_iter().next() else {
            return Ok(());
        };
        let Some(journal) = self.whole(&key, found.value).await? else {
            return Ok(());
        };
        let notes: Vec<Noted> =
            serde_json::from_slice(&journal).map_err(|_| EtcdError::Strange(key))?;
        tracing::info!(
            writes = notes.len(),
            "a long write of the leader before is finished"
        );
        self.finish(fence, &notes).await
    }

    /// Writes what the journal has, and removes it.
    async fn finish(&self, fence: &Leading, notes: &[Noted]) -> Result<(), Unwritten> {
        let (mut from, mut room) = (0, TXN_LEN_MAX);
        for (at, note) in notes.iter().enumerate() {
            let len =
                note.key.len() + note.value.as_ref().map_or(0, Vec::len).min(PART_LEN_MAX) + 64;
            if at - from == OPS_MAX || len > room {
                self.write_once(fence, &notes[from..at]).await?;
                (from, room) = (at, TXN_LEN_MAX);
            }
            room -= len;
        }
        self.write_once(fence, &notes[from..]).await?;
        let key = self.journal();
        let parts = self.parts_of(&key);
        let remove = |key: String, end: String| Op::Delete { key, end };
        let then = vec![
            remove(key, String::new()),
            remove(parts.clone(), end_of(&parts)),
        ];
        self.fenced(fence, then).await?;
        Ok(())
    }

    /// One transaction, with the parts of its long values before it and the removal of old ones after it.
    async fn write_once(&self, fence: &Leading, notes: &[Noted]) -> Result<(), Unwritten> {
        let (mut then, mut parted) = (Vec::new(), Vec::new());
        for note in notes {
            let key = note.key.clone();
            then.push(match &note.value {
                None => Op::Delete {
                    key,
                    end: String::new(),
                },
                Some(value) if value.len() <= PART_LEN_MAX => Op::Put {
                    key,
                    value: [&[WHOLE], &value[..]].concat(),
                    lease: 0,
                },
                Some(value) => {
                    let head = self.write_parts(fence, &key, value).await?;
                    parted.push((key.clone(), head.number));
                    // Two numbers always have a JSON form.
                    let text = serde_json::to_vec(&head).unwrap_or_default();
                    Op::Put {
                        key,
                        value: [&[PARTED], &text[..]].concat(),
                        lease: 0,
                    }
                }
            });
        }
        self.fenced(fence, last_of_each(then)).await?;
        for (key, number) in parted {
            let old = Op::Delete {
                key: self.parts_of(&key),
                end: format!("{}{number:020}", self.parts_of(&key)),
            };
            self.fenced(fence, vec![old]).await?;
        }
        Ok(())
    }

    async fn write_parts(
        &self,
        fence: &Leading,
        key: &str,
        value: &[u8],
    ) -> Result<Head, Unwritten> {
        // Later than whatever is there: revisions of etcd only rise.
        let number = self.fenced(fence, vec![Op::Get(key.to_owned())]).await?;
        let pieces = value.chunks(PART_LEN_MAX);
        let head = Head {
            number,
            parts: pieces.len(),
        };
        for (part, piece) in pieces.enumerate() {
            let put = Op::Put {
                key: self.part(key, number, part),
                value: piece.to_vec(),
                lease: 0,
            };
            self.fenced(fence, vec![put]).await?;
        }
        Ok(head)
    }

    /// Does it while the leader's key is ours. Returns the store's revision.
    async fn fenced(&self, fence: &Leading, then: Vec<Op>) -> Result<i64, Unwritten> {
        let txn = Txn {
            when: vec![(fence.key.clone(), fence.made)],
            then,
            otherwise: Vec::new(),
        };
        let done = self.etcd.txn(&txn).await?;
        match done.succeeded {
            true => Ok(done.header.revision),
            false => Err(Unwritten::Fenced),
        }
    }
}

/// Etcd refuses a key that is written twice in one transaction; the last one counts.
fn last_of_each(ops: Vec<Op>) -> Vec<Op> {
    let mut seen = std::collections::BTreeSet::new();
    let mut last: Vec<Op> = Vec::with_capacity(ops.len());
    for op in ops.into_iter().rev() {
        let key = match &op {
            Op::Put { key, .. } | Op::Delete { key, .. } | Op::Get(key) => key.clone(),
        };
        if seen.insert(key) {
            last.push(op);
        }
    }
    last.reverse();
    last
}

/// Whether a value can be made where nobody leads: it must be one part.
pub(super) fn check_creatable(write: &Write) -> Result<Write, StoreError> {
    let value = write.value.as_deref().unwrap_or_default();
    if value.len() > PART_LEN_MAX {
        return Err(StoreError::Encode {
            tree: write.tree.as_str(),
            key: write.key.clone(),
            problem: format!("{} bytes, at most {PART_LEN_MAX} here", value.len()),
        });
    }
    Ok(Write {
        tree: write.tree,
        key: write.key.clone(),
        value: Some([&[WHOLE], value].concat()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Tree;

    #[test]
    fn the_last_write_of_a_key_counts() {
        let put = |key: &str, value: u8| Op::Put {
            key: key.to_owned(),
            value: vec![value],
            lease: 0,
        };
        let remove = |key: &str| Op::Delete {
            key: key.to_owned(),
            end: String::new(),
        };
        let ops = vec![put("a", 1), put("b", 1), remove("a"), put("b", 2)];
        assert_eq!(last_of_each(ops), [remove("a"), put("b", 2)]);
    }

    #[test]
    fn a_batch_is_one_transaction_up_to_its_limits() {
        let write = |len: usize| Write {
            tree: Tree::Plan,
            key: "k".to_owned(),
            value: Some(vec![0; len]),
        };
        assert!(is_one(&vec![write(10); OPS_MAX]));
        assert!(!is_one(&vec![write(10); OPS_MAX + 1]));
        assert!(is_one(&[write(PART_LEN_MAX), write(10 << 20)]));
        assert!(!is_one(&vec![write(PART_LEN_MAX); 4]));
    }
}
