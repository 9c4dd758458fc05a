//! Wires the actors of one fileset, sink first, and waits for their end.
//!
//! ```text
//! scanner ─▶ chunker ─▶ deduplicator ─▶ compressor ─▶ uploader ─▶ ledger
//!    └────────▶ recorder ◀────┘ └──────── pages ─▲
//! ```
//!
//! The end travels the same way as the data: the scanner closes the injector, the chunkers drop
//! the deduplicator's mailbox, and so on to the last pack. Nothing is torn down from outside
//! unless the kill switch is thrown.

use std::sync::Arc;

use mover_repository::ids::UnixNanos;
use mover_repository::manifest::{ManifestRoot, Parent};
use parking_lot::Mutex;

use crate::backup::buffers::BufferPool;
use crate::backup::chunker::{Chunker, LANES};
use crate::backup::compressor::Compressor;
use crate::backup::deduplicator::Deduplicator;
use crate::backup::early::Early;
use crate::backup::hard_links::HardLinks;
use crate::backup::ledger::Ledger;
use crate::backup::messages::{Recorded, Work};
use crate::backup::recorder::{ManifestSlot, Recorder};
use crate::backup::scanner::{Scanned, Scanner, ScannerNote};
use crate::backup::shared::JobShared;
use crate::backup::uploader::Uploader;
use crate::error::Failure;
use crate::runtime::{
    Address, Inbox, Injector, KillSwitch, Remote, Reserve, Runtime, TaskHandle, Weigh, mailbox, metered, spawn_actor,
    spawn_worker, supervise,
};

/// Work items a shard that the scanner may be ahead; each is at most a batch of small files.
const WORK_ITEMS_PER_SHARD: usize = 8;
/// Buffers between chunkers and deduplicator: one for each lane beside the one it fills.
const CUT_BUFFERS: usize = LANES;
/// Lists of new chunks and bytes that wait for the compressor; the bytes lie in read buffers.
const NEW_CHUNKS: usize = 16;
const NEW_CHUNK_BYTES: usize = 4 << 20;
/// Frames and bytes that wait for the uploader.
const PACK_PARTS: usize = 64;
const PACK_PART_BYTES: usize = 4 << 20;
/// Messages and bytes that wait for the recorder.
const RECORDED: usize = 64;
const RECORDED_BYTES: usize = 4 << 20;
/// Notes to the scanner never wait: there are no more of them than entries in flight.
const NOTES: usize = 1 << 40;

/// What a fileset came to.
pub struct FilesetEnd {
    /// Its manifest.
    pub root: ManifestRoot,
    /// When it was scanned.
    pub scanned: Scanned,
}

/// What the actors of one shard need that exists before them.
struct ShardWiring {
    job: Arc<JobShared>,
    fileset: usize,
    ledger: Arc<Ledger>,
    buffers: BufferPool,
    reserves: ShardReserves,
    work: Injector<Work>,
    recorder: Address<Recorded>,
    /// On shard 0 only: the recorder lives beside that shard's compressor.
    recorder_seat: Option<RecorderSeat>,
    done: Address<ShardDone>,
}

struct RecorderSeat {
    inbox: Inbox<Recorded>,
    scanner: Address<ScannerNote>,
    early: Early,
    result: ManifestSlot,
}

/// Memory that the actors of one shard can always fall back on.
#[derive(Clone)]
pub struct ShardReserves {
    /// One read buffer a lane.
    pub lanes: Vec<Reserve>,
    /// One largest frame.
    pub compressor: Reserve,
}

/// All actors of a shard have ended.
struct ShardDone;

impl Weigh for ShardDone {
    fn weight_bytes(&self) -> usize {
        0
    }
}

/// What outlives a fileset and serves the next one too.
pub struct Plant {
    /// Takes note of written packs.
    pub ledger: Arc<Ledger>,
    /// Read buffers.
    pub buffers: BufferPool,
    /// Bytes of early entries that the recorder keeps in memory.
    pub early_bytes: usize,
    /// Bytes of hard-link names that the scanner keeps in memory.
    pub links_bytes: usize,
}

/// Moves one fileset through the actors. On return everything of it is written, and nothing is
/// durable by name yet: that is the ledger's flush.
pub async fn run_fileset<R: Runtime>(
    rt: &R,
    job: &Arc<JobShared>,
    plant: &Plant,
    reserves: Vec<ShardReserves>,
    fileset: usize,
    parent: Option<(Parent, UnixNanos)>,
) -> Result<FilesetEnd, Failure> {
    let work = Injector::new("work", WORK_ITEMS_PER_SHARD * rt.shards());
    let (recorder, recorder_inbox) = mailbox("recorder", RECORDED, RECORDED_BYTES);
    let (to_scanner, notes) = mailbox("scanner", NOTES, NOTES);
    let (done, mut shards_done) = mailbox("shards", rt.shards(), 1);
    let result: ManifestSlot = Arc::new(Mutex::new(None));
    let early = Early::new(job.scratch.clone(), plant.early_bytes);
    let mut seat = Some(RecorderSeat { inbox: recorder_inbox, scanner: to_scanner, early, result: result.clone() });

    for (shard, reserves) in reserves.into_iter().enumerate() {
        let wiring = ShardWiring {
            job: job.clone(),
            fileset,
            ledger: plant.ledger.clone(),
            buffers: plant.buffers.clone(),
            reserves,
            work: work.clone(),
            recorder: recorder.clone(),
            recorder_seat: seat.take(),
            done: done.clone(),
        };
        let kill = job.kill.clone();
        rt.remote().spawn_on(shard, "shard", move |rt| supervise(kill, "shard", run_shard(rt, wiring)));
    }
    drop(done);

    let links = HardLinks::new(job.scratch.clone(), plant.links_bytes);
    let scanner = Scanner::new(rt.clone(), job.clone(), fileset, parent, links, work.clone(), recorder, notes);
    let stats = job.progress.register_actor("scanner", rt.shard());
    let scanned = until_killed(&job.kill, metered(stats, scanner.run())).await;
    if let Err(failure) = &scanned {
        job.kill.kill(failure.clone());
    }
    // Nothing is given up while a shard still works: its last act would race with the next job.
    while shards_done.receive().await.is_some() {}
    job.kill.check()?;
    let root =
        result.lock().take().ok_or_else(|| Failure::internal("seal", "fileset", "the recorder left no manifest"))?;
    Ok(FilesetEnd { root, scanned: scanned? })
}

/// Lists a fileset and counts what a backup would read; reads and stores nothing.
pub async fn scan_fileset<R: Runtime>(
    rt: &R,
    job: &Arc<JobShared>,
    plant: &Plant,
    fileset: usize,
    parent: Option<(Parent, UnixNanos)>,
) -> Result<(), Failure> {
    let (recorder, mut recorded) = mailbox("recorder", RECORDED, RECORDED_BYTES);
    let (_to_scanner, notes) = mailbox("scanner", NOTES, NOTES);
    let links = HardLinks::new(job.scratch.clone(), plant.links_bytes);
    let work = Injector::new("work", 1);
    let scanner = Scanner::new(rt.clone(), job.clone(), fileset, parent, links, work, recorder, notes);
    let forget = async { while recorded.receive().await.is_some() {} };
    let (scanned, ()) = futures_lite::future::zip(scanner.run(), forget).await;
    scanned.map(|_| ())
}

async fn until_killed<T>(kill: &KillSwitch, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    futures_lite::future::or(work, async { Err(kill.killed().await) }).await
}

/// One shard: its actors, sink first.
async fn run_shard<R: Runtime>(rt: R, wiring: ShardWiring) -> Result<(), Failure> {
    let ShardWiring { job, fileset, ledger, buffers, reserves, work, recorder, recorder_seat, done } = wiring;
    let kill = job.kill.clone();
    let stats = |name| job.progress.register_actor(name, rt.shard());
    let mut tasks: Vec<TaskHandle> = vec![];

    let (to_uploader, inbox) = mailbox("uploader", PACK_PARTS, PACK_PART_BYTES);
    let uploader = Uploader::new(&rt, job.clone(), ledger);
    tasks.push(spawn_actor(&rt, uploader, inbox, &kill, &stats("uploader")));

    let (to_compressor, inbox) = mailbox("compressor", NEW_CHUNKS, NEW_CHUNK_BYTES);
    let compressor = Compressor::new(&rt, job.clone(), reserves.compressor, to_uploader)?;
    tasks.push(spawn_actor(&rt, compressor, inbox, &kill, &stats("compressor")));

    if let Some(seat) = recorder_seat {
        let actor = Recorder::new(job.clone(), seat.early, to_compressor.clone(), seat.scanner, seat.result);
        tasks.push(spawn_actor(&rt, actor, seat.inbox, &kill, &stats("recorder")));
    }

    let (to_deduplicator, inbox) = mailbox("deduplicator", CUT_BUFFERS, usize::MAX);
    let deduplicator = Deduplicator::new(&rt, job.clone(), to_compressor, recorder);
    tasks.push(spawn_actor(&rt, deduplicator, inbox, &kill, &stats("deduplicator")));

    for (lane, reserve) in reserves.lanes.into_iter().enumerate() {
        let next = to_deduplicator.clone();
        let chunker = Chunker::new(&rt, job.clone(), fileset, lane, buffers.clone(), reserve, work.clone(), next);
        tasks.push(spawn_worker(&rt, chunker, &kill, &stats("chunker")));
    }
    drop(to_deduplicator);

    for task in tasks {
        task.await;
    }
    // Its being dropped is the message.
    drop(done);
    Ok(())
}
