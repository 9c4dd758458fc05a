//! A simulated world: a source, a store, a repository in it, and backups on simulated shards.
//!
//! Everything that decides what a run does follows from its seed, so a seed that failed once
//! fails again. Runs on one test thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_lite::future::block_on;
use mover_actors::Failure;
use mover_actors::backup::{BackupJob, BackupOptions, BackupReport, run_backup};
use mover_actors::progress::Progress;
use mover_actors::restore::{RestoreJob, RestoreReport, run_restore};
use mover_actors::runtime::simulation::{Ended, Outcome, Simulation};
use mover_actors::runtime::{StopSignal, shards_for};
use mover_actors::scratch::MemoryScratch;
use mover_actors::simulation::{Latency, SimSource, SimStore, SimTarget, SimTree, StoreFaults, TargetFaults};
use mover_repository::backend::{Backend, MemoryBackend};
use mover_repository::chunk_reader::ChunkReader;
use mover_repository::config::ChunkerConfig;
use mover_repository::ids::ObjectId;
use mover_repository::index::Index;
use mover_repository::log::RecoveryPoint;
use mover_repository::manifest::{ContentReader, Kind, ManifestReader, Piece};
use mover_repository::repository::Repository;
use mover_repository::verify::{Data, VerifyOptions, verify};

/// What the store holds.
pub type Objects = BTreeMap<String, Bytes>;
/// Contents by path, one map a fileset.
pub type Contents = Vec<BTreeMap<Vec<u8>, Vec<u8>>>;

/// The smallest budget that the command line accepts.
pub const MEMORY_BYTES_MIN: usize = 128 << 20;

/// The settings of one run.
#[derive(Clone)]
pub struct World {
    pub seed: u64,
    /// The job of its backups: again the same one is done if it has published, and goes on if not.
    pub job: ObjectId,
    pub shards: usize,
    pub memory_bytes: usize,
    pub trees: Vec<SimTree>,
    pub faults: StoreFaults,
    pub crash_after: Option<u64>,
    pub source_latency: Latency,
}

/// What a run left behind.
pub struct Run {
    pub outcome: Outcome<BackupReport>,
    pub store: SimStore,
    pub source: SimSource,
}

/// What a restore left behind.
pub struct RestoreRun {
    pub outcome: Outcome<RestoreReport>,
    /// Files that are there under their own names.
    pub contents: Contents,
}

/// One job a number.
pub fn job(number: u64) -> ObjectId {
    let mut bytes = [1; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    ObjectId(bytes)
}

impl World {
    /// A world without faults.
    pub fn new(seed: u64, shards: usize, trees: Vec<SimTree>) -> Self {
        assert!(shards <= shards_for(1 << 40, shards), "shards are lowered by memory alone");
        Self {
            seed,
            job: job(seed),
            shards,
            memory_bytes: MEMORY_BYTES_MIN.max(shards * (32 << 20)),
            trees,
            faults: StoreFaults::default(),
            crash_after: None,
            source_latency: Latency::micros(1, 300),
        }
    }

    /// Backs the source up into a store that holds `objects`.
    pub fn back_up(&self, objects: Objects) -> Run {
        let mut simulation = Simulation::new(self.seed, self.shards);
        if let Some(steps) = self.crash_after {
            simulation = simulation.crash_after(steps);
        }
        let store = SimStore::with_objects(simulation.handle(), self.faults, objects);
        let (outcome, source) = self.run_backup(simulation, repository().moved_to(Arc::new(store.clone())));
        Run { outcome, store, source }
    }

    /// The repository, on a store of another kind that holds its objects.
    pub fn repository_on(store: Arc<dyn Backend>) -> Repository {
        repository().moved_to(store)
    }

    /// Backs the source up into a repository on a store of another kind, whose calls must be ready at once.
    pub fn back_up_into(&self, repository: Repository) -> Outcome<BackupReport> {
        self.run_backup(Simulation::new(self.seed, self.shards), repository).0
    }

    fn run_backup(&self, simulation: Simulation, repository: Repository) -> (Outcome<BackupReport>, SimSource) {
        let source = SimSource::new(simulation.handle(), self.source_latency, self.trees.clone());
        let job = BackupJob {
            repository,
            source: Arc::new(source.clone()),
            is_stream: false,
            set: "set".into(),
            host: "host".into(),
            tags: vec![],
            job: self.job,
            process_id: 1,
            options: BackupOptions {
                memory_bytes: self.memory_bytes,
                pack_bytes: Some(96 << 10),
                ..BackupOptions::default()
            },
            scratch: Arc::new(MemoryScratch::default()),
        };
        (simulation.run(move |rt| run_backup(rt, job, Progress::new(), StopSignal::new())), source)
    }
}

impl World {
    /// Restores the newest recovery point that `objects` holds, on as many shards, with the same delays.
    pub fn restore(&self, objects: Objects) -> Result<Contents, Ended> {
        let target_faults = TargetFaults { latency: self.source_latency, ..TargetFaults::default() };
        let run = self.restore_with(objects, StoreFaults::default(), target_faults);
        let report = run.outcome.result?;
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        Ok(run.contents)
    }

    /// As [`World::restore`], with faults of store and target.
    pub fn restore_with(&self, objects: Objects, store_faults: StoreFaults, faults: TargetFaults) -> RestoreRun {
        let simulation = Simulation::new(self.seed, self.shards);
        let store = SimStore::with_objects(simulation.handle(), store_faults, objects);
        let target = SimTarget::new(simulation.handle(), faults);
        let (repository, into) = (repository().moved_to(Arc::new(store)), Arc::new(target.clone()));
        let memory_bytes = self.memory_bytes;
        let outcome = simulation.run(move |rt| async move {
            let (_, point) = repository.history().await?.recovery_points().pop().expect("a recovery point");
            let mut job = RestoreJob::new(repository, point, into);
            (job.memory_bytes, job.scratch) = (memory_bytes, Arc::new(MemoryScratch::default()));
            run_restore(rt, job, Progress::new(), StopSignal::new()).await
        });
        let roots = self.trees.iter().map(|tree| String::from_utf8_lossy(tree.root_path()).into_owned());
        let contents = roots.map(|root| target.contents(root.trim_start_matches('/'))).collect();
        RestoreRun { outcome, contents }
    }
}

/// The one repository of this process.
fn repository() -> Repository {
    thread_local! {
        static REPOSITORY: Repository = Repository::seeded(Arc::new(MemoryBackend::default()), 1, small_chunks());
    }
    REPOSITORY.with(Repository::clone)
}

/// Chunks that are small enough for small files to have several.
pub fn small_chunks() -> ChunkerConfig {
    ChunkerConfig { bytes_min: 4 << 10, bytes_average: 16 << 10, bytes_max: 64 << 10, ..ChunkerConfig::default() }
}

/// A recovery point with all that can be restored from it.
pub struct Restorable {
    pub point: RecoveryPoint,
    pub contents: Contents,
}

/// Reads back every recovery point that `objects` holds: every manifest, every chunk.
pub fn read_back(objects: &Objects) -> Result<Vec<Restorable>, Failure> {
    let backend = MemoryBackend::default();
    backend.restore(objects.clone());
    read_back_from(&repository().moved_to(Arc::new(backend)))
}

/// As [`read_back`], of an open repository.
pub fn read_back_from(repository: &Repository) -> Result<Vec<Restorable>, Failure> {
    block_on(async {
        let history = repository.history().await?;
        let index = Index::load_or_rebuild(repository, &history, 64 << 20).await?;
        let chunks = Arc::new(ChunkReader::new(repository, index, 16 << 20));
        let mut points = vec![];
        for (_, point) in history.recovery_points() {
            let mut contents = vec![];
            for fileset in &point.filesets {
                contents.push(read_fileset(&chunks, fileset.root).await?);
            }
            points.push(Restorable { point, contents });
        }
        Ok(points)
    })
}

async fn read_fileset(
    chunks: &Arc<ChunkReader>,
    root: mover_repository::manifest::ManifestRoot,
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Failure> {
    let mut manifest = ManifestReader::new(chunks.clone(), root);
    let mut files = BTreeMap::new();
    while let Some(entry) = manifest.next().await? {
        if entry.kind != Kind::File || entry.error {
            continue;
        }
        let mut bytes = Vec::with_capacity(entry.meta.size as usize);
        let mut content = ContentReader::new(chunks.clone(), &entry.content);
        while let Some(piece) = content.next().await? {
            match piece {
                Piece::Hole { bytes: hole } => bytes.resize(bytes.len() + hole as usize, 0),
                Piece::Chunk { id, .. } => bytes.extend_from_slice(&chunks.read(&id).await?),
            }
        }
        files.insert(entry.path, bytes);
    }
    Ok(files)
}

/// What `mover verify --data all` finds wrong.
pub fn verify_errors(objects: &Objects) -> Vec<String> {
    let backend = MemoryBackend::default();
    backend.restore(objects.clone());
    verify_errors_of(&repository().moved_to(Arc::new(backend)))
}

/// As [`verify_errors`], of an open repository.
pub fn verify_errors_of(repository: &Repository) -> Vec<String> {
    let options = VerifyOptions { data: Data::All, ..VerifyOptions::default() };
    match verify(repository, &options, &|_| {}) {
        Ok(report) => report.errors.iter().map(|error| format!("{error:?}")).collect(),
        Err(error) => vec![error.to_string()],
    }
}

/// What the trees hold, as [`read_back`] would give it.
pub fn contents_of(trees: &[SimTree]) -> Contents {
    trees.iter().map(SimTree::contents).collect()
}
