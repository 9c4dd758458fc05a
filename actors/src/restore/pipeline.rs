//! Wires one restore, sink first, and runs it.
//!
//! ```text
//! planner ─▶ downloader ─▶ decompressor ─▶ writer        (the last three once a shard)
//! ```
//!
//! Memory: a quarter of the budget for the index, an eighth for the plan, a sixteenth for pages of manifests, the rest
//! for ranges in flight and what they turn into. Must never report success before the target is synced, nor write a
//! byte before the room for all of them was checked. Called on shard 0.

use std::sync::Arc;

use mover_repository::chunk_reader::ChunkReader;
use mover_repository::index::Index;
use mover_repository::io::Pool;
use mover_repository::log::{Outcome, RecoveryPoint, Registration};
use mover_repository::manifest::ManifestReader;
use mover_repository::repository::Repository;

use crate::bottleneck::Stopwatch;
use crate::error::Failure;
use crate::progress::{Phase, Progress};
use crate::restore::compare::compare;
use crate::restore::decompressor::Decompressor;
use crate::restore::downloader::{Downloader, DownloaderParts};
use crate::restore::messages::{ReadSpan, RestoreFileset};
use crate::restore::planned_file::Pending;
use crate::restore::planner::{PlanLimits, Planner, PlannerParts};
use crate::restore::report::{RestoreReport, Tally};
use crate::restore::room::Room;
use crate::restore::selection::{Scope, below_root, scope_of};
use crate::restore::site::{Site, target_failure};
use crate::restore::target::{Overwrite, Target};
use crate::restore::writer::Writer;
use crate::runtime::{
    Budget, Injector, KillSwitch, Remote, Runtime, StopSignal, mailbox, spawn_actor, spawn_worker, supervise,
};
use crate::scratch::{Scratch, default_scratch};

/// Reads that wait for a free shard; their memory is the plan's.
const SPANS_PER_SHARD: usize = 8;
/// Requests in flight over all shards: enough to hide the round trip to a far store.
const REQUESTS_MAX: usize = 32;
/// Read ranges that wait to be opened on one shard. Their memory was granted before they were read.
const SEALED_RANGES: (usize, usize) = (16, 256 << 20);
/// Plain frames that wait to be written on one shard. Their memory is that of their range.
const PLAIN_FRAMES: (usize, usize) = (64, 16 << 20);
/// Memory of the largest range that is one frame alone.
const RANGE_COST_BYTES_MIN: usize = 2 << 20;
/// Memory of the largest range: the largest request, and its content at a ratio of two.
const RANGE_COST_BYTES_MAX: usize = 24 << 20;
/// Plain bytes of one window of the plan.
const WINDOW_CONTENT_BYTES: u64 = 1 << 30;

/// One restore.
pub struct RestoreJob {
    /// Where from.
    pub repository: Repository,
    /// What. For `--in-place` the target's root is `/`.
    pub point: RecoveryPoint,
    /// Where to: content lands at its absolute source path below the target.
    pub target: Arc<dyn Target>,
    /// Selected paths, absolute or relative to a fileset's root; none means everything.
    pub paths: Vec<Vec<u8>>,
    /// Which existing entries stay.
    pub overwrite: Overwrite,
    /// Plan and report, write nothing.
    pub dry_run: bool,
    /// Read back and compare what was restored.
    pub verify: bool,
    /// Memory budget.
    pub memory_bytes: usize,
    /// The reader's registration; its history is used, and it is ended with the restore. Without one the history is
    /// read anew.
    pub registration: Option<Registration>,
    /// Temporary files, for plans that exceed their memory.
    pub scratch: Arc<dyn Scratch>,
}

impl RestoreJob {
    /// A restore of everything, replacing what exists, with the smallest memory budget.
    pub fn new(repository: Repository, point: RecoveryPoint, target: Arc<dyn Target>) -> Self {
        RestoreJob {
            repository,
            point,
            target,
            paths: Vec::new(),
            overwrite: Overwrite::Always,
            dry_run: false,
            verify: false,
            memory_bytes: 128 << 20,
            registration: None,
            scratch: default_scratch(),
        }
    }
}

/// How the memory of a job is shared out.
#[derive(Debug, Clone, Copy)]
struct Shares {
    index_bytes: usize,
    plan_bytes: usize,
    pages_bytes: usize,
    pipe_bytes: usize,
}

impl Shares {
    fn of(memory_bytes: usize) -> Shares {
        let index_bytes = memory_bytes / 4;
        let plan_bytes = (memory_bytes / 8).min(256 << 20);
        let pages_bytes = (memory_bytes / 16).min(64 << 20);
        let pipe_bytes = memory_bytes - index_bytes - plan_bytes - pages_bytes;
        Shares { index_bytes, plan_bytes, pages_bytes, pipe_bytes: pipe_bytes.max(RANGE_COST_BYTES_MIN) }
    }

    /// Sixteen ranges, and four a shard, fit the memory at the same time.
    fn range_cost_bytes(&self, shards: usize) -> usize {
        (self.pipe_bytes / (4 * shards).max(16)).clamp(RANGE_COST_BYTES_MIN, RANGE_COST_BYTES_MAX)
    }
}

/// Throws the switch when the restore's own future is dropped, so that no shard goes on alone.
struct Guard {
    kill: KillSwitch,
    done: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.done {
            self.kill.kill(Failure::control("restore", "", "it was cancelled"));
        }
    }
}

/// Restores a recovery point.
///
/// Entries that cannot be restored are listed in the report, and the rest is restored. A stop finishes what is begun;
/// the same restore, run again with [`Overwrite::IfChanged`], completes it.
///
/// # Errors
/// What stops the whole restore: a repository that does not answer, a target that is full, read-only or broken, a
/// selected path that names nothing, or a lack of room seen before the first byte.
pub async fn run_restore<R: Runtime>(
    rt: R,
    mut job: RestoreJob,
    progress: Arc<Progress>,
    stop: StopSignal,
) -> Result<RestoreReport, Failure> {
    progress.set_restore();
    let stopwatch = Stopwatch::start(rt.now());
    let registration = job.registration.take();
    let mut result = prepare_and_run(&rt, &job, registration.as_ref(), &progress, &stop).await;
    if let Ok(report) = &mut result {
        let bottleneck = stopwatch.stop(rt.now(), rt.shards(), &report.actors);
        bottleneck.publish();
        report.bottleneck = Some(bottleneck);
    }
    progress.set_phase(Phase::Done);
    progress.publish();
    match (registration, result) {
        (Some(registration), Ok(report)) => {
            // Advice for others only: a reader without an end is fenced one day.
            if let Err(error) = registration.commit(Outcome::Ended { reason: "restored".into() }).await {
                tracing::warn!(%error, "the end of the restore could not be recorded");
            }
            Ok(report)
        }
        (Some(registration), Err(failure)) => Err(failure.ending(registration).await),
        (None, result) => result,
    }
}

async fn prepare_and_run<R: Runtime>(
    rt: &R,
    job: &RestoreJob,
    registration: Option<&Registration>,
    progress: &Arc<Progress>,
    stop: &StopSignal,
) -> Result<RestoreReport, Failure> {
    if !job.repository.secrets().can_read() {
        return Err(Failure::repository("restore from", job.repository.backend().describe(), "this key may only add")
            .with_guidance("use a key that may read, such as the one that init made"));
    }
    let shares = Shares::of(job.memory_bytes);
    let index = match registration {
        Some(registration) => {
            Index::load_or_rebuild(&job.repository, registration.history(), shares.index_bytes).await?
        }
        None => {
            let (history, _) = job.repository.history_with_damage().await?;
            Index::load_or_rebuild(&job.repository, &history, shares.index_bytes).await?
        }
    };
    let chunks = Arc::new(ChunkReader::new(&job.repository, index.clone(), shares.pages_bytes));
    let scopes = select(job, &chunks).await?;

    let mut room = Room::look(&job.point, &*job.target).await?;
    let free_bytes = room.free_bytes();
    if job.dry_run || !job.paths.is_empty() || !room.fits_all_of(&job.point) {
        let totals = room.survey(&job.point, &scopes, &chunks, &*job.target, job.overwrite).await?;
        if job.dry_run {
            let mut report = RestoreReport { totals, dry_run: true, ..RestoreReport::default() };
            (report.overwrite, report.free_bytes) = (job.overwrite, free_bytes);
            return Ok(report);
        }
        progress.expect(totals.files, totals.bytes);
    } else {
        let sum = |of: fn(&mover_repository::log::Totals) -> u64| {
            job.point.filesets.iter().map(|fileset| of(&fileset.totals)).sum::<u64>()
        };
        progress.expect(sum(|totals| totals.files), sum(|totals| totals.bytes));
    }
    progress.set_scan_finished();
    if !room.fits() {
        return Err(room.refusal(&*job.target));
    }

    let kill = KillSwitch::new();
    let site = Arc::new(Site {
        target: job.target.clone(),
        backend: job.repository.backend().clone(),
        tally: Arc::new(Tally::default()),
        progress: progress.clone(),
        kill: kill.clone(),
    });
    let mut guard = Guard { kill: kill.clone(), done: false };
    progress.set_phase(Phase::Moving);
    let moved = run_actors(rt, job, &shares, &index, &chunks, &scopes, &site, stop).await;
    job.target.settled().await.map_err(|error| target_failure(&error))?;
    moved?;
    progress.set_phase(Phase::Finishing);
    job.target.sync().await.map_err(|error| target_failure(&error))?;
    let mut verified = None;
    if job.verify && !stop.is_requested() {
        verified = Some(compare(rt, job, &scopes, &chunks, &site).await?);
    }
    guard.done = true;
    let mut report = site.tally.report();
    (report.overwrite, report.free_bytes, report.verified) = (job.overwrite, free_bytes, verified);
    report.actors = progress.snapshot().actors;
    Ok(report)
}

/// What is selected of each fileset.
async fn select(job: &RestoreJob, chunks: &Arc<ChunkReader>) -> Result<Vec<Scope>, Failure> {
    if job.paths.is_empty() {
        return Ok(vec![Scope::All; job.point.filesets.len()]);
    }
    let mut parts: Vec<Vec<Vec<u8>>> = vec![Vec::new(); job.point.filesets.len()];
    let mut missing = Vec::new();
    for wanted in &job.paths {
        let mut found = false;
        for (fileset, parts) in job.point.filesets.iter().zip(&mut parts) {
            let Some(path) = below_root(wanted, &fileset.root_path) else { continue };
            let reader = ManifestReader::new(chunks.clone(), fileset.root);
            if path.is_empty() || reader.find(&path).await?.is_some() {
                parts.push(path);
                found = true;
            }
        }
        if !found {
            missing.push(String::from_utf8_lossy(wanted).into_owned());
        }
    }
    if !missing.is_empty() {
        return Err(Failure::control("restore", missing.join(", "), "no such path in the recovery point")
            .with_guidance("`mover ls` shows what is in the recovery point; nothing was written"));
    }
    Ok(parts.into_iter().map(scope_of).collect())
}

/// The data path, sink first.
#[allow(clippy::too_many_arguments, reason = "the one place where everything meets")]
async fn run_actors<R: Runtime>(
    rt: &R,
    job: &RestoreJob,
    shares: &Shares,
    index: &Arc<Index>,
    chunks: &Arc<ChunkReader>,
    scopes: &[Scope],
    site: &Arc<Site>,
    stop: &StopSignal,
) -> Result<(), Failure> {
    let shards = rt.shards();
    let budget = Budget::new(shares.pipe_bytes);
    let spans: Injector<ReadSpan> = Injector::new("spans", SPANS_PER_SHARD * shards);
    let running = Pending::default();
    for shard in 0..shards {
        let (site, chunks, repository) = (site.clone(), chunks.clone(), job.repository.clone());
        let (budget, spans, stop, token) = (budget.clone(), spans.clone(), stop.clone(), running.token());
        let requests_max = REQUESTS_MAX.div_ceil(shards).max(2);
        rt.remote().spawn_on(shard, "restore shard", move |rt| {
            let kill = site.kill.clone();
            let stats = |name| site.progress.register_actor(name, shard);
            let (writer, frames) = mailbox("writer", PLAIN_FRAMES.0, PLAIN_FRAMES.1);
            let (decompressor, sealed) = mailbox("decompressor", SEALED_RANGES.0, SEALED_RANGES.1);
            let sink = Writer::new(rt.clone(), site.clone());
            let sink = spawn_actor(&rt, sink, frames, &kill, &stats("writer"));
            let opener = Decompressor::new(rt.clone(), repository, chunks, site.clone(), writer);
            let opener = spawn_actor(&rt, opener, sealed, &kill, &stats("decompressor"));
            let parts = DownloaderParts { site: site.clone(), budget, stop, spans, decompressor, requests_max };
            let reader = spawn_worker(&rt, Downloader::new(rt.clone(), parts), &kill, &stats("downloader"));
            supervise(kill, "restore shard", async move {
                let _running = token;
                for actor in [reader, opener, sink] {
                    actor.await;
                }
                Ok(())
            })
        });
    }
    let limits = PlanLimits {
        plan_bytes: shares.plan_bytes / 2,
        content_bytes: WINDOW_CONTENT_BYTES,
        range_cost_bytes: shares.range_cost_bytes(shards),
    };
    let parts = PlannerParts {
        point: job.point.clone(),
        scopes: scopes.to_vec(),
        overwrite: job.overwrite,
        chunks: chunks.clone(),
        index: index.clone(),
        site: site.clone(),
        spans,
        stop: stop.clone(),
        limits,
        scratch: job.scratch.clone(),
        pool: Pool::new("restore-plan", 1),
    };
    let (filesets, orders) = mailbox("planner", 1, 1);
    let stats = site.progress.register_actor("planner", rt.shard());
    let planner = spawn_actor(rt, Planner::new(rt.clone(), parts), orders, &site.kill, &stats);
    for number in 0..job.point.filesets.len() {
        if filesets.send(RestoreFileset { number }).await.is_err() {
            break;
        }
        site.progress.set_fileset(number as u64, job.point.filesets.len() as u64);
    }
    drop(filesets);
    planner.await;
    running.none().await;
    site.kill.check()
}
