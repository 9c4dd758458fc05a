//! Copies between two repositories, each with a password of its own, as a person makes them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mover_tests::mover::{Repo, finish, scratch};
use mover_tests::summary::json_lines;
use mover_tests::tree::{KIB, MIB, small_files, write_random};
use mover_tests::{Run, assert_same_tree, exit, nasty, needs};
use serde_json::Value;

/// An empty repository with another password than that of `from`; `like` it, or with secrets of its own.
fn other(from: &Repo, is_like: bool) -> Repo {
    let directory = scratch();
    let place = directory.path().join("other");
    let to = Repo::at(directory, place);
    std::fs::write(to.password_file(), "another password").expect("write the password file");
    let mut init = to.command("init", &[] as &[&str]);
    if is_like {
        init.arg("--like").arg(from.place()).arg("--like-password-file").arg(from.password_file());
    }
    finish(init, None).expect(exit::DONE);
    to
}

/// `mover copy -r FROM TO …`, not started yet.
fn command(from: &Repo, to: &Repo, arguments: &[&str]) -> Command {
    let mut command = from.command("copy", &["--json"]);
    command.arg(to.place()).args(arguments).env("MOVER_TO_PASSWORD_FILE", to.password_file());
    command
}

fn copy(from: &Repo, to: &Repo, arguments: &[&str]) -> Run {
    finish(command(from, to, arguments), None)
}

fn summary(run: Run) -> Value {
    json_lines(&run.expect(exit::DONE).stdout).pop().expect("a summary")
}

/// Bytes of packs that have their names.
fn pack_bytes(repo: &Repo) -> u64 {
    let is_pack = |name: &Path| name.starts_with("packs") && !name.to_string_lossy().contains(".tmp-");
    repo.objects().iter().filter(|(name, _)| is_pack(name)).map(|(_, bytes)| bytes).sum()
}

/// All kinds of entries, a large file, and many small ones.
fn source_of(repo: &Repo) -> PathBuf {
    let source = repo.directory("source");
    nasty::nasty_tree(&source.join("nasty"));
    small_files(&source.join("small"), 300, 0, 40 * KIB, 1);
    write_random(&source.join("large"), 24 * MIB, 7);
    source
}

fn copies_and_restores(is_like: bool) {
    let from = Repo::new();
    let to = other(&from, is_like);
    let source = source_of(&from);
    let first = from.backup_with(&source, &["--set", "web", "--tag", "monthly"]).point();
    let copied = summary(copy(&from, &to, &[&first[..12]]));
    assert_eq!((copied["points_copied"].as_u64(), copied["points_skipped"].as_u64()), (Some(1), Some(0)), "{copied}");
    assert!(copied["frames_reused"].as_u64() > Some(20), "{copied}");
    to.verify_all();
    let restored = to.restore(&first, &source, "target");
    assert_same_tree(&source, &restored);
    let shown = to.run("points", &[] as &[&str]).expect(exit::DONE).text();
    assert!(shown.contains(&first[..16]) && shown.contains("web") && shown.contains("monthly"), "{shown}");

    // The next point costs what is new in it, and the one before is known.
    write_random(&source.join("more"), 2 * MIB, 8);
    let second = from.backup_with(&source, &["--set", "web"]).point();
    let before = pack_bytes(&to);
    let copied = summary(copy(&from, &to, &["--all"]));
    assert_eq!((copied["points_copied"].as_u64(), copied["points_skipped"].as_u64()), (Some(1), Some(1)), "{copied}");
    assert!(pack_bytes(&to) - before < 3 * MIB, "{copied}");
    assert!(copied["bytes_read"].as_u64() < Some(6 * MIB), "{copied}");
    let restored = to.restore(&second, &source, "target-two");
    assert_same_tree(&source, &restored);
    let changed = to.run("diff", &[&first, &second]).expect(exit::DONE).text();
    assert!(changed.contains("more"), "{changed}");

    // A backup straight into it takes the copied point for its parent, and unchanged files from there.
    let next = to.backup_with(&source, &["--set", "web"]);
    // With other secrets a file that is too young to be taken over unread is cut elsewhere.
    assert!(next.bytes_new() == 0 || !is_like, "{next:?}");
    assert_eq!(summary(copy(&from, &to, &["--all", "--set", "web"]))["points_skipped"].as_u64(), Some(2));
    to.run("prune", &["--max-unused", "0"]).expect(exit::DONE);
    to.verify_all();
}

#[test]
fn copy_to_a_repository_that_is_like_it_restores_as_the_source_was() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    copies_and_restores(true);
}

#[test]
fn copy_to_a_repository_of_other_secrets_restores_as_the_source_was() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    copies_and_restores(false);
}

#[test]
fn copy_that_is_killed_goes_on_where_it_was() {
    let from = Repo::new();
    let source = from.directory("source");
    (0..8).for_each(|at| write_random(&source.join(format!("file{at}")), 32 * MIB, at));
    let point = from.backup(&source).point();
    for is_like in [true, false] {
        let to = other(&from, is_like);
        let mut child =
            command(&from, &to, &[&point]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start");
        // By what it stored, not by time: some packs are there, and not all.
        let is_done = |child: &mut std::process::Child| child.try_wait().expect("wait").is_some();
        while pack_bytes(&to) < 64 * MIB && !is_done(&mut child) {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        child.kill().expect("kill");
        child.wait().expect("wait");
        let kept = pack_bytes(&to);
        let went_on = summary(copy(&from, &to, &[&point]));
        let stored = went_on["bytes_stored"].as_u64().expect("bytes");
        assert!(kept + stored < 258 * MIB, "{kept} bytes were there, {stored} were stored");
        assert_eq!(pack_bytes(&to), kept + stored);
        to.verify_all();
        let listed = to.run("points", &["--json"]).expect(exit::DONE).text();
        assert_eq!(listed.matches(&point).count(), 1, "{listed}");
    }
}

#[test]
fn copy_of_a_damaged_point_says_which_files_and_copies_the_others() {
    let from = Repo::new();
    let to = other(&from, true);
    let (good, bad) = (from.directory("good"), from.directory("bad"));
    write_random(&good.join("file"), MIB, 1);
    write_random(&bad.join("hurt"), MIB, 2);
    let sound = from.backup_with(&good, &["--set", "good"]).point();
    let before: Vec<PathBuf> = from.objects().into_iter().map(|(name, _)| name).collect();
    let hurt = from.backup_with(&bad, &["--set", "bad"]).point();
    let new_pack = |(name, bytes): &(PathBuf, u64)| name.starts_with("packs") && *bytes > MIB && !before.contains(name);
    let (name, _) = from.objects().into_iter().find(new_pack).expect("the pack of the second backup");
    let pack = from.place().join(name);
    let mut bytes = std::fs::read(&pack).expect("read a pack");
    bytes[500_000] ^= 1;
    std::fs::write(&pack, bytes).expect("write a pack");
    let run = copy(&from, &to, &["--all"]).expect(exit::EXCEPTIONS);
    let lines = json_lines(&run.stdout);
    let told = |line: &&Value| line["type"] == "hurt_file" && line["point"] == hurt.as_str();
    let hurt_file = lines.iter().find(told).expect("the file is listed");
    assert!(hurt_file["path"].as_str().expect("a path").ends_with("bad/hurt"), "{hurt_file}");
    let end = lines.last().expect("a summary");
    assert_eq!((end["points_copied"].as_u64(), end["points_failed"].as_u64()), (Some(1), Some(1)), "{end}");
    let listed = to.run("points", &[] as &[&str]).expect(exit::DONE).text();
    assert!(listed.contains(&sound[..16]) && !listed.contains(&hurt[..16]), "{listed}");
    to.verify_all();
}

#[test]
fn copy_with_bad_input_says_what_is_wrong_and_where() {
    let from = Repo::new();
    let to = other(&from, false);
    let source = from.directory("source");
    write_random(&source.join("file"), 10 * KIB, 1);
    from.backup(&source);
    let place = to.place().to_str().expect("plain").to_owned();

    let mut wrong = command(&from, &to, &["latest"]);
    wrong.env("MOVER_TO_PASSWORD_FILE", from.password_file());
    let run = finish(wrong, None).expect_error(exit::WRONG_KEY, &place);
    assert!(run.stderr.contains("MOVER_TO_PASSWORD"), "{run}");
    let mut twice = command(&from, &to, &["latest"]);
    twice.env("MOVER_TO_PASSWORD", "another password");
    finish(twice, None).expect_error(exit::USAGE, "more than one credential");
    let mut by_value = command(&from, &to, &["latest", "--dry-run"]);
    by_value.env("MOVER_TO_PASSWORD", "another password").env_remove("MOVER_TO_PASSWORD_FILE");
    let dry = summary(finish(by_value, None));
    assert_eq!((dry["points_copied"].as_u64(), pack_bytes(&to)), (Some(1), 0), "{dry}");

    copy(&from, &to, &[]).expect(exit::USAGE);
    copy(&from, &to, &["--all", "latest"]).expect(exit::USAGE);
    copy(&from, &to, &["abcdef0123"]).expect_error(exit::FAILED, "abcdef0123");
    copy(&from, &to, &["--all", "--set", "nobody"]).expect_error(exit::FAILED, "nobody");
    let mut into_itself = from.command("copy", &["--json"]);
    into_itself.arg(from.place()).arg("latest").arg("--to-password-file").arg(from.password_file());
    finish(into_itself, None).expect_error(exit::FAILED, "the same repository");
    let nothing = from.directory("nothing");
    let into = |place: &Path| {
        let mut command = from.command("copy", &[] as &[&str]);
        command.arg(place).arg("latest").env("MOVER_TO_PASSWORD_FILE", to.password_file());
        finish(command, None)
    };
    into(&nothing).expect_error(exit::NO_REPOSITORY, "nothing");
    into(Path::new("ftp:somewhere")).expect(exit::USAGE);
    assert_eq!(std::fs::read_dir(&nothing).expect("list").count(), 0);
}
