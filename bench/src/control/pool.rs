//! Agents that have joined, and jobs for them.

use futures_util::future::join_all;
use mover_control::ids::{AgentId, JobId, UnixMillis};
use mover_control::job::{JobKind, JobOrder, NewJob, Origin, Place, Workload};

use super::server::{Request, Server};
use crate::Result;

/// Requests of one kind in flight while the stage is set.
const TOGETHER: usize = 100;

/// Agents that have joined.
pub async fn enrol(server: &Server, count: usize) -> Result<Vec<AgentId>> {
    let agents: Vec<AgentId> = (0..count).map(|number| AgentId::from(format!("agent-{number:06}"))).collect();
    for some in agents.chunks(TOGETHER) {
        let asked = some.iter().map(|agent| server.ask(|reply| Request::Enrol(agent.clone(), reply)));
        for done in join_all(asked).await {
            done?;
        }
    }
    Ok(agents)
}

/// Queues jobs that any agent can take, each of its own set.
pub async fn submit(server: &Server, round: &str, count: usize) -> Result<Vec<JobId>> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now = UnixMillis(now.as_millis() as i64);
    let jobs: Vec<NewJob> = (0..count).map(|number| job(&format!("{round} {number}"), number, now)).collect();
    let ids = jobs.iter().map(|job| job.id.clone()).collect();
    let mut jobs = jobs.into_iter();
    loop {
        let some: Vec<NewJob> = jobs.by_ref().take(TOGETHER).collect();
        if some.is_empty() {
            return Ok(ids);
        }
        let asked = some.into_iter().map(|job| server.ask(|reply| Request::Submit(Box::new(job), reply)));
        for done in join_all(asked).await {
            done?;
        }
    }
}

fn job(set: &str, number: usize, now: UnixMillis) -> NewJob {
    NewJob {
        id: JobId::new(now),
        kind: JobKind::Backup,
        workload: Workload::VirtualMachine,
        origin: Origin::OnDemand,
        policy: None,
        set: set.to_owned(),
        source: format!("source {set}"),
        // A repository of a pool takes many jobs.
        repository: format!("repository {}", number % 20),
        place: Place::Pool { pool: "main".to_owned(), reach: None, preferred: None },
        priority: 0,
        share: Some(format!("policy {}", number % 50)),
        weight: 1,
        not_before: None,
        expires_at: None,
        source_limit: Some(1),
        repository_limit: None,
        requested_by: "bench".to_owned(),
        wait: false,
        order: JobOrder::default(),
    }
}
