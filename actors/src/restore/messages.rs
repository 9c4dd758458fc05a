//! What travels between the actors of a restore, named as things, in the order of the data path:
//!
//! ```text
//! planner ─ReadSpan▶ downloader ─SealedRange▶ decompressor ─PlainFrame▶ writer
//! ```
//!
//! `ReadSpan` crosses shards through the injector; everything after it stays on the shard that took it. A range
//! holds the memory for all it turns into from the moment it is read, so nothing behind it ever waits for memory.

use std::sync::Arc;

use bytes::Bytes;
use mover_repository::ids::ChunkId;
use mover_repository::pack::PackInfo;

use crate::restore::planned_file::{Lost, PlannedFile};
use crate::runtime::{Permit, Weigh};

/// One fileset of the recovery point, to be restored as one step.
pub struct RestoreFileset {
    /// Its number in the recovery point.
    pub number: usize,
}

impl Weigh for RestoreFileset {
    fn weight_bytes(&self) -> usize {
        0
    }
}

/// Ranges of one pack, in their order: of a far store one request gets all of them, of a disk each is a span.
pub struct ReadSpan {
    /// At least one.
    pub ranges: Vec<ReadRange>,
}

impl Weigh for ReadSpan {
    fn weight_bytes(&self) -> usize {
        // The plan's own permit counts it; its content is not read yet.
        0
    }
}

/// Neighbouring frames of one pack that are read together.
pub struct ReadRange {
    /// The pack.
    pub pack: Arc<PackInfo>,
    /// Where the range starts in the pack object.
    pub start: u64,
    /// Its length, the gaps between needed frames included.
    pub bytes: usize,
    /// Memory that it needs: sealed bytes, and plain bytes of the needed frames.
    pub cost_bytes: usize,
    /// The needed frames, by offset.
    pub frames: Vec<FrameRead>,
    /// Memory of the plan that the range is a part of.
    pub plan: Option<Arc<Permit>>,
}

/// One frame of a range, and what its chunks are for.
pub struct FrameRead {
    /// Number of the frame in its pack.
    pub number: u32,
    /// Where it starts in the range.
    pub start: usize,
    /// Its sealed length.
    pub sealed_bytes: usize,
    /// Plain bytes that it is expected to have.
    pub plain_bytes: usize,
    /// By offset in the plain frame; places of the same chunk are neighbours.
    pub places: Vec<Place>,
}

/// One place that a chunk goes to.
pub struct Place {
    /// The chunk.
    pub chunk: ChunkId,
    /// Where it starts in the plain frame.
    pub chunk_offset: u32,
    /// Its length.
    pub chunk_bytes: u32,
    /// The file.
    pub file: Arc<PlannedFile>,
    /// Where the chunk goes in the file.
    pub file_offset: u64,
}

/// Why a range has no bytes.
#[derive(Debug, Clone)]
pub enum Unread {
    /// The repository could not give them; each chunk is looked for elsewhere.
    Failed(String),
    /// A stop came first.
    Stopped,
}

/// A range as it was read.
pub struct SealedRange {
    /// What was asked for.
    pub range: ReadRange,
    /// The bytes, of the length that was asked for.
    pub body: Result<Bytes, Unread>,
    /// The memory for the sealed bytes and all plain bytes of the range.
    pub permit: Permit,
}

impl Weigh for SealedRange {
    fn weight_bytes(&self) -> usize {
        self.range.bytes
    }
}

/// The chunks of one frame, opened, decompressed and checked.
pub struct PlainFrame {
    /// One piece a place, in the order of the frame.
    pub pieces: Vec<PlainPiece>,
    /// No frame of the same range follows: what was gathered is to be written now.
    pub last_of_range: bool,
}

/// One piece of one file.
pub struct PlainPiece {
    /// The file.
    pub file: Arc<PlannedFile>,
    /// Where the bytes go in it.
    pub file_offset: u64,
    /// A slice of the plain frame, which keeps its memory counted; or why there is none.
    pub bytes: Result<Bytes, Lost>,
}

impl Weigh for PlainFrame {
    fn weight_bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.bytes.as_ref().map_or(0, Bytes::len)).sum()
    }
}
