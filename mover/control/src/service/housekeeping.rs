//! Removes what is over for long: ended jobs, their history, the audit log, delivered messages, spent tokens.
//!
//! By age, in small transactions ([`BATCH`] rows), so that nobody's write waits for long; two servers may do it at once.
//! A backup that made a recovery point is the only row that lists it before an agent is asked, so it is kept far longer
//! than other jobs ([`Kept::points`]); the repository is what counts, and it keeps its points whatever happens here.
//!
//! A clock that is wrong must not make everything old: nothing is removed while now is more than [`QUIET`] past the
//! newest row of the history, nor for a day after a jump of the clock that was followed.
//!
//! Never: a job that has not ended; the last job of a policy; a message that is still to be delivered; a run of a
//! calendar younger than the jobs (it is what keeps a schedule from running twice).

use std::time::Duration;

use actix::Actor;

use crate::access::idempotency;
use crate::arguments;
use crate::database::{Database, Transaction};
use crate::error::Result;
use crate::ids::UnixMillis;

use super::{Context, ticker};

/// How often it is looked.
const TICK: Duration = Duration::from_secs(3600);
/// Rows removed in one transaction.
const BATCH: u32 = 200;
/// Transactions for one kind of row in one look; the rest comes with the next.
const BATCHES_MAX: u32 = 500;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// A server in use has a newer row than that; where it has none, the clock is doubted.
const QUIET: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long what is over is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Jobs that ended without a recovery point.
    pub jobs: Duration,
    /// Jobs that made one.
    pub points: Duration,
    /// The history of jobs.
    pub events: Duration,
    /// The audit log.
    pub audit: Duration,
    /// Messages that were delivered or given up, tokens and enrolments that have ended.
    pub rest: Duration,
}

impl Default for Kept {
    fn default() -> Kept {
        Kept { jobs: DAY * 400, points: DAY * 3660, events: DAY * 90, audit: DAY * 400, rest: DAY * 30 }
    }
}

/// Removes what is over.
pub struct Housekeeper {
    context: Context,
}

impl Housekeeper {
    /// As the context says.
    pub fn new(context: Context) -> Housekeeper {
        Housekeeper { context }
    }

    fn tick(&mut self) -> impl Future<Output = Result<()>> + use<> {
        let context = self.context.clone();
        async move {
            let removed = sweep(&context).await?;
            if removed > 0 {
                tracing::info!(removed, "rows that were over for long were removed");
            }
            Ok(())
        }
    }
}

impl Actor for Housekeeper {
    type Context = actix::Context<Housekeeper>;

    fn started(&mut self, actor: &mut Self::Context) {
        ticker::every(actor, "housekeeper", TICK, Housekeeper::tick);
    }
}

/// Removes what is over by now: how many rows.
///
/// # Errors
/// The database fails; the next call goes on.
pub async fn sweep(context: &Context) -> Result<u64> {
    let (database, kept, now) = (&context.database, context.kept, context.clock.now());
    if is_doubtful(context, now).await? {
        tracing::warn!(%now, "nothing is removed: the clock is far ahead of the history, or has just jumped");
        return Ok(0);
    }
    let ended = "phase = 2 AND ended_at < $1 AND id NOT IN (SELECT last_job FROM policies WHERE last_job IS NOT NULL)";
    let over = [
        ("jobs", "id", format!("SELECT id FROM jobs WHERE recovery_point IS NULL AND {ended} LIMIT $2"), kept.jobs),
        (
            "jobs",
            "id",
            format!("SELECT id FROM jobs WHERE recovery_point IS NOT NULL AND {ended} LIMIT $2"),
            kept.points,
        ),
        ("events", "id", oldest("events", "at", ""), kept.events),
        ("audit", "id", oldest("audit", "at", ""), kept.audit),
        ("outbox", "id", oldest("outbox", "created_at", "WHERE ended = 1"), kept.rest),
        ("enrolments", "hash", "SELECT hash FROM enrolments WHERE expires_at < $1 LIMIT $2".to_owned(), kept.rest),
        ("tokens", "id", "SELECT id FROM tokens WHERE expires_at < $1 LIMIT $2".to_owned(), kept.rest),
    ];
    let mut removed = 0;
    for (table, key, rows, age) in over {
        let sql = format!("DELETE FROM {table} WHERE {key} IN ({rows})");
        removed += remove(database, &sql, now.minus(age)).await?;
    }
    let spent = now.minus(idempotency::KEPT);
    let sql = "DELETE FROM idempotency WHERE at < $1";
    removed += database.change(async |tx| tx.execute(sql, arguments![spent]).await).await?;
    let runs = "DELETE FROM runs WHERE due < $1 AND job NOT IN (SELECT id FROM jobs)";
    removed += database.change(async |tx| tx.execute(runs, arguments![now.minus(kept.jobs)]).await).await?;
    Ok(removed)
}

/// Whether the time of day may be wrong by so much that removing by age would be harm.
async fn is_doubtful(context: &Context, now: UnixMillis) -> Result<bool> {
    if context.clock.since_jump().is_some_and(|since| since < DAY) {
        return Ok(true);
    }
    let newest = async |tx: &mut Transaction| {
        let mut newest = None;
        for table in ["events", "audit"] {
            let sql = format!("SELECT at FROM {table} ORDER BY id DESC LIMIT 1");
            let row = tx.optional(&sql, &[]).await?;
            newest = newest.max(row.map(|row| row.time("at")).transpose()?);
        }
        Ok(newest)
    };
    let newest: Option<UnixMillis> = context.database.read(newest).await?;
    Ok(newest.is_some_and(|newest| newest.plus(QUIET) < now))
}

/// Those of the first rows by id that are too old: ids follow time, so nothing else is looked at.
fn oldest(table: &str, time: &str, which: &str) -> String {
    format!("SELECT id FROM (SELECT id, {time} FROM {table} {which} ORDER BY id LIMIT $2) AS first WHERE {time} < $1")
}

async fn remove(database: &Database, sql: &str, before: UnixMillis) -> Result<u64> {
    let mut removed = 0;
    for _ in 0..BATCHES_MAX {
        let rows = database.change(async |tx| tx.execute(sql, arguments![before, BATCH]).await).await?;
        removed += rows;
        if rows < u64::from(BATCH) {
            break;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::idempotency::begin;
    use crate::agents::enrolment;
    use crate::clock::ManualClock;
    use crate::ids::RecordId;
    use crate::job::{JobState, NewJob, Outcome, store};
    use crate::lease::report::{Ending, Held, finish};
    use crate::lease::take::{Offer, take};
    use crate::testing::{NOON, agent, backup, each_database, submit};

    async fn count(database: &Database, table: &str) -> i64 {
        let sql = format!("SELECT COUNT(*) AS n FROM {table}");
        database.read(async |tx| tx.one(&sql, &[]).await?.number("n")).await.expect("count")
    }

    /// Jobs that end, `points` of them with a recovery point, and one that stays in the queue.
    async fn history(database: &Database, ended: usize, points: usize) {
        agent(database, "a", &[], NOON).await;
        for number in 0..ended {
            submit(database, backup(&format!("set {number}"), NOON), NOON).await;
            let offer = Offer { agent: "a".into(), free: 1, resident: Vec::new() };
            let lease = take(database, &[offer], NOON).await.expect("take").remove(0);
            let held = Held { job: lease.job.id, fence: lease.fence };
            let recovery_point = (number < points).then(|| format!("point {number}"));
            let outcome = Outcome { recovery_point, ..Outcome::default() };
            finish(database, &lease.agent, &held, &Ending::Completed, outcome, NOON).await.expect("finish");
        }
        submit(database, NewJob { set: "waits".to_owned(), ..backup("waits", NOON) }, NOON).await;
    }

    #[test]
    fn what_is_over_for_long_is_removed_and_nothing_else() {
        each_database(async |database| {
            history(&database, 5, 2).await;
            enrolment::create(&database, "main", DAY, "admin", NOON).await.expect("a token");
            begin(&database, "me", "key", b"request", NOON).await.expect("begin");
            let context = Context::new(database.clone(), ManualClock::at(NOON));
            assert_eq!(sweep(&context).await.expect("sweep"), 0, "all is new");
            let mut left = Vec::new();
            for days in [2, 89, 91, 399, 401, 3659, 3661] {
                let now = NOON.plus(DAY * days);
                // The pool is in use, and its clock is right.
                record(&database, now).await;
                let context = Context::new(database.clone(), ManualClock::at(now));
                sweep(&context).await.expect("sweep");
                let old = "SELECT COUNT(*) AS n FROM events WHERE at = $1";
                let events = database.read(async |tx| tx.one(old, arguments![NOON]).await?.number("n")).await;
                left.push((days, count(&database, "jobs").await, events.expect("count") > 0));
            }
            assert_eq!(
                left,
                [
                    (2, 6, true),
                    (89, 6, true),
                    (91, 6, false),
                    (399, 6, false),
                    (401, 3, false),
                    (3659, 3, false),
                    (3661, 1, false)
                ],
            );
            assert_eq!(count(&database, "idempotency").await + count(&database, "enrolments").await, 0);
            let waits = store::counts(&database).await.expect("counts");
            assert_eq!(waits, [(JobState::Queued, 1)], "a job that has not ended is never removed");
        });
    }

    async fn record(database: &Database, now: UnixMillis) {
        let sql = "INSERT INTO audit (id, at, who, role, action, object, outcome)
                   VALUES ($1, $2, 'me', 'admin', 'act', 'thing', 'done')";
        let id = RecordId::new(now);
        database.change(async |tx| tx.execute(sql, arguments![&id, now]).await).await.expect("a row");
    }

    /// The battery of a server was empty, it began a year ahead, and threw its history away within the hour.
    #[test]
    fn clock_that_is_far_ahead_of_the_history_or_has_just_jumped_removes_nothing() {
        each_database(async |database| {
            history(&database, 3, 1).await;
            let year = NOON.plus(DAY * 420);
            let ahead = Context::new(database.clone(), ManualClock::at(year));
            assert_eq!(sweep(&ahead).await.expect("sweep"), 0, "420 days without a row");
            // A year is gone by, and the server was in use: the same rows are old.
            record(&database, year.minus(DAY * 20)).await;
            let manual = ManualClock::at(year.minus(DAY * 200));
            let jumps = Context::new(database.clone(), manual.clone());
            manual.set_wall(year);
            jumps.clock.now();
            manual.advance(crate::clock::BELIEF);
            assert!(jumps.clock.now() >= year, "the jump is believed");
            assert_eq!(sweep(&jumps).await.expect("sweep"), 0, "and nothing is removed by it");
            manual.advance(DAY);
            assert!(sweep(&jumps).await.expect("sweep") > 0, "a day later it counts");
            assert_eq!(count(&database, "jobs").await, 2, "the one with a point, and the one that waits");
        });
    }

    #[test]
    fn more_than_a_batch_is_removed_in_batches() {
        each_database(async |database| {
            database
                .decide(async |tx| {
                    for _ in 0..2 * BATCH + 10 {
                        let sql = "INSERT INTO audit (id, at, who, role, action, object, outcome)
                                   VALUES ($1, $2, 'me', 'admin', 'act', 'thing', 'done')";
                        tx.execute(sql, arguments![&RecordId::new(NOON), NOON]).await?;
                    }
                    Ok(())
                })
                .await
                .expect("rows");
            let mut context = Context::new(database.clone(), ManualClock::at(NOON.plus(DAY * 10)));
            assert_eq!(sweep(&context).await.expect("sweep"), 0);
            context.kept.audit = DAY * 9;
            assert_eq!(sweep(&context).await.expect("sweep"), u64::from(2 * BATCH + 10), "a setting counts");
            assert_eq!(count(&database, "audit").await, 0);
        });
    }
}
