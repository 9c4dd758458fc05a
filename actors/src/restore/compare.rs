//! `--verify`: reads restored files back and compares every chunk with the recovery point.
//!
//! The manifest is walked once more; batches of ranges are read through the target and hashed on all shards. A file that
//! differs is listed once as a problem. Every name of a file is compared, but a name that is seen to be the same file as
//! its first name is not read again. What the restore left out, because a rule kept what was there or because it is
//! listed already, is not compared: it is not from this restore. Limits: [`BATCH_BYTES_MAX`] a batch, two batches a
//! shard. After the target was synced; the bytes may come from the page cache.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mover_repository::chunk_reader::ChunkReader;
use mover_repository::ids::ChunkId;
use mover_repository::manifest::{ContentReader, Entry, Kind, ManifestReader, Piece};
use mover_repository::repository::Repository;
use parking_lot::Mutex;

use crate::error::Failure;
use crate::restore::items::{Item, next_items};
use crate::restore::pipeline::RestoreJob;
use crate::restore::planned_file::Pending;
use crate::restore::report::Verified;
use crate::restore::selection::{Scope, target_path, target_root};
use crate::restore::site::{Site, target_failure};
use crate::restore::target::{Existing, Overwrite, TargetError};
use crate::restore::walk::Walk;
use crate::runtime::{Injector, Pace, Remote, Runtime, Worker, spawn_worker, supervise};

/// Bytes of one batch.
const BATCH_BYTES_MAX: u64 = 4 << 20;
/// Chunks of one batch.
const BATCH_CHUNKS_MAX: usize = 512;

/// One chunk where it should be in the target.
struct Expected {
    path: Arc<[u8]>,
    offset: u64,
    bytes: u32,
    chunk: ChunkId,
}

#[derive(Default)]
struct Found {
    bytes: AtomicU64,
    different: Mutex<HashSet<Arc<[u8]>>>,
}

/// Hashes what is read back.
struct Comparer<R> {
    runtime: R,
    repository: Repository,
    site: Arc<Site>,
    batches: Injector<Vec<Expected>>,
    found: Arc<Found>,
}

impl<R: Runtime> Worker for Comparer<R> {
    const NAME: &'static str = "comparer";

    async fn run(&mut self) -> Result<(), Failure> {
        let mut pace = Pace::new();
        while let Some(batch) = self.batches.take(self.runtime.shard()).await {
            let ranges = batch
                .iter()
                .map(|expected| (expected.path.to_vec(), expected.offset..expected.offset + u64::from(expected.bytes)))
                .collect();
            let read = self.site.target.read_back(ranges).await.map_err(|error| target_failure(&error))?;
            for (expected, read) in batch.iter().zip(read) {
                let cause = match read {
                    Ok(bytes) if self.repository.secrets().chunk_id(&bytes) == expected.chunk => {
                        self.found.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                        pace.work(&self.runtime, bytes.len()).await;
                        continue;
                    }
                    Ok(_) => format!("what was read back at byte {} differs from the recovery point", expected.offset),
                    Err(error) => format!("cannot {}: {}", error.operation, error.cause),
                };
                if self.found.different.lock().insert(expected.path.clone()) {
                    self.site.problem(&expected.path, cause);
                }
            }
        }
        Ok(())
    }
}

/// Compares what was restored.
///
/// # Errors
/// The repository's or the target's.
pub async fn compare<R: Runtime>(
    rt: &R,
    job: &RestoreJob,
    scopes: &[Scope],
    chunks: &Arc<ChunkReader>,
    site: &Arc<Site>,
) -> Result<Verified, Failure> {
    let shards = rt.shards();
    let batches = Injector::new("comparisons", 2 * shards);
    let found = Arc::new(Found::default());
    let running = Pending::default();
    for shard in 0..shards {
        let (repository, site, batches) = (job.repository.clone(), site.clone(), batches.clone());
        let (found, token) = (found.clone(), running.token());
        rt.remote().spawn_on(shard, "compare shard", move |rt| {
            let kill = site.kill.clone();
            let stats = site.progress.register_actor("comparer", shard);
            let comparer = Comparer { runtime: rt.clone(), repository, site, batches, found };
            let comparer = spawn_worker(&rt, comparer, &kill, &stats);
            supervise(kill, "compare shard", async move {
                let _running = token;
                comparer.await;
                Ok(())
            })
        });
    }
    let known = site.tally.problem_paths();
    let mut feeder = Feeder { site, chunks, known, batches, batch: Vec::new(), bytes: 0, files: 0, unreadable: 0 };
    let fed = feeder.feed(job, scopes).await;
    let (files, unreadable, batches) = (feeder.files, feeder.unreadable, feeder.batches);
    batches.close();
    running.none().await;
    site.kill.check()?;
    fed?;
    let different = found.different.lock().len() as u64;
    Ok(Verified { files, bytes: found.bytes.load(Ordering::Relaxed), different, unreadable })
}

/// Walks the manifest and hands out what should be there.
struct Feeder<'a> {
    site: &'a Site,
    chunks: &'a Arc<ChunkReader>,
    /// Listed already: not restored, so not compared.
    known: HashSet<Vec<u8>>,
    batches: Injector<Vec<Expected>>,
    batch: Vec<Expected>,
    bytes: u64,
    files: u64,
    unreadable: u64,
}

impl Feeder<'_> {
    async fn feed(&mut self, job: &RestoreJob, scopes: &[Scope]) -> Result<(), Failure> {
        for (number, (fileset, scope)) in job.point.filesets.iter().zip(scopes).enumerate() {
            let Some(root) = target_root(&fileset.root_path) else { continue };
            let left_out = self.site.tally.left_out(number);
            // A rule that keeps only what looks equal leaves everything to be compared.
            let keeps_others = matches!(job.overwrite, Overwrite::Never | Overwrite::IfNewer);
            let is_left_out = |item: &Item| keeps_others && left_out.contains(item.number).unwrap_or(true);
            let mut walk = Walk::new(self.chunks, &fileset.root, scope);
            let finder = ManifestReader::new(self.chunks.clone(), fileset.root);
            loop {
                let next = next_items(&mut walk, &root).await;
                if next.is_end() {
                    break;
                }
                let items: Vec<Item> = next.items.into_iter().filter(|item| !is_left_out(item)).collect();
                // With such a rule the first name may be somebody else's, so nothing follows from being linked to it.
                let linked = if keeps_others { HashSet::new() } else { self.linked(&items, &root, scope).await? };
                for item in items {
                    self.unreadable += u64::from(item.entry.error && !item.on_the_way);
                    match &item.entry.kind {
                        Kind::File => self.expect_file(item.path, &item.entry).await?,
                        Kind::HardLink { .. } if linked.contains(&item.path) => self.files += 1,
                        Kind::HardLink { first } => {
                            let first = finder.find(first).await?.filter(|first| first.kind == Kind::File);
                            if let Some(first) = first {
                                self.expect_file(item.path, &first).await?;
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
        self.send().await
    }

    /// The names among `items` that are one file with a first name that is compared itself.
    async fn linked(&self, items: &[Item], root: &[u8], scope: &Scope) -> Result<HashSet<Vec<u8>>, Failure> {
        let mut paths = Vec::new();
        for item in items {
            if let Kind::HardLink { first } = &item.entry.kind
                && scope.contains(first)
            {
                paths.extend([item.path.clone(), target_path(root, first)]);
            }
        }
        if paths.is_empty() {
            return Ok(HashSet::new());
        }
        let existing = self.site.target.existing(paths.clone()).await.map_err(|error| target_failure(&error))?;
        let pairs = paths.chunks_exact(2).zip(existing.chunks_exact(2));
        let is_one_file = |pair: &[Result<Option<Existing>, TargetError>]| match pair {
            [Ok(Some(name)), Ok(Some(first))] => name.is_same_file(first),
            _ => false,
        };
        let compared = |first: &Vec<u8>| !self.known.contains(first);
        Ok(pairs
            .filter(|(paths, existing)| is_one_file(existing) && compared(&paths[1]))
            .map(|(paths, _)| paths[0].clone())
            .collect())
    }

    async fn expect_file(&mut self, path: Vec<u8>, entry: &Entry) -> Result<(), Failure> {
        if entry.error || self.known.contains(&path) {
            return Ok(());
        }
        self.files += 1;
        let path: Arc<[u8]> = path.into();
        let mut reader = ContentReader::new(self.chunks.clone(), &entry.content);
        let mut offset = 0;
        while let Some(piece) = reader.next().await? {
            if let Piece::Chunk { id, bytes } = piece {
                self.batch.push(Expected { path: path.clone(), offset, bytes, chunk: id });
                self.bytes += u64::from(bytes);
                if self.bytes >= BATCH_BYTES_MAX || self.batch.len() >= BATCH_CHUNKS_MAX {
                    self.send().await?;
                }
            }
            offset += piece.bytes();
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), Failure> {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() {
            self.batches.push(batch).await?;
        }
        Ok(())
    }
}
