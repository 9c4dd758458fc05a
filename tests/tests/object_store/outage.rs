//! A network that goes away in the middle of a job: the job goes on when it comes back, and a killed one is continued from
//! what is durable.

use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use mover_tests::mover::{Run, wait};
use mover_tests::s3::{Link, S3Server};
use mover_tests::tree::{MIB, write_random};
use mover_tests::{Repo, exit, needs};

use super::fixture::{PREFIX, assert_restores, initialised, packs_sent, tree};

const POLL: Duration = Duration::from_millis(10);
/// How long the network is away.
const AWAY: Duration = Duration::from_secs(3);
/// Bits per second: packs stay small, and there is a middle.
const RATE: u64 = 160_000_000;

fn behind_link(server: &S3Server) -> (Link, Repo) {
    let link = Link::to(server.address());
    let repo = initialised(&server.url(PREFIX), server.environment_at(link.address()));
    link.set_rate(Some(RATE));
    (link, repo)
}

/// Starts a command; once `is_middle` the link does what `blow` says. Gives the end of the command.
fn disturbed(repo: &Repo, arguments: (&str, &[&str]), is_middle: impl Fn() -> bool, blow: impl FnOnce(u32)) -> Run {
    let mut command = repo.command(arguments.0, arguments.1);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
    while !is_middle() {
        sleep(POLL);
    }
    blow(child.id());
    wait(child, format!("a disturbed {}", arguments.0))
}

fn goes_away(link: &Link) {
    link.refuse();
    link.cut();
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("a path of a test")
}

#[test]
fn a_backup_goes_on_when_the_network_returns() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    let server = S3Server::start();
    let (link, repo) = behind_link(&server);
    let source = tree(&repo, 60);
    let before = link.bytes_up();
    let is_middle = || link.bytes_up() - before > 10 * MIB;
    let run = disturbed(&repo, ("backup", &["--json", text(&source)]), is_middle, |_| {
        goes_away(&link);
        sleep(AWAY);
        link.heal();
    });
    let summary = run.expect(exit::DONE).summary();
    let sent = link.bytes_up() - before;
    assert!(sent < 78 * MIB, "{sent} bytes were sent for 60 MiB");
    assert_restores(&repo, &summary.point(), &source, "target");
    repo.verify_all();
}

#[test]
fn a_restore_goes_on_when_the_network_returns() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    let server = S3Server::start();
    let (link, repo) = behind_link(&server);
    let source = tree(&repo, 60);
    let point = repo.backup(&source).point();
    let before = link.bytes_down();
    let is_middle = || link.bytes_down() - before > 20 * MIB;
    let target = repo.directory("target");
    let run = disturbed(&repo, ("restore", &["--json", &point, "--target", text(&target)]), is_middle, |_| {
        goes_away(&link);
        sleep(AWAY);
        link.heal();
    });
    run.expect(exit::DONE);
    mover_tests::assert_same_tree(&source, &mover_tests::mover::landed(&target, &source));
    let received = link.bytes_down() - before;
    assert!(received < 78 * MIB, "{received} bytes were received for 60 MiB");
}

/// Whether a pack of content is durable; those of metadata are small.
fn has_large_pack(server: &S3Server) -> bool {
    packs_sent(&server.requests()).iter().any(|(_, bytes)| *bytes > 8 * MIB)
}

/// How far the first run came, and what the second one sends: nothing that is durable goes a second time.
#[track_caller]
fn is_continued(server: &S3Server, repo: &Repo, source: &std::path::Path) {
    let durable: u64 = packs_sent(&server.requests()).iter().map(|(_, bytes)| bytes).sum();
    assert!(durable > 8 * MIB, "{durable} bytes were durable in the middle");
    assert_eq!(repo.run("points", &["--json"]).expect(exit::DONE).summary().points(), 0);
    server.forget_requests();
    let summary = repo.backup(source);
    let again: u64 = packs_sent(&server.requests()).iter().map(|(_, bytes)| bytes).sum();
    assert!(again + durable < 63 * MIB, "{durable} bytes were durable, and {again} were sent again, of 60 MiB");
    assert_restores(repo, &summary.point(), source, "target");
    repo.verify_all();
}

#[test]
fn patience_ends_a_backup_and_the_next_one_continues_from_what_is_durable() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    let server = S3Server::start();
    let (link, repo) = behind_link(&server);
    let source = tree(&repo, 60);
    server.forget_requests();
    let is_middle = || has_large_pack(&server);
    let arguments = ["--patience", "2s", "--json", text(&source)];
    let run = disturbed(&repo, ("backup", &arguments), is_middle, |_| goes_away(&link));
    let run = run.expect_error(exit::FAILED, "s3://backups/backups/host");
    assert!(run.stderr.contains("help: "), "{run}");
    link.heal();
    is_continued(&server, &repo, &source);
}

#[test]
fn a_killed_backup_is_continued_from_what_is_durable() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    let server = S3Server::start();
    let (_link, repo) = behind_link(&server);
    let source = tree(&repo, 60);
    server.forget_requests();
    let is_middle = || has_large_pack(&server);
    let run = disturbed(&repo, ("backup", &["--json", text(&source)]), is_middle, |process| {
        let process = rustix::process::Pid::from_raw(process.cast_signed()).expect("a process");
        rustix::process::kill_process(process, rustix::process::Signal::KILL).expect("kill");
    });
    assert_eq!(run.code, 128 + 9, "{run}");
    is_continued(&server, &repo, &source);
}

#[test]
fn a_small_budget_of_memory_is_enough_for_a_store() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    let server = S3Server::start();
    let repo = super::fixture::repository(&server);
    let source = tree(&repo, 60);
    write_random(&source.join("second"), 60 * MIB, 13);
    let summary = repo.backup_with(&source, &["--memory", "128MiB"]);
    let target = repo.directory("target");
    let budget = ["--memory", "128MiB"].map(std::ffi::OsStr::new);
    repo.restore_run(&summary.point(), &target, &budget).expect(exit::DONE);
    mover_tests::assert_same_tree(&source, &mover_tests::mover::landed(&target, &source));
}
