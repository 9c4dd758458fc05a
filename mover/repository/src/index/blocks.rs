//! Block mode: segments of which only directory and filter are resident, and a bounded cache of
//! blocks. A lookup asks each filter and reads at most one block of a segment that may hold the
//! chunk (more only where copies of one chunk straddle a border).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::error::{RepositoryError, Result};
use crate::ids::ChunkId;
use crate::index::filter::filter_may_hold;
use crate::index::segment::{BlockRef, ENTRY_BYTES, Segment, SegmentEntry};
use crate::index::{Location, PackRef};
use crate::limits::INDEX_BLOCK_BYTES;
use crate::lru::Lru;

const STRIPES: usize = 8;
/// Smallest cache: one block a stripe and one more.
const CACHE_BYTES_MIN: usize = 2 * STRIPES * INDEX_BLOCK_BYTES;

type BlockKey = (u32, u32);

pub(crate) struct Blocks {
    segments: RwLock<Arc<Vec<Arc<BlockSegment>>>>,
    cache: Vec<Mutex<Lru<BlockKey, Arc<Vec<u8>>>>>,
    budget_bytes: usize,
    cache_bytes: usize,
    resident_bytes: AtomicUsize,
}

struct BlockSegment {
    segment: Segment,
    /// Empty if it would take too much of the budget: then every lookup reads a block.
    filter: Vec<u8>,
    /// By position in the segment's pack table; `None` is condemned, or held by another segment.
    packs: Vec<Option<PackRef>>,
}

impl Blocks {
    /// A block mode without segments that may take about `budget_bytes`.
    pub(crate) fn new(budget_bytes: usize) -> Self {
        let cache_bytes = (budget_bytes / 4).max(CACHE_BYTES_MIN);
        Blocks {
            segments: RwLock::new(Arc::new(Vec::new())),
            cache: (0..STRIPES).map(|_| Mutex::new(Lru::new(cache_bytes / STRIPES))).collect(),
            budget_bytes,
            cache_bytes,
            resident_bytes: AtomicUsize::new(0),
        }
    }

    pub(crate) fn budget_bytes(&self) -> usize {
        self.budget_bytes
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        match self.resident_bytes.load(Ordering::Relaxed) {
            0 => 0,
            bytes => bytes + self.cache_bytes,
        }
    }

    /// Searches a segment from now on.
    pub(crate) async fn add(&self, mut segment: Segment, packs: Vec<Option<PackRef>>) -> Result<()> {
        let filter = segment.read_filter().await?;
        segment.forget_bytes();
        let held = self.resident_bytes.load(Ordering::Relaxed);
        let filter = if held + filter.len() > self.budget_bytes / 2 { Vec::new() } else { filter };
        let bytes = filter.len() + segment.blocks.len() * size_of::<BlockRef>() + packs.len() * 8 + 256;
        self.resident_bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut segments = self.segments.write();
        let mut longer = Vec::clone(&segments);
        longer.push(Arc::new(BlockSegment { segment, filter, packs }));
        *segments = Arc::new(longer);
        Ok(())
    }

    /// The answer, if no block has to be read for it.
    pub(crate) fn contains_now(&self, id: &ChunkId, is_hurt: impl Fn(PackRef, u32) -> bool) -> Option<bool> {
        let segments = self.segments.read().clone();
        let mut is_known = true;
        let mut found = Vec::new();
        for (number, segment) in segments.iter().enumerate() {
            for block in segment.candidates(id) {
                match self.cached((number as u32, block as u32)) {
                    Some(bytes) => {
                        segment.search(&bytes, id, &is_hurt, &mut found).ok()?;
                        if !found.is_empty() {
                            return Some(true);
                        }
                    }
                    None => is_known = false,
                }
            }
        }
        is_known.then_some(false)
    }

    /// Appends the locations of a chunk; stops at the first one if `any` will do. Goes on after a
    /// block that cannot be read, and then reports it.
    pub(crate) async fn find(
        &self,
        id: &ChunkId,
        any: bool,
        is_hurt: impl Fn(PackRef, u32) -> bool,
        found: &mut Vec<Location>,
    ) -> Result<()> {
        let segments = self.segments.read().clone();
        let mut outcome = Ok(());
        for (number, segment) in segments.iter().enumerate() {
            for block in segment.candidates(id) {
                let searched = match self.block(segment, number as u32, block).await {
                    Ok(bytes) => segment.search(&bytes, id, &is_hurt, found),
                    Err(error) => Err(error),
                };
                if outcome.is_ok() {
                    outcome = searched;
                }
                if any && !found.is_empty() {
                    return Ok(());
                }
            }
        }
        outcome
    }

    fn cached(&self, key: BlockKey) -> Option<Arc<Vec<u8>>> {
        self.cache[key.1 as usize % STRIPES].lock().get(&key)
    }

    async fn block(&self, segment: &BlockSegment, number: u32, block: usize) -> Result<Arc<Vec<u8>>> {
        let key = (number, block as u32);
        if let Some(bytes) = self.cached(key) {
            return Ok(bytes);
        }
        let bytes = Arc::new(segment.segment.read_block(block).await?);
        self.cache[block % STRIPES].lock().insert(key, bytes.clone(), bytes.len() + 64);
        Ok(bytes)
    }
}

impl BlockSegment {
    /// Blocks that may hold the chunk.
    fn candidates(&self, id: &ChunkId) -> std::ops::Range<usize> {
        if !filter_may_hold(&self.filter, id) {
            return 0..0;
        }
        let blocks = &self.segment.blocks;
        let from = blocks.partition_point(|block| block.first < *id).saturating_sub(1);
        let until = blocks.partition_point(|block| block.first <= *id);
        from..until.max(from)
    }

    fn search(
        &self,
        bytes: &[u8],
        id: &ChunkId,
        is_hurt: impl Fn(PackRef, u32) -> bool,
        found: &mut Vec<Location>,
    ) -> Result<()> {
        let records = bytes.as_chunks::<ENTRY_BYTES>().0;
        let from = records.partition_point(|record| record[..32] < id.0[..]);
        for record in records[from..].iter().take_while(|record| record[..32] == id.0[..]) {
            let entry = SegmentEntry::decode(record, self.packs.len())
                .map_err(RepositoryError::decoding(&self.segment.name))?;
            if let Some(pack) = self.packs[entry.pack as usize]
                && !is_hurt(pack, entry.frame)
            {
                found.push(location(pack, &entry));
            }
        }
        Ok(())
    }
}

/// The location in memory; the entry was checked against the limits.
pub(crate) fn location(pack: PackRef, entry: &SegmentEntry) -> Location {
    Location {
        pack,
        frame: entry.frame,
        frame_offset: u32::try_from(entry.frame_offset).expect("a pack is shorter than 4 GiB"),
        frame_bytes: entry.frame_bytes,
        chunk_offset: entry.chunk_offset,
        chunk_bytes: entry.chunk_bytes,
    }
}
