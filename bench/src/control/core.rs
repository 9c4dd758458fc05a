//! The control plane below its HTTP: the same actors, asked as the handlers of `mover serve` ask them.

use futures_util::future::join_all;
use mover_control::database::dialect::Dialect;
use mover_control::ids::{AgentId, JobId, UnixMillis};
use mover_control::job::{JobKind, JobOrder, JobState, NewJob, Origin, Place as WhoDoes, Workload, store};
use mover_control::lease::report::{Advice, Held};
use mover_control::lease::take::Offer;
use rustix::time::ClockId;

use super::Place;
use super::plane::Plane;
use super::postgres::Postgres;
use super::server::{Request, Server};
use crate::clock::seconds;
use crate::{Result, during};

/// Requests of one kind in flight while the stage is set.
const TOGETHER: usize = 100;

/// The core of a control plane on a thread of its own, with agents that have joined it.
pub struct Core<'a> {
    server: Server,
    agents: Vec<AgentId>,
    postgres: Option<&'a Postgres>,
}

impl<'a> Core<'a> {
    /// Starts it where its state is to be, beside this PostgreSQL if that is where.
    pub async fn start(place: Place, postgres: Option<&'a Postgres>, count: usize) -> Result<Core<'a>> {
        let server = Server::start(place)?;
        let agents: Vec<AgentId> = (0..count).map(|number| AgentId::from(format!("agent-{number:06}"))).collect();
        for some in agents.chunks(TOGETHER) {
            let asked = some.iter().map(|agent| server.ask(|reply| Request::Enrol(agent.clone(), reply)));
            for done in join_all(asked).await {
                done?;
            }
        }
        Ok(Core { server, agents, postgres })
    }

    /// What the database takes.
    pub async fn database_bytes(&self) -> Result<f64> {
        let sql = match self.server.database.dialect() {
            Dialect::Sqlite => "SELECT page_count * page_size AS n FROM pragma_page_count(), pragma_page_size()",
            Dialect::Postgres => "SELECT pg_database_size(current_database()) AS n",
        };
        let size = self.server.database.read(async |tx| tx.one(sql, &[]).await?.number("n")).await;
        Ok(during("measure the database", size)? as f64)
    }

    /// Ends it.
    pub fn stop(self) {
        self.server.stop();
    }
}

impl Plane for Core<'_> {
    fn agents(&self) -> usize {
        self.agents.len()
    }

    async fn submit(&self, round: &str, count: usize) -> Result<Vec<JobId>> {
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
            let asked = some.into_iter().map(|job| self.server.ask(|reply| Request::Submit(Box::new(job), reply)));
            for done in join_all(asked).await {
                done?;
            }
        }
    }

    async fn poll(&self, agent: usize) -> Result<Vec<Held>> {
        let offer = Offer { agent: self.agents[agent].clone(), free: 1, resident: Vec::new() };
        let leases = self.server.ask(|reply| Request::Poll(offer, reply)).await?;
        Ok(leases.into_iter().map(|lease| Held { job: lease.job.id, fence: lease.fence }).collect())
    }

    async fn beat(&self, agent: usize, held: &Held) -> Result<Vec<Advice>> {
        self.server.ask(|reply| Request::Beat(self.agents[agent].clone(), held.clone(), reply)).await
    }

    async fn finish(&self, agent: usize, held: Held) -> Result<()> {
        self.server.ask(|reply| Request::Finish(self.agents[agent].clone(), held, reply)).await
    }

    async fn counts(&self) -> Result<Vec<(JobState, i64)>> {
        during("count the jobs", store::counts(&self.server.database).await)
    }

    /// Agents are on the thread that asks, everything else of this process is the server.
    fn cpu_seconds(&self) -> Result<f64> {
        let server = seconds(ClockId::ProcessCPUTime) - seconds(ClockId::ThreadCPUTime);
        Ok(server + self.postgres.map_or(Ok(0.0), Postgres::cpu_seconds)?)
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
        place: WhoDoes::Pool { pool: "main".to_owned(), reach: None, preferred: None },
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
