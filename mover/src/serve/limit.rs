//! Token buckets: how often somebody may ask. One a token, an agent, and an address.
//!
//! Memory is bounded: at [`BUCKETS_MAX`] the buckets that are full again are dropped, and if none is, who is new shares
//! one bucket with all others who are new.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Buckets at most.
const BUCKETS_MAX: usize = 20_000;

/// How much somebody may ask.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// So many at once.
    pub burst: f64,
    /// So many a second after that.
    pub a_second: f64,
}

/// For who holds a token: a console or a script.
pub const TOKEN: Rate = Rate { burst: 400.0, a_second: 100.0 };
/// For one agent: heartbeats, polls and reports of all its jobs.
pub const AGENT: Rate = Rate { burst: 400.0, a_second: 100.0 };
/// For an address that has not proven who it is: probes, enrolments, logins, and guesses.
pub const STRANGER: Rate = Rate { burst: 60.0, a_second: 5.0 };

struct Bucket {
    left: f64,
    rate: Rate,
    at: Instant,
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * self.rate.a_second).min(self.rate.burst);
        self.at = now;
    }
}

/// All buckets of a server.
#[derive(Default)]
pub struct Limiter(Mutex<HashMap<String, Bucket>>);

impl Limiter {
    /// Whether [`Limiter::take`] would give one, or how long to wait for it; takes nothing.
    ///
    /// # Errors
    /// The bucket is empty.
    pub fn peek(&self, who: &str, rate: Rate, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.0.lock();
        let Some(bucket) = buckets.get_mut(who) else { return Ok(()) };
        bucket.refill(now);
        if bucket.left >= 1.0 { Ok(()) } else { Err(Duration::from_secs_f64((1.0 - bucket.left) / rate.a_second)) }
    }

    /// Takes one from the bucket of `who`, or tells how long to wait for it.
    ///
    /// # Errors
    /// The bucket is empty.
    pub fn take(&self, who: &str, rate: Rate, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.0.lock();
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(who) {
            buckets.retain(|_, bucket| {
                bucket.refill(now);
                bucket.left < bucket.rate.burst
            });
        }
        let is_full = buckets.len() >= BUCKETS_MAX && !buckets.contains_key(who);
        let name = if is_full { "everybody else" } else { who };
        let fresh = || Bucket { left: rate.burst, rate, at: now };
        let bucket = buckets.entry(name.to_owned()).or_insert_with(fresh);
        bucket.refill(now);
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - bucket.left) / rate.a_second))
    }
}

/// Secrets that opened a door lately, as hashes under a key of this process: who has proven itself is not held up by the guesses of others behind
/// its address. Says nothing of whether a secret counts still.
#[derive(Default)]
pub struct Proven(RandomState, Mutex<HashSet<u64>>);

impl Proven {
    /// Whether it did.
    pub fn has(&self, secret: &str) -> bool {
        self.1.lock().contains(&self.0.hash_one(secret))
    }

    /// It does now.
    pub fn note(&self, secret: &str) {
        let mut proven = self.1.lock();
        if proven.len() >= BUCKETS_MAX {
            proven.clear();
        }
        proven.insert(self.0.hash_one(secret));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_gives_its_burst_and_then_its_rate_to_each_apart() {
        let limiter = Limiter::default();
        let rate = Rate { burst: 3.0, a_second: 2.0 };
        let start = Instant::now();
        let taken = (0..10).filter(|_| limiter.take("a", rate, start).is_ok()).count();
        assert_eq!(taken, 3);
        assert_eq!(limiter.take("a", rate, start), Err(Duration::from_millis(500)));
        assert!(limiter.take("b", rate, start).is_ok());
        assert_eq!(limiter.peek("a", rate, start), Err(Duration::from_millis(500)));
        assert_eq!((0..10).filter(|_| limiter.peek("b", rate, start).is_ok()).count(), 10, "a look takes nothing");
        let later = start + Duration::from_secs(1);
        assert_eq!((0..10).filter(|_| limiter.take("a", rate, later).is_ok()).count(), 2);
    }

    #[test]
    fn buckets_are_bounded_and_who_is_new_then_shares_one() {
        let limiter = Limiter::default();
        let rate = Rate { burst: 1.0, a_second: 0.001 };
        let start = Instant::now();
        for number in 0..BUCKETS_MAX {
            limiter.take(&number.to_string(), rate, start).unwrap();
        }
        assert!(limiter.take("new", rate, start).is_ok());
        assert!(limiter.take("newer", rate, start).is_err());
        assert!(limiter.0.lock().len() <= BUCKETS_MAX + 1);
    }
}
