//! The resident part of the index: every location of every chunk, at most 64 bytes each.
//!
//! Entries are 52 bytes in one vector; a hash table of `u32` positions takes 5 bytes a slot at a
//! load of at least 7/16. Chunk ids are keyed hashes, so their first eight bytes are the hash. Not
//! synchronised. Holds at most 2^32 - 1 locations.

use hashbrown::HashTable;

use crate::ids::ChunkId;
use crate::index::{Location, PackRef};
use crate::limits::{FRAME_BYTES_MAX, PACK_BYTES_MAX, PACK_FRAMES_MAX};

/// Memory of one location in a table that was made for its size.
pub(crate) const LOCATION_MEMORY_BYTES: usize = 64;

/// 119 bits of location beside the pack: frame 20, frame offset 30, sealed length, offset and
/// length in the plain frame 23 each.
#[derive(Clone, Copy)]
struct Packed {
    id: [u8; 32],
    pack: u32,
    bits: [u32; 4],
}

const _: () = {
    assert!(std::mem::size_of::<Packed>() == 52);
    assert!(PACK_FRAMES_MAX <= 1 << 20 && PACK_BYTES_MAX < 1 << 30 && FRAME_BYTES_MAX < 1 << 23);
};

impl Packed {
    fn new(id: &ChunkId, location: &Location) -> Self {
        let bits = u128::from(location.frame)
            | u128::from(location.frame_offset) << 20
            | u128::from(location.frame_bytes) << 50
            | u128::from(location.chunk_offset) << 73
            | u128::from(location.chunk_bytes) << 96;
        let words = [bits as u32, (bits >> 32) as u32, (bits >> 64) as u32, (bits >> 96) as u32];
        Packed { id: id.0, pack: location.pack.0, bits: words }
    }

    fn location(&self) -> Location {
        let [a, b, c, d] = self.bits.map(u128::from);
        let bits = a | b << 32 | c << 64 | d << 96;
        let field = |from: u32, width: u32| (bits >> from) as u32 & ((1 << width) - 1);
        Location {
            pack: PackRef(self.pack),
            frame: field(0, 20),
            frame_offset: field(20, 30),
            frame_bytes: field(50, 23),
            chunk_offset: field(73, 23),
            chunk_bytes: field(96, 23),
        }
    }
}

#[derive(Default)]
pub(crate) struct Table {
    entries: Vec<Packed>,
    positions: HashTable<u32>,
    slots: Slots,
}

/// How ids become hashes. The hash table takes a slot from the lowest bits of a hash; these are the first bits of the
/// id, so the sorted locations of a segment fill it from one end to the other and not all over memory.
#[derive(Default, Clone, Copy)]
struct Slots {
    bits: u32,
}

impl Slots {
    /// For a hash table of so many locations.
    fn of(locations: usize) -> Self {
        Slots { bits: (locations * 8 / 7).next_power_of_two().trailing_zeros() }
    }

    #[inline]
    fn hash(self, id: &[u8; 32]) -> u64 {
        u64::from_be_bytes(id[..8].try_into().expect("eight bytes")).rotate_left(self.bits)
    }
}

impl Table {
    /// A table that holds `locations` without growing.
    pub(crate) fn with_capacity(locations: usize) -> Self {
        let (entries, positions) = (Vec::with_capacity(locations), HashTable::with_capacity(locations));
        Table { entries, positions, slots: Slots::of(locations) }
    }

    /// Adds a location. The caller adds none twice.
    ///
    /// # Panics
    /// If the location breaks a limit of the format, or the table is full.
    pub(crate) fn insert(&mut self, id: &ChunkId, location: &Location) {
        assert!(
            location.frame < PACK_FRAMES_MAX
                && u64::from(location.frame_offset) <= PACK_BYTES_MAX
                && location.frame_bytes as usize <= FRAME_BYTES_MAX
                && location.chunk_offset as usize <= FRAME_BYTES_MAX
                && location.chunk_bytes as usize <= FRAME_BYTES_MAX,
            "a location is within the limits"
        );
        let position = u32::try_from(self.entries.len()).expect("fewer than 2^32 locations");
        self.entries.push(Packed::new(id, location));
        let Table { entries, positions, slots } = self;
        positions.insert_unique(slots.hash(&id.0), position, |at| slots.hash(&entries[*at as usize].id));
    }

    /// True if the chunk has a location.
    #[inline]
    pub(crate) fn contains(&self, id: &ChunkId) -> bool {
        self.positions.find(self.slots.hash(&id.0), |at| self.entries[*at as usize].id == id.0).is_some()
    }

    /// Any location of the chunk.
    #[inline]
    pub(crate) fn find(&self, id: &ChunkId) -> Option<Location> {
        let at = self.positions.find(self.slots.hash(&id.0), |at| self.entries[*at as usize].id == id.0)?;
        Some(self.entries[*at as usize].location())
    }

    /// Appends all locations of the chunk.
    pub(crate) fn find_all(&self, id: &ChunkId, found: &mut Vec<Location>) {
        for at in self.positions.iter_hash(self.slots.hash(&id.0)) {
            let entry = &self.entries[*at as usize];
            if entry.id == id.0 {
                found.push(entry.location());
            }
        }
    }

    /// Number of locations.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of memory held.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Packed>() + self.positions.allocation_size()
    }

    /// Keeps the locations for which `keep` says so, and the memory for as many as there were: they come again. Tables
    /// that were made anew each time left holes in the heap, as much as they held.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Location) -> bool) {
        self.entries.retain(|entry| keep(&entry.location()));
        if self.entries.is_empty() {
            *self = Table::default();
            return;
        }
        let Table { entries, positions, slots } = self;
        positions.clear();
        for (at, entry) in entries.iter().enumerate() {
            positions.insert_unique(slots.hash(&entry.id), at as u32, |at| slots.hash(&entries[*at as usize].id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_packed_without_loss() {
        let largest = Location {
            pack: PackRef(u32::MAX),
            frame: PACK_FRAMES_MAX - 1,
            frame_offset: PACK_BYTES_MAX as u32,
            frame_bytes: FRAME_BYTES_MAX as u32,
            chunk_offset: FRAME_BYTES_MAX as u32 - 1,
            chunk_bytes: FRAME_BYTES_MAX as u32,
        };
        let smallest =
            Location { pack: PackRef(0), frame: 0, frame_offset: 1, frame_bytes: 2, chunk_offset: 3, chunk_bytes: 4 };
        for location in [largest, smallest] {
            assert_eq!(Packed::new(&ChunkId([7; 32]), &location).location(), location);
        }
    }

    #[test]
    fn a_chunk_takes_at_most_64_bytes() {
        for locations in [1_000, 7_300, 14_336, 14_337, 100_000, 114_689] {
            let mut table = Table::with_capacity(locations);
            for n in 0..locations as u64 {
                let location = Location {
                    pack: PackRef(0),
                    frame: 0,
                    frame_offset: 0,
                    frame_bytes: 0,
                    chunk_offset: 0,
                    chunk_bytes: 0,
                };
                table.insert(&ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes()), &location);
            }
            let bytes = table.memory_bytes();
            assert!(bytes <= locations * LOCATION_MEMORY_BYTES + 1024, "{locations}: {}", bytes / locations);
        }
    }
}
