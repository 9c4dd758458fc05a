//! A target with as much room as the test says.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::restore::target::{
    AttributeProblem, Existing, HardLink, NodeKind, SmallFile, Space, Target, TargetError, TargetErrorKind, TargetFile,
    TargetFuture, TargetMeta,
};

/// Passes everything on, and is full when it is told to be.
pub struct Cramped {
    inner: Arc<dyn Target>,
    /// What it says it has.
    pub space: Mutex<Space>,
    /// Batches that it takes before it is full.
    pub writes_left: AtomicIsize,
    /// A file that reads back other than it was written.
    pub altered: Mutex<Option<Vec<u8>>>,
}

impl Cramped {
    /// All the room there is.
    pub fn new(inner: Arc<dyn Target>) -> Self {
        let space = Mutex::new(Space { device: 0, bytes: u64::MAX, inodes: u64::MAX });
        Cramped { inner, space, writes_left: AtomicIsize::new(isize::MAX), altered: Mutex::new(None) }
    }
}

impl Target for Cramped {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn free_space(&self, paths: Vec<Vec<u8>>) -> TargetFuture<Vec<Space>> {
        let space = *self.space.lock();
        Box::pin(std::future::ready(Ok(vec![space; paths.len()])))
    }
    fn existing(&self, paths: Vec<Vec<u8>>) -> TargetFuture<Vec<Result<Option<Existing>, TargetError>>> {
        self.inner.existing(paths)
    }
    fn make_parents(&self, path: &[u8]) -> TargetFuture<()> {
        self.inner.make_parents(path)
    }
    fn make_directories(&self, paths: Vec<Vec<u8>>, replaces: bool) -> TargetFuture<Vec<Result<bool, TargetError>>> {
        self.inner.make_directories(paths, replaces)
    }
    fn write_files(&self, files: Vec<SmallFile>) -> TargetFuture<Vec<Result<Vec<AttributeProblem>, TargetError>>> {
        if self.writes_left.fetch_sub(1, Ordering::SeqCst) > 0 {
            return self.inner.write_files(files);
        }
        let full = |file: SmallFile| {
            let cause = "no space left on device".to_owned();
            Err(TargetError { path: file.path, operation: "write", kind: TargetErrorKind::Full, cause })
        };
        Box::pin(std::future::ready(Ok(files.into_iter().map(full).collect())))
    }
    fn create_file(&self, path: &[u8], size: u64) -> TargetFuture<Arc<dyn TargetFile>> {
        self.inner.create_file(path, size)
    }
    fn make_node(&self, path: &[u8], kind: NodeKind, meta: TargetMeta) -> TargetFuture<Vec<AttributeProblem>> {
        self.inner.make_node(path, kind, meta)
    }
    fn symlink(&self, path: &[u8], link_target: &[u8], meta: TargetMeta) -> TargetFuture<Vec<AttributeProblem>> {
        self.inner.symlink(path, link_target, meta)
    }
    fn hard_links(&self, links: Vec<HardLink>) -> TargetFuture<Vec<Result<(), TargetError>>> {
        self.inner.hard_links(links)
    }
    fn finish_directories(
        &self,
        directories: Vec<(Vec<u8>, TargetMeta)>,
    ) -> TargetFuture<Vec<Result<Vec<AttributeProblem>, TargetError>>> {
        self.inner.finish_directories(directories)
    }
    fn read_back(&self, ranges: Vec<(Vec<u8>, Range<u64>)>) -> TargetFuture<Vec<Result<Bytes, TargetError>>> {
        let altered = self.altered.lock().clone();
        let hit: Vec<bool> = ranges.iter().map(|(path, _)| Some(path) == altered.as_ref()).collect();
        let read = self.inner.read_back(ranges);
        Box::pin(async move {
            let alter = |(result, hit): (Result<Bytes, TargetError>, bool)| match result {
                Ok(bytes) if hit => Ok(bytes.iter().map(|byte| byte ^ 1).collect()),
                other => other,
            };
            Ok(read.await?.into_iter().zip(hit).map(alter).collect())
        })
    }
    fn sync(&self) -> TargetFuture<()> {
        self.inner.sync()
    }
}
