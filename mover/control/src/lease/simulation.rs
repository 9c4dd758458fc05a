//! Agents that die, go silent and come back, answers that are lost, servers that are killed between any two steps,
//! clocks that jump: no job is lost, none is completed twice, no stale agent is ever permitted to commit.
//!
//! Every run follows from its seed; a failure prints it. `MOVER_TEST_SEED` runs that one alone, `MOVER_TEST_NIGHTLY` runs
//! many.

use std::collections::HashMap;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use crate::agents::store as registry;
use crate::clock::{Clock, ManualClock, SettledClock};
use crate::database::Database;
use crate::ids::{AgentId, JobId};
use crate::job::store::JobFilter;
use crate::job::{JobOrder, JobState, NewJob, Outcome, Phase, Progress, events, store};
use crate::placement::away::AwayTable;
use crate::protocol::HelloRequest;
use crate::testing::{NOON, agent, backup, each_database, submit};

use super::lapse::{Watch, greet, sweep_queue};
use super::report::{Advice, Ending, Held, advance, beat, finish, grant};
use super::take::{Offer, take};
use super::{GRANT, LEASE, SWEEP};

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (word ^ (word >> 31)) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// Polls a future a few times and drops it: its server was killed there.
async fn killed_after<T>(polls: u64, future: impl Future<Output = T>) -> Option<T> {
    if polls == u64::MAX {
        return Some(future.await);
    }
    let mut future = pin!(future);
    for _ in 0..polls {
        let step = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context)));
        if let Poll::Ready(value) = step.await {
            return Some(value);
        }
        std::thread::sleep(Duration::from_micros(100));
        tokio::task::yield_now().await;
    }
    None
}

#[derive(Default)]
struct SimulatedAgent {
    held: Vec<(Held, bool)>,
    silent_rounds: u64,
}

struct World {
    database: Database,
    chance: Chance,
    manual: std::sync::Arc<ManualClock>,
    clock: std::sync::Arc<SettledClock>,
    watch: Watch,
    agents: HashMap<AgentId, SimulatedAgent>,
    names: Vec<AgentId>,
    /// The repository: a recovery point is created under the id of its job, once.
    points: HashMap<JobId, i64>,
    newest_fence: HashMap<JobId, i64>,
    completions: HashMap<JobId, u32>,
}

impl World {
    async fn step(&mut self) {
        match self.chance.below(10) {
            0 | 9 => {
                // Now and then longer than a server goes without a look.
                let advance = Duration::from_secs(self.chance.below(18));
                self.manual.advance(advance);
            }
            1 if self.chance.one_in(6) => {
                self.manual.set_wall(NOON.plus(Duration::from_secs(self.chance.below(1_000_000))))
            }
            1 if self.chance.one_in(4) => {
                // The server is started anew.
                self.watch = Watch::default();
                self.clock = SettledClock::new(self.manual.clone());
            }
            1 | 2 => {
                let now = self.clock.now();
                let monotonic = self.manual.monotonic();
                let polls = self.polls();
                killed_after(polls, self.watch.sweep(&self.database, monotonic, now)).await;
                let _ = killed_after(polls, sweep_queue(&self.database, &AwayTable::default(), now)).await;
            }
            _ => self.agent_step().await,
        }
    }

    /// Mostly to the end.
    fn polls(&mut self) -> u64 {
        if self.chance.one_in(8) { self.chance.below(12) } else { u64::MAX }
    }

    async fn agent_step(&mut self) {
        let name = self.names[self.chance.below(self.names.len() as u64) as usize].clone();
        let now = self.clock.now();
        let polls = self.polls();
        let mut agent = self.agents.remove(&name).expect("an agent");
        if agent.silent_rounds > 0 {
            agent.silent_rounds -= 1;
        } else {
            match self.chance.below(12) {
                0 => {
                    // It dies, and begins anew without knowing anything.
                    agent.held.clear();
                    let mut description = registry::get(&self.database, &name).await.expect("an agent").description;
                    description.instance = self.chance.below(u64::MAX).to_string();
                    let said = HelloRequest { description, boot: None, held: Vec::new() };
                    let _ = killed_after(polls, greet(&self.database, &name, &said, now)).await;
                }
                1 => agent.silent_rounds = self.chance.below(60),
                2..=4 => self.poll(&name, &mut agent, polls).await,
                5..=6 => self.beat(&name, &mut agent, polls).await,
                _ => self.work(&name, &mut agent, polls).await,
            }
        }
        self.agents.insert(name, agent);
    }

    async fn poll(&mut self, name: &AgentId, agent: &mut SimulatedAgent, polls: u64) {
        let offer = Offer { agent: name.clone(), free: 2, resident: Vec::new() };
        let Some(Ok(leases)) = killed_after(polls, take(&self.database, &[offer], self.clock.now())).await else {
            return;
        };
        for lease in leases {
            let newest = self.newest_fence.entry(lease.job.id.clone()).or_insert(0);
            assert!(lease.fence > *newest, "fence {} of {} after {newest}", lease.fence, lease.job.id);
            *newest = lease.fence;
            // The answer may be lost on its way.
            if !self.chance.one_in(10) {
                agent.held.push((Held { job: lease.job.id, fence: lease.fence }, false));
            }
        }
    }

    async fn beat(&mut self, name: &AgentId, agent: &mut SimulatedAgent, polls: u64) {
        let held: Vec<(Held, Option<Progress>)> = agent.held.iter().map(|(held, _)| (held.clone(), None)).collect();
        let Some(Ok(advice)) = killed_after(polls, beat(&self.database, name, &held, self.clock.now())).await else {
            return;
        };
        let mut advice = advice.into_iter();
        agent.held.retain(|_| !matches!(advice.next(), Some(Advice::Lost { .. })));
    }

    /// One step of one job that the agent holds; lost jobs are dropped.
    async fn work(&mut self, name: &AgentId, agent: &mut SimulatedAgent, polls: u64) {
        if agent.held.is_empty() {
            return;
        }
        let place = self.chance.below(agent.held.len() as u64) as usize;
        let (held, granted) = agent.held[place].clone();
        let now = self.clock.now();
        let is_lost = if !granted && self.chance.one_in(2) {
            let progress = Progress::default();
            let step = advance(&self.database, name, &held, JobState::Running, &progress, now);
            killed_after(polls, step).await.is_some_and(|result| result.is_err())
        } else if !granted {
            match killed_after(polls, grant(&self.database, name, &held, now)).await {
                Some(Ok(())) => {
                    let newest = self.newest_fence[&held.job];
                    assert_eq!(held.fence, newest, "a stale agent was permitted to commit {}", held.job);
                    agent.held[place].1 = true;
                    false
                }
                Some(Err(_)) => true,
                None => false,
            }
        } else {
            // Created once; who comes second finds it there.
            self.points.entry(held.job.clone()).or_insert(held.fence);
            self.finish(name, &held, polls).await
        };
        if is_lost {
            agent.held.remove(place);
        }
    }

    /// True if the agent is done with the job, one way or the other.
    async fn finish(&mut self, name: &AgentId, held: &Held, polls: u64) -> bool {
        let outcome = Outcome { recovery_point: Some(held.job.to_string()), ..Outcome::default() };
        let now = self.clock.now();
        match killed_after(polls, finish(&self.database, name, held, &Ending::Completed, outcome, now)).await {
            Some(Ok(finished)) => {
                assert_eq!(finished.job.state, JobState::Completed);
                if !finished.repeated {
                    *self.completions.entry(held.job.clone()).or_insert(0) += 1;
                }
                // The answer may be lost: it says so again.
                !self.chance.one_in(4)
            }
            Some(Err(_)) => true,
            None => false,
        }
    }
}

async fn simulate(database: Database, seed: u64) {
    let manual = ManualClock::at(NOON);
    let mut names = Vec::new();
    for name in ["a", "b", "c"] {
        names.push(agent(&database, name, &[], NOON).await);
    }
    let agents = names.iter().map(|name| (name.clone(), SimulatedAgent::default())).collect();
    let mut world = World {
        clock: SettledClock::new(manual.clone()),
        database,
        chance: Chance(seed),
        manual,
        watch: Watch::default(),
        agents,
        names,
        points: HashMap::new(),
        newest_fence: HashMap::new(),
        completions: HashMap::new(),
    };
    let mut jobs = Vec::new();
    for number in 0..12 {
        // Windows and attempts that no jump ends: what is looked for here are losses.
        let order = JobOrder { attempts: 10_000, ..JobOrder::default() };
        let expires_at = Some(NOON.plus(Duration::from_secs(1_000_000_000)));
        let new = NewJob { order, expires_at, ..backup(&format!("set {number}"), NOON) };
        jobs.push(submit(&world.database, new, NOON).await.id);
    }
    for _ in 0..250 {
        world.step().await;
    }
    settle(&mut world).await;
    for job in jobs {
        let stored = store::get(&world.database, &job).await.expect("no job is lost");
        assert_eq!(stored.state, JobState::Completed, "seed {seed}: {stored:?}");
        let history = events::of_job(&world.database, &job, None, 10_000).await.expect("events");
        let ends = history.iter().filter(|event| event.state.phase() == Phase::Ended).count();
        assert_eq!(ends, 1, "seed {seed}: {job} ended {ends} times");
        let seen = world.completions.get(&job).copied().unwrap_or(0);
        assert!(seen <= 1, "seed {seed}: {job} was completed {seen} times");
        assert!(world.points.contains_key(&job), "seed {seed}: completed without a recovery point");
    }
    let all = store::list(&world.database, &JobFilter::default(), 1000).await.expect("list");
    assert_eq!(all.len(), 12);
}

/// Faults end; everything that is left must come to its end.
async fn settle(world: &mut World) {
    for _ in 0..60 {
        for name in world.names.clone() {
            let mut agent = world.agents.remove(&name).expect("an agent");
            world.poll(&name, &mut agent, u64::MAX).await;
            for _ in 0..20 {
                world.work(&name, &mut agent, u64::MAX).await;
            }
            world.agents.insert(name, agent);
        }
        let end = world.manual.monotonic() + GRANT + LEASE;
        while world.manual.monotonic() < end {
            world.manual.advance(SWEEP * 3);
            let now = world.clock.now();
            world.watch.sweep(&world.database, world.manual.monotonic(), now).await.expect("sweep");
        }
        sweep_queue(&world.database, &AwayTable::default(), world.clock.now()).await.expect("sweep");
        let open = "SELECT id FROM jobs WHERE phase < 2 LIMIT 1";
        if world.database.read(async |tx| tx.optional(open, &[]).await).await.expect("read").is_none() {
            return;
        }
    }
}

#[test]
fn agents_that_die_servers_that_are_killed_and_clocks_that_jump_lose_no_job_and_commit_none_twice() {
    let named = std::env::var("MOVER_TEST_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let count = if std::env::var_os("MOVER_TEST_NIGHTLY").is_some() { 200 } else { 6 };
    let seeds: Vec<u64> = named.map_or_else(|| (0..count).collect(), |seed| vec![seed]);
    for seed in seeds {
        eprintln!("seed {seed}");
        each_database(async |database| simulate(database, seed).await);
    }
}
