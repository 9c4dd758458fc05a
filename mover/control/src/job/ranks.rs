//! Fair shares: the rank that a job is given once, when it enters the queue.
//!
//! Self-clocked fair queueing (Golestani, INFOCOM 1994): the finish tag of a job is the later of the share's last tag
//! and the tag that was leased last, plus one step divided by the weight of the share. Ordered by this tag, shares
//! that always have work are served in proportion to their weights, one that was idle begins there and neither
//! saves up nor owes anything, and a lease needs no arithmetic: the order is an index. Jobs of one pool and one
//! priority share; higher priorities go first whatever their share got.

use crate::arguments;
use crate::database::Transaction;
use crate::error::Result;

/// Distance of the tags of a share of weight 1.
const STEP: i64 = 1_000_000;
/// Heaviest share.
pub(crate) const WEIGHT_MAX: u32 = 1000;

/// The tag of a share's next job.
pub(crate) fn next_rank(last_of_share: i64, head: i64, weight: i64) -> i64 {
    last_of_share.max(head) + STEP / weight.clamp(1, i64::from(WEIGHT_MAX))
}

/// Gives out the rank of a new job, and remembers it for the share.
pub(super) async fn assign(tx: &mut Transaction, pool: &str, priority: i64, share: &str, weight: i64) -> Result<i64> {
    let key = arguments![pool, priority, share];
    let own = tx.optional("SELECT rank FROM shares WHERE pool = $1 AND priority = $2 AND share = $3", key).await?;
    let own = own.map(|row| row.number("rank")).transpose()?.unwrap_or(0);
    let waiting = "SELECT rank FROM jobs WHERE phase = 0 AND pool = $1 AND priority = $2 LIMIT 1";
    let is_idle = tx.optional(waiting, arguments![pool, priority]).await?.is_none();
    let head = if is_idle {
        // Nobody waits: all shares begin anew from the highest tag that was given.
        "SELECT COALESCE(MAX(rank), 0) AS rank FROM shares WHERE pool = $1 AND priority = $2"
    } else {
        // The tag in service, not that of the first in the queue: one that nobody can do now would hold time still.
        "SELECT COALESCE(MAX(rank), 0) AS rank FROM heads WHERE pool = $1 AND priority = $2"
    };
    let head = tx.one(head, arguments![pool, priority]).await?.number("rank")?;
    let rank = next_rank(own, head, weight);
    tx.execute(
        "INSERT INTO shares (pool, priority, share, rank) VALUES ($1, $2, $3, $4)
         ON CONFLICT (pool, priority, share) DO UPDATE SET rank = excluded.rank",
        arguments![pool, priority, share, rank],
    )
    .await?;
    Ok(rank)
}

/// A job of this rank was leased: shares that were idle begin here from now on.
pub(crate) async fn served(tx: &mut Transaction, pool: &str, priority: i64, rank: i64) -> Result<()> {
    tx.execute(
        "INSERT INTO heads (pool, priority, rank) VALUES ($1, $2, $3)
         ON CONFLICT (pool, priority) DO UPDATE SET rank = excluded.rank WHERE heads.rank < excluded.rank",
        arguments![pool, priority, rank],
    )
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Shares with a backlog are served in proportion to their weights, to within one job of each.
        #[test]
        fn fair_shares_follow_the_weights(weights in proptest::collection::vec(1_i64..20, 2..6), served in 50_usize..300) {
            let mut queue: Vec<(i64, usize)> = Vec::new();
            for (share, weight) in weights.iter().enumerate() {
                let mut last = 0;
                for _ in 0..served {
                    last = next_rank(last, 0, *weight);
                    queue.push((last, share));
                }
            }
            queue.sort_unstable();
            let mut counts = BTreeMap::new();
            for (_, share) in &queue[..served] {
                *counts.entry(*share).or_insert(0_usize) += 1;
            }
            let total: i64 = weights.iter().sum();
            for (share, weight) in weights.iter().enumerate() {
                let due = served as f64 * *weight as f64 / total as f64;
                let got = counts.get(&share).copied().unwrap_or(0) as f64;
                prop_assert!((got - due).abs() <= weights.len() as f64 + 1.0, "share {share}: {got} of {due}");
            }
        }

        /// A share that was idle begins at the head: it is served next, but not for the time it was away.
        #[test]
        fn fair_share_that_was_idle_saves_nothing_up(head in STEP..STEP * 1000, weight in 1_i64..20) {
            let rank = next_rank(0, head, weight);
            prop_assert!(rank > head && rank <= head + STEP);
        }
    }
}
