//! Compressor: makes frames, compresses them, proves that they can be read again, and seals them
//! into the open pack of their class.
//!
//! A large chunk is a frame of its own; small ones share a frame of up to 256 KiB plain bytes, taken as they lie in the
//! read buffer where that makes half a frame, else gathered. A frame that a probe holds for incompressible, or that
//! does not shrink, is stored raw. Sealing needs no copy: in place what was compressed, from the read buffer what is
//! raw; with the pack's own key and the next frame number as nonce.
//!
//! Lives on one shard and owns that shard's two open packs. Bounded by the frame permits, with one
//! largest frame in reserve. Must never reuse a frame number, and never hold a read buffer while
//! it waits for more input: small chunks are copied into the open frame.

use std::ops::Range;
use std::sync::Arc;

use mover_repository::ids::ChunkId;
use mover_repository::limits::{FRAME_PLAIN_BYTES_TARGET, PACK_BYTES_TARGET};
use mover_repository::manifest::Page;
use mover_repository::pack::{CompressedFrame, PackClass, PackSealer, raw_frame_bytes};
use zstd::bulk::{Compressor as Zstd, Decompressor};

use crate::backup::level::LevelControl;
use crate::backup::messages::{NewChunks, PackPart};
use crate::backup::probe::is_compressible;
use crate::backup::shared::JobShared;
use crate::error::Failure;
use crate::runtime::mutant::{Mutant, mutant};
use crate::runtime::{Actor, Address, Pace, Reserve, Runtime};

/// A chunk of at least this size gets a frame of its own.
const LONE_CHUNK_BYTES_MIN: usize = FRAME_PLAIN_BYTES_TARGET / 2;
/// Frames decoded before upload at the start of a run and after a level change.
const VERIFIED_FRAMES_FIRST: u32 = 64;
/// Afterwards one in so many.
const VERIFIED_FRAMES_EVERY: u32 = 64;

/// Size of the first packs of a run; later ones are this part of what was stored, up to the usual size.
const PACK_BYTES_FIRST: u64 = 4 << 20;
const PACK_SHARE_OF_STORED: u64 = 32;
/// A pack of tiny chunks ends early: its table of contents stays small enough to be held by whoever reads it.
const TOC_BYTES_TARGET: usize = 1 << 20;

/// How many frames are decoded and hashed again before they are uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VerifyBeforeUpload {
    /// Every frame.
    Always,
    /// The first ones of each level, then a share; every manifest page.
    #[default]
    Sample,
    /// None.
    Never,
}

/// See the module.
pub struct Compressor<R: Runtime> {
    rt: R,
    job: Arc<JobShared>,
    next: Address<PackPart>,
    reserve: Reserve,
    zstd: Zstd<'static>,
    unzstd: Decompressor<'static>,
    level: LevelControl,
    verified_in_a_row: u32,
    always_verify: bool,
    scratch: Vec<u8>,
    pace: Pace,
    /// Bytes of the packs that this compressor has closed.
    closed_bytes: u64,
    open: [OpenPack; 2],
}

/// The pack that frames of one class go to, and the frame that small chunks of it share.
struct OpenPack {
    sealer: Option<PackSealer>,
    plain: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
    /// A manifest page is in the open frame: it is read back whatever the sample says.
    holds_page: bool,
}

/// What a frame is made of.
struct Plain<'a> {
    bytes: &'a [u8],
    chunks: &'a [(ChunkId, u32)],
    holds_page: bool,
}

impl<R: Runtime> Compressor<R> {
    /// A compressor in front of `next`, the uploader of its shard.
    pub fn new(rt: &R, job: Arc<JobShared>, reserve: Reserve, next: Address<PackPart>) -> Result<Self, Failure> {
        let level = LevelControl::new(job.options.levels.clone());
        let zstd = Zstd::new(level.level()).map_err(|error| Failure::internal("create", "zstd context", error))?;
        let unzstd = Decompressor::new().map_err(|error| Failure::internal("create", "zstd context", error))?;
        let always_verify = job.options.verify_before_upload == VerifyBeforeUpload::Always;
        Ok(Self {
            rt: rt.clone(),
            job,
            next,
            reserve,
            zstd,
            unzstd,
            level,
            verified_in_a_row: 0,
            always_verify,
            scratch: vec![],
            pace: Pace::new(),
            closed_bytes: 0,
            open: [OpenPack::new(), OpenPack::new()],
        })
    }

    /// Chunks that lie one behind the other in a read buffer. Enough of them are a frame as they lie; few are copied
    /// to others.
    async fn run_of_chunks(&mut self, data: &[u8], run: &[(ChunkId, Range<usize>)]) -> Result<(), Failure> {
        let bytes = &data[run[0].1.start..run[run.len() - 1].1.end];
        if bytes.len() >= LONE_CHUNK_BYTES_MIN {
            let length = |range: &Range<usize>| u32::try_from(range.len()).expect("a chunk is shorter than 4 GiB");
            let chunks: Vec<(ChunkId, u32)> = run.iter().map(|(id, range)| (*id, length(range))).collect();
            return self.frame(PackClass::Data, Plain { bytes, chunks: &chunks, holds_page: false }).await;
        }
        for (id, range) in run {
            self.chunk(PackClass::Data, *id, &data[range.clone()], false).await?;
        }
        Ok(())
    }

    async fn chunk(&mut self, class: PackClass, id: ChunkId, plain: &[u8], is_page: bool) -> Result<(), Failure> {
        let bytes = u32::try_from(plain.len()).expect("a chunk is shorter than 4 GiB");
        if plain.len() >= LONE_CHUNK_BYTES_MIN {
            let lone = Plain { bytes: plain, chunks: &[(id, bytes)], holds_page: is_page };
            return self.frame(class, lone).await;
        }
        let shared = &mut self.open[class as usize];
        if shared.plain.len() + plain.len() > FRAME_PLAIN_BYTES_TARGET {
            self.close_frame(class).await?;
        }
        let shared = &mut self.open[class as usize];
        shared.plain.extend_from_slice(plain);
        shared.chunks.push((id, bytes));
        shared.holds_page |= is_page;
        Ok(())
    }

    /// Closes the frame that small chunks share.
    async fn close_frame(&mut self, class: PackClass) -> Result<(), Failure> {
        let shared = &mut self.open[class as usize];
        if shared.chunks.is_empty() {
            return Ok(());
        }
        let mut plain = std::mem::take(&mut shared.plain);
        let mut chunks = std::mem::take(&mut shared.chunks);
        let holds_page = std::mem::take(&mut shared.holds_page);
        let sent = self.frame(class, Plain { bytes: &plain, chunks: &chunks, holds_page }).await;
        plain.clear();
        chunks.clear();
        let shared = &mut self.open[class as usize];
        (shared.plain, shared.chunks) = (plain, chunks);
        sent
    }

    async fn frame(&mut self, class: PackClass, plain: Plain<'_>) -> Result<(), Failure> {
        // The permit covers the worst case, a frame stored raw.
        let worst_bytes = raw_frame_bytes(plain.bytes.len());
        let permit = self.reserve.acquire(worst_bytes).await;
        let compressed = self.compress(&plain);
        self.pace.work(&self.rt, plain.bytes.len()).await;
        self.make_room(class, compressed.as_ref().map_or(worst_bytes, CompressedFrame::sealed_bytes)).await?;
        self.job.report.frame_stored(compressed.as_ref().map(|_| self.level.level()), plain.bytes.len());
        let sealer = self.open[class as usize].sealer.as_mut().expect("make_room opened a pack");
        let bytes = match compressed {
            Some(frame) => sealer.seal(frame, plain.chunks),
            None => sealer.seal_raw(plain.bytes, plain.chunks),
        };
        self.job.progress.add_frames(1);
        self.job.progress.add_bytes_stored(bytes.len() as u64);
        self.send(PackPart::Frame { class, bytes, permit }).await?;
        self.adjust_level()
    }

    /// Compresses a frame and proves it readable if its turn has come; none if it is to be stored raw.
    fn compress(&mut self, plain: &Plain<'_>) -> Option<CompressedFrame> {
        if !is_compressible(plain.bytes, &mut self.zstd, &mut self.scratch) {
            return None;
        }
        let frame = match mutant(Mutant::FaultyEncoder) {
            true => CompressedFrame::of(&mut self.zstd, &[plain.bytes, b"!"].concat()[1..])?,
            false => CompressedFrame::of(&mut self.zstd, plain.bytes)?,
        };
        if self.is_due(plain.holds_page) && !self.reads_back(&frame, plain) {
            // The encoder produced what the decoder does not undo: keep the bytes, trust nothing.
            self.job.report.frame_mismatch();
            self.always_verify = true;
            return None;
        }
        Some(frame)
    }

    fn is_due(&mut self, holds_page: bool) -> bool {
        if self.job.options.verify_before_upload == VerifyBeforeUpload::Never {
            return false;
        }
        self.verified_in_a_row = self.verified_in_a_row.wrapping_add(1);
        self.always_verify
            || holds_page
            || self.verified_in_a_row <= VERIFIED_FRAMES_FIRST
            || self.verified_in_a_row.is_multiple_of(VERIFIED_FRAMES_EVERY)
    }

    /// Decodes a frame and hashes every chunk of it again.
    fn reads_back(&mut self, frame: &CompressedFrame, plain: &Plain<'_>) -> bool {
        self.job.report.frame_verified();
        self.scratch.clear();
        self.scratch.reserve(plain.bytes.len());
        let decoded = self.unzstd.decompress_to_buffer(frame.payload(), &mut self.scratch);
        if !matches!(decoded, Ok(bytes) if bytes == plain.bytes.len()) {
            return false;
        }
        let mut at = 0;
        plain.chunks.iter().all(|(id, bytes)| {
            let chunk = &self.scratch[at..at + *bytes as usize];
            at += *bytes as usize;
            self.job.repository.secrets().chunk_id(chunk) == *id
        })
    }

    /// Makes sure that a pack of the class is open and takes a frame of that size.
    async fn make_room(&mut self, class: PackClass, frame_bytes: usize) -> Result<(), Failure> {
        let has_room = match &self.open[class as usize].sealer {
            Some(sealer) => {
                let is_full = sealer.bytes() >= self.pack_bytes() || sealer.toc_bytes() >= TOC_BYTES_TARGET;
                !is_full && sealer.has_room(frame_bytes)
            }
            None => false,
        };
        if has_room {
            return Ok(());
        }
        self.close_pack(class).await?;
        let sealer = PackSealer::open(&self.job.repository, self.job.writer, class);
        let (name, header) = (sealer.object_name(), sealer.header());
        self.open[class as usize].sealer = Some(sealer);
        self.send(PackPart::Open { class, name, header }).await
    }

    async fn close_pack(&mut self, class: PackClass) -> Result<(), Failure> {
        let Some(sealer) = self.open[class as usize].sealer.take() else { return Ok(()) };
        let (tail, contents) = sealer.finish();
        self.closed_bytes += contents.bytes;
        self.job.progress.add_packs(1);
        self.job.progress.add_bytes_stored(tail.len() as u64);
        self.send(PackPart::Close { class, tail, contents }).await
    }

    fn adjust_level(&mut self) -> Result<(), Failure> {
        let now_ns = self.rt.now().as_nanos() as u64;
        if self.level.frame_done(now_ns, self.next.blocked().as_nanos() as u64) {
            self.verified_in_a_row = 0;
            let set = self.zstd.set_compression_level(self.level.level());
            set.map_err(|error| Failure::internal("set", "zstd level", error))?;
        }
        Ok(())
    }

    async fn send(&self, part: PackPart) -> Result<(), Failure> {
        Ok(self.next.send(part).await?)
    }

    /// Packs grow with the run: a kill loses the open ones, and that must stay a small part of what is stored. Over a
    /// network it is a small time, and requests are what counts.
    fn pack_bytes(&self) -> u64 {
        let fitting = || match self.job.repository.backend().link() {
            Some(link) => link.pack_bytes,
            None => (self.closed_bytes / PACK_SHARE_OF_STORED).clamp(PACK_BYTES_FIRST, PACK_BYTES_TARGET),
        };
        self.job.options.pack_bytes.unwrap_or_else(fitting)
    }
}

impl<R: Runtime> Actor for Compressor<R> {
    type Message = NewChunks;
    const NAME: &'static str = "compressor";

    async fn handle(&mut self, new: NewChunks) -> Result<(), Failure> {
        match new {
            NewChunks::Data { data, chunks } => {
                let mut rest = &chunks[..];
                while !rest.is_empty() {
                    let (run, behind) = rest.split_at(run_of_neighbours(rest));
                    self.run_of_chunks(&data, run).await?;
                    rest = behind;
                }
                Ok(())
            }
            NewChunks::Page(Page { id, class, bytes }) => self.chunk(class, id, &bytes, true).await,
        }
    }

    /// Nothing came for a while: what is here should not wait for more.
    async fn idle(&mut self) -> Result<(), Failure> {
        self.close_frame(PackClass::Data).await?;
        self.close_frame(PackClass::Structure).await
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        if !mutant(Mutant::DroppedLastFrame) {
            self.close_frame(PackClass::Data).await?;
        }
        self.close_frame(PackClass::Structure).await?;
        self.close_pack(PackClass::Data).await?;
        self.close_pack(PackClass::Structure).await
    }
}

/// How many of the first chunks lie one behind the other and fit one frame together; at least one.
fn run_of_neighbours(chunks: &[(ChunkId, Range<usize>)]) -> usize {
    let start = chunks[0].1.start;
    let follows = |pair: &&[(ChunkId, Range<usize>)]| {
        pair[0].1.end == pair[1].1.start && pair[1].1.end - start <= FRAME_PLAIN_BYTES_TARGET
    };
    1 + chunks.windows(2).take_while(follows).count()
}

impl OpenPack {
    fn new() -> Self {
        Self { sealer: None, plain: Vec::with_capacity(FRAME_PLAIN_BYTES_TARGET), chunks: vec![], holds_page: false }
    }
}
