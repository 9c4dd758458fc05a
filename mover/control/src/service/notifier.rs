//! Delivers what the outbox holds: each message until it is accepted, or given up after [`ATTEMPTS_MAX`] attempts.
//!
//! A message is claimed by moving its next attempt forward, if it is still where it was read; so two servers deliver it
//! once, and a server that dies in the middle delivers it again later: at least once, at most a few times. Nothing here
//! touches a job.

use std::time::Duration;

use actix::Actor;

use crate::arguments;
use crate::database::Database;
use crate::error::Result;
use crate::ids::{RecordId, UnixMillis};

use super::delivery::{Deliveries, PATIENCE};
use super::notification::{Channel, Notice};
use super::{Context, ticker};

/// How often the outbox is looked at.
const TICK: Duration = Duration::from_secs(2);
/// Messages in delivery at once.
const BATCH: u32 = 64;
/// Of these to one target: one that is dead takes so many places, whatever waits for it.
const BATCH_OF_TARGET: u32 = 4;
/// Attempts, over some two days.
pub const ATTEMPTS_MAX: u32 = 20;
/// Pause after the first failure; doubled after each further one, up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_secs(15);
/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(4 * 3600);
/// A claimed message is nobody else's for so long.
const CLAIM: Duration = Duration::from_secs(60);

const _: () = assert!(CLAIM.as_secs() > 2 * PATIENCE.as_secs());

/// Delivers messages.
pub struct Notifier {
    context: Context,
    deliveries: Deliveries,
}

impl Notifier {
    /// By these ways.
    pub fn new(context: Context, deliveries: Deliveries) -> Notifier {
        Notifier { context, deliveries }
    }

    fn tick(&mut self) -> impl Future<Output = Result<()>> + use<> {
        let (context, deliveries) = (self.context.clone(), self.deliveries.clone());
        async move { deliver_due(&context, &deliveries).await.map(|_| ()) }
    }
}

impl Actor for Notifier {
    type Context = actix::Context<Notifier>;

    fn started(&mut self, actor: &mut Self::Context) {
        ticker::every(actor, "notifier", TICK, Notifier::tick);
    }
}

struct Claimed {
    id: RecordId,
    attempt: u32,
    channel: Channel,
    notice: Notice,
}

/// Delivers what is due now: how many were accepted.
///
/// # Errors
/// The database fails; a delivery that fails is tried again later.
pub async fn deliver_due(context: &Context, deliveries: &Deliveries) -> Result<usize> {
    let claimed = claim(&context.database, context.clock.now()).await?;
    let mut running = tokio::task::JoinSet::new();
    for message in claimed {
        let deliveries = deliveries.clone();
        running.spawn(async move {
            let result = deliveries.deliver(&message.channel, &message.notice).await;
            (message, result)
        });
    }
    let mut accepted = 0;
    while let Some(joined) = running.join_next().await {
        // One that panicked is delivered again after its claim.
        let Ok((message, result)) = joined else { continue };
        accepted += usize::from(result.is_ok());
        settle(&context.database, &message, result, context.clock.now()).await?;
    }
    Ok(accepted)
}

async fn claim(database: &Database, now: UnixMillis) -> Result<Vec<Claimed>> {
    // The first message of each target, then the second of each, and so on.
    let due = "SELECT * FROM (
            SELECT *, ROW_NUMBER() OVER (PARTITION BY target ORDER BY next_at, id) AS place
            FROM outbox WHERE ended = 0 AND next_at <= $1
        ) AS due WHERE place <= $2 ORDER BY place, next_at, id LIMIT $3";
    let rows = database.read(async |tx| tx.all(due, arguments![now, BATCH_OF_TARGET, BATCH]).await).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    database
        .change(async |tx| {
            let mut claimed = Vec::new();
            for row in &rows {
                let (id, attempt) = (row.text("id")?, row.number("attempt")?);
                let sql = "UPDATE outbox SET attempt = attempt + 1, next_at = $1
                           WHERE id = $2 AND attempt = $3 AND ended = 0";
                if tx.execute(sql, arguments![now.plus(CLAIM), &id, attempt]).await? == 1 {
                    claimed.push(Claimed {
                        id: id.into(),
                        attempt: u32::try_from(attempt + 1).unwrap_or(u32::MAX),
                        channel: row.document("channel")?,
                        notice: row.document("payload")?,
                    });
                }
            }
            Ok(claimed)
        })
        .await
}

/// Pause after so many attempts that failed.
fn pause(attempts: u32) -> Duration {
    PAUSE_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(PAUSE_MAX)
}

async fn settle(database: &Database, message: &Claimed, result: Result<()>, now: UnixMillis) -> Result<()> {
    let error = result.err().map(|error| error.to_string());
    let outcome = if error.is_none() { "accepted" } else { "failed" };
    metrics::counter!("mover_notifications_total", "outcome" => outcome).increment(1);
    let is_over = error.is_none() || message.attempt >= ATTEMPTS_MAX;
    if let Some(error) = &error {
        tracing::warn!(job = %message.notice.job, attempt = message.attempt, error, "a message was not delivered");
    }
    let sql = "UPDATE outbox SET ended = $1, next_at = $2, error = $3 WHERE id = $4 AND attempt = $5";
    let arguments = arguments![is_over, now.plus(pause(message.attempt)), error, &message.id, message.attempt];
    database.change(async |tx| tx.execute(sql, arguments).await).await?;
    Ok(())
}
