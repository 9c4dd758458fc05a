//! Jobs: submit, look, stop, do again.

use mover_control::ids::{AgentId, JobId, PolicyId, RecordId, UnixMillis};
use mover_control::job::store::{self, JobFilter};
use mover_control::job::{
    JobKind, JobOrder, JobState, NewJob, Origin, Place, Workload, admission, events as history, requests,
};
use serde::{Deserialize, Serialize};

use super::{Answer, Cursor, PageQuery};
use crate::serve::call::{Call, Page, Reply, page_limit};
use crate::serve::problem::Problem;

/// Which jobs a list shows.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct JobQuery {
    /// In this state.
    state: Option<JobState>,
    /// Of this policy.
    policy: Option<String>,
    /// Of this set.
    set: Option<String>,
    /// Of this agent.
    agent: Option<String>,
    /// `next` of the page before.
    #[param(value_type = Option<String>, max_length = 64)]
    cursor: Option<Cursor>,
    /// Entries of a page; 100 if not said.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// A job that somebody asks for now.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(title = "SubmitJob")]
pub struct SubmitJob {
    /// What is to be done; retention is the business of policies.
    kind: JobKind,
    /// To what kind of thing.
    workload: Workload,
    /// The set whose recovery points it makes or reads.
    #[schema(min_length = 1, max_length = 1024)]
    set: String,
    /// Where the source is found.
    #[schema(min_length = 1, max_length = 1024)]
    source: String,
    /// Where the repository is found.
    #[schema(min_length = 1, max_length = 1024)]
    repository: String,
    /// Who can do it.
    place: Place,
    /// Higher goes first.
    #[serde(default)]
    #[schema(minimum = -1000, maximum = 1000)]
    priority: i64,
    /// Not begun earlier, unix milliseconds.
    #[serde(default)]
    not_before: Option<UnixMillis>,
    /// Begun before this, or not at all, unix milliseconds; a day later if not said.
    #[serde(default)]
    expires_at: Option<UnixMillis>,
    /// Wait for an agent that is away, where the table *Agent away* says "fails at once".
    #[serde(default)]
    wait: bool,
    /// What the agent is told.
    order: JobOrder,
}

/// Lists.
pub async fn list(call: Call) -> Answer {
    let asked: JobQuery = call.query()?;
    let limit = page_limit(asked.limit)?;
    let filter = JobFilter {
        state: asked.state,
        policy: asked.policy.map(PolicyId::from),
        set: asked.set,
        agent: asked.agent.map(AgentId::from),
        before: asked.cursor.map(Cursor::id::<JobId>),
    };
    let jobs = store::list(call.database(), &filter, limit + 1).await?;
    Ok(Reply::json(&Page::of(jobs, limit, |job| job.id.to_string())))
}

/// Lets one in.
pub async fn submit(call: Call) -> Answer {
    let asked: SubmitJob = call.body()?;
    if asked.kind == JobKind::Retention {
        return Err(Problem::malformed("retention jobs are made by policies; prune and verify can be asked for"));
    }
    if (asked.kind == JobKind::Restore) != asked.order.restore.is_some() {
        return Err(Problem::malformed("a restore, and nothing else, says in order.restore what is restored"));
    }
    let new = NewJob {
        id: call.new_id(),
        kind: asked.kind,
        workload: asked.workload,
        origin: Origin::OnDemand,
        policy: None,
        set: asked.set,
        source: asked.source,
        repository: asked.repository,
        place: asked.place,
        priority: bounded_priority(asked.priority)?,
        share: None,
        weight: 1,
        not_before: asked.not_before,
        expires_at: asked.expires_at,
        source_limit: None,
        repository_limit: None,
        requested_by: call.who.name().to_owned(),
        wait: asked.wait,
        order: asked.order,
    };
    enter(&call, new).await
}

fn bounded_priority(priority: i64) -> Result<i64, Problem> {
    if (-1000..=1000).contains(&priority) { Ok(priority) } else { Err(Problem::malformed("priority is -1000 to 1000")) }
}

/// Lets a job in and wakes the queue.
pub async fn enter(call: &Call, new: NewJob) -> Answer {
    enter_by(call, new, &call.app.service.context.away).await
}

/// The same, by another table *Agent away*.
pub async fn enter_by(call: &Call, new: NewJob, away: &mover_control::placement::away::AwayTable) -> Answer {
    let job = admission::submit(call.database(), new, away, call.now()).await?;
    tracing::info!(job = %job.id, state = %job.state, "submitted");
    call.app.wake();
    let location = format!("{}/jobs/{}", super::ROOT, job.id);
    Ok(Reply::created(&job, &job.id).header("location", location))
}

/// One.
pub async fn get(call: Call) -> Answer {
    Ok(Reply::json(&store::get(call.database(), &JobId::from(call.place(0))).await?))
}

/// Its history.
pub async fn events(call: Call) -> Answer {
    let asked: PageQuery = call.query()?;
    let limit = page_limit(asked.limit)?;
    let job = JobId::from(call.place(0));
    store::get(call.database(), &job).await?;
    let cursor = asked.cursor.map(Cursor::id::<RecordId>);
    let events = history::of_job(call.database(), &job, cursor.as_ref(), limit + 1).await?;
    Ok(Reply::json(&Page::of(events, limit, |event| event.id.to_string())))
}

/// Stops one.
pub async fn cancel(call: Call) -> Answer {
    let job = requests::cancel(call.database(), &JobId::from(call.place(0)), call.who.name(), call.now()).await?;
    tracing::info!(job = %job.id, "cancelled");
    call.app.wake();
    Ok(Reply::json(&job))
}

/// Does one again.
pub async fn retry(call: Call) -> Answer {
    let job = store::get(call.database(), &JobId::from(call.place(0))).await?;
    let new = requests::again(&job, call.new_id(), call.who.name())?;
    enter(&call, new).await
}
