//! Leasing: jobs from the queue to the agents that ask, for all that ask at once in one transaction.
//!
//! Reads a window at the head of each lane by the index, never the queue as a whole. A job that may not run now (its set
//! is in use, S-058; a limit is reached) is parked, so the next lease does not meet it again ([`crate::job::waiting`]).

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::agents::{self, CONNECTED};
use crate::arguments;
use crate::database::{Argument, Database, Transaction, parameters};
use crate::error::Result;
use crate::ids::{AgentId, UnixMillis};
use crate::job::waiting::{park, repository_key, set_key, source_key};
use crate::job::{Job, JobKind, JobState, ranks, store};
use crate::placement::choice::{Candidate, choose};
use crate::placement::lane;

/// Jobs read at the head of a lane in one go, beyond those that could be leased.
const WINDOW: u32 = 8;
/// How often a lane is read again when its head was parked.
const ROUNDS: u32 = 16;
/// Lanes in one statement.
const LANES: usize = 256;
/// Jobs leased in one transaction at most.
pub const BATCH_MAX: u32 = 256;

/// An agent that asks for work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Who.
    pub agent: AgentId,
    /// Jobs that it takes now; its slots limit them too.
    pub free: u32,
    /// Repositories whose index it has in memory.
    #[serde(default)]
    pub resident: Vec<String>,
}

/// What an agent gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The job, with its order.
    pub job: Job,
    /// Whose it is.
    pub agent: AgentId,
    /// Goes with everything that the agent writes.
    pub fence: i64,
}

/// Gives work to the agents that ask. An agent may get several jobs, or none.
///
/// Agents that are unknown, revoked or drain get nothing here; who wants to tell them so asks [`agents::store::get`].
///
/// # Errors
/// The database fails. A transaction whose answer was lost may have leased: such leases lapse.
pub async fn take(database: &Database, offers: &[Offer], now: UnixMillis) -> Result<Vec<Lease>> {
    take_some(database, offers, now).await.map(|taken| taken.leases)
}

/// What one transaction gave out.
pub struct Taken {
    /// The leases.
    pub leases: Vec<Lease>,
    /// It ended at its bounds: the same agents asked again may get more at once.
    pub is_cut_off: bool,
}

/// The same, and whether it is worth asking again at once.
///
/// # Errors
/// As for [`take`].
pub async fn take_some(database: &Database, offers: &[Offer], now: UnixMillis) -> Result<Taken> {
    database.decide(async |tx| Taking::begin(tx, offers).await?.run(tx, now).await).await
}

/// One transaction of leasing.
struct Taking {
    candidates: Vec<Candidate>,
    /// Active jobs of a source or a repository, as counted and then kept.
    active: HashMap<String, i64>,
    leases: Vec<Lease>,
}

impl Taking {
    async fn begin(tx: &mut Transaction, offers: &[Offer]) -> Result<Taking> {
        let asked: HashMap<&AgentId, &Offer> = offers.iter().map(|offer| (&offer.agent, offer)).collect();
        let ids: Vec<&str> = asked.keys().map(|agent| agent.as_str()).collect();
        let mut candidates = Vec::new();
        for (agent, running) in agents::store::takers(tx, &ids).await? {
            let Some(offer) = asked.get(&agent.id) else { continue };
            let slots = agent.slots();
            let free = offer.free.min(slots.saturating_sub(running));
            let lanes = lane::of_agent(&agent.id, &agent.pool, &agent.description.reaches);
            candidates.push(Candidate {
                agent: agent.id,
                running,
                slots,
                free,
                lanes: lanes.into_iter().collect(),
                resident: offer.resident.iter().cloned().collect(),
            });
        }
        Ok(Taking { candidates, active: HashMap::new(), leases: Vec::new() })
    }

    /// Lanes that some agent with a free slot serves and where a job is ready: of a thousand that ask, few.
    async fn open_lanes(&self, tx: &mut Transaction) -> Result<Vec<String>> {
        let open = self.candidates.iter().filter(|candidate| candidate.free > 0);
        let lanes: BTreeSet<&str> = open.flat_map(|candidate| candidate.lanes.iter().map(String::as_str)).collect();
        let mut ready = Vec::new();
        for some in lanes.into_iter().collect::<Vec<_>>().chunks(LANES) {
            // A probe of the index for each lane; the offset keeps a planner from joining the whole queue instead.
            let list = parameters(some.len()).replace('$', "($").replace(',', "),") + ")";
            let sql = format!(
                "WITH asked (lane) AS (VALUES {list}) SELECT lane FROM asked WHERE EXISTS (
                    SELECT 1 FROM jobs WHERE phase = 0 AND waits_on IS NULL AND jobs.lane = asked.lane LIMIT 1 OFFSET 0)"
            );
            let values: Vec<Argument> = some.iter().map(|lane| Argument::from(*lane)).collect();
            for row in tx.all(&sql, &values).await? {
                ready.push(row.text("lane")?);
            }
        }
        Ok(ready)
    }

    async fn run(mut self, tx: &mut Transaction, now: UnixMillis) -> Result<Taken> {
        let mut is_cut_off = true;
        for _ in 0..ROUNDS {
            let free: u32 = self.candidates.iter().map(|candidate| candidate.free).sum();
            let window = free.min(BATCH_MAX.saturating_sub(self.leases.len() as u32));
            if window == 0 {
                is_cut_off = false;
                break;
            }
            let mut heads = Vec::new();
            for open in self.open_lanes(tx).await? {
                heads.extend(head(tx, &open, window + WINDOW).await?);
            }
            heads.sort_by(|a, b| b.priority.cmp(&a.priority).then(a.rank.cmp(&b.rank)).then_with(|| a.id.cmp(&b.id)));
            let mut has_parked = false;
            for job in heads {
                has_parked |= self.offer(tx, job, now).await?;
            }
            // Only where something left the way is there more to see.
            if !has_parked {
                is_cut_off = false;
                break;
            }
        }
        let mut heads: HashMap<(&str, i64), i64> = HashMap::new();
        for Lease { job, .. } in &self.leases {
            heads.entry((&job.pool, job.priority)).and_modify(|rank| *rank = job.rank.max(*rank)).or_insert(job.rank);
        }
        for ((pool, priority), rank) in heads {
            ranks::served(tx, pool, priority, rank).await?;
        }
        Ok(Taken { leases: self.leases, is_cut_off })
    }

    /// Leases a job, parks it, or leaves it: true if it was parked.
    async fn offer(&mut self, tx: &mut Transaction, job: Job, now: UnixMillis) -> Result<bool> {
        // Its window has ended; the sweep says so to everybody.
        let is_over = job.agent.is_none() && job.expires_at.is_some_and(|end| end <= now);
        if is_over || self.leases.len() as u32 >= BATCH_MAX {
            return Ok(false);
        }
        if !self.candidates.iter().any(|candidate| candidate.free > 0 && candidate.lanes.contains(&job.lane)) {
            return Ok(false);
        }
        if let Some(key) = self.obstacle(tx, &job, now).await? {
            park(tx, &job, &key, now).await?;
            return Ok(true);
        }
        let Some(chosen) = choose(&mut self.candidates, &job.lane, &job.repository) else { return Ok(false) };
        let agent = self.candidates[chosen].agent.clone();
        for key in [source_key(&job.source), repository_key(&job.repository)] {
            self.active.entry(key).and_modify(|count| *count += 1);
        }
        let lease = lease(tx, &job, agent, now).await?;
        self.leases.push(lease);
        Ok(false)
    }

    /// What keeps a job from running now.
    async fn obstacle(&mut self, tx: &mut Transaction, job: &Job, now: UnixMillis) -> Result<Option<String>> {
        // S-058: a backup waits for a restore of its set that has begun, and never runs beside another backup of it.
        // One that lapsed and whose agent may still be at work counts too; of two such the older one goes first.
        // A restore waits for nothing, and a backup of another set runs beside it (S-057). One that began and whose
        // host is gone is waited for by nobody: it may never come back.
        if job.kind == JobKind::Backup {
            let other = tx
                .optional(
                    "SELECT id FROM jobs j WHERE set_name = $1 AND phase < 2 AND id <> $2
                     AND ((kind = 'restore' AND attempt > 0 AND (phase = 1 OR EXISTS (
                            SELECT 1 FROM agent_lanes l JOIN agents a ON a.id = l.agent
                            WHERE l.lane = j.lane AND a.revoked = 0 AND a.last_seen >= $4)))
                        OR (kind = 'backup' AND phase = 1)
                        OR (kind = 'backup' AND agent IS NOT NULL AND ($3 = 0 OR id < $2))) LIMIT 1",
                    arguments![&job.set, &job.id, job.agent.is_some(), now.minus(CONNECTED)],
                )
                .await?;
            if other.is_some() {
                return Ok(Some(set_key(&job.set)));
            }
        }
        let limits = [
            (job.source_limit, source_key(&job.source), "source", &job.source),
            (job.repository_limit, repository_key(&job.repository), "repository", &job.repository),
        ];
        for (limit, key, column, value) in limits {
            let Some(limit) = limit else { continue };
            let active = match self.active.get(&key) {
                Some(active) => *active,
                None => {
                    let active = count_active(tx, column, value).await?;
                    self.active.insert(key.clone(), active);
                    active
                }
            };
            if active >= limit {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }
}

async fn count_active(tx: &mut Transaction, column: &str, value: &str) -> Result<i64> {
    let sql = match column {
        "source" => "SELECT COUNT(*) AS n FROM jobs WHERE phase = 1 AND source = $1",
        _ => "SELECT COUNT(*) AS n FROM jobs WHERE phase = 1 AND repository = $1",
    };
    tx.one(sql, arguments![value]).await?.number("n")
}

/// The first jobs of a lane.
async fn head(tx: &mut Transaction, lane: &str, limit: u32) -> Result<Vec<Job>> {
    let rows = tx
        .all(
            "SELECT * FROM jobs WHERE phase = 0 AND waits_on IS NULL AND lane = $1
             ORDER BY priority DESC, rank, id LIMIT $2",
            arguments![lane, limit],
        )
        .await?;
    store::from_records(&rows)
}

async fn lease(tx: &mut Transaction, job: &Job, agent: AgentId, now: UnixMillis) -> Result<Lease> {
    let mut next = job.clone();
    next.fence += 1;
    next.attempt += 1;
    next.agent = Some(agent.clone());
    next.granted = false;
    next.started_at = next.started_at.or(Some(now));
    next.message = None;
    let mut job = store::move_to(tx, job, next, JobState::Estimating, now).await?;
    // Addresses of messages are this server's business.
    job.order.notify.clear();
    let fence = job.fence;
    assert!(fence > 0, "the first fence is 1");
    Ok(Lease { job, agent, fence })
}
