//! What an operator meets who sets up a pool, looks why something is not as it should be, and mends it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mover_tests::control::Serve;
use mover_tests::control::agent::policy;
use mover_tests::{Mover, Run, exit, mover};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::site::{Site, backup_of, tree, until};

fn typed(site: &Site, arguments: &[&str]) -> Run {
    let mut command = Mover::command(arguments);
    command.env("MOVER_SERVER", site.url()).env("MOVER_TOKEN_FILE", site.token_file());
    command.env("MOVER_CA", site.authority());
    mover::finish(command, None)
}

/// A child that is killed with the test.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server and waits for its first word.
fn start(command: &mut Command, log: &std::path::Path) -> (Started, Value) {
    let errors = std::fs::File::create(log).expect("a log");
    let mut child = command.stdout(Stdio::piped()).stderr(errors).spawn().expect("start");
    let mut line = String::new();
    let _ = BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line);
    let said = std::fs::read_to_string(log).unwrap_or_default();
    (Started(child), serde_json::from_str(&line).unwrap_or_else(|_| panic!("it did not begin: {line}{said}")))
}

/// Alerts and messages sent people to a log that was empty.
#[test]
fn daemons_log_by_themselves_no_secret_and_what_rust_log_says_otherwise() {
    let site = Site::new();
    let mut agent = site.agent("one", "");
    agent.kill();
    let scratch = site.repo.scratch().to_owned();
    let log = scratch.join("agent-unasked.log");
    let mut run = Mover::command(&["agent", "run", "--state", agent.state.to_str().expect("a path")]);
    run.arg("--config").arg(scratch.join("agent-one.toml")).stdin(Stdio::null()).stdout(Stdio::null());
    let _agent = Started(run.stderr(std::fs::File::create(&log).expect("a log")).spawn().expect("start"));
    let read = |log: &std::path::Path| std::fs::read_to_string(log).unwrap_or_default();
    until("the agent logs that it is connected", || {
        read(&log).lines().any(|line| line.contains("INFO") && line.contains("connected"))
    });
    let serve = |name: &str, asked: Option<&str>| {
        let mut command = Serve::command(&scratch.join(name), &[]);
        command
            .env_remove("RUST_LOG")
            .env("MOVER_MAIL", "smtps://me:s3cret@127.0.0.1")
            .env("MOVER_MAIL_FROM", "m@h.org");
        if let Some(asked) = asked {
            command.env("RUST_LOG", asked);
        }
        let log = scratch.join(format!("{name}.log"));
        let (server, started) = start(&mut command, &log);
        let token = std::fs::read_to_string(started["admin_token_file"].as_str().expect("a file")).expect("the token");
        until("it says that it serves", || asked.is_some() || read(&log).contains("serving"));
        drop(server);
        (read(&log), token.trim().to_owned())
    };
    let (unasked, token) = serve("unasked", None);
    assert!(unasked.contains("INFO") && unasked.contains("serving"), "{unasked}");
    assert!(!unasked.contains(&token) && !unasked.contains("s3cret"), "{unasked}");
    let (silent, _) = serve("silent", Some("error"));
    assert!(!silent.contains("INFO"), "{silent}");
}

/// The alert named a command that said "there is none", for it wanted an id.
#[test]
fn jobs_are_listed_by_the_name_of_their_policy_or_agent_and_unknown_ones_are_told() {
    let site = Site::new();
    let made = site.admin().post("/api/v1/policies", &policy("nightly")).expect(201).field("id");
    let job = site.admin().post(&format!("/api/v1/policies/{made}/run"), &json!({})).expect(201).field("id");
    site.admin().post("/api/v1/policies", &policy("weekly")).expect(201);
    for named in ["nightly", &made] {
        let listed = typed(&site, &["job", "list", "--policy", named]).expect(exit::DONE).text();
        assert!(listed.lines().count() == 2 && listed.contains(&job), "{named}: {listed}");
    }
    let weekly = typed(&site, &["job", "list", "--policy", "weekly"]).expect(exit::DONE);
    assert!(!weekly.text().contains(&job), "{weekly}");
    typed(&site, &["job", "list", "--policy", "nihgtly"]).expect_error(exit::FAILED, "no policy nihgtly");
    typed(&site, &["job", "list", "--agent", "nobody"]).expect_error(exit::FAILED, "no agent nobody");
    // Its jobs stay, and so does their list.
    typed(&site, &["policy", "delete", "nightly"]).expect(exit::DONE);
    let listed = typed(&site, &["job", "list", "--policy", &made]).expect(exit::DONE).text();
    assert!(listed.contains(&job), "{listed}");
}

/// The unit said to put MOVER_MAIL and the names into a file of variables; the one made a server that never began, the
/// others did nothing. And who had MOVER_CA set could not use the line by which an agent joins.
#[test]
fn server_takes_from_its_environment_what_its_unit_says_and_its_line_joins_beside_mover_ca() {
    let scratch = tempfile::tempdir().expect("a directory");
    let log = scratch.path().join("log");
    let unit = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/systemd/mover-serve.service"));
    let unit = unit.expect("the unit");
    let mut command = Serve::command(&scratch.path().join("data"), &[]);
    let given = [
        ("MOVER_NAMES", "127.0.0.1, control.example.org"),
        ("MOVER_MAIL", "smtps://me:s3cret@127.0.0.1"),
        ("MOVER_MAIL_FROM", "mover@example.org"),
    ];
    for (name, value) in given {
        assert!(unit.contains(&format!("{name}=")), "the unit says nothing of {name}");
        command.env(name, value);
    }
    let (_server, started) = start(&mut command, &log);
    let agents = started["agents_url"].as_str().expect("an address");
    assert!(agents.starts_with("https://127.0.0.1:"), "the first of the names: {agents}");
    let line = std::fs::read_to_string(started["join_file"].as_str().expect("a file")).expect("the line");
    let words: Vec<&str> = line.split_whitespace().collect();
    let state = scratch.path().join("state");
    let mut join = Mover::command(&words[1..]);
    join.args(["--name", "one", "--state"]).arg(&state);
    join.env("MOVER_CA", started["authority_file"].as_str().expect("a file"));
    mover::finish(join, None).expect(exit::DONE);
}

/// What limits a job was told when it was over.
#[test]
fn bottleneck_of_a_backup_is_told_while_it_runs() {
    let site = Site::new();
    let agent = site.agent("one", "");
    let large = tree(&site.repo, "large", 40, 8_000_000);
    let before = site.repo.objects().len();
    let job = site.submit(&backup_of(&large, "large"));
    until("data is stored", || site.repo.objects().len() > before + 1);
    // However fast the machine is: stopped, it is not over, and tells how far it is as soon as it goes on for a moment.
    let mut seen = Value::Null;
    until("the running job tells what limits it", || {
        agent.signal_children(Signal::STOP);
        std::thread::sleep(Duration::from_millis(1500));
        let now = site.job(&job);
        assert_eq!(now["state"], "running", "{now}");
        seen = site.admin().get("/api/v1/overview").expect(200).body["running"][0]["progress"]["bottleneck"].clone();
        agent.signal_children(Signal::CONT);
        std::thread::sleep(Duration::from_millis(20));
        seen.is_string()
    });
    assert!(!seen.as_str().unwrap_or_default().is_empty());
    site.completed(&job);
}

/// The server says "enrol under another name", and that failed with a fault of the server; and nothing could remove it.
#[test]
fn host_of_a_revoked_agent_joins_under_another_name_or_when_the_old_one_was_removed() {
    let site = Site::new();
    let mut agent = site.agent("one", "");
    let first = agent.id.clone();
    typed(&site, &["agent", "remove", "one"]).expect_error(exit::FAILED, "not revoked");
    typed(&site, &["agent", "revoke", "one"]).expect(exit::DONE);
    until("the revoked agent ends", || agent.ended().is_some());
    let state = agent.state.clone();
    let token = site.admin().post("/api/v1/enrolments", &json!({ "pool": "main" })).expect(201).field("token");
    let state_text = state.to_str().expect("a path").to_owned();
    let enrol =
        |name: &str| typed(&site, &["agent", "enrol", "--token", &token, "--name", name, "--state", &state_text]);
    let refused = enrol("one").expect(exit::FAILED);
    assert!(refused.stderr.contains("another name") && refused.stderr.contains("mover agent remove"), "{refused}");
    enrol("two").expect(exit::DONE);
    agent.start();
    let source = tree(&site.repo, "source", 1, 1000);
    let done = site.completed(&site.submit(&backup_of(&source, "a")));
    assert!(done["agent"].is_string() && done["agent"] != first.as_str(), "{done}");
    typed(&site, &["agent", "remove", "one"]).expect(exit::DONE);
    let listed = typed(&site, &["agent", "list"]).expect(exit::DONE).text();
    assert!(!listed.contains(&first) && listed.contains("two"), "{listed}");
    // The name is free: another host may have it.
    let _again = site.agent_in("one", "", &site.url(), site.repo.directory("another-host"));
}

/// The answer of the listener of people was taken for news of the job, and its result was thrown away.
#[test]
fn result_that_an_agent_brings_to_the_wrong_address_is_kept_until_it_is_the_right_one() {
    let site = Site::new();
    let mut agent = site.agent("one", "");
    agent.kill();
    let result = agent.state.join("results/nobodys-1.json");
    let said = json!({ "held": { "job": "nobodys", "fence": 1 }, "ending": "completed", "outcome": {} });
    std::fs::write(&result, said.to_string()).expect("write");
    site.kill_serve();
    site.start_serve_with(&["--agent-listen", "127.0.0.1:0"]);
    agent.start();
    let warned = || agent.log().lines().filter(|line| line.contains("its result waits")).count();
    until("it is tried more than once", || warned() > 1);
    assert!(agent.log().contains("the address may be the wrong one"), "{}", agent.log());
    assert!(result.exists(), "the result was thrown away");
    site.kill_serve();
    site.start_serve();
    // Here the answer is news of the job: there is none.
    until("it is told that nobody wants it", || !result.exists());
}
