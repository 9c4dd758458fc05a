//! `--stdin NAME`: one file of unknown length, read once from front to back.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use mover_tests::mover::{Run, finish, wait};
use mover_tests::random::Random;
use mover_tests::tree::MIB;
use mover_tests::{Repo, exit};

fn backup_stream(repo: &Repo, content: &[u8]) -> Run {
    finish(repo.command("backup", &["--json", "--set", "stream", "--stdin", "dump.sql"]), Some(content))
}

#[test]
fn stream_of_any_length_comes_back() {
    let repo = Repo::new();
    for length in [0, 1, 4096, MIB as usize + 1, 64 * MIB as usize, 64 * MIB as usize + 1, 130 * MIB as usize] {
        let content = Random::new(length as u64).text(length);
        let summary = backup_stream(&repo, &content).expect(exit::DONE).summary();
        assert_eq!(summary.bytes(), length as u64);
        let dumped = repo.run("dump", &[&summary.point(), "dump.sql"]).expect(exit::DONE);
        assert!(dumped.stdout == content, "{length} bytes came back otherwise");
    }
    repo.verify_all();
}

#[test]
fn stream_repeated_stores_nothing_new() {
    let repo = Repo::new();
    let content = Random::new(1).bytes(20 * MIB as usize);
    backup_stream(&repo, &content).expect(exit::DONE);
    let second = backup_stream(&repo, &content).expect(exit::DONE).summary();
    assert_eq!(second.bytes_read(), 20 * MIB);
    assert_eq!(second.bytes_new(), 0);
}

#[test]
fn stream_restores_into_a_target() {
    let repo = Repo::new();
    let content = Random::new(2).text(3 * MIB as usize);
    let summary = backup_stream(&repo, &content).expect(exit::DONE).summary();
    let target = repo.directory("target");
    repo.restore_run(&summary.point(), &target, &[]).expect(exit::DONE);
    assert!(std::fs::read(target.join("dump.sql")).expect("read") == content);
}

/// `--in-place` put a stream into the root directory, under its bare name.
#[test]
fn stream_is_not_restored_in_place() {
    let repo = Repo::new();
    let summary = backup_stream(&repo, b"a dump").expect(exit::DONE).summary();
    let run = repo.run("restore", &[&summary.point(), "--in-place"]).expect_error(exit::USAGE, "dump.sql");
    assert!(run.stderr.contains("--target") && run.stderr.contains("mover dump"), "{run}");
    assert!(!std::path::Path::new("/dump.sql").exists());
}

#[test]
fn stream_and_paths_together_are_wrong_usage() {
    let repo = Repo::new();
    repo.run("backup", &["--stdin", "name", "/etc"]).expect(exit::USAGE);
    for name in ["", "a/../b", "/absolute", "..", "a//b"] {
        let run = finish(repo.command("backup", &["--stdin", name]), Some(b"x"));
        assert!([exit::USAGE, exit::FAILED].contains(&run.code) && !run.panicked(), "{name:?}: {run}");
    }
}

/// A producer that says nothing kept the read, and with it the whole job, from hearing Ctrl-C.
#[test]
fn stream_of_a_silent_producer_ends_at_the_first_interrupt() {
    let repo = Repo::new();
    let mut command = repo.command("backup", &["--stdin", "silent.sql"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("start");
    let mut producer = child.stdin.take().expect("a pipe");
    producer.write_all(&[7; 100_000]).expect("write");
    // Begun: it is registered.
    while repo.objects().iter().all(|(name, _)| !name.ends_with("open")) {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(200));
    let process = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(process, rustix::process::Signal::INT).expect("interrupt");
    wait(child, "a backup of a silent stream".to_owned()).expect(exit::INTERRUPTED);
    drop(producer);
    assert_eq!(repo.run("points", &["--json"]).expect(exit::DONE).summary().points(), 0);
}

/// A stream that could not be read became an empty file in a point that counted as good.
#[test]
fn stream_that_cannot_be_read_makes_no_recovery_point() {
    let repo = Repo::new();
    let mut command = repo.command("backup", &["--stdin", "broken.sql"]);
    command.stdin(std::fs::File::open("/").expect("open a directory"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = wait(command.spawn().expect("start"), "a backup of a directory as a stream".to_owned());
    run.expect_error(exit::FAILED, "broken.sql");
    assert_eq!(repo.run("points", &["--json"]).expect(exit::DONE).summary().points(), 0);
}
