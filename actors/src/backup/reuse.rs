//! Whether the repository still has all of a file's content.
//!
//! Asked before an unchanged file is taken over unread: every chunk of it, and every page of its
//! chunk list, must be in the index of this run. A chunk that is marked hurt, or whose pack is
//! condemned, counts as absent there, so the file is read and heals what was lost.

use std::sync::Arc;

use mover_repository::chunk_reader::ChunkReader;
use mover_repository::ids::ChunkId;
use mover_repository::index::Index;
use mover_repository::manifest::{Content, ContentReader, Piece};

use crate::error::Failure;

/// True if all of `content` can be read from packs that the index names.
pub async fn is_stored(index: &Index, chunks: &Arc<ChunkReader>, content: &Content) -> Result<bool, Failure> {
    match content {
        Content::Inline(pieces) => {
            for piece in pieces {
                if !is_piece_stored(index, piece).await? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Content::Tree { root, .. } => {
            if !is_chunk_stored(index, root).await? {
                return Ok(false);
            }
            let mut reader = ContentReader::new(chunks.clone(), content);
            loop {
                match reader.next().await {
                    Ok(Some(piece)) if is_piece_stored(index, &piece).await? => {}
                    Ok(None) => return Ok(true),
                    // A list page that is gone or damaged is a reason to read the file, not to fail.
                    Ok(Some(_)) | Err(_) => return Ok(false),
                }
            }
        }
    }
}

async fn is_piece_stored(index: &Index, piece: &Piece) -> Result<bool, Failure> {
    match piece {
        Piece::Hole { .. } => Ok(true),
        Piece::Chunk { id, .. } => is_chunk_stored(index, id).await,
    }
}

async fn is_chunk_stored(index: &Index, id: &ChunkId) -> Result<bool, Failure> {
    match index.contains_now(id) {
        Some(known) => Ok(known),
        None => Ok(index.lookup(id).await?.is_some()),
    }
}
