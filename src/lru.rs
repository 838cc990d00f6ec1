//! A least-recently-used map whose bound is bytes rather than entries.

use std::hash::Hash;

use lru::LruCache;

/// Keeps the most recently used values up to a number of bytes.
#[derive(Debug)]
pub struct ByteLru<K: Hash + Eq, V> {
    entries: LruCache<K, (V, usize)>,
    bytes: usize,
    capacity: usize,
}

impl<K: Hash + Eq, V> ByteLru<K, V> {
    /// An empty map for `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        ByteLru { entries: LruCache::unbounded(), bytes: 0, capacity }
    }

    /// The value of `key`, which counts as used now.
    pub fn get(&mut self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(value, _)| value)
    }

    /// Keeps `value`, which weighs `bytes`, at the cost of those that were not used for the longest
    /// time. A value heavier than the whole map is not kept.
    pub fn put(&mut self, key: K, value: V, bytes: usize) {
        if bytes > self.capacity {
            return;
        }
        if let Some((_, (_, old))) = self.entries.push(key, (value, bytes)) {
            self.bytes -= old;
        }
        self.bytes += bytes;
        while self.bytes > self.capacity {
            let Some((_, (_, old))) = self.entries.pop_lru() else { break };
            self.bytes -= old;
        }
    }

    /// Whether there is a value of `key`, which does not count as use.
    pub fn contains(&self, key: &K) -> bool {
        self.entries.contains(key)
    }

    /// How many values are kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many bytes may be kept.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The weight of what is kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_value_goes_first() {
        let mut lru = ByteLru::new(30);
        lru.put("a", 1, 10);
        lru.put("b", 2, 10);
        lru.put("c", 3, 10);
        assert_eq!(lru.get(&"a"), Some(&1));
        lru.put("d", 4, 10);
        assert_eq!(lru.get(&"b"), None);
        assert_eq!(["a", "c", "d"].map(|key| lru.get(&key).copied()), [Some(1), Some(3), Some(4)]);
        assert_eq!(lru.bytes(), 30);
    }

    #[test]
    fn a_replaced_value_gives_its_weight_back() {
        let mut lru = ByteLru::new(100);
        for weight in [60, 70, 10] {
            lru.put("a", weight, weight);
        }
        assert_eq!((lru.bytes(), lru.get(&"a").copied()), (10, Some(10)));
    }

    #[test]
    fn what_is_too_heavy_for_the_map_evicts_nothing() {
        let mut lru = ByteLru::new(10);
        lru.put("a", 1, 10);
        lru.put("b", 2, 11);
        assert_eq!(["a", "b"].map(|key| lru.get(&key).copied()), [Some(1), None]);
    }
}
