//! The structure record of an entry and the pieces of contents: what a client without the read key
//! may see. Decoders are bounded by their input. Any thread.

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::ids::ChunkId;
use crate::limits::{CHUNK_BYTES_MAX, INLINE_PIECES_MAX, PAGE_LEVELS_MAX};
use crate::log::Grade;
use crate::manifest::entry::{Content, Entry, Kind, Piece};

/// The structure record of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StructureRecord {
    pub digest: [u8; 16],
    pub grade: Grade,
    pub error: bool,
    pub hard_link: bool,
    pub size: u64,
    pub content: Content,
}

const FLAG_ERROR: u8 = 1 << 2;
const FLAG_HARD_LINK: u8 = 1 << 3;
const FLAG_TREE: u8 = 1 << 4;

/// Appends the structure record.
pub(crate) fn encode_structure(out: &mut Encoder, digest: &[u8; 16], entry: &Entry) {
    out.raw(digest);
    let mut flags = match entry.grade {
        Grade::Torn => 0,
        Grade::Stable => 1,
        Grade::Snapshot => 2,
    };
    if entry.error {
        flags |= FLAG_ERROR;
    }
    if matches!(entry.kind, Kind::HardLink { .. }) {
        flags |= FLAG_HARD_LINK;
    }
    if matches!(entry.content, Content::Tree { .. }) {
        flags |= FLAG_TREE;
    }
    out.u8(flags);
    out.u64(entry.meta.size);
    match &entry.content {
        Content::Inline(pieces) => {
            out.u16(u16::try_from(pieces.len()).expect("checked against INLINE_PIECES_MAX"));
            pieces.iter().for_each(|piece| put_piece(out, piece));
        }
        Content::Tree { root, levels, pieces } => {
            out.raw(root.as_bytes());
            out.u8(*levels);
            out.u64(*pieces);
        }
    }
}

/// Takes a structure record.
pub(crate) fn decode_structure(input: &mut Decoder<'_>) -> Result<StructureRecord, DecodeError> {
    let digest = input.array()?;
    let flags = input.u8()?;
    let grade = match flags & 3 {
        0 => Grade::Torn,
        1 => Grade::Stable,
        2 => Grade::Snapshot,
        _ => return Err(DecodeError::Invalid { field: "grade" }),
    };
    if flags & !(3 | FLAG_ERROR | FLAG_HARD_LINK | FLAG_TREE) != 0 {
        return Err(DecodeError::Invalid { field: "flags" });
    }
    let size = input.u64()?;
    let content = if flags & FLAG_TREE != 0 {
        let (root, levels, pieces) = (ChunkId(input.array()?), input.u8()?, input.u64()?);
        if levels == 0 || levels > PAGE_LEVELS_MAX {
            return Err(DecodeError::Invalid { field: "content levels" });
        }
        Content::Tree { root, levels, pieces }
    } else {
        let count = usize::from(input.u16()?);
        if count > INLINE_PIECES_MAX {
            return Err(DecodeError::Invalid { field: "pieces" });
        }
        Content::Inline(take_pieces(input, count)?)
    };
    Ok(StructureRecord {
        digest,
        grade,
        error: flags & FLAG_ERROR != 0,
        hard_link: flags & FLAG_HARD_LINK != 0,
        size,
        content,
    })
}

/// Passes over one structure record and returns its digest.
pub(crate) fn skim_structure(input: &mut Decoder<'_>) -> Result<[u8; 16], DecodeError> {
    let digest = input.array()?;
    let flags = input.u8()?;
    input.u64()?;
    if flags & FLAG_TREE != 0 {
        input.raw(32 + 1 + 8)?;
        return Ok(digest);
    }
    for _ in 0..input.u16()? {
        match input.u8()? {
            0 => input.raw(36)?,
            1 => input.raw(8)?,
            _ => return Err(DecodeError::Invalid { field: "piece" }),
        };
    }
    Ok(digest)
}

/// Appends one piece: a tag, then chunk id and length, or the length of the hole.
pub(crate) fn put_piece(out: &mut Encoder, piece: &Piece) {
    match piece {
        Piece::Chunk { id, bytes } => {
            out.u8(0);
            out.raw(id.as_bytes());
            out.u32(*bytes);
        }
        Piece::Hole { bytes } => {
            out.u8(1);
            out.u64(*bytes);
        }
    }
}

/// Takes `count` pieces. Lengths are positive and their sum is below 2^63.
pub(crate) fn take_pieces(input: &mut Decoder<'_>, count: usize) -> Result<Vec<Piece>, DecodeError> {
    if count.saturating_mul(9) > input.remaining() {
        return Err(DecodeError::Invalid { field: "pieces" });
    }
    let mut pieces = Vec::with_capacity(count);
    let mut total_bytes = 0u64;
    for _ in 0..count {
        let piece = match input.u8()? {
            0 => {
                let (id, bytes) = (ChunkId(input.array()?), input.u32()?);
                if bytes > CHUNK_BYTES_MAX {
                    return Err(DecodeError::Invalid { field: "chunk length" });
                }
                Piece::Chunk { id, bytes }
            }
            1 => Piece::Hole { bytes: input.u64()? },
            _ => return Err(DecodeError::Invalid { field: "piece" }),
        };
        total_bytes = total_bytes.saturating_add(piece.bytes());
        if piece.bytes() == 0 || total_bytes > i64::MAX as u64 {
            return Err(DecodeError::Invalid { field: "piece length" });
        }
        pieces.push(piece);
    }
    Ok(pieces)
}
