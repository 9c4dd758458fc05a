//! Checks a repository: records, tables of contents, index, manifests and, if asked, all data.
//!
//! Blocks, and uses threads of its own for reading and decoding: never call it on an executor
//! thread. Changes nothing. Memory: the index budget, a few frames a thread, and lists that are cut
//! at [`LISTED_MAX`] with their full length counted. No damage may make it panic or stop early.

mod manifests;
mod packs;
mod plan;
mod proof;
#[cfg(test)]
mod proof_tests;
mod records;
mod span;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;

use crate::blocking::block_on;
use crate::chunk_reader::ChunkReader;
use crate::error::{RepositoryError, Result};
use crate::ids::{LogNumber, ObjectId, PackId, UnixNanos};
use crate::index::Index;
use crate::leftovers::{Leftovers, count_unfinished};
use crate::log::{History, HurtFrame, HurtLocations, Outcome, Verification};
use crate::pack::parse_pack_name;
use crate::repository::Repository;
pub use proof::ProofStatus;

/// Items that a list of the report holds at most; the rest is counted.
pub const LISTED_MAX: usize = 10_000;

/// How much of the data to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Data {
    /// Tables and manifests only.
    #[default]
    None,
    /// About this share of the packs, another one each time.
    Percent(u8),
    /// Everything.
    All,
    /// What no verification proved for a while, and what was found hurt and is not healed.
    Due {
        /// After this time a proof is worth nothing.
        max_age: Duration,
        /// Most bytes to read, as whole packs; their tables, which are always read, are not counted.
        budget_bytes: u64,
    },
}

/// How to verify.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// How much of the data to read.
    pub data: Data,
    /// Threads that read and decode, at least one.
    pub threads: usize,
    /// Memory for the index, in bytes.
    pub index_bytes: usize,
    /// Memory for decoded frames, in bytes.
    pub cache_bytes: usize,
    /// The time now: that of the proof, and what the age of earlier ones is counted to.
    pub now: UnixNanos,
    /// Set by others to end the run early: it keeps what it proved.
    pub stop: Arc<AtomicBool>,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        VerifyOptions {
            data: Data::None,
            threads: 1,
            index_bytes: 32 << 20,
            cache_bytes: 16 << 20,
            now: UnixNanos(0),
            stop: Arc::default(),
        }
    }
}

/// What is being checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Tables of contents against the index; `done` counts packs.
    Contents,
    /// Frames and chunks; `done` counts packs.
    Data,
    /// Manifests; `done` counts filesets.
    Manifests,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyProgress {
    /// What is being checked.
    pub phase: Phase,
    /// Items done in this phase.
    pub done: u64,
    /// Items of this phase.
    pub total: u64,
    /// Sealed bytes read in the phase of data.
    pub bytes: u64,
}

/// One thing that is wrong.
#[derive(Debug, Clone)]
pub struct VerifyError {
    /// Name of the object.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A file of a recovery point that cannot be restored as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HurtFile {
    /// The set.
    pub set: String,
    /// The recovery point.
    pub point: ObjectId,
    /// Source path of the fileset.
    pub root_path: Vec<u8>,
    /// Path in the fileset; of a manifest page that cannot be read, where it begins.
    pub path: Vec<u8>,
    /// What is missing.
    pub reason: String,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct VerifyReport {
    /// Recovery points checked.
    pub points: u64,
    /// Entries in manifests checked; pages shared by points count once.
    pub entries: u64,
    /// Chunks looked up for these entries.
    pub chunks: u64,
    /// Packs whose tables were checked.
    pub packs: u64,
    /// Packs that no index segment names, of writers that have no recovery point: no error.
    pub packs_unindexed: u64,
    /// Unfinished files, of killed writers and of those at work: no error.
    pub unfinished: Leftovers,
    /// Packs whose data was read.
    pub packs_read: u64,
    /// Sealed bytes read for that.
    pub bytes_read: u64,
    /// Frames of data packs whose seal was checked but not their content, for want of the read key.
    pub frames_unopened: u64,
    /// Frames that are marked as damaged, so that nothing relies on them: no error.
    pub frames_marked: u64,
    /// What is wrong, at most [`LISTED_MAX`].
    pub errors: Vec<VerifyError>,
    /// How many errors there are.
    pub errors_total: u64,
    /// Files that cannot be restored, at most [`LISTED_MAX`].
    pub hurt_files: Vec<HurtFile>,
    /// How many there are.
    pub hurt_files_total: u64,
    /// Frames and packs that do not open, for a damage record; at most [`LISTED_MAX`].
    pub hurt_frames: Vec<HurtFrame>,
    /// What the run has to leave in the log, so that later ones know what it proved; none if no data was asked for.
    pub verification: Option<Verification>,
    /// With [`Data::Due`]: what is proven, this run included.
    pub proof: Option<ProofStatus>,
    /// It was ended early: not everything was looked at.
    pub is_interrupted: bool,
}

impl VerifyReport {
    /// True if nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.errors_total == 0 && self.hurt_files_total == 0
    }
}

/// What the phases share.
struct Verifier<'a> {
    repository: &'a Repository,
    history: History,
    /// What the history has marked already: no news.
    condemned: std::collections::HashSet<PackId>,
    known_hurt: HurtLocations,
    index: Arc<Index>,
    /// Packs that were found by their tables of contents alone.
    without_segment: HashSet<PackId>,
    chunks: Arc<ChunkReader>,
    options: VerifyOptions,
    /// Packs that exist, with their length.
    present: HashMap<PackId, u64>,
    progress: &'a (dyn Fn(VerifyProgress) + Sync),
    bytes: AtomicU64,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    report: VerifyReport,
    hurt: HashSet<(PackId, u32)>,
}

/// Checks the repository and reports what is wrong. Blocks; `progress` is called from several
/// threads.
///
/// # Errors
/// Only what keeps it from starting: the store cannot be listed.
pub fn verify(
    repository: &Repository,
    options: &VerifyOptions,
    progress: &(dyn Fn(VerifyProgress) + Sync),
) -> Result<VerifyReport> {
    let (history, damage) = block_on(repository.history_with_damage())?;
    // Files are judged as a restore would find them: packs without a segment are read by their own tables.
    let index = match block_on(Index::load_or_rebuild(repository, &history, options.index_bytes)) {
        Err(RepositoryError::LimitExceeded { .. }) => block_on(Index::load(repository, &history, options.index_bytes)),
        loaded => loaded,
    }?;
    let without_segment = index.take_adopted().iter().map(|contents| contents.id).collect();
    let chunks = Arc::new(ChunkReader::new(repository, index.clone(), options.cache_bytes));
    let listed = block_on(repository.backend().list("packs"))?;
    let present = listed.iter().filter_map(|object| Some((parse_pack_name(&object.name)?.1, object.bytes))).collect();
    let verifier = Verifier {
        repository,
        condemned: history.condemned(),
        known_hurt: history.hurt_locations(),
        history,
        index,
        without_segment,
        chunks,
        options: options.clone(),
        present,
        progress,
        bytes: AtomicU64::new(0),
        found: Mutex::new(Found::default()),
    };
    for error in damage {
        verifier.error(&error.object().unwrap_or_default(), error.reason());
    }
    // An unreadable pack is met again, and told with what it costs, when the packs are checked.
    for unreadable in verifier.index.unreadable().iter().filter(|found| !found.object.starts_with("packs/")) {
        verifier.error(&unreadable.object, &unreadable.cause);
    }
    verifier.found.lock().report.unfinished = block_on(count_unfinished(repository.backend().as_ref()))?;
    verifier.check_checkpoint();
    verifier.check_sealed_records();
    verifier.check_packs(listed);
    if verifier.is_stopped() {
        verifier.found.lock().report.is_interrupted = true;
    } else {
        verifier.check_manifests();
    }
    Ok(verifier.found.into_inner().report)
}

impl Verifier<'_> {
    fn error(&self, object: &str, reason: impl ToString) {
        let mut found = self.found.lock();
        found.report.errors_total += 1;
        if found.report.errors.len() < LISTED_MAX {
            found.report.errors.push(VerifyError { object: object.to_string(), reason: reason.to_string() });
        }
    }

    fn hurt_frame(&self, pack: PackId, frame: u32) {
        let mut found = self.found.lock();
        if found.hurt.insert((pack, frame)) && found.report.hurt_frames.len() < LISTED_MAX {
            found.report.hurt_frames.push(HurtFrame { pack, frame: Some(frame) });
        }
    }

    /// A pack of which nothing can be used.
    fn hurt_pack(&self, pack: PackId) {
        let mut found = self.found.lock();
        if found.report.hurt_frames.len() < LISTED_MAX {
            found.report.hurt_frames.push(HurtFrame { pack, frame: None });
        }
    }

    fn hurt_file(&self, file: HurtFile) {
        let mut found = self.found.lock();
        found.report.hurt_files_total += 1;
        if found.report.hurt_files.len() < LISTED_MAX {
            found.report.hurt_files.push(file);
        }
    }

    fn is_stopped(&self) -> bool {
        self.options.stop.load(Ordering::Relaxed)
    }

    /// True if the writer has a recovery point, so that all its packs must be indexed.
    fn is_committed(&self, writer: LogNumber) -> bool {
        let outcome = self.history.entry(writer).and_then(|entry| entry.outcome());
        matches!(outcome, Some(Outcome::RecoveryPoint(_)))
    }

    fn report_progress(&self, phase: Phase, done: u64, total: u64) {
        (self.progress)(VerifyProgress { phase, done, total, bytes: self.bytes.load(Ordering::Relaxed) });
    }
}
