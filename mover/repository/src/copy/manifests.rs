//! Builds the manifests of a point anew, around the ids of chunks in TO.
//!
//! Entry by entry everything stays as it was: attributes, grades, errors, hard links, holes, lengths of pieces and the
//! extents that share a list page. What differs are ids, keyed digests, and where leaves are cut. Entries and pieces
//! wait until the chunks of their window are in TO. Memory: a window of pieces, [`HELD_BYTES_MAX`] of entries, one id
//! a page.

use std::sync::Arc;

use hashbrown::HashSet;

use super::reference::Reference;
use super::window::Window;
use super::{Job, Trouble};
use crate::blocking::block_on;
use crate::error::{RepositoryError, Result as RepositoryResult};
use crate::ids::ChunkId;
use crate::log::{RecoveryPoint, SealedFileset};
use crate::manifest::{
    Content, ContentBuilder, Entry, ListPage, ManifestBuilder, ManifestReader, ManifestRoot, Page, Piece,
};
use crate::packer::Packer;

/// Paths, targets and extended attributes that wait, in bytes.
const HELD_BYTES_MAX: usize = 8 << 20;

/// What waits for the chunks of a window.
enum Item {
    /// Pieces that are one list page.
    Extent(Vec<Piece>),
    /// An entry, behind all extents of its content.
    Entry(Entry),
}

/// See the module.
pub(super) struct Rebuilder<'r, 'w> {
    job: &'r Job<'r>,
    window: &'r mut Window<'w>,
    reference: Option<Reference>,
    items: Vec<Item>,
    held_bytes: usize,
    /// The content whose extents come now.
    content: ContentBuilder,
    pages: Vec<Page>,
    /// Pages of this run.
    stored: HashSet<ChunkId>,
}

impl<'r, 'w> Rebuilder<'r, 'w> {
    pub(super) fn new(job: &'r Job<'r>, window: &'r mut Window<'w>, reference: Option<Reference>) -> Self {
        let content = ContentBuilder::new(job.to);
        let (items, pages, stored) = (Vec::new(), Vec::new(), HashSet::new());
        Self { job, window, reference, items, held_bytes: 0, content, pages, stored }
    }

    /// Copies all chunks of a point that TO lacks, and gives its filesets as they are there.
    pub(super) fn filesets(mut self, point: &RecoveryPoint) -> Result<Vec<SealedFileset>, Trouble> {
        let mut packer = self.job.packer().map_err(Trouble::Fatal)?;
        let mut filesets = Vec::with_capacity(point.filesets.len());
        for fileset in &point.filesets {
            if let Some(reference) = &mut self.reference {
                reference.begin(&fileset.root_path);
            }
            let root = self.manifest(&fileset.root, &mut packer)?;
            filesets.push(SealedFileset { root, ..fileset.clone() });
        }
        if !self.job.options.dry_run {
            let (_, bytes) = packer.finish().map_err(Trouble::Fatal)?;
            let stored = &self.job.options.counters.bytes_stored;
            stored.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(filesets)
    }

    fn manifest(&mut self, root: &ManifestRoot, packer: &mut Packer<'_>) -> Result<ManifestRoot, Trouble> {
        let mut builder = ManifestBuilder::new(self.job.to);
        let mut reader = ManifestReader::new(Arc::clone(&self.job.from_chunks), *root);
        while let Some(entry) = block_on(reader.next()).map_err(Trouble::Point)? {
            self.look_at(&entry, &mut builder, packer)?;
            self.held_bytes += held_bytes(&entry);
            self.items.push(Item::Entry(entry));
            if self.window.is_full() || self.held_bytes > HELD_BYTES_MAX {
                self.settle(&mut builder, packer)?;
            }
        }
        self.settle(&mut builder, packer)?;
        if self.job.options.dry_run || self.window.is_damaged() {
            return Ok(*root);
        }
        let built = builder.finish(&mut self.pages).map_err(Trouble::Fatal)?;
        self.store_pages(packer)?;
        match (built.entries, built.files, built.bytes) == (root.entries, root.files, root.bytes) {
            true => Ok(built),
            false => Err(Trouble::Point(RepositoryError::corrupt(
                format!("manifest page {}", root.structure),
                "its totals are not those of its entries",
            ))),
        }
    }

    /// Asks for the chunks of an entry; extents of a long list become items.
    fn look_at(
        &mut self,
        entry: &Entry,
        builder: &mut ManifestBuilder,
        packer: &mut Packer<'_>,
    ) -> Result<(), Trouble> {
        if let Some(reference) = &mut self.reference {
            reference.seek(&entry.path);
        }
        match &entry.content {
            Content::Inline(pieces) => {
                let mut end = 0;
                self.want(pieces, &mut end);
                Ok(())
            }
            Content::Tree { root, levels, .. } => self.list(root, *levels, &mut 0, builder, packer),
        }
    }

    fn list(
        &mut self,
        id: &ChunkId,
        level: u8,
        end: &mut u64,
        builder: &mut ManifestBuilder,
        packer: &mut Packer<'_>,
    ) -> Result<(), Trouble> {
        let page = read_list(self.job, id, level).map_err(Trouble::Point)?;
        match page {
            ListPage::Children(children) => {
                children.iter().try_for_each(|child| self.list(&child.id, level - 1, end, builder, packer))
            }
            ListPage::Pieces(pieces) => {
                self.want(&pieces, end);
                self.items.push(Item::Extent(pieces));
                if self.window.is_full() { self.settle(builder, packer) } else { Ok(()) }
            }
        }
    }

    /// Asks for chunks, after what the reference knows of them; `end` is how far the file has come.
    fn want(&mut self, pieces: &[Piece], end: &mut u64) {
        *end = pieces.iter().fold(*end, |sum, piece| sum.saturating_add(piece.bytes()));
        if let Some(reference) = &mut self.reference {
            reference.tell(*end, self.window);
        }
        for piece in pieces {
            if let Piece::Chunk { id, .. } = piece {
                self.window.want(*id);
            }
        }
    }

    /// Copies the window, and builds what has waited for it.
    fn settle(&mut self, builder: &mut ManifestBuilder, packer: &mut Packer<'_>) -> Result<(), Trouble> {
        self.window.copy()?;
        let items = std::mem::take(&mut self.items);
        self.held_bytes = 0;
        // Of a point that is damaged the rest is only looked at, so that all of the damage is told.
        if !self.job.options.dry_run && !self.window.is_damaged() {
            items.into_iter().try_for_each(|item| self.build(item, builder)).map_err(Trouble::Point)?;
            self.store_pages(packer)?;
        }
        self.window.begin();
        Ok(())
    }

    fn build(&mut self, item: Item, builder: &mut ManifestBuilder) -> RepositoryResult<()> {
        match item {
            Item::Extent(pieces) => {
                let pieces = self.translate(pieces)?;
                self.content.push_extent(pieces, &mut self.pages);
                Ok(())
            }
            Item::Entry(mut entry) => {
                entry.content = match entry.content {
                    Content::Inline(pieces) => Content::Inline(self.translate(pieces)?),
                    Content::Tree { root, pieces, .. } => {
                        let built = std::mem::replace(&mut self.content, ContentBuilder::new(self.job.to));
                        match built.finish(&mut self.pages) {
                            whole @ Content::Tree { pieces: count, .. } if count == pieces => whole,
                            _ => {
                                let object = format!("content list {root}");
                                return Err(RepositoryError::corrupt(object, "it has not as many pieces as it says"));
                            }
                        }
                    }
                };
                builder.push(entry, &mut self.pages)
            }
        }
    }

    fn translate(&self, pieces: Vec<Piece>) -> RepositoryResult<Vec<Piece>> {
        let translate = |piece| match piece {
            Piece::Chunk { id, bytes } => match self.window.resolved(&id) {
                Some(id) => Ok(Piece::Chunk { id, bytes }),
                None => Err(RepositoryError::MissingObject { object: format!("chunk {id}") }),
            },
            hole @ Piece::Hole { .. } => Ok(hole),
        };
        pieces.into_iter().map(translate).collect()
    }

    fn store_pages(&mut self, packer: &mut Packer<'_>) -> Result<(), Trouble> {
        for page in self.pages.drain(..) {
            if self.stored.insert(page.id) && !self.job.is_in_to(&page.id) {
                self.job.options.counters.count_chunk(page.bytes.len() as u32);
                packer.gather(page.class, page.id, &page.bytes).map_err(Trouble::Fatal)?;
            }
        }
        Ok(())
    }
}

fn read_list(job: &Job<'_>, id: &ChunkId, level: u8) -> RepositoryResult<ListPage> {
    let bytes = block_on(job.from_chunks.read(id))?;
    ListPage::decode(&bytes, level).map_err(|error| RepositoryError::corrupt(format!("list page {id}"), error))
}

/// About what an entry takes while it waits, its pieces aside.
fn held_bytes(entry: &Entry) -> usize {
    let xattrs: usize = entry.meta.xattrs.iter().map(|(name, value)| name.len() + value.len() + 64).sum();
    std::mem::size_of::<Entry>() + 2 * entry.path.len() + xattrs
}
