//! Every limit of the repository format, in one place.
//!
//! Writers assert them, readers refuse more. A limit here is part of the format: `FORMAT.md`
//! repeats each number, and a test compares the two.

/// Version byte of every object header. 0 was the draft, which no released version reads.
pub const FORMAT_VERSION: u8 = 1;

/// Largest sealed frame, tag included.
pub const FRAME_BYTES_MAX: usize = 4 << 20;
/// Plain bytes at which a frame of small chunks is closed.
pub const FRAME_PLAIN_BYTES_TARGET: usize = 256 << 10;
/// Largest pack object.
pub const PACK_BYTES_MAX: u64 = 512 << 20;
/// Size at which a pack is closed under a budget of ordinary size.
pub const PACK_BYTES_TARGET: u64 = 32 << 20;
/// Most frames in one pack, the table of contents not counted.
pub const PACK_FRAMES_MAX: u32 = 1 << 20;
/// Largest sealed table of contents.
pub const TOC_BYTES_MAX: usize = 64 << 20;
/// Largest record in `log/`.
pub const LOG_RECORD_BYTES_MAX: usize = 1 << 20;
/// Most parts of a checkpoint, each as large as a record in `log/` may be.
pub const CHECKPOINT_PARTS_MAX: usize = 256;
/// Largest `config` or `keys/<id>` object.
pub const KEY_OBJECT_BYTES_MAX: usize = 64 << 10;

/// Longest name of a set.
pub const SET_BYTES_MAX: usize = 64 << 10;
/// Longest name of a host.
pub const HOST_BYTES_MAX: usize = 256;
/// Longest tag of a recovery point.
pub const TAG_BYTES_MAX: usize = 1 << 10;
/// Longest reason in a log record.
pub const REASON_BYTES_MAX: usize = 4 << 10;
/// Most spans of proven packs in the outcome of a verification.
pub const VERIFIED_SPANS_MAX: usize = 256;
/// Most hurt packs that the outcome of a verification names.
pub const VERIFIED_HURT_MAX: usize = 1024;

/// Longest single path component.
pub const PATH_COMPONENT_BYTES_MAX: usize = 255;
/// Longest path inside a fileset. The kernel has no such limit on a tree; this one is far above
/// what can be created by hand and keeps a decoder's allocation bounded.
pub const PATH_BYTES_MAX: usize = 1 << 20;
/// Largest value of one extended attribute.
pub const XATTR_VALUE_BYTES_MAX: usize = 64 << 10;
/// Largest set of extended attributes of one file, names and values together.
pub const XATTR_TOTAL_BYTES_MAX: usize = 1 << 20;
/// Longest name of an extended attribute.
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// Longest symbolic link target.
pub const SYMLINK_BYTES_MAX: usize = 4 << 10;

/// Files are cut at multiples of this many bytes, so that extents of one file can be chunked in
/// parallel and still give the same chunks.
pub const EXTENT_BYTES: u64 = 64 << 20;
/// Shortest hole that is recorded as a hole; shorter ones are stored as zeros.
pub const HOLE_BYTES_MIN: u64 = 64 << 10;
/// Alignment of the start and end of a recorded hole.
pub const HOLE_ALIGN_BYTES: u64 = 4 << 10;

/// Bounds of the chunk sizes that `config` may ask for.
pub const CHUNK_BYTES_MIN: u32 = 4 << 10;
/// See [`CHUNK_BYTES_MIN`].
pub const CHUNK_BYTES_MAX: u32 = 2 << 20;
/// Default smallest, average and largest chunk.
pub const CHUNK_BYTES_DEFAULT: (u32, u32, u32) = (64 << 10, 256 << 10, 1 << 20);

/// Pieces of a file that stay inside its manifest entry; a longer list becomes pages.
pub const INLINE_PIECES_MAX: usize = 64;
/// Largest manifest page, plain.
pub const PAGE_BYTES_MAX: usize = 2 << 20;
/// Plain size that leaf pages aim at.
pub const PAGE_BYTES_TARGET: usize = 64 << 10;
/// Plain size at which a page is cut whatever the hash says, unless its only entry is larger.
pub const PAGE_BYTES_CUT: usize = 256 << 10;
/// Most entries of one leaf.
pub const LEAF_ENTRIES_MAX: usize = 4096;
/// Sum of the full paths in one page: prefix compression must not let a page unfold without bound.
pub const PAGE_PATH_BYTES_MAX: usize = 4 << 20;
/// Most children of an inner page or of an inner list page.
pub const PAGE_CHILDREN_MAX: usize = 1024;
/// Deepest tree of pages.
pub const PAGE_LEVELS_MAX: u8 = 12;

/// Largest index segment; larger ones are not merged.
pub const SEGMENT_BYTES_MAX: usize = 64 << 20;
/// Sealed block of an index segment, plain bytes.
pub const INDEX_BLOCK_BYTES: usize = 64 << 10;

const _: () = {
    assert!(CHUNK_BYTES_DEFAULT.0 < CHUNK_BYTES_DEFAULT.1 && CHUNK_BYTES_DEFAULT.1 < CHUNK_BYTES_DEFAULT.2);
    assert!(CHUNK_BYTES_DEFAULT.2 <= CHUNK_BYTES_MAX);
    assert!((CHUNK_BYTES_MAX as usize) + FRAME_PLAIN_BYTES_TARGET < FRAME_BYTES_MAX);
    assert!(PAGE_BYTES_MAX <= CHUNK_BYTES_MAX as usize);
    assert!(PACK_BYTES_TARGET < PACK_BYTES_MAX);
    assert!(FRAME_BYTES_MAX as u64 * 2 < PACK_BYTES_TARGET);
    assert!(EXTENT_BYTES.is_multiple_of(HOLE_ALIGN_BYTES));
    assert!(PAGE_PATH_BYTES_MAX >= 2 * PATH_BYTES_MAX && PAGE_BYTES_CUT < PAGE_BYTES_MAX);
    // 32-bit positions in memory suffice because packs and frames are this small.
    assert!(PACK_BYTES_MAX < 1 << 32);
    assert!(PATH_BYTES_MAX + XATTR_TOTAL_BYTES_MAX <= PAGE_BYTES_MAX);
};
