//! One job, one recovery point: `mover backup --job` as processes, in both orders of the race, without a control plane.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use mover_tests::{Repo, exit};
use serde_json::Value;

use crate::site::tree;

const IN_USE: i32 = 11;

/// A backup that asks before it publishes.
struct Asking {
    child: Child,
    input: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Asking {
    fn start(repo: &Repo, job: &str, source: &std::path::Path) -> Asking {
        let job = format!("--job={job}");
        let typed = ["--json", "--ask-before-commit", &job, "--set=set", source.to_str().expect("a path")];
        let mut command = repo.command("backup", &typed);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("start");
        let input = child.stdin.take().expect("its input");
        let lines = BufReader::new(child.stdout.take().expect("its output"));
        Asking { child, input, lines }
    }

    /// The next line of this type.
    fn next(&mut self, kind: &str) -> Value {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.lines.read_line(&mut line).expect("a line") > 0, "it ended without a line of type {kind}");
            let value: Value = serde_json::from_str(&line).expect("JSON");
            if value["type"] == kind {
                return value;
            }
        }
    }

    fn answer(&mut self, answer: &str) {
        self.input.write_all(format!("{answer}\n").as_bytes()).expect("answer");
    }

    /// Its exit code and last line.
    fn end(mut self) -> (i32, Value) {
        drop(self.input);
        let last = self.lines.lines().map_while(Result::ok).last().unwrap_or_default();
        let code = self.child.wait().expect("wait").code().expect("a code");
        (code, serde_json::from_str(&last).unwrap_or_default())
    }
}

fn points(repo: &Repo) -> u64 {
    repo.run("points", &["--json"]).expect(exit::DONE).summary().points()
}

#[test]
fn takeover_fences_the_earlier_run_and_its_late_commit_is_refused() {
    let repo = Repo::new();
    let source = tree(&repo, "source", 4, 100_000);
    let mut first = Asking::start(&repo, "J1", &source);
    first.next("commit");
    let mut second = Asking::start(&repo, "J1", &source);
    second.next("commit");
    // The first has the permission in its hands: it comes too late all the same.
    first.answer("yes");
    let (code, error) = first.end();
    assert_eq!((code, error["type"].as_str()), (IN_USE, Some("error")), "{error}");
    assert_eq!(points(&repo), 0);
    second.answer("yes");
    let (code, summary) = second.end();
    assert_eq!((code, summary["made_before"].as_bool()), (exit::DONE, Some(false)), "{summary}");
    assert_eq!(summary["bytes_new"], 0, "it went on from what the first had stored: {summary}");
    assert_eq!(points(&repo), 1);
    repo.verify_all();
}

#[test]
fn takeover_of_a_job_that_has_committed_reports_its_point_and_makes_no_second_one() {
    let repo = Repo::new();
    let source = tree(&repo, "source", 4, 100_000);
    let mut first = Asking::start(&repo, "J1", &source);
    first.next("commit");
    first.answer("yes");
    let (code, made) = first.end();
    assert_eq!(code, exit::DONE, "{made}");
    std::fs::write(source.join("later"), "changed since").expect("write");
    let (code, found) = Asking::start(&repo, "J1", &source).end();
    assert_eq!((code, &found["point"], &found["made_before"]), (exit::DONE, &made["point"], &true.into()), "{found}");
    assert_eq!(points(&repo), 1);
    // Another job makes another point.
    let mut other = Asking::start(&repo, "J2", &source);
    other.next("commit");
    other.answer("yes");
    assert_eq!(other.end().0, exit::DONE);
    assert_eq!(points(&repo), 2);
}

#[test]
fn commit_that_is_refused_or_whose_owner_has_died_makes_no_point_and_keeps_the_work() {
    let repo = Repo::new();
    let source = tree(&repo, "source", 4, 100_000);
    let mut refused = Asking::start(&repo, "J1", &source);
    refused.next("commit");
    refused.answer("somebody else has the job");
    let (code, error) = refused.end();
    assert_eq!(code, exit::FAILED);
    assert!(error["message"].as_str().expect("words").contains("somebody else has the job"), "{error}");
    let mut orphan = Asking::start(&repo, "J1", &source);
    orphan.next("commit");
    let (code, error) = orphan.end();
    assert_eq!(code, exit::FAILED, "{error}");
    assert_eq!(points(&repo), 0);
    let mut third = Asking::start(&repo, "J1", &source);
    third.next("commit");
    third.answer("yes");
    let (code, summary) = third.end();
    assert_eq!((code, summary["bytes_new"].as_u64()), (exit::DONE, Some(0)), "{summary}");
    assert_eq!(points(&repo), 1);
}
