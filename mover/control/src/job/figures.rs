//! What is counted of jobs that end, wherever they end: at their agent, by a sweep, in the queue, at their admission.
//!
//! Collected in the transaction and counted after its commit, so a transaction that is run again, or a report that is
//! repeated, counts nothing twice.

use metrics::counter;

use super::progress::BytesByClass;
use super::{Job, JobState};
use crate::database::word;

/// A job that ended, or went back to the queue.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    kind: String,
    state: JobState,
    retries: u64,
    exceptions: u64,
    bytes: BytesByClass,
}

impl Finished {
    /// As it stands now.
    pub(crate) fn of(job: &Job) -> Finished {
        Finished {
            kind: word(&job.kind),
            state: job.state,
            retries: u64::try_from(job.attempt - 1).unwrap_or(0),
            exceptions: job.outcome.as_ref().map_or(0, |outcome| outcome.exceptions_total),
            bytes: job.progress.bytes,
        }
    }

    /// It is committed.
    pub(crate) fn count(self) {
        counter!("mover_jobs_finished_total", "kind" => self.kind, "state" => word(&self.state)).increment(1);
        if self.state == JobState::Queued {
            return;
        }
        counter!("mover_job_retries_total").increment(self.retries);
        counter!("mover_job_exceptions_total").increment(self.exceptions);
        let classes = [
            ("read", self.bytes.read),
            ("unchanged", self.bytes.unchanged),
            ("new", self.bytes.new),
            ("stored", self.bytes.stored),
            ("restored", self.bytes.restored),
            ("verified", self.bytes.verified),
        ];
        for (class, count) in classes {
            counter!("mover_bytes_total", "class" => class).increment(count);
        }
    }
}
