//! Work is a lease: an agent, a fence, and heartbeats.
//!
//! **The fence is the ownership; the deadline only decides when somebody else may have the job.** Each lease of a job
//! has a fence one higher than the one before. Everything an agent writes carries its fence, and counts only while no
//! later lease exists; a stale one is refused as [`crate::ControlError::StaleFence`].
//!
//! | moment | what happens |
//! | --- | --- |
//! | lease ([`take`]) | fence + 1, attempt + 1, state *estimating* |
//! | heartbeat ([`report::beat`]) | the row's beat count grows |
//! | no beat for [`LEASE`] | the job *lapses*: back to its queue, fence unchanged; silence alone aborts nothing |
//! | the agent says hello after a restart of its host | what it lost lapses; aborted where the policy says so (S-010) |
//! | the same agent is heard again, job not leased since | it takes the job up again: nothing is lost |
//! | another agent leased it since | whatever the first still sends is refused, its late commit too |
//! | permission to commit ([`report::grant`]) | no lapse before [`GRANT`] without a beat, no cancellation |
//! | end ([`report::finish`]) | one transaction; the same again answers the same and changes nothing |
//!
//! Lapses are judged by each server for itself, by its monotonic clock: a lease has lapsed when its beat count stayed
//! the same for that long *while this server watched* ([`lapse::Watch`]). So no jump of a wall clock lapses anything, a
//! server that starts after hours away gives every agent the whole time to be heard, and two servers need no common
//! clock. Time in which the server could not look (its database was away, and no beat could be written either) is not
//! counted. The second guard is the repository: a recovery point is created under the job's id, once.
//!
//! Never: a lease of one job to two agents with one fence; a second completion; a write without a fence.

pub mod handover;
pub mod lapse;
pub mod report;
pub mod take;

use std::time::Duration;

/// Without a heartbeat for so long, a job may be given to another agent, unless a server is told another time.
pub const LEASE: Duration = Duration::from_secs(60);
/// The same after the permission to commit: a commit must have ended by then.
pub const GRANT: Duration = Duration::from_secs(600);
/// How often silent leases and ended windows are looked for.
pub const SWEEP: Duration = Duration::from_secs(5);
/// Lapses that a job survives, whatever its attempts: it may be the job that kills its agents.
pub const LAPSES_MAX: i64 = 20;

const _: () = assert!(GRANT.as_secs() > LEASE.as_secs());
const _: () = assert!(LEASE.as_secs() > 3 * crate::agents::HEARTBEAT.as_secs());
const _: () = assert!(LEASE.as_secs() > 6 * SWEEP.as_secs());

#[cfg(test)]
mod losses;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod windows;
