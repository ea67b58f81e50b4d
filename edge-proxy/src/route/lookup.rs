//! A map from texts that is built once and then only read.
//!
//! Open addressing at half load with a hash of our own: whoever sends requests does not choose the keys, so a
//! cheap hash is safe, and the same keys always lie in the same places.

/// The map.
#[derive(Debug)]
pub(super) struct Lookup<V> {
    entries: Vec<(String, V)>,
    /// 1 + place in `entries`; 0 = free. A power of two long, at least twice as long as `entries`.
    slots: Vec<u32>,
}

impl<V> Default for Lookup<V> {
    fn default() -> Lookup<V> {
        Lookup {
            entries: Vec::new(),
            slots: Vec::new(),
        }
    }
}

impl<V> Lookup<V> {
    /// A map of these entries; of two with the same key the first is found.
    pub(super) fn new(entries: impl IntoIterator<Item = (String, V)>) -> Lookup<V> {
        let mut map = Lookup {
            entries: entries.into_iter().collect(),
            slots: Vec::new(),
        };
        if map.entries.is_empty() {
            return map;
        }
        map.slots = vec![0; (map.entries.len() * 2).next_power_of_two()];
        for (at, (key, _)) in (1_u32..).zip(&map.entries) {
            let mut slot = map.slot(key);
            while map.slots[slot] != 0 {
                slot = (slot + 1) & (map.slots.len() - 1);
            }
            map.slots[slot] = at;
        }
        map
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn get(&self, key: &str) -> Option<&V> {
        if self.entries.is_empty() {
            return None;
        }
        let mut slot = self.slot(key);
        // Half of the slots are free, so this ends.
        while let Some(at) = self.slots[slot].checked_sub(1) {
            let (known, value) = &self.entries[at as usize];
            if known == key {
                return Some(value);
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        None
    }

    fn slot(&self, key: &str) -> usize {
        (hash(key.as_bytes()) as usize) & (self.slots.len() - 1)
    }
}

/// Eight bytes at a time, each mixed in by a multiplication whose halves are folded together.
fn hash(bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let fold = |state: u64, word: u64| {
        let wide = u128::from(state ^ word) * u128::from(FACTOR);
        (wide as u64) ^ ((wide >> 64) as u64)
    };
    let words = bytes.chunks_exact(8);
    let rest = words.remainder();
    let mut state = FACTOR ^ bytes.len() as u64;
    for word in words {
        state = fold(
            state,
            u64::from_le_bytes(word.try_into().unwrap_or_default()),
        );
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    fold(state, u64::from_le_bytes(last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn finds_what_a_tree_finds(
            entries in prop::collection::vec(("[ab./]{0,20}", 0..100), 0..60),
            asked in prop::collection::vec("[ab./]{0,20}", 0..40),
        ) {
            let mut tree = BTreeMap::new();
            for (key, value) in &entries {
                tree.entry(key.clone()).or_insert(*value);
            }
            let map = Lookup::new(entries.clone());
            for key in entries.iter().map(|(key, _)| key).chain(&asked) {
                prop_assert_eq!(map.get(key), tree.get(key));
            }
        }
    }
}
