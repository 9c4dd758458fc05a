//! Reads the log: every number by GET, many in flight; LIST only says how far to look at once.

use super::history::{History, LogEntry, Standing};
use super::outcome::{DoneRecord, Outcome};
use super::point::SealedFileset;
use super::record::{OpenRecord, open_record};
use super::{FIRST, LOG_PREFIX, done_name, number_in_name, open_name, sealed_name};
use crate::backend::{Backend, StorageErrorKind};
use crate::codec::Decoder;
use crate::crypto::{Secrets, VerifyingKey};
use crate::error::{RepositoryError, Result};
use crate::ids::LogNumber;
use crate::io::in_parallel;
use crate::limits::LOG_RECORD_BYTES_MAX;
use crate::repository::Repository;
use bytes::Bytes;

/// Numbers read at a time, each by two GETs. Enough to hide the round trips of an object store.
const NUMBERS_IN_FLIGHT: usize = 16;
/// Numbers read before a gap is looked for, so that a forged high number costs little.
const NUMBERS_A_WINDOW: u64 = 512;

/// What was read of one number.
struct NumberRead {
    entry: LogEntry,
    done_hash: Option<[u8; 32]>,
}

/// The highest number that a listing shows. A hint: others may exist.
pub(super) async fn highest_listed(backend: &dyn Backend) -> Result<LogNumber> {
    let listed = backend.list(LOG_PREFIX).await?;
    Ok(listed.iter().filter_map(|meta| number_in_name(&meta.name)).max().unwrap_or_default())
}

/// Reads the history up to the highest number there is, at least up to `known`.
///
/// With `damage`, records that cannot be read and gaps are collected there and left out of the
/// history, and digests are not compared; without, they are errors.
pub(crate) async fn read_history(
    repository: &Repository,
    known: LogNumber,
    mut damage: Option<&mut Vec<RepositoryError>>,
) -> Result<History> {
    let known = highest_listed(repository.backend().as_ref()).await?.max(known);
    let (mut entries, mut hashes) = (Vec::new(), Vec::new());
    let mut next = FIRST.0;
    loop {
        let is_known = next <= known.0;
        let window_end = if is_known { known.0.min(next + NUMBERS_A_WINDOW - 1) } else { next };
        let reads = (next..=window_end).map(|number| read_number(repository, LogNumber(number)));
        let mut found_in_window = 0;
        for (number, read) in (next..=window_end).zip(in_parallel(NUMBERS_IN_FLIGHT, reads).await) {
            match read {
                Ok(Some(read)) => {
                    found_in_window += 1;
                    hashes.push(read.done_hash);
                    entries.push(read.entry);
                }
                Ok(None) if !is_known => return finish(repository, entries, hashes, damage.is_some()).await,
                Ok(None) => match &mut damage {
                    Some(damage) => {
                        damage.push(RepositoryError::HistoryGap { number: LogNumber(number) });
                        hashes.push(None);
                    }
                    None => return Err(RepositoryError::HistoryGap { number: LogNumber(number) }),
                },
                Err(error) => match &mut damage {
                    Some(damage) if !error.retryable() => {
                        found_in_window += 1;
                        damage.push(error);
                        hashes.push(None);
                    }
                    _ => return Err(error),
                },
            }
        }
        if is_known && found_in_window == 0 {
            return finish(repository, entries, hashes, damage.is_some()).await;
        }
        next = window_end + 1;
    }
}

/// Puts the history together and compares it with what its outcomes saw.
async fn finish(
    repository: &Repository,
    entries: Vec<LogEntry>,
    hashes: Vec<Option<[u8; 32]>>,
    is_lenient: bool,
) -> Result<History> {
    let history = History::new(entries, hashes);
    if is_lenient || history.check_newest().is_ok() {
        return Ok(history);
    }
    // A run may have committed after its number was read and before a later one was, whose
    // outcome knows of it: what had no outcome is read once more.
    let open_numbers = history.without_outcome();
    let (mut entries, mut hashes) = history.into_parts();
    let reads = open_numbers.into_iter().map(|number| read_number(repository, number));
    for read in in_parallel(NUMBERS_IN_FLIGHT, reads).await {
        let Some(read) = read? else { continue };
        let index = (read.entry.number.0 - FIRST.0) as usize;
        hashes[index] = read.done_hash;
        entries[index] = read.entry;
    }
    let history = History::new(entries, hashes);
    history.check_newest()?;
    Ok(history)
}

/// `None` if the number has no `open` record.
async fn read_number(repository: &Repository, number: LogNumber) -> Result<Option<NumberRead>> {
    let (open_object_name, done_object_name) = (open_name(number), done_name(number));
    let open_read = repository.backend().get(&open_object_name, LOG_RECORD_BYTES_MAX as u64);
    let done_read = repository.backend().get(&done_object_name, LOG_RECORD_BYTES_MAX as u64);
    let Some(open_object) = if_found(open_read.await)? else { return Ok(None) };
    let done_object = if_found(done_read.await)?;

    let secrets = repository.secrets();
    let (signer, open) = decode_open(secrets, &open_object_name, &open_object)?;
    let mut entry = LogEntry { number, open, signer, done: None, standing: Standing::Counts };
    let mut done_hash = None;
    if let Some(object) = done_object {
        done_hash = Some(*blake3::hash(&object).as_bytes());
        let done = decode_done(secrets, &done_object_name, &object)?;
        entry.standing = standing(secrets, &entry.signer, &done);
        entry.done = Some(done);
    }
    Ok(Some(NumberRead { entry, done_hash }))
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

/// Judges what one record can tell: who may do what.
fn standing(secrets: &Secrets, registrant: &VerifyingKey, done: &DoneRecord) -> Standing {
    let is_admin = secrets.is_admin_key(&done.signer);
    let is_own = done.signer == *registrant;
    match &done.outcome {
        Outcome::Fence { .. } if is_own || is_admin => Standing::Counts,
        Outcome::Fence { .. } => Standing::Refused("a fence of another's run that no admin key signed"),
        _ if !is_own => Standing::Refused("an outcome signed by another client than the registered one"),
        outcome if outcome.is_destructive() && !is_admin => {
            Standing::Refused("a destructive record that no admin key signed")
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
        let name = sealed_name(entry.number, k);
        let read = repository.backend().get(&name, LOG_RECORD_BYTES_MAX as u64).await;
        let Some(object) = if_found(read)? else { break };
        let record = open_record(repository.secrets(), &name, &object)?;
        record.verify(repository.secrets(), &name, &entry.signer)?;
        let mut decoder = Decoder::new(&record.body);
        let fileset = SealedFileset::decode(&mut decoder).and_then(|fileset| decoder.finish().map(|()| fileset));
        filesets.push(fileset.map_err(RepositoryError::decoding(&name))?);
    }
    Ok(filesets)
}
