//! Each actor of a backup alone, for benchmarks: the actors before it leave what they send in memory, then it runs by
//! itself on one shard, and what it sends is dropped at once.
//!
//! Limits: everything that an actor is fed with lies in memory, so the data must be far smaller than the budget of the
//! job. Trees without hard links.

use std::sync::Arc;
use std::time::Duration;

use mover_repository::log::Outcome;
use parking_lot::Mutex;

use crate::backup::chunker::Chunker;
use crate::backup::compressor::Compressor;
use crate::backup::deduplicator::Deduplicator;
use crate::backup::early::Early;
use crate::backup::hard_links::HardLinks;
use crate::backup::messages::{CutBuffer, NewChunks, PackPart, Recorded, Work};
use crate::backup::recorder::Recorder;
use crate::backup::run::{BackupJob, Run, register};
use crate::backup::scanner::{Scanner, ScannerNote};
use crate::backup::shared::JobShared;
use crate::backup::uploader::Uploader;
use crate::bottleneck::Stopwatch;
use crate::error::Failure;
use crate::progress::Progress;
use crate::runtime::{Injector, Runtime, StopSignal, drained, loaded, mailbox, spawn_actor, spawn_worker};

/// A mailbox that is never full.
const UNBOUNDED: usize = 1 << 40;
/// Work items that may wait for the chunker.
const WORK_ITEMS: usize = 1 << 20;

/// An actor of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Lists directories and looks at every entry.
    Scanner,
    /// Reads and cuts.
    Chunker,
    /// Hashes and looks up.
    Deduplicator,
    /// Compresses and seals.
    Compressor,
    /// Writes packs.
    Uploader,
    /// Writes the manifest.
    Recorder,
}

/// The time in which `stage` alone does its part of `job`, which makes no recovery point.
///
/// # Errors
/// What stops a backup.
pub async fn time_of_stage<R: Runtime>(rt: R, job: BackupJob, stage: Stage) -> Result<Duration, Failure> {
    let registration = register(&rt, &job).await?;
    let (history, number) = (registration.history().clone(), registration.number());
    let stopwatch = Stopwatch::start(rt.now());
    let run = Run::prepare(&rt, job, &history, Some(number), stopwatch, Progress::new(), StopSignal::new()).await?;
    let alone = Alone { rt, job: run.shared.clone(), run };
    let took = alone.run_until(stage).await;
    registration.commit(Outcome::Ended { reason: "a benchmark".into() }).await?;
    alone.job.kill.check()?;
    took
}

struct Alone<R> {
    rt: R,
    job: Arc<JobShared>,
    run: Run,
}

impl<R: Runtime> Alone<R> {
    /// Runs one actor after the other, up to `last`; the time of that one.
    async fn run_until(&self, last: Stage) -> Result<Duration, Failure> {
        let keep = |stage: Stage| stage < last;
        let begun = self.rt.now();
        let (work, mut recorded) = self.scanner().await?;
        if last == Stage::Scanner {
            return Ok(self.rt.now() - begun);
        }
        let begun = self.rt.now();
        let cut = self.chunker(work, keep(Stage::Chunker)).await?;
        if last == Stage::Chunker {
            return Ok(self.rt.now() - begun);
        }
        let begun = self.rt.now();
        let (new, more) = self.deduplicator(cut, keep(Stage::Deduplicator)).await;
        if last == Stage::Deduplicator {
            return Ok(self.rt.now() - begun);
        }
        if last == Stage::Recorder {
            recorded.extend(more);
            let begun = self.rt.now();
            self.recorder(recorded).await;
            return Ok(self.rt.now() - begun);
        }
        let begun = self.rt.now();
        let parts = self.compressor(new, keep(Stage::Compressor)).await?;
        if last == Stage::Compressor {
            return Ok(self.rt.now() - begun);
        }
        let begun = self.rt.now();
        self.uploader(parts).await;
        Ok(self.rt.now() - begun)
    }

    async fn scanner(&self) -> Result<(Vec<Work>, Vec<Recorded>), Failure> {
        let work = Injector::new("work", WORK_ITEMS);
        let (recorder, recorded) = mailbox("recorder", UNBOUNDED, UNBOUNDED);
        let (to_scanner, notes) = mailbox("scanner", UNBOUNDED, UNBOUNDED);
        let links = HardLinks::new(self.job.scratch.clone(), self.run.plant.links_bytes);
        let (rt, job) = (self.rt.clone(), self.job.clone());
        let scanner = Scanner::new(rt, job, 0, None, links, work.clone(), recorder, notes);
        let take = async {
            let mut taken = Vec::new();
            while let Some(item) = work.take(0).await {
                let entries = match &item {
                    Work::Batch(tasks) => tasks.len() as u64,
                    Work::Extent { number: 0, .. } => 1,
                    Work::Extent { .. } | Work::Stream(_) => 0,
                };
                taken.push(item);
                // The scanner goes when all has settled; that it is gone is no failure.
                let _ = to_scanner.send(ScannerNote::Settled(entries)).await;
            }
            taken
        };
        let (scanned, taken) = futures_lite::future::zip(scanner.run(), take).await;
        scanned?;
        Ok((taken, drained(recorded, true).await))
    }

    async fn chunker(&self, work: Vec<Work>, keep: bool) -> Result<Vec<CutBuffer>, Failure> {
        let queue = Injector::new("work", work.len().max(1));
        for item in work {
            queue.push(item).await?;
        }
        queue.close();
        let (next, cut) = mailbox("deduplicator", UNBOUNDED, UNBOUNDED);
        let (buffers, reserve) = (self.run.plant.buffers.clone(), self.run.reserves[0].lanes[0].clone());
        let chunker = Chunker::new(&self.rt, self.job.clone(), 0, 0, buffers, reserve, queue, next);
        let stats = self.job.progress.register_actor("chunker", 0);
        let task = spawn_worker(&self.rt, chunker, &self.job.kill, &stats);
        let kept = drained(cut, keep).await;
        task.await;
        Ok(kept)
    }

    async fn deduplicator(&self, cut: Vec<CutBuffer>, keep: bool) -> (Vec<NewChunks>, Vec<Recorded>) {
        let (compressor, new) = mailbox("compressor", UNBOUNDED, UNBOUNDED);
        let (recorder, recorded) = mailbox("recorder", UNBOUNDED, UNBOUNDED);
        let actor = Deduplicator::new(&self.rt, self.job.clone(), compressor, recorder);
        let stats = self.job.progress.register_actor("deduplicator", 0);
        let task = spawn_actor(&self.rt, actor, loaded("deduplicator", cut), &self.job.kill, &stats);
        let kept = futures_lite::future::zip(drained(new, keep), drained(recorded, keep)).await;
        task.await;
        kept
    }

    async fn compressor(&self, new: Vec<NewChunks>, keep: bool) -> Result<Vec<PackPart>, Failure> {
        let (uploader, parts) = mailbox("uploader", UNBOUNDED, UNBOUNDED);
        let reserve = self.run.reserves[0].compressor.clone();
        let actor = Compressor::new(&self.rt, self.job.clone(), reserve, uploader)?;
        let stats = self.job.progress.register_actor("compressor", 0);
        let task = spawn_actor(&self.rt, actor, loaded("compressor", new), &self.job.kill, &stats);
        let kept = drained(parts, keep).await;
        task.await;
        Ok(kept)
    }

    async fn uploader(&self, parts: Vec<PackPart>) {
        let actor = Uploader::new(&self.rt, self.job.clone(), self.run.plant.ledger.clone());
        let stats = self.job.progress.register_actor("uploader", 0);
        spawn_actor(&self.rt, actor, loaded("uploader", parts), &self.job.kill, &stats).await;
    }

    async fn recorder(&self, recorded: Vec<Recorded>) {
        let (compressor, pages) = mailbox("compressor", UNBOUNDED, UNBOUNDED);
        let (scanner, notes) = mailbox("scanner", UNBOUNDED, UNBOUNDED);
        let early = Early::new(self.job.scratch.clone(), self.run.plant.early_bytes);
        let actor = Recorder::new(self.job.clone(), early, compressor, scanner, Arc::new(Mutex::new(None)));
        let stats = self.job.progress.register_actor("recorder", 0);
        let task = spawn_actor(&self.rt, actor, loaded("recorder", recorded), &self.job.kill, &stats);
        futures_lite::future::zip(drained(pages, false), drained(notes, false)).await;
        task.await;
    }
}
