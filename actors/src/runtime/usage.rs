//! What the threads of this process have used, by the name of their group: `shard`, `source`, `mover-write` and so on.
//!
//! An actor's own clock sees neither the threads that do blocking work for it, nor when its shard waited for a core.
//! Read from `/proc/self/task`, a few tens of microseconds a look; the time of threads that ended meanwhile shows in
//! the process's sum alone. Any thread.

use std::collections::BTreeMap;
use std::time::Duration;

/// What has been used since the process began, or between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of all threads, ended ones too.
    pub process: Duration,
    /// CPU time of the threads that are there, by the name of their group: the thread's name without its number.
    pub groups: BTreeMap<String, Duration>,
}

impl Usage {
    /// A look. What the system does not tell is zero.
    pub fn now() -> Usage {
        let mut groups: BTreeMap<String, Duration> = BTreeMap::new();
        for thread in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            let read = |name: &str| std::fs::read_to_string(thread.path().join(name)).unwrap_or_default();
            let (name, on_core) = (read("comm"), parse_schedstat(&read("schedstat")));
            *groups.entry(group_of(name.trim_end()).to_owned()).or_default() += on_core;
        }
        Usage { process: cpu_clock(rustix::time::ClockId::ProcessCPUTime), groups }
    }

    /// What was used between `before` and this look.
    pub fn since(&self, before: &Usage) -> Usage {
        let groups = self.groups.iter().map(|(name, now)| (name.clone(), now.saturating_sub(before.group(name))));
        Usage { process: self.process.saturating_sub(before.process), groups: groups.collect() }
    }

    /// CPU time of one group.
    pub fn group(&self, name: &str) -> Duration {
        self.groups.get(name).copied().unwrap_or_default()
    }
}

/// CPU time of the calling thread.
pub(super) fn thread_cpu() -> Duration {
    cpu_clock(rustix::time::ClockId::ThreadCPUTime)
}

fn cpu_clock(clock: rustix::time::ClockId) -> Duration {
    let time = rustix::time::clock_gettime(clock);
    Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec.clamp(0, 999_999_999) as u32)
}

/// `shard-3` is of the group `shard`.
fn group_of(thread: &str) -> &str {
    match thread.rsplit_once('-') {
        Some((group, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => group,
        _ => thread,
    }
}

/// The first number: nanoseconds on a core.
fn parse_schedstat(text: &str) -> Duration {
    text.split_ascii_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .map(Duration::from_nanos)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_grouped_by_their_name_without_the_number() {
        assert_eq!(
            ["shard-0", "mover-write-12", "stream", "restore-plan"].map(group_of),
            ["shard", "mover-write", "stream", "restore-plan"]
        );
        assert_eq!(parse_schedstat("1500 70 3\n"), Duration::from_nanos(1500));
        assert_eq!(parse_schedstat(""), Duration::ZERO);
    }

    #[test]
    fn work_of_a_thread_shows_in_its_group_and_in_the_process() {
        let before = Usage::now();
        let (burnt, is_burnt) = std::sync::mpsc::channel();
        let (look, looked) = std::sync::mpsc::channel::<()>();
        let burn = move || {
            let until = thread_cpu() + Duration::from_millis(30);
            while thread_cpu() < until {}
            burnt.send(()).expect("somebody waits");
            let _ = looked.recv();
        };
        let thread = std::thread::Builder::new().name("burner-7".into()).spawn(burn).expect("start");
        is_burnt.recv().expect("burnt");
        let used = Usage::now().since(&before);
        drop(look);
        thread.join().expect("join");
        assert!(used.group("burner") >= Duration::from_millis(29), "{used:?}");
        assert!(used.process >= used.group("burner"), "{used:?}");
        assert_eq!(used.group("nobody"), Duration::ZERO);
    }
}
