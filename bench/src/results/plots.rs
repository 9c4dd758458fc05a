//! Which plots there are: throughput by data set, CPU by data set, cost per GiB by stage, memory over time.
//!
//! Each is a name and an SVG text; nothing is written here.

use serde_json::Value;

use super::svg::{self, Bar, Frame, Series};
use crate::rivals::record::{Phase, Report, Run};
use crate::rivals::tools::{PLAIN, TOOLS};

const GIB: f64 = 1_073_741_824.0;
const MIB: f64 = 1_048_576.0;

/// One file.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Name without ending.
    pub name: String,
    /// What it shows, for those who cannot see it.
    pub title: String,
    /// The drawing.
    pub svg: String,
}

/// One colour for each tool, distinct for the colour-blind too; the same in all plots.
fn colour(tool: &str) -> &'static str {
    match tool {
        "mover" => "#0072b2",
        "restic" => "#e69f00",
        "rustic" => "#d55e00",
        "borg" => "#009e73",
        "bupstash" => "#cc79a7",
        "kopia" => "#56b4e9",
        _ => "#9a9a9a",
    }
}

/// The tools of a report, in the order of the table; a plain copy would make all others small and stands in the tables.
fn tools(report: &Report) -> Vec<&'static str> {
    let present = |name: &str| name != PLAIN && report.tools.iter().any(|tool| tool.name == name);
    TOOLS.iter().map(|tool| tool.name).filter(|name| present(name)).collect()
}

/// All plots of one report; `prefix` keeps those of several reports apart.
pub fn of_report(report: &Report, prefix: &str) -> Vec<Plot> {
    let mut plots = Vec::new();
    for phase in [Phase::First, Phase::Incremental, Phase::Restore] {
        let title = format!("{}: MB of source a second, by data set", phase_words(phase));
        plots.extend(by_set(
            report,
            format!("{prefix}throughput-{}", phase.name()),
            title,
            "MB/s",
            phase,
            |run, bytes| bytes / 1e6 / run.wall_seconds.max(1e-9),
        ));
    }
    for phase in [Phase::First, Phase::Restore] {
        let title = format!("{}: CPU seconds for a GiB of source", phase_words(phase));
        plots.extend(by_set(
            report,
            format!("{prefix}cpu-{}", phase.name()),
            title,
            "CPU s/GiB",
            phase,
            |run, bytes| run.cpu_seconds / (bytes / GIB).max(1e-9),
        ));
    }
    for set in &report.sets {
        for phase in [Phase::First, Phase::Restore] {
            plots.extend(memory(report, prefix, &set.name, phase));
        }
    }
    plots
}

fn phase_words(phase: Phase) -> &'static str {
    match phase {
        Phase::First => "First backup",
        Phase::Generation => "Backup of a generation",
        Phase::Unchanged => "Unchanged backup",
        Phase::Incremental => "Incremental backup, 1 % changed",
        Phase::Rescan => "Rescan of equal content",
        Phase::Restore => "Restore",
    }
}

fn by_set(
    report: &Report,
    name: String,
    title: String,
    unit: &str,
    phase: Phase,
    figure: impl Fn(&Run, f64) -> f64,
) -> Option<Plot> {
    let groups: Vec<String> = report.sets.iter().map(|set| set.name.clone()).collect();
    let mut series = Vec::new();
    for tool in tools(report) {
        let bar = |set: &crate::rivals::record::DataSet| {
            let spread = report.spread(&set.name, tool, phase, |run| figure(run, set.data_bytes as f64))?;
            Some(Bar { value: spread.median, spread: Some((spread.least, spread.most)) })
        };
        let data: Vec<Option<Bar>> = report.sets.iter().map(bar).collect();
        if data.iter().any(Option::is_some) {
            series.push(Series { name: tool.to_owned(), colour: colour(tool), data });
        }
    }
    if series.is_empty() {
        return None;
    }
    let subtitle = format!("median of the runs, thin line from least to most; {}", limits_words(report));
    let svg = svg::bars(&Frame { title: &title, subtitle: &subtitle, unit }, &groups, &series);
    Some(Plot { name, title, svg })
}

fn limits_words(report: &Report) -> String {
    let link = report.link.as_ref().map_or(String::new(), |link| {
        format!(", link of {} Mbit/s, {} ms one way", link.rate_bits_per_second / 1_000_000, link.delay_ms)
    });
    format!("{} cores{link}", report.machine.cores)
}

/// Memory over time, of the run whose time is the median one.
fn memory(report: &Report, prefix: &str, set: &str, phase: Phase) -> Option<Plot> {
    let mut series = Vec::new();
    for tool in tools(report) {
        let mut runs = report.cell(set, tool, phase);
        runs.sort_by(|one, other| one.wall_seconds.total_cmp(&other.wall_seconds));
        let Some(run) = runs.get(runs.len() / 2) else { continue };
        let data: Vec<(f64, f64)> =
            run.memory_samples.iter().map(|(seconds, bytes)| (*seconds, *bytes as f64 / MIB)).collect();
        if data.len() > 1 {
            series.push(Series { name: tool.to_owned(), colour: colour(tool), data });
        }
    }
    if series.is_empty() {
        return None;
    }
    let title = format!("{} of {set}: resident memory over time", phase_words(phase));
    let subtitle = format!("all processes of a tool together, looked at every 50 ms; {}", limits_words(report));
    let svg = svg::lines(&Frame { title: &title, subtitle: &subtitle, unit: "MiB" }, &series);
    Some(Plot { name: format!("{prefix}memory-{set}-{}", phase.name()), title, svg })
}

/// CPU seconds that each stage takes for a GiB, from what `limits --json` printed.
pub fn of_limits(limits: &Value, set: &str) -> Option<Plot> {
    let stages = limits["stages"].as_array()?;
    let mut groups = Vec::new();
    let mut data = Vec::new();
    for stage in stages {
        let (Some(name), Some(rate)) = (stage["stage"].as_str(), stage["bytes_per_second"].as_f64()) else { continue };
        if rate > 0.0 {
            // Long names stand under one bar each: their first words must do.
            groups.push(name.split(',').next().unwrap_or(name).to_owned());
            data.push(Some(Bar { value: GIB / rate, spread: None }));
        }
    }
    if data.is_empty() {
        return None;
    }
    let title = format!("Cost of each stage on {set}");
    let subtitle = "seconds of one core for a GiB of plain bytes, each stage alone";
    let series = [Series { name: "one core".to_owned(), colour: colour("mover"), data }];
    let svg = svg::bars(&Frame { title: &title, subtitle, unit: "s/GiB" }, &groups, &series);
    Some(Plot { name: format!("stages-{set}"), title, svg })
}

#[cfg(test)]
mod tests {
    use super::{of_limits, of_report};
    use crate::results::example;

    #[test]
    fn results_plots_are_made_for_what_was_measured() {
        let plots = of_report(&example::report(), "");
        let names: Vec<&str> = plots.iter().map(|plot| plot.name.as_str()).collect();
        assert_eq!(names, ["throughput-first", "throughput-restore", "cpu-first", "cpu-restore", "memory-mixed-first"]);
        assert!(plots[0].svg.contains(">mover</text>") && plots[0].svg.contains(">restic</text>"));
    }

    #[test]
    fn results_cost_of_a_stage_is_the_inverse_of_its_rate() {
        let limits = serde_json::json!({"stages": [
            {"stage": "chunk", "bytes_per_second": 536_870_912.0},
            {"stage": "create, attributes, rename", "bytes_per_second": null, "ns_per_file": 9000.0},
        ]});
        let plot = of_limits(&limits, "mixed").expect("a plot");
        assert!(plot.svg.contains(">chunk</text>") && plot.svg.contains(">2</text>"), "{}", plot.svg);
        assert!(of_limits(&serde_json::json!({}), "mixed").is_none());
    }
}
