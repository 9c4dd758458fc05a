//! When a request is made again, and when not.
//!
//! Waits are drawn evenly between zero and a bound that doubles (full jitter), so that many clients that lost a store
//! together do not come back together. A store that names its own time (`Retry-After`) gets it, from all requests of
//! this process. Beside the waits there is a budget: what is made again in excess of a tenth of what succeeded waits for
//! its turn, so that a store in trouble is not loaded more by those who notice. Nothing is made again that cannot
//! succeed: what is denied stays denied.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Bound of the first wait.
const WAIT_FIRST: Duration = Duration::from_millis(100);
/// Bound of the longest wait: an outage of hours costs few requests, and its end is noticed soon.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// The longest time that a store may ask all to wait at once.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);
/// Requests that may be made again at once.
const BUDGET: f64 = 100.0;
/// Requests that may be made again a second, whatever succeeds.
const BUDGET_PER_SECOND: f64 = 2.0;
/// What one success adds to the budget.
const BUDGET_PER_SUCCESS: f64 = 0.1;
/// Answers that make no sense are not waited for: whoever gives them goes on to.
const NONSENSE_TRIES_MAX: u32 = 5;
/// Before the first answer of a store ever a name may be mistyped: nobody wants to wait for that.
const PATIENCE_UNKNOWN: Duration = Duration::from_secs(8);

/// Why a request failed, as far as the next step depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nobody answered, or the connection broke.
    Network,
    /// It was answered in a way that makes no sense: perhaps once, perhaps always.
    Nonsense,
    /// The store cannot serve it now; it may have said when to come back.
    Busy(Option<Duration>),
    /// The store knows no such key: one more try, with what the source of the credentials says now.
    Key,
    /// No wait helps.
    Final,
}

/// Shared by all requests to one store.
#[derive(Debug)]
pub(super) struct Patience {
    /// How long one request is made again before its failure is told.
    longest: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    has_answered: bool,
    budget: f64,
    filled: Instant,
    not_before: Instant,
}

/// One request and its tries.
#[derive(Debug, Default)]
pub(super) struct Tries {
    pub count: u32,
    first_failure: Option<Instant>,
    has_looked_for_key: bool,
}

impl Patience {
    pub(super) fn new(longest: Duration) -> Self {
        let now = Instant::now();
        let state = State { has_answered: false, budget: BUDGET, filled: now, not_before: now };
        Self { longest, state: Mutex::new(state) }
    }

    /// Takes note of an answer, whatever it says.
    pub(super) fn answered(&self) {
        self.state.lock().has_answered = true;
    }

    /// Takes note of a success.
    pub(super) fn succeeded(&self) {
        self.answered();
        let mut state = self.state.lock();
        state.budget = (state.budget + BUDGET_PER_SUCCESS).min(BUDGET);
    }

    /// Until when no request should be made, if the store asked for time.
    pub(super) fn pause(&self) -> Option<Instant> {
        let not_before = self.state.lock().not_before;
        (not_before > Instant::now()).then_some(not_before)
    }

    /// How long to wait before the next try; `None` if the failure is to be told. `draw` is even in 0..1.
    pub(super) fn next_wait(&self, tries: &mut Tries, trouble: Trouble, draw: f64) -> Option<Duration> {
        let now = Instant::now();
        let first_failure = *tries.first_failure.get_or_insert(now);
        let mut state = self.state.lock();
        let asked_for = match trouble {
            Trouble::Final => return None,
            Trouble::Nonsense if tries.count >= NONSENSE_TRIES_MAX => return None,
            Trouble::Key if std::mem::replace(&mut tries.has_looked_for_key, true) => return None,
            Trouble::Network | Trouble::Nonsense | Trouble::Key => Duration::ZERO,
            Trouble::Busy(asked_for) => asked_for.unwrap_or_default().min(RETRY_AFTER_MAX),
        };
        let patience = if state.has_answered { self.longest } else { self.longest.min(PATIENCE_UNKNOWN) };
        if now - first_failure >= patience {
            return None;
        }
        if !asked_for.is_zero() {
            state.not_before = state.not_before.max(now + asked_for);
        }
        let bound = WAIT_FIRST.saturating_mul(1 << tries.count.min(16)).min(WAIT_MAX);
        tries.count += 1;
        let wait = asked_for + bound.mul_f64(draw) + state.take_turn(now);
        // The last try is made when patience ends, not before.
        Some(wait.min((first_failure + patience).saturating_duration_since(now).max(asked_for)))
    }
}

impl State {
    /// Takes one from the budget. The time until it is there, if it is not.
    fn take_turn(&mut self, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.budget = (self.budget + since * BUDGET_PER_SECOND).min(BUDGET) - 1.0;
        Duration::from_secs_f64((-self.budget).max(0.0) / BUDGET_PER_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paused<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(work)
    }

    fn known(longest: Duration) -> Patience {
        let patience = Patience::new(longest);
        patience.succeeded();
        patience
    }

    #[test]
    fn waits_double_up_to_a_bound_and_are_drawn_below_it() {
        paused(async {
            let patience = known(Duration::from_secs(3600));
            let mut tries = Tries::default();
            let mut waits = |draw| patience.next_wait(&mut tries, Trouble::Network, draw).unwrap().as_millis();
            assert_eq!([waits(1.0), waits(1.0), waits(0.5), waits(0.0)], [100, 200, 200, 0]);
            for _ in 0..20 {
                waits(1.0);
            }
            assert_eq!(waits(1.0), 20_000);
        });
    }

    #[test]
    fn what_cannot_succeed_is_not_made_again() {
        paused(async {
            let patience = known(Duration::from_secs(3600));
            assert_eq!(patience.next_wait(&mut Tries::default(), Trouble::Final, 0.0), None);
            let mut tries = Tries::default();
            while patience.next_wait(&mut tries, Trouble::Nonsense, 0.0).is_some() {}
            assert_eq!(tries.count, NONSENSE_TRIES_MAX);
            // Whatever came before, a new key is looked for once.
            assert!(patience.next_wait(&mut tries, Trouble::Key, 0.0).is_some());
            assert_eq!(patience.next_wait(&mut tries, Trouble::Key, 0.0), None);
        });
    }

    #[test]
    fn patience_ends_and_is_short_before_the_first_answer() {
        paused(async {
            for (patience, longest) in
                [(known(Duration::from_secs(60)), 60), (Patience::new(Duration::from_secs(60)), 8)]
            {
                let (mut tries, begin) = (Tries::default(), Instant::now());
                while let Some(wait) = patience.next_wait(&mut tries, Trouble::Network, 0.7) {
                    tokio::time::sleep(wait).await;
                }
                assert_eq!(begin.elapsed().as_secs(), longest);
                assert!(tries.count > 3, "{}", tries.count);
            }
        });
    }

    #[test]
    fn a_store_that_asks_for_time_gets_it_from_all() {
        paused(async {
            let patience = known(Duration::from_secs(3600));
            let asked_for = Duration::from_secs(7);
            let wait = patience.next_wait(&mut Tries::default(), Trouble::Busy(Some(asked_for)), 0.0).unwrap();
            assert_eq!(wait, asked_for);
            assert_eq!(patience.pause().unwrap() - Instant::now(), asked_for);
            tokio::time::sleep(asked_for).await;
            assert_eq!(patience.pause(), None);
        });
    }

    #[test]
    fn the_budget_bounds_what_is_made_again() {
        paused(async {
            let patience = known(Duration::from_secs(3600));
            let (begin, mut made) = (Instant::now(), 0);
            while begin.elapsed() < Duration::from_secs(100) {
                // As many requests at once as anybody likes, all of them new.
                let wait = patience.next_wait(&mut Tries::default(), Trouble::Busy(None), 0.0).unwrap();
                tokio::time::sleep(wait).await;
                made += 1;
            }
            assert!((200..=320).contains(&made), "{made}");
        });
    }
}
