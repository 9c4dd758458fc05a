//! Locations of the packs that this run wrote: small tables behind striped locks.

use hashbrown::HashSet;
use parking_lot::RwLock;

use crate::ids::ChunkId;
use crate::index::table::Table;
use crate::index::{Location, PackRef};

/// Power of two, above the number of shards that look up at once.
const STRIPES: usize = 64;

pub(crate) struct Overlay {
    stripes: Vec<RwLock<Table>>,
}

impl Overlay {
    pub(crate) fn new() -> Self {
        Overlay { stripes: (0..STRIPES).map(|_| RwLock::new(Table::default())).collect() }
    }

    /// Byte 8 of the id: the first eight are the hash inside the tables.
    fn stripe(&self, id: &ChunkId) -> &RwLock<Table> {
        &self.stripes[usize::from(id.0[8]) % STRIPES]
    }

    pub(crate) fn insert(&self, id: &ChunkId, location: &Location) {
        self.stripe(id).write().insert(id, location);
    }

    pub(crate) fn contains(&self, id: &ChunkId) -> bool {
        self.stripe(id).read().contains(id)
    }

    pub(crate) fn find(&self, id: &ChunkId) -> Option<Location> {
        self.stripe(id).read().find(id)
    }

    pub(crate) fn find_all(&self, id: &ChunkId, found: &mut Vec<Location>) {
        self.stripe(id).read().find_all(id, found);
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.stripes.iter().map(|stripe| stripe.read().memory_bytes()).sum()
    }

    /// Drops every location in `packs`.
    pub(crate) fn remove_packs(&self, packs: &HashSet<PackRef>) {
        for stripe in &self.stripes {
            stripe.write().retain(|location| !packs.contains(&location.pack));
        }
    }
}
