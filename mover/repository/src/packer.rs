//! Packs on their way into a repository, for whoever stores chunks on a thread of its own: repack, rekey, copy.
//!
//! Chunks are gathered into frames and compressed, frames that are compressed already are sealed as they are, and the
//! order of durability is kept: packs, a barrier, the segment that names them, and only then an index learns of them.
//! Packs grow with what is stored: who is killed loses the open ones, and that must stay a small part. Memory: the open
//! frames, [`WRITES_IN_FLIGHT`] writes, and the tables of what no segment names yet. One thread's; blocks.

use std::collections::VecDeque;

use bytes::Bytes;
use zstd::bulk::Compressor;

use crate::backend::{IoFuture, ObjectWriter};
use crate::blocking::block_on;
use crate::error::{RepositoryError, Result};
use crate::ids::{ChunkId, LogNumber};
use crate::index::{Index, SegmentBuilder};
use crate::limits::{FRAME_PLAIN_BYTES_TARGET, PACK_BYTES_TARGET};
use crate::pack::{CompressedFrame, PackClass, PackContents, PackSealer};
use crate::repository::Repository;

/// Length at which an index segment is written, at most; bounds the memory taken.
pub(crate) const SEGMENT_BYTES_TARGET: usize = 16 << 20;
/// Bytes of a chunk in a segment, and in the table of its pack until then.
const SEGMENT_BYTES_PER_CHUNK: usize = 128;
/// Stored bytes after which a segment is written: the tables of so many packs stand in for it after a kill.
const SEGMENT_STORED_BYTES: u64 = 512 << 20;
/// Writes that are under way while frames are read and sealed; each is a frame, or the end of a pack, which syncs.
const WRITES_IN_FLIGHT: usize = 8;
/// The first packs of a run are closed at this size, later ones at this part of what is stored.
const PACK_BYTES_FIRST: u64 = if cfg!(test) { 64 << 10 } else { 4 << 20 };
const PACK_SHARE_OF_STORED: u64 = 32;
/// zstd level of frames that are made here, within what the repository allows: each level more costs a third of the
/// speed and more, and saves some percent of what little is framed anew.
const LEVEL: u8 = 3;

/// Writes new packs of one registration.
pub(crate) struct Packer<'a> {
    repository: &'a Repository,
    writer: LogNumber,
    zstd: Compressor<'static>,
    open: [Option<OpenPack>; 2],
    /// Packs that no segment names yet.
    written: Vec<PackContents>,
    written_chunks: usize,
    written_bytes: u64,
    /// Length at which a segment is written.
    segment_bytes: usize,
    /// What learns of packs that are durable and named.
    index: Option<&'a Index>,
    /// Appends and ends of packs that are under way.
    writes: VecDeque<IoFuture<()>>,
    /// Stored by this run before this packer began.
    stored_before: u64,
    packs: u64,
    bytes: u64,
}

struct OpenPack {
    sealer: PackSealer,
    /// Goes out with the first frame.
    header: Option<Bytes>,
    object: Box<dyn ObjectWriter>,
    /// Chunks that wait for a frame.
    plain: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
}

impl<'a> Packer<'a> {
    /// A packer of a run that has stored `stored_before` bytes before; the more it is, the larger its packs.
    pub(crate) fn new(repository: &'a Repository, writer: LogNumber, stored_before: u64) -> Result<Self> {
        let levels = repository.config().compression;
        let zstd = Compressor::new(LEVEL.clamp(levels.level_min, levels.level_max).into())
            .map_err(|error| RepositoryError::LimitExceeded { what: format!("memory for zstd: {error}") })?;
        Ok(Self {
            repository,
            writer,
            zstd,
            open: [None, None],
            written: Vec::new(),
            written_chunks: 0,
            written_bytes: 0,
            segment_bytes: SEGMENT_BYTES_TARGET,
            index: None,
            writes: VecDeque::new(),
            stored_before,
            packs: 0,
            bytes: 0,
        })
    }

    /// Tells `index` of what is durable, and writes a segment when `segment_bytes` have come together.
    pub(crate) fn telling(mut self, index: &'a Index, segment_bytes: usize) -> Self {
        self.index = Some(index);
        self.segment_bytes = segment_bytes;
        self
    }

    /// Takes over packs that an earlier run finished and did not live to name: the next segment does.
    pub(crate) fn adopt(&mut self, packs: Vec<PackContents>) {
        for contents in &packs {
            self.repository.backend().adopt(&contents.info().object_name());
        }
        self.written.extend(packs);
    }

    /// Takes a chunk into the open frame of its class.
    pub(crate) fn gather(&mut self, class: PackClass, id: ChunkId, chunk: &[u8]) -> Result<()> {
        let is_full = |open: &OpenPack| open.plain.len() + chunk.len() > FRAME_PLAIN_BYTES_TARGET;
        if self.open[class as usize].as_ref().is_some_and(is_full) {
            self.close_frame(class)?;
        }
        let open = self.open_pack(class);
        open.plain.extend_from_slice(chunk);
        open.chunks.push((id, chunk.len() as u32));
        Ok(())
    }

    /// Takes a frame as it was compressed; what was gathered before stays before it.
    pub(crate) fn put_frame(
        &mut self,
        class: PackClass,
        frame: CompressedFrame,
        chunks: &[(ChunkId, u32)],
    ) -> Result<()> {
        self.close_frame(class)?;
        self.put(class, frame, chunks)
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
        let (sealed_bytes, pack_bytes) = (frame.sealed_bytes(), self.pack_bytes());
        let is_full = |open: &OpenPack| open.sealer.bytes() >= pack_bytes || !open.sealer.has_room(sealed_bytes);
        if self.open[class as usize].as_ref().is_some_and(is_full) {
            self.close_pack(class)?;
        }
        let open = self.open_pack(class);
        let sealed = open.sealer.seal(frame, chunks);
        let parts = open.header.take().into_iter().chain([sealed]).collect();
        let write = open.object.append(parts);
        self.write_beside(write)
    }

    fn pack_bytes(&self) -> u64 {
        let stored = self.stored_before.saturating_add(self.bytes);
        (stored / PACK_SHARE_OF_STORED).clamp(PACK_BYTES_FIRST, PACK_BYTES_TARGET)
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
        self.written_chunks += contents.chunk_count();
        self.written_bytes += contents.bytes;
        self.written.push(contents);
        let is_due = self.written_chunks * SEGMENT_BYTES_PER_CHUNK >= self.segment_bytes;
        if is_due || self.written_bytes >= SEGMENT_STORED_BYTES { self.write_segment() } else { Ok(()) }
    }

    /// Names the packs written so far, once they are durable.
    fn write_segment(&mut self) -> Result<()> {
        self.writes.drain(..).try_for_each(block_on)?;
        let written = std::mem::take(&mut self.written);
        (self.written_chunks, self.written_bytes) = (0, 0);
        if written.is_empty() {
            return Ok(());
        }
        block_on(self.repository.backend().barrier())?;
        let mut segment = SegmentBuilder::new(self.repository);
        written.iter().for_each(|contents| segment.add(contents));
        let segment = block_on(segment.write())?;
        if let (Some(index), Some(segment)) = (self.index, segment) {
            written.iter().for_each(|contents| index.insert(contents));
            block_on(index.segment_written(&segment))?;
        }
        Ok(())
    }

    /// Makes all of it durable, by name and in the index. Gives packs and bytes written.
    pub(crate) fn finish(mut self) -> Result<(u64, u64)> {
        self.close_pack(PackClass::Data)?;
        self.close_pack(PackClass::Structure)?;
        self.write_segment()?;
        Ok((self.packs, self.bytes))
    }
}
