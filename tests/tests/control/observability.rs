//! What an operator installs beside a server: alert rules, dashboard and units are checked by the programs that read
//! them, and each figure that they name is one that the server really gives.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use mover_tests::control::Serve;
use mover_tests::control::agent::{backup, policy};
use mover_tests::{exit, needs};
use serde_json::{Value, json};

fn config(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../config").join(file)
}

fn text(file: &str) -> String {
    std::fs::read_to_string(config(file)).expect(file)
}

/// Runs a program on these files and fails with what it says.
fn accepted(program: &str, arguments: &[&str], file: &std::path::Path) -> String {
    let output = Command::new(program).args(arguments).arg(file).output().expect(program);
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{program} {arguments:?} {}: {said}", file.display());
    said
}

/// Names of figures in a text.
fn figures(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("mover_")).map(str::to_owned).collect()
}

/// All that expressions of rules and dashboard ask for.
fn asked_for() -> BTreeSet<String> {
    let dashboard: Value = serde_json::from_str(&text("grafana/mover.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let mut names: BTreeSet<String> =
        targets.flat_map(|target| figures(target["expr"].as_str().expect("an expression"))).collect();
    let rules = text("prometheus/mover.rules.yml");
    names.extend(rules.lines().filter(|line| line.trim_start().starts_with("expr:")).flat_map(figures));
    assert!(names.len() >= 15, "{names:?}");
    names
}

#[test]
fn figures_of_rules_and_dashboard_are_those_that_the_server_gives() {
    let directory = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&directory.path().join("data"), &[]);
    let agent = serve.agent("a");
    serve.admin().post("/api/v1/policies", &policy("nightly")).expect(201);
    serve.admin().post("/api/v1/jobs", &backup("set")).expect(201);
    let lease = agent.poll(20).remove(0);
    let held = json!({ "job": lease["job"]["id"], "fence": lease["fence"] });
    let finish = json!({ "held": held, "ending": "completed", "outcome": { "exceptions_total": 2 } });
    agent.client.post("/agent/v1/finish", &finish).expect(200);
    let metrics = serve.admin().get("/metrics").expect(200).text;
    let given: BTreeSet<String> = metrics.lines().filter(|line| !line.starts_with('#')).flat_map(figures).collect();
    let missing: Vec<String> = asked_for().difference(&given).cloned().collect();
    assert!(missing.is_empty(), "asked for and not given: {missing:?}");
    assert!(metrics.lines().any(|line| line == "mover_job_exceptions_total 2"), "{metrics}");
}

#[test]
fn alert_rules_fire_when_they_should_and_not_before() {
    needs!("promtool");
    accepted("promtool", &["check", "rules"], &config("prometheus/mover.rules.yml"));
    accepted("promtool", &["test", "rules"], &config("prometheus/mover.rules.test.yml"));
    // Each rule is played in the test beside it.
    let played = text("prometheus/mover.rules.test.yml");
    let rules = text("prometheus/mover.rules.yml");
    let names = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let left: Vec<&str> = names.filter(|name| !played.contains(name)).collect();
    assert!(left.is_empty(), "no test plays {left:?}");
}

#[test]
fn units_are_valid_and_confined() {
    needs!("systemd-analyze");
    for (unit, exposure) in [("mover-serve.service", 20), ("mover-agent.service", 45)] {
        let directory = tempfile::tempdir().expect("a directory");
        // The program is not installed where the unit expects it.
        let copy = directory.path().join(unit);
        let content = text(&format!("systemd/{unit}")).replace("/usr/local/bin/mover", "/bin/true");
        std::fs::write(&copy, &content).expect("write");
        let said = accepted("systemd-analyze", &["verify", "--man=no"], &copy);
        assert_eq!(said, "", "{unit}");
        let threshold = format!("--threshold={exposure}");
        accepted("systemd-analyze", &["security", "--offline=true", "--no-pager", &threshold], &copy);
        for line in ["NoNewPrivileges=yes", "ProtectSystem=strict", "Restart=on-failure", "Type=notify"] {
            assert!(content.lines().any(|known| known == line), "{unit}: {line}");
        }
        assert!(content.contains("\nWatchdogSec="), "{unit}");
    }
}

#[test]
fn agent_unit_leaves_io_uring_and_the_reading_of_all_files_alone() {
    let unit = text("systemd/mover-agent.service");
    let settings = |key: &str| -> Vec<String> {
        let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        lines.flat_map(|line| line.split(' ').map(str::to_owned)).collect()
    };
    let calls = settings("SystemCallFilter");
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(calls.iter().any(|allowed| allowed == call), "{call}");
    }
    assert!(settings("CapabilityBoundingSet").iter().any(|capability| capability == "CAP_DAC_READ_SEARCH"));
    assert_eq!(settings("LimitMEMLOCK"), ["infinity"]);
    assert_eq!(settings("PrivateTmp"), ["no"], "an empty /tmp would be backed up");
    assert_eq!(
        settings("RestartPreventExitStatus"),
        [exit::REVOKED.to_string()],
        "a revoked agent is not started again"
    );
}
