//! A least-recently-used cache bounded by the bytes of what it holds.

use std::collections::{BTreeMap, HashMap};

/// Identity of a cached value: a SHA-256 over everything that it depends on.
pub type Key = [u8; 32];

/// Keeps the most recently used values whose sizes add up to at most a given number of bytes.
#[derive(Debug)]
pub struct ByteLru<V> {
    capacity: usize,
    used: usize,
    clock: u64,
    entries: HashMap<Key, Entry<V>>,
    /// Keys by the time of their last use; times are unique.
    by_age: BTreeMap<u64, Key>,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    bytes: usize,
    used_at: u64,
}

impl<V: Clone> ByteLru<V> {
    /// An empty cache for `capacity` bytes; with 0 it keeps nothing.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, used: 0, clock: 0, entries: HashMap::new(), by_age: BTreeMap::new() }
    }

    /// Looks a value up and marks it as just used.
    pub fn get(&mut self, key: &Key) -> Option<V> {
        let entry = self.entries.get_mut(key)?;
        self.by_age.remove(&entry.used_at);
        self.clock += 1;
        entry.used_at = self.clock;
        self.by_age.insert(self.clock, *key);
        Some(entry.value.clone())
    }

    /// Keeps a value of `bytes` bytes and drops the least recently used ones that no longer fit. A value
    /// larger than the whole cache is not kept.
    pub fn insert(&mut self, key: Key, value: V, bytes: usize) {
        self.remove(&key);
        if bytes > self.capacity {
            return;
        }
        while self.used > self.capacity - bytes {
            let Some((_, oldest)) = self.by_age.first_key_value() else { break };
            let oldest = *oldest;
            self.remove(&oldest);
        }
        self.clock += 1;
        self.used += bytes;
        self.by_age.insert(self.clock, key);
        self.entries.insert(key, Entry { value, bytes, used_at: self.clock });
    }

    /// Bytes of the values held.
    pub fn bytes(&self) -> usize {
        self.used
    }

    /// Number of values held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_age.remove(&entry.used_at);
            self.used -= entry.bytes;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> Key {
        [byte; 32]
    }

    #[test]
    fn the_least_recently_used_value_goes_first() {
        let mut cache = ByteLru::new(10);
        cache.insert(key(1), "a", 4);
        cache.insert(key(2), "b", 4);
        assert_eq!(cache.get(&key(1)), Some("a"));
        cache.insert(key(3), "c", 4);
        assert_eq!(cache.get(&key(2)), None);
        assert_eq!(cache.get(&key(1)), Some("a"));
        assert_eq!(cache.get(&key(3)), Some("c"));
        assert_eq!(cache.bytes(), 8);
    }

    #[test]
    fn a_value_larger_than_the_cache_is_not_kept_and_evicts_nothing() {
        let mut cache = ByteLru::new(10);
        cache.insert(key(1), (), 10);
        cache.insert(key(2), (), 11);
        assert_eq!(cache.len(), 1);
        assert!(cache.get(&key(1)).is_some());
        let mut off = ByteLru::new(0);
        off.insert(key(1), (), 1);
        assert!(off.is_empty());
    }

    proptest! {
        /// Against a model that is too simple to be wrong: a list in order of use.
        #[test]
        fn it_behaves_like_a_list(
            capacity in 0_usize..40,
            steps in prop::collection::vec((0_u8..8, prop::option::of(0_usize..20)), 0..100),
        ) {
            let mut cache = ByteLru::new(capacity);
            let mut model: Vec<(Key, usize)> = Vec::new();
            for (id, insert) in steps {
                let key = key(id);
                let found = model.iter().position(|(k, _)| *k == key).map(|at| model.remove(at));
                if let Some(bytes) = insert {
                    cache.insert(key, bytes, bytes);
                    if bytes <= capacity {
                        model.push((key, bytes));
                    }
                    while model.iter().map(|(_, b)| b).sum::<usize>() > capacity {
                        model.remove(0);
                    }
                } else {
                    prop_assert_eq!(cache.get(&key), found.map(|(_, bytes)| bytes));
                    model.extend(found);
                }
                prop_assert_eq!(cache.bytes(), model.iter().map(|(_, b)| b).sum::<usize>());
                prop_assert_eq!(cache.len(), model.len());
                prop_assert!(cache.bytes() <= capacity);
            }
        }
    }
}
