//! Which zstd level the next frame gets: as much compression as the slowest part of the job pays
//! for.
//!
//! While the uploader keeps the compressor waiting, the processor has time to spare and the level
//! goes up; while the uploader waits, it goes down. One step at a time, judged over a window of
//! frames, so that a single slow write does not move it. Owned by one compressor.

use std::ops::RangeInclusive;

/// Frames between two decisions.
const WINDOW_FRAMES: u32 = 64;
/// Above this share of time blocked by the uploader the level goes up, in percent.
const BLOCKED_PERCENT_UP: u64 = 20;
/// Below this share it goes down.
const BLOCKED_PERCENT_DOWN: u64 = 5;

/// See the module.
#[derive(Debug)]
pub struct LevelControl {
    bounds: RangeInclusive<i32>,
    level: i32,
    frames: u32,
    window_start_ns: u64,
    window_blocked_ns: u64,
}

impl LevelControl {
    /// Starts at the lower bound: until the uploader is known to be the limit, speed comes first.
    pub fn new(bounds: RangeInclusive<i32>) -> Self {
        let level = *bounds.start();
        Self { bounds, level, frames: 0, window_start_ns: 0, window_blocked_ns: 0 }
    }

    /// The level for the next frame.
    pub fn level(&self) -> i32 {
        self.level
    }

    /// Tells that a frame went out; both figures are nanoseconds since the compressor began.
    /// Returns true if the level changed.
    pub fn frame_done(&mut self, now_ns: u64, blocked_ns: u64) -> bool {
        self.frames += 1;
        if self.frames < WINDOW_FRAMES {
            return false;
        }
        let window_ns = now_ns.saturating_sub(self.window_start_ns).max(1);
        let blocked_percent = blocked_ns.saturating_sub(self.window_blocked_ns).saturating_mul(100) / window_ns;
        (self.frames, self.window_start_ns, self.window_blocked_ns) = (0, now_ns, blocked_ns);
        let wanted = match blocked_percent {
            BLOCKED_PERCENT_UP.. => self.level + 1,
            0..BLOCKED_PERCENT_DOWN => self.level - 1,
            _ => self.level,
        };
        let before = self.level;
        self.level = wanted.clamp(*self.bounds.start(), *self.bounds.end());
        before != self.level
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(control: &mut LevelControl, now_ns: &mut u64, blocked_ns: &mut u64, blocked_percent: u64) {
        for _ in 0..WINDOW_FRAMES {
            *now_ns += 1_000_000;
            *blocked_ns += 10_000 * blocked_percent;
            control.frame_done(*now_ns, *blocked_ns);
        }
    }

    #[test]
    fn a_slow_uploader_raises_the_level_and_a_starved_one_lowers_it() {
        let mut control = LevelControl::new(1..=3);
        let (mut now, mut blocked) = (0, 0);
        for _ in 0..5 {
            window(&mut control, &mut now, &mut blocked, 50);
        }
        assert_eq!(control.level(), 3, "stays within its bounds");
        window(&mut control, &mut now, &mut blocked, 10);
        assert_eq!(control.level(), 3, "holds where neither is the limit");
        for _ in 0..5 {
            window(&mut control, &mut now, &mut blocked, 0);
        }
        assert_eq!(control.level(), 1);
    }
}
