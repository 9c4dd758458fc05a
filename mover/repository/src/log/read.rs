//! Reads the log: from the newest checkpoint on, every number by GET, many in flight.
//!
//! How far the log goes is found by asking for names; a listing, which is long and may be old, is looked at only as long as
//! there is no checkpoint.

use super::checkpoint::{Summary, is_checkpoint, read_checkpoint};
use super::history::{History, LogEntry, Standing};
use super::memory::Seen;
use super::outcome::{DoneRecord, Outcome};
use super::point::SealedFileset;
use super::record::{OpenRecord, Role, open_record};
use super::{FIRST, LOG_PREFIX, done_name, number_in_name, open_name, sealed_name};
use crate::backend::{Backend, StorageErrorKind};
use crate::codec::Decoder;
use crate::crypto::{Header, ObjectKind, Secrets, VerifyingKey};
use crate::error::{RepositoryError, Result};
use crate::ids::{LogNumber, ObjectId};
use crate::io::in_parallel;
use crate::limits::LOG_RECORD_BYTES_MAX;
use crate::repository::Repository;
use crate::rotation::check_rotations;
use bytes::Bytes;
use futures_util::future::{try_join, try_join4};
use std::collections::BTreeMap;
use std::future::Future;

/// Numbers read at a time, each by two GETs. Enough to hide the round trips of an object store.
const NUMBERS_IN_FLIGHT: usize = 32;
/// Numbers read before a gap is looked for, so that a forged high number costs little.
const NUMBERS_A_WINDOW: u64 = 512;
/// Numbers read at once on the way down to the newest checkpoint.
const NUMBERS_A_STEP_DOWN: u64 = NUMBERS_IN_FLIGHT as u64;
/// Names asked for at once while the highest number is looked for.
const PROBES: u64 = 16;
/// Right behind what is known, each number is asked for up to this one: a record that is missing hides none after it.
const PROBES_DENSE: u64 = 4;
/// Names asked for first in a store in a network.
const PROBES_FAR_STORE: usize = 2;
/// Rounds of that search: far more than any log is long.
const ROUNDS_MAX: usize = 64;
/// Records in a row that nobody named and nobody can read.
const STRANGERS_MAX: usize = 64;
/// Up to this number the log is listed while it is read.
const LISTED_AT_ONCE_MAX: LogNumber = LogNumber(128);
/// Farthest number behind what is known that is asked for.
const PROBE_FARTHEST: u64 = 1 << 20;

/// What was read of one number.
struct NumberRead {
    entry: Option<LogEntry>,
    done_hash: Option<[u8; 32]>,
    damage: Option<RepositoryError>,
}

/// A history, and what of it could not be read.
pub(crate) type Reading = (History, Vec<RepositoryError>);

/// The highest number that a listing shows. A hint: others may exist.
async fn highest_listed(backend: &dyn Backend) -> Result<LogNumber> {
    let listed = backend.list(LOG_PREFIX).await?;
    Ok(listed.iter().filter_map(|meta| number_in_name(&meta.name)).max().unwrap_or_default())
}

/// The highest number at or above `known`, which is there. Numbers are dense, so some dozens of names tell it however long
/// the log is. A hint: where numbers are missing, others may exist.
pub(super) async fn find_highest(backend: &dyn Backend, known: LogNumber) -> Result<LogNumber> {
    let doublings = std::iter::successors(Some(PROBES_DENSE * 2), |offset| Some(offset * 2));
    let offsets: Vec<u64> =
        (1..=PROBES_DENSE).chain(doublings.take_while(|offset| *offset <= PROBE_FARTHEST)).collect();
    // Where each name costs a request, far numbers are looked for only if all near ones are there.
    let is_far = backend.link().is_some();
    let mut asked = if is_far { PROBES_FAR_STORE } else { offsets.len() };
    let mut known = known.0;
    for _ in 0..ROUNDS_MAX {
        let probes: Vec<u64> = offsets.iter().take(asked).filter_map(|offset| known.checked_add(*offset)).collect();
        asked = offsets.len().min(asked * 4);
        let Some(found) = highest_there(backend, &probes).await? else { return Ok(LogNumber(known)) };
        known = probes[found];
        let Some(mut missing) = probes.get(found + 1).copied() else { continue };
        while missing - known > 1 {
            let step = (missing - known - 1).div_ceil(PROBES);
            let probes: Vec<u64> = (1..=PROBES).map(|nth| known + nth * step).take_while(|at| *at < missing).collect();
            match highest_there(backend, &probes).await? {
                None => missing = probes[0],
                Some(found) => {
                    known = probes[found];
                    missing = probes.get(found + 1).copied().unwrap_or(missing);
                }
            }
        }
        if is_far {
            return Ok(LogNumber(known));
        }
    }
    Err(endless())
}

/// A store, or what answers in its place, that has an object for whatever it is asked for.
fn endless() -> RepositoryError {
    RepositoryError::corrupt("log", "the store answers for records that nobody can have written")
}

/// The last of these numbers that is registered.
async fn highest_there(backend: &dyn Backend, numbers: &[u64]) -> Result<Option<usize>> {
    let probes = numbers.iter().map(|number| async move {
        let name = open_name(LogNumber(*number));
        for attempt in 1.. {
            match backend.size(&name).await {
                Ok(_) => return Ok(true),
                Err(error) if error.kind == StorageErrorKind::NotFound => return Ok(false),
                Err(error) if error.kind.retryable() && attempt == 1 => {}
                Err(error) => return Err(RepositoryError::from(error)),
            }
        }
        Ok(false)
    });
    let there = in_parallel(NUMBERS_IN_FLIGHT, probes).await.into_iter().collect::<Result<Vec<bool>>>()?;
    Ok(there.iter().rposition(|is_there| *is_there))
}

/// What was read of the log, from 1 or from a checkpoint on.
#[derive(Default)]
struct Log {
    entries: Vec<LogEntry>,
    /// Of each number, at index number - 1.
    hashes: Vec<Option<[u8; 32]>>,
    damage: Vec<RepositoryError>,
    /// The checkpoint that it begins with.
    summed_below: Option<LogNumber>,
}

impl Log {
    /// Appends the next number.
    fn push(&mut self, read: Option<NumberRead>) {
        let number = LogNumber(self.hashes.len() as u64 + FIRST.0);
        let gap = || NumberRead { entry: None, done_hash: None, damage: Some(RepositoryError::HistoryGap { number }) };
        let read = read.unwrap_or_else(gap);
        self.hashes.push(read.done_hash);
        self.entries.extend(read.entry);
        self.damage.extend(read.damage);
    }
}

/// Reads the history up to the highest number there is, at least up to `known`: down to the newest checkpoint first, then
/// what came meanwhile.
///
/// Records that cannot be read, gaps, and outcomes that differ from what their successors or this
/// client saw are collected in the second part: who only reads goes on with the rest, who writes does
/// not. Digests are compared only if every record is whole: what a damaged one held is not known.
/// What follows from damage that is told already is not told again.
pub(crate) async fn read_history(repository: &Repository, known: LogNumber) -> Result<Reading> {
    // First: another process of this client may remember more while the history is read.
    let remembered = repository.remembered().await;
    let log = match read_at_once(repository, known).await? {
        Some(log) => log,
        None => read_in_steps(repository, known, remembered.as_ref()).await?,
    };
    let Log { entries, hashes, mut damage, summed_below } = log;
    let mut history = History::new(entries, hashes, summed_below);
    if damage.is_empty() {
        history = compared(repository, history, &mut damage).await?;
    }
    if damage.is_empty() {
        let memory = repository.memory_file();
        let seen = remembered.map(|seen| history.check_seen(&seen, "this client", memory.as_deref()));
        damage.extend(seen.and_then(Result::err));
    }
    if damage.is_empty() {
        damage.extend(check_rotations(repository.secrets(), &history).err());
    }
    Ok((history, damage))
}

/// Reads all there is if nothing follows `known`, as after a registration: whatever tells so is asked for at once, which
/// is one round trip instead of four. `None` if more has come.
async fn read_at_once(repository: &Repository, known: LogNumber) -> Result<Option<Log>> {
    if known < FIRST {
        return Ok(None);
    }
    let (backend, secrets) = (repository.backend().as_ref(), repository.secrets());
    let next = LogNumber(known.0 + 1);
    let listing = async {
        // A log that is longer has a checkpoint, and needs no listing.
        if known <= LISTED_AT_ONCE_MAX { highest_listed(backend).await.map(Some) } else { Ok(None) }
    };
    let (down, after) = (read_down(repository, known), read_number(backend, secrets, next));
    let (log, after, found, listed) = try_join4(down, after, find_highest(backend, known), listing).await?;
    let listed = match (log.summed_below, listed) {
        (None, None) => highest_listed(backend).await?,
        (_, listed) => listed.unwrap_or_default(),
    };
    let is_all = after.is_none() && found.max(listed) <= known && log.hashes.len() as u64 == known.0;
    Ok(is_all.then_some(log))
}

/// Finds how far the log goes, reads down to a checkpoint, and then what came meanwhile.
async fn read_in_steps(repository: &Repository, known: LogNumber, remembered: Option<&Seen>) -> Result<Log> {
    let backend = repository.backend().as_ref();
    let found = highest(repository, known, remembered).await?;
    let mut log = read_down(repository, found).await?;
    let listed = match log.summed_below {
        Some(_) => found,
        None => highest_listed(backend).await?.max(found),
    };
    read_up(repository, listed, &mut log).await?;
    Ok(log)
}

/// The highest number, as a search that is just over found it, else as one finds it now. A search that did not know what
/// this client has seen may have ended where a record is missing.
pub(super) async fn highest(repository: &Repository, known: LogNumber, remembered: Option<&Seen>) -> Result<LogNumber> {
    let is_known = |found: &LogNumber| remembered.is_none_or(|seen| seen.below.0 <= found.0 + 1);
    match repository.take_found().filter(is_known) {
        Some(found) => Ok(found.max(known)),
        None => find_highest_from(repository.backend().as_ref(), known, remembered).await,
    }
}

/// As [`find_highest`], from the last number that this client has seen if that is higher and there.
pub(crate) async fn find_highest_from(
    backend: &dyn Backend,
    known: LogNumber,
    remembered: Option<&Seen>,
) -> Result<LogNumber> {
    let seen = LogNumber(remembered.map_or(0, |seen| seen.below.0.saturating_sub(1)));
    if seen <= known {
        return find_highest(backend, known).await;
    }
    match try_join(highest_there(backend, &[seen.0]), find_highest(backend, seen)).await? {
        (Some(_), found) => Ok(found),
        (None, _) => find_highest(backend, known).await,
    }
}

/// Reads from `highest` down to the newest checkpoint that can be read, or to the first number. Gives nothing if a long
/// row of numbers is missing on the way: a forged high number is not worth the steps down from it.
async fn read_down(repository: &Repository, highest: LogNumber) -> Result<Log> {
    let (backend, secrets) = (repository.backend().as_ref(), repository.secrets());
    let mut reads: BTreeMap<u64, Option<NumberRead>> = BTreeMap::new();
    let mut summary: Option<Summary> = None;
    let mut above = highest.0 + 1;
    loop {
        let floor = summary.as_ref().map_or(FIRST.0, |summary| summary.below.0);
        if above <= floor {
            break;
        }
        let step = above.saturating_sub(NUMBERS_A_STEP_DOWN).max(floor)..above;
        above = step.start;
        let read =
            in_parallel(NUMBERS_IN_FLIGHT, step.clone().map(|number| read_number(backend, secrets, LogNumber(number))));
        let read = read.await.into_iter().collect::<Result<Vec<_>>>()?;
        if read.iter().all(Option::is_none) {
            return Ok(Log::default());
        }
        if summary.is_none() {
            summary = newest_checkpoint(repository, &read).await;
        }
        reads.extend(step.zip(read));
    }
    let mut log = Log::default();
    if let Some(summary) = summary {
        reads = reads.split_off(&summary.below.0);
        log.summed_below = Some(summary.below);
        log.entries = summary.entries;
        log.hashes = summary.hashes.into_iter().map(Some).collect();
    }
    reads.into_values().for_each(|read| log.push(read));
    Ok(log)
}

/// The newest checkpoint among these that can be read.
async fn newest_checkpoint(repository: &Repository, reads: &[Option<NumberRead>]) -> Option<Summary> {
    let entries = reads.iter().rev().filter_map(|read| read.as_ref()?.entry.as_ref());
    for entry in entries.filter(|entry| is_checkpoint(entry)) {
        match read_checkpoint(repository, entry).await {
            Ok(summary) => return Some(summary),
            Err(error) => tracing::warn!(%error, "a checkpoint cannot be read: reading the records that it sums up"),
        }
    }
    None
}

/// Reads on, at least up to `known`, until a number is free.
async fn read_up(repository: &Repository, known: LogNumber, log: &mut Log) -> Result<()> {
    let (backend, secrets) = (repository.backend().as_ref(), repository.secrets());
    let mut strangers = 0;
    loop {
        let next = log.hashes.len() as u64 + FIRST.0;
        let is_known = next <= known.0;
        let window_end = if is_known { known.0.min(next + NUMBERS_A_WINDOW - 1) } else { next };
        let reads = (next..=window_end).map(|number| read_number(backend, secrets, LogNumber(number)));
        let mut found_in_window = 0;
        for read in in_parallel(NUMBERS_IN_FLIGHT, reads).await {
            // A number that was not known may be taken and decided between its two reads.
            let read =
                read?.filter(|read| is_known || !matches!(read.damage, Some(RepositoryError::HistoryGap { .. })));
            match &read {
                // Nobody said that this number exists, and a store that does not answer says of no number that it is not
                // there: to go on would never end.
                Some(NumberRead { entry: None, damage: Some(error @ RepositoryError::Storage(_)), .. })
                    if !is_known =>
                {
                    return Err(error.clone());
                }
                None if !is_known => return Ok(()),
                Some(NumberRead { entry: None, .. }) if !is_known && strangers == STRANGERS_MAX => {
                    return Err(endless());
                }
                Some(NumberRead { entry, .. }) => {
                    strangers = if is_known || entry.is_some() { 0 } else { strangers + 1 };
                    found_in_window += 1;
                }
                None => {}
            }
            log.push(read);
        }
        if is_known && found_in_window == 0 {
            return Ok(());
        }
    }
}

/// Compares a whole history with what its newest outcome saw.
async fn compared(repository: &Repository, history: History, damage: &mut Vec<RepositoryError>) -> Result<History> {
    if history.check_newest().is_ok() {
        return Ok(history);
    }
    // A run may have committed after its number was read and before a later one was, whose
    // outcome knows of it: what had no outcome is read once more.
    let (backend, secrets) = (repository.backend().as_ref(), repository.secrets());
    let open_numbers = history.without_outcome();
    let (mut entries, mut hashes, summed_below) = history.into_parts();
    let reads = open_numbers.into_iter().map(|number| read_number(backend, secrets, number));
    for read in in_parallel(NUMBERS_IN_FLIGHT, reads).await {
        let Some(NumberRead { entry: Some(entry), done_hash, damage: None }) = read? else { continue };
        hashes[(entry.number.0 - FIRST.0) as usize] = done_hash;
        let at = entries.partition_point(|other| other.number < entry.number);
        entries[at] = entry;
    }
    let history = History::new(entries, hashes, Some(summed_below));
    damage.extend(history.check_newest().err());
    Ok(history)
}

/// `None` if the number has neither registration nor outcome.
async fn read_number(backend: &dyn Backend, secrets: &Secrets, number: LogNumber) -> Result<Option<NumberRead>> {
    let (open_object_name, done_object_name) = (open_name(number), done_name(number));
    let (open_read, done_read) = (read_record(backend, &open_object_name), read_record(backend, &done_object_name));
    let (open_object, done_object) = (open_read.await, done_read.await);
    if matches!((&open_object, &done_object), (Ok(None), Ok(None))) {
        return Ok(None);
    }
    let generation = oldest_generation([&open_object, &done_object]);
    let done_hash = done_object.as_ref().ok().and_then(Option::as_ref).map(|object| *blake3::hash(object).as_bytes());
    let opened = match open_object {
        Ok(Some(object)) => decode_open(secrets, &open_object_name, &object),
        Ok(None) => Err(RepositoryError::HistoryGap { number }),
        Err(error) => Err(error),
    };
    let done = match done_object {
        Ok(Some(object)) => decode_done(secrets, &done_object_name, &object).map(Some),
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    let (entry, damage) = match (opened, done) {
        (Ok((signer, open)), Ok(done)) => {
            let mut entry = entry(secrets, number, Some(open), signer, done);
            refuse_rotated_away(secrets, generation, &mut entry);
            (Some(entry), None)
        }
        // Who registered is lost, what came of it is not: it opened under the keys of this repository.
        (Err(lost), Ok(Some(done))) => (Some(entry(secrets, number, None, done.signer, Some(done))), Some(lost)),
        (Err(lost), _) | (_, Err(lost)) => (None, Some(lost)),
    };
    Ok(Some(NumberRead { entry, done_hash, damage }))
}

/// The older generation of those that two records were sealed under.
fn oldest_generation(records: [&Result<Option<Bytes>>; 2]) -> u32 {
    let read = records.into_iter().filter_map(|record| record.as_ref().ok()?.as_ref());
    let generations = read.filter_map(|object| Header::decode(object, ObjectKind::LogRecord, "").ok());
    generations.map(|header| header.generation).min().unwrap_or_default()
}

/// Why a record is refused that was sealed under older keys than were in force.
pub(super) const ROTATED_AWAY: &str = "a record under keys that were rotated away";

/// Who was left out of a rotation can seal under the older generation still, and may hold an admin key: what he says
/// at a number above the rotation has no effect. (An honest run that did not know of it has ended without one.)
fn refuse_rotated_away(secrets: &Secrets, generation: u32, entry: &mut LogEntry) {
    let is_effect = entry.outcome().is_some_and(|outcome| !matches!(outcome, Outcome::Ended { .. }));
    if is_effect && generation < secrets.generation_at(entry.number) {
        entry.standing = Standing::Refused(ROTATED_AWAY);
    }
}

/// Generation and object of the rotation that the outcome of a number brought into force; none if it is not such an
/// outcome, or does not count.
///
/// # Errors
/// Storage errors.
pub(crate) async fn read_rotation(
    backend: &dyn Backend,
    secrets: &Secrets,
    number: LogNumber,
) -> Result<Option<(u32, ObjectId)>> {
    let Some(read) = read_number(backend, secrets, number).await? else { return Ok(None) };
    if let Some(error @ RepositoryError::Storage(_)) = read.damage {
        return Err(error);
    }
    Ok(match read.entry.as_ref().and_then(LogEntry::outcome) {
        Some(Outcome::KeysRotated { generation, rotation }) => Some((*generation, *rotation)),
        _ => None,
    })
}

pub(super) fn entry(
    secrets: &Secrets,
    number: LogNumber,
    open: Option<OpenRecord>,
    signer: VerifyingKey,
    done: Option<DoneRecord>,
) -> LogEntry {
    let role = open.as_ref().map(|open| open.role);
    let standing = done.as_ref().map_or(Standing::Counts, |done| standing(secrets, role, &signer, done));
    LogEntry { number, open, signer, done, standing }
}

/// One record, `None` if there is none. Asks again if the error says that this may help.
fn read_record<'r>(backend: &'r dyn Backend, name: &'r str) -> impl Future<Output = Result<Option<Bytes>>> + 'r {
    let get = move || backend.get(name, LOG_RECORD_BYTES_MAX as u64);
    let first = get();
    async move {
        match first.await {
            Err(error) if error.kind.retryable() => if_found(get().await),
            read => if_found(read),
        }
    }
}

fn if_found(read: std::result::Result<Bytes, crate::backend::StorageError>) -> Result<Option<Bytes>> {
    match read {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.kind == StorageErrorKind::NotFound => Ok(None),
        Err(error) if error.kind == StorageErrorKind::TooLarge => {
            Err(RepositoryError::corrupt(error.object, "it is larger than a log record can be"))
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) fn decode_open(secrets: &Secrets, name: &str, object: &[u8]) -> Result<(VerifyingKey, OpenRecord)> {
    let record = open_record(secrets, name, object)?;
    let (signer, open) = OpenRecord::decode(&record.body).map_err(RepositoryError::decoding(name))?;
    record.verify(secrets, name, &signer)?;
    Ok((signer, open))
}

pub(super) fn decode_done(secrets: &Secrets, name: &str, object: &[u8]) -> Result<DoneRecord> {
    let record = open_record(secrets, name, object)?;
    let done = DoneRecord::decode(&record.body).map_err(RepositoryError::decoding(name))?;
    record.verify(secrets, name, &done.signer)?;
    Ok(done)
}

/// Judges what one record can tell: who may do what. If the registration is lost (there is no
/// `role`), only what anybody may say of a run of his own counts, or what an admin key signed.
fn standing(secrets: &Secrets, role: Option<Role>, registrant: &VerifyingKey, done: &DoneRecord) -> Standing {
    let is_admin = secrets.is_admin_key(&done.signer);
    let is_own = done.signer == *registrant;
    match &done.outcome {
        Outcome::Fence { .. } if (is_own && role.is_some()) || is_admin => Standing::Counts,
        Outcome::Fence { .. } => Standing::Refused("a fence of another's run that no admin key signed"),
        _ if !is_own => Standing::Refused("an outcome signed by another client than the registered one"),
        outcome if outcome.is_destructive() && !is_admin => {
            Standing::Refused("a destructive record that no admin key signed")
        }
        // Rotations wait for admins alone, so no other run may bring one into force below them.
        Outcome::KeysRotated { .. } if role != Some(Role::Admin) => {
            Standing::Refused("a rotation of keys by a run that did not register as an admin")
        }
        _ => Standing::Counts,
    }
}

/// Reads `log/<n>/sealed/<k>` for k = 0, 1, … until there is none.
///
/// # Errors
/// Storage errors and [`RepositoryError::Corrupt`].
pub async fn read_sealed_filesets(repository: &Repository, entry: &LogEntry) -> Result<Vec<SealedFileset>> {
    let mut filesets = Vec::new();
    for k in 0..u32::MAX {
        match read_sealed_fileset(repository, entry, k).await? {
            Some(fileset) => filesets.push(fileset),
            None => break,
        }
    }
    Ok(filesets)
}

/// Reads `log/<n>/sealed/<k>`; `None` if there is none.
pub(crate) async fn read_sealed_fileset(
    repository: &Repository,
    entry: &LogEntry,
    k: u32,
) -> Result<Option<SealedFileset>> {
    let name = sealed_name(entry.number, k);
    let Some(object) = read_record(repository.backend().as_ref(), &name).await? else { return Ok(None) };
    let record = open_record(repository.secrets(), &name, &object)?;
    record.verify(repository.secrets(), &name, &entry.signer)?;
    let mut decoder = Decoder::new(&record.body);
    let fileset = SealedFileset::decode(&mut decoder).and_then(|fileset| decoder.finish().map(|()| fileset));
    fileset.map(Some).map_err(RepositoryError::decoding(&name))
}
