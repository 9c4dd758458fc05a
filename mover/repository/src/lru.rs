//! A cache bounded in bytes that drops what was used least recently.
//!
//! Not synchronised: owners put it behind a lock and hold that for one call. A value larger than
//! the whole cache is not kept.

use std::collections::BTreeMap;
use std::hash::Hash;

use hashbrown::HashMap;

pub(crate) struct Lru<K, V> {
    slots: HashMap<K, Slot<V>>,
    /// Key by time of last use, oldest first.
    order: BTreeMap<u64, K>,
    clock: u64,
    bytes: usize,
    bytes_max: usize,
}

struct Slot<V> {
    value: V,
    bytes: usize,
    used: u64,
}

impl<K: Copy + Eq + Hash, V: Clone> Lru<K, V> {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Lru { slots: HashMap::new(), order: BTreeMap::new(), clock: 0, bytes: 0, bytes_max }
    }

    /// The value, which thereby becomes the most recent one.
    pub(crate) fn get(&mut self, key: &K) -> Option<V> {
        let slot = self.slots.get_mut(key)?;
        self.clock += 1;
        self.order.remove(&slot.used);
        slot.used = self.clock;
        self.order.insert(self.clock, *key);
        Some(slot.value.clone())
    }

    /// Keeps a value of `bytes` bytes, in place of older ones.
    pub(crate) fn insert(&mut self, key: K, value: V, bytes: usize) {
        if bytes > self.bytes_max {
            return;
        }
        self.clock += 1;
        if let Some(old) = self.slots.insert(key, Slot { value, bytes, used: self.clock }) {
            self.order.remove(&old.used);
            self.bytes -= old.bytes;
        }
        self.order.insert(self.clock, key);
        self.bytes += bytes;
        while self.bytes > self.bytes_max {
            let (_, oldest) = self.order.pop_first().expect("bytes are held by somebody");
            let slot = self.slots.remove(&oldest).expect("both maps hold the same keys");
            self.bytes -= slot.bytes;
        }
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut lru = Lru::new(10);
        lru.insert(1, 'a', 4);
        lru.insert(2, 'b', 4);
        assert_eq!(lru.get(&1), Some('a'));
        lru.insert(3, 'c', 4);
        assert_eq!((lru.get(&1), lru.get(&2), lru.get(&3)), (Some('a'), None, Some('c')));
        lru.insert(4, 'd', 11);
        assert_eq!((lru.get(&4), lru.bytes()), (None, 8));
        lru.insert(1, 'e', 1);
        assert_eq!((lru.get(&1), lru.bytes()), (Some('e'), 5));
    }
}
