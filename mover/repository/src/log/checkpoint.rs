//! Checkpoints: what all records below a number come to, so that nobody has to read them one by one.
//!
//! A checkpoint carries the hash of every outcome below it, so that what a client or a record has seen is compared as if
//! all were read; and the records that still matter, whole, whatever their kind: only what is known to matter no more is
//! left out. It is cut into parts `log/<n>/sum/<k>`, durable before the outcome of *n* names their hashes and an admin
//! key signs it: that signature stands for those of the records inside.
//!
//! Never the only copy: the records that it sums up stay, and are read where it cannot be. Memory: 32 bytes a number,
//! and the records carried. Any thread.

use std::collections::HashSet;

use super::history::{History, LogEntry, Standing};
use super::outcome::{DoneRecord, Outcome};
use super::read::{ROTATED_AWAY, entry};
use super::record::{OpenRecord, Role};
use super::registration::{Holder, Registration, create_once};
use super::{FIRST, sum_name};
use crate::backend::delete_if_there;
use crate::codec::{DecodeError, Decoder, Encoder};
use crate::crypto::{OBJECT_OVERHEAD_BYTES, ObjectKind, Secrets, open_object, seal_object};
use crate::error::{RepositoryError, Result};
use crate::ids::LogNumber;
use crate::io::in_parallel;
use crate::limits::{CHECKPOINT_PARTS_MAX, LOG_RECORD_BYTES_MAX};
use crate::repository::Repository;
use crate::retention::forgotten;

/// A new checkpoint is due when it would sum up more outcomes than this that no earlier one does.
pub(crate) const OUTCOMES_A_CHECKPOINT: u64 = 400;
/// Parts read at a time.
const PARTS_IN_FLIGHT: usize = 8;
/// Plain bytes of a part, so that the object is as large as a log record may be.
const PART_BYTES: usize = LOG_RECORD_BYTES_MAX - OBJECT_OVERHEAD_BYTES;
/// Number, a registration without names, an outcome that has seen nothing, and the lengths of both: a forged count must
/// not reserve far more memory than its record has bytes.
const RECORD_BYTES_MIN: usize = 8 + (4 + 134) + (4 + 81);

/// All that matters of the numbers below one.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) below: LogNumber,
    /// BLAKE3 of the `done` object of each number, ascending.
    pub(super) hashes: Vec<[u8; 32]>,
    /// Ascending.
    pub(super) entries: Vec<LogEntry>,
}

impl Summary {
    /// Sums up what is below the first number without outcome. Points that were forgotten below `forgotten_before` are
    /// left out: they are not brought back any more.
    fn of(history: &History, secrets: &Secrets, forgotten_before: LogNumber) -> Self {
        let below = history.decided_below();
        let view = history.before(below);
        let live: HashSet<_> = view.points().map(|(_, point)| point.id).collect();
        let mut gone: HashSet<_> = forgotten(&view.before(forgotten_before)).iter().map(|point| point.id).collect();
        gone.retain(|point| !live.contains(point));
        let newest = view.entries().iter().rev().find(|entry| is_checkpoint(entry)).map(|entry| entry.number);
        let matters = |entry: &&LogEntry| match entry.outcome() {
            Some(Outcome::Checkpoint { .. }) => Some(entry.number) == newest,
            Some(Outcome::RecoveryPoint(point)) => !gone.contains(&point.id),
            Some(Outcome::Ended { .. } | Outcome::Fence { .. }) => bears_witness(entry, secrets),
            // Under which keys it was sealed is not carried, so it would count again.
            _ => entry.standing != Standing::Refused(ROTATED_AWAY),
        };
        let hashes = (FIRST.0..below.0).filter_map(|number| view.outcome_hash(LogNumber(number))).collect();
        Self { below, hashes, entries: view.entries().iter().filter(matters).cloned().collect() }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder.u64(self.below.0);
        self.hashes.iter().for_each(|hash| encoder.raw(hash));
        // A history in which a registration is lost is damaged, and who writes checkpoints is refused then.
        let whole =
            |entry: &LogEntry| Some((entry.number, entry.open.as_ref()?.encode(&entry.signer), entry.done.clone()?));
        let records: Vec<_> = self.entries.iter().filter_map(whole).collect();
        assert_eq!(
            records.len(),
            self.entries.len(),
            "every number below a checkpoint is registered and has an outcome"
        );
        encoder.count(records.len());
        for (number, open, done) in records {
            encoder.u64(number.0);
            encoder.string(&open);
            encoder.string(&done.encode());
        }
        encoder.finish()
    }

    pub(super) fn decode(secrets: &Secrets, below: LogNumber, bytes: &[u8]) -> std::result::Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        if LogNumber(decoder.u64()?) != below || below < FIRST {
            return Err(DecodeError::Invalid { field: "number below which a checkpoint sums up" });
        }
        let numbers = usize::try_from(below.0 - FIRST.0).ok().filter(|numbers| *numbers <= bytes.len() / 32);
        let Some(numbers) = numbers else { return Err(DecodeError::Truncated { at: bytes.len() }) };
        let hashes = (0..numbers).map(|_| decoder.array()).collect::<std::result::Result<_, _>>()?;
        let records = decoder.count(RECORD_BYTES_MIN, "records of a checkpoint")?;
        let mut entries: Vec<LogEntry> = Vec::with_capacity(records);
        for _ in 0..records {
            let number = LogNumber(decoder.u64()?);
            let is_next = entries.last().is_none_or(|last| last.number < number);
            if !is_next || number < FIRST || number >= below {
                return Err(DecodeError::Invalid { field: "number of a record" });
            }
            let (signer, open) = OpenRecord::decode(decoder.string(LOG_RECORD_BYTES_MAX, "registration")?)?;
            let done = DoneRecord::decode(decoder.string(LOG_RECORD_BYTES_MAX, "outcome")?)?;
            entries.push(entry(secrets, number, Some(open), signer, Some(done)));
        }
        decoder.finish()?;
        Ok(Self { below, hashes, entries })
    }
}

pub(super) fn is_checkpoint(entry: &LogEntry) -> bool {
    matches!(entry.outcome(), Some(Outcome::Checkpoint { .. }))
}

/// What admins' runs say of the time bounds what a point can claim, whatever came of them.
fn bears_witness(entry: &LogEntry, secrets: &Secrets) -> bool {
    entry.open.as_ref().is_some_and(|open| open.role == Role::Admin) && secrets.is_admin_key(&entry.signer)
}

/// True if enough outcomes came since the checkpoint that this history was read from.
pub(crate) fn checkpoint_is_due(history: &History) -> bool {
    history.decided_below().0 - history.summed_below().0 > OUTCOMES_A_CHECKPOINT
}

/// Writes the parts of a checkpoint of the history that `registration` read, and gives the outcome that makes it count;
/// none if that were more than a checkpoint may hold.
///
/// # Errors
/// Storage errors.
pub(crate) async fn write_checkpoint(
    registration: &Registration,
    forgotten_before: LogNumber,
) -> Result<Option<Outcome>> {
    write_parts(registration.repository(), registration.number(), registration.history(), forgotten_before).await
}

pub(super) async fn write_parts(
    repository: &Repository,
    number: LogNumber,
    history: &History,
    forgotten_before: LogNumber,
) -> Result<Option<Outcome>> {
    let summary = Summary::of(history, repository.secrets(), forgotten_before);
    let content = summary.encode();
    if content.len().div_ceil(PART_BYTES) > CHECKPOINT_PARTS_MAX {
        return Ok(None);
    }
    let mut parts = Vec::new();
    for (k, part) in (0..).zip(content.chunks(PART_BYTES)) {
        let name = sum_name(number, k);
        let object = seal_object(repository.secrets(), ObjectKind::LogRecord, &name, part);
        parts.push(*blake3::hash(&object).as_bytes());
        if create_once(repository, &name, object).await? == Holder::Others {
            return Err(RepositoryError::corrupt(name, "other bytes are there"));
        }
    }
    Ok(Some(Outcome::Checkpoint { below: summary.below, parts }))
}

/// Reads the checkpoint that is the outcome of `entry`.
///
/// # Errors
/// Whatever is wrong with it: it is gone over then.
pub(super) async fn read_checkpoint(repository: &Repository, entry: &LogEntry) -> Result<Summary> {
    let Some(Outcome::Checkpoint { below, parts }) = entry.outcome() else {
        return Err(RepositoryError::MissingObject { object: sum_name(entry.number, 0) });
    };
    if *below > entry.number {
        return Err(RepositoryError::corrupt(super::done_name(entry.number), "it sums up what came after it"));
    }
    let reads = (0..).zip(parts).map(|(k, hash)| read_part(repository, sum_name(entry.number, k), hash));
    let mut content = Vec::new();
    for part in in_parallel(PARTS_IN_FLIGHT, reads).await {
        content.extend_from_slice(&part?);
    }
    let decoded = Summary::decode(repository.secrets(), *below, &content);
    decoded.map_err(RepositoryError::decoding(&sum_name(entry.number, 0)))
}

/// Reads the newest checkpoint of a history.
///
/// # Errors
/// Whatever is wrong with it, although the records that it sums up are read instead.
pub(crate) async fn check_newest(repository: &Repository, history: &History) -> Result<()> {
    match history.entries().iter().rev().find(|entry| is_checkpoint(entry)) {
        Some(newest) => read_checkpoint(repository, newest).await.map(drop),
        None => Ok(()),
    }
}

async fn read_part(repository: &Repository, name: String, hash: &[u8; 32]) -> Result<Vec<u8>> {
    let object = repository.backend().get(&name, LOG_RECORD_BYTES_MAX as u64).await?;
    if blake3::hash(&object) != *hash {
        return Err(RepositoryError::corrupt(name, "it is not what the checkpoint names"));
    }
    open_object(repository.secrets(), ObjectKind::LogRecord, &name, &object)
}

/// Deletes the parts of checkpoints before the newest of `history`, which itself was superseded just now. Best effort:
/// they are a cache, and a store may deny it.
pub(crate) async fn delete_superseded(repository: &Repository, history: &History) {
    for old in history.entries().iter().rev().filter(|entry| is_checkpoint(entry)).skip(1) {
        let Some(Outcome::Checkpoint { parts, .. }) = old.outcome() else { continue };
        for (k, _) in (0..).zip(parts) {
            if let Err(error) = delete_if_there(repository.backend().as_ref(), &sum_name(old.number, k)).await {
                tracing::debug!(%error, "a part of an old checkpoint stays");
                return;
            }
        }
    }
}
