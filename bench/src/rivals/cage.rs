//! The same limits for every tool: a set of cores, and a memory control group of its own for each run.
//!
//! Linux control groups of either version, made by root. Where they cannot be had, that is said in the report and the
//! tools run without the memory limit. A group takes the tool, its children, and the page cache that they fill; it is
//! removed after its run, so that no run pays for what an earlier one left in the cache.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{CpuSet, Pid, sched_getaffinity};

use crate::{Result, during};

const CGROUPS: &str = "/sys/fs/cgroup";

/// The limits of one session.
pub struct Cage {
    cores: CpuSet,
    cores_count: usize,
    memory_bytes_max: Option<u64>,
    /// Controllers under which each run gets a directory.
    parents: Vec<PathBuf>,
    said: String,
}

/// The groups of one run; removed on drop.
pub struct Groups {
    directories: Vec<PathBuf>,
}

impl Cage {
    /// Takes the first `cores` of those that this process may use, and tries for a memory limit.
    pub fn create(cores: usize, memory_bytes_max: Option<u64>) -> Result<Cage> {
        let all = during("ask for the cores", sched_getaffinity(None::<Pid>))?;
        let mut chosen = CpuSet::new();
        (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core)).take(cores).for_each(|core| chosen.set(core));
        let count = chosen.count() as usize;
        let mut cage =
            Cage { cores: chosen, cores_count: count, memory_bytes_max, parents: Vec::new(), said: String::new() };
        cage.parents = controllers();
        let outcome = cage.groups().map(drop);
        cage.said = match (&outcome, memory_bytes_max) {
            (Ok(()), Some(bytes)) if !cage.parents.is_empty() => {
                format!("memory: {} MiB a run, page cache included, by control group", bytes >> 20)
            }
            (Ok(()), None) => "memory: not limited".to_owned(),
            (Ok(()), Some(_)) => "memory: not limited, there is no memory control group".to_owned(),
            (Err(error), _) => {
                cage.parents.clear();
                format!("memory: not limited, {error}")
            }
        };
        Ok(cage)
    }

    /// The limits in words.
    pub fn words(&self) -> Vec<String> {
        vec![format!("cores: {}", self.cores_count), self.said.clone()]
    }

    /// Cores that a tool may use.
    pub fn cores(&self) -> CpuSet {
        self.cores
    }

    /// How many these are.
    pub fn cores_count(&self) -> usize {
        self.cores_count
    }

    /// Makes the groups of one run.
    pub fn groups(&self) -> Result<Groups> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mover-bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut groups = Groups { directories: Vec::new() };
        for parent in &self.parents {
            let directory = parent.join(&name);
            during(format!("create {}", directory.display()), std::fs::create_dir(&directory))?;
            groups.directories.push(directory.clone());
            let Some(bytes) = self.memory_bytes_max else { continue };
            for file in ["memory.limit_in_bytes", "memory.max"] {
                let limit = directory.join(file);
                if limit.exists() {
                    during(format!("write {}", limit.display()), std::fs::write(&limit, bytes.to_string()))?;
                }
            }
        }
        Ok(groups)
    }
}

/// The directories that control memory and count CPU time here.
fn controllers() -> Vec<PathBuf> {
    let first: Vec<PathBuf> = ["memory", "cpuacct"].iter().map(|name| Path::new(CGROUPS).join(name)).collect();
    if first.iter().all(|path| path.join("cgroup.procs").exists()) {
        return first;
    }
    let active = std::fs::read_to_string(Path::new(CGROUPS).join("cgroup.subtree_control")).unwrap_or_default();
    if active.split_whitespace().any(|name| name == "memory") { vec![CGROUPS.into()] } else { Vec::new() }
}

impl Groups {
    /// Open files into which a new process writes `0` to join.
    pub fn doors(&self) -> Result<Vec<OwnedFd>> {
        let open = |directory: &PathBuf| OpenOptions::new().write(true).open(directory.join("cgroup.procs"));
        let files: std::io::Result<Vec<File>> = self.directories.iter().map(open).collect();
        Ok(during("open a control group", files)?.into_iter().map(OwnedFd::from).collect())
    }

    /// Processes inside; `None` where there is no group.
    pub fn processes(&self) -> Option<Vec<u32>> {
        let text = std::fs::read_to_string(self.directories.first()?.join("cgroup.procs")).ok()?;
        Some(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// CPU seconds of all that ever ran inside.
    pub fn cpu_seconds(&self) -> Option<f64> {
        for directory in &self.directories {
            if let Ok(text) = std::fs::read_to_string(directory.join("cpuacct.usage")) {
                return Some(text.trim().parse::<f64>().ok()? / 1e9);
            }
            if let Ok(text) = std::fs::read_to_string(directory.join("cpu.stat")) {
                let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
                return Some(line.trim().parse::<f64>().ok()? / 1e6);
            }
        }
        None
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for process in self.processes().unwrap_or_default() {
            if let Some(pid) = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        for directory in &self.directories {
            // What was killed takes a moment to leave.
            for _ in 0..100 {
                if std::fs::remove_dir(directory).is_ok() || !directory.exists() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
}
