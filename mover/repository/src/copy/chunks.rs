//! Copies chunks of one window: pack by pack, the frames front to back, on some threads.
//!
//! Each thread reads runs of neighbouring frames ahead, opens and decodes them, hashes every wanted chunk, and seals what
//! TO lacks into packs of its own. A chunk that is not as it should be is looked for in all its places. All is durable
//! and in TO's index when this returns. Memory of a thread: a few runs of frames, and what a [`Packer`] holds. Blocks.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{CopyCounters, Job};
use crate::blocking::{block_on, side_by_side};
use crate::error::{RepositoryError, Result};
use crate::ids::ChunkId;
use crate::index::Location;
use crate::pack::{CompressedFrame, FrameRuns, Framed, PackClass, PackOpener};
use crate::packer::Packer;

/// Bytes, as stored, for which another thread is worth the half-empty packs that it ends with.
const BYTES_A_THREAD: u64 = if cfg!(test) { 256 << 10 } else { 64 << 20 };

/// A chunk that TO may lack, and where FROM has it.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) id: ChunkId,
    pub(super) location: Location,
}

/// What came of a window.
#[derive(Default)]
pub(super) struct Copied {
    /// Ids in FROM and in TO, where these differ.
    pub(super) ids: Vec<(ChunkId, ChunkId)>,
    /// Chunks that cannot be read from any place.
    pub(super) damaged: Vec<(ChunkId, RepositoryError)>,
}

/// The wanted chunks of one frame.
struct WantedFrame<'w>(&'w [Wanted]);

impl WantedFrame<'_> {
    fn location(&self) -> &Location {
        &self.0[0].location
    }
}

impl Framed for WantedFrame<'_> {
    fn span(&self) -> std::ops::Range<u64> {
        let from = u64::from(self.location().frame_offset);
        from..from + u64::from(self.location().frame_bytes)
    }
}

impl CopyCounters {
    pub(super) fn count_chunk(&self, bytes: u32) {
        self.chunks.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(u64::from(bytes), Ordering::Relaxed);
    }
}

/// Copies `wanted`, which is sorted by location.
///
/// # Errors
/// Those of TO.
pub(super) fn copy(job: &Job<'_>, wanted: &[Wanted]) -> Result<Copied> {
    let packs: Vec<&[Wanted]> = wanted.chunk_by(|a, b| a.location.pack == b.location.pack).collect();
    let frames = wanted.chunk_by(|a, b| is_one_frame(&a.location, &b.location));
    let bytes: u64 = frames.map(|frame| u64::from(frame[0].location.frame_bytes)).sum();
    let threads =
        job.options.threads.min(packs.len()).min(1 + usize::try_from(bytes / BYTES_A_THREAD).unwrap_or(usize::MAX));
    let next = AtomicUsize::new(0);
    let work = || -> Result<Copied> {
        let mut worker = Worker { job, packer: job.packer()?, done: Copied::default() };
        while !job.is_stopped()
            && let Some(pack) = packs.get(next.fetch_add(1, Ordering::Relaxed))
        {
            // Who fails ends it for all.
            worker.pack(pack).inspect_err(|_| next.store(packs.len(), Ordering::Relaxed))?;
        }
        let (_, bytes) = worker.packer.finish()?;
        job.options.counters.bytes_stored.fetch_add(bytes, Ordering::Relaxed);
        Ok(worker.done)
    };
    let mut sum = Copied::default();
    for part in side_by_side(threads, work) {
        let part = part?;
        sum.ids.extend(part.ids);
        sum.damaged.extend(part.damaged);
    }
    Ok(sum)
}

fn is_one_frame(a: &Location, b: &Location) -> bool {
    (a.pack, a.frame, a.frame_offset, a.frame_bytes) == (b.pack, b.frame, b.frame_offset, b.frame_bytes)
}

/// Copies packs on one thread.
struct Worker<'w> {
    job: &'w Job<'w>,
    packer: Packer<'w>,
    done: Copied,
}

/// A chunk in a decoded frame.
struct Sound<'p> {
    id: ChunkId,
    bytes: &'p [u8],
    is_lacking: bool,
}

impl Worker<'_> {
    fn pack(&mut self, wanted: &[Wanted]) -> Result<()> {
        let index = self.job.from_chunks.index();
        let info = index.pack(wanted[0].location.pack);
        let (name, opener) = (info.object_name(), PackOpener::new(self.job.from.secrets(), &info));
        let frames: Vec<WantedFrame<'_>> =
            wanted.chunk_by(|a, b| is_one_frame(&a.location, &b.location)).map(WantedFrame).collect();
        for run in FrameRuns::new(self.job.from.backend().as_ref(), &name, &frames) {
            for frame in run.frames {
                let number = frame.location().frame;
                let opened = run.sealed(frame).and_then(|sealed| {
                    let read = sealed.len() as u64;
                    self.job.options.counters.bytes_read.fetch_add(read, Ordering::Relaxed);
                    opener.as_ref().map_err(Clone::clone)?.open_compressed(number, sealed)
                });
                self.frame(info.class, frame.0, opened)?;
            }
        }
        Ok(())
    }

    /// Stores the wanted chunks of a frame. What is not in it as it should be is looked for elsewhere.
    fn frame(&mut self, class: PackClass, wanted: &[Wanted], opened: Result<CompressedFrame>) -> Result<()> {
        let decoded = opened.and_then(|frame| {
            // Away from the frame, which is sealed as it is while the chunks are looked at.
            let plain = frame.decode().map_err(RepositoryError::decoding("a frame"))?.into_owned();
            Ok((frame, plain))
        });
        let Ok((frame, plain)) = decoded else {
            return wanted.iter().try_for_each(|chunk| self.find_elsewhere(class, &chunk.id));
        };
        let mut sound = Vec::with_capacity(wanted.len());
        let (mut filled, mut lost) = (0, Vec::new());
        for chunk in wanted {
            let from = chunk.location.chunk_offset as usize;
            let bytes = plain.get(from..from.saturating_add(chunk.location.chunk_bytes as usize));
            match bytes.filter(|bytes| self.job.from.secrets().chunk_id(bytes) == chunk.id) {
                Some(bytes) => {
                    filled = if from == filled { from + bytes.len() } else { usize::MAX };
                    sound.push(self.look_up(chunk.id, bytes));
                }
                None => lost.push(chunk.id),
            }
        }
        if filled == plain.len() && sound.iter().all(|chunk| chunk.is_lacking) {
            let chunks: Vec<(ChunkId, u32)> = sound.iter().map(|chunk| (chunk.id, chunk.bytes.len() as u32)).collect();
            chunks.iter().for_each(|(_, bytes)| self.job.options.counters.count_chunk(*bytes));
            self.job.options.counters.frames_reused.fetch_add(1, Ordering::Relaxed);
            self.packer.put_frame(class, frame, &chunks)?;
        } else {
            sound.into_iter().try_for_each(|chunk| self.store(class, &chunk))?;
        }
        lost.iter().try_for_each(|id| self.find_elsewhere(class, id))
    }

    /// Learns the id in TO of a chunk, and whether TO lacks it.
    fn look_up<'p>(&mut self, id: ChunkId, bytes: &'p [u8]) -> Sound<'p> {
        if self.job.shares_ids {
            return Sound { id, bytes, is_lacking: true };
        }
        let there = self.job.to.secrets().chunk_id(bytes);
        self.done.ids.push((id, there));
        Sound { id: there, bytes, is_lacking: !self.job.is_in_to(&there) }
    }

    fn store(&mut self, class: PackClass, chunk: &Sound<'_>) -> Result<()> {
        if !chunk.is_lacking {
            return Ok(());
        }
        self.job.options.counters.count_chunk(chunk.bytes.len() as u32);
        self.packer.gather(class, chunk.id, chunk.bytes)
    }

    fn find_elsewhere(&mut self, class: PackClass, id: &ChunkId) -> Result<()> {
        match block_on(self.job.from_chunks.read(id)) {
            Ok(bytes) => {
                let chunk = self.look_up(*id, &bytes);
                self.store(class, &chunk)
            }
            Err(error) => {
                self.done.damaged.push((*id, error));
                Ok(())
            }
        }
    }
}
