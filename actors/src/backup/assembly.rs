//! Assembly: the extents of one large file, arriving in any order, put together.
//!
//! Chunk lists leave for list pages as soon as they are next in order, so what is held is the few
//! extents that lanes have finished early. Owned by the recorder.

use std::collections::BTreeMap;
use std::sync::Arc;

use mover_repository::limits::EXTENT_BYTES;
use mover_repository::manifest::{Content, ContentBuilder, Page, Piece};
use mover_repository::repository::Repository;

use crate::backup::messages::{AfterRead, FileTask, LargeFile};
use crate::source::{Attributes, SourceError, Stat};

/// See the module.
pub struct Assembly {
    file: Arc<LargeFile>,
    builder: ContentBuilder,
    waiting: BTreeMap<u32, Vec<Piece>>,
    next: u32,
    /// Number of extents, once it is known.
    extents: Option<u32>,
    arrived: u32,
    bytes: u64,
    /// An extent was shorter than its place demands: what follows it is not part of the file.
    ended: bool,
    changed: bool,
    last_stat: Option<Stat>,
    attributes: Attributes,
    error: Option<SourceError>,
}

/// A large file, read.
pub struct Assembled {
    /// What was asked for.
    pub task: FileTask,
    /// Its content up to the first short extent.
    pub content: Content,
    /// Bytes of that content, holes included.
    pub bytes: u64,
    /// How the read went.
    pub outcome: Result<AfterRead, SourceError>,
}

impl Assembly {
    /// Nothing of `file` has arrived yet.
    pub fn new(repository: &Repository, file: Arc<LargeFile>) -> Self {
        let extents = file.extents;
        Self {
            file,
            builder: ContentBuilder::new(repository),
            waiting: BTreeMap::new(),
            next: 0,
            extents,
            arrived: 0,
            bytes: 0,
            ended: false,
            changed: false,
            last_stat: None,
            attributes: Attributes::default(),
            error: None,
        }
    }

    /// Takes one extent; list pages that it completes are appended to `pages`.
    pub fn add(
        &mut self,
        number: u32,
        last: bool,
        pieces: Vec<Piece>,
        outcome: Result<AfterRead, SourceError>,
        pages: &mut Vec<Page>,
    ) {
        self.arrived += 1;
        if last {
            self.extents = Some(number + 1);
        }
        match outcome {
            Ok(after) => {
                self.changed |= !self.file.task.stat.unchanged(&after.stat);
                self.last_stat = Some(after.stat);
                self.attributes = after.attributes.unwrap_or(std::mem::take(&mut self.attributes));
            }
            Err(error) => self.error = self.error.take().or(Some(error)),
        }
        self.waiting.insert(number, pieces);
        while let Some(pieces) = self.waiting.remove(&self.next) {
            self.next += 1;
            self.append(pieces, pages);
        }
    }

    fn append(&mut self, pieces: Vec<Piece>, pages: &mut Vec<Page>) {
        if self.ended {
            return;
        }
        let bytes: u64 = pieces.iter().map(piece_bytes).sum();
        self.bytes += bytes;
        self.ended = bytes < EXTENT_BYTES;
        self.builder.push_extent(pieces, pages);
    }

    /// True once every extent has arrived.
    pub fn is_complete(&self) -> bool {
        self.extents == Some(self.arrived)
    }

    /// The file as a whole.
    pub fn finish(self, pages: &mut Vec<Page>) -> Assembled {
        assert!(self.waiting.is_empty() && self.is_complete());
        let task = self.file.task.renewed();
        let content = self.builder.finish(pages);
        let stat = self.last_stat.unwrap_or(task.stat);
        let after = AfterRead { stat, attributes: Some(self.attributes), moved: self.changed };
        let outcome = self.error.map_or(Ok(after), Err);
        Assembled { task, content, bytes: self.bytes, outcome }
    }
}

/// Bytes of the file that a piece stands for.
pub fn piece_bytes(piece: &Piece) -> u64 {
    match *piece {
        Piece::Chunk { bytes, .. } => u64::from(bytes),
        Piece::Hole { bytes } => bytes,
    }
}
