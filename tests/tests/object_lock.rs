//! Object lock, against SeaweedFS in a bucket that has it: what is uploaded is kept by the store, what a point needs stays
//! so for as long as that point is protected, and nothing of mover stumbles over what cannot be deleted.

use mover_tests::mover::{Repo, exit, scratch};
use mover_tests::s3::SeaweedFs;
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
}
