//! A simulated target: what a restore has put where, in memory.
//!
//! A file that is on its way is not visible under its name; dropped unfinished, nothing of it remains.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::Latency;
use crate::restore::target::{
    AttributeProblem, Existing, HardLink, NodeKind, SmallFile, Space, Target, TargetError, TargetErrorKind, TargetFile,
    TargetFuture, TargetMeta,
};
use crate::runtime::simulation::SimHandle;
use crate::source::FileKind;

/// What may go wrong with a simulated target, and how slow it is.
#[derive(Clone, Copy, Debug)]
pub struct TargetFaults {
    /// How long a call takes.
    pub latency: Latency,
    /// Room for this many bytes of content.
    pub room_bytes: u64,
    /// Of 1,000 small files, how many fail by themselves.
    pub refused_per_mille: u64,
}

impl Default for TargetFaults {
    fn default() -> Self {
        TargetFaults { latency: Latency::micros(5, 300), room_bytes: u64::MAX / 2, refused_per_mille: 0 }
    }
}

/// What is under a name of a simulated target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SimEntry {
    /// A directory; the attributes once it is finished.
    Directory(Option<TargetMeta>),
    /// A file with its bytes and attributes. Holes read as zeros.
    File(Vec<u8>, TargetMeta),
    /// A symbolic link.
    Symlink(Vec<u8>, TargetMeta),
    /// A fifo or device.
    Node(NodeKind, TargetMeta),
    /// Another name of the file under that name.
    HardLink(Vec<u8>),
}

#[derive(Default)]
struct World {
    entries: BTreeMap<Vec<u8>, SimEntry>,
    used_bytes: u64,
    syncs: u64,
}

struct Shared {
    handle: SimHandle,
    faults: TargetFaults,
    world: Mutex<World>,
}

/// The simulated target. Clones share it.
#[derive(Clone)]
pub struct SimTarget {
    shared: Arc<Shared>,
}

fn failed(path: &[u8], operation: &'static str, kind: TargetErrorKind, cause: &str) -> TargetError {
    TargetError { path: path.to_vec(), operation, kind, cause: cause.to_owned() }
}

fn put(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + bytes.len());
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(bytes);
}

impl World {
    fn parent_exists(&self, path: &[u8]) -> bool {
        match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => matches!(self.entries.get(&path[..slash]), Some(SimEntry::Directory(_))),
            None => true,
        }
    }

    fn insert(&mut self, path: &[u8], operation: &'static str, entry: SimEntry) -> Result<(), TargetError> {
        let is_plain = path.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b".."));
        if !is_plain {
            return Err(failed(path, operation, TargetErrorKind::InvalidPath, "not a path below the target"));
        }
        if !self.parent_exists(path) {
            return Err(failed(path, operation, TargetErrorKind::NotFound, "its directory is missing"));
        }
        if let Some(SimEntry::Directory(_)) = self.entries.get(path) {
            return Err(failed(path, operation, TargetErrorKind::Exists, "a directory is in the way"));
        }
        self.entries.insert(path.to_vec(), entry);
        Ok(())
    }

    fn make_directory(&mut self, path: &[u8]) -> Result<bool, TargetError> {
        if path.is_empty() || matches!(self.entries.get(path), Some(SimEntry::Directory(_))) {
            return Ok(false);
        }
        self.insert(path, "create directory", SimEntry::Directory(None)).map(|()| true)
    }

    fn content(&self, path: &[u8]) -> Option<&Vec<u8>> {
        match self.entries.get(path)? {
            SimEntry::File(content, _) => Some(content),
            SimEntry::HardLink(first) => self.content(first),
            _ => None,
        }
    }
}

impl SimTarget {
    /// An empty target in the simulation of `handle`.
    pub fn new(handle: SimHandle, faults: TargetFaults) -> SimTarget {
        SimTarget { shared: Arc::new(Shared { handle, faults, world: Mutex::default() }) }
    }

    /// Everything that is there now.
    pub fn entries(&self) -> BTreeMap<Vec<u8>, SimEntry> {
        self.shared.world.lock().entries.clone()
    }

    /// Paths and contents of all files under `prefix/`, with the prefix taken off, to compare with a source's tree.
    pub fn contents(&self, prefix: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let prefix = prefix.trim_start_matches('/').as_bytes();
        let world = self.shared.world.lock();
        let mut contents = BTreeMap::new();
        for path in world.entries.keys() {
            let below = path.strip_prefix(prefix).and_then(|rest| rest.strip_prefix(b"/"));
            if let (Some(below), Some(content)) = (below, world.content(path)) {
                contents.insert(below.to_vec(), content.clone());
            }
        }
        contents
    }

    /// How often the target was made durable.
    pub fn syncs(&self) -> u64 {
        self.shared.world.lock().syncs
    }

    fn call<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Shared, &mut World) -> Result<T, TargetError> + Send + 'static,
    ) -> TargetFuture<T> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let latency = shared.faults.latency;
            shared.handle.delay(latency.least, latency.most).await;
            let mut world = shared.world.lock();
            act(&shared, &mut world)
        })
    }

    fn insert(&self, path: &[u8], operation: &'static str, entry: SimEntry) -> TargetFuture<Vec<AttributeProblem>> {
        let path = path.to_vec();
        self.call(move |_, world| world.insert(&path, operation, entry).map(|()| Vec::new()))
    }
}

fn take_room(shared: &Shared, world: &mut World, path: &[u8], bytes: u64) -> Result<(), TargetError> {
    if world.used_bytes + bytes > shared.faults.room_bytes {
        return Err(failed(path, "write", TargetErrorKind::Full, "no space left on device"));
    }
    world.used_bytes += bytes;
    Ok(())
}

fn write_small(shared: &Shared, world: &mut World, file: SmallFile) -> Result<Vec<AttributeProblem>, TargetError> {
    if shared.handle.chance(shared.faults.refused_per_mille, 1000) {
        return Err(failed(&file.path, "create", TargetErrorKind::PermissionDenied, "simulated: permission denied"));
    }
    take_room(shared, world, &file.path, file.parts.iter().map(|(_, part)| part.len() as u64).sum())?;
    let mut content = vec![0; file.size as usize];
    file.parts.iter().for_each(|(offset, part)| put(&mut content, *offset, part));
    world.insert(&file.path, "create", SimEntry::File(content, file.meta)).map(|()| Vec::new())
}

impl Target for SimTarget {
    fn describe(&self) -> String {
        "simulated target".to_owned()
    }

    fn free_space(&self, paths: Vec<Vec<u8>>) -> TargetFuture<Vec<Space>> {
        self.call(move |shared, world| {
            let bytes = shared.faults.room_bytes.saturating_sub(world.used_bytes);
            Ok(vec![Space { device: 0, bytes, inodes: u64::MAX }; paths.len()])
        })
    }

    fn existing(&self, paths: Vec<Vec<u8>>) -> TargetFuture<Vec<Result<Option<Existing>, TargetError>>> {
        self.call(move |_, world| {
            let look = |path: &Vec<u8>| {
                let (kind, size, meta) = match world.entries.get(path)? {
                    SimEntry::Directory(meta) => (FileKind::Directory, 0, meta.clone().unwrap_or_default()),
                    SimEntry::File(content, meta) => (FileKind::File, content.len() as u64, meta.clone()),
                    SimEntry::Symlink(link_target, meta) => (FileKind::Symlink, link_target.len() as u64, meta.clone()),
                    SimEntry::Node(_, meta) => (FileKind::Fifo, 0, meta.clone()),
                    SimEntry::HardLink(first) => (
                        FileKind::File,
                        world.content(first).map_or(0, |content| content.len() as u64),
                        TargetMeta::default(),
                    ),
                };
                Some(Existing { kind, size, allocated_bytes: size, mtime: meta.mtime, device: 0, inode: 0, links: 1 })
            };
            Ok(paths.iter().map(|path| Ok(look(path))).collect())
        })
    }

    fn make_parents(&self, path: &[u8]) -> TargetFuture<()> {
        let path = path.to_vec();
        self.call(move |_, world| {
            let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(place, _)| place);
            for end in slashes.chain([path.len()]) {
                world.make_directory(&path[..end])?;
            }
            Ok(())
        })
    }

    fn make_directories(&self, paths: Vec<Vec<u8>>, _: bool) -> TargetFuture<Vec<Result<bool, TargetError>>> {
        self.call(move |_, world| Ok(paths.iter().map(|path| world.make_directory(path)).collect()))
    }

    fn write_files(&self, files: Vec<SmallFile>) -> TargetFuture<Vec<Result<Vec<AttributeProblem>, TargetError>>> {
        self.call(move |shared, world| Ok(files.into_iter().map(|file| write_small(shared, world, file)).collect()))
    }

    fn create_file(&self, path: &[u8], size: u64) -> TargetFuture<Arc<dyn TargetFile>> {
        let (target, path) = (self.clone(), path.to_vec());
        self.call(move |_, _| {
            let content = Mutex::new(vec![0; size as usize]);
            let file: Arc<dyn TargetFile> = Arc::new(OpenFile { target, path, content: Arc::new(content) });
            Ok(file)
        })
    }

    fn make_node(&self, path: &[u8], kind: NodeKind, meta: TargetMeta) -> TargetFuture<Vec<AttributeProblem>> {
        self.insert(path, "create node", SimEntry::Node(kind, meta))
    }

    fn symlink(&self, path: &[u8], link_target: &[u8], meta: TargetMeta) -> TargetFuture<Vec<AttributeProblem>> {
        self.insert(path, "create link", SimEntry::Symlink(link_target.to_vec(), meta))
    }

    fn hard_links(&self, links: Vec<HardLink>) -> TargetFuture<Vec<Result<(), TargetError>>> {
        self.call(move |_, world| {
            let mut results = Vec::with_capacity(links.len());
            for link in links {
                results.push(match world.content(&link.first) {
                    Some(_) => world.insert(&link.path, "link", SimEntry::HardLink(link.first)),
                    None => Err(failed(&link.path, "link", TargetErrorKind::NotFound, "its first name is missing")),
                });
            }
            Ok(results)
        })
    }

    fn finish_directories(
        &self,
        directories: Vec<(Vec<u8>, TargetMeta)>,
    ) -> TargetFuture<Vec<Result<Vec<AttributeProblem>, TargetError>>> {
        self.call(move |_, world| {
            for (path, meta) in directories.iter().filter(|(path, _)| !path.is_empty()) {
                world.entries.insert(path.clone(), SimEntry::Directory(Some(meta.clone())));
            }
            Ok(directories.iter().map(|_| Ok(Vec::new())).collect())
        })
    }

    fn read_back(&self, ranges: Vec<(Vec<u8>, Range<u64>)>) -> TargetFuture<Vec<Result<Bytes, TargetError>>> {
        self.call(move |_, world| {
            let read = |(path, range): &(Vec<u8>, Range<u64>)| {
                let missing = || failed(path, "read", TargetErrorKind::NotFound, "no such file");
                let content = world.content(path).ok_or_else(missing)?;
                let end = (range.end as usize).min(content.len());
                Ok(Bytes::copy_from_slice(&content[(range.start as usize).min(end)..end]))
            };
            Ok(ranges.iter().map(read).collect())
        })
    }

    fn sync(&self) -> TargetFuture<()> {
        self.call(|_, world| {
            world.syncs += 1;
            Ok(())
        })
    }
}

struct OpenFile {
    target: SimTarget,
    path: Vec<u8>,
    content: Arc<Mutex<Vec<u8>>>,
}

impl TargetFile for OpenFile {
    fn write_at(&self, writes: Vec<(u64, Bytes)>) -> TargetFuture<()> {
        let (path, content) = (self.path.clone(), self.content.clone());
        self.target.call(move |shared, world| {
            take_room(shared, world, &path, writes.iter().map(|(_, part)| part.len() as u64).sum())?;
            let mut content = content.lock();
            writes.iter().for_each(|(offset, part)| put(&mut content, *offset, part));
            Ok(())
        })
    }

    fn finish(&self, meta: TargetMeta) -> TargetFuture<Vec<AttributeProblem>> {
        let (path, content) = (self.path.clone(), self.content.clone());
        self.target.call(move |_, world| {
            let entry = SimEntry::File(std::mem::take(&mut content.lock()), meta);
            world.insert(&path, "create", entry).map(|()| Vec::new())
        })
    }
}
