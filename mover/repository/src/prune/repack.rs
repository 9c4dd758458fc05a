//! Copies what is live of half-dead packs into new ones.
//!
//! A frame that is wholly live is sealed anew as it was compressed; of another one the live chunks are hashed
//! again and make new frames in their order. A chunk with other bytes than its id, or a frame that does not
//! open, ends the repack of its pack: it stays where it is, and the damage is told. What was copied is durable,
//! and named in an index segment, before anybody learns of it. Memory of each
//! thread: a few runs of frames, read or to be written, and an index segment. Blocks.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use hashbrown::HashSet;

use super::survey::Place;
use crate::blocking::{block_on, side_by_side};
use crate::error::{RepositoryError, Result};
use crate::ids::{ChunkId, LogNumber};
use crate::pack::{FrameInfo, FrameRuns, PackClass, PackInfo, PackOpener, read_contents_of};
use crate::packer::Packer;
use crate::repository::Repository;

/// Bytes, as stored, for which another thread is worth the half-empty packs that it ends with.
const BYTES_A_THREAD: u64 = if cfg!(test) { 4 << 10 } else { 256 << 20 };

/// What came of copying packs.
#[derive(Default)]
pub(super) struct Repacked {
    /// Those of which all that is live was copied, ascending.
    pub(super) copied: Vec<usize>,
    /// Those that stay since something of them is not as it was stored: which, and what.
    pub(super) damaged: Vec<(usize, RepositoryError)>,
    /// Packs written.
    pub(super) packs: u64,
    /// Their bytes.
    pub(super) bytes: u64,
}

/// Copies the live chunks of `chosen` packs into new ones of `writer`, on all `threads` if they are many. `live` are the
/// places that are wanted. All is durable, by name and in the index, when this returns.
///
/// # Errors
/// Storage errors.
pub(super) fn repack(
    repository: &Repository,
    writer: LogNumber,
    packs: &[PackInfo],
    chosen: &[usize],
    live: &HashSet<Place>,
    threads: usize,
) -> Result<Repacked> {
    let bytes: u64 = chosen.iter().map(|at| packs[*at].bytes).sum();
    let threads = threads.min(1 + usize::try_from(bytes / BYTES_A_THREAD).unwrap_or(usize::MAX));
    let next = AtomicUsize::new(0);
    let work = || -> Result<Repacked> {
        // What is copied is there already: nothing is lost by a kill that a larger pack makes larger.
        let mut repacker = Repacker { repository, packer: Packer::new(repository, writer, u64::MAX)? };
        let mut done = Repacked::default();
        while let Some(&at) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            match repacker.copy(&packs[at], live, at as u32) {
                Ok(()) => done.copied.push(at),
                Err(error @ RepositoryError::Storage(_)) => {
                    next.store(chosen.len(), Ordering::Relaxed);
                    return Err(error);
                }
                Err(error) => done.damaged.push((at, error)),
            }
        }
        (done.packs, done.bytes) = repacker.packer.finish()?;
        Ok(done)
    };
    let mut sum = Repacked::default();
    for part in side_by_side(threads, work) {
        let part = part?;
        sum.copied.extend(part.copied);
        sum.damaged.extend(part.damaged);
        sum.packs += part.packs;
        sum.bytes += part.bytes;
    }
    sum.copied.sort_unstable();
    sum.damaged.sort_unstable_by_key(|(at, _)| *at);
    Ok(sum)
}

/// Copies packs on one thread.
struct Repacker<'a> {
    repository: &'a Repository,
    packer: Packer<'a>,
}

impl Repacker<'_> {
    /// Copies the live chunks of a pack. `is_live` tells them by frame and place in it.
    ///
    /// # Errors
    /// [`RepositoryError::Corrupt`] if something of it is not as it was stored: the pack must stay. Storage
    /// errors.
    fn copy(&mut self, info: &PackInfo, live: &HashSet<Place>, pack: u32) -> Result<()> {
        let contents = block_on(read_contents_of(self.repository, &info.object_name(), info.bytes))?;
        let opener = PackOpener::new(self.repository.secrets(), info)?;
        let live_in = |frame: &FrameInfo| -> Vec<bool> {
            let mut chunk_offset = 0;
            let is_live = |(_, chunk_bytes): &(ChunkId, u32)| {
                let place = Place {
                    pack,
                    frame: frame.number,
                    chunk_offset,
                    chunk_bytes: *chunk_bytes,
                    frame_offset: frame.offset,
                    frame_bytes: frame.sealed_bytes,
                };
                chunk_offset += chunk_bytes;
                live.contains(&place)
            };
            frame.chunks.iter().map(is_live).collect()
        };
        let live: Vec<Vec<bool>> = contents.frames.iter().map(live_in).collect();
        let wanted = contents.frames.iter().zip(&live).filter(|(_, live)| live.contains(&true));
        let (frames, live): (Vec<&FrameInfo>, Vec<&Vec<bool>>) = wanted.unzip();
        let mut live = live.into_iter();
        let name = info.object_name();
        for run in FrameRuns::new(self.repository.backend().as_ref(), &name, &frames) {
            for (frame, live) in run.frames.iter().zip(&mut live) {
                self.copy_frame(info.class, &opener, frame, live, run.sealed(frame)?)?;
            }
        }
        Ok(())
    }

    fn copy_frame(
        &mut self,
        class: PackClass,
        opener: &PackOpener,
        frame: &FrameInfo,
        live: &[bool],
        sealed: Bytes,
    ) -> Result<()> {
        if live.iter().all(|is_live| *is_live) {
            let compressed = opener.open_compressed(frame.number, sealed)?;
            let plain_bytes: u64 = frame.chunks.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
            if u64::from(compressed.plain_bytes()) != plain_bytes {
                return Err(RepositoryError::corrupt("a frame", "its chunks do not fill it"));
            }
            return self.packer.put_frame(class, compressed, &frame.chunks);
        }
        let plain = opener.open_frame_bytes(frame.number, sealed)?;
        let mut at = 0usize;
        for ((id, bytes), is_live) in frame.chunks.iter().zip(live) {
            let end = at + *bytes as usize;
            let chunk = plain.get(at..end).ok_or_else(|| RepositoryError::corrupt("a frame", "it is too short"))?;
            at = end;
            if !is_live {
                continue;
            }
            if self.repository.secrets().chunk_id(chunk) != *id {
                return Err(RepositoryError::corrupt("a frame", format!("chunk {id} has other bytes")));
            }
            self.packer.gather(class, *id, chunk)?;
        }
        Ok(())
    }
}
