//! Time: CPU seconds of this thread or of children, and seconds on the wall; and pinning to one core.
//!
//! Stages are measured in CPU seconds, so that a busy machine does not spoil them; runs and I/O on the wall.

use std::time::Instant;

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Seconds that one piece of work took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// CPU seconds of the thread (or of the child).
    pub cpu: f64,
    /// Seconds on the wall.
    pub wall: f64,
}

fn thread_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Runs `work` on this thread and measures it.
pub fn measure<T>(work: impl FnOnce() -> T) -> (T, Spent) {
    let (cpu, wall) = (thread_seconds(), Instant::now());
    let result = work();
    (result, Spent { cpu: thread_seconds() - cpu, wall: wall.elapsed().as_secs_f64() })
}

/// User and system seconds of all children that have been waited for.
pub fn children_seconds() -> f64 {
    // SAFETY: `rusage` is plain data for which all zero bytes are valid, and the call only fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Keeps this thread on one core while it lives.
pub struct OneCore {
    before: CpuSet,
}

impl OneCore {
    /// Pins to the first core that this process may use.
    pub fn pin() -> Option<OneCore> {
        let before = sched_getaffinity(None::<Pid>).ok()?;
        let first = (0..CpuSet::MAX_CPU).find(|core| before.is_set(*core))?;
        let mut one = CpuSet::new();
        one.set(first);
        sched_setaffinity(None::<Pid>, &one).ok()?;
        Some(OneCore { before })
    }
}

impl Drop for OneCore {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None::<Pid>, &self.before);
    }
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The middle one of several figures.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
