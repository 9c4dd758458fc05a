//! A registration: the right to work under one log number until its outcome is decided.

use super::history::{History, LogEntry};
use super::memory::Seen;
use super::outcome::{DoneRecord, Outcome};
use super::point::SealedFileset;
use super::read::{Reading, highest, read_history};
use super::record::{OpenRecord, Role, open_record, seal_record};
use super::{FIRST, LOG_PREFIX, alive_name, done_name, open_name, sealed_name};
use crate::backend::{Created, StorageErrorKind};
use crate::codec::{Decoder, Encoder};
use crate::error::{RepositoryError, Result};
use crate::ids::{LogNumber, UnixNanos};
use crate::limits::{LOG_RECORD_BYTES_MAX, REASON_BYTES_MAX};
use crate::repository::Repository;
use bytes::Bytes;
use std::fmt::Display;
use std::time::{Duration, Instant};

/// How often the outcome of another run is looked for.
const OUTCOME_POLL: Duration = Duration::from_millis(200);
/// Attempts to create one record, the same bytes each time.
const CREATE_ATTEMPTS: usize = 3;

/// Who holds a name after an attempt to create it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Holder {
    Us,
    Others,
}

/// Result of [`Registration::fence`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fencing {
    /// That run can never commit now.
    Fenced,
    /// It had an outcome already.
    HadOutcome,
}

/// A registered run. Dropped without a commit, it stays without outcome, as after a crash.
#[must_use = "a registration that is dropped stays without outcome, as after a crash"]
#[derive(Debug)]
pub struct Registration {
    repository: Repository,
    number: LogNumber,
    history: History,
    /// What of the history could not be read; empty but for a reader.
    damage: Vec<RepositoryError>,
}

/// Takes the next free number, then reads the history: a reader what is left of it, others all.
pub(crate) async fn register(repository: &Repository, open: OpenRecord) -> Result<Registration> {
    open.check()?;
    let secrets = repository.secrets();
    let body = open.encode(&secrets.signing().verifying_key());
    let remembered = repository.remembered().await;
    let highest = highest(repository, LogNumber::default(), remembered.as_ref()).await?;
    let mut number = LogNumber(highest.0 + 1);
    loop {
        // Numbers are dense on the disk too: each run makes sure of the one before it, which may have been killed before
        // the name of its record was synced.
        if number > FIRST {
            repository.backend().adopt(&open_name(LogNumber(number.0 - 1)));
            repository.backend().barrier().await?;
        }
        let name = open_name(number);
        if create_once(repository, &name, seal_record(secrets, &name, &body)?).await? == Holder::Us {
            break;
        }
        number = LogNumber(number.0 + 1);
    }
    // After registering: whatever is condemned before this read is treated as absent by us, and
    // whoever condemns after it must wait for our outcome.
    let (history, damage) = repository.reading(number).await?;
    let registration = Registration { repository: repository.clone(), number, history, damage };
    match registration.damage.first().filter(|_| open.role != Role::Reader) {
        None => Ok(registration),
        Some(first) => {
            let first = first.clone();
            // Without an outcome it would look like a run that crashed. If that fails, it does.
            let _ = registration.commit(Outcome::Ended { reason: "refused: the history is damaged".into() }).await;
            Err(first)
        }
    }
}

/// Create-if-absent that survives a lost answer: after `AlreadyExisted` the bytes decide.
pub(super) async fn create_once(repository: &Repository, name: &str, object: Bytes) -> Result<Holder> {
    let backend = repository.backend();
    for attempt in 1.. {
        match backend.create(name, object.clone()).await {
            Ok(Created::New) => return Ok(Holder::Us),
            Ok(Created::AlreadyExisted) => break,
            Err(error) if error.kind.retryable() && attempt < CREATE_ATTEMPTS => {}
            Err(error) => return Err(error.into()),
        }
    }
    // Every sealing draws a new salt, so equal bytes are our own.
    let existing = backend.get(name, LOG_RECORD_BYTES_MAX as u64).await;
    match existing {
        Ok(bytes) => Ok(if bytes == object { Holder::Us } else { Holder::Others }),
        Err(error) if error.kind == StorageErrorKind::TooLarge => Ok(Holder::Others),
        Err(error) => Err(error.into()),
    }
}

impl Registration {
    /// The number under which this run works.
    pub fn number(&self) -> LogNumber {
        self.number
    }

    /// The history as read right after registering.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// What of the history a reader had to go on without: damaged or missing records, outcomes that are
    /// not those that somebody saw.
    pub fn damage(&self) -> &[RepositoryError] {
        &self.damage
    }

    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Records that fileset `k` is sealed: its packs and pages are durable.
    ///
    /// # Errors
    /// Storage errors; [`RepositoryError::LimitExceeded`] for a path that is too long;
    /// [`RepositoryError::Corrupt`] if that fileset was recorded before.
    pub async fn seal_fileset(&self, k: u32, fileset: &SealedFileset) -> Result<()> {
        let name = sealed_name(self.number, k);
        let mut encoder = Encoder::new();
        fileset.encode(&mut encoder);
        let object = seal_record(self.repository.secrets(), &name, &encoder.finish())?;
        match create_once(&self.repository, &name, object).await? {
            Holder::Us => Ok(()),
            Holder::Others => Err(RepositoryError::corrupt(name, "that fileset was sealed before")),
        }
    }

    /// What leaves signs of life for this run.
    pub fn sign_of_life(&self) -> SignOfLife {
        SignOfLife { repository: self.repository.clone(), number: self.number, next: 0 }
    }

    /// True if this run's outcome is already decided, so that going on is useless.
    ///
    /// # Errors
    /// Storage errors.
    pub async fn is_decided(&self) -> Result<bool> {
        self.repository.has_outcome(self.number).await
    }

    /// Decides the outcome of this run, in one atomic create. Everything that the outcome depends
    /// on must be durable before.
    ///
    /// # Errors
    /// [`RepositoryError::Fenced`] if somebody else decided first; [`RepositoryError::JobDone`] if an earlier run of the
    /// job, which could not be fenced, has published: this run has ended then; storage errors, after which the outcome is
    /// unknown until the history is read again.
    pub async fn commit(self, outcome: Outcome) -> Result<()> {
        if matches!(outcome, Outcome::RecoveryPoint(_))
            && let Err(error) = self.still_alone().await
        {
            let _ = self.decide(self.number, Outcome::Ended { reason: error.to_string() }).await;
            return Err(error);
        }
        let hash = match self.decide(self.number, outcome).await? {
            (Holder::Us, hash) => hash,
            (Holder::Others, _) => return Err(RepositoryError::Fenced { number: self.number }),
        };
        if self.damage.is_empty() {
            self.repository.remember(self.history.seen_with(self.number, hash)).await;
        }
        Ok(())
    }

    /// Ends a run that failed, for `cause`. Gives what is to blame instead if somebody had ended it before: what it relied
    /// on may be deleted since, so that what it missed says nothing about the state of the repository.
    pub async fn give_up(self, cause: impl Display) -> Option<RepositoryError> {
        let mut reason = cause.to_string();
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        // Other errors are advice for nobody: the cause is what the caller has to hear.
        let fenced = self.commit(Outcome::Ended { reason }).await.err().filter(RepositoryError::is_fenced)?;
        tracing::info!(%cause, "a run that had been fenced failed");
        Some(fenced)
    }

    /// Ends another run from outside, or learns that it has an outcome.
    ///
    /// # Errors
    /// [`RepositoryError::NotSupported`] if the run is another client's and ours is no admin key:
    /// such a fence would not count. [`RepositoryError::MissingObject`] if there is no such run.
    pub async fn fence(&self, victim: LogNumber, reason: &str) -> Result<Fencing> {
        let entry = self
            .history
            .entry(victim)
            .filter(|entry| entry.number != self.number)
            .ok_or_else(|| RepositoryError::MissingObject { object: open_name(victim) })?;
        let secrets = self.repository.secrets();
        if entry.signer != secrets.signing().verifying_key() && !secrets.is_admin() {
            return Err(RepositoryError::NotSupported {
                what: "fencing another client's run without an admin key".into(),
            });
        }
        let outcome = Outcome::Fence { by: self.number, reason: reason.to_owned() };
        Ok(match self.decide(victim, outcome).await?.0 {
            Holder::Us => Fencing::Fenced,
            Holder::Others => Fencing::HadOutcome,
        })
    }

    async fn decide(&self, number: LogNumber, outcome: Outcome) -> Result<(Holder, [u8; 32])> {
        outcome.check()?;
        let secrets = self.repository.secrets();
        // Who saw a damaged history must not be a witness of it: the damage would be the norm from now on.
        let seen = if self.damage.is_empty() { self.history.seen(self.number) } else { Seen::nothing() };
        let done = DoneRecord { signer: secrets.signing().verifying_key(), seen, outcome };
        self.repository.rely_on_outcomes(&self.history);
        // The outcomes, and whatever else this run has adopted.
        if let Err(error) = self.repository.backend().barrier().await {
            // Who ended this run may have deleted what it wrote, and its directory with that.
            let is_ended = error.kind == StorageErrorKind::NotFound && self.repository.has_outcome(number).await?;
            return if is_ended { Ok((Holder::Others, [0; 32])) } else { Err(error.into()) };
        }
        let name = done_name(number);
        let object = seal_record(secrets, &name, &done.encode())?;
        let hash = *blake3::hash(&object).as_bytes();
        Ok((create_once(&self.repository, &name, object).await?, hash))
    }
}

/// Leaves signs of life of one run: advice to whoever wonders whether to fence it; they decide nothing.
#[derive(Debug)]
pub struct SignOfLife {
    repository: Repository,
    number: LogNumber,
    next: u32,
}

impl SignOfLife {
    /// Leaves the next one.
    ///
    /// # Errors
    /// Storage errors.
    pub async fn leave(&mut self, now: UnixNanos) -> Result<()> {
        let name = alive_name(self.number, self.next);
        let mut encoder = Encoder::new();
        encoder.i128(now.0);
        create_once(&self.repository, &name, seal_record(self.repository.secrets(), &name, &encoder.finish())?).await?;
        self.next += 1;
        Ok(())
    }
}

impl Repository {
    /// True if a run's outcome is decided.
    ///
    /// # Errors
    /// Storage errors.
    pub async fn has_outcome(&self, number: LogNumber) -> Result<bool> {
        match self.backend().size(&done_name(number)).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == StorageErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Has the next barrier, which comes before each outcome, cover the outcomes of a history: they are durable before what
    /// follows from them is. Who wrote one may have been killed before its name was synced; a power cut would take it back
    /// alone, and the history would look altered to whoever reads what saw it. Most were seen by an earlier outcome, and
    /// are durable since.
    fn rely_on_outcomes(&self, history: &History) {
        let fresh = history.not_seen_by_the_newest();
        fresh.into_iter().for_each(|number| self.backend().adopt(&done_name(number)));
    }

    /// Reads the history until every number below whose entry `is_awaited` has an outcome, or `wait` is over; gives the
    /// numbers that have none. What comes to an end meanwhile is relied on. Blocks while it waits.
    ///
    /// # Errors
    /// As [`Repository::history`].
    pub(crate) async fn await_outcomes(
        &self,
        below: LogNumber,
        wait: Duration,
        is_awaited: impl Fn(&LogEntry) -> bool,
    ) -> Result<(History, Vec<LogNumber>)> {
        let until = Instant::now() + wait;
        loop {
            let history = self.history().await?;
            let is_open = |entry: &&LogEntry| entry.done.is_none() && entry.number < below && is_awaited(entry);
            let open: Vec<LogNumber> = history.entries().iter().filter(is_open).map(|entry| entry.number).collect();
            if open.is_empty() || Instant::now() >= until {
                self.rely_on_outcomes(&history);
                return Ok((history, open));
            }
            // Of each run one object is asked for; the whole log is read again only when they are decided.
            for number in open {
                while !self.has_outcome(number).await? && Instant::now() < until {
                    std::thread::sleep(OUTCOME_POLL);
                }
            }
        }
    }

    /// When a run was last heard of: its newest sign of life, else its beginning; none if its registration is lost.
    ///
    /// # Errors
    /// Storage errors. A sign that cannot be read is passed over.
    pub async fn last_heard_of(&self, entry: &LogEntry) -> Result<Option<UnixNanos>> {
        let Some(open) = &entry.open else { return Ok(None) };
        let mut newest = open.started;
        let signs = self.backend().list(&format!("{LOG_PREFIX}/{}/alive", entry.number)).await?;
        for sign in signs.iter().rev().take(1) {
            let Ok(object) = self.backend().get(&sign.name, LOG_RECORD_BYTES_MAX as u64).await else { continue };
            let Ok(record) = open_record(self.secrets(), &sign.name, &object) else { continue };
            if record.verify(self.secrets(), &sign.name, &entry.signer).is_ok()
                && let Ok(time) = Decoder::new(&record.body).i128()
            {
                newest = newest.max(UnixNanos(time));
            }
        }
        Ok(Some(newest))
    }

    /// The history, at least up to `known`, and what is wrong with it. A whole one is remembered.
    pub(crate) async fn reading(&self, known: LogNumber) -> Result<Reading> {
        let (history, damage) = read_history(self, known).await?;
        if damage.is_empty() {
            self.remember(history.seen(LogNumber(history.highest().0 + 1))).await;
        }
        Ok((history, damage))
    }
}
