//! One round: jobs are queued, then all agents ask at once and work until every job has ended.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mover_control::ids::JobId;
use mover_control::job::JobState;
use mover_control::lease::report::Advice;
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use super::plane::Plane;
use crate::Result;

/// What is played.
pub struct Round {
    /// Its name.
    pub name: &'static str,
    /// Jobs queued before it.
    pub jobs: usize,
    /// What a job takes in the middle; between half and one and a half of it.
    pub duration: Duration,
    /// Heartbeats of a job.
    pub beats: u32,
}

/// What was measured.
#[derive(Serialize)]
pub struct Figures {
    pub round: &'static str,
    pub jobs: usize,
    pub seconds: f64,
    pub jobs_per_second: f64,
    pub lease_p50_ms: f64,
    pub lease_p99_ms: f64,
    pub end_p99_ms: f64,
    /// Of the server and its database, all that a job costs.
    pub cpu_ms_per_job: f64,
    pub beats_per_second: f64,
    pub cpu_us_per_beat: f64,
}

impl Figures {
    /// As a row of a table.
    pub fn row(&self) -> String {
        format!(
            "| {} | {} | {:.1} | {:.0} | {:.1} | {:.1} | {:.1} | {:.2} | {:.0} | {:.0} |",
            self.round,
            self.jobs,
            self.seconds,
            self.jobs_per_second,
            self.lease_p50_ms,
            self.lease_p99_ms,
            self.end_p99_ms,
            self.cpu_ms_per_job,
            self.beats_per_second,
            self.cpu_us_per_beat
        )
    }
}

/// What the agents saw.
#[derive(Default)]
struct Log {
    /// Fences of the leases of each job.
    leased: RefCell<HashMap<JobId, Vec<i64>>>,
    ended: Cell<usize>,
    polls: RefCell<Vec<f64>>,
    ends: RefCell<Vec<f64>>,
    beats: Cell<usize>,
}

/// Plays a round, and checks that every job ran once.
pub fn run(plan: &Round, plane: &impl Plane, runtime: &Runtime) -> Result<Figures> {
    let jobs = runtime.block_on(plane.submit(plan.name, plan.jobs))?;
    let log = Rc::new(Log::default());
    let (cpu_before, began) = (plane.cpu_seconds()?, Instant::now());
    LocalSet::new().block_on(runtime, play(plan, plane, &log))?;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), plane.cpu_seconds()? - cpu_before);
    check(plane, runtime, &jobs, &log)?;
    let count = plan.jobs as f64;
    let beats = log.beats.get() as f64;
    Ok(Figures {
        round: plan.name,
        jobs: plan.jobs,
        seconds,
        jobs_per_second: count / seconds,
        lease_p50_ms: percentile(&log.polls, 50),
        lease_p99_ms: percentile(&log.polls, 99),
        end_p99_ms: percentile(&log.ends, 99),
        cpu_ms_per_job: cpu * 1e3 / count,
        beats_per_second: beats / seconds,
        cpu_us_per_beat: if beats > count { cpu * 1e6 / beats } else { 0.0 },
    })
}

async fn play(plan: &Round, plane: &impl Plane, log: &Rc<Log>) -> Result<()> {
    let work = (0..plane.agents()).map(|agent| live(plan, plane, agent, log));
    // Those that wait for more work when all has ended are left.
    let all_ended = async {
        while log.ended.get() < plan.jobs {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    };
    tokio::select! {
        done = futures_util::future::try_join_all(work) => done.map(|_| ()),
        ended = all_ended => ended,
    }
}

/// One agent: a job at a time, for ever.
async fn live(plan: &Round, plane: &impl Plane, agent: usize, log: &Log) -> Result<()> {
    for turn in 0.. {
        let asked = Instant::now();
        for held in plane.poll(agent).await? {
            log.polls.borrow_mut().push(asked.elapsed().as_secs_f64());
            log.leased.borrow_mut().entry(held.job.clone()).or_default().push(held.fence);
            // Neither random nor in step.
            let share = 0.5 + ((agent * 7919 + turn * 104_729) % 1000) as f64 / 1000.0;
            let part = plan.duration.mul_f64(share / f64::from(plan.beats + 1));
            for _ in 0..plan.beats {
                pause(part).await;
                let advice = plane.beat(agent, &held).await?;
                if advice != [Advice::Continue] {
                    return Err(format!("job {} was taken from its agent: {advice:?}", held.job));
                }
                log.beats.set(log.beats.get() + 1);
            }
            pause(part).await;
            let ending = Instant::now();
            plane.finish(agent, held).await?;
            log.ends.borrow_mut().push(ending.elapsed().as_secs_f64());
            log.ended.set(log.ended.get() + 1);
        }
    }
    Ok(())
}

async fn pause(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}

fn check(plane: &impl Plane, runtime: &Runtime, jobs: &[JobId], log: &Log) -> Result<()> {
    let leased = log.leased.borrow();
    for job in jobs {
        // Its fence may be higher: a lease on its way to a poll that nobody reads any more is given back.
        if leased.get(job).is_none_or(|fences| fences.len() != 1) {
            return Err(format!("job {job} ran with the fences {:?}, not once", leased.get(job)));
        }
    }
    if log.ended.get() != jobs.len() || leased.len() != jobs.len() {
        return Err(format!("{} jobs were leased and {} ended, of {}", leased.len(), log.ended.get(), jobs.len()));
    }
    let counts = runtime.block_on(plane.counts())?;
    match counts.iter().find(|(state, count)| *state != JobState::Completed && *count > 0) {
        None => Ok(()),
        Some((state, count)) => Err(format!("{count} jobs are {state}")),
    }
}

/// In milliseconds.
fn percentile(seconds: &RefCell<Vec<f64>>, percent: usize) -> f64 {
    let mut sorted = seconds.borrow().clone();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((sorted.len() * percent / 100).min(last)).copied().unwrap_or_default() * 1e3
}
