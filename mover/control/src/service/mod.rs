//! The actors of a server, and what they need.
//!
//! ```text
//!  calendar ──▶ Scheduler ──▶ jobs ──▶ Queue ◀── agents that wait for work (Poll)
//!               Retention ──▶          │  sweeps: lapsed leases, ended windows, waiting jobs
//!  heartbeats ─▶ Registry              ▼
//!                            outbox ──▶ Notifier ──▶ webhooks, mail
//!                            what is over for long ──▶ Housekeeper
//! ```
//!
//! Each actor owns one concern and a timer, and keeps nothing that matters: all of it is in the database, so a server
//! may be killed at any moment, and two servers share the work by updates that name what they saw. An actor that fails
//! says so and goes on with its next tick ([`ticker`]); nothing here ends the process.

pub mod delivery;
pub mod housekeeping;
pub mod notification;
pub mod notifier;
pub mod queue;
pub mod registry;
pub mod retention;
pub mod scheduler;
mod ticker;

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};

use crate::clock::{Clock, SettledClock};
use crate::database::Database;
use crate::lease::LEASE;
use crate::placement::away::AwayTable;

pub use housekeeping::Housekeeper;
pub use notifier::Notifier;
pub use queue::Queue;
pub use registry::Registry;
pub use retention::RetentionPlanner;
pub use scheduler::Scheduler;

/// What every actor is given.
#[derive(Clone)]
pub struct Context {
    /// Where everything is.
    pub database: Database,
    /// The time that decisions are made by.
    pub clock: Arc<SettledClock>,
    /// What becomes of jobs whose agent is away.
    pub away: Arc<AwayTable>,
    /// How long what is over is kept.
    pub kept: housekeeping::Kept,
    /// How long an agent may be silent before its jobs go elsewhere.
    pub lease: Duration,
}

impl Context {
    /// With the default table *Agent away*, and keeping what is over for the default time.
    pub fn new(database: Database, clock: Arc<dyn Clock>) -> Context {
        let (away, kept) = (Arc::new(AwayTable::default()), housekeeping::Kept::default());
        Context { database, clock: SettledClock::new(clock), away, kept, lease: LEASE }
    }
}

/// The actors of a running server.
#[derive(Clone)]
pub struct Service {
    /// What they share.
    pub context: Context,
    /// Turns runs that are due into jobs.
    pub scheduler: Addr<Scheduler>,
    /// Gives jobs to agents.
    pub queue: Addr<Queue>,
    /// Hears agents.
    pub registry: Addr<Registry>,
    /// Makes retention jobs.
    pub retention: Addr<RetentionPlanner>,
    /// Delivers messages.
    pub notifier: Addr<Notifier>,
    /// Removes what is over for long.
    pub housekeeper: Addr<Housekeeper>,
}

impl Service {
    /// Starts all actors on the running actix system.
    pub fn start(context: Context, delivery: delivery::Deliveries) -> Service {
        let queue = Queue::new(context.clone()).start();
        Service {
            scheduler: Scheduler::new(context.clone(), queue.clone()).start(),
            registry: Registry::new(context.clone()).start(),
            retention: RetentionPlanner::new(context.clone(), queue.clone()).start(),
            notifier: Notifier::new(context.clone(), delivery).start(),
            housekeeper: Housekeeper::new(context.clone()).start(),
            queue,
            context,
        }
    }
}

#[cfg(test)]
mod absence;
#[cfg(test)]
mod deliveries;
#[cfg(test)]
mod mended;
#[cfg(test)]
mod outage;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod tests;
