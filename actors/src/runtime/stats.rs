//! What an actor does with its time: busy, starved (nothing to do), blocked (no room downstream or no memory), waiting
//! (for a device). The actor with the most busy and waiting time is the bottleneck; the ones before it are blocked, the
//! ones after it starved.
//!
//! Written by the actor's own shard with relaxed atomics, read by anybody.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use super::usage::thread_cpu;

/// Why a future is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Wait {
    /// Nothing has come in.
    Upstream = 1,
    /// A device, a timer, or another task.
    Device = 2,
    /// No free memory in the budget.
    Memory = 3,
    /// No room in the mailbox downstream.
    Downstream = 4,
}

thread_local! {
    static REASON: Cell<u8> = const { Cell::new(0) };
}

/// Tells the meter of the actor that is being polled why it will be pending. The strongest reason of a poll counts.
pub(super) fn waits_for(wait: Wait) {
    REASON.with(|reason| reason.set(reason.get().max(wait as u8)));
}

/// What an actor is doing at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// On the CPU, or about to be.
    Busy,
    /// Waiting for a message.
    Starved,
    /// Waiting for room downstream or for memory: healthy, somebody else is slow.
    Blocked,
    /// Waiting for a device or another task.
    Waiting,
    /// Ended.
    Ended,
}

impl Activity {
    fn from_code(code: u8) -> Activity {
        match code {
            0 => Activity::Busy,
            1 => Activity::Starved,
            2 => Activity::Blocked,
            3 => Activity::Waiting,
            _ => Activity::Ended,
        }
    }
}

/// Counters of one actor on one shard.
#[derive(Debug)]
pub struct ActorStats {
    name: &'static str,
    shard: usize,
    busy_nanos: AtomicU64,
    starved_nanos: AtomicU64,
    blocked_nanos: AtomicU64,
    waiting_nanos: AtomicU64,
    messages: AtomicU64,
    heartbeat: AtomicU64,
    activity: AtomicU8,
    slowdown: f64,
}

impl ActorStats {
    /// Zero for an actor called `name` on shard `shard`.
    pub fn new(name: &'static str, shard: usize) -> Arc<ActorStats> {
        ActorStats::slowed(name, shard, 1.0)
    }

    /// The same for an actor that is made to need `slowdown` times its CPU time.
    pub fn slowed(name: &'static str, shard: usize, slowdown: f64) -> Arc<ActorStats> {
        Arc::new(ActorStats {
            name,
            shard,
            slowdown,
            busy_nanos: AtomicU64::new(0),
            starved_nanos: AtomicU64::new(0),
            blocked_nanos: AtomicU64::new(0),
            waiting_nanos: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            heartbeat: AtomicU64::new(0),
            activity: AtomicU8::new(0),
        })
    }

    /// Name of the actor.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its shard.
    pub fn shard(&self) -> usize {
        self.shard
    }

    /// Counts one handled message; for tasks that are not actors with an inbox.
    pub fn count_message(&self) {
        self.messages.fetch_add(1, Ordering::Relaxed);
    }

    /// The figures now.
    pub fn snapshot(&self) -> ActorSnapshot {
        let nanos = |counter: &AtomicU64| Duration::from_nanos(counter.load(Ordering::Relaxed));
        ActorSnapshot {
            name: self.name,
            shard: self.shard,
            busy: nanos(&self.busy_nanos),
            starved: nanos(&self.starved_nanos),
            blocked: nanos(&self.blocked_nanos),
            waiting: nanos(&self.waiting_nanos),
            messages: self.messages.load(Ordering::Relaxed),
            heartbeat: self.heartbeat.load(Ordering::Relaxed),
            activity: Activity::from_code(self.activity.load(Ordering::Relaxed)),
        }
    }
}

/// The figures of one actor at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActorSnapshot {
    /// Name of the actor.
    pub name: &'static str,
    /// Its shard.
    pub shard: usize,
    /// Time on the CPU.
    pub busy: Duration,
    /// Time without a message.
    pub starved: Duration,
    /// Time without room downstream or memory.
    pub blocked: Duration,
    /// Time waiting for a device or another task.
    pub waiting: Duration,
    /// Messages handled.
    pub messages: u64,
    /// Grows with every step the actor makes.
    pub heartbeat: u64,
    /// What it is doing.
    pub activity: Activity,
}

impl ActorSnapshot {
    /// True if the actor has made no step since `before` although it is neither starved nor blocked by others. One
    /// that waits for a device counts as stuck: the caller chooses how long it watches before it says so.
    pub fn is_stuck_since(&self, before: &ActorSnapshot) -> bool {
        self.heartbeat == before.heartbeat && matches!(self.activity, Activity::Busy | Activity::Waiting)
    }
}

/// Charges the time of one task to its actor: the time inside of `poll` is busy, the time between two polls belongs to
/// the reason why the first of them was pending.
pub(super) struct Meter {
    stats: Arc<ActorStats>,
    mark: Option<Duration>,
    reason: u8,
    reason_outside: u8,
}

impl Meter {
    pub(super) fn new(stats: Arc<ActorStats>) -> Meter {
        Meter { stats, mark: None, reason: Wait::Device as u8, reason_outside: 0 }
    }

    /// Burns what an actor that is slowed down on purpose needs beyond its work, when it is dropped.
    pub(super) fn burner(&self) -> Option<Burner> {
        let more = self.stats.slowdown - 1.0;
        (more > 0.0).then(|| Burner { began: thread_cpu(), more })
    }

    pub(super) fn poll_begins(&mut self, now: Duration) {
        self.reason_outside = REASON.with(|reason| reason.replace(0));
        if let Some(mark) = self.mark {
            let waited_nanos = now.saturating_sub(mark).as_nanos() as u64;
            let counter = match self.reason {
                reason if reason == Wait::Upstream as u8 => &self.stats.starved_nanos,
                reason if reason >= Wait::Memory as u8 => &self.stats.blocked_nanos,
                _ => &self.stats.waiting_nanos,
            };
            counter.fetch_add(waited_nanos, Ordering::Relaxed);
        }
        self.mark = Some(now);
        self.stats.activity.store(0, Ordering::Relaxed);
    }

    pub(super) fn poll_ends(&mut self, now: Duration, ended: bool) {
        let busy_nanos = self.mark.map_or(0, |mark| now.saturating_sub(mark).as_nanos() as u64);
        self.stats.busy_nanos.fetch_add(busy_nanos, Ordering::Relaxed);
        self.stats.heartbeat.fetch_add(1, Ordering::Relaxed);
        self.mark = Some(now);
        self.reason = REASON.with(|reason| reason.replace(self.reason_outside));
        let activity = match self.reason {
            _ if ended => 4,
            reason if reason == Wait::Upstream as u8 => 1,
            reason if reason >= Wait::Memory as u8 => 2,
            _ => 3,
        };
        self.stats.activity.store(activity, Ordering::Relaxed);
    }
}

/// Makes a piece of work need more CPU time: what `mover-bench whatif` does to a stage.
pub(super) struct Burner {
    began: Duration,
    more: f64,
}

impl Drop for Burner {
    fn drop(&mut self) {
        let now = thread_cpu();
        let until = now + now.saturating_sub(self.began).mul_f64(self.more);
        while thread_cpu() < until {
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_between_polls_belongs_to_the_strongest_reason() {
        let stats = ActorStats::new("packer", 3);
        let mut meter = Meter::new(stats.clone());
        let at = Duration::from_millis;
        meter.poll_begins(at(0));
        waits_for(Wait::Downstream);
        waits_for(Wait::Upstream);
        meter.poll_ends(at(2), false);
        let before = stats.snapshot();
        assert_eq!(before.activity, Activity::Blocked);
        meter.poll_begins(at(12));
        waits_for(Wait::Upstream);
        meter.poll_ends(at(13), false);
        meter.poll_begins(at(113));
        meter.poll_ends(at(113), false);
        meter.poll_begins(at(120));
        meter.poll_ends(at(121), true);
        let snapshot = stats.snapshot();
        assert_eq!((snapshot.busy, snapshot.blocked), (at(4), at(10)));
        assert_eq!((snapshot.starved, snapshot.waiting), (at(100), at(7)));
        assert_eq!((snapshot.activity, snapshot.heartbeat), (Activity::Ended, 4));
    }

    #[test]
    fn an_actor_that_is_blocked_by_others_is_not_stuck() {
        let stats = ActorStats::new("packer", 0);
        let mut meter = Meter::new(stats.clone());
        meter.poll_begins(Duration::ZERO);
        waits_for(Wait::Downstream);
        meter.poll_ends(Duration::ZERO, false);
        let before = stats.snapshot();
        assert!(!stats.snapshot().is_stuck_since(&before));
        meter.poll_begins(Duration::ZERO);
        meter.poll_ends(Duration::ZERO, false);
        let before = stats.snapshot();
        assert!(stats.snapshot().is_stuck_since(&before));
    }
}
