//! Reports as Markdown tables: what machine, what tools, who was how much faster, and every figure with its spread.
//!
//! Logical, unique and physical rates stand apart. A failed run is a row with its words; an absent figure is a dash.

use std::fmt::Write;

use super::profile;
use crate::rivals::record::{DataSet, Phase, Report, Run};
use crate::rivals::statistics::Spread;
use crate::rivals::tools::{OWN, PLAIN};

const MIB: f64 = 1_048_576.0;
const MEGABYTE: f64 = 1e6;
/// Where a rival takes less, mover may take a little more than it and need not halve it.
const SHORT_SECONDS: f64 = 2.0;
const SHORT_SLACK_SECONDS: f64 = 0.2;
const FASTER: &str = "faster";
const SLOWER: &str = "slower";

/// The whole report.
pub fn report(report: &Report) -> String {
    let mut out = String::new();
    head(report, &mut out);
    glance(report, &mut out);
    for set in &report.sets {
        details(report, set, &mut out);
    }
    out.push_str(
        "Rates are apart: *logical* is data of the source a second, *unique* what was new to the repository before \
         compression, *physical* what the repository grew by on the disk. Read: *disk* came from the disk, *calls* through \
         system calls (io_uring and mapped files are not in it), *source* is what the tool says to have read. \
         *sync* is how long a sync of the file system took after the tool had ended: work that it left to others.\n",
    );
    out
}

fn head(report: &Report, out: &mut String) {
    let machine = &report.machine;
    let _ = writeln!(
        out,
        "{}, {} cores used, {:.1} GiB of memory, {}, Linux {}, {}, {}\n",
        machine.cpu,
        machine.cores,
        machine.memory_bytes as f64 / MIB / 1024.0,
        machine.system,
        machine.kernel,
        machine.file_system,
        machine.date
    );
    for limit in &report.limits {
        let _ = writeln!(out, "- {limit}");
    }
    if let Some(link) = &report.link {
        let _ = writeln!(
            out,
            "- link: {} Mbit/s each way, {} ms one way, {} % loss set; {:.1} MB/s and {:.1} ms there and back measured",
            link.rate_bits_per_second / 1_000_000,
            link.delay_ms,
            link.loss * 100.0,
            link.measured_bytes_per_second / MEGABYTE,
            link.measured_round_trip_ms
        );
    }
    let _ = writeln!(out, "- command: `{}`\n", report.command);
    out.push_str("| tool | version | backup | restore | to know |\n| --- | --- | --- | --- | --- |\n");
    for tool in &report.tools {
        let line = |name: &str| tool.commands.get(name).cloned().unwrap_or_default();
        let _ = writeln!(
            out,
            "| {} | {} | `{}` | `{}` | {} |",
            tool.name,
            tool.version,
            line("backup"),
            line("restore"),
            tool.note
        );
    }
    if !report.absent.is_empty() {
        let _ = writeln!(out, "\nNot on the PATH, so not measured: {}.", report.absent.join(", "));
    }
    out.push('\n');
}

/// mover beside the fastest rival in one phase on one data set.
pub struct Cell<'a> {
    /// Name of the data set.
    pub set: &'a str,
    /// The phase.
    pub phase: Phase,
    /// How many times as fast mover is; the median of pairs.
    pub times_as_fast: f64,
    rival: &'a str,
    own_seconds: f64,
    rival_seconds: f64,
}

impl<'a> Cell<'a> {
    fn of(report: &'a Report, set: &'a str, phase: Phase) -> Option<Self> {
        let seconds = |tool: &str| Some(report.spread(set, tool, phase, |run| run.wall_seconds)?.median);
        let own_seconds = seconds(OWN)?;
        let timed = rivals(report).filter_map(|tool| Some((tool, seconds(tool)?)));
        let (rival, rival_seconds) = timed.min_by(|one, other| one.1.total_cmp(&other.1))?;
        let paired = report.paired_ratio(set, OWN, rival, phase);
        let times_as_fast = paired.unwrap_or(rival_seconds / own_seconds.max(1e-9));
        Some(Cell { set, phase, times_as_fast, rival, own_seconds, rival_seconds })
    }

    /// True if it is neither twice as fast nor so short that this does not count.
    pub fn is_missed(&self) -> bool {
        matches!(self.outcome(), FASTER | SLOWER)
    }

    /// How it stands to the goal: twice as fast, or hardly slower where the rival takes no time worth halving.
    fn outcome(&self) -> &'static str {
        if self.times_as_fast >= 2.0 {
            "twice as fast"
        } else if self.rival_seconds < SHORT_SECONDS && self.own_seconds <= self.rival_seconds + SHORT_SLACK_SECONDS {
            "short, within 0.2 s"
        } else if self.times_as_fast > 1.0 {
            FASTER
        } else {
            SLOWER
        }
    }

    fn row(&self, report: &Report, out: &mut String) {
        let Cell { set, phase, rival, .. } = *self;
        let median = |tool: &str, figure: fn(&Run) -> f64| Some(report.spread(set, tool, phase, figure)?.median);
        let ratio = |figure: fn(&Run) -> f64| match (median(OWN, figure), median(rival, figure)) {
            (Some(ours), Some(theirs)) if theirs > 0.0 => format!("{:.2}", ours / theirs),
            _ => "–".to_owned(),
        };
        let until_synced = |run: &Run| run.wall_seconds + run.sync_seconds;
        let synced = match (median(OWN, until_synced), median(rival, until_synced)) {
            (Some(ours), Some(theirs)) => format!("{:.2}", theirs / ours.max(1e-9)),
            _ => "–".to_owned(),
        };
        let peak = |tool: &str| median(tool, |run| run.memory_peak() as f64 / MIB).unwrap_or_default();
        let _ = writeln!(
            out,
            "| {set} | {} | {} | {rival} | {} | {:.2} | {synced} | {} | {:.0} | {:.0} | {} | {} | {} |",
            phase.name(),
            seconds_words(self.own_seconds),
            seconds_words(self.rival_seconds),
            self.times_as_fast,
            ratio(|run| run.cpu_seconds),
            peak(OWN),
            peak(rival),
            ratio(|run| run.repository_bytes as f64),
            smallest(report, set, phase),
            self.outcome(),
        );
    }
}

/// The tools that mover is compared with; a plain copy is none of them.
fn rivals(report: &Report) -> impl Iterator<Item = &str> {
    report.tools.iter().map(|tool| tool.name.as_str()).filter(|name| ![OWN, PLAIN].contains(name))
}

/// mover beside the fastest rival of each cell, and why where the goal is missed.
fn glance(report: &Report, out: &mut String) {
    let cells: Vec<Cell<'_>> = report
        .sets
        .iter()
        .flat_map(|set| Phase::ALL.into_iter().filter_map(|phase| Cell::of(report, &set.name, phase)))
        .collect();
    if cells.is_empty() {
        return;
    }
    out.push_str("| data | phase | mover s | fastest rival | its s | times as fast | synced | CPU ÷ its | peak MiB | its | repository ÷ its | ÷ the smallest | outcome |\n");
    out.push_str("| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n");
    cells.iter().for_each(|cell| cell.row(report, out));
    out.push_str(
        "\n*Times as fast* is the median of the ratios of paired runs. *Synced* is the same until a sync of the file \
         system has ended after the tool: until then what it wrote is in memory alone.\n\n",
    );
    profile::of(report, &cells, out);
}

/// mover's repository beside that of the rival which stores least, and who that is.
fn smallest(report: &Report, set: &str, phase: Phase) -> String {
    let bytes = |tool: &str| Some(report.spread(set, tool, phase, |run| run.repository_bytes as f64)?.median);
    let sizes = rivals(report).filter_map(|tool| Some((tool, bytes(tool)?)));
    match (bytes(OWN), sizes.min_by(|one, other| one.1.total_cmp(&other.1))) {
        (Some(ours), Some((tool, theirs))) if theirs > 0.0 => format!("{:.2} ({tool})", ours / theirs),
        _ => "–".to_owned(),
    }
}

fn details(report: &Report, set: &DataSet, out: &mut String) {
    let _ = writeln!(
        out,
        "### {}: {} files, {:.0} MB, of which {:.0} MB are no holes\n",
        set.name,
        set.files,
        set.bytes as f64 / MEGABYTE,
        set.data_bytes as f64 / MEGABYTE
    );
    out.push_str("| phase | tool | wall s (least–most) | sync s | CPU s | peak MiB | logical MB/s | unique MB/s | physical MB/s | disk MB | calls MB | source MB | stored MB | repository MB | runs |\n");
    out.push_str(
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n",
    );
    for phase in Phase::ALL {
        for tool in &report.tools {
            let all = report.all(&set.name, &tool.name, phase);
            if !all.is_empty() {
                row(report, set, &tool.name, phase, &all, out);
            }
        }
    }
    out.push('\n');
}

fn row(report: &Report, set: &DataSet, tool: &str, phase: Phase, all: &[&Run], out: &mut String) {
    let spread = |figure: &dyn Fn(&Run) -> f64| report.spread(&set.name, tool, phase, figure);
    let Some(wall) = spread(&|run| run.wall_seconds) else {
        let said = all.iter().find_map(|run| run.failed.as_deref()).unwrap_or("no run");
        let dashes = "| – ".repeat(12);
        let _ = writeln!(out, "| {} | {tool} {dashes}| failed: {} |", phase.name(), one_line(said));
        return;
    };
    let runs = report.cell(&set.name, tool, phase);
    let megabytes = |figure: &dyn Fn(&Run) -> f64| words(spread(&|run| figure(run) / MEGABYTE), 1);
    // A figure that one of the runs does not tell is none of the cell.
    let told = |figure: &dyn Fn(&Run) -> Option<f64>| {
        let values: Option<Vec<f64>> = runs.iter().map(|run| figure(run)).collect();
        values.map_or("–".to_owned(), |values| words(Spread::of(values), 1))
    };
    let per_second = |bytes: f64, run: &Run| bytes / MEGABYTE / run.wall_seconds.max(1e-9);
    let is_backup = phase != Phase::Restore;
    let dash = || "–".to_owned();
    let _ = writeln!(
        out,
        "| {} | {tool} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        phase.name(),
        wall_words(wall),
        words(spread(&|run| run.sync_seconds), 2),
        words(spread(&|run| run.cpu_seconds), 2),
        words(spread(&|run| run.memory_peak() as f64 / MIB), 0),
        words(spread(&|run| per_second(set.data_bytes as f64, run)), 0),
        told(&|run| Some(per_second(run.unique_bytes? as f64, run))),
        if is_backup { words(spread(&|run| per_second(run.stored_bytes as f64, run)), 1) } else { dash() },
        megabytes(&|run| run.read_physical_bytes as f64),
        megabytes(&|run| run.read_syscall_bytes as f64),
        told(&|run| Some(run.read_logical_bytes? as f64 / MEGABYTE)),
        if is_backup { megabytes(&|run| run.stored_bytes as f64) } else { dash() },
        megabytes(&|run| run.repository_bytes as f64),
        runs_words(all),
    );
}

fn runs_words(all: &[&Run]) -> String {
    let disturbed = all.iter().filter(|run| run.disturbed.is_some()).count();
    let failed: Vec<&str> = all.iter().filter_map(|run| run.failed.as_deref()).collect();
    let equal = all.iter().filter(|run| run.restored_equal == Some(true)).count();
    let mut said = all.len().to_string();
    if equal > 0 {
        let _ = write!(said, ", {equal} equal");
    }
    if disturbed > 0 {
        let _ = write!(said, ", {disturbed} disturbed");
    }
    if let Some(first) = failed.first() {
        let _ = write!(said, ", {} failed: {}", failed.len(), one_line(first));
    }
    said
}

fn one_line(said: &str) -> String {
    let words: Vec<&str> = said.split_whitespace().collect();
    let line = words.join(" ").replace('|', "/");
    line.chars().take(240).collect()
}

fn words(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or("–".to_owned(), |found| format!("{:.digits$}", found.median))
}

fn seconds_words(seconds: f64) -> String {
    if seconds < 10.0 { format!("{seconds:.2}") } else { format!("{seconds:.1}") }
}

fn wall_words(spread: Spread) -> String {
    let median = seconds_words(spread.median);
    if spread.count == 1 {
        return median;
    }
    format!("{median} ({}–{})", seconds_words(spread.least), seconds_words(spread.most))
}

#[cfg(test)]
mod tests {
    use super::{Cell, one_line, report};
    use crate::results::example;
    use crate::rivals::record::Phase;

    #[test]
    fn results_table_shows_median_spread_and_ratio() {
        let text = report(&example::report());
        assert!(text.contains("| mixed | first | 2.00 | restic | 6.00 | 3.00 | 3.00 | 0.50 |"), "{text}");
        assert!(text.contains("| first | mover | 2.00 (1.00–3.00) |"), "{text}");
        assert!(text.contains("| restore | mover | 1.00 |") && text.contains("| 1, 1 equal |"), "{text}");
        assert!(text.contains("Not on the PATH, so not measured: kopia."));
    }

    #[test]
    fn results_outcome_is_judged_by_the_goal() {
        let outcome = |own_seconds, rival_seconds| {
            let times_as_fast = rival_seconds / own_seconds;
            let (set, phase, rival) = ("mixed", Phase::First, "restic");
            Cell { set, phase, times_as_fast, rival, own_seconds, rival_seconds }.outcome()
        };
        assert_eq!(outcome(5.0, 10.0), "twice as fast");
        assert_eq!(outcome(1.1, 1.0), "short, within 0.2 s");
        assert_eq!(outcome(5.0, 7.5), "faster");
        assert_eq!(outcome(5.0, 4.0), "slower");
    }

    #[test]
    fn results_failure_is_a_row_with_its_words() {
        let text = report(&example::report());
        let row = text.lines().find(|line| line.starts_with("| restore | restic")).expect("a row");
        assert!(row.ends_with("| failed: exit code 1: cannot find it |"), "{row}");
        let columns = |line: &str| line.matches('|').count();
        let head = text.lines().find(|line| line.starts_with("| phase | tool")).expect("a head");
        assert_eq!(columns(row), columns(head));
        assert_eq!(one_line("a\n b | c"), "a b / c");
    }
}
