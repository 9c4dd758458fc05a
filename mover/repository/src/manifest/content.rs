//! Lists of pieces: inline while short, else a tree of list pages, one page an extent.
//!
//! The builder holds one page a level, the reader one page a level. Levels strictly fall on the way
//! down, so a crafted tree has no cycle. Runs on the caller's thread.

use std::sync::Arc;

use bytes::Bytes;

use crate::chunk_reader::ChunkReader;
use crate::error::{RepositoryError, Result};
use crate::ids::ChunkId;
use crate::limits::{INLINE_PIECES_MAX, PAGE_BYTES_MAX, PAGE_CHILDREN_MAX, PAGE_LEVELS_MAX};
use crate::manifest::entry::{Content, Piece};
use crate::manifest::page::{ListChild, ListPage, PAGE_HEADER_BYTES, PIECE_RECORD_BYTES_MAX, Page};
use crate::pack::PackClass;
use crate::repository::Repository;

/// Most pieces of one list page.
const LIST_PIECES_MAX: usize = (PAGE_BYTES_MAX - PAGE_HEADER_BYTES) / PIECE_RECORD_BYTES_MAX;

/// Builds the content of one file from its extents, in file order.
pub struct ContentBuilder {
    repository: Repository,
    /// Extents that are still few enough to stay inline.
    held: Vec<Vec<Piece>>,
    held_pieces: usize,
    /// Open inner list pages, level 2 first. Empty while the list may stay inline.
    levels: Vec<Vec<ListChild>>,
    pieces: u64,
}

impl ContentBuilder {
    /// An empty file.
    pub fn new(repository: &Repository) -> Self {
        ContentBuilder {
            repository: repository.clone(),
            held: Vec::new(),
            held_pieces: 0,
            levels: Vec::new(),
            pieces: 0,
        }
    }

    /// Adds the pieces of the next extent; pages that are complete go to `pages`.
    ///
    /// # Panics
    /// If a piece has no bytes.
    pub fn push_extent(&mut self, pieces: Vec<Piece>, pages: &mut Vec<Page>) {
        assert!(pieces.iter().all(|piece| piece.bytes() > 0), "a piece has bytes");
        if pieces.is_empty() {
            return;
        }
        self.pieces += pieces.len() as u64;
        if !self.levels.is_empty() {
            self.write_extent(&pieces, pages);
            return;
        }
        self.held_pieces += pieces.len();
        self.held.push(pieces);
        if self.held_pieces > INLINE_PIECES_MAX {
            self.levels.push(Vec::new());
            for extent in std::mem::take(&mut self.held) {
                self.write_extent(&extent, pages);
            }
        }
    }

    /// Ends the file.
    pub fn finish(mut self, pages: &mut Vec<Page>) -> Content {
        if self.levels.is_empty() {
            return Content::Inline(self.held.concat());
        }
        let mut at = 0;
        loop {
            let top = at + 1 == self.levels.len();
            if top && self.levels[at].len() == 1 {
                let root = self.levels[at][0].id;
                return Content::Tree { root, levels: at as u8 + 1, pieces: self.pieces };
            }
            if !self.levels[at].is_empty() {
                self.close_level(at, pages);
            }
            at += 1;
        }
    }

    fn write_extent(&mut self, pieces: &[Piece], pages: &mut Vec<Page>) {
        for part in pieces.chunks(LIST_PIECES_MAX) {
            let bytes = part.iter().map(Piece::bytes).sum();
            let id = self.emit(ListPage::encode_pieces(part), pages);
            self.add_child(0, ListChild { id, pieces: part.len() as u64, bytes }, pages);
        }
    }

    fn add_child(&mut self, at: usize, child: ListChild, pages: &mut Vec<Page>) {
        if self.levels.len() == at {
            assert!(at + 1 < usize::from(PAGE_LEVELS_MAX), "2^64 bytes need fewer levels");
            self.levels.push(Vec::new());
        }
        self.levels[at].push(child);
        if self.levels[at].len() == PAGE_CHILDREN_MAX {
            self.close_level(at, pages);
        }
    }

    fn close_level(&mut self, at: usize, pages: &mut Vec<Page>) {
        let children = std::mem::take(&mut self.levels[at]);
        let child = ListChild {
            id: self.emit(ListPage::encode_children(at as u8 + 2, &children), pages),
            pieces: children.iter().map(|child| child.pieces).sum(),
            bytes: children.iter().map(|child| child.bytes).sum(),
        };
        self.add_child(at + 1, child, pages);
    }

    fn emit(&self, bytes: Vec<u8>, pages: &mut Vec<Page>) -> ChunkId {
        let id = self.repository.secrets().chunk_id(&bytes);
        pages.push(Page { id, class: PackClass::Structure, bytes });
        id
    }
}

/// Streams the pieces of a content, page by page.
pub struct ContentReader {
    chunks: Arc<ChunkReader>,
    /// Pieces not yet given, last first.
    ready: Vec<Piece>,
    /// Pages not yet read with their level, last first.
    stack: Vec<(ListChild, u8)>,
    /// Pieces of the tree not yet given, to notice a list that is longer or shorter than promised.
    expected: u64,
}

impl ContentReader {
    /// Starts at the first piece.
    pub fn new(chunks: Arc<ChunkReader>, content: &Content) -> Self {
        let mut reader = ContentReader { chunks, ready: Vec::new(), stack: Vec::new(), expected: 0 };
        match content {
            Content::Inline(pieces) => {
                reader.ready.extend(pieces.iter().rev());
                reader.expected = pieces.len() as u64;
            }
            Content::Tree { root, levels, pieces } => {
                reader.stack.push((ListChild { id: *root, pieces: *pieces, bytes: u64::MAX }, *levels));
                reader.expected = *pieces;
            }
        }
        reader
    }

    /// The next piece in file order, `None` at the end. Reads at most one page a level.
    pub async fn next(&mut self) -> Result<Option<Piece>> {
        while self.ready.is_empty() {
            let Some((child, level)) = self.stack.pop() else {
                return if self.expected == 0 { Ok(None) } else { Err(corrupt("content list", "pieces are missing")) };
            };
            self.descend(child, level).await?;
        }
        self.expected = self.expected.checked_sub(1).ok_or_else(|| corrupt("content list", "too many pieces"))?;
        Ok(self.ready.pop())
    }

    /// Passes over whole subtrees before byte `offset` of the file without reading them, and
    /// returns where in the file the next piece starts: at or before `offset`. Only at the start.
    pub async fn seek(&mut self, offset: u64) -> Result<u64> {
        let mut at = 0u64;
        loop {
            while let Some(piece) = self.ready.last() {
                if at.saturating_add(piece.bytes()) > offset {
                    return Ok(at);
                }
                at += piece.bytes();
                self.ready.pop();
                self.expected = self.expected.saturating_sub(1);
            }
            let Some((child, level)) = self.stack.pop() else { return Ok(at) };
            if at.saturating_add(child.bytes) <= offset {
                at += child.bytes;
                self.expected = self.expected.saturating_sub(child.pieces);
                continue;
            }
            self.descend(child, level).await?;
        }
    }

    async fn descend(&mut self, child: ListChild, level: u8) -> Result<()> {
        let page: Bytes = self.chunks.read(&child.id).await?;
        let decoded =
            ListPage::decode(&page, level).map_err(|error| corrupt(&format!("list page {}", child.id), error))?;
        let (pieces, bytes) = match &decoded {
            ListPage::Pieces(list) => (list.len() as u64, sum(list.iter().map(Piece::bytes))),
            ListPage::Children(list) => {
                (sum(list.iter().map(|child| child.pieces)), sum(list.iter().map(|child| child.bytes)))
            }
        };
        if pieces != child.pieces || (child.bytes != u64::MAX && bytes != child.bytes) {
            return Err(corrupt(&format!("list page {}", child.id), "its totals are not what its parent says"));
        }
        match decoded {
            ListPage::Pieces(list) => self.ready.extend(list.into_iter().rev()),
            ListPage::Children(list) => self.stack.extend(list.into_iter().rev().map(|child| (child, level - 1))),
        }
        Ok(())
    }
}

fn sum(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::saturating_add)
}

fn corrupt(object: &str, reason: impl ToString) -> RepositoryError {
    RepositoryError::Corrupt { object: object.to_string(), reason: reason.to_string() }
}
