//! How fast a job goes, smoothed, and when it will be done.
//!
//! The mean since the start misleads at the beginning (the first buffers fill at once, unchanged files
//! cost nothing) and for long after a change. Here the last half minute counts most, and nothing is
//! said about the end before there is something to go by. Plain data; time comes in as an argument.

use std::time::Duration;

/// A change of speed shows after about this time.
const SMOOTHED: Duration = Duration::from_secs(15);
/// Shorter observations say nothing about the end.
const BASIS: Duration = Duration::from_secs(5);

/// A smoothed rate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    /// When the counters were last looked at, since the start, and the bytes then.
    last: (Duration, u64),
    /// Weighted sum of rates, and of the weights.
    sum: f64,
    weight: f64,
    /// Since the first byte.
    observed: Duration,
}

impl Rate {
    /// Takes in that `bytes` were done `elapsed` after the start.
    pub fn update(&mut self, elapsed: Duration, bytes: u64) {
        let passed = elapsed.saturating_sub(self.last.0);
        if passed.is_zero() {
            return;
        }
        let per_second = bytes.saturating_sub(self.last.1) as f64 / passed.as_secs_f64();
        let keep = (-passed.as_secs_f64() / SMOOTHED.as_secs_f64()).exp();
        self.sum = self.sum * keep + per_second * (1.0 - keep);
        self.weight = self.weight * keep + (1.0 - keep);
        if bytes > 0 {
            self.observed += passed;
        }
        self.last = (elapsed, bytes);
    }

    /// Bytes a second.
    pub fn per_second(&self) -> f64 {
        if self.weight > 0.0 { self.sum / self.weight } else { 0.0 }
    }

    /// Time until `expected` bytes are done; `None` without a basis for it.
    pub fn remaining(&self, expected: Option<u64>) -> Option<Duration> {
        let left = expected?.checked_sub(self.last.1).filter(|left| *left > 0)?;
        let rate = self.per_second();
        let is_known = self.observed >= BASIS && rate >= 1.0;
        is_known.then(|| Duration::from_secs_f64((left as f64 / rate).min(1e9)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// The first tenth of a second reads 100 MiB into buffers; the rest goes at 10 MiB/s. The ETA of a job of
    /// 1000 MiB began at one second.
    #[test]
    fn a_burst_at_the_start_promises_nothing() {
        let mut rate = Rate::default();
        for tenth in 1..=600u64 {
            rate.update(seconds(tenth as f64 / 10.0), (100 << 20) + (tenth - 1) * (1 << 20));
            let left = rate.remaining(Some(1100 << 20));
            assert_eq!(left.is_some(), tenth >= 50, "after {tenth} tenths");
            if tenth == 300 {
                let true_left = 70.0;
                let error = (left.unwrap().as_secs_f64() - true_left).abs() / true_left;
                assert!(error < 0.2, "{left:?}");
            }
        }
        assert!((rate.per_second() / f64::from(10 << 20) - 1.0).abs() < 0.05);
    }

    #[test]
    fn nothing_is_said_without_a_total_or_after_it() {
        let mut rate = Rate::default();
        for second in 1..20 {
            rate.update(seconds(f64::from(second)), u64::from(second as u32) * 1000);
        }
        assert_eq!(rate.remaining(None), None);
        assert_eq!(rate.remaining(Some(19_000)), None);
        assert!(rate.remaining(Some(29_000)).is_some());
        rate.update(seconds(19.0), 19_000);
    }
}
