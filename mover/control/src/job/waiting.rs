//! Jobs that wait for something other than an agent: parked out of the index that a lease reads.
//!
//! A lease that meets a job which may not run now parks it under the key of what is in the way, so no later lease looks
//! at it again; the end of a job that held the key sets free the best of those that wait. The sweep sets free what has
//! waited for [`PATIENCE`] as well, in case the way was freed by something else (a limit that was raised). Being set
//! free is no promise: the next lease looks again.

use std::time::Duration;

use crate::arguments;
use crate::database::Transaction;
use crate::error::Result;
use crate::ids::UnixMillis;

use super::Job;

/// Waits until its time has come.
pub(crate) const TIME: &str = "time";
/// How many the end of one job sets free for each key.
const FREED: u32 = 4;
/// How many one sweep sets free of those that waited long.
const SWEPT: u32 = 200;
/// What has waited so long is looked at again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Key of jobs that wait for another job of the same set.
pub(crate) fn set_key(set: &str) -> String {
    format!("set:{set}")
}

/// Key of jobs that wait for a source to have fewer jobs.
pub(crate) fn source_key(source: &str) -> String {
    format!("source:{source}")
}

/// Key of jobs that wait for a repository to have fewer jobs.
pub(crate) fn repository_key(repository: &str) -> String {
    format!("repository:{repository}")
}

/// Takes a job out of the sight of leases.
pub(crate) async fn park(tx: &mut Transaction, job: &Job, key: &str, now: UnixMillis) -> Result<()> {
    // not_before is when it was parked from now on: the sweep asks for it.
    tx.execute(
        "UPDATE jobs SET waits_on = $1, not_before = $2 WHERE id = $3 AND phase = 0",
        arguments![key, now, &job.id],
    )
    .await?;
    Ok(())
}

/// Sets free the best of those that waited for a job that has ended or gone back to the queue.
pub(crate) async fn wake(tx: &mut Transaction, job: &Job) -> Result<()> {
    for key in [set_key(&job.set), source_key(&job.source), repository_key(&job.repository)] {
        tx.execute(
            "UPDATE jobs SET waits_on = NULL WHERE phase = 0 AND id IN (
                SELECT id FROM jobs WHERE phase = 0 AND waits_on = $1 ORDER BY priority DESC, rank, id LIMIT $2
             )",
            arguments![key, FREED],
        )
        .await?;
    }
    Ok(())
}

/// Sets free those whose time has come, and those that waited long: how many.
pub(crate) async fn sweep(tx: &mut Transaction, now: UnixMillis) -> Result<u64> {
    let due = tx
        .execute(
            "UPDATE jobs SET waits_on = NULL WHERE phase = 0 AND waits_on = 'time' AND not_before <= $1",
            arguments![now],
        )
        .await?;
    let long = tx
        .execute(
            "UPDATE jobs SET waits_on = NULL WHERE phase = 0 AND id IN (
                SELECT id FROM jobs WHERE phase = 0 AND waits_on IS NOT NULL AND waits_on <> 'time' AND not_before <= $1
                ORDER BY not_before LIMIT $2
             )",
            arguments![now.minus(PATIENCE), SWEPT],
        )
        .await?;
    Ok(due + long)
}
