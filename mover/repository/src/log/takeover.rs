//! One recovery point a job, whoever runs it and however often: the second guard after the leases of a control plane.
//!
//! A run registers under the id of its job and then looks below its own number. If the job has made its point already,
//! that point is the result. If earlier runs of the job have no outcome, they are fenced: they may be dead, or an agent
//! that lost its lease may be about to publish. Fence and commit compete for one name, so exactly one wins; if it was the
//! commit, its point is the result. Only later runs fence earlier ones, so two never fence each other.
//!
//! A key that may only add fences its own runs alone. Where agents of a pool have such keys of their own, an earlier run
//! of another key cannot be fenced: it is looked at again right before the commit, and if it has published by then, this
//! run does not. What is left is the moment between that look and the commit, which the grant of the control plane covers:
//! it is given to one agent at a time. Who wants both guards gives the agents of a pool one key, or full ones.
//!
//! Jobs that nobody names draw their id, share it with no other run, and pay nothing here.

use super::history::History;
use super::outcome::Outcome;
use super::point::RecoveryPoint;
use super::record::Role;
use super::registration::{Fencing, Registration};
use crate::error::{RepositoryError, Result};
use crate::ids::{LogNumber, ObjectId};

/// The identity in the log of a job that is named outside.
pub fn job_identity(name: &str) -> ObjectId {
    ObjectId(blake3::derive_key("mover: identity of a job by its name, 1", name.as_bytes()))
}

impl Registration {
    /// Makes sure that this run alone can publish the recovery point of its job, or gives the one that an earlier run has
    /// published: then there is nothing left to do.
    ///
    /// # Errors
    /// As [`Registration::fence`] and [`crate::Repository::history`].
    pub async fn take_over(&self) -> Result<Option<RecoveryPoint>> {
        let own = self.history().entry(self.number()).and_then(|entry| entry.open.as_ref());
        let Some(job) = own.map(|open| open.job) else { return Ok(None) };
        if let Some(point) = published(self.history(), self.number(), job) {
            return Ok(Some(point));
        }
        let mut was_late = false;
        for victim in without_outcome(self.history(), self.number(), job) {
            if !self.can_fence(victim) {
                tracing::info!(run = %victim, "an earlier run of this job has another key: it is looked at before the commit");
                continue;
            }
            was_late |= self.fence(victim, "its job is run anew").await? == Fencing::HadOutcome;
        }
        if !was_late {
            return Ok(None);
        }
        // It ended between our reading and our fence: with its point, or without.
        let history = self.repository().history().await?;
        Ok(published(&history, self.number(), job))
    }
}

impl Registration {
    /// Whether a fence of ours would count.
    fn can_fence(&self, victim: LogNumber) -> bool {
        let secrets = self.repository().secrets();
        let own = secrets.signing().verifying_key();
        secrets.is_admin() || self.history().entry(victim).is_some_and(|entry| entry.signer == own)
    }

    /// Right before a recovery point is published: no earlier run of its job that could not be fenced has done so.
    ///
    /// # Errors
    /// [`RepositoryError::JobDone`]; as [`crate::Repository::history`].
    pub(super) async fn still_alone(&self) -> Result<()> {
        let own = self.history().entry(self.number()).and_then(|entry| entry.open.as_ref());
        let Some(job) = own.map(|open| open.job) else { return Ok(()) };
        let mut unfenced = without_outcome(self.history(), self.number(), job);
        unfenced.retain(|victim| !self.can_fence(*victim));
        if unfenced.is_empty() {
            return Ok(());
        }
        let history = self.repository().history().await?;
        let is_published = |number: &&LogNumber| {
            let outcome = history.entry(**number).and_then(|entry| entry.outcome());
            matches!(outcome, Some(Outcome::RecoveryPoint(_)))
        };
        let Some(earlier) = unfenced.iter().find(is_published) else { return Ok(()) };
        let open = self.history().entry(*earlier).and_then(|entry| entry.open.as_ref());
        let host = open.map(|open| open.host.clone()).unwrap_or_default();
        Err(RepositoryError::JobDone { earlier: *earlier, host })
    }
}

fn is_of(open: Option<&super::OpenRecord>, job: ObjectId) -> bool {
    open.is_some_and(|open| open.role == Role::Writer && open.job == job)
}

/// The point of a job, made below `below`. One that was forgotten meanwhile was made all the same.
fn published(history: &History, below: LogNumber, job: ObjectId) -> Option<RecoveryPoint> {
    let earlier = history.entries().iter().filter(|entry| entry.number < below && is_of(entry.open.as_ref(), job));
    earlier
        .filter_map(|entry| match entry.outcome() {
            Some(Outcome::RecoveryPoint(point)) => Some(point.clone()),
            _ => None,
        })
        .next()
}

fn without_outcome(history: &History, below: LogNumber, job: ObjectId) -> Vec<LogNumber> {
    let earlier = history.entries().iter().filter(|entry| entry.number < below && is_of(entry.open.as_ref(), job));
    earlier.filter(|entry| entry.done.is_none()).map(|entry| entry.number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;
    use crate::ids::UnixNanos;
    use crate::keys::{Credential, Stretching};
    use crate::log::OpenRecord;
    use crate::repository::KeyRights;
    use crate::testing::point;
    use crate::{InitOptions, Repository};
    use futures_lite::future::block_on;
    use std::sync::Arc;

    fn repository() -> Repository {
        let credential = Credential::key_file(vec![1; 32]).expect("a key");
        block_on(Repository::init(Arc::new(MemoryBackend::new()), &credential, InitOptions::default())).expect("init")
    }

    fn register(repository: &Repository, job: &str) -> Registration {
        let open = OpenRecord {
            role: Role::Writer,
            host: "host".into(),
            process_id: 1,
            machine: ObjectId([0; 32]),
            set: "set".into(),
            job: job_identity(job),
            adopts: None,
            depends_on: None,
            started: UnixNanos(0),
        };
        block_on(repository.register(open)).expect("register")
    }

    fn take_over(registration: &Registration) -> Option<RecoveryPoint> {
        block_on(registration.take_over()).expect("take over")
    }

    fn points(repository: &Repository) -> usize {
        block_on(repository.history()).expect("history").points().count()
    }

    /// Two agents of a pool, each with a key of its own that may only add.
    fn two_put_only() -> [Repository; 2] {
        let backend: Arc<dyn crate::backend::Backend> = Arc::new(MemoryBackend::new());
        let credential = Credential::key_file(vec![1; 32]).expect("a key");
        let admin =
            block_on(Repository::init(Arc::clone(&backend), &credential, InitOptions::default())).expect("init");
        [2, 3].map(|number| {
            let key = Credential::key_file(vec![number; 32]).expect("a key");
            block_on(admin.add_key(&key, KeyRights::PutOnly, Stretching::CHEAPEST)).expect("add");
            block_on(Repository::open(Arc::clone(&backend), &key)).expect("open")
        })
    }

    /// The job of a dead agent once failed on all others for ever: none of them could fence its run.
    #[test]
    fn takeover_of_a_run_under_another_put_only_key_goes_on_and_publishes_unless_that_one_has() {
        let [one, two] = two_put_only();
        let dead = register(&one, "job");
        assert_eq!(take_over(&dead), None);
        let second = register(&two, "job");
        assert_eq!(take_over(&second), None, "it cannot be fenced, and is no reason to fail");
        block_on(second.commit(Outcome::RecoveryPoint(point("set")))).expect("the second commits");
        assert_eq!(points(&two), 1);
        let third = register(&one, "job");
        assert!(take_over(&third).is_some(), "whoever comes next finds it");
    }

    #[test]
    fn late_commit_under_another_put_only_key_is_seen_before_the_own_one() {
        let [one, two] = two_put_only();
        let slow = register(&one, "job");
        let second = register(&two, "job");
        assert_eq!(take_over(&second), None);
        let number = slow.number();
        block_on(slow.commit(Outcome::RecoveryPoint(point("set")))).expect("the first commits");
        let refused = block_on(second.commit(Outcome::RecoveryPoint(point("set"))));
        assert!(matches!(&refused, Err(RepositoryError::JobDone { earlier, .. }) if *earlier == number), "{refused:?}");
        assert_eq!(points(&two), 1, "one job, one recovery point");
        let history = block_on(two.history()).expect("history");
        assert!(history.entries().iter().all(|entry| entry.done.is_some()), "the refused run has ended");
        assert!(take_over(&register(&two, "job")).is_some());
    }

    #[test]
    fn takeover_before_the_commit_makes_the_late_commit_fail() {
        let repository = repository();
        let (first, other) = (register(&repository, "job"), register(&repository, "another job"));
        assert_eq!(take_over(&first), None);
        let second = register(&repository, "job");
        assert_eq!(take_over(&second), None);
        let late = block_on(first.commit(Outcome::RecoveryPoint(point("set"))));
        assert!(matches!(late, Err(RepositoryError::Fenced { .. })), "{late:?}");
        block_on(second.commit(Outcome::RecoveryPoint(point("set")))).expect("the second commits");
        block_on(other.commit(Outcome::RecoveryPoint(point("set")))).expect("another job is left alone");
        assert_eq!(points(&repository), 2);
    }

    #[test]
    fn takeover_after_the_commit_finds_the_point_that_was_made() {
        let repository = repository();
        let first = register(&repository, "job");
        // Registered before the commit: its history does not have it yet.
        let second = register(&repository, "job");
        let made = point("set");
        block_on(first.commit(Outcome::RecoveryPoint(made.clone()))).expect("the first commits");
        assert_eq!(take_over(&second), Some(made.clone()));
        block_on(second.commit(Outcome::Ended { reason: "done before".into() })).expect("end");
        let third = register(&repository, "job");
        assert_eq!(take_over(&third), Some(made), "registered after the commit");
        assert_eq!(points(&repository), 1);
    }

    #[test]
    fn takeover_after_an_end_without_a_point_goes_on() {
        let repository = repository();
        let first = register(&repository, "job");
        let second = register(&repository, "job");
        block_on(first.commit(Outcome::Ended { reason: "interrupted".into() })).expect("end");
        assert_eq!(take_over(&second), None);
        block_on(second.commit(Outcome::RecoveryPoint(point("set")))).expect("commit");
    }
}
