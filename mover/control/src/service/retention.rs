//! Makes the retention jobs: one a day for each policy that keeps something, and a prune after it where it says so.
//!
//! The day is that of the policy's time zone and part of the key of the run, so two servers make one job. The job
//! carries the rules; an agent of the policy's pool applies them to the repository, in the windows of the policy and within
//! its bandwidth.

use std::time::Duration;

use actix::{Actor, Addr};
use jiff::tz::TimeZone;

use crate::arguments;
use crate::database::Transaction;
use crate::error::Result;
use crate::ids::{JobId, PolicyId, UnixMillis};
use crate::job::{Job, JobKind, JobOrder, Origin, admission};
use crate::placement::away::AwayTable;
use crate::policy::store::{StoredPolicy, find};

use super::queue::{Queue, Wake};
use super::{Context, scheduler, ticker};

/// How often it is looked for policies whose day has begun.
const TICK: Duration = Duration::from_secs(60);
/// Policies handled in one tick.
const BATCH: u32 = 200;
/// One run a day.
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// Makes the retention jobs.
pub struct RetentionPlanner {
    context: Context,
    queue: Addr<Queue>,
}

impl RetentionPlanner {
    /// Wakes `queue` when jobs were made.
    pub fn new(context: Context, queue: Addr<Queue>) -> RetentionPlanner {
        RetentionPlanner { context, queue }
    }

    fn tick(&mut self) -> impl Future<Output = Result<()>> + use<> {
        let (context, queue) = (self.context.clone(), self.queue.clone());
        async move {
            if plan_due(&context).await? > 0 {
                queue.do_send(Wake);
            }
            Ok(())
        }
    }
}

impl Actor for RetentionPlanner {
    type Context = actix::Context<RetentionPlanner>;

    fn started(&mut self, actor: &mut Self::Context) {
        ticker::every(actor, "retention", TICK, RetentionPlanner::tick);
    }
}

/// Makes the retention jobs that are due: how many.
///
/// # Errors
/// The database fails; the next call goes on.
pub async fn plan_due(context: &Context) -> Result<usize> {
    let now = context.clock.now();
    let due: Result<Vec<PolicyId>> = context
        .database
        .read(async |tx| {
            let sql = "SELECT id FROM policies WHERE enabled = 1 AND (next_retention IS NULL OR next_retention <= $1)
                       ORDER BY id LIMIT $2";
            tx.all(sql, arguments![now, BATCH]).await?.iter().map(|row| Ok(PolicyId::from(row.text("id")?))).collect()
        })
        .await;
    let mut made = 0;
    for policy in due? {
        let job = JobId::new(now);
        let work = async |tx: &mut Transaction| plan(tx, &policy, &job, &context.away, now).await;
        match context.database.decide(work).await {
            Ok(job) => made += usize::from(job.is_some()),
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                tracing::error!(%policy, error = &error as &dyn std::error::Error, "no retention was planned")
            }
        }
    }
    Ok(made)
}

async fn plan(
    tx: &mut Transaction,
    id: &PolicyId,
    job: &JobId,
    table: &AwayTable,
    now: UnixMillis,
) -> Result<Option<Job>> {
    let stored = find(tx, id).await?;
    tx.execute("UPDATE policies SET next_retention = $1 WHERE id = $2", arguments![now.plus(DAY), id]).await?;
    // Without a rule everything is kept; without a success there is nothing to forget.
    let (Some(keep), Some(_)) = (stored.policy.keep, stored.last_success) else { return Ok(None) };
    // The one before waits for a host that is away, or is at work: another would only wait behind it.
    let open = "SELECT id FROM jobs WHERE policy = $1 AND phase < 2 AND kind = 'retention' LIMIT 1";
    if tx.optional(open, arguments![id]).await?.is_some() {
        return Ok(None);
    }
    let sql = "INSERT INTO runs (policy, kind, due, job) VALUES ($1, 'retention', $2, $3) ON CONFLICT DO NOTHING";
    if tx.execute(sql, arguments![id, day_of(&stored, now), job]).await? == 0 {
        return Ok(None);
    }
    let mut new = scheduler::job_of(&stored, job.clone(), Origin::Scheduled, "retention");
    new.kind = JobKind::Retention;
    // What it does to the source and the repository is bounded as a backup is.
    let begins = stored.policy.next_open(now);
    if begins > now {
        (new.not_before, new.expires_at) = (Some(begins), Some(stored.policy.window_end(begins)));
    }
    let JobOrder { bandwidth, attempts, retry_pause_seconds, notify, .. } = new.order;
    new.order =
        JobOrder { retention: Some(keep), bandwidth, attempts, retry_pause_seconds, notify, ..JobOrder::default() };
    admission::admit_new(tx, &new, table, stored.policy.how.away.as_ref(), now).await.map(Some)
}

/// The begin of the day of `now` in the time zone of the policy.
fn day_of(stored: &StoredPolicy, now: UnixMillis) -> UnixMillis {
    let zone = TimeZone::get(&stored.policy.when.zone).unwrap_or(TimeZone::UTC);
    let moment = now.timestamp().to_zoned(zone);
    moment.start_of_day().map_or(now, |day| day.timestamp().into())
}
