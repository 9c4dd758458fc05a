//! What people ask of a job that is there: stop it, do it again.

use crate::arguments;
use crate::database::Database;
use crate::error::{ControlError, Result};
use crate::ids::{JobId, UnixMillis};

use super::{Job, JobState, NewJob, Origin, Phase, events, store};
use crate::placement::lane;

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

/// What would do the same as `job` once more, for `who` and now.
///
/// # Errors
/// The job has not ended.
pub fn again(job: &Job, id: JobId, who: &str) -> Result<NewJob> {
    if job.state.phase() != Phase::Ended {
        return Err(ControlError::Conflict(format!("job {} is {}: it has not ended", job.id, job.state)));
    }
    let limit = |limit: Option<i64>| limit.and_then(|limit| u32::try_from(limit).ok());
    // Others may have taken it over: the next run is its preferred agent's again, if that is there.
    let shared = job.lane_of_others.as_ref().unwrap_or(&job.lane);
    Ok(NewJob {
        id,
        kind: job.kind,
        workload: job.workload,
        origin: Origin::OnDemand,
        policy: job.policy.clone(),
        set: job.set.clone(),
        source: job.source.clone(),
        repository: job.repository.clone(),
        place: lane::place(shared, &job.pool, job.preferred.clone()),
        priority: job.priority,
        share: Some(job.share.clone()),
        weight: limit(Some(job.weight)).unwrap_or(1),
        not_before: None,
        expires_at: None,
        source_limit: limit(job.source_limit),
        repository_limit: limit(job.repository_limit),
        requested_by: who.to_owned(),
        wait: false,
        order: job.order.clone(),
    })
}
