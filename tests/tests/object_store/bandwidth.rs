//! Bandwidth that changes while a job runs, and copies from a store to a directory.

use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use mover_tests::mover::{finish, scratch, wait};
use mover_tests::s3::{Kind, S3Server};
use mover_tests::{Repo, exit, needs};

use super::fixture::{assert_restores, packs_sent, repository, tree};

const POLL: Duration = Duration::from_millis(20);

/// A calendar that lets nothing pass now: only in one minute, half a day from here.
fn paused_now() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let hour = (seconds / 3600 + 12) % 24;
    format!("zone UTC, daily {hour:02}:00-{hour:02}:01 = unlimited, else 0")
}

#[test]
fn a_paused_backup_goes_on_when_the_config_file_says_so() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    let server = S3Server::start();
    let repo = repository(&server);
    let source = tree(&repo, 4);
    let config = repo.directory("config").join("mover.toml");
    let settings = |upload: &str| format!("[bandwidth]\nupload = \"{upload}\"\n");
    std::fs::write(&config, settings(&paused_now())).expect("write the config file");
    server.forget_requests();
    let mut command = repo.command("backup", &["--json", "--config"]);
    command.arg(&config).arg(&source).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("start a backup");
    // It reads what it has to, and then would write its first record.
    while server.requests().of(Kind::Head) == 0 {
        sleep(POLL);
    }
    sleep(POLL * 50);
    // The head of a request is no body: it may wait at the server, and is not answered.
    let requests = server.requests();
    let arrived = requests.all.iter().filter(|request| request.kind == Kind::Put && request.status.is_some()).count();
    assert_eq!(arrived, 0, "a body was sent in a pause");
    std::fs::write(&config, settings("unlimited")).expect("write the config file");
    let summary = wait(child, "a paused backup".to_owned()).expect(exit::DONE).summary();
    assert!(!packs_sent(&server.requests()).is_empty());
    assert_restores(&repo, &summary.point(), &source, "target");
}

#[test]
fn a_point_is_copied_from_a_store_to_a_directory() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    let server = S3Server::start();
    let from = repository(&server);
    let source = tree(&from, 8);
    let point = from.backup(&source).point();
    let directory = scratch();
    let place = directory.path().join("other");
    let to = Repo::at(directory, place);
    to.run("init", &[] as &[&str]).expect(exit::DONE);
    let mut command = from.command("copy", &["--json"]);
    command.arg(to.place()).arg(&point).env("MOVER_TO_PASSWORD_FILE", to.password_file());
    finish(command, None).expect(exit::DONE);
    to.verify_all();
    let restored = to.restore(&point, &source, "target");
    mover_tests::assert_same_tree(&source, &restored);
}
