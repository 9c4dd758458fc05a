//! What is written down of a measurement: one JSON document from which tables and plots are made later.
//!
//! Nothing here measures. Seconds, bytes and counts are in the units that their names end with; what a tool does not
//! tell is absent, never zero. A field that an older document lacks has its default, so that old figures stay readable.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::statistics::Spread;

/// What a tool is made to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// A backup into an empty repository.
    First,
    /// A backup after one generation of edits (`--generations`).
    Generation,
    /// A backup of what has not changed.
    Unchanged,
    /// A backup after about 1 % of the files changed.
    Incremental,
    /// A backup after all times changed and no byte did.
    Rescan,
    /// A restore of the last backup.
    Restore,
}

impl Phase {
    /// In the order in which they are run.
    pub const ALL: [Phase; 6] =
        [Phase::First, Phase::Generation, Phase::Unchanged, Phase::Incremental, Phase::Rescan, Phase::Restore];

    /// The word in tables.
    pub fn name(self) -> &'static str {
        match self {
            Phase::First => "first",
            Phase::Generation => "generation",
            Phase::Unchanged => "unchanged",
            Phase::Incremental => "incremental",
            Phase::Rescan => "rescan",
            Phase::Restore => "restore",
        }
    }
}

/// One measurement session.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Where it was measured.
    pub machine: Machine,
    /// The command line of the harness.
    pub command: String,
    /// Limits that held for every tool, in words.
    pub limits: Vec<String>,
    /// The link, where the repository was behind one.
    pub link: Option<Link>,
    /// The tools that took part.
    pub tools: Vec<ToolRecord>,
    /// Tools that are not on the PATH.
    pub absent: Vec<String>,
    /// The data.
    pub sets: Vec<DataSet>,
    /// Every run.
    pub runs: Vec<Run>,
}

/// The machine and its system.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Processor as it names itself.
    pub cpu: String,
    /// Cores that the tools may use.
    pub cores: usize,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// Kernel release.
    pub kernel: String,
    /// Distribution.
    pub system: String,
    /// File system of the scratch directory.
    pub file_system: String,
    /// Day of the measurement, UTC.
    pub date: String,
}

/// The link between a tool and its repository.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Link {
    /// Rate that was set, in bits per second each way.
    pub rate_bits_per_second: u64,
    /// Delay that was set, one way.
    pub delay_ms: f64,
    /// Share of packets that were dropped.
    pub loss: f64,
    /// Rate that a plain transfer reached before the runs, bytes per second.
    pub measured_bytes_per_second: f64,
    /// Round trip that was measured, first byte there and back.
    pub measured_round_trip_ms: f64,
}

/// One tool.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ToolRecord {
    /// Its name here.
    pub name: String,
    /// What it says of its version.
    pub version: String,
    /// Command lines, with the places as words in braces.
    pub commands: BTreeMap<String, String>,
    /// What a reader must know to judge it.
    pub note: String,
}

/// One tree that is backed up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DataSet {
    /// Name of the tree.
    pub name: String,
    /// Regular files.
    pub files: u64,
    /// Sum of their lengths.
    pub bytes: u64,
    /// What is no hole of it.
    pub data_bytes: u64,
}

/// One run of one tool.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// Name of the data set.
    pub set: String,
    /// Name of the tool.
    pub tool: String,
    /// What it did.
    pub phase: Option<Phase>,
    /// Which round, from 1.
    pub round: u32,
    /// Which repetition of the phase in its round, from 1: more than one of generations alone.
    pub repeat: u32,
    /// Seconds from its start to its end.
    pub wall_seconds: f64,
    /// Seconds that a sync of the file system took after its end: what it left to others.
    pub sync_seconds: f64,
    /// User and system seconds of all its processes.
    pub cpu_seconds: f64,
    /// Most resident memory of all its processes together.
    pub memory_bytes_peak: u64,
    /// Bytes that came from the disk.
    pub read_physical_bytes: u64,
    /// Bytes that its system calls read, from the cache or not; io_uring and mapped files are not in it.
    pub read_syscall_bytes: u64,
    /// Bytes of source that it says to have read.
    pub read_logical_bytes: Option<u64>,
    /// Bytes that were new to the repository before compression, as it says.
    pub unique_bytes: Option<u64>,
    /// Growth of the repository on the disk.
    pub stored_bytes: u64,
    /// The repository on the disk after the run.
    pub repository_bytes: u64,
    /// Whether what it restored equals the source byte for byte.
    pub restored_equal: Option<bool>,
    /// Slower one of the calibration loops before and after.
    pub calibration_seconds: f64,
    /// Why the run says little, where something else used the machine.
    pub disturbed: Option<String>,
    /// Why it failed.
    pub failed: Option<String>,
    /// Seconds since its start, resident bytes.
    pub memory_samples: Vec<(f64, u64)>,
    /// The tool's own figures, for those of `mover`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub told: Vec<serde_json::Value>,
}

impl Run {
    /// The most that was resident at one look. Older documents give as `memory_bytes_peak` what the kernel tells of a
    /// process, which counts the harness before the tool was loaded; their looks are right.
    pub fn memory_peak(&self) -> u64 {
        self.memory_samples.iter().map(|sample| sample.1).max().unwrap_or(self.memory_bytes_peak)
    }
}

impl Report {
    /// The successful runs of one cell; the undisturbed ones where there are any.
    pub fn cell(&self, set: &str, tool: &str, phase: Phase) -> Vec<&Run> {
        let good: Vec<&Run> = self.all(set, tool, phase).into_iter().filter(|run| run.failed.is_none()).collect();
        let quiet: Vec<&Run> = good.iter().copied().filter(|run| run.disturbed.is_none()).collect();
        if quiet.is_empty() { good } else { quiet }
    }

    /// All runs of one cell.
    pub fn all(&self, set: &str, tool: &str, phase: Phase) -> Vec<&Run> {
        self.runs.iter().filter(|run| run.set == set && run.tool == tool && run.phase == Some(phase)).collect()
    }

    /// Median and spread of one figure of one cell.
    pub fn spread(&self, set: &str, tool: &str, phase: Phase, figure: impl Fn(&Run) -> f64) -> Option<Spread> {
        Spread::of(self.cell(set, tool, phase).into_iter().map(figure))
    }

    /// The median of how many times longer `other` took than `own` in the same round; `None` without a pair.
    pub fn paired_ratio(&self, set: &str, own: &str, other: &str, phase: Phase) -> Option<f64> {
        let (ours, theirs) = (self.cell(set, own, phase), self.cell(set, other, phase));
        let mut ratios = Vec::new();
        for mine in ours {
            if let Some(pair) = theirs.iter().find(|run| (run.round, run.repeat) == (mine.round, mine.repeat)) {
                ratios.push(pair.wall_seconds / mine.wall_seconds.max(1e-9));
            }
        }
        Some(Spread::of(ratios)?.median)
    }
}
