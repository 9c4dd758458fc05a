//! An older point that is in both repositories: what it says of the ids of a file's chunks.
//!
//! Where the id secrets differ, the id of a chunk in TO shows only from its bytes; all of FROM would be read for every
//! point. But the manifests of a point that was copied before name the same chunks in the same order, by their ids here
//! and there. Walked beside the manifest of the point that is copied now, they give the ids of whatever is still at its
//! path and its offset. Advice: where it is of no use, chunks are read, and TO's index is asked for each id all the same.
//!
//! Counts only if this key or an admin signed the point's record in TO: whoever else may add could name other chunks.
//! Needs no read key of TO. Memory: a few pages.

use std::cmp::Ordering;
use std::sync::Arc;

use super::Job;
use super::window::Window;
use crate::blocking::block_on;
use crate::chunk_reader::ChunkReader;
use crate::error::Result;
use crate::log::{History, RecoveryPoint};
use crate::manifest::{Content, ContentReader, Entry, ManifestReader, Piece, StructureReader, path_cmp};

/// Decoded pages of TO that are kept.
const TO_PAGES_BYTES: usize = 4 << 20;

/// See the module.
pub(super) struct Reference {
    from: RecoveryPoint,
    to: RecoveryPoint,
    from_chunks: Arc<ChunkReader>,
    to_chunks: Arc<ChunkReader>,
    walk: Option<Walk>,
}

/// Both manifests of one fileset.
struct Walk {
    from: ManifestReader,
    to: StructureReader,
    /// The entry that was read last, and its content in TO.
    at: Option<(Entry, Content)>,
    /// Both contents of the file that is looked at, and how far they were read.
    pieces: Option<(ContentReader, ContentReader, u64)>,
}

impl Reference {
    /// The newest point of the same set that both histories have.
    pub(super) fn find(job: &Job<'_>, from: &History, to: &History, point: &RecoveryPoint) -> Option<Self> {
        let secrets = job.to.secrets();
        let is_trusted = |number| {
            to.entry(number).is_some_and(|entry| {
                entry.signer == secrets.signing().verifying_key() || secrets.is_admin_key(&entry.signer)
            })
        };
        let in_to = to.points().filter(|(number, other)| other.set == point.set && is_trusted(*number));
        let (here, there) = in_to.rev().find_map(|(_, there)| {
            let (_, here) = from.points().find(|(_, here)| here.id == there.id)?;
            (here.filesets.len() == there.filesets.len()).then_some((here, there))
        })?;
        Some(Self {
            from: here.clone(),
            to: there.clone(),
            from_chunks: Arc::clone(&job.from_chunks),
            to_chunks: Arc::new(ChunkReader::new(job.to, Arc::clone(&job.to_index), TO_PAGES_BYTES)),
            walk: None,
        })
    }

    /// Begins with the fileset of that root path, if there is one.
    pub(super) fn begin(&mut self, root_path: &[u8]) {
        let at = self.from.filesets.iter().position(|fileset| fileset.root_path == root_path);
        self.walk = at.map(|at| Walk {
            from: ManifestReader::new(Arc::clone(&self.from_chunks), self.from.filesets[at].root),
            to: StructureReader::new(Arc::clone(&self.to_chunks), self.to.filesets[at].root),
            at: None,
            pieces: None,
        });
    }

    /// Goes to the entry at `path`; the calls come in path order.
    pub(super) fn seek(&mut self, path: &[u8]) {
        let Some(walk) = &mut self.walk else { return };
        if walk.seek(path).is_err() {
            self.walk = None;
            return;
        }
        let Some(walk) = &mut self.walk else { return };
        walk.pieces = walk.at.as_ref().filter(|(entry, _)| entry.path == path).map(|(entry, there)| {
            let here = ContentReader::new(Arc::clone(&self.from_chunks), &entry.content);
            (here, ContentReader::new(Arc::clone(&self.to_chunks), there), 0)
        });
    }

    /// Tells `window` of the chunks of that file before byte `end`.
    pub(super) fn tell(&mut self, end: u64, window: &mut Window<'_>) {
        let Some(walk) = &mut self.walk else { return };
        let Some((here, there, offset)) = &mut walk.pieces else { return };
        while *offset < end {
            match (block_on(here.next()), block_on(there.next())) {
                (Ok(Some(a)), Ok(Some(b))) if a.bytes() == b.bytes() => {
                    *offset += a.bytes();
                    if let (Piece::Chunk { id, .. }, Piece::Chunk { id: id_there, .. }) = (a, b) {
                        window.learn(id, id_there);
                    }
                }
                _ => {
                    walk.pieces = None;
                    return;
                }
            }
        }
    }
}

impl Walk {
    fn seek(&mut self, path: &[u8]) -> Result<()> {
        while self.at.as_ref().is_none_or(|(entry, _)| path_cmp(&entry.path, path) == Ordering::Less) {
            let (entry, content) = (block_on(self.from.next())?, block_on(self.to.next())?);
            self.at = entry.zip(content);
            if self.at.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }
}
