//! Turns runs of policies that are due into jobs, each exactly once.
//!
//! A run is the pair of policy and begin; it is a primary key in the database, and the policy's place in its calendar
//! moves forward in the same transaction as the job enters, so neither a second server nor a clock that is set back
//! runs anything twice. At the start, and when the clock went back, places that a wrong clock left far ahead are put
//! right ([`mend_places`]). Runs that were missed become one job, or none, as the policy says. A run that is due while an
//! earlier one of the same policy is still open is left out, and that is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use actix::{Actor, Addr};

use crate::agents::hearing;
use crate::arguments;
use crate::clock::JUMP_MAX;
use crate::database::Transaction;
use crate::error::Result;
use crate::ids::{JobId, PolicyId, UnixMillis};
use crate::job::{Job, JobKind, JobOrder, NewJob, Origin, admission};
use crate::lease::handover;
use crate::placement::away::AwayTable;
use crate::policy::runs::Run;
use crate::policy::store::{StoredPolicy, find, from_record};
use crate::policy::{CatchUp, Policy};

use super::queue::{Queue, Wake};
use super::{Context, retention, ticker};

/// How often the calendar is looked at.
const TICK: Duration = Duration::from_secs(1);
/// Policies handled in one tick; the rest comes with the next.
const BATCH: u32 = 500;
/// A run that begins later than this was missed.
pub const LATE: Duration = Duration::from_secs(600);
/// Missed runs that are counted; more are told as so many.
const MISSED_MAX: usize = 1000;

/// Turns runs that are due into jobs.
pub struct Scheduler {
    context: Context,
    queue: Addr<Queue>,
    /// The latest time of day at which places were looked at, in unix milliseconds.
    looked: Arc<AtomicI64>,
}

impl Scheduler {
    /// Wakes `queue` when jobs were made.
    pub fn new(context: Context, queue: Addr<Queue>) -> Scheduler {
        Scheduler { context, queue, looked: Arc::new(AtomicI64::new(i64::MAX)) }
    }

    fn tick(&mut self) -> impl Future<Output = Result<()>> + use<> {
        let (context, queue, looked) = (self.context.clone(), self.queue.clone(), Arc::clone(&self.looked));
        async move {
            let now = context.clock.now();
            // Before anybody is judged to be away.
            hearing::go_on(&context.database, now).await?;
            if now.plus(JUMP_MAX).0 < looked.load(Ordering::Relaxed) {
                mend_places(&context).await?;
            }
            looked.store(now.0, Ordering::Relaxed);
            if run_due(&context).await? > 0 {
                queue.do_send(Wake);
            }
            Ok(())
        }
    }
}

impl Actor for Scheduler {
    type Context = actix::Context<Scheduler>;

    fn started(&mut self, actor: &mut Self::Context) {
        ticker::every(actor, "scheduler", TICK, Scheduler::tick);
    }
}

/// Makes the jobs of all runs that are due now: how many.
///
/// # Errors
/// The database fails; the next call goes on.
pub async fn run_due(context: &Context) -> Result<usize> {
    let now = context.clock.now();
    let due: Result<Vec<PolicyId>> = context
        .database
        .read(async |tx| {
            let sql = "SELECT id FROM policies WHERE enabled = 1 AND next_due IS NOT NULL AND next_due <= $1
                       ORDER BY next_due LIMIT $2";
            tx.all(sql, arguments![now, BATCH]).await?.iter().map(|row| Ok(PolicyId::from(row.text("id")?))).collect()
        })
        .await;
    let mut made = 0;
    for policy in due? {
        let id = JobId::new(now);
        let work = async |tx: &mut Transaction| run_policy(tx, &policy, &id, &context.away, now).await;
        match context.database.decide(work).await {
            Ok(job) => made += usize::from(job.is_some()),
            Err(error) if error.is_transient() => return Err(error),
            // One policy that cannot be run never keeps another from running.
            Err(error) => tracing::error!(%policy, error = &error as &dyn std::error::Error, "a run could not be made"),
        }
    }
    Ok(made)
}

/// Puts right the places that lie after the next run from now on: a clock that was ahead left them there, and nothing
/// would run until then. How many there were.
///
/// # Errors
/// The database fails; nothing is half done.
pub async fn mend_places(context: &Context) -> Result<usize> {
    let now = context.clock.now();
    let sql = "SELECT * FROM policies WHERE next_due > $1 ORDER BY id";
    let ahead: Result<Vec<StoredPolicy>> =
        context.database.read(async |tx| tx.all(sql, arguments![now]).await?.iter().map(from_record).collect()).await;
    let mut wrong = Vec::new();
    for stored in ahead? {
        let next = stored.policy.next_runs(&stored.id, now).next().map(|run| run.begins);
        if next.is_some_and(|next| stored.next_due.is_some_and(|place| next < place)) {
            wrong.push((stored.id, stored.version, next));
        }
        // Each takes a moment, and others wait for this thread.
        tokio::task::yield_now().await;
    }
    context
        .database
        .decide(async |tx| {
            for (id, version, next) in &wrong {
                let sql = "UPDATE policies SET next_due = $1 WHERE id = $2 AND version = $3 AND next_due > $1";
                tx.execute(sql, arguments![*next, id, *version]).await?;
            }
            let sql = "UPDATE policies SET next_retention = NULL WHERE next_retention > $1";
            tx.execute(sql, arguments![now.plus(retention::DAY)]).await
        })
        .await?;
    if !wrong.is_empty() {
        tracing::warn!(policies = wrong.len(), "schedules that a wrong clock had moved ahead were put right");
    }
    Ok(wrong.len())
}

/// The run of one policy that is due, if it still is.
async fn run_policy(
    tx: &mut Transaction,
    id: &PolicyId,
    job: &JobId,
    table: &AwayTable,
    now: UnixMillis,
) -> Result<Option<Job>> {
    let stored = find(tx, id).await?;
    let Some(place) = stored.next_due.filter(|due| stored.enabled && *due <= now) else { return Ok(None) };
    let before = UnixMillis(place.0 - 1);
    let due: Vec<Run> =
        stored.policy.next_runs(id, before).take_while(|run| run.begins <= now).take(MISSED_MAX).collect();
    let next = stored.policy.next_runs(id, now).next().map(|run| run.begins);
    tx.execute("UPDATE policies SET next_due = $1 WHERE id = $2", arguments![next, id]).await?;
    let Some(run) = due.last() else { return Ok(None) };
    let sql = "INSERT INTO runs (policy, kind, due, job) VALUES ($1, 'backup', $2, $3) ON CONFLICT DO NOTHING";
    if tx.execute(sql, arguments![id, run.begins, job]).await? == 0 {
        return Ok(None);
    }
    let missed = due.len() - 1;
    let is_late = run.begins.plus(LATE) < now;
    let mut new = job_of(&stored, job.clone(), Origin::Scheduled, "schedule");
    new.expires_at = Some(run.ends);
    if is_late && stored.policy.when.catch_up == CatchUp::Skip {
        let why = format!("{} runs were missed while no control plane ran; the policy says skip", missed + 1);
        return admission::skip(tx, &new, &why, now).await.map(Some);
    }
    if let Some(open) = open_run(tx, id).await? {
        handover::count_skip(tx, id, &open, now).await?;
        let why = format!("the run before, job {open}, has not ended");
        return admission::skip(tx, &new, &why, now).await.map(Some);
    }
    if run.ends <= now {
        // Its window has ended: it begins with the next one.
        let begins = stored.policy.next_open(now);
        new.not_before = Some(begins);
        new.expires_at = Some(stored.policy.window_end(begins));
    }
    admission::admit_new(tx, &new, table, stored.policy.how.away.as_ref(), now).await.map(Some)
}

/// A scheduled backup of the policy that has not ended.
async fn open_run(tx: &mut Transaction, id: &PolicyId) -> Result<Option<String>> {
    let sql =
        "SELECT id FROM jobs WHERE policy = $1 AND phase < 2 AND kind = 'backup' AND origin = 'scheduled' LIMIT 1";
    tx.optional(sql, arguments![id]).await?.map(|row| row.text("id")).transpose()
}

/// A backup job as a policy says it: for its calendar, and for people who start it now (S-013).
///
/// Started by hand, it obeys the same bandwidth limit; who wants otherwise sets [`JobOrder::bandwidth`].
pub fn job_of(stored: &StoredPolicy, id: JobId, origin: Origin, requested_by: &str) -> NewJob {
    let policy = &stored.policy;
    NewJob {
        id,
        kind: JobKind::Backup,
        workload: policy.what.workload,
        origin,
        policy: Some(stored.id.clone()),
        set: policy.set().to_owned(),
        source: policy.what.source.clone(),
        repository: policy.what.repository.clone(),
        place: policy.what.place.clone(),
        priority: policy.how.priority,
        share: Some(stored.id.to_string()),
        weight: policy.how.weight,
        not_before: None,
        expires_at: None,
        source_limit: policy.how.source_limit,
        repository_limit: policy.how.repository_limit,
        requested_by: requested_by.to_owned(),
        wait: false,
        order: order_of(policy),
    }
}

fn order_of(policy: &Policy) -> JobOrder {
    JobOrder {
        filesets: policy.what.filesets.clone(),
        full: false,
        bandwidth: policy.how.bandwidth.clone(),
        before: policy.how.before.clone(),
        after: policy.how.after.clone(),
        verify_percent: policy.verify_percent,
        restore: None,
        retention: None,
        attempts: policy.how.attempts,
        retry_pause_seconds: policy.how.retry_pause_seconds,
        restart: policy.how.restart,
        notify: policy.notify.clone(),
    }
}
