//! What people ask of a job that is there: stop it, do it again.

use crate::arguments;
use crate::database::Database;
use crate::error::{ControlError, Result};
use crate::ids::{JobId, UnixMillis};

use super::{Job, JobState, Phase, events, store};

/// Stops a job: at once in the queue, by its agent when it runs. Twice is once.
///
/// # Errors
/// It has ended, is being committed, or the database fails.
pub async fn cancel(database: &Database, id: &JobId, who: &str, now: UnixMillis) -> Result<Job> {
    database
        .change(async |tx| {
            let job = store::locked(tx, id).await?.ok_or_else(|| ControlError::not_found("job", id))?;
            let why = format!("cancelled by {who}");
            match job.state.phase() {
                Phase::Ended if job.state == JobState::Cancelled => Ok(job),
                Phase::Ended => Err(ControlError::Ended { job: job.id, state: job.state }),
                Phase::Waiting => {
                    let mut next = job.clone();
                    next.message = Some(why);
                    store::move_to(tx, &job, next, JobState::Cancelled, now).await
                }
                Phase::Active if job.granted => Err(ControlError::Conflict(format!(
                    "job {id} publishes its recovery point; it is too late to cancel"
                ))),
                Phase::Active if job.stop.is_some() => Ok(job),
                Phase::Active => {
                    let sql = "UPDATE jobs SET stop = $1 WHERE id = $2 AND phase = 1";
                    tx.execute(sql, arguments![&why, id]).await?;
                    events::record(tx, now, &job, "stop", Some(&why)).await?;
                    Ok(Job { stop: Some(why), ..job })
                }
            }
        })
        .await
}
