//! What every backend must guarantee, as code: run by tests on each implementation and by
//! `doctor` on a user's store.
//!
//! Works below a scratch prefix of its own and removes what it made. A check that fails is a row
//! of the result, not an error, so that `doctor` can show all of them.

use super::{Backend, Created, ObjectMeta, StorageError, StorageErrorKind, lock_time};
use crate::crypto::random_array;
use crate::error::{RepositoryError, Result};
use crate::ids::UnixNanos;
use crate::io::in_parallel;
use bytes::Bytes;

/// One guarantee and whether it held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The guarantee, as a user would read it.
    pub name: &'static str,
    /// Whether it held.
    pub passed: bool,
    /// What was seen if not.
    pub detail: String,
}

/// Prefix of all scratch objects.
pub const SCRATCH_PREFIX: &str = "scratch";
/// Creators racing for one name.
const RACERS: usize = 32;
const LARGE_BYTES: usize = 9 << 20;

type Outcome = std::result::Result<(), String>;

/// Runs all checks below a fresh scratch prefix, then removes the scratch objects.
///
/// # Errors
/// If the store takes no writes at present (read-only, full, denied): then nothing is known of what it
/// guarantees. If the clean-up cannot list the store. Failed checks are in the result.
pub async fn conformance(backend: &dyn Backend) -> Result<Vec<Check>> {
    let scratch = Scratch::new(backend);
    if let Err(error) = scratch.can_be_written().await {
        scratch.clean_up().await?;
        return Err(error.into());
    }
    let mut checks = Vec::new();
    let mut record = |name, outcome: Outcome| {
        checks.push(Check { name, passed: outcome.is_ok(), detail: outcome.err().unwrap_or_default() });
    };
    record("an object reads back as written", scratch.round_trip().await);
    record("create-if-absent has one winner", flat(scratch.one_winner("raced", RACERS).await));
    record("create-if-absent leaves what exists", scratch.existing_is_untouched().await);
    record("a new object is seen at once by who missed it", flat(scratch.seen_once_created().await));
    record("a new object is listed at once", scratch.listed_after_write().await);
    record("a range reads exactly its bytes", scratch.ranges().await);
    record("a range past the end is an error", scratch.short_range().await);
    record("a missing object is reported as missing", scratch.missing().await);
    record("an object over the limit is refused", scratch.over_limit().await);
    record("a large object appears at its finish", scratch.large_object().await);
    record("an abandoned object leaves nothing", scratch.abandoned().await);
    record("names cannot leave the place", scratch.bad_names().await);
    record("a deleted object is gone", scratch.deleted().await);
    scratch.clean_up().await?;
    Ok(checks)
}

/// Creators that race for one name in [`prove_one_winner`]; each costs a sync.
const RACERS_OF_PROOF: usize = 8;

/// Proves, here and now, the two promises without which no rule of deleting holds: of all who create one name one is told
/// that it made it, and its bytes stay; and who asks for a name sees it from then on. Leaves nothing behind.
///
/// # Errors
/// [`RepositoryError::UntrustedStore`] with what the store did instead; storage errors, after which nothing is known.
pub async fn prove_one_winner(backend: &dyn Backend) -> Result<()> {
    let scratch = Scratch::new(backend);
    let proof = scratch.proof().await;
    for name in Scratch::PROOF_NAMES {
        // A store that denies deletes will say so when it matters.
        let _ = backend.delete(&scratch.name(name)).await;
    }
    let untrusted = |what: String| Err(RepositoryError::UntrustedStore { place: backend.describe(), what });
    match proof {
        Ok(Ok(())) => Ok(()),
        Ok(Err(what)) => untrusted(what),
        Err(error) if error.kind == StorageErrorKind::NotSupported => untrusted(error.to_string()),
        Err(error) => Err(error.into()),
    }
}

/// Time for which [`prove_lock`] locks an object.
const LOCK_SECONDS: i128 = 60;

/// Proves that the store locks objects: locks a small one for a minute, and asks the store until when it keeps it.
///
/// # Errors
/// [`RepositoryError::UntrustedStore`] if it tells another time; what it refuses it with.
pub async fn prove_lock(backend: &dyn Backend) -> Result<()> {
    let name = Scratch::new(backend).name("locked");
    backend.create(&name, Bytes::from_static(b"locked")).await?;
    let until = UnixNanos((UnixNanos::now().0 / 1_000_000_000 + LOCK_SECONDS) * 1_000_000_000);
    let told = match backend.retain_until(&name, until).await {
        Ok(_) => backend.retained_until(&name).await,
        Err(error) => Err(error),
    };
    let _ = backend.delete(&name).await;
    match told? {
        Some(told) if told >= until => Ok(()),
        told => {
            let what = format!("an object that was locked until {} is kept until {told:?}", lock_time(until));
            Err(RepositoryError::UntrustedStore { place: backend.describe(), what })
        }
    }
}

struct Scratch<'a> {
    backend: &'a dyn Backend,
    prefix: String,
}

fn said(error: StorageError) -> String {
    error.to_string()
}

fn expect(condition: bool, otherwise: &str) -> Outcome {
    if condition { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn expect_kind<T>(result: std::result::Result<T, StorageError>, kind: StorageErrorKind) -> Outcome {
    match result {
        Err(error) if error.kind == kind => Ok(()),
        Err(error) => Err(format!("reported as {:?}: {error}", error.kind)),
        Ok(_) => Err("no error was reported".to_owned()),
    }
}

/// A check that cannot be made has failed too.
fn flat(checked: std::result::Result<Outcome, StorageError>) -> Outcome {
    checked.unwrap_or_else(|error| Err(said(error)))
}

impl<'a> Scratch<'a> {
    fn new(backend: &'a dyn Backend) -> Self {
        let run: [u8; 8] = random_array();
        Scratch { backend, prefix: format!("{SCRATCH_PREFIX}/{:016x}", u64::from_le_bytes(run)) }
    }
}

impl Scratch<'_> {
    const PROOF_NAMES: [&'static str; 2] = ["seen", "raced-for-proof"];

    async fn proof(&self) -> std::result::Result<Outcome, StorageError> {
        match self.seen_once_created().await? {
            Ok(()) => self.one_winner("raced-for-proof", RACERS_OF_PROOF).await,
            broken => Ok(broken),
        }
    }

    /// Missing, created, and from then on seen as it was created, whatever else is created there.
    async fn seen_once_created(&self) -> std::result::Result<Outcome, StorageError> {
        let (name, body) = (self.name("seen"), Bytes::from_static(b"first"));
        match self.backend.get(&name, 100).await {
            Err(error) if error.kind == StorageErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(Err("a name that nobody used is taken".to_owned())),
        }
        if self.backend.create(&name, body.clone()).await? != Created::New {
            return Ok(Err("a new name was reported as taken".to_owned()));
        }
        for attempt in ["right after it was created", "after somebody else tried to create it"] {
            match self.backend.get(&name, 100).await {
                Ok(read) if read == body => {}
                Ok(_) => return Ok(Err(format!("an object has other bytes {attempt}"))),
                Err(error) if error.kind == StorageErrorKind::NotFound => {
                    return Ok(Err(format!("an object is not seen {attempt}")));
                }
                Err(error) => return Err(error),
            }
            if self.backend.create(&name, Bytes::from_static(b"second")).await? != Created::AlreadyExisted {
                return Ok(Err("two were told that they created one name".to_owned()));
            }
        }
        Ok(Ok(()))
    }

    /// All create one name at once: one is told that it made it, and its bytes stay.
    async fn one_winner(&self, name: &str, racers: usize) -> std::result::Result<Outcome, StorageError> {
        let name = self.name(name);
        let body = |racer: usize| Bytes::from(format!("racer {racer}").repeat(100));
        // All are started before the first is awaited.
        let started: Vec<_> = (0..racers).map(|racer| self.backend.create(&name, body(racer))).collect();
        let mut winners = Vec::new();
        for (racer, created) in in_parallel(racers, started).await.into_iter().enumerate() {
            if created? == Created::New {
                winners.push(body(racer));
            }
        }
        if winners.len() != 1 {
            return Ok(Err(format!("{} of {racers} were told that they created one name", winners.len())));
        }
        let stored = self.backend.get(&name, 1 << 20).await?;
        Ok(expect(stored == winners[0], "the bytes of one name are not those of who created it"))
    }

    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.prefix)
    }

    async fn put(&self, rest: &str, body: &'static [u8]) -> std::result::Result<String, String> {
        let name = self.name(rest);
        let created = self.backend.create(&name, Bytes::from_static(body)).await.map_err(said)?;
        expect(created == Created::New, "a new name was reported as taken")?;
        Ok(name)
    }

    /// Writes as much as the largest check; only what says that no write works now is an error here.
    async fn can_be_written(&self) -> std::result::Result<(), StorageError> {
        let mut writer = self.backend.stream(&self.name("room"));
        let appended = writer.append(vec![Bytes::from(vec![0; LARGE_BYTES])]).await;
        let written = match appended {
            Ok(()) => writer.finish().await,
            Err(error) => Err(error),
        };
        match written {
            Err(error) if error.kind.takes_no_writes() => Err(error),
            _ => Ok(()),
        }
    }

    async fn round_trip(&self) -> Outcome {
        let name = self.put("nested/deeper/object-1.a_b", b"content").await?;
        let body = self.backend.get(&name, 7).await.map_err(said)?;
        expect(body == b"content"[..], "other bytes came back")?;
        expect(self.backend.size(&name).await.map_err(said)? == 7, "another size was reported")?;
        let empty = self.put("empty", b"").await?;
        expect(self.backend.get(&empty, 0).await.map_err(said)?.is_empty(), "an empty object came back with bytes")
    }

    async fn existing_is_untouched(&self) -> Outcome {
        let name = self.put("kept", b"first").await?;
        let created = self.backend.create(&name, Bytes::from_static(b"second")).await.map_err(said)?;
        expect(created == Created::AlreadyExisted, "a taken name was reported as new")?;
        expect(self.backend.get(&name, 100).await.map_err(said)? == b"first"[..], "it was overwritten")
    }

    async fn listed_after_write(&self) -> Outcome {
        for rest in ["list/b/2", "list/a", "list/b/1", "list-not/c"] {
            self.put(rest, b"xy").await?;
        }
        let expected: Vec<ObjectMeta> = ["list/a", "list/b/1", "list/b/2"]
            .iter()
            .map(|rest| ObjectMeta { name: self.name(rest), bytes: 2 })
            .collect();
        let listed = self.backend.list(&self.name("list")).await.map_err(said)?;
        expect(listed == expected, &format!("listed {listed:?}"))?;
        let nothing = self.backend.list(&self.name("nothing-there")).await.map_err(said)?;
        expect(nothing.is_empty(), "a prefix without objects lists some")
    }

    async fn ranges(&self) -> Outcome {
        let name = self.put("ranged", b"0123456789").await?;
        for (range, bytes) in [(0..4, &b"0123"[..]), (4..10, b"456789"), (9..10, b"9"), (3..3, b"")] {
            let read = self.backend.get_range(&name, range.clone()).await.map_err(said)?;
            expect(read == bytes, &format!("{range:?} gave {read:?}"))?;
        }
        Ok(())
    }

    async fn short_range(&self) -> Outcome {
        let name = self.put("short", b"0123456789").await?;
        expect_kind(self.backend.get_range(&name, 5..11).await, StorageErrorKind::Short)?;
        expect_kind(self.backend.get_range(&name, 20..21).await, StorageErrorKind::Short)
    }

    async fn missing(&self) -> Outcome {
        let name = self.name("absent");
        expect_kind(self.backend.get(&name, 1).await, StorageErrorKind::NotFound)?;
        expect_kind(self.backend.get_range(&name, 0..1).await, StorageErrorKind::NotFound)?;
        expect_kind(self.backend.size(&name).await, StorageErrorKind::NotFound)?;
        expect_kind(self.backend.delete(&name).await, StorageErrorKind::NotFound)
    }

    async fn over_limit(&self) -> Outcome {
        let name = self.put("big", b"0123456789").await?;
        expect_kind(self.backend.get(&name, 9).await, StorageErrorKind::TooLarge)
    }

    async fn large_object(&self) -> Outcome {
        let name = self.name("streamed/large");
        let content: Bytes = (0..LARGE_BYTES).map(|at| (at % 251) as u8).collect::<Vec<u8>>().into();
        let mut writer = self.backend.stream(&name);
        let mut appends = Vec::new();
        for start in (0..LARGE_BYTES).step_by(1 << 20) {
            let part = content.slice(start..LARGE_BYTES.min(start + (1 << 20)));
            let middle = part.len() / 3;
            appends.push(writer.append(vec![part.slice(..middle), Bytes::new(), part.slice(middle..)]));
        }
        for append in appends {
            append.await.map_err(said)?;
        }
        expect_kind(self.backend.size(&name).await, StorageErrorKind::NotFound)?;
        writer.finish().await.map_err(said)?;
        self.backend.barrier().await.map_err(said)?;
        let stored = self.backend.get(&name, LARGE_BYTES as u64).await.map_err(said)?;
        expect(stored == content, "other bytes came back")?;
        let listed = self.backend.list(&self.name("streamed")).await.map_err(said)?;
        expect(listed.len() == 1, &format!("listed {listed:?}"))
    }

    async fn abandoned(&self) -> Outcome {
        let name = self.name("abandoned/object");
        let mut writer = self.backend.stream(&name);
        writer.append(vec![Bytes::from_static(b"lost")]).await.map_err(said)?;
        drop(writer);
        expect_kind(self.backend.size(&name).await, StorageErrorKind::NotFound)?;
        let listed = self.backend.list(&self.name("abandoned")).await.map_err(said)?;
        expect(listed.is_empty(), &format!("listed {listed:?}"))
    }

    async fn bad_names(&self) -> Outcome {
        for name in ["../escaped", "/absolute", "a/../b", "", ".tmp-x", "a//b"] {
            expect_kind(self.backend.create(name, Bytes::new()).await, StorageErrorKind::InvalidName)?;
            expect_kind(self.backend.get(name, 1).await, StorageErrorKind::InvalidName)?;
            expect_kind(self.backend.stream(name).finish().await, StorageErrorKind::InvalidName)?;
        }
        Ok(())
    }

    async fn deleted(&self) -> Outcome {
        let name = self.put("doomed/object", b"x").await?;
        self.backend.delete(&name).await.map_err(said)?;
        expect_kind(self.backend.get(&name, 1).await, StorageErrorKind::NotFound)?;
        expect(self.backend.list(&self.name("doomed")).await.map_err(said)?.is_empty(), "it is still listed")?;
        self.put("doomed/object", b"again").await.map(drop)
    }

    async fn clean_up(&self) -> Result<()> {
        for meta in self.backend.list(&self.prefix).await? {
            // A store that denies deletes keeps a few scratch bytes; the check has said so.
            let _ = self.backend.delete(&meta.name).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{FaultyBackend, LocalBackend, MemoryBackend};
    use futures_lite::future::block_on;
    use std::sync::Arc;

    fn assert_conforms(backend: &dyn Backend) {
        let checks = block_on(conformance(backend)).unwrap();
        let failed: Vec<_> = checks.iter().filter(|check| !check.passed).collect();
        assert!(failed.is_empty(), "{failed:?}");
        assert_eq!(checks.len(), 13);
        assert_eq!(block_on(backend.list("")).unwrap(), Vec::new(), "scratch objects are left");
    }

    #[test]
    fn memory_conforms() {
        assert_conforms(&MemoryBackend::new());
    }

    #[test]
    fn local_conforms() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("repository");
        assert_conforms(&LocalBackend::open(&path, true).unwrap());
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0, "files or directories are left");
    }

    #[test]
    fn a_faulty_wrapper_without_faults_conforms() {
        assert_conforms(&FaultyBackend::new(Arc::new(MemoryBackend::new())));
    }

    /// A full or read-only place was called one that could lose backups, eleven times.
    #[test]
    fn a_store_that_takes_no_writes_is_not_judged() {
        use crate::backend::faulty::{Effect, Fault, Operation};
        let faulty = FaultyBackend::new(Arc::new(MemoryBackend::new()));
        faulty.plan(Fault::at(Operation::Append, 1, Effect::Full));
        assert!(block_on(conformance(&faulty)).unwrap_err().is_full());
        assert_eq!(faulty.count(Operation::Create, ""), 0);
        assert_eq!(block_on(faulty.list("")).unwrap(), Vec::new());
    }

    #[test]
    fn f08_a_store_that_overwrites_is_found_out() {
        struct Overwriting(MemoryBackend);
        impl Backend for Overwriting {
            fn describe(&self) -> String {
                self.0.describe()
            }
            fn get(&self, name: &str, limit_bytes: u64) -> super::super::IoFuture<Bytes> {
                self.0.get(name, limit_bytes)
            }
            fn get_range(&self, name: &str, range: std::ops::Range<u64>) -> super::super::IoFuture<Bytes> {
                self.0.get_range(name, range)
            }
            fn size(&self, name: &str) -> super::super::IoFuture<u64> {
                self.0.size(name)
            }
            fn list(&self, prefix: &str) -> super::super::IoFuture<Vec<ObjectMeta>> {
                self.0.list(prefix)
            }
            fn create(&self, name: &str, body: Bytes) -> super::super::IoFuture<Created> {
                self.0.remove(name);
                self.0.create(name, body)
            }
            fn stream(&self, name: &str) -> Box<dyn crate::backend::ObjectWriter> {
                self.0.stream(name)
            }
            fn barrier(&self) -> super::super::IoFuture<()> {
                self.0.barrier()
            }
            fn delete(&self, name: &str) -> super::super::IoFuture<()> {
                self.0.delete(name)
            }
        }
        let checks = block_on(conformance(&Overwriting(MemoryBackend::new()))).unwrap();
        let failed: Vec<&str> = checks.iter().filter(|check| !check.passed).map(|check| check.name).collect();
        let expected = [
            "create-if-absent has one winner",
            "create-if-absent leaves what exists",
            "a new object is seen at once by who missed it",
        ];
        assert_eq!(failed, expected);
    }
}
