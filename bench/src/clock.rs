//! Time: CPU seconds of this thread or of children, and seconds on the wall; and pinning to few cores.
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

/// Seconds that this clock has counted.
pub fn seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Runs `work` on this thread and measures it.
pub fn measure<T>(work: impl FnOnce() -> T) -> (T, Spent) {
    measure_by(ClockId::ThreadCPUTime, work)
}

/// The same with the CPU time of the whole process: for work that the kernel does on threads of its own.
pub fn measure_process<T>(work: impl FnOnce() -> T) -> (T, Spent) {
    measure_by(ClockId::ProcessCPUTime, work)
}

fn measure_by<T>(clock: ClockId, work: impl FnOnce() -> T) -> (T, Spent) {
    let (cpu, wall) = (seconds(clock), Instant::now());
    let result = work();
    (result, Spent { cpu: seconds(clock) - cpu, wall: wall.elapsed().as_secs_f64() })
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

/// Keeps this thread, and the children that it starts, on few cores while it lives.
pub struct Pinned {
    before: CpuSet,
}

impl Pinned {
    /// Pins to the first `count` cores that this process may use.
    pub fn to(count: usize) -> Option<Pinned> {
        Pinned::to_those(0, count)
    }

    /// Pins to one core, the one with this number among those that this process may use.
    pub fn to_one(number: usize) -> Option<Pinned> {
        Pinned::to_those(number, 1)
    }

    fn to_those(skip: usize, count: usize) -> Option<Pinned> {
        let before = sched_getaffinity(None::<Pid>).ok()?;
        let mut few = CpuSet::new();
        let usable = (0..CpuSet::MAX_CPU).filter(|core| before.is_set(*core));
        usable.skip(skip).take(count).for_each(|core| few.set(core));
        sched_setaffinity(None::<Pid>, &few).ok()?;
        Some(Pinned { before })
    }
}

impl Drop for Pinned {
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
