//! Chunk → pack, frame, offset, length. FORMAT.md "Index".
//!
//! Resident while it fits the budget (at most 64 bytes a location), else filters and directories
//! are resident and blocks come through a bounded cache, beside the tables of the packs met last. Packs of this run are added to a small
//! overlay. Never authoritative: a segment that cannot be read is reported and skipped, an
//! uncertain "absent" costs one duplicate upload. Must never name a condemned pack or a hurt frame.
//! Shared by all threads; reads of the resident part take no lock, others a striped one.

mod blocks;
mod builder;
mod filter;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod load;
mod nearby;
mod overlay;
mod segment;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hashbrown::{HashMap, HashSet};
use parking_lot::{Mutex, RwLock};

pub use builder::{SegmentBuilder, compact};
pub(crate) use builder::{delete_segments, named_packs, push_entries, replace_segments, replaced_segments};
pub(crate) use load::{live_segments, open_segments};
pub(crate) use segment::{Segment, SegmentEntry, parse_segment_name};

use crate::error::{RepositoryError, Result};
use crate::ids::{ChunkId, ObjectId, PackId};
use crate::pack::{PackContents, PackInfo, read_contents};
use crate::repository::Repository;
use blocks::Blocks;
use nearby::Nearby;
use overlay::Overlay;
use table::Table;

/// A pack as this index knows it. Valid for the index that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackRef(pub(crate) u32);

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The pack, see [`Index::pack`].
    pub pack: PackRef,
    /// Frame number.
    pub frame: u32,
    /// Where the sealed frame begins in the pack.
    pub frame_offset: u32,
    /// Length of the sealed frame.
    pub frame_bytes: u32,
    /// Where the chunk begins in the plain frame.
    pub chunk_offset: u32,
    /// Plain length of the chunk.
    pub chunk_bytes: u32,
}

/// An index object that could not be used.
#[derive(Debug, Clone)]
pub struct Unreadable {
    /// Name of the segment, or of the pack whose table was to stand in for one.
    pub object: String,
    /// Why.
    pub cause: RepositoryError,
}

/// What must be treated as absent, by the history.
#[derive(Debug, Clone, Default)]
pub struct Absent {
    /// Condemned packs.
    pub packs: HashSet<PackId>,
    /// Frames that were found damaged.
    pub frames: HashSet<(PackId, u32)>,
}

/// The index of one repository for one run.
pub struct Index {
    repository: Repository,
    absent: Absent,
    /// Packs that are read only where nothing else has the chunk.
    avoided: HashSet<PackId>,
    /// While a backup loads it: the packs that there are.
    listed: Option<Arc<HashSet<PackId>>>,
    /// Packs that segments name and that were not listed.
    lost_packs: Mutex<HashSet<PackId>>,
    resident: Table,
    blocks: Blocks,
    nearby: Nearby,
    overlay: Overlay,
    /// Packs that no segment names, until a writer takes them over.
    adopted: Mutex<Vec<PackContents>>,
    packs: RwLock<Packs>,
    /// Locations known, duplicates included.
    locations: AtomicU64,
    /// Some segments are searched on demand.
    has_blocks: AtomicBool,
    unreadable: Vec<Unreadable>,
}

#[derive(Default)]
struct Packs {
    infos: Vec<Arc<PackInfo>>,
    refs: HashMap<PackId, PackRef>,
}

impl Packs {
    /// Adds a pack; `None` if it is known.
    fn add(&mut self, info: PackInfo) -> Option<PackRef> {
        if self.refs.contains_key(&info.id) {
            return None;
        }
        let pack = PackRef(u32::try_from(self.infos.len()).ok()?);
        self.refs.insert(info.id, pack);
        self.infos.push(Arc::new(info));
        Some(pack)
    }
}

impl Index {
    /// Whether the chunk is there, if that is known without I/O.
    #[inline]
    pub fn contains_now(&self, id: &ChunkId) -> Option<bool> {
        if self.resident.contains(id) || self.overlay.contains(id) {
            return Some(true);
        }
        if !self.has_blocks.load(Ordering::Acquire) {
            return Some(false);
        }
        if self.nearby.find(id).is_some() {
            return Some(true);
        }
        self.blocks.contains_now(id, |pack, frame| self.is_hurt(pack, frame))
    }

    /// Any location of the chunk; one in a condemned pack only if there is no other.
    ///
    /// # Errors
    /// In block mode a block that cannot be read.
    pub async fn lookup(&self, id: &ChunkId) -> Result<Option<Location>> {
        if !self.avoided.is_empty() {
            return Ok(self.locations(id).await?.first().copied());
        }
        if let Some(location) = self.resident.find(id).or_else(|| self.overlay.find(id)) {
            return Ok(Some(location));
        }
        if !self.has_blocks.load(Ordering::Acquire) {
            return Ok(None);
        }
        if let Some(location) = self.nearby.find(id) {
            return Ok(Some(location));
        }
        let mut found = Vec::new();
        let outcome = self.blocks.find(id, true, |pack, frame| self.is_hurt(pack, frame), &mut found).await;
        match found.first() {
            Some(location) => {
                self.look_nearby(location.pack).await;
                Ok(Some(*location))
            }
            None => outcome.map(|()| None),
        }
    }

    /// After enough lookups that ended in `pack`: reads its table, for its neighbours are asked for next.
    async fn look_nearby(&self, pack: PackRef) {
        if !self.nearby.is_due(pack) {
            return;
        }
        let name = self.pack(pack).object_name();
        match read_contents(&self.repository, &name).await {
            Ok(contents) => self.nearby.add(pack, &contents, |frame| self.is_hurt(pack, frame)),
            Err(error) => tracing::debug!(pack = %name, %error, "its table cannot be read; blocks must do"),
        }
    }

    /// All locations of the chunk. If some are known, a block that cannot be read is no error.
    ///
    /// # Errors
    /// As [`Index::lookup`].
    pub async fn locations(&self, id: &ChunkId) -> Result<Vec<Location>> {
        let mut found = Vec::new();
        self.resident.find_all(id, &mut found);
        self.overlay.find_all(id, &mut found);
        if self.has_blocks.load(Ordering::Acquire) {
            let outcome = self.blocks.find(id, false, |pack, frame| self.is_hurt(pack, frame), &mut found).await;
            if found.is_empty() {
                outcome?;
            }
        }
        if !self.avoided.is_empty() {
            found.sort_by_key(|location| self.avoided.contains(&self.pack(location.pack).id));
        }
        Ok(found)
    }

    /// What is known of a pack.
    ///
    /// # Panics
    /// If the reference is of another index.
    pub fn pack(&self, pack: PackRef) -> Arc<PackInfo> {
        self.packs.read().infos[pack.0 as usize].clone()
    }

    /// The reference of a pack that the index names.
    pub fn find_pack(&self, id: &PackId) -> Option<PackRef> {
        self.packs.read().refs.get(id).copied()
    }

    /// All packs that the index names.
    pub fn packs(&self) -> Vec<Arc<PackInfo>> {
        self.packs.read().infos.clone()
    }

    /// Adds a pack of this run that became durable. A pack that is known or condemned is left out.
    pub fn insert(&self, contents: &PackContents) {
        if self.absent.packs.contains(&contents.id) {
            return;
        }
        let Some(pack) = self.packs.write().add(contents.info()) else { return };
        let is_hurt = |frame| self.absent.frames.contains(&(contents.id, frame));
        for_each_location(pack, contents, is_hurt, |id, location| self.overlay.insert(id, &location));
        self.locations.fetch_add(contents.chunk_count() as u64, Ordering::Relaxed);
    }

    /// The packs that were found without a segment when the index was loaded. A writer that relies
    /// on them makes their names durable and names them in a segment of its own.
    pub fn take_adopted(&self) -> Vec<PackContents> {
        std::mem::take(&mut *self.adopted.lock())
    }

    /// Number of locations known, duplicates included.
    pub fn chunks(&self) -> u64 {
        self.locations.load(Ordering::Relaxed)
    }

    /// How many packs segments name that are not there; known after [`Index::load_for_backup`].
    pub fn lost_packs(&self) -> usize {
        self.lost_packs.lock().len()
    }

    /// Segments (and, after [`Index::load_or_rebuild`], packs) that could not be read.
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    /// Bytes of memory that the index holds, block cache included.
    pub fn memory_bytes(&self) -> usize {
        let tables = self.resident.memory_bytes() + self.overlay.memory_bytes() + self.nearby.memory_bytes();
        tables + self.blocks.memory_bytes()
    }

    /// True if blocks are read on demand.
    pub fn is_block_mode(&self) -> bool {
        self.has_blocks.load(Ordering::Acquire)
    }

    /// Tells the index that a segment of this run's packs is durable. If the overlay has outgrown the
    /// budget, the packs in it are searched in the segment from now on, and their memory is free.
    ///
    /// # Errors
    /// If the segment cannot be read back.
    pub async fn segment_written(&self, id: &ObjectId) -> Result<()> {
        if self.memory_bytes() <= self.blocks.budget_bytes() {
            return Ok(());
        }
        let name = segment::segment_name(id);
        let bytes = self.repository.backend().size(&name).await?;
        let segment = Segment::open(self.repository.backend(), self.repository.secrets(), &name, bytes).await?;
        let packs = segment.read_packs().await?;
        let refs: Vec<Option<PackRef>> = packs.iter().map(|pack| self.find_pack(&pack.id)).collect();
        let moved: HashSet<PackRef> = refs.iter().flatten().copied().collect();
        self.blocks.add(segment, refs).await?;
        self.has_blocks.store(true, Ordering::Release);
        self.overlay.remove_packs(&moved);
        Ok(())
    }

    fn is_hurt(&self, pack: PackRef, frame: u32) -> bool {
        !self.absent.frames.is_empty() && self.absent.frames.contains(&(self.pack(pack).id, frame))
    }
}

/// Every chunk of a pack with its location, but for the frames that `is_hurt`.
fn for_each_location(
    pack: PackRef,
    contents: &PackContents,
    is_hurt: impl Fn(u32) -> bool,
    mut visit: impl FnMut(&ChunkId, Location),
) {
    for frame in contents.frames.iter().filter(|frame| !is_hurt(frame.number)) {
        let mut chunk_offset = 0;
        for (id, bytes) in &frame.chunks {
            let location = Location {
                pack,
                frame: frame.number,
                frame_offset: u32::try_from(frame.offset).expect("a pack is shorter than 4 GiB"),
                frame_bytes: frame.sealed_bytes,
                chunk_offset,
                chunk_bytes: *bytes,
            };
            visit(id, location);
            chunk_offset += bytes;
        }
    }
}

#[cfg(test)]
mod tests;

/// A level 0 segment of one pack, for the test vectors.
#[cfg(test)]
pub(crate) fn encode_test_segment(
    secrets: &crate::crypto::Secrets,
    id: &ObjectId,
    contents: &PackContents,
) -> bytes::Bytes {
    let mut entries = Vec::new();
    builder::push_entries(&mut entries, 0, contents);
    entries.sort_unstable();
    let parts = segment::SegmentParts { level: 0, replaces: &[], packs: &[contents.info()], entries: &entries };
    segment::encode_segment(secrets, id, &parts)
}
