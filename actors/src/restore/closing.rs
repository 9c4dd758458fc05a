//! What is done after the last file of a fileset: further names of files, then the directories' own attributes.
//!
//! Collected in path order while the manifest is walked and played back when every file is in place: hard links first,
//! a directory after all that lies in it, children before parents, so that a directory nobody may enter blocks none.
//! Limits: [`MEMORY_BYTES_MAX`] in memory, the rest in sealed temporary files; on the way back a stack as deep as the
//! tree and one batch. On the planner's shard; temporary files are read and written on an I/O thread.

use std::sync::Arc;

use mover_repository::codec::{DecodeError, Decoder, Encoder};
use mover_repository::ids::UnixNanos;
use mover_repository::io::Pool;
use mover_repository::limits::{PATH_BYTES_MAX, XATTR_TOTAL_BYTES_MAX};
use mover_repository::manifest::is_within;

use crate::error::Failure;
use crate::restore::report::add;
use crate::restore::site::{Site, target_failure};
use crate::restore::target::{HardLink, Overwrite, TargetMeta};
use crate::scratch::Scratch;
use crate::spill::SortedSpill;

/// Memory for what waits; beyond it, it waits on disk.
pub const MEMORY_BYTES_MAX: usize = 2 << 20;
/// Directories or links in one call of the target.
const BATCH_MAX: usize = 256;
/// Records that come back from disk at once.
const READ_BACK_MAX: usize = 1024;

/// Something to be done later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closing {
    /// A directory gets its attributes.
    Directory {
        /// Path below the target.
        path: Vec<u8>,
        /// The attributes.
        meta: TargetMeta,
    },
    /// A file gets another name.
    Link {
        /// Its first name, below the target.
        first: Vec<u8>,
        /// The other one.
        path: Vec<u8>,
    },
}

impl Closing {
    fn path(&self) -> &[u8] {
        match self {
            Closing::Directory { path, .. } | Closing::Link { path, .. } => path,
        }
    }

    fn memory_bytes(&self) -> usize {
        let more_bytes = match self {
            Closing::Directory { meta, .. } => {
                meta.xattrs.iter().map(|(name, value)| name.len() + value.len() + 48).sum()
            }
            Closing::Link { first, .. } => first.len(),
        };
        size_of::<Closing>() + self.path().len() + more_bytes
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        match self {
            Closing::Directory { path, meta } => {
                out.u8(0);
                out.string(path);
                out.u32(meta.mode);
                out.u32(meta.uid);
                out.u32(meta.gid);
                out.raw(&meta.mtime.0.to_le_bytes());
                out.u32(meta.xattrs.len() as u32);
                for (name, value) in &meta.xattrs {
                    out.string(name);
                    out.string(value);
                }
            }
            Closing::Link { first, path } => {
                out.u8(1);
                out.string(path);
                out.string(first);
            }
        }
        out.finish()
    }

    fn decode(bytes: &[u8]) -> Result<Closing, DecodeError> {
        let mut input = Decoder::new(bytes);
        let string_max = 2 * PATH_BYTES_MAX;
        let tag = input.u8()?;
        let path = input.string(string_max, "path")?.to_vec();
        if tag == 1 {
            return Ok(Closing::Link { first: input.string(string_max, "first name")?.to_vec(), path });
        }
        let (mode, uid, gid) = (input.u32()?, input.u32()?, input.u32()?);
        let mtime = UnixNanos(i128::from_le_bytes(input.array()?));
        let xattrs = (0..input.u32()?)
            .map(|_| {
                let name = input.string(XATTR_TOTAL_BYTES_MAX, "attribute")?.to_vec();
                Ok((name, input.string(XATTR_TOTAL_BYTES_MAX, "attribute")?.to_vec()))
            })
            .collect::<Result<Vec<_>, DecodeError>>()?;
        Ok(Closing::Directory { path, meta: TargetMeta { mode, uid, gid, mtime, xattrs } })
    }
}

/// What waits for the end of a fileset, in path order.
pub struct ClosingList {
    scratch: Arc<dyn Scratch>,
    pool: Arc<Pool>,
    recent: Vec<Closing>,
    recent_bytes: usize,
    memory_bytes_max: usize,
    spilled: Option<SortedSpill<u64>>,
    pushed: u64,
}

impl ClosingList {
    /// An empty list that keeps `memory_bytes_max` in memory.
    pub fn new(scratch: Arc<dyn Scratch>, pool: Arc<Pool>, memory_bytes_max: usize) -> Self {
        ClosingList { scratch, pool, recent: Vec::new(), recent_bytes: 0, memory_bytes_max, spilled: None, pushed: 0 }
    }

    /// Adds what comes next in path order.
    ///
    /// # Errors
    /// A failure of the temporary directory.
    pub async fn push(&mut self, closing: Closing) -> Result<(), Failure> {
        self.recent_bytes += closing.memory_bytes();
        self.recent.push(closing);
        if self.recent_bytes > self.memory_bytes_max / 2 {
            self.spill().await?;
        }
        Ok(())
    }

    /// Bytes that wait on disk.
    #[cfg(test)]
    pub fn spilled_bytes(&self) -> u64 {
        self.spilled.as_ref().map_or(0, SortedSpill::spilled_bytes)
    }

    async fn spill(&mut self) -> Result<(), Failure> {
        let recent = std::mem::take(&mut self.recent);
        self.recent_bytes = 0;
        let first = self.pushed;
        self.pushed += recent.len() as u64;
        let memory_bytes_max = self.memory_bytes_max / 2;
        let mut spill = self.spilled.take().unwrap_or_else(|| SortedSpill::new(self.scratch.clone(), memory_bytes_max));
        let work = move || {
            for (number, closing) in (first..).zip(&recent) {
                spill.push(number, closing.encode())?;
            }
            Ok(spill)
        };
        self.spilled = Some(on_pool(&self.pool, work).await?);
        Ok(())
    }

    /// The next records in path order; empty at the end. Nothing is pushed after the first call.
    async fn take(&mut self) -> Result<Vec<Closing>, Failure> {
        let Some(mut spill) = self.spilled.take() else { return Ok(std::mem::take(&mut self.recent)) };
        let work = move || {
            let mut records = Vec::new();
            while records.len() < READ_BACK_MAX
                && let Some((_, record)) = spill.pop()?
            {
                records.push(record);
            }
            Ok((records, spill))
        };
        let (records, spill) = on_pool(&self.pool, work).await?;
        if records.len() == READ_BACK_MAX {
            self.spilled = Some(spill);
        }
        let mut closings = Vec::with_capacity(records.len());
        for record in &records {
            closings.push(Closing::decode(record).map_err(|error| scratch_failure(error.to_string()))?);
        }
        if closings.is_empty() { Ok(std::mem::take(&mut self.recent)) } else { Ok(closings) }
    }

    /// Makes the links and gives the directories their attributes.
    ///
    /// # Errors
    /// A failure of the temporary directory, or one of the target that nothing can follow.
    pub async fn close(mut self, site: &Site, overwrite: Overwrite) -> Result<(), Failure> {
        let mut closer = Closer { site, overwrite, links: Vec::new(), done: Vec::new() };
        let mut open: Vec<(Vec<u8>, TargetMeta)> = Vec::new();
        loop {
            let closings = self.take().await?;
            if closings.is_empty() {
                break;
            }
            for closing in closings {
                while open.last().is_some_and(|(directory, _)| !is_within(closing.path(), directory)) {
                    closer.finish_later(open.pop()).await?;
                }
                match closing {
                    Closing::Directory { path, meta } => open.push((path, meta)),
                    Closing::Link { first, path } => closer.link_later(HardLink { first, path }).await?,
                }
            }
        }
        while let Some(directory) = open.pop() {
            closer.finish_later(Some(directory)).await?;
        }
        closer.finish().await
    }
}

async fn on_pool<T: Send + 'static>(
    pool: &Arc<Pool>,
    work: impl FnOnce() -> Result<T, crate::scratch::ScratchError> + Send + 'static,
) -> Result<T, Failure> {
    match pool.run(work).await {
        Ok(result) => result.map_err(|error| scratch_failure(error.to_string())),
        Err(panicked) => Err(Failure::internal("restore plan", "", panicked.to_string())),
    }
}

fn scratch_failure(cause: String) -> Failure {
    Failure::internal("keep the plan in a temporary file", "", cause)
        .with_guidance("make room in the temporary directory (TMPDIR) and run the same restore again")
}

/// Batches of calls: links before the directories that were finished after them.
struct Closer<'a> {
    site: &'a Site,
    overwrite: Overwrite,
    links: Vec<HardLink>,
    done: Vec<(Vec<u8>, TargetMeta)>,
}

impl Closer<'_> {
    async fn link_later(&mut self, link: HardLink) -> Result<(), Failure> {
        if self.site.tally.is_lost(&link.first) {
            self.site.problem(&link.path, "the first name of this file could not be restored");
            return Ok(());
        }
        self.links.push(link);
        if self.links.len() >= BATCH_MAX { self.make_links().await } else { Ok(()) }
    }

    async fn finish_later(&mut self, directory: Option<(Vec<u8>, TargetMeta)>) -> Result<(), Failure> {
        self.done.extend(directory);
        if self.done.len() >= BATCH_MAX { self.finish().await } else { Ok(()) }
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        self.make_links().await?;
        let directories = std::mem::take(&mut self.done);
        if directories.is_empty() {
            return Ok(());
        }
        let paths: Vec<Vec<u8>> = directories.iter().map(|(path, _)| path.clone()).collect();
        let results = self.site.target.finish_directories(directories).await.map_err(|error| target_failure(&error))?;
        for (path, result) in paths.iter().zip(results) {
            match result {
                Ok(problems) => self.site.tally.attributes(problems),
                Err(error) => self.site.refused(path, &error)?,
            }
        }
        Ok(())
    }

    async fn make_links(&mut self) -> Result<(), Failure> {
        let links = self.wanted_links().await?;
        if links.is_empty() {
            return Ok(());
        }
        let paths: Vec<Vec<u8>> = links.iter().map(|link| link.path.clone()).collect();
        let results = self.site.target.hard_links(links).await.map_err(|error| target_failure(&error))?;
        for (path, result) in paths.iter().zip(results) {
            match result {
                Ok(()) => add(&self.site.tally.hard_links, 1),
                Err(error) => self.site.refused(path, &error)?,
            }
        }
        Ok(())
    }

    /// The links that are not there yet, unless every one is to be made anew.
    async fn wanted_links(&mut self) -> Result<Vec<HardLink>, Failure> {
        let links = std::mem::take(&mut self.links);
        if self.overwrite != Overwrite::IfChanged || links.is_empty() {
            return Ok(links);
        }
        let paths = links.iter().flat_map(|link| [link.first.clone(), link.path.clone()]).collect();
        let existing = self.site.target.existing(paths).await.map_err(|error| target_failure(&error))?;
        let is_there = |pair: &[Result<Option<crate::restore::target::Existing>, _>]| match pair {
            [Ok(Some(first)), Ok(Some(second))] => first.is_same_file(second),
            _ => false,
        };
        let mut wanted = Vec::with_capacity(links.len());
        for (link, pair) in links.into_iter().zip(existing.chunks_exact(2)) {
            if is_there(pair) {
                add(&self.site.tally.skipped, 1);
            } else {
                wanted.push(link);
            }
        }
        Ok(wanted)
    }
}
