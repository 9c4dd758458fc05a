//! Where restored bytes go: the [`Target`] trait.
//!
//! Paths are relative to the target's root, components joined by `/`, any bytes. They may come from a crafted
//! manifest, so an implementation checks every component again and never writes outside its root, whatever
//! links it meets there.
//!
//! Limits: none of its own; callers bound what is in flight. Must never: leave a half-written file under its
//! final name, follow a symbolic link, or block the thread that polls a future. Every future is completed by
//! the target's own threads and needs no reactor.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use mover_repository::ids::UnixNanos;

/// What every call returns. Work may start at the call.
pub type TargetFuture<T> = Pin<Box<dyn Future<Output = Result<T, TargetError>> + Send + 'static>>;

/// Why something could not be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {}: {cause}", String::from_utf8_lossy(path))]
pub struct TargetError {
    /// Path below the target.
    pub path: Vec<u8>,
    /// What was tried, as a verb.
    pub operation: &'static str,
    /// What to do about it.
    pub kind: TargetErrorKind,
    /// The cause in words.
    pub cause: String,
}

impl TargetError {
    /// True if nothing further can succeed: the target is full, read-only or broken.
    pub fn fatal(&self) -> bool {
        matches!(self.kind, TargetErrorKind::Full | TargetErrorKind::ReadOnly | TargetErrorKind::Io)
    }
}

/// Classes of [`TargetError`] that a caller treats differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TargetErrorKind {
    /// No space, no inodes, or over quota. Fatal.
    Full,
    /// The target cannot be written. Fatal.
    ReadOnly,
    /// The device failed. Fatal.
    Io,
    /// The name exists and may not be replaced, or a directory is in the way.
    Exists,
    /// The parent directory is missing.
    NotFound,
    /// The path is not one: an empty, dot or overlong component, or a NUL byte.
    InvalidPath,
    /// A symbolic link or a non-directory stands where a directory must be.
    Escape,
    /// The process may not do this.
    PermissionDenied,
    /// Whatever else concerns this entry alone.
    Other,
    /// A bug: a worker panicked.
    Internal,
}

/// An attribute that could not be set on an entry that is otherwise restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeProblem {
    /// Path below the target.
    pub path: Vec<u8>,
    /// Which.
    pub attribute: AttributeKind,
    /// The cause in words.
    pub cause: String,
}

/// Classes of attributes, so that a caller can count instead of repeating itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttributeKind {
    /// Owner or group.
    Owner,
    /// Permission, set-id or sticky bits.
    Mode,
    /// Modification time.
    Times,
    /// An extended attribute, by name.
    Xattr(Vec<u8>),
    /// A device node that may not be made; the entry is absent.
    Device,
}

/// When an entry that exists is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overwrite {
    /// Always.
    #[default]
    Always,
    /// If size or mtime differ.
    IfChanged,
    /// If the entry in the recovery point is newer.
    IfNewer,
    /// Never; the existing entry stays.
    Never,
}

/// Attributes to be given to an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetMeta {
    /// Permission, set-id and sticky bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of content.
    pub mtime: UnixNanos,
    /// Extended attributes, POSIX ACLs among them.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A file that is written whole.
#[derive(Debug, Clone)]
pub struct SmallFile {
    /// Path below the target.
    pub path: Vec<u8>,
    /// Its attributes.
    pub meta: TargetMeta,
    /// Logical bytes; what no part covers is a hole.
    pub size: u64,
    /// Bytes and where they go.
    pub parts: Vec<(u64, Bytes)>,
}

/// A node without content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
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
}

/// A further name of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HardLink {
    /// The name that exists.
    pub first: Vec<u8>,
    /// The name to be made.
    pub path: Vec<u8>,
}

/// What the target has under a name. Links are not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Existing {
    /// Kind of entry.
    pub kind: crate::source::FileKind,
    /// Logical bytes.
    pub size: u64,
    /// Bytes that it takes on its device.
    pub allocated_bytes: u64,
    /// Time of the last change of content.
    pub mtime: UnixNanos,
    /// Device that the entry lies on; an inode number means nothing without it.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Its names.
    pub links: u64,
}

impl Existing {
    /// True if both are names of one file.
    pub fn is_same_file(&self, other: &Existing) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// Room that is left on one file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Its device.
    pub device: u64,
    /// Bytes that this process may still write.
    pub bytes: u64,
    /// Inodes that it may still make; `u64::MAX` where the file system has no such limit.
    pub inodes: u64,
}

/// A place that files are restored to. Shared by all shards.
pub trait Target: Send + Sync + 'static {
    /// One line for logs.
    fn describe(&self) -> String;

    /// Room that is left where each path lies or would be made; one result a path, in order.
    fn free_space(&self, paths: Vec<Vec<u8>>) -> TargetFuture<Vec<Space>>;

    /// What is there under each path, for overwrite rules and dry runs; one result a path, in order. A missing
    /// parent gives `None`. One blocking call for the batch.
    fn existing(&self, paths: Vec<Vec<u8>>) -> TargetFuture<Vec<Result<Option<Existing>, TargetError>>>;

    /// Makes `path` and its missing ancestors with mode 0755, finished as they are: the way from the target's root
    /// to a fileset. What exists stays untouched; an ancestor that is a symbolic link is refused.
    fn make_parents(&self, path: &[u8]) -> TargetFuture<()>;

    /// Makes directories that only their owner can enter until [`Target::finish_directories`], in the order given
    /// (parents first), one blocking call for the batch; one result a path: true if it was made now, false if it
    /// existed and was taken as it is. The empty path is the target itself. What stands there and is no directory gives
    /// way if `replaces` says so, and not before the directory is made; else the path is refused as
    /// [`TargetErrorKind::Exists`].
    fn make_directories(&self, paths: Vec<Vec<u8>>, replaces: bool) -> TargetFuture<Vec<Result<bool, TargetError>>>;

    /// Writes small files whole: temporary name, content, attributes, rename. One blocking call for the batch;
    /// one result a file, in order. A file that fails leaves nothing behind.
    fn write_files(&self, files: Vec<SmallFile>) -> TargetFuture<Vec<Result<Vec<AttributeProblem>, TargetError>>>;

    /// Starts a large file of `size` bytes under a temporary name; what is not written stays a hole.
    fn create_file(&self, path: &[u8], size: u64) -> TargetFuture<Arc<dyn TargetFile>>;

    /// Makes a fifo or device node with its attributes.
    fn make_node(&self, path: &[u8], kind: NodeKind, meta: TargetMeta) -> TargetFuture<Vec<AttributeProblem>>;

    /// Makes a symbolic link with its owner and times; the mode of a link means nothing.
    fn symlink(&self, path: &[u8], link_target: &[u8], meta: TargetMeta) -> TargetFuture<Vec<AttributeProblem>>;

    /// Makes each `path` another name of `first`, which was restored before, and replaces what is there; one
    /// blocking call for the batch, one result a link, in order.
    fn hard_links(&self, links: Vec<HardLink>) -> TargetFuture<Vec<Result<(), TargetError>>>;

    /// Gives directories their owner, mode, xattrs and times, after their last child, in the order given (children
    /// first, so that a closed parent blocks none); one blocking call for the batch, one result a directory.
    fn finish_directories(
        &self,
        directories: Vec<(Vec<u8>, TargetMeta)>,
    ) -> TargetFuture<Vec<Result<Vec<AttributeProblem>, TargetError>>>;

    /// Reads ranges of restored files back, to be compared; fewer bytes only at the end of a file. One blocking call
    /// for the batch, one result a range, in order.
    fn read_back(&self, ranges: Vec<(Vec<u8>, std::ops::Range<u64>)>) -> TargetFuture<Vec<Result<Bytes, TargetError>>>;

    /// Makes all that was restored durable; reports a write-back error that happened since the target was opened.
    fn sync(&self) -> TargetFuture<()>;

    /// Resolves when every call that was begun has ended, those whose result nobody waits for among them: a restore that
    /// stops is not over while the target still changes.
    fn settled(&self) -> TargetFuture<()> {
        Box::pin(async { Ok(()) })
    }
}

/// A large file on its way. Dropped unfinished, its temporary name is removed.
pub trait TargetFile: Send + Sync {
    /// Writes at offsets, in any order; several calls may be in flight.
    fn write_at(&self, writes: Vec<(u64, Bytes)>) -> TargetFuture<()>;

    /// Attributes, then the final name. Call once, after every write has resolved.
    fn finish(&self, meta: TargetMeta) -> TargetFuture<Vec<AttributeProblem>>;
}
