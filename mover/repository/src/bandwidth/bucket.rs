//! A token bucket whose rate follows a calendar.
//!
//! Waiters are served in the order in which they came: the one whose turn it is holds the meter and pays until its
//! bytes are covered, then the next one does. A waiter that is dropped gives its turn back. What may be saved up is
//! bounded: in any ten seconds at most one twentieth more than the rate passes, for callers that take at most
//! [`TokenBucket::slice_bytes`] at once. Time is counted on the monotonic clock; the wall clock only chooses the rule,
//! so a jump of it never makes up or loses bytes.
//!
//! Lives on the threads of a tokio runtime. Must never block a thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Zoned;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout_at};

use super::calendar::{Calendar, Rate};

/// Tells the time on the wall.
pub type WallClock = Arc<dyn Fn() -> Zoned + Send + Sync>;

/// What may be saved up is worth this time …
const BURST_MS: u64 = 100;
/// … but at least this much, so that a slow link is not cut into crumbs …
const BURST_BYTES_MIN: u64 = 64 << 10;
/// … for as long as that is worth no more than this time: it has to fit into the twentieth of ten seconds.
const BURST_MS_MAX: u64 = 400;
/// Paid at once is this part of what may be saved up: the rest is there for a waiter that wakes up late.
const SLICES_PER_BURST: u64 = 4;
/// Largest slice, also where there is no limit: what was released cannot be held back when a limit comes.
const SLICE_BYTES_MAX: u64 = 1 << 20;
/// The rule is looked up again after this time: the wall clock may have jumped.
const RULE_AGE_MAX: Duration = Duration::from_secs(1);
/// Parts of a byte that are counted: what a byte a second earns in a nanosecond.
const BYTE: u128 = 1_000_000_000;
/// [`TokenBucket::free_until_ns`] where nothing is ever limited.
const FOREVER: u64 = u64::MAX;

/// Lets bytes pass at the rate of a calendar.
pub struct TokenBucket {
    wall_clock: WallClock,
    /// The calendar in force, and who waits for another one.
    calendar: watch::Sender<Arc<Calendar>>,
    /// Nobody has to wait before this time since `started`. Written while the calendar is held, so that it never
    /// outlives the calendar that it follows from.
    free_until_ns: AtomicU64,
    started: Instant,
    meter: Mutex<Meter>,
}

/// What was earned and not spent yet.
struct Meter {
    /// Whether there is a calendar that was not looked at yet.
    changes: watch::Receiver<Arc<Calendar>>,
    rate: Rate,
    /// The rate is looked up again at this time.
    rate_until: Instant,
    /// Billionths of a byte.
    credit: u128,
    counted_until: Instant,
}

impl TokenBucket {
    /// A bucket that follows `calendar`. It begins empty.
    pub fn new(calendar: Calendar, wall_clock: WallClock) -> TokenBucket {
        let now = Instant::now();
        let free_until_ns = AtomicU64::new(free_always(&calendar));
        let calendar = watch::Sender::new(Arc::new(calendar));
        let changes = calendar.subscribe();
        let meter = Meter { changes, rate: Rate::Paused, rate_until: now, credit: 0, counted_until: now };
        TokenBucket { wall_clock, free_until_ns, calendar, started: now, meter: Mutex::new(meter) }
    }

    /// The calendar in force.
    pub fn calendar(&self) -> Arc<Calendar> {
        self.calendar.borrow().clone()
    }

    /// Puts another calendar in force. Whoever waits now goes on by it at once.
    pub fn set(&self, calendar: Calendar) {
        self.calendar.send_modify(|in_force| {
            self.free_until_ns.store(free_always(&calendar), Ordering::Release);
            *in_force = Arc::new(calendar);
        });
    }

    /// The rate now, and when another one begins.
    pub fn now_and_next(&self) -> (Rate, Option<Zoned>) {
        let calendar = self.calendar();
        let now = (self.wall_clock)();
        (calendar.rate_at(&now), calendar.next_change_after(&now))
    }

    /// How much to take at once: little enough that the link is used evenly and that a change shows at once.
    pub fn slice_bytes(&self) -> usize {
        if self.free_until_ns.load(Ordering::Acquire) == FOREVER {
            return SLICE_BYTES_MAX as usize;
        }
        slice_bytes(self.calendar().rate_at(&(self.wall_clock)())) as usize
    }

    /// Waits until `bytes` may pass. More than a slice is paid in several parts, and nobody else gets a turn meanwhile.
    pub async fn take(&self, bytes: usize) {
        if self.is_free() {
            return;
        }
        let mut meter = self.meter.lock().await;
        let mut owed = bytes as u64;
        while owed > 0 {
            let now = Instant::now();
            meter.earn(now);
            if now >= meter.rate_until || meter.changes.has_changed().unwrap_or(false) {
                self.look_rate_up(&mut meter, now);
            }
            let Some(until) = meter.pay(&mut owed, now) else { continue };
            let until = until.min(meter.rate_until);
            if timeout_at(until, meter.changes.changed()).await.is_ok() {
                meter.rate_until = now;
            }
        }
    }

    fn is_free(&self) -> bool {
        match self.free_until_ns.load(Ordering::Acquire) {
            FOREVER => true,
            0 => false,
            until => self.since_start_ns(Instant::now()) < until,
        }
    }

    fn since_start_ns(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.started).as_nanos()).unwrap_or(FOREVER - 1)
    }

    fn look_rate_up(&self, meter: &mut Meter, now: Instant) {
        let calendar = meter.changes.borrow_and_update();
        let wall = (self.wall_clock)();
        let rate = calendar.rate_at(&wall);
        let change = calendar.next_change_after(&wall).map(|next| wall.duration_until(&next));
        let to_change = change.and_then(|length| Duration::try_from(length).ok()).unwrap_or(RULE_AGE_MAX);
        let rate_until = now + to_change.clamp(Duration::from_nanos(1), RULE_AGE_MAX);
        if !calendar.is_unlimited() {
            let free_until = if rate == Rate::Unlimited { self.since_start_ns(rate_until) } else { 0 };
            self.free_until_ns.store(free_until, Ordering::Release);
        }
        drop(calendar);
        meter.rate_until = rate_until;
        meter.set_rate(rate);
    }
}

impl Meter {
    /// Counts what was earned up to `now`.
    fn earn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.counted_until);
        self.counted_until = now;
        if let Rate::Limited(rate) = self.rate {
            let earned = u128::from(rate.get()).saturating_mul(passed.as_nanos());
            self.credit = self.credit.saturating_add(earned).min(u128::from(burst_bytes(rate.get())) * BYTE);
        }
    }

    fn set_rate(&mut self, rate: Rate) {
        self.rate = rate;
        let credit_max = match rate {
            Rate::Limited(rate) => u128::from(burst_bytes(rate.get())) * BYTE,
            Rate::Unlimited | Rate::Paused => 0,
        };
        self.credit = self.credit.min(credit_max);
    }

    /// Pays one slice of what is owed, or says how long that takes.
    fn pay(&mut self, owed: &mut u64, now: Instant) -> Option<Instant> {
        let rate = match self.rate {
            Rate::Unlimited => {
                *owed = 0;
                return None;
            }
            // whatever ends the pause also ends the wait
            Rate::Paused => return Some(self.rate_until),
            Rate::Limited(rate) => rate.get(),
        };
        let slice = (*owed).min(slice_bytes(self.rate));
        let price = u128::from(slice) * BYTE;
        if self.credit >= price {
            self.credit -= price;
            *owed -= slice;
            return None;
        }
        let wait_ns = (price - self.credit).div_ceil(u128::from(rate));
        Some(now + Duration::from_nanos(u64::try_from(wait_ns).unwrap_or(u64::MAX)).min(RULE_AGE_MAX))
    }
}

fn free_always(calendar: &Calendar) -> u64 {
    if calendar.is_unlimited() { FOREVER } else { 0 }
}

fn burst_bytes(rate: u64) -> u64 {
    let worth = |ms: u64| (u128::from(rate) * u128::from(ms) / 1000) as u64;
    worth(BURST_MS).max(BURST_BYTES_MIN.min(worth(BURST_MS_MAX))).max(1)
}

fn slice_bytes(rate: Rate) -> u64 {
    match rate {
        Rate::Limited(rate) => (burst_bytes(rate.get()) / SLICES_PER_BURST).clamp(1, SLICE_BYTES_MAX),
        Rate::Unlimited | Rate::Paused => SLICE_BYTES_MAX,
    }
}

#[cfg(test)]
#[path = "bucket_tests.rs"]
mod tests;
