//! A failure shows wherever somebody may look: exit code, last JSON line, listed problems (FAILURES F28).
//!
//! A dashboard of this field said OK after a failure, because nobody asserted what it is fed with.

use mover_tests::damage::{Damage, Hurt};
use mover_tests::mover::finish;
use mover_tests::summary::json_lines;
use mover_tests::tree::{MIB, write_random};
use mover_tests::{Repo, Run, exit};
use serde_json::Value;

fn last(run: &Run) -> Value {
    json_lines(&run.stdout).pop().expect("a line of JSON")
}

/// The last line says the code that the process ended with.
fn expect_status(run: Run, code: i32, kind: &str) -> (Run, Value) {
    let run = run.expect(code);
    let line = last(&run);
    assert_eq!((line["type"].as_str(), line["exit_code"].as_i64()), (Some(kind), Some(code.into())), "{run}");
    (run, line)
}

fn of_type(run: &Run, kind: &str) -> u64 {
    json_lines(&run.stdout).iter().filter(|line| line["type"] == kind).count() as u64
}

fn points(repo: &Repo) -> u64 {
    last(&repo.run("points", &["--json"]))["points"].as_u64().expect("a count")
}

#[test]
fn f28_success_and_each_kind_of_failure_have_their_status() {
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("file"), 3 * MIB, 1);
    let backup = || repo.run("backup", &["--json".as_ref(), source.as_os_str()]);
    let (_, done) = expect_status(backup(), exit::DONE, "summary");
    assert_eq!((done["problems"].as_u64(), points(&repo)), (Some(0), 1));
    let point = done["point"].as_str().expect("a recovery point").to_owned();

    // A backup that is refused makes no point and does not look like one that had nothing to do.
    let record = repo.place().join("log/0000000000000001/open");
    let hurt = Hurt::inflict(&record, Damage::CutTo(9));
    let (run, refused) = expect_status(backup(), exit::FAILED, "error");
    assert_eq!((of_type(&run, "summary"), points(&repo)), (0, 1));
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("log/")), "{refused}");
    assert!(refused["help"].as_str().is_some(), "{refused}");
    drop(hurt);

    let (largest, bytes) = repo.objects().into_iter().max_by_key(|object| object.1).expect("a pack");
    let hurt = Hurt::inflict(&repo.place().join(&largest), Damage::Flip(bytes / 2));
    let target = repo.directory("target");
    let (run, restored) = expect_status(repo.restore_run(&point, &target, &[]), exit::EXCEPTIONS, "summary");
    assert_eq!(
        (of_type(&run, "problem"), restored["problems"].as_u64(), restored["files"].as_u64()),
        (1, Some(1), Some(0))
    );
    let verified = repo.run("verify", &["--json", "--data", "all"]);
    let (run, verified) = expect_status(verified, exit::FAILED, "summary");
    assert_eq!(Some(of_type(&run, "damage")), verified["errors"].as_u64());
    assert_eq!((of_type(&run, "hurt_file"), verified["hurt_files"].as_u64()), (1, Some(1)));
    drop(hurt);

    let mut wrong = repo.command("backup", &["--json".as_ref(), source.as_os_str()]);
    wrong.env_remove("MOVER_PASSWORD_FILE").env("MOVER_PASSWORD", "wrong");
    expect_status(finish(wrong, None), exit::WRONG_KEY, "error");
    expect_status(repo.run("backup", &["--json", "--nonsense"]), exit::USAGE, "error");
    assert_eq!(points(&repo), 1);
}

/// A backup into `/dev/full` said only that it could not write, as if nothing had been stored.
#[test]
fn f28_a_point_that_could_not_be_told_exists_all_the_same() {
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("file"), MIB, 1);
    for form in [&["--json"][..], &[]] {
        let before = points(&repo);
        let mut arguments: Vec<&std::ffi::OsStr> = form.iter().map(std::ffi::OsStr::new).collect();
        arguments.push(source.as_os_str());
        let mut command = repo.command("backup", &arguments);
        let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
        command.stdout(full).stderr(std::process::Stdio::piped());
        let output = command.spawn().expect("start").wait_with_output().expect("wait");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(exit::FAILED), "{said}");
        assert_eq!(points(&repo), before + 1, "{said}");
        let listed = json_lines(&repo.run("points", &["--json"]).stdout);
        let newest = listed.iter().rev().find(|line| line["type"] == "point").expect("a point");
        assert!(said.contains("standard output") && said.contains(newest["id"].as_str().expect("an id")), "{said}");
    }
}
