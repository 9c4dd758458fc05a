//! In command: the core of the control plane. It knows jobs, policies, agents, leases and time.
//!
//! Never: chunks, packs, executors, HTTP. What moves data is an agent, elsewhere; what speaks HTTP is the binary, on top
//! of this crate.
//!
//! ```text
//!  policy ──calendar──▶ Scheduler ─┐                                   agent: beat, advance, grant, finish
//!  person ──submit────────────────▶│ admission ──▶ queue ──take──▶ lease ◀──────────────┘
//!                                  │ (Agent away)   ▲                │ silent for LEASE
//!                                  ▼                └──── lapse ◀────┘
//!                          failed, skipped                           ▼ finish: one transaction, idempotent
//!                                                  completed …, event, outbox ──▶ Notifier ──▶ webhook, mail
//! ```
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`job`] | the order, the row, the table of states (`STATES.md`), admission, history, fair shares |
//! | [`lease`] | who owns a job when: fence, heartbeat, lapse, permission to commit |
//! | [`placement`] | who can do a job and who gets it; the table *Agent away* as data |
//! | [`policy`] | what, when, how, how long; calendars over summer time; refusals with reasons |
//! | [`agents`] | enrolment, what an agent is, when it was heard |
//! | [`access`] | roles, tokens, audit |
//! | [`browse`] | what people ask of repositories, and which agents reply |
//! | [`protocol`] | what agents and servers say to each other |
//! | [`service`] | the actix actors: [`Scheduler`](service::Scheduler), [`Queue`](service::Queue), [`Registry`](service::Registry), [`RetentionPlanner`](service::RetentionPlanner), [`Notifier`](service::Notifier) |
//! | [`database`] | one SQL for SQLite and PostgreSQL; transactions, retries, schema |
//! | [`clock`] | what happens when the wall clock jumps |
//!
//! Who may do what to a job, and when:
//!
//! | job is | person | its agent, with the fence | another agent, or an old fence | control plane |
//! | --- | --- | --- | --- | --- |
//! | queued | cancel | take it up again or deliver, if its lease lapsed and nobody had it since | take (its lane, a free slot) | expire, fail, skip, park |
//! | estimating, running, verifying | ask to stop | beat, advance, ask for the grant, finish, give back | refused: stale fence | lapse after [`lease::LEASE`] of silence |
//! | … with the grant | refused: too late | beat, finish | refused: stale fence | lapse after [`lease::GRANT`] of silence |
//! | ended | nothing | the same finish again: same answer, nothing changes | refused | nothing |
//!
//! Why no job is lost and none committed twice:
//! 1. Everything that happens to a job is one transaction with its event row, and names the state and the fence that it
//!    saw ([`job::store`]).
//! 2. A fence is given once; a later lease makes every earlier one stale ([`lease`]).
//! 3. Silence is measured by each server's own monotonic clock, so neither a jump of a clock nor hours without a server
//!    take a job from an agent that works.
//! 4. The recovery point is created in the repository under the id of the job, once: the second guard, elsewhere.
//!
//! Limits: [`database`] some thousand leases a second on SQLite, bounded by its commits; a lease reads a window at the
//! head of each lane, never the queue; [`service::queue::WAITERS_MAX`] polls wait at once; a job's order and a policy are
//! at most 1 MiB; [`job::progress::EXCEPTIONS_KEPT`] exceptions are kept of a job, all are counted.

pub mod access;
pub mod agents;
pub mod browse;
pub mod clock;
pub mod database;
pub mod error;
pub mod ids;
pub mod job;
pub mod lease;
pub mod placement;
pub mod policy;
pub mod protocol;
pub mod service;
#[cfg(test)]
mod testing;

pub use error::{ControlError, Result};
