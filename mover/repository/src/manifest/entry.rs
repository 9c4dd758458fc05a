//! One entry of a manifest and its names record; `structure.rs` has the other half.
//!
//! Limits: path, link target, xattrs and inline pieces as in [`crate::limits`]. Decoders are bounded
//! by their input and refuse what a file system could not have given. Any thread.

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::ids::{ChunkId, UnixNanos};
use crate::limits::{
    INLINE_PIECES_MAX, PATH_BYTES_MAX, SYMLINK_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_TOTAL_BYTES_MAX,
    XATTR_VALUE_BYTES_MAX,
};
use crate::log::Grade;
use crate::manifest::path::{check_path, common_prefix, path_cmp};

/// One file, directory or special file of a fileset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the fileset's root, components joined by `/`; empty is the root itself.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Its attributes.
    pub meta: Metadata,
    /// Where its bytes are; no pieces for anything but a file.
    pub content: Content,
    /// How sure it is that the content is one state of the file.
    pub grade: Grade,
    /// It could not be read, and the content is absent.
    pub error: bool,
}

/// Kinds of entries. A socket is never recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Its target, any bytes but NUL, at most [`SYMLINK_BYTES_MAX`].
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A further name of a file whose content the first name in path order holds.
    HardLink {
        /// Path of the first name, in the same fileset, before this one in order.
        first: Vec<u8>,
    },
}

/// Extended attributes as (name, value), sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Attributes as `statx` gives them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Permission bits with set-id and sticky: the lowest 12.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: UnixNanos,
    /// Last change of the inode.
    pub ctime: UnixNanos,
    /// Inode number.
    pub inode: u64,
    /// Number of hard links.
    pub links: u64,
    /// Size in bytes.
    pub size: u64,
    /// Extended attributes: name and value, sorted by name, each name once.
    pub xattrs: Xattrs,
}

/// Where the bytes of a file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The pieces in file order, at most [`INLINE_PIECES_MAX`].
    Inline(Vec<Piece>),
    /// A tree of list pages.
    Tree {
        /// Root page.
        root: ChunkId,
        /// Level of the root; pages of level 1 list pieces.
        levels: u8,
        /// Number of pieces.
        pieces: u64,
    },
}

impl Content {
    /// No bytes at all.
    pub const EMPTY: Content = Content::Inline(Vec::new());
}

/// A run of bytes of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of a chunk.
    Chunk {
        /// The chunk.
        id: ChunkId,
        /// Its plain length.
        bytes: u32,
    },
    /// Zeros that were a hole.
    Hole {
        /// Length of the hole.
        bytes: u64,
    },
}

impl Piece {
    /// Length in the file.
    pub fn bytes(&self) -> u64 {
        match *self {
            Piece::Chunk { bytes, .. } => u64::from(bytes),
            Piece::Hole { bytes } => bytes,
        }
    }
}

/// What has to be equal, with the path, for a file to be taken over unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Size in bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: UnixNanos,
    /// Last change of the inode.
    pub ctime: UnixNanos,
    /// Inode number.
    pub inode: u64,
    /// Permission bits; only the lowest 12 count.
    pub mode: u32,
}

impl Identity {
    /// Identity of an entry as its metadata records it.
    pub fn of(meta: &Metadata) -> Self {
        Identity { size: meta.size, mtime: meta.mtime, ctime: meta.ctime, inode: meta.inode, mode: meta.mode }
    }

    /// Puts the digest's input into `buffer`: path, NUL, size, mtime, ctime, inode, mode. A path
    /// holds no NUL, so no two inputs are equal for different entries.
    pub(crate) fn digest_input(&self, path: &[u8], buffer: &mut Vec<u8>) {
        buffer.clear();
        buffer.extend_from_slice(path);
        buffer.push(0);
        buffer.extend_from_slice(&self.size.to_le_bytes());
        buffer.extend_from_slice(&self.mtime.0.to_le_bytes());
        buffer.extend_from_slice(&self.ctime.0.to_le_bytes());
        buffer.extend_from_slice(&self.inode.to_le_bytes());
        buffer.extend_from_slice(&(self.mode & 0o7777).to_le_bytes());
    }
}

/// Bytes of a names record beside path, target and xattrs; an upper bound.
const NAMES_RECORD_BYTES: usize = 96;

/// Upper bound of the names record's length, wherever in a page it stands.
pub(crate) fn names_bytes_max(entry: &Entry) -> usize {
    let kind_bytes = match &entry.kind {
        Kind::Symlink { target } => target.len(),
        Kind::HardLink { first } => first.len(),
        _ => 0,
    };
    let xattr_bytes: usize = entry.meta.xattrs.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
    NAMES_RECORD_BYTES + entry.path.len() + kind_bytes + xattr_bytes
}

/// Refuses an entry that no reader would take.
pub(crate) fn check_entry(entry: &Entry) -> Result<(), DecodeError> {
    check_path(&entry.path)?;
    check_kind(&entry.kind, &entry.path)?;
    if entry.meta.mode > 0o7777 {
        return Err(DecodeError::Invalid { field: "mode" });
    }
    split_time(entry.meta.mtime)?;
    split_time(entry.meta.ctime)?;
    let mut total_bytes = 0;
    for (at, (name, value)) in entry.meta.xattrs.iter().enumerate() {
        let previous = at.checked_sub(1).map(|before| entry.meta.xattrs[before].0.as_slice());
        check_xattr(previous, name, value, &mut total_bytes)?;
    }
    match &entry.content {
        Content::Inline(pieces) if pieces.len() > INLINE_PIECES_MAX => Err(DecodeError::Invalid { field: "pieces" }),
        _ => Ok(()),
    }
}

fn check_kind(kind: &Kind, path: &[u8]) -> Result<(), DecodeError> {
    match kind {
        Kind::Symlink { target } if target.is_empty() || target.len() > SYMLINK_BYTES_MAX || target.contains(&0) => {
            Err(DecodeError::Invalid { field: "link target" })
        }
        Kind::HardLink { first } => {
            check_path(first)?;
            match path_cmp(first, path) {
                std::cmp::Ordering::Less => Ok(()),
                _ => Err(DecodeError::Invalid { field: "first name of a hard link" }),
            }
        }
        _ => Ok(()),
    }
}

fn check_xattr(previous: Option<&[u8]>, name: &[u8], value: &[u8], total_bytes: &mut usize) -> Result<(), DecodeError> {
    *total_bytes += name.len() + value.len();
    let refused = name.is_empty()
        || name.len() > XATTR_NAME_BYTES_MAX
        || name.contains(&0)
        || value.len() > XATTR_VALUE_BYTES_MAX
        || *total_bytes > XATTR_TOTAL_BYTES_MAX
        || previous.is_some_and(|previous| previous >= name);
    if refused { Err(DecodeError::Invalid { field: "extended attribute" }) } else { Ok(()) }
}

fn split_time(time: UnixNanos) -> Result<(i64, u32), DecodeError> {
    let seconds =
        i64::try_from(time.0.div_euclid(1_000_000_000)).map_err(|_| DecodeError::Invalid { field: "time" })?;
    Ok((seconds, time.0.rem_euclid(1_000_000_000) as u32))
}

fn put_time(out: &mut Encoder, time: UnixNanos) {
    let (seconds, nanos) = split_time(time).expect("the entry was checked");
    out.i64(seconds);
    out.u32(nanos);
}

fn take_time(input: &mut Decoder<'_>) -> Result<UnixNanos, DecodeError> {
    let (seconds, nanos) = (input.i64()?, input.u32()?);
    if nanos >= 1_000_000_000 {
        return Err(DecodeError::Invalid { field: "nanoseconds" });
    }
    Ok(UnixNanos(i128::from(seconds) * 1_000_000_000 + i128::from(nanos)))
}

/// Appends the names record; `previous` is the path before it in the page, empty at the start.
pub(crate) fn encode_names(out: &mut Encoder, previous: &[u8], entry: &Entry) {
    put_path(out, previous, &entry.path);
    let code = match &entry.kind {
        Kind::File => 0,
        Kind::Directory => 1,
        Kind::Symlink { .. } => 2,
        Kind::Fifo => 3,
        Kind::CharDevice { .. } => 4,
        Kind::BlockDevice { .. } => 5,
        Kind::HardLink { .. } => 6,
    };
    out.u8(code);
    match &entry.kind {
        Kind::File | Kind::Directory | Kind::Fifo => {}
        Kind::Symlink { target } => out.string(target),
        Kind::HardLink { first } => out.string(first),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            out.u32(*major);
            out.u32(*minor);
        }
    }
    out.u32(entry.meta.mode);
    out.u32(entry.meta.uid);
    out.u32(entry.meta.gid);
    put_time(out, entry.meta.mtime);
    put_time(out, entry.meta.ctime);
    out.u64(entry.meta.inode);
    out.u64(entry.meta.links);
    out.u64(entry.meta.size);
    out.count(entry.meta.xattrs.len());
    for (name, value) in &entry.meta.xattrs {
        out.string(name);
        out.string(value);
    }
}

/// Appends a path as the length it shares with `previous`, and the rest.
pub(crate) fn put_path(out: &mut Encoder, previous: &[u8], path: &[u8]) {
    let shared = common_prefix(previous, path);
    out.u32(shared as u32);
    out.string(&path[shared..]);
}

/// Takes a path in place of `path`, which holds the one before. Checks nothing but lengths.
pub(crate) fn take_path(input: &mut Decoder<'_>, path: &mut Vec<u8>) -> Result<(), DecodeError> {
    let shared = input.u32()? as usize;
    let suffix = input.string(PATH_BYTES_MAX, "path")?;
    if shared > path.len() || shared + suffix.len() > PATH_BYTES_MAX {
        return Err(DecodeError::Invalid { field: "shared path" });
    }
    path.truncate(shared);
    path.extend_from_slice(suffix);
    Ok(())
}

/// Takes kind and metadata of the entry at `path`.
pub(crate) fn decode_names(input: &mut Decoder<'_>, path: &[u8]) -> Result<(Kind, Metadata), DecodeError> {
    let kind = match input.u8()? {
        0 => Kind::File,
        1 => Kind::Directory,
        2 => Kind::Symlink { target: input.string(SYMLINK_BYTES_MAX, "link target")?.to_vec() },
        3 => Kind::Fifo,
        4 => Kind::CharDevice { major: input.u32()?, minor: input.u32()? },
        5 => Kind::BlockDevice { major: input.u32()?, minor: input.u32()? },
        6 => Kind::HardLink { first: input.string(PATH_BYTES_MAX, "first name")?.to_vec() },
        _ => return Err(DecodeError::Invalid { field: "kind" }),
    };
    check_kind(&kind, path)?;
    let mode = input.u32()?;
    if mode > 0o7777 {
        return Err(DecodeError::Invalid { field: "mode" });
    }
    let meta = Metadata {
        mode,
        uid: input.u32()?,
        gid: input.u32()?,
        mtime: take_time(input)?,
        ctime: take_time(input)?,
        inode: input.u64()?,
        links: input.u64()?,
        size: input.u64()?,
        xattrs: take_xattrs(input)?,
    };
    Ok((kind, meta))
}

fn take_xattrs(input: &mut Decoder<'_>) -> Result<Xattrs, DecodeError> {
    let count = input.count(9, "extended attributes")?;
    let mut xattrs: Xattrs = Vec::with_capacity(count.min(64));
    let mut total_bytes = 0;
    for _ in 0..count {
        let name = input.string(XATTR_NAME_BYTES_MAX, "xattr name")?;
        let value = input.string(XATTR_VALUE_BYTES_MAX, "xattr value")?;
        check_xattr(xattrs.last().map(|(name, _)| name.as_slice()), name, value, &mut total_bytes)?;
        xattrs.push((name.to_vec(), value.to_vec()));
    }
    Ok(xattrs)
}

/// Passes over kind and metadata and returns the xattrs; allocates only for them.
pub(crate) fn skim_names(input: &mut Decoder<'_>) -> Result<(), DecodeError> {
    match input.u8()? {
        0 | 1 | 3 => {}
        2 => drop(input.string(SYMLINK_BYTES_MAX, "link target")?),
        6 => drop(input.string(PATH_BYTES_MAX, "first name")?),
        4 | 5 => drop(input.raw(8)?),
        _ => return Err(DecodeError::Invalid { field: "kind" }),
    }
    input.raw(12 + 24 + 24)?;
    Ok(())
}

/// Takes the xattrs that follow [`skim_names`].
pub(crate) fn decode_xattrs(input: &mut Decoder<'_>) -> Result<Xattrs, DecodeError> {
    take_xattrs(input)
}

/// Passes over the xattrs that follow [`skim_names`].
pub(crate) fn skip_xattrs(input: &mut Decoder<'_>) -> Result<(), DecodeError> {
    for _ in 0..input.count(9, "extended attributes")? {
        input.string(XATTR_NAME_BYTES_MAX, "xattr name")?;
        input.string(XATTR_VALUE_BYTES_MAX, "xattr value")?;
    }
    Ok(())
}
