//! Where the goal is not reached: what mover itself said of those runs, so that the reader sees what the time went to.

use std::fmt::Write;

use serde_json::Value;

use super::markdown::Cell;
use crate::rivals::record::{Report, Run};
use crate::rivals::tools::OWN;

/// Stages that are named, those first that took most CPU.
const STAGES: usize = 4;

/// A row for each cell that is neither twice as fast nor short; nothing if there is none.
pub fn of(report: &Report, cells: &[Cell<'_>], out: &mut String) {
    let missed: Vec<String> =
        cells.iter().filter(|cell| cell.is_missed()).filter_map(|cell| row(report, cell)).collect();
    if missed.is_empty() {
        return;
    }
    out.push_str(
        "Where it is less than twice as fast, this is what the time went to, as mover tells it (`--stats`):\n\n",
    );
    out.push_str("| data | phase | times as fast | cores busy | limit | CPU by stage |\n");
    out.push_str("| --- | --- | ---: | ---: | --- | --- |\n");
    missed.iter().for_each(|row| out.push_str(row));
    out.push('\n');
}

fn row(report: &Report, cell: &Cell<'_>) -> Option<String> {
    let runs = report.cell(cell.set, OWN, cell.phase);
    let told = runs.iter().filter_map(|run| bottleneck(run)).next_back()?;
    let mut row = String::new();
    let _ = writeln!(
        row,
        "| {} | {} | {:.2} | {} of {} | {} {} | {} |",
        cell.set,
        cell.phase.name(),
        cell.times_as_fast,
        percent(&told["cores_busy"]),
        told["cores"],
        told["limit"].as_str()?,
        percent(&told["limit_share"]),
        stages(told)?,
    );
    Some(row)
}

fn bottleneck(run: &Run) -> Option<&Value> {
    run.told.iter().map(|said| &said["bottleneck"]).find(|found| found.is_object())
}

fn stages(told: &Value) -> Option<String> {
    let all = told["cpu_seconds"].as_f64().filter(|seconds| *seconds > 0.0)?;
    let mut stages: Vec<(&str, f64)> = told["stages"]
        .as_array()?
        .iter()
        .filter_map(|stage| Some((stage["stage"].as_str()?, stage["cpu_seconds"].as_f64()? / all)))
        .collect();
    stages.sort_by(|one, other| other.1.total_cmp(&one.1));
    let words = stages.iter().take(STAGES).map(|(stage, share)| format!("{stage} {:.0} %", share * 100.0));
    Some(words.collect::<Vec<_>>().join(", "))
}

fn percent(share: &Value) -> String {
    share.as_f64().map_or("–".to_owned(), |share| format!("{:.0} %", share * 100.0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::results::{example, markdown};
    use crate::rivals::record::Phase;
    use crate::rivals::tools::OWN;

    #[test]
    fn results_name_the_limit_where_the_goal_is_missed_and_only_there() {
        let mut report = example::report();
        let reached = markdown::report(&report);
        assert!(!reached.contains("CPU by stage"), "{reached}");
        for run in report.runs.iter_mut().filter(|run| run.tool == OWN && run.phase == Some(Phase::First)) {
            run.wall_seconds *= 2.5;
            let stages = json!([{"stage": "chunker", "cpu_seconds": 1.0}, {"stage": "compressor", "cpu_seconds": 3.0}]);
            run.told = vec![
                json!({"type": "actor"}),
                json!({"bottleneck": {"cores": 2, "cores_busy": 0.93, "cpu_seconds": 4.0, "limit": "compressor",
                    "limit_share": 0.75, "stages": stages}}),
            ];
        }
        let missed = markdown::report(&report);
        let row = "| mixed | first | 1.20 | 93 % of 2 | compressor 75 % | compressor 75 %, chunker 25 % |";
        assert!(missed.contains(row), "{missed}");
    }
}
