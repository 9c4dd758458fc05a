//! Where bytes come from: the [`Source`] trait and its kinds.
//!
//! A source hands out *filesets*: trees of entries that are listed one directory at a time and read one batch
//! or one range at a time. Paths are relative to the fileset's root, components joined by `/`, any bytes; the
//! empty path is the root itself.
//!
//! Limits: a [`Listing`] holds at most [`LISTING_ENTRIES_MAX`] entries, a longer directory goes on in
//! [`Listing::more`]. Nothing is kept open for an item that waits in a queue: files are opened by path and
//! recognised by device and inode.
//!
//! Must never: follow a symbolic link below the root, pad a file that shrank, swallow an error, or block the
//! thread that polls a future. Every future is completed by the source's own threads and needs no reactor.

pub mod file;
pub mod filter;
mod holes;
mod listing;
mod reading;
pub(crate) mod statx;
pub mod stream;
pub(crate) mod xattr;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use mover_repository::ids::UnixNanos;

/// Entries in one [`Listing`]; what follows comes by [`Listing::more`].
pub const LISTING_ENTRIES_MAX: usize = 16 << 10;

/// [`Stat::size`] of a stream whose end was not reached yet.
pub const SIZE_UNKNOWN: u64 = u64::MAX;

/// What every call returns. Work may start at the call; dropping the future never leaves harm behind.
pub type SourceFuture<T> = Pin<Box<dyn Future<Output = Result<T, SourceError>> + Send + 'static>>;

/// Extended attributes as (name, value), sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Why something of the source could not be had. Never ends a job by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {}: {cause}", String::from_utf8_lossy(path))]
pub struct SourceError {
    /// The path inside the fileset, or the PATH argument where there is no fileset yet.
    pub path: Vec<u8>,
    /// What was tried, as a verb: `open`, `list`, `read`.
    pub operation: &'static str,
    /// What to do about it.
    pub kind: SourceErrorKind,
    /// The cause in words.
    pub cause: String,
}

/// Classes of [`SourceError`] that a caller treats differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceErrorKind {
    /// It was listed and is gone.
    Vanished,
    /// The process may not read it.
    PermissionDenied,
    /// It is not what was listed: another inode, another kind, or too large for the buffer now. Ask
    /// [`Source::stat`] and try again.
    Changed,
    /// A name, link or attribute exceeds what the repository can hold.
    TooLarge,
    /// The source cannot do this at all.
    NotSupported,
    /// The device or file system failed.
    Io,
    /// A temporary file of our own failed: nothing is wrong with the source, and the job cannot go on.
    Scratch,
    /// A bug: a worker panicked, a call was out of contract.
    Internal,
}

/// Kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A socket; listed so that it can be counted, never backed up.
    Socket,
}

/// What the source knows of an entry without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Kind of entry.
    pub kind: FileKind,
    /// Permission, set-id and sticky bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of content.
    pub mtime: UnixNanos,
    /// Time of the last change of content or attributes.
    pub ctime: UnixNanos,
    /// Inode number; 0 where the source has none.
    pub inode: u64,
    /// Device that holds the entry.
    pub device: u64,
    /// Names that the inode has.
    pub links: u64,
    /// Logical bytes.
    pub size: u64,
    /// Bytes allocated on the device; less than `size` means holes.
    pub blocks_bytes: u64,
    /// Major and minor number of a device node.
    pub rdev: (u32, u32),
    /// Time at which the inode came into being, in listings of file systems that tell it.
    pub birth: Option<UnixNanos>,
}

impl Stat {
    /// True if a file with this stat and one with `later` were not changed in between: same inode, size,
    /// mtime and ctime.
    pub fn unchanged(&self, later: &Stat) -> bool {
        self.kind == later.kind
            && self.device == later.device
            && self.inode == later.inode
            && self.size == later.size
            && self.mtime == later.mtime
            && self.ctime == later.ctime
    }

    /// Tells an inode from a later one that was given the same number: inode numbers are used again as soon as a file
    /// is removed. By the time of birth, which no system call can set; where there is none, by kind, size and mtime, so
    /// that a linked file which changes meanwhile may be taken for two, never two files for one.
    pub fn lineage(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        match self.birth {
            Some(birth) => (self.kind, birth.0).hash(&mut hasher),
            None => (self.kind, self.size, self.mtime.0).hash(&mut hasher),
        }
        hasher.finish()
    }

    /// True if the file has fewer blocks than bytes, so that asking for its holes can pay.
    pub fn may_have_holes(&self) -> bool {
        self.blocks_bytes < self.size && self.size >= mover_repository::limits::HOLE_BYTES_MIN
    }
}

/// One fileset of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesetSpec {
    /// The absolute path of the root as the user named it, or the name of a stream.
    pub root_path: Vec<u8>,
}

/// One child of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name in the directory; empty for a fileset's root.
    pub name: Vec<u8>,
    /// Its stat; links are not followed.
    pub stat: Stat,
}

/// What filters left out of one listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Excluded {
    /// Entries left out (a directory counts as one).
    pub entries: u64,
    /// Bytes of the regular files among them.
    pub bytes: u64,
    /// How many each rule left out.
    pub by_rule: BTreeMap<String, u64>,
    /// Their paths, only when the source was asked to name them.
    pub paths: Vec<Vec<u8>>,
}

impl Excluded {
    /// Counts one entry that a rule left out.
    pub fn count(&mut self, rule: &str, bytes: u64) {
        self.entries += 1;
        self.bytes += bytes;
        match self.by_rule.get_mut(rule) {
            Some(count) => *count += 1,
            None => _ = self.by_rule.insert(rule.to_owned(), 1),
        }
    }

    /// Adds what another listing left out.
    pub fn merge(&mut self, other: Excluded) {
        self.entries += other.entries;
        self.bytes += other.bytes;
        for (rule, count) in other.by_rule {
            *self.by_rule.entry(rule).or_default() += count;
        }
        self.paths.extend(other.paths);
    }
}

/// Children of a directory, sorted by name as bytes.
#[derive(Default)]
pub struct Listing {
    /// The children, at most [`LISTING_ENTRIES_MAX`].
    pub entries: Vec<Listed>,
    /// Children that could not be examined.
    pub errors: Vec<SourceError>,
    /// What filters left out.
    pub excluded: Excluded,
    /// Sentences for the user, such as that the repository itself was left out.
    pub notes: Vec<String>,
    /// Attributes of the listed directory itself; in the first part of a listing only.
    pub attributes: Option<Attributes>,
    /// The listing goes on: all names there sort after all names here.
    pub more: Option<Box<dyn ListingRest>>,
}

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listing")
            .field("entries", &self.entries)
            .field("errors", &self.errors)
            .field("excluded", &self.excluded)
            .field("notes", &self.notes)
            .field("more", &self.more.is_some())
            .finish_non_exhaustive()
    }
}

/// The rest of a directory that is too long for one [`Listing`]. Its names wait in sealed scratch storage.
pub trait ListingRest: Send {
    /// The next part.
    fn next(self: Box<Self>) -> SourceFuture<Listing>;
}

/// Attributes that a stat does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Extended attributes, POSIX ACLs among them.
    pub xattrs: Xattrs,
    /// Target of a symbolic link.
    pub link_target: Option<Vec<u8>>,
}

/// A file to be read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRequest {
    /// Path inside the fileset.
    pub path: Vec<u8>,
    /// Its stat as listed: inode and device must still be the same, size is the room it was given.
    pub stat: Stat,
}

/// A file that was read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRead {
    /// Where its bytes are in [`FilesRead::buffer`]: those of the data spans, one after another. Shorter than
    /// the spans say if the file shrank meanwhile; `after` then differs from `before`.
    pub range: Range<usize>,
    /// Stat of the open file before the first byte was read.
    pub before: Stat,
    /// Stat of the open file after the last byte was read.
    pub after: Stat,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// Data and holes in order of offset, covering `before.size`; empty for a file without holes.
    pub spans: Vec<Span>,
}

/// What [`Source::read_files`] brings back.
#[derive(Debug, Default)]
pub struct FilesRead {
    /// The buffer that came with the request, filled.
    pub buffer: Vec<u8>,
    /// One result a request, in its order.
    pub files: Vec<Result<FileRead, SourceError>>,
}

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// Bytes to be read.
    Data {
        /// Offset of the first byte.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// Zeros that take no space: at least 64 KiB, both ends aligned to 4 KiB (the end of the file excepted).
    Hole {
        /// Offset of the first byte.
        offset: u64,
        /// How many.
        bytes: u64,
    },
}

/// A place that files come from. Shared by all shards.
pub trait Source: Send + Sync + 'static {
    /// One line for logs.
    fn describe(&self) -> String;

    /// How many filesets there are; they are moved in sequence.
    fn fileset_count(&self) -> usize;

    /// The fileset `k`, counted from 0.
    fn fileset(&self, k: usize) -> FilesetSpec;

    /// True if fileset `k` is one stream: its root is a regular file of [`SIZE_UNKNOWN`], to be opened by
    /// [`Source::open_file`] and read in sequence, once.
    fn is_sequential(&self, _k: usize) -> bool {
        false
    }

    /// The root entry of fileset `k`; its name is empty.
    fn root(&self, k: usize) -> SourceFuture<Listed>;

    /// All children of a directory that the filters let through, sorted by name. A child that cannot be
    /// examined is an error inside the listing; the call fails only if the directory itself cannot be read.
    fn list(&self, k: usize, directory: &[u8]) -> SourceFuture<Listing>;

    /// The stat of one entry as it is now; for a second look after [`SourceErrorKind::Changed`].
    fn stat(&self, k: usize, path: &[u8]) -> SourceFuture<Stat>;

    /// What a stat does not tell: xattrs of any kind of entry, the target of a symbolic link.
    fn attributes(&self, k: usize, path: &[u8], kind: FileKind) -> SourceFuture<Attributes>;

    /// Reads small files whole, in one blocking call. `buffer` is cleared first and never grows beyond its
    /// capacity: it must have room for the sum of the listed sizes. A file that outgrew its listed size and
    /// the room that is left is reported as [`SourceErrorKind::Changed`].
    fn read_files(&self, k: usize, files: Vec<FileRequest>, buffer: Vec<u8>) -> SourceFuture<FilesRead>;

    /// Opens a large file to be read in ranges; fails with [`SourceErrorKind::Changed`] if it is not the inode
    /// that `stat` names.
    fn open_file(&self, k: usize, path: &[u8], stat: &Stat) -> SourceFuture<Arc<dyn SourceFile>>;
}

/// An open large file. Several ranges may be read at once.
pub trait SourceFile: Send + Sync {
    /// Appends up to `want` bytes from `offset` on to `buffer` and hands it back. Fewer only at the end of the
    /// file. The buffer grows only if its spare capacity is below `want`.
    fn read_at(&self, offset: u64, want: usize, buffer: Vec<u8>) -> SourceFuture<Vec<u8>>;

    /// Data and holes of `range`, in order, covering it up to the end of the file.
    fn spans(&self, range: Range<u64>) -> SourceFuture<Vec<Span>>;

    /// Stat of the open file as it is now.
    fn stat(&self) -> SourceFuture<Stat>;

    /// Extended attributes.
    fn xattrs(&self) -> SourceFuture<Xattrs>;
}
