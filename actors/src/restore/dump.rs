//! `dump`: the content of one file, in order, with many chunks in flight.
//!
//! Reading chunk after chunk would cost a round trip each (FAILURES F29), so up to [`AHEAD_CHUNKS_MAX`] chunks are read
//! ahead, and written in order. Limits: the memory given by the caller, or one chunk. Needs no runtime: any thread that
//! can poll a future.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use mover_repository::chunk_reader::ChunkReader;
use mover_repository::manifest::{ContentReader, Entry, Kind, ManifestReader, ManifestRoot, Piece};

use crate::error::Failure;

/// Chunks in flight.
pub const AHEAD_CHUNKS_MAX: usize = 64;
/// Zeros of a hole, written again and again.
const ZEROS: &[u8] = &[0; 64 << 10];

type ChunkFuture = Pin<Box<dyn Future<Output = mover_repository::Result<Bytes>>>>;

/// A piece on its way, in file order.
enum Ahead {
    Hole(u64),
    Reading { chunk: ChunkFuture, bytes: u64 },
    Read { bytes: mover_repository::Result<Bytes> },
}

/// Writes the content of the file `path` of a fileset in order and returns its length in bytes. A further name of a
/// file is followed to its first.
///
/// # Errors
/// If the path names no readable file, a chunk is lost, or `write` fails.
pub async fn dump_file(
    chunks: &Arc<ChunkReader>,
    manifest: &ManifestRoot,
    path: &[u8],
    memory_bytes: usize,
    write: impl AsyncFnMut(Bytes) -> io::Result<()>,
) -> Result<u64, Failure> {
    let shown = String::from_utf8_lossy(path).into_owned();
    let reader = ManifestReader::new(chunks.clone(), *manifest);
    let mut entry = reader.find(path).await?;
    if let Some(Entry { kind: Kind::HardLink { first }, .. }) = &entry {
        entry = reader.find(first).await?;
    }
    let Some(entry) = entry else {
        return Err(Failure::control("dump", shown, "no such path in the recovery point")
            .with_guidance("`mover ls` shows what is in the recovery point"));
    };
    if entry.kind != Kind::File {
        return Err(Failure::control("dump", shown, "it is not a regular file"));
    }
    if entry.error {
        return Err(Failure::source("dump", shown, "it could not be read when it was backed up"));
    }
    dump_content(chunks, &entry, memory_bytes, write).await
}

/// Writes the content of `entry` in order; see [`dump_file`].
///
/// # Errors
/// If a chunk is lost or `write` fails.
pub async fn dump_content(
    chunks: &Arc<ChunkReader>,
    entry: &Entry,
    memory_bytes: usize,
    mut write: impl AsyncFnMut(Bytes) -> io::Result<()>,
) -> Result<u64, Failure> {
    let shown = String::from_utf8_lossy(&entry.path).into_owned();
    let mut pieces = ContentReader::new(chunks.clone(), &entry.content);
    let mut ahead: VecDeque<Ahead> = VecDeque::new();
    let mut ahead_bytes = 0;
    let mut written_bytes = 0;
    let mut ended = false;
    loop {
        while !ended && ahead.len() < AHEAD_CHUNKS_MAX && (ahead.is_empty() || ahead_bytes < memory_bytes as u64) {
            match pieces.next().await? {
                None => ended = true,
                Some(Piece::Hole { bytes }) => ahead.push_back(Ahead::Hole(bytes)),
                Some(Piece::Chunk { id, bytes }) => {
                    let chunks = chunks.clone();
                    let chunk: ChunkFuture = Box::pin(async move { chunks.read(&id).await });
                    ahead_bytes += u64::from(bytes);
                    ahead.push_back(Ahead::Reading { chunk, bytes: u64::from(bytes) });
                }
            }
        }
        match next_piece(&mut ahead, &mut ahead_bytes).await {
            None if written_bytes == entry.meta.size || entry.grade == mover_repository::log::Grade::Torn => {
                return Ok(written_bytes);
            }
            None => {
                let cause = format!("its chunks hold {written_bytes} bytes, its entry says {}", entry.meta.size);
                return Err(Failure::repository("dump", shown, cause));
            }
            Some(Ahead::Hole(bytes)) => {
                written_bytes += bytes;
                let mut left_bytes = bytes;
                while left_bytes > 0 {
                    let zeros = Bytes::from_static(&ZEROS[..left_bytes.min(ZEROS.len() as u64) as usize]);
                    left_bytes -= zeros.len() as u64;
                    write(zeros).await.map_err(|error| Failure::source("write the output of", &shown, error))?;
                }
            }
            Some(Ahead::Read { bytes }) => {
                let bytes = bytes?;
                written_bytes += bytes.len() as u64;
                write(bytes).await.map_err(|error| Failure::source("write the output of", &shown, error))?;
            }
            Some(Ahead::Reading { .. }) => unreachable!("the first piece is read before it is taken"),
        }
    }
}

/// Moves all reads on, and takes the first piece once it is there. `None` if there is none.
async fn next_piece(ahead: &mut VecDeque<Ahead>, ahead_bytes: &mut u64) -> Option<Ahead> {
    poll_fn(|cx| {
        for piece in ahead.iter_mut() {
            if let Ahead::Reading { chunk, bytes } = piece
                && let Poll::Ready(read) = chunk.as_mut().poll(cx)
            {
                *ahead_bytes -= *bytes;
                *piece = Ahead::Read { bytes: read };
            }
        }
        match ahead.front() {
            Some(Ahead::Reading { .. }) => Poll::Pending,
            _ => Poll::Ready(ahead.pop_front()),
        }
    })
    .await
}
