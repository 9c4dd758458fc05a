//! What travels between the actors of a backup, named as things, in the order of the data path:
//!
//! ```text
//! scanner ─Work▶ chunker ─CutBuffer▶ deduplicator ─NewChunks▶ compressor ─PackPart▶ uploader
//!    └──────────Recorded────────▶ recorder ◀─Recorded─┘           ▲
//!                                     └───────NewChunks (pages)───┘
//! ```
//!
//! `Work` and `Recorded` cross shards; everything else stays on the shard that read the bytes.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use mover_repository::ids::ChunkId;
use mover_repository::limits::EXTENT_BYTES;
use mover_repository::manifest::{Content, Entry, Page, Piece};
use mover_repository::pack::{PackClass, PackContents};

use crate::backup::buffers::ReadBuffer;
use crate::backup::report::Problem;
use crate::runtime::{Permit, Weigh};
use crate::source::{Attributes, SourceError, SourceFile, Stat};

/// One entry of the source that has to be read: content, or attributes alone.
#[derive(Debug)]
pub struct FileTask {
    /// Place in path order within the fileset; the recorder emits by it.
    pub sequence: u64,
    /// Path below the fileset's root.
    pub path: Vec<u8>,
    /// As the scanner, or the last failed attempt, saw it.
    pub stat: Stat,
    /// 0 at first; a file that changed while it was read comes again.
    pub attempt: u8,
    /// Content in the parent, when the file is read only to audit that it has not changed.
    pub audit: Option<Content>,
}

impl FileTask {
    /// The same task, to be read once more.
    pub fn renewed(&self) -> Self {
        Self { path: self.path.clone(), audit: self.audit.clone(), ..*self }
    }
}

/// A file that is read by extents, possibly on several shards at once.
pub struct LargeFile {
    /// What to read.
    pub task: FileTask,
    /// Open for as long as an extent of it is under way.
    pub handle: Arc<dyn SourceFile>,
    /// Number of extents by the size at the time of the scan; none for a stream.
    pub extents: Option<u32>,
}

/// A unit of parallel work, handed from the scanner to whichever shard is free.
pub enum Work {
    /// Small files and entries without content: one call of the source, one read buffer.
    Batch(Vec<FileTask>),
    /// Bytes `number * EXTENT_BYTES ..` of a large file, [`EXTENT_BYTES`] of them.
    Extent {
        /// Which file.
        file: Arc<LargeFile>,
        /// Which extent of it.
        number: u32,
    },
    /// A file of unknown length, read once from front to back.
    Stream(Arc<LargeFile>),
}

/// Consecutive pieces of what a part of a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CutSpan {
    /// One chunk: where its bytes are in the buffer.
    Chunk(Range<usize>),
    /// A hole of so many bytes.
    Hole(u64),
}

/// Which part of which file a run of pieces is.
#[allow(clippy::large_enum_variant, reason = "nearly all are whole files, and a box would be an allocation a file")]
pub enum PartOf {
    /// All of it.
    Whole(FileTask),
    /// One extent.
    Extent {
        /// Which file.
        file: Arc<LargeFile>,
        /// Which extent.
        number: u32,
        /// True for the last extent of a stream, whose length nobody knew.
        last: bool,
    },
}

/// What the source said after the last byte of a part.
#[derive(Debug)]
pub struct AfterRead {
    /// Taken after the read: equal to the task's stat if nothing moved.
    pub stat: Stat,
    /// Extended attributes and link target; for a large file only with its first extent.
    pub attributes: Option<Attributes>,
    /// True if it was seen to change between two extents, even if it changed back.
    pub moved: bool,
}

/// The last piece of a part is in this buffer.
pub struct PartEnd {
    /// Which part ends.
    pub of: PartOf,
    /// How the read went.
    pub outcome: Result<AfterRead, SourceError>,
}

/// Pieces of one part in one buffer. A part that is longer than a buffer goes on in the next one
/// of the same lane.
pub struct CutPart {
    /// In file order.
    pub spans: Vec<CutSpan>,
    /// Present where the part ends.
    pub end: Option<PartEnd>,
}

/// A buffer, read and cut, on its way to be hashed.
pub struct CutBuffer {
    /// Which chunker of the shard sends it; parts of different lanes interleave.
    pub lane: usize,
    /// The bytes that the spans point into.
    pub data: Arc<ReadBuffer>,
    /// In lane order.
    pub parts: Vec<CutPart>,
}

impl Weigh for CutBuffer {
    fn weight_bytes(&self) -> usize {
        self.data.capacity()
    }
}

/// Chunks that the repository lacks.
pub enum NewChunks {
    /// Of a file.
    Data {
        /// Holds the plain bytes.
        data: Arc<ReadBuffer>,
        /// Name and place in the buffer of each.
        chunks: Vec<(ChunkId, Range<usize>)>,
    },
    /// A page of the manifest.
    Page(Page),
}

impl Weigh for NewChunks {
    fn weight_bytes(&self) -> usize {
        match self {
            NewChunks::Data { chunks, .. } => chunks.iter().map(|(_, range)| range.len()).sum(),
            NewChunks::Page(page) => page.bytes.len(),
        }
    }
}

/// A piece of a pack, in the order in which the pack is written.
pub enum PackPart {
    /// A new pack begins.
    Open {
        /// Which of the shard's two open packs.
        class: PackClass,
        /// Object name.
        name: String,
        /// Plain header.
        header: Bytes,
    },
    /// One sealed frame.
    Frame {
        /// Which of the shard's two open packs.
        class: PackClass,
        /// As stored.
        bytes: Bytes,
        /// Held until the bytes are written.
        permit: Permit,
    },
    /// The pack ends.
    Close {
        /// Which of the shard's two open packs.
        class: PackClass,
        /// Sealed table of contents and trailer.
        tail: Bytes,
        /// What the table of contents says, for the index.
        contents: PackContents,
    },
}

impl Weigh for PackPart {
    fn weight_bytes(&self) -> usize {
        match self {
            PackPart::Open { header, .. } => header.len(),
            PackPart::Frame { bytes, .. } => bytes.len(),
            PackPart::Close { tail, .. } => tail.len(),
        }
    }
}

/// One part of a file, hashed.
pub struct PartRecord {
    /// Which part.
    pub of: PartOf,
    /// Its content in order.
    pub pieces: Vec<Piece>,
    /// How the read went.
    pub outcome: Result<AfterRead, SourceError>,
}

/// What the recorder learns.
pub enum Recorded {
    /// Entries that need no reading: reused from the parent, or complete as listed.
    Entries(Vec<(u64, Entry)>),
    /// A further name of a file whose first name has a lower sequence.
    Link {
        /// The task to run instead if the first name could not be read.
        task: FileTask,
        /// Sequence of the first name.
        first_sequence: u64,
        /// Path of the first name.
        first: Vec<u8>,
    },
    /// Parts of files, from a deduplicator.
    Parts(Vec<PartRecord>),
    /// An entry that was handed out, or would have been, and cannot be read.
    Unread {
        /// Which.
        task: FileTask,
        /// Why.
        error: SourceError,
    },
    /// The entry with this sequence is not in the manifest.
    Missing(u64, Problem),
}

impl Weigh for Recorded {
    fn weight_bytes(&self) -> usize {
        let pieces = |pieces: usize| 64 + pieces * size_of::<Piece>();
        match self {
            Recorded::Entries(entries) => entries.iter().map(|(_, entry)| entry_weight(entry)).sum(),
            Recorded::Link { task, first, .. } => 256 + task.path.len() + first.len(),
            Recorded::Parts(parts) => parts.iter().map(|part| 256 + pieces(part.pieces.len())).sum(),
            Recorded::Unread { task, .. } => 512 + task.path.len(),
            Recorded::Missing(..) => 256,
        }
    }
}

/// Bytes of memory that an entry holds, near enough for bounds.
pub fn entry_weight(entry: &Entry) -> usize {
    let inline = match &entry.content {
        Content::Inline(pieces) => pieces.len() * size_of::<Piece>(),
        Content::Tree { .. } => 0,
    };
    let xattrs: usize = entry.meta.xattrs.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
    size_of::<Entry>() + entry.path.len() + inline + xattrs
}

/// Number of extents of a file of `bytes` bytes.
pub fn extents_of(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(EXTENT_BYTES)).expect("a file is shorter than 2^58 bytes")
}
