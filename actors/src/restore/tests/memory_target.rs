//! A target in memory with simulated delays, which checks the order in which it is used.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::restore::target::{
    AttributeProblem, Existing, HardLink, NodeKind, SmallFile, Space, Target, TargetError, TargetErrorKind, TargetFile,
    TargetFuture, TargetMeta,
};
use crate::runtime::simulation::SimHandle;

/// What lies under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory, and whether it got its attributes.
    Directory { finished: bool },
    /// A complete file.
    File(Vec<u8>),
    /// Another name of a file.
    Link(Vec<u8>),
}

/// Shared with the open files.
struct State {
    handle: SimHandle,
    nodes: Mutex<BTreeMap<Vec<u8>, Node>>,
    open: Mutex<usize>,
}

/// See the module.
pub struct MemoryTarget {
    state: Arc<State>,
}

fn later<T: Send + 'static>(handle: &SimHandle, value: Result<T, TargetError>) -> TargetFuture<T> {
    Box::pin(handle.delayed(Duration::from_micros(10), Duration::from_millis(5), value))
}

fn error(path: &[u8], operation: &'static str) -> TargetError {
    TargetError { path: path.to_vec(), operation, kind: TargetErrorKind::NotFound, cause: "no such parent".into() }
}

fn fill(content: &mut [u8], offset: u64, bytes: &[u8]) {
    let offset = offset as usize;
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl State {
    /// Gives a complete file its name, if its parent is there and not finished.
    fn publish(&self, path: &[u8], node: Node) -> Result<(), TargetError> {
        let mut nodes = self.nodes.lock();
        if let Some(slash) = path.iter().rposition(|byte| *byte == b'/') {
            match nodes.get(&path[..slash]) {
                Some(Node::Directory { finished }) => assert!(!finished, "a directory got its attributes too early"),
                _ => return Err(error(path, "write")),
            }
        }
        let before = nodes.insert(path.to_vec(), node);
        assert!(before.is_none(), "{} was written twice", String::from_utf8_lossy(path));
        Ok(())
    }
}

impl MemoryTarget {
    /// An empty target.
    pub fn new(handle: SimHandle) -> Self {
        MemoryTarget { state: Arc::new(State { handle, nodes: Mutex::default(), open: Mutex::new(0) }) }
    }

    /// Everything in it.
    pub fn nodes(&self) -> BTreeMap<Vec<u8>, Node> {
        self.state.nodes.lock().clone()
    }

    /// Files that are open under a temporary name.
    pub fn open_files(&self) -> usize {
        *self.state.open.lock()
    }

    fn later<T: Send + 'static>(&self, value: T) -> TargetFuture<T> {
        later(&self.state.handle, Ok(value))
    }
}

impl Target for MemoryTarget {
    fn describe(&self) -> String {
        "memory".into()
    }
    fn free_space(&self, paths: Vec<Vec<u8>>) -> TargetFuture<Vec<Space>> {
        self.later(vec![Space { device: 0, bytes: u64::MAX, inodes: u64::MAX }; paths.len()])
    }
    fn existing(&self, paths: Vec<Vec<u8>>) -> TargetFuture<Vec<Result<Option<Existing>, TargetError>>> {
        self.later(paths.iter().map(|_| Ok(None)).collect())
    }
    fn make_parents(&self, path: &[u8]) -> TargetFuture<()> {
        self.state.nodes.lock().insert(path.to_vec(), Node::Directory { finished: false });
        self.later(())
    }
    fn make_directories(&self, paths: Vec<Vec<u8>>, _: bool) -> TargetFuture<Vec<Result<bool, TargetError>>> {
        let made =
            paths.iter().map(|path| self.state.publish(path, Node::Directory { finished: false }).map(|()| true));
        self.later(made.collect())
    }
    fn write_files(&self, files: Vec<SmallFile>) -> TargetFuture<Vec<Result<Vec<AttributeProblem>, TargetError>>> {
        let written = files.into_iter().map(|file| {
            let mut content = vec![0; file.size as usize];
            file.parts.iter().for_each(|(offset, bytes)| fill(&mut content, *offset, bytes));
            self.state.publish(&file.path, Node::File(content)).map(|()| Vec::new())
        });
        self.later(written.collect())
    }
    fn create_file(&self, path: &[u8], size: u64) -> TargetFuture<Arc<dyn TargetFile>> {
        *self.state.open.lock() += 1;
        let content = Mutex::new(vec![0; size as usize]);
        let missing = Mutex::new(size as usize);
        let file = MemoryFile { state: self.state.clone(), path: path.to_vec(), content, missing };
        self.later(Arc::new(file) as Arc<dyn TargetFile>)
    }
    fn make_node(&self, _: &[u8], _: NodeKind, _: TargetMeta) -> TargetFuture<Vec<AttributeProblem>> {
        self.later(Vec::new())
    }
    fn symlink(&self, _: &[u8], _: &[u8], _: TargetMeta) -> TargetFuture<Vec<AttributeProblem>> {
        self.later(Vec::new())
    }
    fn hard_links(&self, links: Vec<HardLink>) -> TargetFuture<Vec<Result<(), TargetError>>> {
        let made = links.into_iter().map(|link| {
            assert!(self.state.nodes.lock().contains_key(&link.first), "a link before its file");
            self.state.publish(&link.path, Node::Link(link.first))
        });
        self.later(made.collect())
    }
    fn finish_directories(
        &self,
        directories: Vec<(Vec<u8>, TargetMeta)>,
    ) -> TargetFuture<Vec<Result<Vec<AttributeProblem>, TargetError>>> {
        let mut nodes = self.state.nodes.lock();
        for (path, _) in &directories {
            nodes.insert(path.clone(), Node::Directory { finished: true });
        }
        drop(nodes);
        self.later(directories.iter().map(|_| Ok(Vec::new())).collect())
    }
    fn read_back(&self, ranges: Vec<(Vec<u8>, Range<u64>)>) -> TargetFuture<Vec<Result<Bytes, TargetError>>> {
        let nodes = self.state.nodes.lock();
        let file = |path: &Vec<u8>| match nodes.get(path) {
            Some(Node::Link(first)) => nodes.get(first),
            other => other,
        };
        let read = ranges.iter().map(|(path, range)| match file(path) {
            Some(Node::File(content)) => Ok(Bytes::copy_from_slice(&content[range.start as usize..range.end as usize])),
            _ => Err(error(path, "read back")),
        });
        self.later(read.collect())
    }
    fn sync(&self) -> TargetFuture<()> {
        assert_eq!(*self.state.open.lock(), 0, "a file is open when the target is synced");
        self.later(())
    }
}

/// An open file.
struct MemoryFile {
    state: Arc<State>,
    path: Vec<u8>,
    content: Mutex<Vec<u8>>,
    missing: Mutex<usize>,
}

impl TargetFile for MemoryFile {
    fn write_at(&self, writes: Vec<(u64, Bytes)>) -> TargetFuture<()> {
        for (offset, bytes) in &writes {
            fill(&mut self.content.lock(), *offset, bytes);
            *self.missing.lock() -= bytes.len();
        }
        later(&self.state.handle, Ok(()))
    }
    fn finish(&self, _: TargetMeta) -> TargetFuture<Vec<AttributeProblem>> {
        assert_eq!(*self.missing.lock(), 0, "finished before its last byte");
        let published = self.state.publish(&self.path, Node::File(self.content.lock().clone()));
        later(&self.state.handle, published.map(|()| Vec::new()))
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        *self.state.open.lock() -= 1;
    }
}
