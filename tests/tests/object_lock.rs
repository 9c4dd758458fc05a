//! Object lock, against SeaweedFS in a bucket that has it: what is uploaded is kept by the store, what a point needs stays
//! so for as long as that point is protected, and nothing of mover stumbles over what cannot be deleted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_lite::future::block_on;
use mover_repository::backend::remote::{RemoteOptions, RemotePlace};
use mover_repository::backend::{Backend, RemoteBackend, StorageErrorKind};
use mover_tests::mover::{Repo, exit, scratch};
use mover_tests::s3::{Answer, Fault, Kind, Rule, S3Server, SeaweedFs};
use mover_tests::skip_test;

/// A repository in `server`, and a directory with a file to back up.
fn repository(server: &SeaweedFs) -> Repo {
    let repo = Repo::at(scratch(), server.url("repository").into());
    std::fs::write(repo.directory("source").join("file"), vec![7; 100_000]).unwrap();
    repo
}

fn run(repo: &Repo, server: &SeaweedFs, subcommand: &str, arguments: &[&str]) -> mover_tests::mover::Run {
    let mut command = repo.command(subcommand, arguments);
    command.envs(server.environment()).env("XDG_CACHE_HOME", repo.scratch().join("cache"));
    mover_tests::mover::finish(command, None)
}

/// The time that each point of `mover points --json` is protected until.
fn protected(repo: &Repo, server: &SeaweedFs, more: &[&str]) -> Vec<Option<String>> {
    let arguments: Vec<&str> = ["--json"].iter().chain(more).copied().collect();
    let listed = run(repo, server, "points", &arguments).expect(exit::DONE);
    let text = String::from_utf8(listed.stdout).expect("UTF-8");
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a JSON line"));
    let points = lines.filter(|line| line["type"] == "point");
    points.map(|point| point["protected_until"].as_str().map(str::to_owned)).collect()
}

#[test]
fn lock_is_set_at_upload_and_put_off_for_all_that_a_point_needs() {
    if let Some(reason) = SeaweedFs::missing() {
        skip_test!(reason);
    }
    let server = SeaweedFs::start_locked();
    let repo = repository(&server);
    let source = repo.scratch().join("source");
    let source = source.to_str().unwrap();
    let locked = ["--object-lock", "1d"];
    run(&repo, &server, "init", &locked).expect(exit::DONE);
    run(&repo, &server, "backup", &["--object-lock", "1d", source]).expect(exit::DONE);
    let first = protected(&repo, &server, &[]);
    assert!(first.len() == 1 && first[0].is_some(), "{first:?}");
    assert_eq!(protected(&repo, &server, &["--prove-protection"]).len(), 1);
    run(&repo, &server, "protect", &["--all", "--for", "3d"]).expect(exit::DONE);
    let (told, proven) = (protected(&repo, &server, &[]), protected(&repo, &server, &["--prove-protection"]));
    assert!(told[0] > first[0], "{told:?} after {first:?}");
    assert_eq!(proven, told, "the store says the same as the record");
    run(&repo, &server, "protect", &["--all", "--for", "2d"]).expect(exit::DONE);
    assert_eq!(protected(&repo, &server, &["--prove-protection"]), told, "never made shorter");
    run(&repo, &server, "backup", &["--object-lock", "1d", source]).expect(exit::DONE);
    run(&repo, &server, "forget", &["--keep-last", "1"]).expect(exit::DONE);
    run(&repo, &server, "prune", &["--max-unused", "0"]).expect(exit::DONE);
    run(&repo, &server, "verify", &["--data", "all"]).expect(exit::DONE);
    run(&repo, &server, "doctor", &locked).expect(exit::DONE);
}

#[test]
fn lock_in_a_place_without_it_is_refused_with_the_reason() {
    let repo = Repo::new();
    let refused = repo.run("init", &["--object-lock", "1d"]).expect(exit::USAGE);
    assert!(refused.stderr.contains("there is no object lock in"), "{}", refused.stderr);
    if let Some(reason) = SeaweedFs::missing() {
        skip_test!(reason);
    }
    let server = SeaweedFs::start();
    let repo = repository(&server);
    let refused = run(&repo, &server, "init", &["--object-lock", "1d"]).expect(exit::FAILED);
    assert!(refused.stderr.contains("the bucket has no object lock"), "{}", refused.stderr);
    run(&repo, &server, "init", &[]).expect(exit::DONE);
    run(&repo, &server, "doctor", &[]).expect(exit::DONE);
    let examined = run(&repo, &server, "doctor", &["--object-lock", "1d"]).expect(exit::FAILED).text();
    let failed: Vec<&str> = examined.lines().filter(|line| line.starts_with("fail")).collect();
    assert!(failed[0].contains("a locked object is kept until its time"), "{examined}");
    assert!(failed[0].contains("cannot lock ") && failed[0].contains(&server.url("repository")), "{examined}");
    assert!(examined.contains("the bucket has no object lock: make one that has it"), "{examined}");
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MIB: usize = 1 << 20;

/// Packs that are larger than a part are locked too, as those that go whole: the lock is asked for when the upload begins.
#[test]
fn lock_is_set_on_a_pack_that_goes_in_parts() {
    if let Some(reason) = SeaweedFs::missing() {
        skip_test!(reason);
    }
    let server = SeaweedFs::start_locked();
    let mut options = RemoteOptions::new(server.environment());
    options.retention.period = Some(DAY);
    options.part_bytes = 5 * MIB as u64;
    let place = RemotePlace::parse(&server.url("repository")).expect("the URL of a test");
    let store = RemoteBackend::open(&place, options).expect("a client");
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    for (name, pieces) in [("packs/1/in-parts", 12), ("packs/1/whole", 1)] {
        let mut writer = store.stream(name);
        for number in 0..pieces {
            block_on(writer.append(vec![Bytes::from(vec![number; MIB])])).expect("append");
        }
        block_on(writer.finish()).expect("finish");
        assert_eq!(block_on(store.size(name)).expect("its size"), usize::from(pieces) as u64 * MIB as u64);
        let until = block_on(store.retained_until(name)).expect("its lock").expect("it is locked");
        assert!(until.0 >= (begun + DAY).as_nanos() as i128 / 1_000_000_000 * 1_000_000_000, "{name}: {until:?}");
        let refused = block_on(store.delete(name)).expect_err("it is locked");
        assert_eq!(refused.kind, StorageErrorKind::Retained(until), "{refused}");
    }
}

/// The store refuses to lock packs: the backup is there all the same, and says what is not locked.
#[test]
fn lock_that_cannot_be_put_off_is_an_exception_that_names_the_pack() {
    let server = S3Server::start();
    let repo = Repo::in_store(&server.url("repository"), server.environment());
    let source = repo.directory("source");
    std::fs::write(source.join("file"), vec![7; 100_000]).unwrap();
    repo.run("init", &[] as &[&str]).expect(exit::DONE);
    // To lock is the one request of its kind; that of what is no pack succeeds.
    let locks = |fault: Answer| Rule::new(Fault::Answer(fault)).kind(Kind::Other).method("PUT");
    let denied = server.faults().add(locks(Answer::access_denied()).key_prefix("repository/packs/"));
    server.faults().add(locks(Answer { status: 200, headers: Vec::new(), body: String::new() }));
    let source = source.to_str().expect("a path of a test");
    let backup = repo.run("backup", &["--json", "--object-lock", "1d", source]).expect(exit::EXCEPTIONS);
    assert!(server.faults().applied(denied) > 0);
    let told = backup.stderr.lines().find(|line| line.contains("not all that it needs is locked"));
    let told = told.unwrap_or_else(|| panic!("{backup}"));
    assert!(told.contains("cannot lock packs/") && told.contains("Access Denied"), "{told}");
    assert!(backup.text().contains("mover protect latest --for"), "{backup}");
    let points = repo.run("points", &["--json"]).expect(exit::DONE).text();
    let point = points.lines().find(|line| line.contains("\"type\":\"point\"")).expect("the point is there");
    assert!(!point.contains("\"protected_until\":\""), "{point}");
    server.faults().remove(denied);
    repo.run("protect", &["latest", "--for", "1d"]).expect(exit::DONE);
}
