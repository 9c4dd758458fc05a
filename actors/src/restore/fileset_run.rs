//! The state of one fileset while it is planned.
//!
//! Limits: one batch of entries, one file that is longer than its window, and one name for each hard-linked file whose
//! first name was not selected (only with `--path`). On the planner's shard.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use mover_repository::Result;
use mover_repository::chunk_reader::ChunkReader;
use mover_repository::ids::ChunkId;
use mover_repository::index::{Index, Location};
use mover_repository::log::Grade;
use mover_repository::manifest::{Content, ContentReader, Entry, ManifestReader, ManifestRoot, Piece, is_within};

use crate::restore::closing::ClosingList;
use crate::restore::items::Item;
use crate::restore::planned_file::PlannedFile;
use crate::restore::selection::{Scope, target_path};
use crate::restore::walk::Walk;

/// A fileset on its way.
pub struct FilesetRun {
    /// The entries to come.
    pub walk: Walk,
    /// Where the fileset lands below the target.
    pub root: Vec<u8>,
    /// Entries that were read and are not planned.
    pub items: VecDeque<Item>,
    /// A part of the manifest could not be read.
    pub is_damaged: bool,
    /// A file that goes on in the next window.
    pub carry: Option<Carry>,
    /// Files without bytes to be read.
    pub empty: Vec<Arc<PlannedFile>>,
    /// What is done after the last file.
    pub closing: ClosingList,
    chunks: Arc<ChunkReader>,
    finder: ManifestReader,
    scope: Scope,
    /// First name, not selected → the name that was restored with the content instead.
    stand_ins: HashMap<Vec<u8>, Vec<u8>>,
}

/// What becomes of a further name of a file.
pub enum Planned {
    /// It is linked to this name below the target.
    Link(Vec<u8>),
    /// It is restored with the content: the first name was not selected.
    InsteadOfFirst(Entry),
}

impl FilesetRun {
    /// The run of a fileset that lands at `root`.
    pub fn new(
        chunks: &Arc<ChunkReader>,
        manifest: &ManifestRoot,
        scope: Scope,
        root: Vec<u8>,
        closing: ClosingList,
    ) -> Self {
        FilesetRun {
            walk: Walk::new(chunks, manifest, &scope),
            root,
            items: VecDeque::new(),
            is_damaged: false,
            carry: None,
            empty: Vec::new(),
            closing,
            chunks: chunks.clone(),
            finder: ManifestReader::new(chunks.clone(), *manifest),
            scope,
            stand_ins: HashMap::new(),
        }
    }

    /// What becomes of the name `path` of the file whose first name is `first` (inside the fileset).
    ///
    /// # Errors
    /// A sentence, if the first name is not in the manifest.
    pub async fn first_name(&mut self, first: &[u8], path: &[u8]) -> std::result::Result<Planned, String> {
        let is_selected = match &self.scope {
            Scope::All => true,
            Scope::Parts(parts) => parts.iter().any(|part| is_within(first, part)),
        };
        if is_selected {
            if self.is_damaged {
                // The first name may be on a page that was passed over; what lies there now is something else.
                self.first_entry(first).await?;
            }
            return Ok(Planned::Link(target_path(&self.root, first)));
        }
        if let Some(stand_in) = self.stand_ins.get(first) {
            return Ok(Planned::Link(stand_in.clone()));
        }
        let entry = self.first_entry(first).await?;
        self.stand_ins.insert(first.to_vec(), path.to_vec());
        Ok(Planned::InsteadOfFirst(entry))
    }

    async fn first_entry(&self, first: &[u8]) -> std::result::Result<Entry, String> {
        let entry = self.finder.find(first).await.map_err(|error| error.to_string())?;
        entry.ok_or_else(|| format!("its first name {} is not in the recovery point", String::from_utf8_lossy(first)))
    }

    /// The pieces of a file, and its size.
    ///
    /// # Errors
    /// If the list of its chunks cannot be read.
    pub async fn content_of(&self, entry: &Entry) -> Result<(Pieces, u64)> {
        let recorded_bytes = entry.meta.size;
        match &entry.content {
            Content::Inline(pieces) => {
                let bytes: u64 = pieces.iter().map(Piece::bytes).sum();
                // What a torn file holds need not be as long as its last stat said.
                let size = if entry.grade == Grade::Torn { bytes } else { recorded_bytes };
                Ok((Pieces::Inline(pieces.clone().into()), size))
            }
            tree => {
                let mut size = recorded_bytes;
                if entry.grade == Grade::Torn {
                    let mut reader = ContentReader::new(self.chunks.clone(), tree);
                    size = 0;
                    while let Some(piece) = reader.next().await? {
                        size += piece.bytes();
                    }
                }
                let mut reader = ContentReader::new(self.chunks.clone(), tree);
                let next = reader.next().await?;
                Ok((Pieces::Tree { reader: Box::new(reader), next }, size))
            }
        }
    }
}

/// The pieces of one file, in order.
pub enum Pieces {
    /// All of them.
    Inline(VecDeque<Piece>),
    /// Read page by page, one piece ahead.
    Tree {
        /// The pages.
        reader: Box<ContentReader>,
        /// The piece that comes next.
        next: Option<Piece>,
    },
}

/// A file whose pieces are being planned.
pub struct Carry {
    /// The file.
    pub file: Arc<PlannedFile>,
    /// Its pieces from here on.
    pub pieces: Pieces,
    /// Where the next piece goes.
    pub offset: u64,
    /// One of the pieces that the file waits for is the end of its plan.
    pub has_token: bool,
}

impl Carry {
    /// True if pieces are left.
    pub fn has_more(&self) -> bool {
        match &self.pieces {
            Pieces::Inline(pieces) => !pieces.is_empty(),
            Pieces::Tree { next, .. } => next.is_some(),
        }
    }

    async fn next_piece(&mut self) -> Result<Option<Piece>> {
        match &mut self.pieces {
            Pieces::Inline(pieces) => Ok(pieces.pop_front()),
            Pieces::Tree { reader, next } => {
                let piece = next.take();
                if piece.is_some() {
                    *next = reader.next().await?;
                }
                Ok(piece)
            }
        }
    }

    /// The next chunk with its place in the repository and in the file; holes are passed over. `None` at the end.
    ///
    /// # Errors
    /// A sentence why the file cannot be restored.
    pub async fn next_place(&mut self, index: &Index) -> std::result::Result<Option<(ChunkId, Location, u64)>, String> {
        loop {
            let piece =
                self.next_piece().await.map_err(|error| format!("the list of its chunks cannot be read: {error}"))?;
            let Some(piece) = piece else {
                let (offset, size) = (self.offset, self.file.size);
                let cause = || format!("its chunks hold {offset} bytes, its entry says {size}");
                return if offset == size { Ok(None) } else { Err(cause()) };
            };
            let offset = self.offset;
            self.offset += piece.bytes();
            let Piece::Chunk { id, bytes } = piece else { continue };
            let location =
                index.lookup(&id).await.map_err(|error| format!("chunk {id} cannot be looked up: {error}"))?;
            let location = location.ok_or_else(|| format!("chunk {id} is in no pack that the index knows"))?;
            if location.chunk_bytes != bytes {
                return Err(format!(
                    "chunk {id} has {} bytes in the index and {bytes} in the manifest",
                    location.chunk_bytes
                ));
            }
            return Ok(Some((id, location, offset)));
        }
    }
}
