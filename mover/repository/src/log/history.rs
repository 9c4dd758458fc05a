//! The history: all registrations and their outcomes, as read from the log at one moment.
//!
//! Plain data, cheap to ask, shared behind `Arc` where needed. Memory: one entry a log record,
//! about the size of the record.

use super::done_name;
use super::memory::Seen;
use super::outcome::{DoneRecord, Outcome};
use super::point::{RecoveryPoint, SealedFileset};
use super::record::{OpenRecord, Role};
use crate::crypto::VerifyingKey;
use crate::error::{RepositoryError, Result};
use crate::ids::{LogNumber, ObjectId, PackId};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Whether an outcome counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Counts,
    /// It was signed by a key that may not do this: it has no effect, but nobody else can create
    /// an outcome of that number any more.
    Refused(&'static str),
}

/// One registration.
#[derive(Clone, Debug)]
pub struct LogEntry {
    /// Its number.
    pub number: LogNumber,
    /// Who and what for; none if that record is lost and its outcome is not, as only a lenient reading
    /// lets pass.
    pub open: Option<OpenRecord>,
    /// The key that it introduced; without the record, the one that signed the outcome.
    pub signer: VerifyingKey,
    /// Its outcome, whether it counts or not.
    pub done: Option<DoneRecord>,
    /// Whether the outcome counts.
    pub standing: Standing,
}

impl LogEntry {
    /// The outcome, if there is one that counts.
    pub fn outcome(&self) -> Option<&Outcome> {
        match self.standing {
            Standing::Counts => self.done.as_ref().map(|done| &done.outcome),
            Standing::Refused(_) => None,
        }
    }
}

/// Places whose chunks must not be relied on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HurtLocations {
    pub(crate) frames: HashSet<(PackId, u32)>,
    pub(crate) packs: HashSet<PackId>,
}

impl HurtLocations {
    /// True if that frame was found damaged.
    pub fn contains(&self, pack: &PackId, frame: u32) -> bool {
        self.packs.contains(pack) || self.frames.contains(&(*pack, frame))
    }

    /// True if nothing is hurt.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.packs.is_empty()
    }
}

/// The registrations up to the highest number, with their outcomes at the moment of reading.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Ascending by number.
    entries: Vec<LogEntry>,
    /// BLAKE3 of each `done` object, at index number - 1.
    hashes: Vec<Option<[u8; 32]>>,
    /// Of the numbers below this one there are only entries that still matter: a checkpoint has summed them up.
    summed_below: LogNumber,
}

impl History {
    pub(crate) fn new(
        mut entries: Vec<LogEntry>,
        hashes: Vec<Option<[u8; 32]>>,
        summed_below: Option<LogNumber>,
    ) -> Self {
        let summed_below = summed_below.unwrap_or(super::FIRST);
        refuse_what_may_not_be_done(&mut entries, summed_below);
        Self { entries, hashes, summed_below }
    }

    /// Of the numbers below this one there are only entries that still matter.
    pub(crate) fn summed_below(&self) -> LogNumber {
        self.summed_below.max(super::FIRST)
    }

    /// The lowest number that is free or has no outcome.
    pub(crate) fn decided_below(&self) -> LogNumber {
        let decided = self.hashes.iter().take_while(|hash| hash.is_some()).count();
        LogNumber(decided as u64 + super::FIRST.0)
    }

    /// True if that number has an outcome.
    pub(crate) fn is_decided(&self, number: LogNumber) -> bool {
        self.outcome_hash(number).is_some()
    }

    /// Registrations, ascending: all of them, but for those below a checkpoint that do not matter any more.
    pub fn entries(&self) -> &[LogEntry] {
        &self.entries
    }

    /// One registration.
    pub fn entry(&self, number: LogNumber) -> Option<&LogEntry> {
        let at = self.entries.binary_search_by_key(&number, |entry| entry.number).ok()?;
        Some(&self.entries[at])
    }

    /// The highest number that was read; 0 in a new repository.
    pub fn highest(&self) -> LogNumber {
        LogNumber(self.hashes.len() as u64)
    }

    pub(crate) fn outcome_hash(&self, number: LogNumber) -> Option<[u8; 32]> {
        let index = usize::try_from(number.0.checked_sub(1)?).ok()?;
        self.hashes.get(index).copied().flatten()
    }

    /// What there is to see below `below`.
    pub(crate) fn seen(&self, below: LogNumber) -> Seen {
        Seen::of(below, |number| self.outcome_hash(number))
    }

    /// What there is to see once `number` has an outcome with that hash.
    pub(crate) fn seen_with(&self, number: LogNumber, hash: [u8; 32]) -> Seen {
        let below = LogNumber(self.highest().max(number).0 + 1);
        Seen::of(below, |other| if other == number { Some(hash) } else { self.outcome_hash(other) })
    }

    /// Numbers read so far without an outcome.
    pub(crate) fn without_outcome(&self) -> Vec<LogNumber> {
        self.entries.iter().filter(|entry| entry.done.is_none()).map(|entry| entry.number).collect()
    }

    /// Takes apart what [`History::new`] put together.
    pub(crate) fn into_parts(self) -> (Vec<LogEntry>, Vec<Option<[u8; 32]>>, LogNumber) {
        (self.entries, self.hashes, self.summed_below)
    }

    /// Checks the outcome that saw most against what there is now.
    pub(crate) fn check_newest(&self) -> Result<()> {
        let Some((number, seen)) = self.seen_most() else { return Ok(()) };
        self.check_seen(seen, &format!("the writer of {}", done_name(number)), None)
    }

    /// Of the outcomes that count, what the one has seen that saw farthest, and its number.
    fn seen_most(&self) -> Option<(LogNumber, &Seen)> {
        let counting = self.entries.iter().filter(|entry| entry.outcome().is_some());
        let seen = counting.filter_map(|entry| entry.done.as_ref().map(|done| (entry.number, &done.seen)));
        seen.max_by_key(|(_, seen)| seen.below)
    }

    /// Numbers whose outcomes are younger than what that one has seen: nobody has made sure yet that they are durable.
    pub(crate) fn not_seen_by_the_newest(&self) -> Vec<LogNumber> {
        let seen = self.seen_most().map(|(_, seen)| seen);
        let decided =
            (super::FIRST.0..).zip(&self.hashes).filter(|(_, hash)| hash.is_some()).map(|(at, _)| LogNumber(at));
        decided.filter(|number| seen.is_none_or(|seen| !seen.covers(*number))).collect()
    }

    /// Checks what `witness` saw against what there is now; `memory` is the file that says so, if it is
    /// one on this machine.
    pub(crate) fn check_seen(&self, seen: &Seen, witness: &str, memory: Option<&Path>) -> Result<()> {
        let altered = |reason: String| {
            let memory = memory.map(|file| file.display().to_string());
            RepositoryError::HistoryAltered { reason: format!("{witness} {reason}"), memory }
        };
        if seen.below.0 > self.highest().0 + 1 {
            let (seen_last, last) = (LogNumber(seen.below.0 - 1), self.highest());
            return Err(altered(format!("has seen log records up to {seen_last}, now they end at {last}")));
        }
        seen.check(|number| self.outcome_hash(number)).map_err(altered)
    }

    /// All recovery points that count, oldest first by log number: those that are not forgotten, and those that
    /// one of these depends on, or a backup that is running, if it registered before the point was forgotten. Who
    /// forgets cannot know of it, and a later one finds nothing that it could depend on.
    pub fn recovery_points(&self) -> Vec<(LogNumber, RecoveryPoint)> {
        self.points().map(|(number, point)| (number, point.clone())).collect()
    }

    /// As [`History::recovery_points`], borrowed. A point that was brought back stands where it was committed first.
    pub fn points(&self) -> impl DoubleEndedIterator<Item = (LogNumber, &RecoveryPoint)> {
        let first = self.first_numbers();
        let mut points = self.standing_points();
        points.sort_by_key(|(_, point)| first[&point.id]);
        points.into_iter()
    }

    fn standing_points(&self) -> Vec<(LogNumber, &RecoveryPoint)> {
        let forgotten = self.forgotten();
        let forgotten_by = |number: LogNumber, point: &ObjectId| {
            let records = forgotten.get(point)?.iter().filter(|(_, seen)| seen.covers(number));
            records.map(|(by, _)| *by).min()
        };
        let mut standing = Vec::new();
        let mut doomed: HashMap<ObjectId, Vec<(LogNumber, LogNumber, &RecoveryPoint)>> = HashMap::new();
        // Who needs which point.
        let mut needs: Vec<(LogNumber, ObjectId)> = Vec::new();
        for entry in &self.entries {
            match (entry.outcome(), &entry.open) {
                (Some(Outcome::RecoveryPoint(point)), _) => match forgotten_by(entry.number, &point.id) {
                    Some(by) => doomed.entry(point.id).or_default().push((by, entry.number, point)),
                    None => {
                        standing.push((entry.number, point));
                        needs.extend(point.depends_on.map(|base| (entry.number, base)));
                    }
                },
                (None, Some(open)) => needs.extend(open.depends_on.map(|base| (entry.number, base))),
                _ => {}
            }
        }
        while let Some((dependent, base)) = needs.pop() {
            let Some(entries) = doomed.get_mut(&base) else { continue };
            for (_, number, point) in entries.extract_if(.., |(by, ..)| dependent < *by) {
                standing.push((number, point));
                needs.extend(point.depends_on.map(|further| (number, further)));
            }
        }
        standing
    }

    /// The number under which each point was committed first.
    pub fn first_numbers(&self) -> HashMap<ObjectId, LogNumber> {
        let mut first = HashMap::new();
        for entry in &self.entries {
            if let Some(Outcome::RecoveryPoint(point)) = entry.outcome() {
                first.entry(point.id).or_insert(entry.number);
            }
        }
        first
    }

    /// The forget records that name each point, and what they had seen: a record forgets what it has seen, and who
    /// commits the same point again after it brings it back.
    fn forgotten(&self) -> HashMap<ObjectId, Vec<(LogNumber, &Seen)>> {
        let mut forgotten: HashMap<ObjectId, Vec<(LogNumber, &Seen)>> = HashMap::new();
        for entry in &self.entries {
            let (Some(Outcome::Forget { points, .. }), Some(done)) = (entry.outcome(), &entry.done) else { continue };
            points.iter().for_each(|point| forgotten.entry(*point).or_default().push((entry.number, &done.seen)));
        }
        forgotten
    }

    /// The same history as it was decided below a number: what a sweep may go by, since nothing in it
    /// changes any more once all of these have outcomes. It is whole for whoever has a number without outcome there: no
    /// checkpoint reaches beyond that.
    pub fn before(&self, below: LogNumber) -> History {
        let entries = self.entries.iter().filter(|entry| entry.number < below).cloned().collect();
        let count = usize::try_from(below.0.saturating_sub(1)).unwrap_or(usize::MAX).min(self.hashes.len());
        let summed_below = self.summed_below.min(below);
        Self { entries, hashes: self.hashes[..count].to_vec(), summed_below }
    }

    /// Packs that a sweep has deleted.
    pub fn deleted(&self) -> HashSet<PackId> {
        let swept = self.entries.iter().filter_map(|entry| match entry.outcome()? {
            Outcome::Swept { deleted, .. } => Some(deleted),
            _ => None,
        });
        swept.flatten().copied().collect()
    }

    /// The newest recovery point of a set: the parent of its next backup.
    pub fn latest_point(&self, set: &str) -> Option<(LogNumber, &RecoveryPoint)> {
        self.points().rev().find(|(_, point)| point.set == set)
    }

    /// Packs to be treated as absent: condemned, and not rescued by somebody who had seen the
    /// condemnation.
    pub fn condemned(&self) -> HashSet<PackId> {
        self.condemnations().into_iter().map(|(pack, _)| pack).collect()
    }

    /// Each condemnation that stands, with the number of its record: a pack that was rescued may be condemned anew,
    /// and that is another condemnation.
    pub fn condemnations(&self) -> HashSet<(PackId, LogNumber)> {
        let mut standing = HashSet::new();
        for entry in &self.entries {
            if let Some(Outcome::Condemned { packs, .. }) = entry.outcome() {
                standing.extend(packs.iter().map(|pack| (pack.pack, entry.number)));
            }
        }
        for entry in &self.entries {
            let (Some(Outcome::Swept { rescued, .. }), Some(done)) = (entry.outcome(), &entry.done) else { continue };
            let rescued: HashSet<&PackId> = rescued.iter().collect();
            if !rescued.is_empty() {
                standing.retain(|(pack, number)| !rescued.contains(pack) || !done.seen.covers(*number));
            }
        }
        standing
    }

    /// Frames and packs that were found damaged.
    pub fn hurt_locations(&self) -> HurtLocations {
        let mut hurt = HurtLocations::default();
        for entry in &self.entries {
            let Some(Outcome::Damage { frames }) = entry.outcome() else { continue };
            for place in frames {
                match place.frame {
                    Some(frame) => _ = hurt.frames.insert((place.pack, frame)),
                    None => _ = hurt.packs.insert(place.pack),
                }
            }
        }
        hurt
    }

    /// Writers without an outcome that counts: running, or crashed.
    pub fn open_writers(&self) -> impl Iterator<Item = &LogEntry> {
        let is_writer = |entry: &&LogEntry| entry.open.as_ref().is_some_and(|open| open.role == Role::Writer);
        self.entries.iter().filter(is_writer).filter(|entry| entry.outcome().is_none())
    }

    /// Finds a recovery point by a prefix of its id, or `latest`, optionally within one set.
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchPoint`], or [`RepositoryError::AmbiguousPoint`] if several points
    /// have the prefix, or `latest` is asked for among points of several sets.
    pub fn find_point(&self, spec: &str, set: Option<&str>) -> Result<(LogNumber, RecoveryPoint)> {
        let ambiguous = |reason: String| RepositoryError::AmbiguousPoint { spec: spec.to_owned(), reason };
        let is_latest = spec == "latest";
        let mut found: Option<(LogNumber, &RecoveryPoint)> = None;
        let in_set = self.points().filter(|(_, point)| set.is_none_or(|set| point.set == set));
        for (number, point) in in_set.filter(|(_, point)| is_latest || point.id.to_string().starts_with(spec)) {
            match found {
                Some((_, other)) if !is_latest && other.id != point.id => {
                    return Err(ambiguous(format!("both {} and {} begin so", other.id, point.id)));
                }
                Some((_, other)) if is_latest && other.set != point.set => {
                    return Err(ambiguous(format!("there are the sets {} and {}", other.set, point.set)));
                }
                _ => found = Some((number, point)),
            }
        }
        match found {
            Some((number, point)) if !spec.is_empty() => Ok((number, point.clone())),
            _ => Err(RepositoryError::NoSuchPoint { spec: spec.to_owned() }),
        }
    }

    /// Outcomes that have no effect because their signer may not do what they say.
    pub fn refused(&self) -> impl Iterator<Item = (LogNumber, &'static str)> {
        self.entries.iter().filter_map(|entry| match entry.standing {
            Standing::Refused(reason) => Some((entry.number, reason)),
            Standing::Counts => None,
        })
    }
}

/// A fence names the registration of who fenced; the key must be the one that it introduced.
/// (What a single record can tell was judged when it was read.)
/// One that a checkpoint has summed up was judged by who wrote that.
fn refuse_what_may_not_be_done(entries: &mut [LogEntry], summed_below: LogNumber) {
    let introduced: HashMap<LogNumber, VerifyingKey> =
        entries.iter().filter(|entry| entry.open.is_some()).map(|entry| (entry.number, entry.signer)).collect();
    for entry in entries {
        let Some(done) = &entry.done else { continue };
        let Outcome::Fence { by, .. } = &done.outcome else { continue };
        let is_introduced = match introduced.get(by) {
            Some(key) => *key == done.signer,
            None => *by < summed_below,
        };
        if !is_introduced {
            entry.standing = Standing::Refused("a fence by a key that no registration introduced");
        }
    }
}

impl crate::Repository {
    /// The filesets that a registration has sealed, in their order: what a restarted job skips.
    ///
    /// # Errors
    /// Storage errors and [`RepositoryError::Corrupt`].
    pub async fn sealed_filesets(&self, entry: &LogEntry) -> Result<Vec<SealedFileset>> {
        super::read_sealed_filesets(self, entry).await
    }
}
