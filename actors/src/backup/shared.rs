//! What all actors of one backup job share: the order, the repository, and the guards.
//!
//! Immutable after the job has begun, but for the counters and tables inside, which are made for
//! several shards. Must never hold anything that belongs to one shard.

use std::future::Future;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mover_repository::chunk_reader::ChunkReader;
use mover_repository::ids::{ChunkId, LogNumber, ObjectId};
use mover_repository::index::Index;
use mover_repository::manifest::Page;
use mover_repository::repository::Repository;

use crate::backup::claims::{Claim, Claims};
use crate::backup::compressor::VerifyBeforeUpload;
use crate::backup::cut::ChunkSizes;
use crate::backup::messages::NewChunks;
use crate::backup::report::Report;
use crate::error::Failure;
use crate::progress::Progress;
use crate::runtime::{Address, KillSwitch, StopSignal};
use crate::scratch::Scratch;
use crate::source::{FileKind, Source};

/// The answer of a gate: go on, or why not. It may come from any thread.
pub type GateAnswer = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Asked once, when all is durable: may the recovery point be published now? Whoever runs the job for somebody may have
/// lost it meanwhile.
#[derive(Clone)]
pub struct CommitGate(pub Arc<dyn Fn() -> GateAnswer + Send + Sync>);

impl std::fmt::Debug for CommitGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CommitGate")
    }
}

/// What may be chosen for a backup.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// Bytes of memory for everything in flight and in tables.
    pub memory_bytes: usize,
    /// Bounds of the zstd level; equal bounds fix it.
    pub levels: RangeInclusive<i32>,
    /// How many frames are read back before upload.
    pub verify_before_upload: VerifyBeforeUpload,
    /// One in so many unchanged files is read all the same and compared; none if absent.
    pub reread_one_in: Option<u64>,
    /// Picks which files those are; another number picks others.
    pub reread_salt: u64,
    /// Lists and counts, reads and stores nothing.
    pub dry_run: bool,
    /// Size at which a pack is closed, instead of the default.
    pub pack_bytes: Option<u64>,
    /// The point without which the new one is of no use: retention keeps it as long.
    pub depends_on: Option<ObjectId>,
    /// How often the run leaves a sign of life; none on a simulated machine.
    pub alive_every: Option<Duration>,
    /// Who is asked before the recovery point is published.
    pub gate: Option<CommitGate>,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self {
            memory_bytes: 128 << 20,
            levels: 1..=9,
            verify_before_upload: VerifyBeforeUpload::default(),
            reread_one_in: None,
            reread_salt: 0,
            dry_run: false,
            pack_bytes: None,
            depends_on: None,
            alive_every: None,
            gate: None,
        }
    }
}

impl BackupOptions {
    /// True if an unchanged file is to be read in this run to audit that it has not changed.
    pub fn is_audited(&self, path: &[u8]) -> bool {
        let Some(one_in) = self.reread_one_in else { return false };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.reread_salt.to_le_bytes()).update(path);
        let digest = hasher.finalize();
        let number = u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("eight bytes"));
        number.is_multiple_of(one_in.max(1))
    }
}

/// See the module.
pub struct JobShared {
    /// Where the backup goes.
    pub repository: Repository,
    /// This job's number in the log; its packs carry it.
    pub writer: LogNumber,
    /// Where the bytes come from.
    pub source: Arc<dyn Source>,
    /// True if the source has no sizes and cannot be read twice.
    pub is_stream: bool,
    /// What the repository has.
    pub index: Arc<Index>,
    /// Reads pages of the parent.
    pub chunks: Arc<ChunkReader>,
    /// What this run is storing.
    pub claims: Arc<Claims>,
    /// Stops the job at the first failure.
    pub kill: KillSwitch,
    /// Asks the job to come to a clean end.
    pub stop: StopSignal,
    /// Live figures.
    pub progress: Arc<Progress>,
    /// Findings.
    pub report: Arc<Report>,
    /// Where what exceeds memory goes.
    pub scratch: Arc<dyn Scratch>,
    /// As chosen.
    pub options: BackupOptions,
    /// As the repository's config says.
    pub chunk_sizes: ChunkSizes,
}

impl JobShared {
    /// Claims a chunk for storing, unless the repository or another shard has it.
    pub async fn claim(&self, id: &ChunkId) -> Result<Claim, Failure> {
        let is_known = match self.index.contains_now(id) {
            Some(known) => known,
            None => self.index.lookup(id).await?.is_some(),
        };
        if is_known {
            return Ok(Claim::Taken);
        }
        Ok(self.claims.claim(id, || self.index.contains_now(id) == Some(true)))
    }

    /// Counts an entry that is through.
    pub fn count_done(&self, kind: FileKind, bytes: u64) {
        if kind == FileKind::File {
            self.progress.add_files(1);
            self.progress.add_bytes(bytes);
        } else {
            self.progress.add_others(1);
        }
    }

    /// Hands a manifest page to a compressor, if the repository lacks it.
    pub async fn store_page(&self, page: Page, compressor: &Address<NewChunks>) -> Result<(), Failure> {
        if self.claim(&page.id).await? == Claim::Mine {
            compressor.send(NewChunks::Page(page)).await?;
        }
        Ok(())
    }
}
