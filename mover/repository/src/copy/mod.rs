//! Copies recovery points from one repository into another, chunk by chunk.
//!
//! ```text
//! a point, oldest first:
//!   register in TO · walk its manifest in FROM · ask TO's index · read what it lacks, pack by pack, decode, hash
//!   seal anew into packs of TO · barrier · segments · log/<n>/done
//! ```
//!
//! * A sealed frame cannot move: repository and pack are part of what authenticates it. What it holds is kept as it was
//!   compressed if all of its chunks are wanted; of other frames the wanted chunks are framed and compressed anew.
//! * Where both repositories have the same id secret (`init --like`), chunks have the same ids, and manifest pages are
//!   chunks like all others: [`pages`]. Elsewhere the manifest is built anew around the ids of TO: [`manifests`].
//! * A copied point keeps its id, which was drawn at random when it was made: by it, a point that TO has is recognised.
//!   Its record is signed by whoever copies; all else in it stays but the roots of its manifests.
//! * Each point has a registration of its own and counts as soon as it is whole. A copy that is killed leaves packs, and
//!   the next one takes over those that are finished, as any backup does: TO's index names them, or their own tables do.
//! * Nothing is stored that was not decoded and hashed. A chunk that cannot be read from any place in FROM costs its
//!   points alone: these are not published, their files are listed, and all other points go on.
//! * A point that others depend on is copied with them, before them.
//!
//! The caller has registered as a reader in FROM, so that no prune deletes beneath the copy. FROM has to be opened by a
//! key that can read; for TO one that may only add is enough. Memory is bounded by [`CopyOptions::memory_bytes`], but for one id a
//! page and a few runs of frames a thread. Blocks; never call it on an executor thread.

mod chunks;
mod damage;
mod manifests;
mod pages;
mod reference;
#[cfg(test)]
mod tests;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hashbrown::{HashMap, HashSet};

use crate::blocking::block_on;
use crate::chunk_reader::ChunkReader;
use crate::error::{RepositoryError, Result};
use crate::heartbeat::registered;
use crate::ids::{ChunkId, LogNumber, ObjectId, PackId};
use crate::index::Index;
use crate::log::{History, HurtLocations, OpenRecord, Outcome, RecoveryPoint, Registration, Role, SealedFileset};
use crate::lru::Lru;
use crate::packer::{Packer, SEGMENT_BYTES_TARGET};
use crate::repository::Repository;
use crate::verify::HurtFile;
use damage::Damage;
use manifests::Rebuilder;
use reference::Reference;
use window::Window;

/// Memory that a pair of ids takes in the table of those that are known.
const KNOWN_PAIR_BYTES: usize = 224;

/// How to copy.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// Store nothing; count what would be sent.
    pub dry_run: bool,
    /// Memory in bytes, for indexes, ids and pages.
    pub memory_bytes: usize,
    /// Threads that read, check and store chunks.
    pub threads: usize,
    /// Set it to end early: what is stored is kept, and the next copy goes on from there.
    pub stop: Arc<AtomicBool>,
    /// What was done so far, for whoever shows progress.
    pub counters: Arc<CopyCounters>,
}

/// What a copy has done so far.
#[derive(Debug, Default)]
pub struct CopyCounters {
    points: AtomicU64,
    chunks: AtomicU64,
    bytes: AtomicU64,
    bytes_read: AtomicU64,
    bytes_stored: AtomicU64,
    frames_reused: AtomicU64,
}

/// [`CopyCounters`] at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyTotals {
    /// Points that are done with, whatever came of them.
    pub points: u64,
    /// Chunks that TO lacked; in a dry run with other secrets, those that would be read to see.
    pub chunks: u64,
    /// Their plain bytes.
    pub bytes: u64,
    /// Bytes of frames that were read for chunks, as FROM stores them; pages that were walked are not counted.
    pub bytes_read: u64,
    /// Bytes of packs that were written.
    pub bytes_stored: u64,
    /// Frames that were stored as they were compressed.
    pub frames_reused: u64,
}

impl CopyCounters {
    /// What they say now.
    pub fn totals(&self) -> CopyTotals {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CopyTotals {
            points: now(&self.points),
            chunks: now(&self.chunks),
            bytes: now(&self.bytes),
            bytes_read: now(&self.bytes_read),
            bytes_stored: now(&self.bytes_stored),
            frames_reused: now(&self.frames_reused),
        }
    }
}

/// What came of one point.
#[derive(Debug, Clone)]
pub enum PointOutcome {
    /// It is in TO now; in a dry run it would be.
    Copied,
    /// It was there before.
    AlreadyThere,
    /// Something of it cannot be read in FROM: it was not published.
    Damaged {
        /// Files that it costs, at most [`crate::verify::LISTED_MAX`].
        files: Vec<HurtFile>,
    },
    /// A point that it depends on was not copied: it would be of no use.
    WithoutBase {
        /// That point.
        base: ObjectId,
    },
}

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct CopyReport {
    /// Each point that was asked for, and those that they depend on, in the order in which they were copied.
    pub points: Vec<(RecoveryPoint, PointOutcome)>,
    /// What it took.
    pub totals: CopyTotals,
    /// It was asked to stop before the end.
    pub is_interrupted: bool,
}

/// Why a point does not come to its end.
#[derive(Debug)]
enum Trouble {
    /// What FROM has of it cannot be read.
    Point(RepositoryError),
    /// TO cannot go on.
    Fatal(RepositoryError),
    /// Somebody asked for it.
    Stopped,
}

/// What came of moving what a point holds.
enum Moved {
    /// Its filesets, as they are in TO.
    Whole(Vec<SealedFileset>),
    Damaged(Damage),
    Stopped,
}

/// Copies the points of `history`, which is that of `from`, whose ids are `chosen`. `who` signs the registrations in
/// `to`.
///
/// # Errors
/// [`RepositoryError::SameRepository`]; [`RepositoryError::NotSupported`] without a key that can read `from`;
/// [`RepositoryError::OtherPoint`] if `to` has another point of such an id; a history of `to` that cannot be read;
/// storage errors of `to`. What is stored by then is kept.
pub fn copy(
    from: &Repository,
    history: &History,
    to: &Repository,
    chosen: &[ObjectId],
    who: &OpenRecord,
    options: &CopyOptions,
) -> Result<CopyReport> {
    if from.id() == to.id() {
        return Err(RepositoryError::SameRepository { from: from.backend().describe(), to: to.backend().describe() });
    }
    if !from.secrets().can_read() {
        return Err(RepositoryError::NotSupported {
            what: "copying from a repository with a key that cannot read it".into(),
        });
    }
    let points = with_bases(history, chosen);
    let there = block_on(to.history())?;
    let mut copier = Copier::new(from, history, to, options)?;
    let mut report = CopyReport::default();
    let mut left_out: HashSet<ObjectId> = HashSet::new();
    for point in points {
        if options.stop.load(Ordering::Relaxed) {
            report.is_interrupted = true;
            break;
        }
        let outcome = match point.depends_on.filter(|base| left_out.contains(base)) {
            Some(base) => PointOutcome::WithoutBase { base },
            None if is_there(&there, &point)? => PointOutcome::AlreadyThere,
            None => match copier.point(who, &there, &point)? {
                Some(outcome) => outcome,
                None => {
                    report.is_interrupted = true;
                    break;
                }
            },
        };
        if matches!(outcome, PointOutcome::Damaged { .. } | PointOutcome::WithoutBase { .. }) {
            left_out.insert(point.id);
        }
        options.counters.points.fetch_add(1, Ordering::Relaxed);
        report.points.push((point, outcome));
    }
    report.totals = options.counters.totals();
    Ok(report)
}

/// The points of a history that are chosen or that those depend on, oldest first.
fn with_bases(history: &History, chosen: &[ObjectId]) -> Vec<RecoveryPoint> {
    let by_id: HashMap<ObjectId, &RecoveryPoint> = history.points().map(|(_, point)| (point.id, point)).collect();
    let mut wanted = HashSet::new();
    let mut next: Vec<ObjectId> = chosen.to_vec();
    while let Some(id) = next.pop() {
        if wanted.insert(id) {
            next.extend(by_id.get(&id).and_then(|point| point.depends_on));
        }
    }
    let mut seen = HashSet::new();
    let mut points: Vec<RecoveryPoint> =
        history.points().map(|(_, point)| point).filter(|point| wanted.contains(&point.id)).cloned().collect();
    points.retain(|point| seen.insert(point.id));
    points
}

/// Whether a history has the point. One of that id which says something else is none of ours.
fn is_there(history: &History, point: &RecoveryPoint) -> Result<bool> {
    let Some((_, there)) = history.points().find(|(_, there)| there.id == point.id) else { return Ok(false) };
    let held = |point: &RecoveryPoint| -> Vec<_> {
        let sizes = |fileset: &SealedFileset| (fileset.root.entries, fileset.root.files, fileset.root.bytes);
        point.filesets.iter().map(|fileset| (fileset.root_path.clone(), sizes(fileset))).collect()
    };
    let is_same = (&there.set, &there.host, there.started, there.finished)
        == (&point.set, &point.host, point.started, point.finished)
        && held(there) == held(point);
    if is_same { Ok(true) } else { Err(RepositoryError::OtherPoint { id: point.id }) }
}

/// How the memory is divided. What is left is for runs of frames and open packs.
struct Shares {
    /// For each of both indexes.
    index_bytes: usize,
    pages_bytes: usize,
    known_bytes: usize,
    window_bytes: usize,
    /// For the segments that are built, of all threads.
    segment_bytes: usize,
}

impl Shares {
    fn of(memory_bytes: usize) -> Self {
        Self {
            index_bytes: memory_bytes / 4,
            pages_bytes: (memory_bytes / 16).min(128 << 20),
            known_bytes: memory_bytes / 16,
            window_bytes: memory_bytes / 16,
            segment_bytes: memory_bytes / 16,
        }
    }
}

/// One point on its way.
struct Job<'a> {
    from: &'a Repository,
    to: &'a Repository,
    /// The run in TO.
    writer: LogNumber,
    options: &'a CopyOptions,
    /// Pages, and chunks that have to be looked for.
    from_chunks: Arc<ChunkReader>,
    to_index: Arc<Index>,
    /// Chunks have the same ids in both.
    shares_ids: bool,
    window_bytes: usize,
    segment_bytes: usize,
}

impl Job<'_> {
    fn packer(&self) -> Result<Packer<'_>> {
        let stored = self.options.counters.bytes_stored.load(Ordering::Relaxed);
        Ok(Packer::new(self.to, self.writer, stored)?.telling(&self.to_index, self.segment_bytes))
    }

    fn is_in_to(&self, id: &ChunkId) -> bool {
        // An index that cannot say costs a chunk that is stored once more.
        block_on(self.to_index.lookup(id)).is_ok_and(|location| location.is_some())
    }

    fn is_stopped(&self) -> bool {
        self.options.stop.load(Ordering::Relaxed)
    }
}

/// TO's index, and what was condemned or hurt when it was loaded.
struct Target {
    index: Arc<Index>,
    condemned: std::collections::HashSet<PackId>,
    hurt: HurtLocations,
}

/// What is kept from one point to the next.
struct Copier<'a> {
    from: &'a Repository,
    history: &'a History,
    to: &'a Repository,
    options: &'a CopyOptions,
    shares: Shares,
    shares_ids: bool,
    from_chunks: Arc<ChunkReader>,
    target: Option<Target>,
    /// Ids in FROM and in TO.
    known: Lru<ChunkId, ChunkId>,
    /// Pages below which everything is in TO.
    visited: HashSet<ChunkId>,
}

impl<'a> Copier<'a> {
    fn new(from: &'a Repository, history: &'a History, to: &'a Repository, options: &'a CopyOptions) -> Result<Self> {
        let shares = Shares::of(options.memory_bytes);
        let index = block_on(Index::load_or_rebuild(from, history, shares.index_bytes))?;
        let from_chunks = Arc::new(ChunkReader::new(from, index, shares.pages_bytes));
        let shares_ids = from.secrets().shares_ids_with(to.secrets());
        let (known, visited) = (Lru::new(shares.known_bytes), HashSet::new());
        Ok(Self { from, history, to, options, shares, shares_ids, from_chunks, target: None, known, visited })
    }

    /// Copies one point; none if it was asked to stop. `there` is what TO had before.
    fn point(&mut self, who: &OpenRecord, there: &History, point: &RecoveryPoint) -> Result<Option<PointOutcome>> {
        if self.options.dry_run {
            return Ok(match self.filesets(there, LogNumber::default(), point)? {
                Moved::Whole(_) => Some(PointOutcome::Copied),
                Moved::Damaged(damage) => Some(self.damaged(point, &damage)),
                Moved::Stopped => None,
            });
        }
        let (set, depends_on) = (point.set.clone(), point.depends_on);
        let who = OpenRecord { role: Role::Writer, set, depends_on, ..who.clone() };
        registered(self.to, &who, |registration| self.publish(registration, point))
    }

    fn publish(
        &mut self,
        registration: &Registration,
        point: &RecoveryPoint,
    ) -> Result<(Option<PointOutcome>, Outcome)> {
        let ended = |reason: String| Outcome::Ended { reason };
        let history = registration.history();
        if is_there(history, point)? {
            let reason = format!("recovery point {} is there already", point.id);
            return Ok((Some(PointOutcome::AlreadyThere), ended(reason)));
        }
        if let Some(base) = point.depends_on.filter(|base| history.points().all(|(_, other)| other.id != *base)) {
            let reason = format!("recovery point {base} is not there, and {} depends on it", point.id);
            return Ok((Some(PointOutcome::WithoutBase { base }), ended(reason)));
        }
        let filesets = match self.filesets(history, registration.number(), point)? {
            Moved::Whole(filesets) => filesets,
            Moved::Damaged(damage) => {
                let reason = format!("something of recovery point {} cannot be read where it is", point.id);
                return Ok((Some(self.damaged(point, &damage)), ended(reason)));
            }
            Moved::Stopped => return Ok((None, ended("interrupted by the user".into()))),
        };
        for (k, fileset) in (0..).zip(&filesets) {
            block_on(registration.seal_fileset(k, fileset))?;
        }
        let copied = RecoveryPoint { filesets, ..point.clone() };
        Ok((Some(PointOutcome::Copied), Outcome::RecoveryPoint(copied)))
    }

    fn damaged(&self, point: &RecoveryPoint, damage: &Damage) -> PointOutcome {
        PointOutcome::Damaged { files: damage.files(&self.from_chunks, point) }
    }

    /// Moves all that TO lacks of a point.
    fn filesets(&mut self, history: &History, writer: LogNumber, point: &RecoveryPoint) -> Result<Moved> {
        let to_index = self.load_target(history, writer)?;
        let threads = self.options.threads.max(1);
        let job = Job {
            from: self.from,
            to: self.to,
            writer,
            options: self.options,
            from_chunks: Arc::clone(&self.from_chunks),
            to_index,
            shares_ids: self.shares_ids,
            window_bytes: self.shares.window_bytes,
            segment_bytes: (self.shares.segment_bytes / threads).min(SEGMENT_BYTES_TARGET),
        };
        let mut window = Window::new(&job, &mut self.known);
        let moved = if self.shares_ids {
            pages::copy(&job, &mut window, point, &mut self.visited).map(|()| point.filesets.clone())
        } else {
            let reference = Reference::find(&job, self.history, history, point);
            Rebuilder::new(&job, &mut window, reference).filesets(point)
        };
        let mut damage = window.into_damage();
        match moved {
            Ok(filesets) if damage.is_empty() => return Ok(Moved::Whole(filesets)),
            Err(Trouble::Fatal(error)) => return Err(error),
            Err(Trouble::Stopped) => return Ok(Moved::Stopped),
            Err(Trouble::Point(error)) => damage.note(&error),
            Ok(_) => {}
        }
        // What lies below a page that was visited is not known to be in TO any more.
        self.visited.clear();
        Ok(Moved::Damaged(damage))
    }

    /// The index of TO, as a run that registered with this history may rely on it: what was condemned since it was
    /// loaded counts as absent, so it is loaded anew then.
    fn load_target(&mut self, history: &History, writer: LogNumber) -> Result<Arc<Index>> {
        let (condemned, hurt) = (history.condemned(), history.hurt_locations());
        if let Some(target) = &self.target
            && condemned.is_subset(&target.condemned)
            && hurt == target.hurt
        {
            return Ok(Arc::clone(&target.index));
        }
        self.visited.clear();
        let index = block_on(Index::load_for_backup(self.to, history, self.shares.index_bytes))?;
        if !self.options.dry_run {
            let mut packer = Packer::new(self.to, writer, 0)?;
            packer.adopt(index.take_adopted());
            packer.finish()?;
        }
        self.target = Some(Target { index: Arc::clone(&index), condemned, hurt });
        Ok(index)
    }
}
