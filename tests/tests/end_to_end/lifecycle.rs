//! Forgetting and pruning as an administrator does it: what goes, what stays, and what is said of it.

use std::path::PathBuf;

use mover_tests::summary::json_lines;
use mover_tests::tree::{KIB, MIB, small_files, write_random};
use mover_tests::{Repo, Run, assert_same_tree, exit, needs};
use serde_json::Value;

fn summary(run: Run) -> Value {
    json_lines(&run.expect(exit::DONE).stdout).pop().expect("a summary")
}

fn pack_bytes(repo: &Repo) -> u64 {
    repo.objects().iter().filter(|(name, _)| name.starts_with("packs")).map(|(_, bytes)| bytes).sum()
}

fn points(repo: &Repo) -> Vec<String> {
    let lines = json_lines(&repo.run("points", &["--json"]).expect(exit::DONE).stdout);
    let ids =
        lines.iter().filter(|line| line["type"] == "point").map(|line| line["id"].as_str().expect("an id").to_owned());
    ids.collect()
}

/// Three points of a tree of which each has 4 MiB of its own and 200 small files that all share.
fn three_points() -> (Repo, PathBuf, Vec<String>) {
    let repo = Repo::new();
    let source = repo.directory("source");
    small_files(&source.join("small"), 200, 0, 20 * KIB, 1);
    for round in 0..3 {
        write_random(&source.join("large"), 4 * MIB, round);
        repo.backup(&source);
    }
    let ids = points(&repo);
    (repo, source, ids)
}

#[test]
fn forget_and_prune_free_the_room_and_what_is_kept_restores() {
    needs!("rsync");
    let (repo, source, ids) = three_points();
    let before = pack_bytes(&repo);
    let forgotten = summary(repo.run("forget", &["--json", "--keep-last", "1"]));
    assert_eq!((forgotten["forgotten"].as_u64(), forgotten["kept"].as_u64()), (Some(2), Some(1)));
    assert_eq!(points(&repo), ids[2..]);
    assert_eq!(pack_bytes(&repo), before, "forgetting deletes nothing");
    let pruned = summary(repo.run("prune", &["--json", "--max-unused", "0"]));
    let after = pack_bytes(&repo);
    assert!(after < before - 7 * MIB, "{before} bytes became {after}: {pruned}");
    assert!(pruned["deleted"]["packs"].as_u64() > Some(0) && pruned["waits_for"] == Value::Array(vec![]), "{pruned}");
    repo.verify_all();
    let restored = repo.restore(&ids[2], &source, "target");
    assert_same_tree(&source, &restored);
    // And the next backup takes over what is there.
    let next = repo.backup(&source);
    assert_eq!(next.bytes_new(), 0);
    let again = summary(repo.run("prune", &["--json", "--max-unused", "0"]));
    assert_eq!(again["deleted"]["bytes"].as_u64(), Some(0), "{again}");
}

#[test]
fn forget_dry_run_explains_each_line_and_changes_nothing() {
    let (repo, _, ids) = three_points();
    let run = repo.run("forget", &["--dry-run", "--keep-last", "1", "--keep-yearly", "2"]).expect(exit::DONE);
    let text = run.text();
    let line = |id: &str| text.lines().find(|line| line.contains(&id[..16])).expect("a line for each point");
    assert!(line(&ids[2]).starts_with("keep") && line(&ids[2]).contains("last 1, yearly 1 ("), "{text}");
    assert!(line(&ids[0]).starts_with("forget") && line(&ids[0]).contains("no rule keeps it"), "{text}");
    assert!(text.contains("would forget 2 recovery points and keep 1"), "{text}");
    assert_eq!(points(&repo), ids);
    let dry = summary(repo.run("prune", &["--json", "--dry-run"]));
    assert_eq!((dry["condemned"]["packs"].as_u64(), points(&repo).len()), (Some(0), 3));
}

#[test]
fn forget_without_a_rule_is_refused() {
    let (repo, _, ids) = three_points();
    repo.run("forget", &[] as &[&str]).expect_error(exit::USAGE, "no rule says what to keep");
    repo.run("forget", &["--keep-last", "0"]).expect_error(exit::USAGE, "no rule says what to keep");
    repo.run("forget", &["--keep-last", "-1"]).expect(exit::USAGE);
    repo.run("forget", &["--keep-daily", "1", "--timezone", "Moon/Base"]).expect_error(exit::USAGE, "Moon/Base");
    repo.run("forget", &["--keep-within", "soon"]).expect(exit::USAGE);
    repo.run("forget", &["no-such-point"]).expect_error(exit::USAGE, "no-such-point");
    repo.run("prune", &["--max-unused", "101"]).expect(exit::USAGE);
    assert_eq!(points(&repo), ids);
}

#[test]
fn forget_by_name_can_be_undone_until_it_is_pruned() {
    let (repo, _, ids) = three_points();
    repo.run("forget", &[&ids[0][..12], &ids[2][..12]]).expect(exit::DONE);
    assert_eq!(points(&repo), [ids[1].clone()]);
    let listed = repo.run("points", &["--forgotten"]).expect(exit::DONE).text();
    assert!(listed.contains(&ids[0][..16]) && listed.contains(&ids[2][..16]) && !listed.contains(&ids[1][..16]));
    repo.run("forget", &["--undo", &ids[0][..12]]).expect(exit::DONE);
    assert_eq!(points(&repo), ids[..2], "it stands where it stood");
    repo.run("forget", &["--undo", &ids[2][..12], "--dry-run"]).expect(exit::USAGE);
    repo.run("forget", &[&ids[0][..12], "--tag", "x"]).expect(exit::USAGE);
    repo.run("forget", &[&ids[0][..12], "--keep-last", "1"]).expect(exit::USAGE);
    assert_eq!(points(&repo), ids[..2]);
    repo.run("prune", &["--max-unused", "0"]).expect(exit::DONE);
    repo.verify_all();
    repo.run("forget", &["--undo", &ids[2][..12]]).expect_error(exit::FAILED, "missing");
    assert_eq!(points(&repo).len(), 2);
}

#[test]
fn forget_keeps_what_a_kept_point_depends_on() {
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("base"), MIB, 1);
    let base = repo.backup_with(&source, &["--set", "db"]).point();
    write_random(&source.join("log"), 100 * KIB, 2);
    let log = repo.backup_with(&source, &["--set", "db", "--depends-on", &base[..16]]).point();
    let run = repo.run("forget", &["--keep-last", "1"]).expect(exit::DONE);
    assert!(run.text().contains(&format!("{} depends on it", &log[..16])), "{}", run.text());
    assert_eq!(points(&repo), [base.clone(), log.clone()]);
    repo.run("forget", &[&base[..16]]).expect_error(exit::FAILED, "depends on it");
    assert_eq!(points(&repo).len(), 2);
    repo.run("forget", &[&base[..16], &log[..16]]).expect(exit::DONE);
    assert!(points(&repo).is_empty());
}

/// A killed backup blocked every prune after it, for nobody could know that it was dead.
#[test]
fn prune_ends_a_killed_run_of_this_machine_and_frees_what_it_left() {
    let (repo, source, _) = three_points();
    write_random(&source.join("huge"), 200 * MIB, 9);
    let mut child = repo.command("backup", &[source.as_os_str()]).spawn().expect("start");
    let began = || std::fs::read_dir(repo.place().join("packs")).map_or(0, Iterator::count) > 3;
    while !began() && child.try_wait().expect("look").is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
    let pruned = summary(repo.run("prune", &["--json", "--max-unused", "0"]));
    assert_eq!(pruned["waits_for"], Value::Array(vec![]), "{pruned}");
    assert_eq!(pruned["fenced"].as_array().map(Vec::len), Some(1), "{pruned}");
    std::fs::remove_file(source.join("huge")).expect("remove");
    repo.backup(&source);
    repo.verify_all();
}

#[test]
fn prune_beside_a_running_backup_waits_for_it() {
    let (repo, source, ids) = three_points();
    let mut stream = repo.command("backup", &["--stdin", "slow"]);
    let mut child = stream.stdin(std::process::Stdio::piped()).spawn().expect("start");
    while std::fs::read_dir(repo.place().join("log")).map_or(0, Iterator::count) < 4 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    repo.run("forget", &[&ids[0][..12]]).expect(exit::DONE);
    let blocked = summary(repo.run("prune", &["--json", "--max-unused", "0"]));
    assert_eq!(blocked["deleted"]["packs"].as_u64(), Some(0), "{blocked}");
    assert_eq!(blocked["waits_for"][0]["process"].as_u64(), Some(child.id().into()), "{blocked}");
    assert!(blocked["pending"]["packs"].as_u64() > Some(0), "{blocked}");
    drop(child.stdin.take());
    assert!(child.wait().expect("wait").success());
    let freed = summary(repo.run("prune", &["--json", "--max-unused", "0"]));
    assert!(freed["deleted"]["packs"].as_u64() > Some(0), "{freed}");
    repo.verify_all();
    assert_eq!(repo.restore(&ids[2], &source, "target").join("large").metadata().expect("restored").len(), 4 * MIB);
}

/// Lines of a verification of what is due; its exit code is checked.
fn verify_due(repo: &Repo, code: i32, budget: &[&str]) -> (Value, Value) {
    let arguments = [&["--json", "--max-age", "30d"][..], budget].concat();
    let lines = json_lines(&repo.run("verify", &arguments).expect(code).stdout);
    let proof = lines.iter().find(|line| line["type"] == "proof").expect("a proof").clone();
    (proof, lines.last().expect("a summary").clone())
}

#[test]
fn verify_within_a_budget_goes_on_where_it_stopped_and_remembers_what_it_proved() {
    let (repo, source, _) = three_points();
    let bytes = pack_bytes(&repo);
    let budget = (bytes * 2 / 3).to_string();
    let mut due = bytes;
    for night in 1.. {
        let (proof, summary) = verify_due(&repo, exit::DONE, &["--budget", &budget]);
        let left = proof["bytes_due"].as_u64().expect("bytes");
        assert_eq!(
            (proof["bytes"].as_u64(), summary["bytes_read"].as_u64()),
            (Some(bytes), Some(due - left)),
            "{proof}"
        );
        assert!(left < due && due - left <= bytes * 2 / 3, "{proof}");
        assert_eq!(proof["runs_due"].as_u64(), Some(left.div_ceil(bytes * 2 / 3)), "{proof}");
        due = left;
        if due == 0 {
            assert!((2..7).contains(&night), "after {night} nights");
            break;
        }
    }
    assert_eq!(verify_due(&repo, exit::DONE, &[]).1["packs_read"].as_u64(), Some(0), "all is proven");
    write_random(&source.join("large"), 4 * MIB, 77);
    repo.backup(&source);
    let new = pack_bytes(&repo) - bytes;
    let (proof, summary) = verify_due(&repo, exit::DONE, &[]);
    assert_eq!((summary["bytes_read"].as_u64(), proof["bytes_due"].as_u64()), (Some(new), Some(0)), "{proof}");
    let text = repo.run("verify", &["--max-age", "30d", "--budget", "1GiB"]).expect(exit::DONE).text();
    assert!(
        text.contains("100.0 %") && text.contains("0 packs are due") && text.contains("everything 1 run"),
        "{text}"
    );

    // Damage is told by each run after the one that found it, whatever else is due.
    let objects = repo.objects();
    let packs = objects.iter().filter(|(name, _)| name.starts_with("packs"));
    let victim = repo.place().join(&packs.max_by_key(|(_, bytes)| *bytes).expect("a pack").0);
    let whole = std::fs::read(&victim).expect("read");
    let mut hurt = whole.clone();
    hurt[whole.len() / 2] ^= 1;
    std::fs::write(&victim, hurt).expect("write");
    verify_due(&repo, exit::DONE, &[]);
    repo.run("verify", &["--data", "all"]).expect(exit::FAILED);
    let (proof, summary) = verify_due(&repo, exit::FAILED, &[]);
    assert_eq!((proof["packs_due"].as_u64(), summary["packs_read"].as_u64()), (Some(1), Some(1)), "{proof}");
    std::fs::write(&victim, whole).expect("write");
    assert_eq!(verify_due(&repo, exit::DONE, &[]).0["packs_due"].as_u64(), Some(0));
}

#[test]
fn verify_by_a_key_that_may_only_add_says_that_it_is_not_remembered() {
    let (repo, ..) = three_points();
    let client = repo.scratch().join("client.key");
    let added = ["add", "--put-only", "--label", "host", "--new-key-file"].map(std::ffi::OsStr::new);
    repo.run("key", &[&added[..], &[client.as_os_str()]].concat()).expect(exit::DONE);
    let mut command = repo.command("verify", &["--data", "all"]);
    command.env_remove("MOVER_PASSWORD_FILE").env("MOVER_KEY_FILE", &client);
    let told = mover_tests::mover::finish(command, None).expect(exit::DONE);
    assert!(told.stderr.contains("not remembered"), "{told}");
    let (proof, _) = verify_due(&repo, exit::DONE, &["--budget", "0"]);
    assert_eq!(proof["bytes_due"], proof["bytes"], "{proof}");
    repo.run("verify", &["--budget", "1GiB"]).expect(exit::USAGE);
    repo.run("verify", &["--data", "10%", "--max-age", "30d"]).expect_error(exit::USAGE, "--max-age");
    repo.run("verify", &["--max-age", "soon"]).expect(exit::USAGE);
}

#[test]
fn key_commands_add_list_change_and_remove() {
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("file"), MIB, 1);
    repo.backup(&source);
    let client = repo.scratch().join("client.key");
    let added = ["add", "--put-only", "--label", "web server", "--new-key-file"];
    let added: Vec<&std::ffi::OsStr> = added.iter().map(std::ffi::OsStr::new).chain([client.as_os_str()]).collect();
    repo.run("key", &added).expect(exit::DONE);
    let listed = repo.run("key", &["list"]).expect(exit::DONE).text();
    assert!(listed.contains("only add") && listed.contains("web server") && listed.contains('*'), "{listed}");

    // The client backs up, deduplicates, and can neither read nor forget nor prune nor touch keys.
    let as_client = |subcommand: &str, more: &[&str]| {
        let mut command = repo.command(subcommand, more);
        command.env_remove("MOVER_PASSWORD_FILE").env("MOVER_KEY_FILE", &client);
        mover_tests::mover::finish(command, None)
    };
    let path = source.to_str().expect("a path of text");
    let summary = as_client("backup", &["--json", path]).expect(exit::DONE).summary();
    assert_eq!((summary.files(), summary.bytes_new()), (1, 0));
    as_client("dump", &["latest", source.join("file").to_str().expect("text")]).expect(exit::FAILED);
    as_client("forget", &["--keep-last", "1"]).expect_error(exit::USAGE, "may only add");
    as_client("prune", &[]).expect_error(exit::FAILED, "admin key");
    as_client("key", &["remove", "0"]).expect_error(exit::USAGE, "may only add");

    // A recovery key opens as a password does.
    let printed = repo.run("key", &["add", "--recovery"]).expect(exit::DONE).text();
    let recovery = printed.lines().find(|line| line.starts_with("mover-recovery-")).expect("a recovery key").to_owned();
    let with_recovery = |typed: &str| {
        let mut command = repo.command("key", &["list", "--json"]);
        command.env_remove("MOVER_PASSWORD_FILE").env("MOVER_PASSWORD", typed);
        mover_tests::mover::finish(command, None)
    };
    // A typing error is told from a key that opens nothing; capitals and missing dashes are none.
    let digit = if recovery.ends_with('0') { '1' } else { '0' };
    with_recovery(&format!("{}{digit}", &recovery[..recovery.len() - 1])).expect_error(exit::USAGE, "typing error");
    with_recovery(&format!("mover-recovery-{}", "0".repeat(64))).expect_error(exit::USAGE, "typing error");
    with_recovery(&format!("MOVER-RECOVERY-{}", recovery[15..].replace('-', ""))).expect(exit::DONE);
    let mut by_recovery = repo.command("key", &["list", "--json"]);
    by_recovery.env_remove("MOVER_PASSWORD_FILE").env("MOVER_PASSWORD", &recovery);
    let keys = json_lines(&mover_tests::mover::finish(by_recovery, None).expect(exit::DONE).stdout);
    assert_eq!(keys.last().expect("a summary")["keys"].as_u64(), Some(3));

    // The first password is changed: the old one opens nothing any more.
    let new_password = repo.scratch().join("new-password");
    std::fs::write(&new_password, "another battery staple").expect("write");
    repo.run("key", &["change".as_ref(), "--new-password-file".as_ref(), new_password.as_os_str()]).expect(exit::DONE);
    repo.run("points", &[] as &[&str]).expect(exit::WRONG_KEY);
    std::fs::copy(&new_password, repo.password_file()).expect("copy");
    assert_eq!(points(&repo).len(), 2);
    let missing = repo.run("key", &["remove", "zzzz"]).expect(exit::USAGE);
    assert!(missing.stderr.contains("zzzz"), "{missing}");
    repo.verify_all();
}

#[test]
fn key_that_is_the_last_one_with_all_rights_stays() {
    let repo = Repo::new();
    let list = || -> Vec<Value> {
        let lines = json_lines(&repo.run("key", &["list", "--json"]).expect(exit::DONE).stdout);
        lines.into_iter().filter(|line| line["type"] == "key").collect()
    };
    let id = list()[0]["id"].as_str().expect("an id").to_owned();
    repo.run("key", &["remove", &id[..12]]).expect_error(exit::FAILED, "last key with all rights");
    assert_eq!(list().len(), 1);
}

/// A key pair of an escrow, a client that may only add, a rotation, and all that is stored under the new keys.
#[test]
fn key_rotate_and_rekey_bring_all_under_new_keys_and_every_key_still_opens() {
    needs!("rsync");
    let (repo, source, ids) = three_points();
    let as_key = |file: &std::path::Path, subcommand: &str, more: &[&str]| {
        let mut command = repo.command(subcommand, more);
        command.env_remove("MOVER_PASSWORD_FILE").env("MOVER_KEY_FILE", file);
        mover_tests::mover::finish(command, None)
    };
    let (escrow, client) = (repo.scratch().join("escrow"), repo.scratch().join("client"));
    let text = |path: &std::path::Path| path.to_str().expect("a path of text").to_owned();
    let public = text(&repo.scratch().join("escrow.pub"));
    repo.run("key", &["generate", &text(&escrow)]).expect(exit::DONE);
    let mode = std::os::unix::fs::PermissionsExt::mode(&escrow.metadata().expect("a private key").permissions());
    assert_eq!(mode & 0o777, 0o600);
    repo.run("key", &["generate", &text(&escrow)]).expect(exit::FAILED);
    repo.run("key", &["add", "--public-key", &public, "--label", "escrow"]).expect(exit::DONE);
    repo.run("key", &["add", "--put-only", "--new-key-file", &text(&client)]).expect(exit::DONE);
    repo.run("key", &["add", "--public-key", &text(&client)]).expect_error(exit::USAGE, "no public key");
    let listed = as_key(&escrow, "key", &["list"]).expect(exit::DONE).text();
    assert!(listed.contains("private key") && listed.contains("escrow"), "{listed}");
    as_key(&client, "key", &["rotate"]).expect_error(exit::USAGE, "may only add");

    let rotated = repo.run("key", &["rotate"]).expect(exit::DONE);
    let said = format!("{}{}", rotated.text(), rotated.stderr);
    for told in ["generation 2", "escrow", "only add", "repair rekey", "copied", "log records"] {
        assert!(said.contains(told), "{told}: {said}");
    }
    let path = text(&source);
    write_random(&source.join("large"), 4 * MIB, 7);
    as_key(&client, "backup", &["--json", &path]).expect(exit::DONE);
    as_key(&client, "repair", &["rekey"]).expect_error(exit::USAGE, "may only add");
    let first = summary(repo.run("repair", &["rekey", "--json", "--budget", "6MiB"]));
    let (moved, left) = (first["moved"]["packs"].as_u64(), first["left"]["packs"].as_u64());
    assert!(moved > Some(0) && left > Some(0), "{first}");
    let second = summary(repo.run("repair", &["rekey", "--json"]));
    assert_eq!((second["left"]["packs"].as_u64(), second["generation"].as_u64()), (Some(0), Some(2)), "{second}");
    summary(repo.run("prune", &["--json"]));
    repo.verify_all();
    assert_eq!(summary(repo.run("repair", &["rekey", "--json"]))["moved"]["packs"].as_u64(), Some(0));
    let target = repo.directory("escrow-target");
    let restored = as_key(&escrow, "restore", &["--json", &points(&repo)[3], "--target", &text(&target)]);
    restored.expect(exit::DONE);
    assert_same_tree(&source, &target.join(source.strip_prefix("/").expect("absolute")));
    assert_eq!(repo.restore(&ids[0], &source, "target").join("large").metadata().expect("restored").len(), 4 * MIB);
    let removed = repo.run("key", &["list", "--json"]).expect(exit::DONE);
    let own = json_lines(&removed.stdout).into_iter().find(|line| line["label"] == "escrow").expect("the escrow");
    let removed = repo.run("key", &["remove", &own["id"].as_str().expect("an id")[..12]]).expect(exit::DONE);
    assert!(removed.stderr.contains("key rotate") && removed.stderr.contains("copied"), "{removed}");
    as_key(&escrow, "points", &[]).expect(exit::WRONG_KEY);
}
