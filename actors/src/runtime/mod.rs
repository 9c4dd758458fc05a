//! The seam between the actors and what runs them.
//!
//! Two implementations of [`Runtime`]: `glommio.rs`, one pinned executor a core (a *shard*), and `simulation.rs`, a
//! seeded single-threaded scheduler. Mailbox, permit, kill switch and progress are own types, woken by std `Waker`s
//! alone, and are the same lines in both.
//!
//! Must never: block an executor thread, leave a task without an owner, wait without a bound.
//!
//! Everything that implements [`Runtime`] lives on one shard; everything in `mailbox`, `budget`, `kill` and `injector`
//! may be used from any thread.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use mover_repository::ids::UnixNanos;

pub mod actor;
pub mod budget;
pub mod clock;
pub mod glommio;
pub mod injector;
pub mod kill;
pub mod mailbox;
pub mod mutant;
mod pulse;
pub mod shards;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
pub mod stats;
pub mod task;
#[cfg(test)]
mod tests;
pub mod usage;

pub use actor::{Actor, Worker, metered, spawn_actor, spawn_supervised, spawn_worker, supervise};
pub use budget::{Budget, Permit, Reserve};
pub use clock::Pace;
/// The names by which callers outside of this module know the executors.
pub use glommio::{GlommioRuntime as ShardRuntime, GlommioShards as Shards};
pub use glommio::{GlommioRuntime, GlommioShards, ShardOptions};
pub use injector::Injector;
pub use kill::{KillSwitch, StopSignal};
pub use mailbox::{Address, Closed, Inbox, Weigh, mailbox};
#[cfg(any(test, feature = "simulation"))]
pub use mailbox::{drained, loaded};
pub use mutant::{Mutant, mutant};
pub use shards::{cores_available, memory_bytes_default, shards_for};
pub use stats::ActorStats;
pub use task::TaskHandle;

/// A future that stays on its shard.
pub type LocalBoxFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// What an actor may ask of the shard it lives on. Not `Send`: a clone never leaves its shard.
pub trait Runtime: Clone + 'static {
    /// The part that may travel to other shards.
    type Remote: Remote<Self>;

    /// The handle through which other shards and plain threads start tasks.
    fn remote(&self) -> Self::Remote;

    /// The number of this shard, from 0.
    fn shard(&self) -> usize;

    /// How many shards there are.
    fn shards(&self) -> usize;

    /// Starts a task on this shard. It is polled for the first time after the caller yields. Dropping the handle
    /// drops the task's future at once; a panic of the task goes on in whoever awaits the handle.
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) -> TaskHandle;

    /// Resolves when `wait` has passed.
    fn sleep(&self, wait: Duration) -> LocalBoxFuture<()>;

    /// Lets the other tasks of this shard run if their turn has come. Due at least every MiB of CPU work: [`Pace`].
    fn yield_now(&self) -> LocalBoxFuture<()>;

    /// Monotonic time since some fixed moment.
    fn now(&self) -> Duration;

    /// Wall clock time. Never used to decide what may be deleted.
    fn unix_now(&self) -> UnixNanos;
}

/// Starts tasks on a chosen shard from anywhere.
pub trait Remote<R>: Clone + Send + Sync + 'static {
    /// How many shards there are.
    fn shards(&self) -> usize;

    /// Builds a task on shard `shard` and runs it there. The task belongs to the runtime: it ends by itself (wrap it
    /// in [`supervise`], so that its failure or panic kills its job) or is dropped when the shards shut down.
    ///
    /// # Panics
    /// If `shard` is not below [`Remote::shards`].
    fn spawn_on<F, Fut>(&self, shard: usize, name: &'static str, make: F)
    where
        F: FnOnce(R) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static;
}
