//! A simulated source: trees whose files are described by a seed and a length, so that 100,000 of them cost little.
//!
//! Files may change while they are read, vanish, shrink or refuse to be read. Every byte range that is read is noted
//! with its time, so a test can prove that no byte of one fileset was read before the one before it was sealed.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use mover_repository::ids::UnixNanos;
use parking_lot::Mutex;

use super::{Latency, fill_seeded};
use crate::runtime::simulation::SimHandle;
use crate::source::{
    Attributes, FileKind, FileRead, FileRequest, FilesRead, FilesetSpec, LISTING_ENTRIES_MAX, Listed, Listing,
    ListingRest, Source, SourceError, SourceErrorKind, SourceFile, SourceFuture, Span, Stat, Xattrs,
};

/// How a simulated file behaves while it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimBehaviour {
    /// It stays as it is.
    Steady,
    /// It changes during its first so many reads, and is steady afterwards.
    ChangesDuringReads(u32),
    /// It is listed and gone when it is opened.
    Vanishes,
    /// It cannot be opened.
    Unreadable,
    /// It loses half of its bytes during its first read.
    ShrinksDuringRead,
}

/// A file of a simulated tree.
#[derive(Clone, Copy, Debug)]
pub struct SimFile {
    /// Names the content: two files of one seed have the same bytes.
    pub seed: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// What it does.
    pub behaviour: SimBehaviour,
}

#[derive(Clone, Debug)]
enum Node {
    Directory(Vec<Vec<u8>>),
    File { file: SimFile, version: u32 },
    Symlink(Vec<u8>),
}

#[derive(Clone, Debug)]
struct Entry {
    node: Node,
    inode: u64,
    mtime: UnixNanos,
}

/// One fileset of a simulated source.
#[derive(Clone, Debug)]
pub struct SimTree {
    root_path: Vec<u8>,
    entries: BTreeMap<Vec<u8>, Entry>,
    gates: BTreeSet<Vec<u8>>,
    next_inode: u64,
}

/// When trees were made: long before the simulated clock starts.
const MADE: UnixNanos = UnixNanos(1_600_000_000_000_000_000);

impl SimTree {
    /// An empty tree whose root is a directory.
    pub fn new(root_path: &str) -> SimTree {
        let root = Entry { node: Node::Directory(Vec::new()), inode: 1, mtime: MADE };
        SimTree {
            root_path: root_path.into(),
            entries: BTreeMap::from([(Vec::new(), root)]),
            gates: BTreeSet::new(),
            next_inode: 2,
        }
    }

    fn insert(&mut self, path: &[u8], node: Node) {
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], path),
        };
        if !self.entries.contains_key(parent) {
            self.insert(parent, Node::Directory(Vec::new()));
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        let is_new = self.entries.insert(path.to_vec(), Entry { node, inode, mtime: MADE }).is_none();
        if let Some(Entry { node: Node::Directory(names), .. }) = self.entries.get_mut(parent)
            && is_new
        {
            let place = names.partition_point(|other| other.as_slice() < name);
            names.insert(place, name.to_vec());
        }
    }

    /// The absolute path of its root.
    pub fn root_path(&self) -> &[u8] {
        &self.root_path
    }

    /// Adds a directory and its missing parents.
    pub fn directory(mut self, path: &str) -> SimTree {
        self.insert(path.as_bytes(), Node::Directory(Vec::new()));
        self
    }

    /// Adds a steady file of `bytes` bytes that `seed` names, and its missing parents.
    pub fn file(self, path: &str, seed: u64, bytes: u64) -> SimTree {
        self.file_that(path, SimFile { seed, bytes, behaviour: SimBehaviour::Steady })
    }

    /// Adds a file that behaves as told.
    pub fn file_that(mut self, path: &str, file: SimFile) -> SimTree {
        self.insert(path.as_bytes(), Node::File { file, version: 0 });
        self
    }

    /// Adds a symbolic link.
    pub fn symlink(mut self, path: &str, link_target: &str) -> SimTree {
        self.insert(path.as_bytes(), Node::Symlink(link_target.into()));
        self
    }

    /// Adds a directory that is not listed before every file whose path sorts before it was read: whoever lets work
    /// lie while he waits for more of it waits for ever.
    pub fn gated_directory(mut self, path: &str) -> SimTree {
        self.gates.insert(path.into());
        self.directory(path)
    }

    fn is_open(&self, directory: &[u8], files_read: &BTreeSet<Vec<u8>>) -> bool {
        if !self.gates.contains(directory) {
            return true;
        }
        let before = self.entries.range(Vec::new()..directory.to_vec());
        let mut files = before.filter(|(_, entry)| matches!(entry.node, Node::File { .. }));
        files.all(|(path, _)| files_read.contains(path))
    }

    /// Paths and contents of all files as they are now, to compare a restore with.
    pub fn contents(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut contents = BTreeMap::new();
        for (path, entry) in &self.entries {
            if let Node::File { file, version } = &entry.node {
                let mut bytes = vec![0; file.bytes as usize];
                fill_seeded(content_seed(file, *version), 0, &mut bytes);
                contents.insert(path.clone(), bytes);
            }
        }
        contents
    }
}

fn content_seed(file: &SimFile, version: u32) -> u64 {
    file.seed.wrapping_mul(0x1000_0000_01b3).wrapping_add(u64::from(version))
}

impl Entry {
    fn stat(&self) -> Stat {
        let (kind, mode, size) = match &self.node {
            Node::Directory(_) => (FileKind::Directory, 0o755, 4096),
            Node::File { file, .. } => (FileKind::File, 0o644, file.bytes),
            Node::Symlink(link_target) => (FileKind::Symlink, 0o777, link_target.len() as u64),
        };
        Stat {
            kind,
            mode,
            uid: 1000,
            gid: 1000,
            mtime: self.mtime,
            ctime: self.mtime,
            inode: self.inode,
            device: 7,
            links: 1,
            size,
            blocks_bytes: size.next_multiple_of(512),
            rdev: (0, 0),
            birth: None,
        }
    }
}

/// A range of a file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRead {
    /// Simulated time at which the read was asked for.
    pub time: Duration,
    /// The fileset, from 0.
    pub fileset: usize,
    /// Path inside of it.
    pub path: Vec<u8>,
    /// Offset of the first byte.
    pub offset: u64,
    /// Bytes read.
    pub bytes: u64,
}

/// Work that a simulated source was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceCounts {
    /// `list` calls.
    pub lists: u64,
    /// Files opened, small and large.
    pub opens: u64,
    /// Bytes handed out.
    pub bytes: u64,
}

struct World {
    trees: Vec<SimTree>,
    reads: Vec<SourceRead>,
    files_read: Vec<BTreeSet<Vec<u8>>>,
    waiting_at_gates: Vec<Waker>,
    counts: SourceCounts,
}

struct Shared {
    handle: SimHandle,
    latency: Latency,
    world: Mutex<World>,
}

/// The simulated source. Clones share it.
#[derive(Clone)]
pub struct SimSource {
    shared: Arc<Shared>,
}

fn failed(path: &[u8], operation: &'static str, kind: SourceErrorKind, cause: &str) -> SourceError {
    SourceError { path: path.to_vec(), operation, kind, cause: cause.to_owned() }
}

impl World {
    fn find(&self, k: usize, path: &[u8], operation: &'static str) -> Result<&Entry, SourceError> {
        let found = self.trees[k].entries.get(path);
        found.ok_or_else(|| failed(path, operation, SourceErrorKind::Vanished, "no such file or directory"))
    }

    /// Opens a file as the kernel would: it may be gone or refuse.
    fn open(&mut self, k: usize, path: &[u8], inode: u64) -> Result<(), SourceError> {
        self.counts.opens += 1;
        let entry = self.find(k, path, "open")?;
        let Node::File { file, .. } = &entry.node else {
            return Err(failed(path, "open", SourceErrorKind::Changed, "is no regular file any more"));
        };
        match file.behaviour {
            SimBehaviour::Vanishes => Err(failed(path, "open", SourceErrorKind::Vanished, "no such file or directory")),
            SimBehaviour::Unreadable => {
                Err(failed(path, "open", SourceErrorKind::PermissionDenied, "permission denied"))
            }
            _ if entry.inode != inode => Err(failed(path, "open", SourceErrorKind::Changed, "another inode")),
            _ => Ok(()),
        }
    }

    /// Appends a range to `buffer`; somebody may write to the file meanwhile.
    fn read(&mut self, time: Duration, k: usize, path: &[u8], range: Range<u64>, buffer: &mut Vec<u8>) {
        let Some(Entry { node: Node::File { file, version }, mtime, .. }) = self.trees[k].entries.get_mut(path) else {
            return;
        };
        let end = range.end.min(file.bytes);
        let bytes = end.saturating_sub(range.start);
        let before = buffer.len();
        buffer.resize(before + bytes as usize, 0);
        fill_seeded(content_seed(file, *version), range.start, &mut buffer[before..]);
        let is_touched = match file.behaviour {
            SimBehaviour::ChangesDuringReads(times) => *version < times,
            SimBehaviour::ShrinksDuringRead => *version == 0,
            _ => false,
        };
        if is_touched {
            *version += 1;
            *mtime = UnixNanos(mtime.0 + 1_000_000);
            if file.behaviour == SimBehaviour::ShrinksDuringRead {
                file.bytes /= 2;
            }
        }
        if end == file.bytes && !self.trees[k].gates.is_empty() {
            self.files_read[k].insert(path.to_vec());
            self.waiting_at_gates.drain(..).for_each(Waker::wake);
        }
        self.counts.bytes += bytes;
        self.reads.push(SourceRead { time, fileset: k, path: path.to_vec(), offset: range.start, bytes });
    }

    fn read_whole(
        &mut self,
        time: Duration,
        k: usize,
        request: &FileRequest,
        buffer: &mut Vec<u8>,
    ) -> Result<FileRead, SourceError> {
        self.open(k, &request.path, request.stat.inode)?;
        let before = self.find(k, &request.path, "stat")?.stat();
        if before.size > (buffer.capacity() - buffer.len()) as u64 {
            return Err(failed(&request.path, "read", SourceErrorKind::Changed, "larger than it was listed"));
        }
        let start = buffer.len();
        self.read(time, k, &request.path, 0..before.size, buffer);
        let after = self.find(k, &request.path, "stat")?.stat();
        let (range, xattrs, spans) = (start..buffer.len(), Vec::new(), Vec::new());
        Ok(FileRead { range, before, after, xattrs, spans })
    }
}

impl SimSource {
    /// A source of `trees`, one fileset each, in the simulation of `handle`.
    pub fn new(handle: SimHandle, latency: Latency, trees: Vec<SimTree>) -> SimSource {
        let world = World {
            files_read: vec![BTreeSet::new(); trees.len()],
            trees,
            reads: Vec::new(),
            waiting_at_gates: Vec::new(),
            counts: SourceCounts::default(),
        };
        let world = Mutex::new(world);
        SimSource { shared: Arc::new(Shared { handle, latency, world }) }
    }

    /// Every range that was read, in order.
    pub fn reads(&self) -> Vec<SourceRead> {
        self.shared.world.lock().reads.clone()
    }

    /// The work done so far.
    pub fn counts(&self) -> SourceCounts {
        self.shared.world.lock().counts
    }

    /// The trees as they are now.
    pub fn trees(&self) -> Vec<SimTree> {
        self.shared.world.lock().trees.clone()
    }

    fn gate(&self, k: usize, directory: Vec<u8>) -> impl Future<Output = ()> + Send + use<> {
        let shared = self.shared.clone();
        poll_fn(move |cx| {
            let mut world = shared.world.lock();
            if world.trees[k].is_open(&directory, &world.files_read[k]) {
                return Poll::Ready(());
            }
            world.waiting_at_gates.push(cx.waker().clone());
            Poll::Pending
        })
    }

    fn call<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Shared, &mut World) -> Result<T, SourceError> + Send + 'static,
    ) -> SourceFuture<T> {
        let shared = self.shared.clone();
        Box::pin(async move {
            shared.handle.delay(shared.latency.least, shared.latency.most).await;
            let mut world = shared.world.lock();
            act(&shared, &mut world)
        })
    }
}

impl Source for SimSource {
    fn describe(&self) -> String {
        "simulated source".to_owned()
    }

    fn fileset_count(&self) -> usize {
        self.shared.world.lock().trees.len()
    }

    fn fileset(&self, k: usize) -> FilesetSpec {
        FilesetSpec { root_path: self.shared.world.lock().trees[k].root_path.clone() }
    }

    fn root(&self, k: usize) -> SourceFuture<Listed> {
        self.call(move |_, world| Ok(Listed { name: Vec::new(), stat: world.find(k, b"", "stat")?.stat() }))
    }

    fn list(&self, k: usize, directory: &[u8]) -> SourceFuture<Listing> {
        let (source, directory) = (self.clone(), directory.to_vec());
        let gate = self.gate(k, directory.clone());
        let listing = self.call(move |_, world| {
            world.counts.lists += 1;
            let Node::Directory(names) = &world.find(k, &directory, "list")?.node else {
                return Err(failed(&directory, "list", SourceErrorKind::Changed, "is no directory any more"));
            };
            let mut entries = Vec::with_capacity(names.len());
            for name in names {
                let mut path = directory.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
                entries.push(Listed { name: name.clone(), stat: world.find(k, &path, "stat")?.stat() });
            }
            let mut listing = part_of(source, entries);
            listing.attributes = Some(Attributes::default());
            Ok(listing)
        });
        Box::pin(async move {
            gate.await;
            listing.await
        })
    }

    fn stat(&self, k: usize, path: &[u8]) -> SourceFuture<Stat> {
        let path = path.to_vec();
        self.call(move |_, world| Ok(world.find(k, &path, "stat")?.stat()))
    }

    fn attributes(&self, k: usize, path: &[u8], _kind: FileKind) -> SourceFuture<Attributes> {
        let path = path.to_vec();
        self.call(move |_, world| {
            let link_target = match &world.find(k, &path, "read attributes of")?.node {
                Node::Symlink(link_target) => Some(link_target.clone()),
                _ => None,
            };
            Ok(Attributes { xattrs: Vec::new(), link_target })
        })
    }

    fn read_files(&self, k: usize, files: Vec<FileRequest>, mut buffer: Vec<u8>) -> SourceFuture<FilesRead> {
        self.call(move |shared, world| {
            buffer.clear();
            let time = shared.handle.now();
            let files = files.iter().map(|request| world.read_whole(time, k, request, &mut buffer)).collect();
            Ok(FilesRead { buffer, files })
        })
    }

    fn open_file(&self, k: usize, path: &[u8], stat: &Stat) -> SourceFuture<Arc<dyn SourceFile>> {
        let (source, path, inode) = (self.clone(), path.to_vec(), stat.inode);
        self.call(move |_, world| {
            world.open(k, &path, inode)?;
            let file: Arc<dyn SourceFile> = Arc::new(OpenFile { source, k, path });
            Ok(file)
        })
    }
}

/// The first entries of a listing; the rest comes when asked for.
fn part_of(source: SimSource, mut entries: Vec<Listed>) -> Listing {
    let rest = entries.split_off(entries.len().min(LISTING_ENTRIES_MAX));
    let more = (!rest.is_empty()).then(|| Box::new(Rest { source, entries: rest }) as Box<dyn ListingRest>);
    Listing { entries, more, ..Listing::default() }
}

struct Rest {
    source: SimSource,
    entries: Vec<Listed>,
}

impl ListingRest for Rest {
    fn next(self: Box<Self>) -> SourceFuture<Listing> {
        let Rest { source, entries } = *self;
        let rest_source = source.clone();
        source.call(move |_, _| Ok(part_of(rest_source, entries)))
    }
}

struct OpenFile {
    source: SimSource,
    k: usize,
    path: Vec<u8>,
}

impl SourceFile for OpenFile {
    fn read_at(&self, offset: u64, want: usize, mut buffer: Vec<u8>) -> SourceFuture<Vec<u8>> {
        let (k, path) = (self.k, self.path.clone());
        self.source.call(move |shared, world| {
            world.find(k, &path, "read")?;
            world.read(shared.handle.now(), k, &path, offset..offset + want as u64, &mut buffer);
            Ok(buffer)
        })
    }

    fn spans(&self, range: Range<u64>) -> SourceFuture<Vec<Span>> {
        let (k, path) = (self.k, self.path.clone());
        self.source.call(move |_, world| {
            let size = world.find(k, &path, "read holes of")?.stat().size;
            let bytes = range.end.min(size).saturating_sub(range.start);
            Ok(if bytes == 0 { Vec::new() } else { vec![Span::Data { offset: range.start, bytes }] })
        })
    }

    fn stat(&self) -> SourceFuture<Stat> {
        self.source.stat(self.k, &self.path)
    }

    fn xattrs(&self) -> SourceFuture<Xattrs> {
        self.source.call(|_, _| Ok(Vec::new()))
    }
}
