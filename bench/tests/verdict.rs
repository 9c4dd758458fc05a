//! What the harness says by its exit code, on a tiny tree: a verdict on figures, never the figures themselves.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The binary that is measured: `MOVER_BIN`, or the released one of this workspace.
fn mover() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/mover");
    let program = std::env::var_os("MOVER_BIN").map_or(built, PathBuf::from);
    assert!(program.is_file(), "{} is missing: run `cargo build --release`", program.display());
    program
}

fn tree() -> tempfile::TempDir {
    let tree = tempfile::tempdir().expect("a directory");
    for number in 0..40 {
        let text = format!("file {number} says the same again and again\n").repeat(200 + number);
        std::fs::write(tree.path().join(format!("f{number}")), text).expect("write");
    }
    tree
}

fn bench(command: &str, path: &Path, more: &[&str]) -> Output {
    let scratch = tempfile::tempdir().expect("a directory");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_mover-bench"));
    bench.arg(command).arg(path).arg("--json").arg("--scratch").arg(scratch.path()).arg("--mover").arg(mover());
    bench.args(more).output().expect("run mover-bench")
}

fn report(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {text} {}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn below_the_required_efficiency_it_exits_1() {
    let tree = tree();
    for command in ["backup", "restore"] {
        let easy = bench(command, tree.path(), &["--require", "0.000001"]);
        assert_eq!(easy.status.code(), Some(0), "{easy:?}");
        let report = report(&easy);
        assert_eq!(report["files"], 40);
        assert!(report["efficiency"].as_f64().is_some_and(|share| share > 0.0), "{report}");
        let impossible = bench(command, tree.path(), &["--require", "1000"]);
        assert_eq!(impossible.status.code(), Some(1), "{impossible:?}");
    }
}

#[test]
fn limits_fail_exactly_where_a_stage_is_under_nine_tenths_of_its_reference() {
    let tree = tree();
    let output = bench("limits", tree.path(), &[]);
    let report = report(&output);
    let stages = report["stages"].as_array().expect("stages");
    // Other ways to read are there where this machine has them.
    let other_ways = ["open … close by io_uring", "read, direct"];
    let is_other = |stage: &&serde_json::Value| other_ways.iter().any(|way| stage["stage"] == *way);
    assert_eq!(stages.iter().filter(|stage| !is_other(stage)).count(), 10, "{report}");
    assert_eq!(report["levels"].as_array().map(Vec::len), Some(4), "{report}");
    let ideals = report["ideal"].as_array().expect("ideals");
    assert_eq!(ideals.len(), 3);
    assert!(
        ideals.iter().all(|ideal| ideal["ideal"]["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0)),
        "{report}"
    );
    let is_low = |stage: &serde_json::Value| stage["share_of_reference"].as_f64().is_some_and(|share| share < 0.9);
    let good = !stages.iter().any(is_low);
    assert_eq!(report["within_reference"], good, "{report}");
    assert_eq!(output.status.code(), Some(if good { 0 } else { 1 }));
}

#[test]
fn whatif_fails_exactly_where_something_foretold_misses_by_more_than_a_tenth() {
    let tree = tree();
    let output = bench("whatif", tree.path(), &[]);
    let report = report(&output);
    let found = report["whatif"].as_array().expect("what was foretold");
    assert!(found.iter().all(|one| one["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0)), "{report}");
    let holds = found.iter().all(|one| one["holds"] == true);
    assert_eq!(output.status.code(), Some(if holds { 0 } else { 1 }), "{report}");
}

/// Fails by itself where a job did not run, ran twice, or was taken from its agent.
#[test]
fn control_plane_gives_every_job_to_one_agent_once_under_load() {
    let control = |more: &[&str]| {
        let scratch = tempfile::tempdir().expect("a directory");
        let mut bench = Command::new(env!("CARGO_BIN_EXE_mover-bench"));
        bench.args(["control", "--agents", "50", "--jobs", "300", "--job-seconds", "0.1", "--json", "--scratch"]);
        bench.arg(scratch.path()).arg("--mover").arg(mover_tests::Mover::program());
        bench.args(more).output().expect("run mover-bench")
    };
    let output = control(&[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = report(&output);
    let outcomes = report.as_array().expect("one for each database");
    let ways: Vec<_> = outcomes.iter().map(|outcome| (&outcome["database"], &outcome["way"])).collect();
    assert_eq!(ways[..2], [(&"SQLite".into(), &"core".into()), (&"SQLite".into(), &"HTTPS".into())]);
    for outcome in outcomes {
        let jobs: Vec<_> = outcome["rounds"].as_array().expect("rounds").iter().map(|round| &round["jobs"]).collect();
        assert_eq!(jobs, [300, 300, 50]);
        match outcome["way"].as_str() {
            Some("core") => assert!(outcome["bytes_per_job"].as_f64().expect("a number") > 100.0),
            _ => assert!(outcome["kib_per_agent"].is_number(), "{outcome}"),
        }
    }
    assert_eq!(control(&["--require", "1e12"]).status.code(), Some(1));
}
