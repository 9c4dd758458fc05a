//! Copies what is live of half-dead packs into new ones.
//!
//! A frame that is wholly live is sealed anew as it was compressed; of another one the live chunks are hashed
//! again and make new frames in their order. A chunk with other bytes than its id, or a frame that does not
//! open, ends the repack of its pack: it stays where it is, and the damage is told. What was copied is durable,
//! and named in an index segment, before anybody learns of it. Memory of each
//! thread: a few runs of frames, read or to be written, and an index segment. Blocks.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use hashbrown::HashSet;
use zstd::bulk::Compressor;

use super::survey::Place;
use crate::backend::{IoFuture, ObjectWriter};
use crate::blocking::{block_on, side_by_side};
use crate::error::{RepositoryError, Result};
use crate::ids::{ChunkId, LogNumber};
use crate::index::SegmentBuilder;
use crate::limits::{FRAME_PLAIN_BYTES_TARGET, PACK_BYTES_TARGET};
use crate::pack::{CompressedFrame, FrameInfo, FrameRuns, PackClass, PackInfo, PackOpener, PackSealer, read_contents};
use crate::repository::Repository;

/// Length at which an index segment is written; bounds the memory taken.
const SEGMENT_BYTES_TARGET: usize = 16 << 20;
/// Writes that are under way while frames are read and sealed; each is a frame, or the end of a pack, which syncs.
const WRITES_IN_FLIGHT: usize = 8;

/// zstd level of frames that are made anew, within what the repository allows: each level more costs a third of the speed
/// and more, and saves some percent of what little is framed anew.
const LEVEL: u8 = 3;
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
        let mut repacker = Repacker::new(repository, writer)?;
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
        (done.packs, done.bytes) = repacker.finish()?;
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

/// Writes new packs on one thread.
struct Repacker<'a> {
    repository: &'a Repository,
    writer: LogNumber,
    zstd: Compressor<'static>,
    open: [Option<OpenPack>; 2],
    index: SegmentBuilder,
    /// Appends and ends of packs that are under way.
    writes: VecDeque<IoFuture<()>>,
    packs: u64,
    bytes: u64,
}

struct OpenPack {
    sealer: PackSealer,
    /// Goes out with the first frame.
    header: Option<Bytes>,
    object: Box<dyn ObjectWriter>,
    /// Live chunks that wait for a frame.
    plain: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
}

impl<'a> Repacker<'a> {
    fn new(repository: &'a Repository, writer: LogNumber) -> Result<Self> {
        let levels = repository.config().compression;
        let zstd = Compressor::new(LEVEL.clamp(levels.level_min, levels.level_max).into())
            .map_err(|error| RepositoryError::LimitExceeded { what: format!("memory for zstd: {error}") })?;
        let index = SegmentBuilder::new(repository);
        let writes = VecDeque::new();
        Ok(Self { repository, writer, zstd, open: [None, None], index, writes, packs: 0, bytes: 0 })
    }

    /// Copies the live chunks of a pack. `is_live` tells them by frame and place in it.
    ///
    /// # Errors
    /// [`RepositoryError::Corrupt`] if something of it is not as it was stored: the pack must stay. Storage
    /// errors.
    fn copy(&mut self, info: &PackInfo, live: &HashSet<Place>, pack: u32) -> Result<()> {
        let contents = block_on(read_contents(self.repository, &info.object_name()))?;
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
            self.close_frame(class)?;
            return self.put(class, compressed, &frame.chunks);
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
            self.gather(class, *id, chunk)?;
        }
        Ok(())
    }

    fn gather(&mut self, class: PackClass, id: ChunkId, chunk: &[u8]) -> Result<()> {
        let is_full = |open: &OpenPack| open.plain.len() + chunk.len() > FRAME_PLAIN_BYTES_TARGET;
        if self.open[class as usize].as_ref().is_some_and(is_full) {
            self.close_frame(class)?;
        }
        let open = self.open_pack(class);
        open.plain.extend_from_slice(chunk);
        open.chunks.push((id, chunk.len() as u32));
        Ok(())
    }

    fn close_frame(&mut self, class: PackClass) -> Result<()> {
        let Some(open) = self.open[class as usize].as_mut().filter(|open| !open.chunks.is_empty()) else {
            return Ok(());
        };
        let (plain, chunks) = (std::mem::take(&mut open.plain), std::mem::take(&mut open.chunks));
        let compressed = CompressedFrame::of(&mut self.zstd, &plain).unwrap_or_else(|| CompressedFrame::raw(&plain));
        self.put(class, compressed, &chunks)
    }

    fn put(&mut self, class: PackClass, frame: CompressedFrame, chunks: &[(ChunkId, u32)]) -> Result<()> {
        let sealed_bytes = frame.sealed_bytes();
        let is_full = |open: &OpenPack| open.sealer.bytes() >= PACK_BYTES_TARGET || !open.sealer.has_room(sealed_bytes);
        if self.open[class as usize].as_ref().is_some_and(is_full) {
            self.close_pack(class)?;
        }
        let open = self.open_pack(class);
        let sealed = open.sealer.seal(frame, chunks);
        let parts = open.header.take().into_iter().chain([sealed]).collect();
        let write = open.object.append(parts);
        self.write_beside(write)
    }

    /// Has a write go on beside what follows, within bounds; what earlier ones met is told now.
    fn write_beside(&mut self, write: IoFuture<()>) -> Result<()> {
        self.writes.push_back(write);
        if self.writes.len() > WRITES_IN_FLIGHT {
            self.writes.pop_front().map_or(Ok(()), block_on)?;
        }
        Ok(())
    }

    fn open_pack(&mut self, class: PackClass) -> &mut OpenPack {
        let (repository, writer) = (self.repository, self.writer);
        self.open[class as usize].get_or_insert_with(|| {
            let sealer = PackSealer::open(repository, writer, class);
            let object = repository.backend().stream(&sealer.object_name());
            OpenPack { header: Some(sealer.header()), sealer, object, plain: Vec::new(), chunks: Vec::new() }
        })
    }

    fn close_pack(&mut self, class: PackClass) -> Result<()> {
        self.close_frame(class)?;
        let Some(mut open) = self.open[class as usize].take() else { return Ok(()) };
        let (tail, contents) = open.sealer.finish();
        let append = open.object.append(vec![tail]);
        self.write_beside(append)?;
        self.write_beside(open.object.finish())?;
        self.packs += 1;
        self.bytes += contents.bytes;
        self.index.add(&contents);
        if self.index.bytes() >= SEGMENT_BYTES_TARGET {
            self.write_segment()?;
        }
        Ok(())
    }

    /// Names the packs written so far, once they are durable.
    fn write_segment(&mut self) -> Result<()> {
        self.writes.drain(..).try_for_each(block_on)?;
        block_on(self.repository.backend().barrier())?;
        let full = std::mem::replace(&mut self.index, SegmentBuilder::new(self.repository));
        block_on(full.write()).map(drop)
    }

    /// Makes all of it durable, by name and in the index. Gives packs and bytes written.
    fn finish(mut self) -> Result<(u64, u64)> {
        self.close_pack(PackClass::Data)?;
        self.close_pack(PackClass::Structure)?;
        self.write_segment()?;
        Ok((self.packs, self.bytes))
    }
}
