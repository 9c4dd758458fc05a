//! Deletes what no recovery point needs, beside running backups and without a lock. FORMAT.md "Deleting".
//!
//! ```text
//! c   register · mark what live points need · copy what is live of half-dead packs · condemn
//! d   register · wait until every number below d has an outcome · mark again, by these outcomes alone
//!     decide what goes and what is rescued · that is the outcome of d · delete what it names
//! ```
//!
//! Why nothing is lost, whatever is slow, dies, or is asked twice:
//!
//! * A writer registers first and reads the condemned lists second, and treats a condemned pack as absent. One that
//!   registered before it could know has a number below d: its outcome is waited for, and its point is marked.
//! * Nothing is deleted before the outcome of d says so; if d was fenced, it deletes nothing. A later pruner waits for
//!   that outcome, never rescues what it names, and asks again for what is still there. So a delete that arrives late,
//!   or twice, removes nothing that anybody relies on.
//! * What d decides follows from the outcomes below d alone, and these do not change any more; what it rescues is in
//!   the same outcome. So no pack is rescued by one and deleted by another.
//! * Packs of a number without an outcome are not judged, and no time decides what goes. A clock decides only
//!   when a silent run is fenced, which costs a live one a retry.
//! * A pack that holds a chunk which is live and also elsewhere is condemned only after that other copy was read
//!   and hashed; before a pack with such a chunk is deleted, the copy that stays is read and hashed once more.
//!
//! Condemning is always safe, so a listing that is behind costs space alone. Memory is bounded: sorted runs of ids,
//! one run of blocks a segment, one record a pack. Blocks; never call it on an executor thread.

mod copies;
mod mark;
mod rekey;
mod repack;
mod sorted_ids;
mod survey;
#[cfg(test)]
mod tests;

use std::collections::HashSet as StdHashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashSet;

use copies::damaged_copies;
pub(crate) use mark::Marker;
pub use rekey::{RekeyOptions, RekeyReport, rekey};
use repack::repack;
use sorted_ids::{IdSorter, SortedIds};
use survey::{Place, Sources, Survey, scratch};

use crate::backend::conformance::prove_one_winner;
use crate::backend::{StorageErrorKind, delete_if_there};
use crate::blocking::block_on;
use crate::chunk_reader::ChunkReader;
use crate::error::{RepositoryError, Result};
use crate::heartbeat::registered;
use crate::ids::{ChunkId, LogNumber, ObjectId, PackId, UnixNanos};
use crate::index::{Index, compact, delete_segments, replace_segments, replaced_segments};
use crate::io::in_parallel;
use crate::log::{
    CondemnedPack, Fencing, History, LogEntry, OpenRecord, Outcome, Registration, Role, checkpoint_is_due,
    delete_superseded, number_below, write_checkpoint,
};
use crate::pack::{PackInfo, pack_name, parse_pack_name};
use crate::protection::remove_spent_records;
use crate::repository::Repository;

/// Packs in one record, so that it stays within its limit.
const PACKS_A_RECORD: usize = 10_000;

/// Deletes that are under way at a time.
const DELETES_IN_FLIGHT: usize = 16;

/// How to prune.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// Change nothing; tell what would be done.
    pub dry_run: bool,
    /// Packs are copied until at most this share of what is stored is unused, in percent.
    pub unused_percent_max: u8,
    /// At most so many live bytes are copied, before compression.
    pub move_bytes_max: u64,
    /// A run that was not heard of for so long is fenced.
    pub fence_after: Duration,
    /// How long to wait for runs that began before.
    pub wait: Duration,
    /// Memory in bytes, for index, ids and pages.
    pub memory_bytes: usize,
    /// Threads that read, check and copy packs.
    pub threads: usize,
    /// Directory for temporary files.
    pub scratch: PathBuf,
}

/// A number of packs and their bytes as stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Packs {
    /// How many.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Packs {
    fn add(&mut self, bytes: u64) {
        self.packs += 1;
        self.bytes += bytes;
    }
}

/// A run that has no outcome yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRun {
    /// Its number in the log.
    pub number: LogNumber,
    /// Who and what for; none if its registration cannot be read.
    pub open: Option<OpenRecord>,
}

/// What was done, or with `dry_run` what would be.
#[derive(Debug, Clone, Default)]
pub struct PruneReport {
    /// Packs before, without those condemned earlier.
    pub before: Packs,
    /// Plain bytes in them.
    pub plain_bytes: u64,
    /// Plain bytes of them that recovery points need.
    pub live_bytes: u64,
    /// Packs that are to go: nothing live is in them, or it was copied.
    pub condemned: Packs,
    /// Packs whose live chunks were copied, among the condemned.
    pub moved: Packs,
    /// Packs that were written for that.
    pub written: Packs,
    /// Packs that are gone now, those condemned earlier included.
    pub deleted: Packs,
    /// Packs that are to go, and that an object lock keeps: a prune after it deletes them.
    pub retained: Packs,
    /// When the last of these locks ends.
    pub retained_until: Option<UnixNanos>,
    /// Condemned packs that a recovery point needs after all.
    pub rescued: u64,
    /// Condemned packs that stay until the runs in `waits_for` have ended.
    pub pending: Packs,
    /// Runs that may rely on them.
    pub waits_for: Vec<OpenRun>,
    /// Runs that were fenced, and why.
    pub fenced: Vec<(OpenRun, String)>,
    /// Packs that had to stay because something in them is not as it was stored, and what.
    pub damaged: Vec<(String, String)>,
    /// Chunks that recovery points need and no pack holds.
    pub missing_chunks: u64,
    /// There is more to do than one run does.
    pub is_partial: bool,
    /// Log records that were summed up in a checkpoint, and need not be read one by one any more.
    pub summed_up: u64,
}

/// Prunes. `who` signs the registrations; its `started` is taken for now.
///
/// # Errors
/// [`RepositoryError::NotSupported`] without an admin key that can read; [`RepositoryError::UntrustedStore`] on a store
/// that does not keep what this relies on; a history or a manifest that cannot be
/// read: what is needed is not known then; [`RepositoryError::Fenced`] if somebody ended this prune; storage errors.
pub fn prune(repository: &Repository, who: &OpenRecord, options: &PruneOptions) -> Result<PruneReport> {
    let secrets = repository.secrets();
    if !secrets.is_admin() || !secrets.can_read() {
        return Err(RepositoryError::NotSupported { what: "pruning without an admin key that can read".into() });
    }
    let mut pruner = Pruner { repository, options, report: PruneReport::default() };
    if options.dry_run {
        let history = block_on(repository.history())?;
        let plan = pruner.plan(&history)?;
        pruner.report.moved = plan.moved_packs();
        pruner.report.pending = pruner.report.condemned;
        return Ok(pruner.report);
    }
    // On a store where two can create one name, or what was created is not seen, no rule below holds.
    block_on(prove_one_winner(repository.backend().as_ref()))?;
    let who = OpenRecord { role: Role::Admin, ..who.clone() };
    let (c, known) = pruner.condemn(&who)?;
    let history = pruner.sweep(&who, &known)?;
    pruner.sum_up(&who, &history, c)?;
    Ok(pruner.report)
}

/// Packs, each with the number of the record that condemned it.
type Condemnations = StdHashSet<(PackId, LogNumber)>;

struct Pruner<'a> {
    repository: &'a Repository,
    options: &'a PruneOptions,
    report: PruneReport,
}

/// What is to be condemned.
struct Plan {
    sources: Sources,
    live: SortedIds,
    survey: Survey,
    /// Nothing live is in them.
    dead: Vec<usize>,
    /// What is live in them is copied first, or is elsewhere.
    half_dead: Vec<usize>,
}

impl Plan {
    fn moved_packs(&self) -> Packs {
        let mut moved = Packs::default();
        self.half_dead.iter().for_each(|at| moved.add(self.sources.packs[*at].bytes));
        moved
    }

    fn condemned(&self, at: usize) -> CondemnedPack {
        let info = &self.sources.packs[at];
        CondemnedPack {
            pack: info.id,
            writer: info.writer,
            bytes: info.bytes,
            bytes_live: self.survey.tallies[at].live,
        }
    }
}

impl Pruner<'_> {
    /// Registers as c and condemns. Gives c, and all condemnations that were made before anybody registers after c.
    fn condemn(&mut self, who: &OpenRecord) -> Result<(LogNumber, Condemnations)> {
        registered(self.repository, who, |registration| {
            self.fence_the_silent(registration, who)?;
            let (known, outcome) = self.choose(registration.number())?;
            Ok(((registration.number(), known), outcome))
        })
    }

    /// Marks, copies what is live of half-dead packs, and gives what becomes of c.
    fn choose(&mut self, c: LogNumber) -> Result<(Condemnations, Outcome)> {
        // With the fences: a run that was ended is judged like any other.
        let history = block_on(self.repository.history())?;
        let mut plan = self.plan(&history)?;
        self.check_other_copies(&mut plan)?;
        self.copy(&mut plan, c)?;
        let packs: Vec<CondemnedPack> = plan.dead.iter().chain(&plan.half_dead).map(|at| plan.condemned(*at)).collect();
        let mut known = history.condemnations();
        known.extend(packs.iter().map(|pack| (pack.pack, c)));
        self.report.condemned = Packs::default();
        packs.iter().for_each(|pack| self.report.condemned.add(pack.bytes));
        self.report.moved = plan.moved_packs();
        let outcome = match packs.is_empty() {
            true => Outcome::Ended { reason: "nothing to condemn".into() },
            false => Outcome::Condemned { packs, reason: "no recovery point needs what is in them".into() },
        };
        Ok((known, outcome))
    }

    /// Fences runs of this host whose process is gone, and those that were silent for too long.
    fn fence_the_silent(&mut self, registration: &Registration, who: &OpenRecord) -> Result<()> {
        for entry in registration.history().entries() {
            if entry.done.is_some() || entry.number >= registration.number() {
                continue;
            }
            let Some(reason) = self.why_fence(entry, who)? else { continue };
            if block_on(registration.fence(entry.number, &reason))? == Fencing::Fenced {
                self.report.fenced.push((open_run(entry), reason));
            }
        }
        Ok(())
    }

    fn why_fence(&self, entry: &LogEntry, who: &OpenRecord) -> Result<Option<String>> {
        let Some(open) = &entry.open else { return Ok(None) };
        let is_of_here = open.machine == who.machine && open.machine != ObjectId([0; 32]);
        if is_of_here && open.process_id != who.process_id && !process_is_running(open.process_id) {
            return Ok(Some(format!("process {} of {} is gone", open.process_id, open.host)));
        }
        let Some(heard) = block_on(self.repository.last_heard_of(entry))? else { return Ok(None) };
        let silent_ns = who.started.0.saturating_sub(heard.0);
        let is_silent = silent_ns > self.options.fence_after.as_nanos() as i128;
        let hours = silent_ns / 3_600_000_000_000;
        Ok(is_silent.then(|| format!("process {} of {} was silent for {hours} hours", open.process_id, open.host)))
    }

    /// The ids of all that the points of a history need.
    fn mark(&self, history: &History) -> Result<SortedIds> {
        let quarter = self.options.memory_bytes / 4;
        // Pages are read from wherever they can be, condemned packs included.
        let index = block_on(Index::load_or_rebuild(self.repository, history, quarter))?;
        let chunks = Arc::new(ChunkReader::new(self.repository, index, quarter));
        let mut ids = IdSorter::new(quarter, &self.options.scratch);
        let mut marker = Marker::new(&chunks, |id| ids.push(id).map_err(scratch));
        history.points().try_for_each(|(_, point)| marker.point(point))?;
        Ok(ids.finish())
    }

    fn plan(&mut self, history: &History) -> Result<Plan> {
        let live = self.mark(history)?;
        let sources = Sources::open(self.repository, history, &HashSet::new())?;
        let survey = sources.survey(&live)?;
        self.report.missing_chunks = survey.missing;
        let is_decided = |info: &PackInfo| history.is_decided(info.writer);
        let (mut dead, mut partly) = (Vec::new(), Vec::new());
        for at in sources.good() {
            let (info, tally) = (&sources.packs[at], survey.tallies[at]);
            self.report.before.add(info.bytes);
            self.report.plain_bytes += tally.plain;
            self.report.live_bytes += tally.live;
            if !is_decided(info) {
                continue;
            }
            match tally.live + tally.redundant {
                0 => dead.push(at),
                _ if tally.live < tally.plain && tally.hurt == 0 => partly.push(at),
                _ => {}
            }
        }
        self.report.is_partial = dead.len() > PACKS_A_RECORD;
        dead.truncate(PACKS_A_RECORD);
        let half_dead = self.choose_half_dead(&survey, &dead, partly);
        for at in dead.iter().chain(&half_dead) {
            self.report.condemned.add(sources.packs[*at].bytes);
        }
        Ok(Plan { sources, live, survey, dead, half_dead })
    }

    /// The emptiest packs first, until little enough is unused or the budget is spent.
    fn choose_half_dead(&mut self, survey: &Survey, dead: &[usize], mut partly: Vec<usize>) -> Vec<usize> {
        let unused = |at: &usize| survey.tallies[*at].plain - survey.tallies[*at].live;
        let stays: u64 = self.report.plain_bytes - dead.iter().map(unused).sum::<u64>();
        let allowed = u128::from(stays) * u128::from(self.options.unused_percent_max) / 100;
        let mut unused_left: u64 = partly.iter().map(unused).sum();
        let used_permille =
            |at: &usize| u128::from(survey.tallies[*at].live) * 1000 / u128::from(survey.tallies[*at].plain.max(1));
        partly.sort_by_key(|at| (used_permille(at), *at));
        let mut budget = self.options.move_bytes_max;
        let mut chosen = Vec::new();
        for at in partly {
            if u128::from(unused_left) <= allowed {
                break;
            }
            // Another copy of what is redundant is read, which costs as much as to copy it.
            let cost = survey.tallies[at].live + survey.tallies[at].redundant;
            if cost > budget || dead.len() + chosen.len() == PACKS_A_RECORD {
                self.report.is_partial = true;
                continue;
            }
            budget -= cost;
            unused_left -= unused(&at);
            chosen.push(at);
        }
        chosen
    }

    /// Reads the other copy of every live chunk that a chosen pack holds and another one keeps. Where that is not
    /// what it should be, the pack stays.
    fn check_other_copies(&mut self, plan: &mut Plan) -> Result<()> {
        let chosen: HashSet<u32> = plan.half_dead.iter().map(|at| *at as u32).collect();
        if chosen.iter().all(|at| plan.survey.tallies[*at as usize].redundant == 0) {
            return Ok(());
        }
        let mut relied_on: Vec<(Place, ChunkId, u32)> = Vec::new();
        plan.sources.walk(&plan.live, |group| {
            let Some(kept) = group.kept.filter(|_| group.is_live) else { return Ok(()) };
            let given_up = group.places.iter().filter(|place| **place != kept && chosen.contains(&place.pack));
            relied_on.extend(given_up.map(|place| (kept, group.id, place.pack)));
            Ok(())
        })?;
        let copies = relied_on.iter().map(|(kept, id, _)| (*kept, *id)).collect();
        let bad = self.damaged_frames(&plan.sources, copies)?;
        let gives_way = |(kept, _, _): &&(Place, ChunkId, u32)| bad.contains(&plan.sources.frame(kept));
        let stays: HashSet<usize> = relied_on.iter().filter(gives_way).map(|(.., pack)| *pack as usize).collect();
        plan.half_dead.retain(|at| !stays.contains(at));
        Ok(())
    }

    /// Copies what is live of the chosen packs. One that is damaged stays.
    fn copy(&mut self, plan: &mut Plan, writer: LogNumber) -> Result<()> {
        if plan.half_dead.is_empty() {
            return Ok(());
        }
        let chosen: HashSet<u32> = plan.half_dead.iter().map(|at| *at as u32).collect();
        let mut live = HashSet::new();
        plan.sources.walk(&plan.live, |group| {
            live.extend(group.kept.filter(|kept| group.is_live && chosen.contains(&kept.pack)));
            Ok(())
        })?;
        let done = repack(self.repository, writer, &plan.sources.packs, &plan.half_dead, &live, self.options.threads)?;
        let name = |at: usize| plan.sources.packs[at].object_name();
        self.report.damaged.extend(done.damaged.into_iter().map(|(at, error)| (name(at), error.reason())));
        self.report.written = Packs { packs: done.packs, bytes: done.bytes };
        plan.half_dead = done.copied;
        Ok(())
    }

    /// Registers as d, decides about what is in `known` by the outcomes below d, and deletes what it decided. Gives the
    /// history below d.
    fn sweep(&mut self, who: &OpenRecord, known: &Condemnations) -> Result<History> {
        let replaced = block_on(replaced_segments(self.repository))?;
        let (history, deleted) =
            registered(self.repository, who, |registration| self.decide(registration.number(), known))?;
        self.delete(&history, &deleted)?;
        self.tidy_index(&history, &deleted, &replaced)?;
        if self.repository.backend().can_retain() {
            block_on(remove_spent_records(self.repository.backend().as_ref(), &history, UnixNanos::now()));
        }
        Ok(history)
    }

    /// Decides as d: gives the history below d, what is to be deleted once that is the outcome of d, and the outcome.
    fn decide(&mut self, d: LogNumber, known: &Condemnations) -> Result<((History, Vec<PackId>), Outcome)> {
        let history = self.await_outcomes(d)?.before(d);
        let deleted_before = history.deleted();
        // Not only the pack: a condemnation that was rescued vouches for no later one, which somebody who relies on
        // the pack may not have seen.
        let standing = history.condemnations().into_iter().filter(|condemnation| known.contains(condemnation));
        let mut doomed: Vec<PackId> =
            standing.map(|(pack, _)| pack).filter(|pack| !deleted_before.contains(pack)).collect();
        if !self.report.waits_for.is_empty() || doomed.is_empty() {
            self.report.pending = sizes(&history, &doomed);
            let reason = match self.report.waits_for.len() {
                0 => "nothing to delete".to_owned(),
                runs => format!("{runs} earlier runs have no outcome yet"),
            };
            return Ok(((history, Vec::new()), Outcome::Ended { reason }));
        }
        doomed.sort_unstable();
        doomed.dedup();
        self.report.is_partial |= doomed.len() > PACKS_A_RECORD;
        doomed.truncate(PACKS_A_RECORD);
        let needed = self.look_again(&history)?;
        let (rescued, deleted): (Vec<PackId>, Vec<PackId>) = doomed.into_iter().partition(|pack| needed.contains(pack));
        self.report.rescued = rescued.len() as u64;
        Ok(((history, deleted.clone()), Outcome::Swept { deleted, rescued }))
    }

    /// The history once every number below has an outcome, or the time is over.
    fn await_outcomes(&mut self, below: LogNumber) -> Result<History> {
        let (history, open) = block_on(self.repository.await_outcomes(below, self.options.wait, |_| true))?;
        self.report.waits_for = open.iter().filter_map(|number| history.entry(*number)).map(open_run).collect();
        Ok(history)
    }

    /// Which condemned packs hold the last copy of something that a point needs. What is relied on instead is read: a
    /// listing may show what is gone, and nobody else may have looked at that copy for years.
    fn look_again(&mut self, history: &History) -> Result<HashSet<PackId>> {
        let live = self.mark(history)?;
        let mut bad = HashSet::new();
        loop {
            let sources = Sources::open(self.repository, history, &bad)?;
            let survey = sources.survey(&live)?;
            let mut relied_on: Vec<(Place, ChunkId)> = Vec::new();
            sources.walk(&live, |group| {
                let kept = group.kept.filter(|kept| group.is_live && sources.is_good(kept));
                let is_doomed = group.places.iter().any(|place| !sources.is_good(place));
                relied_on.extend(kept.filter(|_| is_doomed).map(|kept| (kept, group.id)));
                Ok(())
            })?;
            let found = self.damaged_frames(&sources, relied_on)?;
            if found.is_empty() {
                return Ok(survey.needed);
            }
            // Hurt from now on, so none of them is relied on, or read, again.
            bad.extend(found);
        }
    }

    /// Reads copies of chunks, each frame once, and tells and gives the frames that are not what they should be.
    fn damaged_frames(&mut self, sources: &Sources, copies: Vec<(Place, ChunkId)>) -> Result<HashSet<(PackId, u32)>> {
        let mut found = HashSet::new();
        for (place, error) in damaged_copies(self.repository, sources, copies, self.options.threads)? {
            if found.insert(sources.frame(&place)) {
                self.report.damaged.push((sources.packs[place.pack as usize].object_name(), error.reason()));
            }
        }
        Ok(found)
    }

    /// Deletes what was decided now, and what an earlier sweep decided and did not come to.
    fn delete(&mut self, history: &History, deleted: &[PackId]) -> Result<()> {
        let gone = history.deleted();
        let leftover = |name: &str| parse_pack_name(name).is_some_and(|(_, pack)| gone.contains(&pack));
        let listed = block_on(self.repository.backend().list("packs"))?;
        let writers = condemned_by(history);
        let name_of = |pack: &PackId| writers.get(pack).map(|(writer, bytes)| (pack_name(*writer, pack), *bytes));
        let leftovers =
            listed.into_iter().filter(|object| leftover(&object.name)).map(|object| (object.name, object.bytes));
        let names: Vec<(String, u64)> = deleted.iter().filter_map(name_of).chain(leftovers).collect();
        let backend = self.repository.backend().as_ref();
        let deletes = names.iter().map(|(name, _)| delete_if_there(backend, name));
        for (was_there, (_, bytes)) in block_on(in_parallel(DELETES_IN_FLIGHT, deletes)).into_iter().zip(&names) {
            match was_there {
                Ok(true) => self.report.deleted.add(*bytes),
                Ok(false) => {}
                Err(error) => match error.kind {
                    StorageErrorKind::Retained(until) => {
                        self.report.retained.add(*bytes);
                        self.report.retained_until = self.report.retained_until.max(Some(until));
                    }
                    _ => return Err(error.into()),
                },
            }
        }
        self.remove_empty_directories(history);
        Ok(())
    }

    /// Removes what is left of writers that have an outcome and no pack. Best effort: it is of no use, and no harm.
    fn remove_empty_directories(&self, history: &History) {
        let backend = self.repository.backend();
        for directory in block_on(backend.empty_directories("packs")).unwrap_or_default() {
            // One at work keeps its own, though it would make it again: a crash between two of its steps is to leave what it left.
            let writer = number_below(&directory, "packs").filter(|writer| history.is_decided(*writer));
            if writer.is_some() {
                let _ = block_on(backend.remove_empty_directory(&directory));
            }
        }
    }

    /// Replaces index segments that name deleted packs. Segments that were replaced before d registered go, if nobody who
    /// began earlier may still read them.
    fn tidy_index(&self, history: &History, deleted: &[PackId], replaced: &[ObjectId]) -> Result<()> {
        let mut gone = history.deleted();
        gone.extend(deleted);
        if !gone.is_empty() {
            block_on(replace_segments(self.repository, &gone))?;
        }
        if self.report.waits_for.is_empty() {
            block_on(delete_segments(self.repository, replaced))?;
        }
        // A merge holds about three times the segment that it makes.
        block_on(compact(self.repository, self.options.memory_bytes / 4)).map(drop)
    }

    /// Sums up the log in a checkpoint when it has grown. Points that were forgotten before c, and what only they need is
    /// on its way out, are not carried on.
    fn sum_up(&mut self, who: &OpenRecord, history: &History, c: LogNumber) -> Result<()> {
        if !checkpoint_is_due(history) {
            return Ok(());
        }
        let is_through = !self.report.is_partial && self.report.waits_for.is_empty();
        let forgotten_before = if is_through { c } else { LogNumber::default() };
        let (history, summed_up) = registered(self.repository, who, |registration| -> Result<_> {
            let history = registration.history();
            let too_large = || Outcome::Ended { reason: "the log is too large for a checkpoint".into() };
            let (summed_up, outcome) = match block_on(write_checkpoint(registration, forgotten_before))? {
                Some(outcome) => (history.decided_below().0 - 1, outcome),
                None => (0, too_large()),
            };
            Ok(((history.clone(), summed_up), outcome))
        })?;
        self.report.summed_up = summed_up;
        if summed_up > 0 {
            block_on(delete_superseded(self.repository, &history));
        }
        Ok(())
    }
}

fn sizes(history: &History, packs: &[PackId]) -> Packs {
    let writers = condemned_by(history);
    let mut sizes = Packs::default();
    packs.iter().filter_map(|pack| writers.get(pack)).for_each(|(_, bytes)| sizes.add(*bytes));
    sizes
}

/// Writer and size of each condemned pack, as the records tell them.
fn condemned_by(history: &History) -> std::collections::HashMap<PackId, (LogNumber, u64)> {
    let lists = history.entries().iter().filter_map(|entry| match entry.outcome()? {
        Outcome::Condemned { packs, .. } => Some(packs),
        _ => None,
    });
    lists.flatten().map(|pack| (pack.pack, (pack.writer, pack.bytes))).collect()
}

fn open_run(entry: &LogEntry) -> OpenRun {
    OpenRun { number: entry.number, open: entry.open.clone() }
}

/// Of another user's process too, which `/proc` may hide.
fn process_is_running(process_id: u32) -> bool {
    let Some(process) = i32::try_from(process_id).ok().and_then(rustix::process::Pid::from_raw) else { return false };
    rustix::process::test_kill_process(process) != Err(rustix::io::Errno::SRCH)
}

/// Brings a forgotten point back: checks that all it needs is there and not condemned, and commits it again.
///
/// # Errors
/// [`RepositoryError::MissingObject`] if a chunk of it is gone or condemned; as [`Repository::register`].
pub fn bring_back(repository: &Repository, who: &OpenRecord, id: ObjectId, memory_bytes: usize) -> Result<()> {
    let who = OpenRecord { role: Role::Writer, ..who.clone() };
    registered(repository, &who, |registration| {
        // As a writer does: registered first, read second, and what is condemned counts as absent.
        let history = registration.history();
        let forgotten = crate::retention::forgotten(history).into_iter().find(|point| point.id == id);
        let point = forgotten.ok_or_else(|| RepositoryError::NoSuchPoint { spec: id.to_string() })?;
        let index = block_on(Index::load_for_backup(repository, history, memory_bytes / 2))?;
        let chunks = ChunkReader::new(repository, index.clone(), memory_bytes / 4);
        let mut marker = Marker::new(&chunks, |chunk| match block_on(index.lookup(&chunk))? {
            Some(_) => Ok(()),
            None => Err(RepositoryError::MissingObject { object: format!("chunk {chunk}") }),
        });
        marker.point(&point)?;
        for (k, fileset) in (0..).zip(&point.filesets) {
            block_on(registration.seal_fileset(k, fileset))?;
        }
        Ok(((), Outcome::RecoveryPoint(point)))
    })
}
