//! The table of contents of a pack: which frames it holds, and which chunks they hold.
//! FORMAT.md "Table of contents".
//!
//! Sealed under a key of the structure secret in packs of both classes, so index, mark and repair
//! need no read key. Offsets are 64 bits wide. The decoder is bounded by [`TOC_BYTES_MAX`] and
//! refuses overlaps, gaps and numbers that do not rise. Any thread.

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::crypto::KeyBlock;
use crate::ids::{ChunkId, LogNumber, PackId};
use crate::limits::{FRAME_BYTES_MAX, PACK_BYTES_MAX, PACK_FRAMES_MAX};
use crate::pack::header::{PACK_HEADER_BYTES, PackClass, PackInfo};

/// What is in one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackContents {
    /// The pack.
    pub id: PackId,
    /// Who wrote it.
    pub writer: LogNumber,
    /// Which key opens its frames.
    pub class: PackClass,
    /// Generation of the structure secret.
    pub generation: u32,
    /// Encapsulated key as in its header; all zero in a structure pack.
    pub key_block: KeyBlock,
    /// Length of the whole object, table and trailer included.
    pub bytes: u64,
    /// Its frames in order.
    pub frames: Vec<FrameInfo>,
}

/// One frame of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameInfo {
    /// Its number, which is its nonce. Numbers rise and may have gaps.
    pub number: u32,
    /// Where it begins in the object.
    pub offset: u64,
    /// Sealed length.
    pub sealed_bytes: u32,
    /// BLAKE3 of the sealed bytes, not keyed.
    pub blake3: [u8; 32],
    /// Chunks in the order of their plain bytes, with their lengths.
    pub chunks: Vec<(ChunkId, u32)>,
}

/// Bytes of a frame record beside its chunks.
pub(super) const FRAME_RECORD_BYTES: usize = 4 + 8 + 4 + 32 + 4;
/// Bytes of a chunk record.
pub(super) const CHUNK_RECORD_BYTES: usize = 32 + 4;

impl PackContents {
    /// What an opener and an index need to know of the pack.
    pub fn info(&self) -> PackInfo {
        PackInfo {
            id: self.id,
            writer: self.writer,
            class: self.class,
            generation: self.generation,
            key_block: self.key_block,
            bytes: self.bytes,
        }
    }

    /// Number of chunks in all frames.
    pub fn chunk_count(&self) -> usize {
        self.frames.iter().map(|frame| frame.chunks.len()).sum()
    }
}

/// Encodes the plain table.
pub(super) fn encode_contents(writer: LogNumber, frames: &[FrameInfo]) -> Vec<u8> {
    let mut out = Encoder::new();
    out.u64(writer.0);
    out.count(frames.len());
    for frame in frames {
        out.u32(frame.number);
        out.u64(frame.offset);
        out.u32(frame.sealed_bytes);
        out.raw(&frame.blake3);
        out.count(frame.chunks.len());
        for (id, bytes) in &frame.chunks {
            out.raw(id.as_bytes());
            out.u32(*bytes);
        }
    }
    out.finish()
}

/// Decodes the plain table of a pack whose frames end at byte `frames_end`.
pub(super) fn decode_contents(plain: &[u8], frames_end: u64) -> Result<(LogNumber, Vec<FrameInfo>), DecodeError> {
    let mut input = Decoder::new(plain);
    let writer = LogNumber(input.u64()?);
    let count = input.count(FRAME_RECORD_BYTES, "frames")?;
    if count > PACK_FRAMES_MAX as usize || frames_end > PACK_BYTES_MAX {
        return Err(DecodeError::Invalid { field: "frames" });
    }
    let mut frames: Vec<FrameInfo> = Vec::with_capacity(count);
    let mut end = PACK_HEADER_BYTES as u64;
    for _ in 0..count {
        let frame = decode_frame_record(&mut input)?;
        let number_rises = frames.last().is_none_or(|last| last.number < frame.number);
        if !number_rises || frame.number >= PACK_FRAMES_MAX {
            return Err(DecodeError::Invalid { field: "frame number" });
        }
        if frame.offset != end || frame.sealed_bytes as usize > FRAME_BYTES_MAX {
            return Err(DecodeError::Invalid { field: "frame offset" });
        }
        end += u64::from(frame.sealed_bytes);
        frames.push(frame);
    }
    input.finish()?;
    if end != frames_end {
        return Err(DecodeError::Invalid { field: "end of frames" });
    }
    Ok((writer, frames))
}

fn decode_frame_record(input: &mut Decoder<'_>) -> Result<FrameInfo, DecodeError> {
    let (number, offset, sealed_bytes, blake3) = (input.u32()?, input.u64()?, input.u32()?, input.array()?);
    let count = input.count(CHUNK_RECORD_BYTES, "chunks")?;
    let mut chunks = Vec::with_capacity(count);
    let mut plain_bytes = 0u64;
    for _ in 0..count {
        let (id, bytes) = (ChunkId(input.array()?), input.u32()?);
        plain_bytes += u64::from(bytes);
        chunks.push((id, bytes));
    }
    if plain_bytes > FRAME_BYTES_MAX as u64 {
        return Err(DecodeError::Invalid { field: "plain bytes of a frame" });
    }
    Ok(FrameInfo { number, offset, sealed_bytes, blake3, chunks })
}
