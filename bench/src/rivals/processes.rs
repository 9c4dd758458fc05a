//! What /proc tells of processes and of the machine while a tool runs.
//!
//! Each reading is small: it happens twenty times a second beside what is measured.

use std::time::Instant;

use rustix::thread::CpuSet;

/// A share of the cores' time from which other work counts as a disturbance.
const OTHER_SHARE_MAX: f64 = 0.10;
/// CPU seconds below which a share says nothing: the kernel counts in ticks of 10 ms.
const OTHER_SECONDS_MIN: f64 = 0.15;
/// A share of time that the host took away.
const STOLEN_SHARE_MAX: f64 = 0.02;
/// Rounds of the calibration loop, over 4 MiB each: about 20 ms.
const CALIBRATION_ROUNDS: usize = 8;

/// Bytes that a process and its reaped children have read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadBytes {
    /// From the disk.
    pub physical: u64,
    /// By system calls.
    pub syscall: u64,
}

/// Reads them, of a zombie too.
pub fn read_bytes(process: u32) -> ReadBytes {
    parse_io(&std::fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default())
}

fn parse_io(text: &str) -> ReadBytes {
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)).and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
    };
    ReadBytes { physical: field("read_bytes:"), syscall: field("rchar:") }
}

/// Resident bytes of one process, nothing if it is gone.
pub fn resident_bytes(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/statm")).unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// A process and all its descendants.
pub fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let threads = std::fs::read_dir(format!("/proc/{}/task", found[next])).into_iter().flatten().flatten();
        for thread in threads {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        next += 1;
    }
    found
}

/// CPU seconds of the machine: all that was busy, and what the host took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct CpuTimes {
    busy: f64,
    stolen: f64,
}

fn parse_stat(text: &str, cores: &CpuSet) -> CpuTimes {
    let mut times = CpuTimes::default();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let core = fields.next().and_then(|name| name.strip_prefix("cpu")?.parse::<usize>().ok());
        if !core.is_some_and(|number| number < CpuSet::MAX_CPU && cores.is_set(number)) {
            continue;
        }
        let ticks: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal
        let at = |index: usize| ticks.get(index).copied().unwrap_or(0.0) / 100.0;
        times.busy += at(0) + at(1) + at(2) + at(5) + at(6);
        times.stolen += at(7);
    }
    times
}

/// CPU seconds of these processes, of their descendants, and of what these have reaped.
fn seconds_of_trees(roots: &[u32]) -> f64 {
    let all: Vec<u32> = roots.iter().flat_map(|root| tree(*root)).collect();
    let read = |process: &u32| std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    all.iter().map(|process| parse_process_stat(&read(process))).sum()
}

fn parse_process_stat(text: &str) -> f64 {
    // The name stands in brackets and may hold anything: fields are counted from behind it. 11 to 14 are utime, stime,
    // cutime, cstime.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(4).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Looks at the machine before and after a run.
pub struct Surroundings<'h> {
    cores: CpuSet,
    helpers: &'h [u32],
    helpers_before: f64,
    before: CpuTimes,
    own_before: f64,
    started: Instant,
    calibration: f64,
}

impl Surroundings<'_> {
    /// The look before. What `helpers` and their children do is part of the run.
    pub fn before(cores: CpuSet, helpers: &[u32]) -> Surroundings<'_> {
        let calibration = calibrate();
        Surroundings {
            cores,
            helpers,
            helpers_before: seconds_of_trees(helpers),
            before: now(&cores),
            own_before: own_seconds(),
            started: Instant::now(),
            calibration,
        }
    }

    /// The look after: why the run was disturbed, if it was, and the slower one of both calibration loops.
    pub fn after(self, cpu_seconds: f64) -> (Option<String>, f64) {
        let wall = self.started.elapsed().as_secs_f64();
        let (after, own) = (now(&self.cores), own_seconds() - self.own_before);
        let helped = seconds_of_trees(self.helpers) - self.helpers_before;
        let capacity = wall * f64::from(self.cores.count());
        let other = after.busy - self.before.busy - cpu_seconds - own - helped;
        let stolen = after.stolen - self.before.stolen;
        (judge(other, stolen, capacity), self.calibration.max(calibrate()))
    }
}

fn judge(other: f64, stolen: f64, capacity: f64) -> Option<String> {
    if stolen > OTHER_SECONDS_MIN && stolen > capacity * STOLEN_SHARE_MAX {
        return Some(format!("the host took {:.0} % of the cores", stolen / capacity * 100.0));
    }
    if other > OTHER_SECONDS_MIN && other > capacity * OTHER_SHARE_MAX {
        return Some(format!("other work took {:.0} % of the cores", other / capacity * 100.0));
    }
    None
}

fn now(cores: &CpuSet) -> CpuTimes {
    parse_stat(&std::fs::read_to_string("/proc/stat").unwrap_or_default(), cores)
}

fn own_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Seconds of a fixed piece of work.
fn calibrate() -> f64 {
    let buffer = vec![7; 4 << 20];
    let started = Instant::now();
    for _ in 0..CALIBRATION_ROUNDS {
        std::hint::black_box(blake3::hash(std::hint::black_box(&buffer)));
    }
    started.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::{CpuSet, CpuTimes, ReadBytes, judge, parse_io, parse_process_stat, parse_stat, resident_bytes, tree};

    #[test]
    fn rivals_counters_of_proc_are_read() {
        let text = "rchar: 123\nwchar: 5\nsyscr: 1\nsyscw: 1\nread_bytes: 4096\nwrite_bytes: 8192\n";
        assert_eq!(parse_io(text), ReadBytes { physical: 4096, syscall: 123 });
        assert_eq!(parse_io(""), ReadBytes::default());
        let process = "77 (a (strange) name) S 1 77 77 0 -1 4194560 10 0 0 0 120 30 40 10 20 0 1 0 100";
        assert_eq!(parse_process_stat(process), 2.0);
        let mut first = CpuSet::new();
        first.set(1);
        let stat = "cpu 9 9 9 9 9 9 9 9\ncpu0 100 0 0 0 0 0 0 0\ncpu1 100 100 200 500 50 20 30 40 0 0\nintr 1\n";
        assert_eq!(parse_stat(stat, &first), CpuTimes { busy: 4.5, stolen: 0.4 });
    }

    #[test]
    fn rivals_disturbance_is_a_share_of_the_cores() {
        assert_eq!(judge(0.1, 0.0, 0.2), None, "ticks alone");
        assert_eq!(judge(1.9, 0.0, 20.0), None);
        assert_eq!(judge(4.0, 0.0, 20.0).as_deref(), Some("other work took 20 % of the cores"));
        assert_eq!(judge(0.0, 1.0, 20.0).as_deref(), Some("the host took 5 % of the cores"));
    }

    #[test]
    fn rivals_tree_of_processes_begins_with_its_root() {
        let own = std::process::id();
        assert_eq!(tree(own)[0], own);
        assert!(resident_bytes(own) > 1 << 20);
        assert_eq!(resident_bytes(u32::MAX), 0);
    }
}
