//! Time, and what happens when the wall clock jumps.
//!
//! Two clocks: the *wall clock* says which time of day it is and may jump; the *monotonic* one only measures. The rule:
//!
//! 1. Whether a lease has lapsed is judged by the monotonic clock alone ([`crate::lease`]): no jump touches it.
//! 2. Everything else (schedules, windows, pauses) asks [`SettledClock::now`]. It follows the wall clock; when the wall
//!    clock has moved more than [`JUMP_MAX`] away from what the monotonic clock says, it goes on by the monotonic clock
//!    and believes the new wall clock only after that has stayed for [`BELIEF`]. A clock that is set wrong and right
//!    again within this time therefore expires nothing and starts nothing.
//! 3. A schedule never runs twice: (policy, due time) is unique in the database. Its place moves forward only, but for
//!    a clock that was wrong and is right again: then a place that lies too far ahead is put right.
//!
//! Servers that share one database are expected to agree within a few seconds (NTP); where they do not, rule 1 still
//! holds, and agents may seem away for as long as the difference.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::ids::{UnixMillis, millis};

/// A difference up to this is an adjustment, followed at once.
pub const JUMP_MAX: Duration = Duration::from_secs(60);
/// How long the wall clock must stay at its new time until it is believed.
pub const BELIEF: Duration = Duration::from_secs(600);

/// Where time comes from.
pub trait Clock: Send + Sync {
    /// The time of day.
    fn wall(&self) -> UnixMillis;
    /// Time since some moment of this process; never goes back.
    fn monotonic(&self) -> Duration;
}

/// The clocks of the machine.
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Measures from now on.
    pub fn new() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> UnixMillis {
        // Before 1970 there are no schedules.
        UnixMillis(millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that is moved by hand, for tests and simulations.
pub struct ManualClock {
    hands: Mutex<(UnixMillis, Duration)>,
}

impl ManualClock {
    /// Shows this time of day until it is moved.
    pub fn at(wall: UnixMillis) -> Arc<ManualClock> {
        Arc::new(ManualClock { hands: Mutex::new((wall, Duration::ZERO)) })
    }

    /// Time passes.
    pub fn advance(&self, duration: Duration) {
        let mut hands = self.hands.lock();
        hands.0 = hands.0.plus(duration);
        hands.1 += duration;
    }

    /// Somebody sets the wall clock.
    pub fn set_wall(&self, wall: UnixMillis) {
        self.hands.lock().0 = wall;
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> UnixMillis {
        self.hands.lock().0
    }

    fn monotonic(&self) -> Duration {
        self.hands.lock().1
    }
}

/// What a [`SettledClock`] believes.
struct Belief {
    /// Wall minus monotonic, in milliseconds, that counts.
    offset: i64,
    /// Another offset that was seen, and since when on the monotonic clock.
    candidate: Option<(i64, Duration)>,
    /// When a jump was followed last, on the monotonic clock.
    jumped: Option<Duration>,
}

/// The time of day that decisions are made by: rule 2 of the module.
pub struct SettledClock {
    clock: Arc<dyn Clock>,
    belief: Mutex<Belief>,
}

impl SettledClock {
    /// Believes the wall clock as it is now.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<SettledClock> {
        let offset = clock.wall().0 - millis(clock.monotonic());
        Arc::new(SettledClock { clock, belief: Mutex::new(Belief { offset, candidate: None, jumped: None }) })
    }

    /// The time of day.
    pub fn now(&self) -> UnixMillis {
        let monotonic = self.clock.monotonic();
        let seen = self.clock.wall().0 - millis(monotonic);
        let mut belief = self.belief.lock();
        let is_near = |a: i64, b: i64| a.abs_diff(b) <= JUMP_MAX.as_millis() as u64;
        if is_near(seen, belief.offset) {
            *belief = Belief { offset: seen, candidate: None, jumped: belief.jumped };
            return UnixMillis(millis(monotonic) + seen);
        }
        match belief.candidate {
            Some((candidate, since)) if is_near(seen, candidate) => {
                if monotonic.saturating_sub(since) >= BELIEF {
                    tracing::warn!(
                        moved_ms = seen - belief.offset,
                        "the wall clock was moved and stayed; following it"
                    );
                    *belief = Belief { offset: seen, candidate: None, jumped: Some(monotonic) };
                }
            }
            _ => {
                tracing::warn!(moved_ms = seen - belief.offset, "the wall clock jumped; not followed yet");
                belief.candidate = Some((seen, monotonic));
            }
        }
        UnixMillis(millis(monotonic) + belief.offset)
    }

    /// Time since some moment of this process; never goes back.
    pub fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    /// How long ago a jump of the wall clock was followed last; `None`: never.
    pub fn since_jump(&self) -> Option<Duration> {
        let jumped = self.belief.lock().jumped?;
        Some(self.clock.monotonic().saturating_sub(jumped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: UnixMillis = UnixMillis(1_800_000_000_000);

    #[test]
    fn clock_jump_is_not_followed_until_it_stayed() {
        let manual = ManualClock::at(NOON);
        let settled = SettledClock::new(manual.clone());
        let day = Duration::from_secs(86_400);
        manual.set_wall(NOON.plus(day));
        assert_eq!(settled.now(), NOON);
        manual.advance(Duration::from_secs(300));
        assert_eq!(settled.now(), NOON.plus(Duration::from_secs(300)));
        // Set right again in time: nothing ever happened.
        manual.set_wall(NOON.plus(Duration::from_secs(300)));
        manual.advance(BELIEF);
        assert_eq!(settled.now(), NOON.plus(Duration::from_secs(900)));
        // Wrong for good: followed in the end, forward and back.
        for wall in [NOON.plus(day), NOON] {
            manual.set_wall(wall);
            settled.now();
            manual.advance(BELIEF);
            assert_eq!(settled.now(), wall.plus(BELIEF));
        }
    }

    #[test]
    fn clock_adjustments_are_followed_at_once() {
        let manual = ManualClock::at(NOON);
        let settled = SettledClock::new(manual.clone());
        manual.set_wall(NOON.plus(JUMP_MAX));
        assert_eq!(settled.now(), NOON.plus(JUMP_MAX));
        manual.set_wall(NOON);
        assert_eq!(settled.now(), NOON);
    }
}
