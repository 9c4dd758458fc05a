//! Nearby: what else lies in the packs that lookups fell into a moment ago.
//!
//! A segment is sorted by hash, so two chunks of one file are in two blocks. But chunks that were stored together are
//! asked for together: after [`HITS_BEFORE_READING`] lookups that ended in one pack, its table of contents is read, and
//! the rest of its chunks are found here. A million unchanged files of one chunk each so cost some hundred reads of
//! tables and not a million of blocks.
//!
//! Two generations of tables: once the younger is full it becomes the older, and what was the older is dropped, so a
//! hit moves nothing and memory is bounded. Advice alone: a table that cannot be read, or is too large, leaves its pack
//! to the blocks. Must never name a hurt frame. Shared by all threads.

use hashbrown::HashMap;
use parking_lot::RwLock;

use crate::ids::ChunkId;
use crate::index::table::{LOCATION_MEMORY_BYTES, Table};
use crate::index::{Location, PackRef, for_each_location};
use crate::pack::PackContents;

/// Lookups that end in one pack before its table is read: a pack that shares one chunk with the source costs nothing.
const HITS_BEFORE_READING: u32 = 4;
/// Its table is being read, was read, or is of no use.
const DONE: u32 = u32::MAX;

pub(crate) struct Nearby {
    /// Locations that one generation may hold.
    locations_max: usize,
    generations: RwLock<Generations>,
}

#[derive(Default)]
struct Generations {
    young: Generation,
    old: Generation,
}

#[derive(Default)]
struct Generation {
    table: Table,
    /// Lookups that ended in a pack, or [`DONE`].
    hits: HashMap<PackRef, u32>,
}

impl Nearby {
    /// Nothing yet; at most `budget_bytes` later.
    pub(crate) fn new(budget_bytes: usize) -> Self {
        Nearby { locations_max: budget_bytes / 2 / LOCATION_MEMORY_BYTES, generations: RwLock::default() }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let generations = self.generations.read();
        generations.young.table.memory_bytes() + generations.old.table.memory_bytes()
    }

    /// A location of the chunk in one of the packs whose tables are here.
    pub(crate) fn find(&self, id: &ChunkId) -> Option<Location> {
        let generations = self.generations.read();
        generations.young.table.find(id).or_else(|| generations.old.table.find(id))
    }

    /// Takes note that a block gave a chunk in `pack`. True once: then the caller reads the pack's table.
    pub(crate) fn is_due(&self, pack: PackRef) -> bool {
        if self.locations_max == 0 {
            return false;
        }
        let mut generations = self.generations.write();
        if generations.old.hits.get(&pack) == Some(&DONE) {
            return false;
        }
        let hits = generations.young.hits.entry(pack).or_default();
        if *hits == DONE {
            return false;
        }
        *hits += 1;
        let is_due = *hits == HITS_BEFORE_READING;
        if is_due {
            *hits = DONE;
        }
        is_due
    }

    /// Keeps the table of a pack, but for the frames that `is_hurt`.
    pub(crate) fn add(&self, pack: PackRef, contents: &PackContents, is_hurt: impl Fn(u32) -> bool) {
        let chunks = contents.chunk_count();
        if chunks > self.locations_max {
            return;
        }
        let mut generations = self.generations.write();
        if generations.young.table.len() + chunks > self.locations_max {
            generations.old = std::mem::take(&mut generations.young);
            generations.young.hits.insert(pack, DONE);
        }
        let young = &mut generations.young;
        if young.table.memory_bytes() == 0 {
            young.table = Table::with_capacity(self.locations_max);
        }
        for_each_location(pack, contents, is_hurt, |id, location| young.table.insert(id, &location));
    }
}
