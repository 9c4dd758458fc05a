//! Time and pace: the monotonic clock that also obeys the simulator, and the counter that says when to yield.
//!
//! Any thread may ask; the simulated time is thread-local and set by the simulator while it polls a task.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::Runtime;

#[cfg(any(test, feature = "simulation"))]
thread_local! {
    static SIMULATED_NANOS: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
}

/// Tells this thread what time the simulator has; `None` goes back to the machine's clock.
#[cfg(any(test, feature = "simulation"))]
pub(super) fn set_simulated(now: Option<Duration>) {
    SIMULATED_NANOS.with(|nanos| nanos.set(now.map(|time| time.as_nanos() as u64)));
}

/// Monotonic time since the first call in this process, or the simulated time.
pub fn monotonic() -> Duration {
    #[cfg(any(test, feature = "simulation"))]
    if let Some(nanos) = SIMULATED_NANOS.with(std::cell::Cell::get) {
        return Duration::from_nanos(nanos);
    }
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// A place where another thread may come in between two instructions. The simulator takes the core away here for a
/// seeded while; elsewhere it costs nothing.
pub(super) async fn race_point() {
    #[cfg(any(test, feature = "simulation"))]
    if let Some(away) = super::simulation::preemption() {
        away.await;
    }
}

/// CPU work that may pass between two yields, in bytes.
pub const PACE_BYTES_MAX: usize = 1 << 20;

/// Counts the bytes that a task has worked on and yields once a MiB is reached, so that one actor never keeps the
/// others of its shard (or a wake-up from another shard) waiting for longer than that.
#[derive(Debug, Default)]
pub struct Pace {
    bytes: usize,
}

impl Pace {
    /// Starts at zero.
    pub fn new() -> Pace {
        Pace::default()
    }

    /// Counts `bytes` of CPU work; true if a yield is due now.
    pub fn spend(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes < PACE_BYTES_MAX {
            return false;
        }
        self.bytes = 0;
        true
    }

    /// Counts `bytes` of CPU work and yields if that is due.
    pub async fn work<R: Runtime>(&mut self, runtime: &R, bytes: usize) {
        if self.spend(bytes) {
            runtime.yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yield_is_due_once_a_mebibyte() {
        let mut pace = Pace::new();
        let due = (0..64).filter(|_| pace.spend(64 * 1024)).count();
        assert_eq!(due, 4);
    }
}
