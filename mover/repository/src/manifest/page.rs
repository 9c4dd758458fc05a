//! Pages: what every page begins with, inner pages and list pages. FORMAT.md "Manifest".
//!
//! A page is stored as a chunk, so its id authenticates it. Decoders are bounded all the same:
//! separators strictly rise, levels are what the parent says, and prefix compression cannot unfold
//! beyond [`PAGE_PATH_BYTES_MAX`]. Any thread.

use std::cmp::Ordering;

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::ids::ChunkId;
use crate::limits::{FORMAT_VERSION, LEAF_ENTRIES_MAX, PAGE_BYTES_MAX, PAGE_CHILDREN_MAX, PAGE_PATH_BYTES_MAX};
use crate::manifest::entry::{Piece, put_path, take_path};
use crate::manifest::path::path_cmp;
use crate::manifest::structure::{put_piece, take_pieces};
use crate::pack::PackClass;

/// A finished page, to be stored as a chunk in a pack of its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Chunk id of the bytes.
    pub id: ChunkId,
    /// Names pages are Data, all others Structure.
    pub class: PackClass,
    /// The plain page, at most [`PAGE_BYTES_MAX`].
    pub bytes: Vec<u8>,
}

/// First byte of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageKind {
    Names = 1,
    Structure = 2,
    Inner = 3,
    List = 4,
}

/// Bytes before the first record: kind, version, level, zero, count as `u32`.
pub(crate) const PAGE_HEADER_BYTES: usize = 8;

/// Starts a page; the count is filled in by [`finish_page`].
pub(crate) fn start_page(kind: PageKind, level: u8) -> Encoder {
    let mut out = Encoder::new();
    out.raw(&[kind as u8, FORMAT_VERSION, level, 0]);
    out.u32(0);
    out
}

/// Writes the number of records into the header.
pub(crate) fn finish_page(out: Encoder, count: usize) -> Vec<u8> {
    let mut bytes = out.finish();
    let count = u32::try_from(count).expect("a page holds fewer than 2^32 records");
    bytes[4..PAGE_HEADER_BYTES].copy_from_slice(&count.to_le_bytes());
    assert!(bytes.len() <= PAGE_BYTES_MAX, "a page is at most PAGE_BYTES_MAX long");
    bytes
}

/// Takes the header and returns the number of records, which is at most `count_max`.
pub(crate) fn open_page<'a>(
    bytes: &'a [u8],
    kind: PageKind,
    level: u8,
    count_max: usize,
) -> Result<(Decoder<'a>, usize), DecodeError> {
    if bytes.len() > PAGE_BYTES_MAX {
        return Err(DecodeError::Invalid { field: "page length" });
    }
    let mut input = Decoder::new(bytes);
    let head: [u8; 4] = input.array()?;
    if head[0] != kind as u8 {
        return Err(DecodeError::Invalid { field: "page kind" });
    }
    if head[1] != FORMAT_VERSION || head[3] != 0 {
        return Err(DecodeError::Invalid { field: "page version" });
    }
    if head[2] != level {
        return Err(DecodeError::Invalid { field: "page level" });
    }
    let count = input.u32()? as usize;
    if count > count_max {
        return Err(DecodeError::Invalid { field: "page count" });
    }
    Ok((input, count))
}

/// Takes the header of one page of a leaf.
pub(crate) fn open_leaf_page(bytes: &[u8], kind: PageKind) -> Result<(Decoder<'_>, usize), DecodeError> {
    open_page(bytes, kind, 0, LEAF_ENTRIES_MAX)
}

/// A child of an inner page: a leaf (level 1) or an inner page one level down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Child {
    /// Shortest path that is greater than all before and not greater than the first one below.
    pub separator: Vec<u8>,
    /// Names page; leaves only, else all zero and not stored.
    pub names: ChunkId,
    /// Structure page of a leaf, or the inner page.
    pub structure: ChunkId,
    /// Totals of the subtree.
    pub entries: u64,
    /// Regular files below.
    pub files: u64,
    /// Sum of their sizes.
    pub bytes: u64,
}

/// A decoded inner page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InnerPage {
    pub level: u8,
    pub children: Vec<Child>,
}

/// Appends one child; `previous` is the separator before it in the page, empty at the start.
pub(crate) fn put_child(out: &mut Encoder, level: u8, previous: &[u8], child: &Child) {
    put_path(out, previous, &child.separator);
    if level == 1 {
        out.raw(child.names.as_bytes());
    }
    out.raw(child.structure.as_bytes());
    out.u64(child.entries);
    out.u64(child.files);
    out.u64(child.bytes);
}

impl InnerPage {
    /// Decodes an inner page that must be of `level`.
    pub(crate) fn decode(bytes: &[u8], level: u8) -> Result<Self, DecodeError> {
        if level == 0 {
            return Err(DecodeError::Invalid { field: "page level" });
        }
        let (mut input, count) = open_page(bytes, PageKind::Inner, level, PAGE_CHILDREN_MAX)?;
        if count == 0 && level > 1 {
            return Err(DecodeError::Invalid { field: "page count" });
        }
        let mut children: Vec<Child> = Vec::with_capacity(count);
        let mut path = Vec::new();
        let mut path_bytes = 0;
        for _ in 0..count {
            take_path(&mut input, &mut path)?;
            path_bytes += path.len();
            if path_bytes > PAGE_PATH_BYTES_MAX {
                return Err(DecodeError::Invalid { field: "sum of separators" });
            }
            if children.last().is_some_and(|last| path_cmp(&last.separator, &path) != Ordering::Less) {
                return Err(DecodeError::Invalid { field: "separator order" });
            }
            let names = if level == 1 { ChunkId(input.array()?) } else { ChunkId([0; 32]) };
            let structure = ChunkId(input.array()?);
            let (entries, files, bytes) = (input.u64()?, input.u64()?, input.u64()?);
            children.push(Child { separator: path.clone(), names, structure, entries, files, bytes });
        }
        input.finish()?;
        Ok(InnerPage { level, children })
    }

    /// The child that would hold `path`, if any does: the last one not after it.
    pub(crate) fn child_for(&self, path: &[u8]) -> Option<usize> {
        let after = self.children.partition_point(|child| path_cmp(&child.separator, path) != Ordering::Greater);
        after.checked_sub(1)
    }
}

/// A decoded list page: pieces at level 1, children above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListPage {
    Pieces(Vec<Piece>),
    Children(Vec<ListChild>),
}

/// A child of an inner list page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListChild {
    pub id: ChunkId,
    pub pieces: u64,
    pub bytes: u64,
}

/// Smallest piece record: a hole.
const PIECE_RECORD_BYTES_MIN: usize = 9;
/// Largest piece record: a chunk.
pub(crate) const PIECE_RECORD_BYTES_MAX: usize = 37;

impl ListPage {
    /// Encodes a page of pieces.
    pub(crate) fn encode_pieces(pieces: &[Piece]) -> Vec<u8> {
        let mut out = start_page(PageKind::List, 1);
        pieces.iter().for_each(|piece| put_piece(&mut out, piece));
        finish_page(out, pieces.len())
    }

    /// Encodes a page of list pages.
    pub(crate) fn encode_children(level: u8, children: &[ListChild]) -> Vec<u8> {
        let mut out = start_page(PageKind::List, level);
        for child in children {
            out.raw(child.id.as_bytes());
            out.u64(child.pieces);
            out.u64(child.bytes);
        }
        finish_page(out, children.len())
    }

    /// Decodes a list page that must be of `level`.
    pub(crate) fn decode(bytes: &[u8], level: u8) -> Result<Self, DecodeError> {
        if level <= 1 {
            let (mut input, count) =
                open_page(bytes, PageKind::List, 1, (PAGE_BYTES_MAX - PAGE_HEADER_BYTES) / PIECE_RECORD_BYTES_MIN)?;
            let pieces = take_pieces(&mut input, count)?;
            input.finish()?;
            return Ok(ListPage::Pieces(pieces));
        }
        let (mut input, count) = open_page(bytes, PageKind::List, level, PAGE_CHILDREN_MAX)?;
        if count == 0 {
            return Err(DecodeError::Invalid { field: "page count" });
        }
        let mut children = Vec::with_capacity(count);
        for _ in 0..count {
            children.push(ListChild { id: ChunkId(input.array()?), pieces: input.u64()?, bytes: input.u64()? });
        }
        input.finish()?;
        Ok(ListPage::Children(children))
    }
}
