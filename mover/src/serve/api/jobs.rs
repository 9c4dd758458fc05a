//! Jobs: submit, look, stop, do again.

use mover_control::ControlError;
use mover_control::ids::{AgentId, JobId, PolicyId, RecordId, UnixMillis};
use mover_control::job::store::{self, JobFilter};
use mover_control::job::{
    Job, JobKind, JobOrder, JobState, NewJob, Origin, Place, Workload, admission, events as history, requests,
};
use mover_control::policy::store as policies;
use serde::{Deserialize, Serialize};

use super::{Answer, Cursor, PageQuery};
use crate::serve::call::{Call, Caller, Page, Reply, page_limit};
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
    /// Begun before this, or not at all, unix milliseconds. If not said: no end where the table *Agent away* says
    /// "queued", else a day later.
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
    let jobs = jobs.into_iter().map(|job| shown(&call, job)).collect();
    Ok(Reply::json(&Page::of(jobs, limit, |job: &Job| job.id.to_string())))
}

/// Lets one in.
pub async fn submit(call: Call) -> Answer {
    let asked: SubmitJob = call.body()?;
    if asked.kind == JobKind::Retention {
        return Err(Problem::malformed("retention jobs are made by policies; prune and verify can be asked for"));
    }
    refuse_programs(&asked.order, &call.who)?;
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

/// A command runs as the agent does, and a message goes where its address says: more than an operator may.
fn refuse_programs(order: &JobOrder, who: &Caller) -> Result<(), Problem> {
    if order.needs_admin() && !who.is_admin() {
        let detail = "order.before, order.after and order.notify run programs and send messages: only the role admin may \
                      set them; run a policy that has them instead";
        return Err(Problem::forbidden(detail));
    }
    Ok(())
}

/// A job as this caller may see it.
fn shown(call: &Call, mut job: Job) -> Job {
    if !call.who.is_admin() {
        job.order = job.order.redacted();
    }
    job
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
    let job = shown(call, job);
    Ok(Reply::created(&job, &job.id).header("location", location))
}

/// One.
pub async fn get(call: Call) -> Answer {
    let job = store::get(call.database(), &JobId::from(call.place(0))).await?;
    Ok(Reply::json(&shown(&call, job)))
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
    Ok(Reply::json(&shown(&call, job)))
}

/// Does one again.
pub async fn retry(call: Call) -> Answer {
    let job = store::get(call.database(), &JobId::from(call.place(0))).await?;
    if job.kind == JobKind::Retention {
        refuse_old_rules(&call, &job).await?;
    }
    let new = requests::again(&job, call.new_id(), call.who.name())?;
    enter(&call, new).await
}

/// What was to be forgotten once may have to be kept now.
async fn refuse_old_rules(call: &Call, job: &Job) -> std::result::Result<(), Problem> {
    let rules = match &job.policy {
        Some(policy) => match policies::get(call.database(), policy).await {
            Ok(stored) => stored.policy.keep,
            Err(ControlError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        },
        None => None,
    };
    if rules.is_some() && rules == job.order.retention {
        return Ok(());
    }
    let why = format!(
        "the rules by which job {} forgets are not those of its policy any more; the next day's job has them",
        job.id
    );
    Err(ControlError::Conflict(why).into())
}

#[cfg(test)]
mod tests {
    use mover_control::access::{Role, tokens::Token};
    use mover_control::service::notification::{Channel, NotifyRule};

    use super::*;

    fn holder(role: Role) -> Caller {
        let (id, created_at) = ("t".to_owned().into(), UnixMillis(0));
        Caller::Holder(Token {
            id,
            name: "x".to_owned(),
            role,
            created_at,
            expires_at: None,
            revoked: false,
            parent: None,
        })
    }

    #[test]
    fn only_admins_ask_for_programs_and_messages_in_an_order() {
        let command = mover_control::job::order::Command {
            arguments: vec!["sh".to_owned(), "-c".to_owned(), "id".to_owned()],
            limit_seconds: 1,
            required: false,
        };
        let to = Channel::Webhook { url: "https://h/secret".to_owned(), body: None };
        let rule = NotifyRule { states: vec![JobState::Failed], to };
        let orders = [
            JobOrder { before: vec![command.clone()], ..JobOrder::default() },
            JobOrder { after: vec![command], ..JobOrder::default() },
            JobOrder { notify: vec![rule], ..JobOrder::default() },
        ];
        for order in orders {
            let refused = refuse_programs(&order, &holder(Role::Operator)).expect_err("an operator");
            assert_eq!(refused.status, 403);
            assert!(refused.detail.contains("only the role admin"), "{}", refused.detail);
            refuse_programs(&order, &holder(Role::Admin)).expect("an admin");
        }
        refuse_programs(&JobOrder::default(), &holder(Role::Operator)).expect("nothing of it");
    }
}
