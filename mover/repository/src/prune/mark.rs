//! Marks what live recovery points need: the ids of their chunks and of all their manifest pages.
//!
//! Needs no read key: the structure half of a manifest names everything. Pages that points share are read
//! once. A page that cannot be read ends the marking: what lies below is unknown, and nothing may be
//! condemned. Memory: one id a page, and what the sorter holds. Blocks.

use hashbrown::HashSet;

use crate::blocking::block_on;
use crate::chunk_reader::{ChunkReader, PAGES_AHEAD};
use crate::error::{RepositoryError, Result};
use crate::ids::ChunkId;
use crate::log::RecoveryPoint;
use crate::manifest::{Content, ListPage, Piece, decode_structure_page, read_inner};

/// Visits everything that points need.
pub(crate) struct Marker<'a, F> {
    chunks: &'a ChunkReader,
    /// Pages that were visited.
    visited: HashSet<ChunkId>,
    visit: F,
}

impl<'a, F: FnMut(ChunkId) -> Result<()>> Marker<'a, F> {
    pub(crate) fn new(chunks: &'a ChunkReader, visit: F) -> Self {
        Self::after(chunks, HashSet::new(), visit)
    }

    /// A marker that passes over pages, and what lies below them, which an earlier one has visited.
    pub(crate) fn after(chunks: &'a ChunkReader, visited: HashSet<ChunkId>, visit: F) -> Self {
        Marker { chunks, visited, visit }
    }

    /// The pages that were visited.
    pub(crate) fn into_visited(self) -> HashSet<ChunkId> {
        self.visited
    }

    /// Visits every chunk and page of a point, some of them more than once.
    ///
    /// # Errors
    /// A page that cannot be read; what `visit` gives.
    pub(crate) fn point(&mut self, point: &RecoveryPoint) -> Result<()> {
        point.filesets.iter().try_for_each(|fileset| self.inner(&fileset.root.structure, fileset.root.levels))
    }

    /// True the first time; then the page has to be read.
    fn page(&mut self, id: &ChunkId) -> Result<bool> {
        if !self.visited.insert(*id) {
            return Ok(false);
        }
        (self.visit)(*id).map(|()| true)
    }

    fn inner(&mut self, id: &ChunkId, level: u8) -> Result<()> {
        if !self.page(id)? {
            return Ok(());
        }
        let page = block_on(read_inner(self.chunks, id, level))?;
        for children in page.children.chunks(PAGES_AHEAD) {
            self.read_ahead(children.iter().map(|child| child.structure));
            for child in children {
                if level > 1 {
                    self.inner(&child.structure, level - 1)?;
                    continue;
                }
                (self.visit)(child.names)?;
                self.leaf(&child.structure)?;
            }
        }
        Ok(())
    }

    fn read_ahead(&self, pages: impl Iterator<Item = ChunkId>) {
        block_on(self.chunks.read_ahead(pages.filter(|id| !self.visited.contains(id))));
    }

    fn leaf(&mut self, id: &ChunkId) -> Result<()> {
        if !self.page(id)? {
            return Ok(());
        }
        let bytes = block_on(self.chunks.read(id))?;
        let contents =
            decode_structure_page(&bytes).map_err(|error| RepositoryError::corrupt(format!("page {id}"), error))?;
        for content in &contents {
            match content {
                Content::Inline(pieces) => self.pieces(pieces)?,
                Content::Tree { root, levels, .. } => self.list(root, *levels)?,
            }
        }
        Ok(())
    }

    fn list(&mut self, id: &ChunkId, level: u8) -> Result<()> {
        if !self.page(id)? {
            return Ok(());
        }
        let bytes = block_on(self.chunks.read(id))?;
        let page =
            ListPage::decode(&bytes, level).map_err(|error| RepositoryError::corrupt(format!("page {id}"), error))?;
        match page {
            ListPage::Pieces(pieces) => self.pieces(&pieces),
            ListPage::Children(children) => children.chunks(PAGES_AHEAD).try_for_each(|children| {
                self.read_ahead(children.iter().map(|child| child.id));
                children.iter().try_for_each(|child| self.list(&child.id, level - 1))
            }),
        }
    }

    fn pieces(&mut self, pieces: &[Piece]) -> Result<()> {
        for piece in pieces {
            if let Piece::Chunk { id, .. } = piece {
                (self.visit)(*id)?;
            }
        }
        Ok(())
    }
}
