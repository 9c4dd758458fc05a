//! One backup job from registration to recovery point.
//!
//! ```text
//! register ─▶ take the job over ─▶ load index ─▶ for each fileset: move, make durable, seal ─▶ ask ─▶ commit
//! ```
//!
//! Filesets run in sequence: the next one is not even listed before the one before is sealed,
//! which is after its packs are durable, beside its index segment. The commit is one create-if-absent;
//! before it nothing of this run can be restored, after it everything can.
//!
//! Runs on shard 0. A failure stops the job and keeps what is durable: the next run finds it in the
//! index and does not store it again.

use std::sync::Arc;

use mover_repository::chunk_reader::ChunkReader;
use mover_repository::crypto::random_array;
use mover_repository::heartbeat::Heartbeat;
use mover_repository::ids::{LogNumber, ObjectId, UnixNanos};
use mover_repository::index::Index;
use mover_repository::limits::FRAME_BYTES_MAX;
use mover_repository::log::{
    Grade, History, OpenRecord, Outcome, RecoveryPoint, Registration, Role, SealedFileset, Totals, this_machine,
};
use mover_repository::manifest::Parent;
use mover_repository::repository::Repository;

use crate::backup::buffers::BufferPool;
use crate::backup::chunker::LANES;
use crate::backup::claims::Claims;
use crate::backup::cut::ChunkSizes;
use crate::backup::ledger::Ledger;
use crate::backup::pipeline::{FilesetEnd, Plant, ShardReserves, run_fileset, scan_fileset};
use crate::backup::report::{LevelUse, Lists, Report};
use crate::backup::shared::{BackupOptions, JobShared};
use crate::bottleneck::{Bottleneck, Stopwatch};
use crate::error::{Failure, Side};
use crate::progress::{Counts, Phase, Progress};
use crate::runtime::stats::ActorSnapshot;
use crate::runtime::{Budget, KillSwitch, Runtime, StopSignal, clock};
use crate::scratch::Scratch;
use crate::source::Source;

/// The order.
pub struct BackupJob {
    /// Where to.
    pub repository: Repository,
    /// Where from.
    pub source: Arc<dyn Source>,
    /// True if the source is one stream without size.
    pub is_stream: bool,
    /// The set that the recovery point belongs to.
    pub set: String,
    /// The host whose data it is.
    pub host: String,
    /// Labels.
    pub tags: Vec<String>,
    /// Identity of the order: a restarted job carries the same one.
    pub job: ObjectId,
    /// The process, for the log.
    pub process_id: u32,
    /// Choices.
    pub options: BackupOptions,
    /// For what exceeds memory.
    pub scratch: Arc<dyn Scratch>,
}

/// What a backup came to.
#[derive(Debug)]
pub struct BackupReport {
    /// The recovery point; none after a dry run or an interruption.
    pub point: Option<RecoveryPoint>,
    /// True if an earlier run of the same job had made that point: nothing was moved.
    pub made_before: bool,
    /// The recovery point that unchanged files were taken from.
    pub parent: Option<ObjectId>,
    /// Sums over all filesets.
    pub totals: Totals,
    /// The counters of this run.
    pub counts: Counts,
    /// Problems, torn files, exclusions, notes.
    pub lists: Lists,
    /// True if a stop was requested before the end; what is stored is kept.
    pub interrupted: bool,
    /// Packs and index segments written.
    pub packs: u64,
    /// See `packs`.
    pub segments: u64,
    /// Frames decoded before upload, and how many were wrong.
    pub frames_verified: (u64, u64),
    /// The most bytes of buffers that were in flight at one time.
    pub buffer_bytes_peak: u64,
    /// What each zstd level was used for.
    pub levels: Vec<LevelUse>,
    /// Busy, starved, blocked and waiting time of each actor.
    pub actors: Vec<ActorSnapshot>,
    /// What limited it.
    pub bottleneck: Bottleneck,
}

impl BackupReport {
    /// Of a run that found the work done.
    fn made_before(point: RecoveryPoint, bottleneck: Bottleneck) -> Self {
        Self {
            parent: point.parent,
            totals: point.totals,
            counts: Counts::default(),
            lists: Lists { problems_unlisted: point.errors, ..Lists::default() },
            point: Some(point),
            made_before: true,
            interrupted: false,
            packs: 0,
            segments: 0,
            frames_verified: (0, 0),
            buffer_bytes_peak: 0,
            levels: Vec::new(),
            actors: Vec::new(),
            bottleneck,
        }
    }
}

/// How the memory budget is divided; what remains is for buffers in flight.
struct Shares {
    index_bytes: usize,
    ledger_bytes: usize,
    early_bytes: usize,
    links_bytes: usize,
    pages_bytes: usize,
    buffer_bytes: usize,
}

impl Shares {
    fn of(memory_bytes: usize) -> Self {
        let [index_bytes, eighth, small] = [memory_bytes / 4, memory_bytes / 8, memory_bytes / 32];
        // An eighth is left to compressor contexts, open frames and listings. What the ledger holds comes on top where
        // chunks are tiny; then there is little in the buffers.
        let buffer_bytes = memory_bytes - index_bytes - 3 * small - eighth;
        let [early_bytes, links_bytes, pages_bytes] = [small; 3];
        Self { index_bytes, ledger_bytes: eighth, early_bytes, links_bytes, pages_bytes, buffer_bytes }
    }
}

/// Runs one backup. `stop` asks it to come to a clean end early.
pub async fn run_backup<R: Runtime>(
    rt: R,
    job: BackupJob,
    progress: Arc<Progress>,
    stop: StopSignal,
) -> Result<BackupReport, Failure> {
    progress.set_phase(Phase::Preparing);
    let stopwatch = Stopwatch::start(rt.now());
    let registration = if job.options.dry_run { None } else { Some(register(&rt, &job).await?) };
    let every = job.options.alive_every;
    let _heartbeat =
        registration.as_ref().zip(every).map(|(registration, every)| Heartbeat::start(registration, every));
    let history = match &registration {
        Some(registration) => registration.history().clone(),
        None => job.repository.history().await?,
    };
    let earlier = match check_base(&history, job.options.depends_on) {
        Ok(()) => earlier_point(registration.as_ref()).await,
        Err(failure) => Err(failure),
    };
    match earlier {
        Ok(None) => {}
        Ok(Some(point)) => {
            if let Some(registration) = registration {
                registration.give_up(format!("this job has made recovery point {} before", point.id)).await;
            }
            return Ok(BackupReport::made_before(point, stopwatch.stop(rt.now(), rt.shards(), &[])));
        }
        Err(failure) => return Err(end(registration, failure).await),
    }
    let writer = registration.as_ref().map(Registration::number);
    let run = match Run::prepare(&rt, job, &history, writer, stopwatch, progress, stop).await {
        Ok(run) => run,
        Err(failure) => return Err(end(registration, failure).await),
    };
    let moved = run.filesets(&rt, registration.as_ref()).await;
    run.shared.progress.set_phase(Phase::Finishing);
    let outcome = match moved {
        Ok(filesets) => run.conclude(&rt, registration, filesets).await,
        Err(failure) => {
            // What is durable stays useful: name it in the index if the repository still lets us.
            let _ = run.plant.ledger.flush().await;
            Err(end(registration, failure).await)
        }
    };
    run.shared.progress.set_phase(Phase::Done);
    run.shared.progress.publish();
    outcome
}

pub(super) async fn register<R: Runtime>(rt: &R, job: &BackupJob) -> Result<Registration, Failure> {
    let open = OpenRecord {
        role: Role::Writer,
        host: job.host.clone(),
        process_id: job.process_id,
        machine: job.options.alive_every.map_or(ObjectId([0; 32]), |_| this_machine()),
        set: job.set.clone(),
        job: job.job,
        adopts: None,
        depends_on: job.options.depends_on,
        started: rt.unix_now(),
    };
    Ok(job.repository.register(open).await?)
}

/// Ends the run, if it is one that the repository knows of.
async fn end(registration: Option<Registration>, failure: Failure) -> Failure {
    match registration {
        Some(registration) => failure.ending(registration).await,
        None => failure,
    }
}

/// The point of this job, if an earlier run of it has published one; if not, no earlier run can any more.
async fn earlier_point(registration: Option<&Registration>) -> Result<Option<RecoveryPoint>, Failure> {
    match registration {
        Some(registration) => Ok(registration.take_over().await?),
        None => Ok(None),
    }
}

/// A base that was forgotten by somebody who registered before this run is gone for it, at its start as at its end: no
/// point is better than one that depends on nothing.
fn check_base(history: &History, base: Option<ObjectId>) -> Result<(), Failure> {
    let Some(base) = base.filter(|base| history.points().all(|(_, point)| point.id != *base)) else { return Ok(()) };
    let failure = Failure::new(
        Side::Repository,
        "depend on",
        format!("recovery point {base}"),
        "it was forgotten, or is not in this repository",
    );
    Err(failure.with_guidance("bring it back by `mover forget --undo`, or back up without --depends-on"))
}

/// A job in progress.
pub(super) struct Run {
    pub(super) shared: Arc<JobShared>,
    pub(super) plant: Plant,
    pub(super) reserves: Vec<ShardReserves>,
    /// Memory for buffers in flight.
    budget: Budget,
    parent: Option<RecoveryPoint>,
    set: String,
    host: String,
    tags: Vec<String>,
    started: UnixNanos,
    stopwatch: Stopwatch,
}

impl Run {
    pub(super) async fn prepare<R: Runtime>(
        rt: &R,
        job: BackupJob,
        history: &History,
        writer: Option<LogNumber>,
        stopwatch: Stopwatch,
        progress: Arc<Progress>,
        stop: StopSignal,
    ) -> Result<Self, Failure> {
        let BackupJob { repository, source, is_stream, set, host, tags, options, scratch, .. } = job;
        let shares = Shares::of(options.memory_bytes);
        let index = Index::load_for_backup(&repository, history, shares.index_bytes).await?;
        let report = Arc::new(Report::default());
        if index.lost_packs() > 0 {
            let count = index.lost_packs();
            report.note(format!(
                "{count} packs are missing from the repository: what they held is stored again where it still exists; \
                 `mover verify` tells what earlier recovery points have lost"
            ));
        }
        let claims = Arc::new(Claims::default());
        let config = repository.config();
        let chunk_sizes = ChunkSizes {
            bytes_min: config.chunker.bytes_min as usize,
            bytes_avg: config.chunker.bytes_average as usize,
            bytes_max: config.chunker.bytes_max as usize,
        };
        let buffers = BufferPool::new(chunk_sizes.bytes_max);
        let budget = Budget::new(shares.buffer_bytes);
        let reserves = (0..rt.shards()).map(|_| reserve_shard(&budget, &buffers)).collect::<Result<_, _>>()?;
        let points = history.recovery_points();
        let parent = points.into_iter().rev().map(|(_, point)| point).find(|point| point.set == set);
        if let Some(parent) = &parent {
            progress.set_earlier(parent.totals.files, parent.totals.bytes);
        }
        let clock = Box::new(clock::monotonic);
        let ledger = Ledger::new(repository.clone(), index.clone(), claims.clone(), shares.ledger_bytes, clock);
        if writer.is_some() {
            ledger.adopt(index.take_adopted());
        }
        let chunks = Arc::new(ChunkReader::new(&repository, index.clone(), shares.pages_bytes));
        let shared = JobShared {
            repository,
            writer: writer.unwrap_or_default(),
            source,
            is_stream,
            index,
            chunks,
            claims,
            kill: KillSwitch::new(),
            stop,
            progress,
            report,
            scratch,
            options,
            chunk_sizes,
        };
        let plant = Plant {
            ledger: Arc::new(ledger),
            buffers,
            early_bytes: shares.early_bytes,
            links_bytes: shares.links_bytes,
        };
        let shared = Arc::new(shared);
        Ok(Self { shared, plant, reserves, budget, parent, set, host, tags, started: rt.unix_now(), stopwatch })
    }

    /// Moves the filesets, one after the other.
    async fn filesets<R: Runtime>(
        &self,
        rt: &R,
        registration: Option<&Registration>,
    ) -> Result<Vec<SealedFileset>, Failure> {
        let count = self.shared.source.fileset_count();
        let mut sealed = Vec::with_capacity(count);
        for k in 0..count {
            self.shared.progress.set_phase(Phase::Moving);
            self.shared.progress.set_fileset(k as u64, count as u64);
            self.shared.report.begin_fileset(self.shared.source.fileset(k).root_path);
            let before = self.shared.progress.counts();
            let parent = self.parent_of(k);
            let Some(registration) = registration else {
                scan_fileset(rt, &self.shared, &self.plant, k, parent).await?;
                continue;
            };
            let end = run_fileset(rt, &self.shared, &self.plant, self.reserves.clone(), k, parent).await?;
            if self.shared.stop.is_requested() {
                self.plant.ledger.flush().await?;
                break;
            }
            let fileset = self.seal(k, &end, before);
            let seal = async { Ok(registration.seal_fileset(k as u32, &fileset).await?) };
            self.plant.ledger.flush_then(seal).await?;
            let open = self.shared.claims.open();
            assert!(open == 0, "{open} chunks of fileset {k} were claimed and never became durable");
            sealed.push(fileset);
        }
        Ok(sealed)
    }

    /// The manifest of fileset `k` in the parent, and when it was scanned.
    fn parent_of(&self, k: usize) -> Option<(Parent, UnixNanos)> {
        let root_path = self.shared.source.fileset(k).root_path;
        let filesets = &self.parent.as_ref()?.filesets;
        let fileset = filesets.iter().find(|fileset| fileset.root_path == root_path)?;
        let parent = Parent::new(self.shared.chunks.clone(), fileset.root);
        Some((parent, fileset.scan_started))
    }

    fn seal(&self, k: usize, end: &FilesetEnd, before: Counts) -> SealedFileset {
        let after = self.shared.progress.counts();
        let totals = Totals {
            bytes_read: after.bytes_read - before.bytes_read,
            bytes_new: after.bytes_new - before.bytes_new,
            bytes_stored: after.bytes_stored - before.bytes_stored,
            ..self.shared.report.take_fileset()
        };
        SealedFileset {
            root_path: self.shared.source.fileset(k).root_path,
            root: end.root,
            scan_started: end.scanned.started,
            scan_finished: end.scanned.finished,
            totals,
        }
    }

    /// Publishes the recovery point, or says why there is none.
    async fn conclude<R: Runtime>(
        &self,
        rt: &R,
        registration: Option<Registration>,
        filesets: Vec<SealedFileset>,
    ) -> Result<BackupReport, Failure> {
        let mut totals = Totals::default();
        filesets.iter().for_each(|fileset| totals.add(&fileset.totals));
        let interrupted = self.shared.stop.is_requested();
        let mut point = None;
        if let Some(registration) = registration {
            if interrupted {
                registration.commit(Outcome::Ended { reason: "interrupted by the user".into() }).await?;
            } else {
                let complete = self.point(rt, filesets, totals);
                if let Err(refusal) = self.may_publish(&registration, &complete).await {
                    return Err(refusal.ending(registration).await);
                }
                registration.commit(Outcome::RecoveryPoint(complete.clone())).await?;
                point = Some(complete);
            }
        }
        Ok(self.report(rt, point, totals, interrupted))
    }

    /// Asks the log whether what the point depends on is still there, and whoever runs this job whether it may publish.
    async fn may_publish(&self, registration: &Registration, complete: &RecoveryPoint) -> Result<(), Failure> {
        if complete.depends_on.is_some() {
            check_base(&registration.repository().history().await?, complete.depends_on)?;
        }
        let Some(gate) = &self.shared.options.gate else { return Ok(()) };
        (gate.0)().await.map_err(|reason| {
            Failure::control("publish", "the recovery point", reason).with_guidance(
                "no recovery point was made; what is stored is kept, and the next run of the job goes on from there",
            )
        })
    }

    fn point<R: Runtime>(&self, rt: &R, filesets: Vec<SealedFileset>, totals: Totals) -> RecoveryPoint {
        let lists = self.shared.report.lists();
        RecoveryPoint {
            id: ObjectId(random_array()),
            set: self.set.clone(),
            host: self.host.clone(),
            paths: filesets.iter().map(|fileset| fileset.root_path.clone()).collect(),
            tags: self.tags.clone(),
            started: self.started,
            finished: rt.unix_now(),
            parent: self.parent.as_ref().map(|parent| parent.id),
            depends_on: self.shared.options.depends_on,
            grade: if totals.files_torn > 0 { Grade::Torn } else { Grade::Stable },
            errors: lists.problems.len() as u64 + lists.problems_unlisted,
            filesets,
            totals,
        }
    }

    fn report<R: Runtime>(
        &self,
        rt: &R,
        point: Option<RecoveryPoint>,
        totals: Totals,
        interrupted: bool,
    ) -> BackupReport {
        let (packs, segments) = self.plant.ledger.counts();
        let actors = self.shared.progress.snapshot().actors;
        let bottleneck = self.stopwatch.stop(rt.now(), rt.shards(), &actors);
        bottleneck.publish();
        BackupReport {
            point,
            made_before: false,
            parent: self.parent.as_ref().map(|parent| parent.id),
            totals,
            counts: self.shared.progress.counts(),
            lists: self.shared.report.lists(),
            interrupted,
            packs,
            segments,
            frames_verified: self.shared.report.verified_frames(),
            buffer_bytes_peak: self.budget.peak_bytes() as u64,
            levels: self.shared.report.levels(),
            actors,
            bottleneck,
        }
    }
}

/// The room that the actors of one shard can always fall back on.
fn reserve_shard(budget: &Budget, buffers: &BufferPool) -> Result<ShardReserves, Failure> {
    let reserve = |bytes| {
        budget.reserve(bytes).ok_or_else(|| {
            Failure::control("reserve", "memory", "the budget is too small for this many shards")
                .with_guidance("raise --memory or lower --shards")
        })
    };
    let lanes = (0..LANES).map(|_| reserve(buffers.buffer_bytes())).collect::<Result<_, _>>()?;
    Ok(ShardReserves { lanes, compressor: reserve(FRAME_BYTES_MAX)? })
}
