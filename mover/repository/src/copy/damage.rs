//! What cannot be read of a point in FROM, and the files that it costs.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::blocking::block_on;
use crate::chunk_reader::ChunkReader;
use crate::error::{RepositoryError, Result};
use crate::ids::ChunkId;
use crate::log::{RecoveryPoint, SealedFileset};
use crate::manifest::{Content, ContentReader, ManifestReader, Piece};
use crate::verify::{HurtFile, LISTED_MAX};

/// Chunks after which the rest of a point is not looked at: a store that is gone would else be asked for each.
const CHUNKS_MAX: usize = 1000;

/// Chunks and pages that cannot be read from any place.
#[derive(Debug, Default)]
pub(super) struct Damage {
    chunks: HashMap<ChunkId, String>,
    /// What is wrong and no chunk's own.
    other: Vec<String>,
}

impl Damage {
    pub(super) fn add(&mut self, id: ChunkId, error: &RepositoryError) {
        self.chunks.insert(id, error.to_string());
    }

    pub(super) fn note(&mut self, error: &RepositoryError) {
        self.other.push(error.to_string());
    }

    pub(super) fn contains(&self, id: &ChunkId) -> bool {
        self.chunks.contains_key(id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.other.is_empty()
    }

    /// True if looking on is of no use.
    pub(super) fn is_large(&self) -> bool {
        self.chunks.len() >= CHUNKS_MAX
    }

    /// The files of `point` that it costs; at least one, if it cannot be said which.
    pub(super) fn files(&self, chunks: &Arc<ChunkReader>, point: &RecoveryPoint) -> Vec<HurtFile> {
        let mut files = Vec::new();
        for fileset in &point.filesets {
            let mut path = Vec::new();
            if let Err(error) = self.files_of(chunks, point, fileset, &mut path, &mut files) {
                let reason = format!("all entries from here on: a manifest page is lost: {error}");
                files.push(hurt(point, fileset, &path, reason));
            }
        }
        if let (true, Some(fileset)) = (files.is_empty(), point.filesets.first()) {
            let reason = self.other.iter().chain(self.chunks.values()).next().cloned().unwrap_or_default();
            files.push(hurt(point, fileset, b"", reason));
        }
        files.truncate(LISTED_MAX);
        files
    }

    fn files_of(
        &self,
        chunks: &Arc<ChunkReader>,
        point: &RecoveryPoint,
        fileset: &SealedFileset,
        path: &mut Vec<u8>,
        files: &mut Vec<HurtFile>,
    ) -> Result<()> {
        let mut reader = ManifestReader::new(Arc::clone(chunks), fileset.root);
        while files.len() < LISTED_MAX
            && let Some(entry) = block_on(reader.next())?
        {
            let reason = self.reason(chunks, &entry.content).unwrap_or_else(|error| Some(error.to_string()));
            files.extend(reason.map(|reason| hurt(point, fileset, &entry.path, reason)));
            *path = entry.path;
        }
        Ok(())
    }

    fn reason(&self, chunks: &Arc<ChunkReader>, content: &Content) -> Result<Option<String>> {
        let mut pieces = ContentReader::new(Arc::clone(chunks), content);
        while let Some(piece) = block_on(pieces.next())? {
            if let Piece::Chunk { id, .. } = piece
                && let Some(reason) = self.chunks.get(&id)
            {
                return Ok(Some(format!("chunk {id}: {reason}")));
            }
        }
        Ok(None)
    }
}

fn hurt(point: &RecoveryPoint, fileset: &SealedFileset, path: &[u8], reason: String) -> HurtFile {
    HurtFile {
        set: point.set.clone(),
        point: point.id,
        root_path: fileset.root_path.clone(),
        path: path.to_vec(),
        reason,
    }
}
