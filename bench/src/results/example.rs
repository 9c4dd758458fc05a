//! A small report for tests: two tools, one data set, a failed restore.

use crate::rivals::record::{DataSet, Phase, Report, Run, ToolRecord};

fn run(tool: &str, phase: Phase, round: u32, wall_seconds: f64) -> Run {
    Run {
        set: "mixed".into(),
        tool: tool.into(),
        phase: Some(phase),
        round,
        wall_seconds,
        cpu_seconds: wall_seconds,
        memory_bytes_peak: 100 << 20,
        unique_bytes: Some(50_000_000),
        stored_bytes: 20_000_000,
        repository_bytes: 20_000_000,
        memory_samples: vec![(0.0, 10 << 20), (1.0, 90 << 20)],
        ..Run::default()
    }
}

/// Three rounds of a first backup of `mover` and `restic`, one restore each.
pub fn report() -> Report {
    let mut report = Report::default();
    for name in ["mover", "restic"] {
        report.tools.push(ToolRecord { name: name.into(), version: "1".into(), ..ToolRecord::default() });
    }
    report.absent.push("kopia".into());
    report.sets.push(DataSet { name: "mixed".into(), files: 10, bytes: 100_000_000, data_bytes: 100_000_000 });
    for (round, ours, theirs) in [(1, 1.0, 3.0), (2, 2.0, 6.0), (3, 3.0, 9.0)] {
        report.runs.push(run("mover", Phase::First, round, ours));
        report.runs.push(Run { cpu_seconds: ours * 2.0, ..run("restic", Phase::First, round, theirs) });
    }
    let mut good = run("mover", Phase::Restore, 1, 1.0);
    good.restored_equal = Some(true);
    good.memory_samples.truncate(1);
    let mut bad = run("restic", Phase::Restore, 1, 1.0);
    bad.failed = Some("exit code 1:\ncannot find it".into());
    report.runs.extend([good, bad]);
    report
}
