//! Policies: documents with a version, and what their calendar says.

use actix_web::http::StatusCode;
use mover_control::ControlError;
use mover_control::ids::{PolicyId, UnixMillis};
use mover_control::job::Origin;
use mover_control::placement::away::AwayTable;
use mover_control::policy::Policy;
use mover_control::policy::store::{self, StoredPolicy};
use mover_control::service::scheduler::job_of;
use serde::{Deserialize, Serialize};

use super::{Answer, Cursor, jobs};
use crate::serve::call::{Call, Page, Reply, page_limit};
use crate::serve::problem::Problem;

/// Runs that are told at most.
const RUNS_MAX: u32 = 100;

/// Which policies a list shows.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct PolicyQuery {
    /// Only the one of this name.
    name: Option<String>,
    /// `next` of the page before.
    #[param(value_type = Option<String>, max_length = 64)]
    cursor: Option<Cursor>,
    /// Entries of a page; 100 if not said.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// What a run by hand may say.
#[derive(Default, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RunNow {
    /// Take over nothing unread from earlier recovery points.
    full: bool,
    /// Another bandwidth calendar than that of the policy, as the command line has it; `unlimited` lifts the limit.
    bandwidth: Option<String>,
    /// Wait for an agent that is away, where the table *Agent away* says "fails at once".
    wait: bool,
}

/// Whether a policy could work.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Verdict {
    /// It could.
    valid: bool,
    /// Why not.
    reason: Option<String>,
    /// When its first runs would begin, unix milliseconds.
    next: Vec<UnixMillis>,
}

/// How many runs.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct RunsQuery {
    /// So many; 10 if not said.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

/// Runs that come.
#[derive(Serialize, utoipa::ToSchema)]
pub struct NextRuns {
    /// In order.
    items: Vec<NextRun>,
}

/// One run.
#[derive(Serialize, utoipa::ToSchema)]
pub struct NextRun {
    /// When it begins, unix milliseconds.
    begins: UnixMillis,
    /// It begins before this, or not at all.
    ends: UnixMillis,
}

/// A policy as this caller may see it, with its version as the tag.
fn tagged(call: &Call, stored: StoredPolicy) -> Reply {
    let version = stored.version;
    Reply::json(&shown(call, stored)).header("etag", format!("\"{version}\""))
}

fn shown(call: &Call, mut stored: StoredPolicy) -> StoredPolicy {
    if !call.who.is_admin() {
        stored.policy = stored.policy.redacted();
    }
    stored
}

fn id_of(call: &Call) -> PolicyId {
    PolicyId::from(call.place(0))
}

/// Lists.
pub async fn list(call: Call) -> Answer {
    let asked: PolicyQuery = call.query()?;
    let limit = page_limit(asked.limit)?;
    if let Some(name) = asked.name {
        let found = match store::by_name(call.database(), &name).await {
            Ok(found) => vec![shown(&call, found)],
            Err(ControlError::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        return Ok(Reply::json(&Page { items: found, next: None }));
    }
    let cursor = asked.cursor.map(Cursor::id::<PolicyId>);
    let policies = store::list(call.database(), cursor.as_ref(), limit + 1).await?;
    let policies = policies.into_iter().map(|stored| shown(&call, stored)).collect();
    Ok(Reply::json(&Page::of(policies, limit, |stored: &StoredPolicy| stored.id.to_string())))
}

/// Makes one.
pub async fn create(call: Call) -> Answer {
    let policy: Policy = call.body()?;
    let stored = store::create(call.database(), &call.new_id(), &policy, call.now()).await?;
    let location = format!("{}/policies/{}", super::ROOT, stored.id);
    let tag = format!("\"{}\"", stored.version);
    Ok(Reply::created(&stored, &stored.id).header("location", location).header("etag", tag))
}

/// Judges one.
pub async fn validate(call: Call) -> Answer {
    let policy: Policy = call.body()?;
    let verdict = match policy.validate() {
        Ok(()) => {
            let runs = policy.next_runs(&PolicyId::from("new"), call.now());
            Verdict { valid: true, reason: None, next: runs.take(5).map(|run| run.begins).collect() }
        }
        Err(error) => Verdict { valid: false, reason: Some(error.to_string()), next: Vec::new() },
    };
    Ok(Reply::json(&verdict))
}

/// One.
pub async fn get(call: Call) -> Answer {
    let stored = store::get(call.database(), &id_of(&call)).await?;
    Ok(tagged(&call, stored))
}

/// Replaces what one says.
pub async fn update(call: Call) -> Answer {
    let policy: Policy = call.body()?;
    let Some(tag) = &call.if_match else {
        let detail = "say in If-Match which version is replaced: the ETag of the policy as it was read";
        return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, "precondition-required", detail));
    };
    let stored = store::get(call.database(), &id_of(&call)).await?;
    let version: i64 = match tag.trim() {
        "*" => stored.version,
        tag => tag.trim_matches('"').parse().map_err(|_| changed(&stored))?,
    };
    match store::update(call.database(), &stored.id, version, &policy, call.now()).await {
        Ok(stored) => Ok(tagged(&call, stored)),
        Err(ControlError::Conflict(_)) if version != stored.version => Err(changed(&stored)),
        Err(error) => Err(error.into()),
    }
}

fn changed(stored: &StoredPolicy) -> Problem {
    let detail = format!("the policy is at version {}: read it again, then change it", stored.version);
    Problem::new(StatusCode::PRECONDITION_FAILED, "changed-meanwhile", detail)
}

/// Removes one.
pub async fn remove(call: Call) -> Answer {
    store::remove(call.database(), &id_of(&call)).await?;
    Ok(Reply::empty())
}

/// Lets its calendar run.
pub async fn enable(call: Call) -> Answer {
    switch(call, true).await
}

/// Stops its calendar.
pub async fn disable(call: Call) -> Answer {
    switch(call, false).await
}

async fn switch(call: Call, enabled: bool) -> Answer {
    let stored = store::enable(call.database(), &id_of(&call), enabled, call.now()).await?;
    Ok(tagged(&call, stored))
}

/// Runs it now.
pub async fn run(call: Call) -> Answer {
    let asked: RunNow = call.body()?;
    let stored = store::get(call.database(), &id_of(&call)).await?;
    let mut new = job_of(&stored, call.new_id(), Origin::OnDemand, call.who.name());
    new.order.full = asked.full;
    new.wait = asked.wait;
    if let Some(bandwidth) = asked.bandwidth {
        check_bandwidth(&bandwidth)?;
        new.order.bandwidth = Some(bandwidth);
    }
    let mut table: AwayTable = (*call.app.service.context.away).clone();
    table.0.extend(stored.policy.how.away.iter().flat_map(|own| own.0.clone()));
    jobs::enter_by(&call, new, &table).await
}

fn check_bandwidth(text: &str) -> Result<(), Problem> {
    let parsed: Result<mover_repository::bandwidth::Calendar, _> = text.parse();
    parsed.map(|_| ()).map_err(|error| Problem::malformed(format!("bandwidth: {error}")))
}

/// When it runs next.
pub async fn runs(call: Call) -> Answer {
    let asked: RunsQuery = call.query()?;
    let limit = asked.limit.unwrap_or(10);
    if limit == 0 || limit > RUNS_MAX {
        return Err(Problem::malformed(format!("limit is 1 to {RUNS_MAX}")));
    }
    let stored = store::get(call.database(), &id_of(&call)).await?;
    let runs = stored.policy.next_runs(&stored.id, call.now()).take(limit as usize);
    let items = runs.map(|run| NextRun { begins: run.begins, ends: run.ends }).collect();
    Ok(Reply::json(&NextRuns { items }))
}
