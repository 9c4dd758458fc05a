//! What goes on, on one page.

use mover_control::agents::store as agents;
use mover_control::database::Database;
use mover_control::error::Result;
use mover_control::ids::{AgentId, JobId, UnixMillis};
use mover_control::job::{JobKind, JobState, Progress, store};
use serde::Serialize;

use super::Answer;
use crate::serve::call::{Call, Reply};

/// Running jobs that are told.
const RUNNING_MAX: u32 = 200;
/// Agents that are counted.
const AGENTS_MAX: u32 = 10_000;

/// Everything at a glance.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Overview {
    /// When, unix milliseconds.
    at: UnixMillis,
    /// How many jobs are in each state.
    jobs: Vec<StateCount>,
    /// The oldest of those that run.
    running: Vec<Running>,
    /// What all of these read together.
    bytes_per_second: u64,
    /// Jobs that wait.
    queued: i64,
    /// Since when the oldest waits that could begin.
    waiting_since: Option<UnixMillis>,
    /// Agents that were heard lately.
    agents_connected: u32,
    /// Agents that are not revoked.
    agents: u32,
}

/// Jobs in a state.
#[derive(Serialize, utoipa::ToSchema)]
pub struct StateCount {
    /// The state.
    state: JobState,
    /// How many.
    count: i64,
}

/// A job that runs.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Running {
    /// The job.
    pub job: JobId,
    /// What it does.
    kind: JobKind,
    /// Where it stands.
    state: JobState,
    /// Its set.
    set: String,
    /// Who works on it.
    agent: Option<AgentId>,
    /// Since when.
    started_at: Option<UnixMillis>,
    /// How far it is, how fast, and which stage all others wait for.
    progress: Progress,
}

/// The oldest jobs that run.
pub async fn running(database: &Database) -> Result<Vec<Running>> {
    let active = store::active(database, RUNNING_MAX).await?;
    let one = |job: mover_control::job::Job| Running {
        job: job.id,
        kind: job.kind,
        state: job.state,
        set: job.set,
        agent: job.agent,
        started_at: job.started_at,
        progress: job.progress,
    };
    Ok(active.into_iter().map(one).collect())
}

/// Tells it.
pub async fn overview(call: Call) -> Answer {
    let (database, now) = (call.database(), call.now());
    let counts = store::counts(database).await?;
    let jobs = JobState::ALL.map(|state| StateCount {
        state,
        count: counts.iter().find(|(known, _)| *known == state).map_or(0, |(_, count)| *count),
    });
    let running = running(database).await?;
    let (queued, waiting_since) = store::queue_depth(database).await?;
    let agents = agents::list(database, None, AGENTS_MAX).await?;
    Ok(Reply::json(&Overview {
        at: now,
        jobs: jobs.into(),
        bytes_per_second: running.iter().map(|job| job.progress.bytes_per_second).sum(),
        running,
        queued,
        waiting_since,
        agents_connected: agents.iter().filter(|agent| agent.is_connected(now)).count() as u32,
        agents: agents.iter().filter(|agent| !agent.revoked).count() as u32,
    }))
}

/// The table *Agent away* in force.
pub async fn away(call: Call) -> Answer {
    Ok(Reply::json(&*call.app.service.context.away))
}
