//! What a round asks of a control plane, whatever is between it and the agents.

use mover_control::agents::Description;
use mover_control::ids::JobId;
use mover_control::job::JobState;
use mover_control::lease::report::{Advice, Held};

use crate::Result;

/// A control plane with agents that have joined it.
pub trait Plane {
    /// How many agents.
    fn agents(&self) -> usize;

    /// Queues jobs that any agent can take, each of its own set, and has everything ready for agents to ask.
    async fn submit(&self, round: &str, count: usize) -> Result<Vec<JobId>>;

    /// Agent `agent` asks for one job, and waits.
    async fn poll(&self, agent: usize) -> Result<Vec<Held>>;

    /// It tells that it works.
    async fn beat(&self, agent: usize, held: &Held) -> Result<Vec<Advice>>;

    /// It has completed a job.
    async fn finish(&self, agent: usize, held: Held) -> Result<()>;

    /// How many jobs are in each state.
    async fn counts(&self) -> Result<Vec<(JobState, i64)>>;

    /// CPU seconds of the control plane and its database so far.
    fn cpu_seconds(&self) -> Result<f64>;
}

/// What every agent says of itself, whichever way it joins: enough for more jobs than it asks for.
pub fn description() -> Description {
    Description {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cores: 8,
        memory_bytes: 16 << 30,
        tags: Vec::new(),
        reaches: Vec::new(),
        instance: "first".to_owned(),
    }
}
