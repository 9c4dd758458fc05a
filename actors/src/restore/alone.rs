//! Each actor of a restore alone, for benchmarks: as `backup/alone.rs` has it.
//!
//! Limits: everything lies in memory, and the recovery point has one fileset.

use std::sync::Arc;
use std::time::Duration;

use mover_repository::chunk_reader::ChunkReader;
use mover_repository::index::Index;
use mover_repository::io::Pool;

use crate::error::Failure;
use crate::progress::Progress;
use crate::restore::decompressor::Decompressor;
use crate::restore::downloader::{Downloader, DownloaderParts};
use crate::restore::messages::{PlainFrame, ReadSpan, RestoreFileset, SealedRange};
use crate::restore::pipeline::RestoreJob;
use crate::restore::planner::{PlanLimits, Planner, PlannerParts};
use crate::restore::report::Tally;
use crate::restore::selection::Scope;
use crate::restore::site::Site;
use crate::restore::writer::Writer;
use crate::runtime::{
    Budget, Injector, KillSwitch, Runtime, StopSignal, TaskHandle, drained, loaded, mailbox, spawn_actor, spawn_worker,
};

/// A mailbox that is never full.
const UNBOUNDED: usize = 1 << 40;
/// Ranges that may wait for the downloader.
const SPANS: usize = 1 << 20;
/// Memory of a plan, and of everything that is read.
const MEMORY_BYTES: usize = 4 << 30;
/// As in a restore with the usual memory on two cores.
const RANGE_COST_BYTES: usize = 5 << 20;
const REQUESTS_MAX: usize = 32;

/// An actor of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Reads the manifest, makes directories, orders the reads.
    Planner,
    /// Reads packs.
    Downloader,
    /// Opens, decompresses, checks.
    Decompressor,
    /// Writes files.
    Writer,
}

/// The time in which `stage` alone does its part of `job`, whose files have `pieces` chunks together.
///
/// # Errors
/// What stops a restore.
pub async fn time_of_stage<R: Runtime>(rt: R, job: RestoreJob, pieces: u64, stage: Stage) -> Result<Duration, Failure> {
    let (history, _) = job.repository.history_with_damage().await?;
    let index = Index::load_or_rebuild(&job.repository, &history, job.memory_bytes / 4).await?;
    let chunks = Arc::new(ChunkReader::new(&job.repository, index.clone(), job.memory_bytes / 16));
    let site = Arc::new(Site {
        target: job.target.clone(),
        backend: job.repository.backend().clone(),
        tally: Arc::new(Tally::default()),
        progress: Progress::new(),
        kill: KillSwitch::new(),
    });
    let alone = Alone { rt, job, index, chunks, site };
    let (planner, took) = alone.run_until(pieces, stage).await?;
    // What was read and not written was dropped: nothing is under way.
    planner.await;
    alone.site.kill.check()?;
    Ok(took)
}

struct Alone<R> {
    rt: R,
    job: RestoreJob,
    index: Arc<Index>,
    chunks: Arc<ChunkReader>,
    site: Arc<Site>,
}

impl<R: Runtime> Alone<R> {
    /// Runs one actor after the other, up to `last`; the planner, which waits for its files, and the time of `last`.
    async fn run_until(&self, pieces: u64, last: Stage) -> Result<(TaskHandle, Duration), Failure> {
        let keep = |stage: Stage| stage < last;
        let begun = self.rt.now();
        let (planner, ranges) = self.planner(pieces).await?;
        if last == Stage::Planner {
            return Ok((planner, self.rt.now() - begun));
        }
        let begun = self.rt.now();
        let sealed = self.downloader(ranges, keep(Stage::Downloader)).await?;
        if last == Stage::Downloader {
            return Ok((planner, self.rt.now() - begun));
        }
        let begun = self.rt.now();
        let frames = self.decompressor(sealed, keep(Stage::Decompressor)).await;
        if last == Stage::Decompressor {
            return Ok((planner, self.rt.now() - begun));
        }
        let begun = self.rt.now();
        let stats = self.site.progress.register_actor("writer", 0);
        let writer = Writer::new(self.rt.clone(), self.site.clone());
        spawn_actor(&self.rt, writer, loaded("writer", frames), &self.site.kill, &stats).await;
        Ok((planner, self.rt.now() - begun))
    }

    async fn planner(&self, pieces: u64) -> Result<(TaskHandle, Vec<ReadSpan>), Failure> {
        let spans: Injector<ReadSpan> = Injector::new("spans", SPANS);
        let limits = PlanLimits {
            plan_bytes: MEMORY_BYTES,
            content_bytes: MEMORY_BYTES as u64,
            range_cost_bytes: RANGE_COST_BYTES,
        };
        let parts = PlannerParts {
            point: self.job.point.clone(),
            scopes: vec![Scope::All; self.job.point.filesets.len()],
            overwrite: self.job.overwrite,
            chunks: self.chunks.clone(),
            index: self.index.clone(),
            site: self.site.clone(),
            spans: spans.clone(),
            stop: StopSignal::new(),
            limits,
            scratch: self.job.scratch.clone(),
            pool: Pool::new("restore-plan", 1),
        };
        let stats = self.site.progress.register_actor("planner", 0);
        let orders = loaded("planner", vec![RestoreFileset { number: 0 }]);
        let planner = spawn_actor(&self.rt, Planner::new(self.rt.clone(), parts), orders, &self.site.kill, &stats);
        let (mut taken, mut places) = (Vec::new(), 0);
        while places < pieces {
            let Some(span) = spans.take(0).await else { break };
            let frames = span.ranges.iter().flat_map(|range| &range.frames);
            places += frames.map(|frame| frame.places.len() as u64).sum::<u64>();
            taken.push(span);
        }
        self.site.kill.check()?;
        Ok((planner, taken))
    }

    async fn downloader(&self, spans: Vec<ReadSpan>, keep: bool) -> Result<Vec<SealedRange>, Failure> {
        let queue = Injector::new("spans", spans.len().max(1));
        for span in spans {
            queue.push(span).await?;
        }
        queue.close();
        let (decompressor, sealed) = mailbox("decompressor", UNBOUNDED, UNBOUNDED);
        let parts = DownloaderParts {
            site: self.site.clone(),
            budget: Budget::new(MEMORY_BYTES),
            stop: StopSignal::new(),
            spans: queue,
            decompressor,
            requests_max: REQUESTS_MAX,
        };
        let stats = self.site.progress.register_actor("downloader", 0);
        let task = spawn_worker(&self.rt, Downloader::new(self.rt.clone(), parts), &self.site.kill, &stats);
        let kept = drained(sealed, keep).await;
        task.await;
        Ok(kept)
    }

    async fn decompressor(&self, sealed: Vec<SealedRange>, keep: bool) -> Vec<PlainFrame> {
        let (writer, frames) = mailbox("writer", UNBOUNDED, UNBOUNDED);
        let (rt, repository, chunks) = (self.rt.clone(), self.job.repository.clone(), self.chunks.clone());
        let actor = Decompressor::new(rt, repository, chunks, self.site.clone(), writer);
        let stats = self.site.progress.register_actor("decompressor", 0);
        let task = spawn_actor(&self.rt, actor, loaded("decompressor", sealed), &self.site.kill, &stats);
        let kept = drained(frames, keep).await;
        task.await;
        kept
    }
}
