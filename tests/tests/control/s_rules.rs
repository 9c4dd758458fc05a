//! The rules S-… of WORKFLOWS.md that need an agent that really moves data; those of the queue alone are tested in the
//! core of the control plane.

use mover_tests::{assert_same_tree, mover};
use rustix::process::Signal;
use serde_json::json;

use crate::site::{Site, backup_of, restore_to, tree, until};

/// A command that waits until `marker` is gone.
fn while_there(marker: &std::path::Path) -> serde_json::Value {
    std::fs::write(marker, "").expect("write");
    let script = format!("while test -e {}; do sleep 0.05; done", marker.display());
    json!([{ "arguments": ["sh", "-c", script], "limit_seconds": 600, "required": true }])
}

#[test]
fn s010_job_of_a_host_that_was_restarted_is_aborted_if_its_policy_says_so_and_a_fresh_one_may_start() {
    const NAME: &str =
        "s010_job_of_a_host_that_was_restarted_is_aborted_if_its_policy_says_so_and_a_fresh_one_may_start";
    if !mover_tests::skip::is_root() {
        mover_tests::skip::skipped(NAME, "needs root, for an agent that sees another boot of its host");
        return;
    }
    let site = Site::new();
    let mut agent = site.agent("one", "job-cores = 1");
    let source = tree(&site.repo, "source", 30, 8_000_000);
    let mut order = backup_of(&source, "files");
    order["order"]["restart"] = json!("abort");
    let job = site.submit(&order);
    until("data is stored", || site.repo.objects().iter().any(|(path, _)| path.starts_with("packs")));
    agent.kill();
    agent.start_after_a_restart_of_its_host();
    let ended = site.wait(&job, &["aborted", "completed", "failed"]);
    assert_eq!(ended["state"], "aborted", "{ended}");
    assert!(site.points().is_empty(), "s009: no recovery point of a job that did not succeed");
    site.completed(&site.submit(&backup_of(&source, "files")));
    assert_eq!(site.points().len(), 1);
}

#[test]
fn s021_s027_s047_restore_goes_to_the_original_place_or_to_another_and_takes_what_was_named() {
    let site = Site::new();
    let _agent = site.agent("one", "");
    let source = tree(&site.repo, "source", 3, 10_000);
    site.completed(&site.submit(&backup_of(&source, "files")));
    let kept = site.repo.directory("kept");
    for entry in std::fs::read_dir(&source).expect("list") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, kept.join(path.file_name().expect("a name"))).expect("copy");
    }
    std::fs::write(source.join("file-0"), "damaged").expect("write");
    std::fs::remove_file(source.join("file-1")).expect("remove");
    let mut order = restore_to(&source, "files");
    order["order"]["restore"]["target"] = json!(null);
    site.completed(&site.submit(&order));
    for name in ["file-0", "file-1", "file-2"] {
        let (now, then) = (std::fs::read(source.join(name)), std::fs::read(kept.join(name)));
        assert_eq!(now.expect("restored"), then.expect("kept"), "{name}");
    }
    // In place it overwrites, unless it is told otherwise.
    std::fs::write(source.join("file-0"), "mine").expect("write");
    order["order"]["restore"]["overwrite"] = json!("never");
    site.completed(&site.submit(&order));
    assert_eq!(std::fs::read(source.join("file-0")).expect("read"), b"mine");
    let target = site.repo.scratch().join("elsewhere");
    let mut order = restore_to(&target, "files");
    order["order"]["restore"]["paths"] = json!([source.join("file-2")]);
    site.completed(&site.submit(&order));
    let landed = mover::landed(&target, &source);
    assert_eq!(std::fs::read_dir(landed).expect("list").count(), 1, "what was named, and nothing else");
}

#[test]
fn s025_destination_that_cannot_be_one_fails_in_words_before_the_first_write() {
    let site = Site::new();
    let _agent = site.agent("one", "");
    let source = tree(&site.repo, "source", 1, 1000);
    site.completed(&site.submit(&backup_of(&source, "files")));
    let file = site.repo.scratch().join("a-file");
    std::fs::write(&file, "untouched").expect("write");
    let mut order = restore_to(&file, "files");
    order["order"]["attempts"] = json!(1);
    let failed = site.wait(&site.submit(&order), &["failed", "completed"]);
    assert_eq!(failed["state"], "failed");
    assert!(failed["message"].as_str().expect("why").contains("a-file"), "{failed}");
    assert_eq!(std::fs::read_to_string(&file).expect("there"), "untouched");
}

#[test]
fn s016_s028_filesets_are_estimated_and_moved_one_after_the_other() {
    let site = Site::new();
    let _agent = site.agent("one", "");
    let sources: Vec<_> = (0..3).map(|number| tree(&site.repo, &format!("source-{number}"), 2, 2_000_000)).collect();
    let mut order = backup_of(&sources[0], "files");
    let filesets: Vec<_> =
        sources.iter().zip(["c", "a", "b"]).map(|(path, name)| json!({ "name": name, "paths": [path] })).collect();
    order["order"]["filesets"] = json!(filesets);
    let job = site.completed(&site.submit(&order));
    assert_eq!((&job["progress"]["fileset"], &job["progress"]["filesets"]), (&json!(3), &json!(3)), "{job}");
    let points = site.repo.run("points", &["--json"]);
    let lines = points.text();
    let line = lines.lines().find(|line| line.contains("\"paths\"")).unwrap_or_else(|| panic!("no point: {points}"));
    let point: serde_json::Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(point["paths"], json!(sources), "in the order of the job, not of their names");
    let target = site.repo.scratch().join("target");
    site.completed(&site.submit(&restore_to(&target, "files")));
    sources.iter().for_each(|source| assert_same_tree(source, &mover::landed(&target, source)));
}

#[test]
fn s045_repository_away_during_a_restore_it_is_tried_again_and_completes() {
    let site = Site::new();
    let agent = site.agent("one", "job-cores = 1");
    let source = tree(&site.repo, "source", 40, 8_000_000);
    site.completed(&site.submit(&backup_of(&source, "files")));
    let target = site.repo.scratch().join("target");
    let mut order = restore_to(&target, "files");
    order["order"]["attempts"] = json!(100);
    order["order"]["restore"]["overwrite"] = json!("if-changed");
    let job = site.submit(&order);
    until("the restore has begun to write", || target.exists());
    let stop = |signal| agent.signal_children(signal);
    stop(Signal::STOP);
    // What is in it, not the directory: that the restore holds open.
    let (place, away) = (std::path::PathBuf::from(site.repo.place()), site.repo.directory("away"));
    let moved = |from: &std::path::Path, to: &std::path::Path| {
        for name in ["config", "keys", "packs"] {
            std::fs::rename(from.join(name), to.join(name)).expect("rename");
        }
    };
    moved(&place, &away);
    stop(Signal::CONT);
    until("an attempt has failed", || {
        let now = site.job(&job);
        assert_ne!(now["state"], "completed", "it was over before the repository went away: {now}");
        now["attempt"].as_i64() > Some(1) || now["state"] == "queued"
    });
    moved(&away, &place);
    let done = site.completed(&job);
    assert!(done["attempt"].as_i64() > Some(1), "{done}");
    assert_same_tree(&source, &mover::landed(&target, &source));
}

#[test]
fn s057_s058_backup_of_another_set_runs_beside_a_restore_and_one_of_the_same_set_waits() {
    let site = Site::new();
    let _agent = site.agent("one", "cores = 8\nmemory = '8GiB'");
    let source = tree(&site.repo, "source", 1, 1000);
    site.completed(&site.submit(&backup_of(&source, "files")));
    let marker = site.repo.scratch().join("marker");
    let mut order = restore_to(&site.repo.scratch().join("target"), "files");
    order["order"]["before"] = while_there(&marker);
    let restore = site.submit(&order);
    site.wait(&restore, &["estimating", "running"]);
    let same = site.submit(&backup_of(&source, "files"));
    let other = site.submit(&backup_of(&source, "other"));
    site.completed(&other);
    let waiting = site.job(&same);
    assert_eq!((&waiting["state"], &waiting["waits_on"]), (&json!("queued"), &json!("set:files")), "{waiting}");
    assert_ne!(site.job(&restore)["state"], "completed");
    std::fs::remove_file(&marker).expect("remove");
    site.completed(&restore);
    site.completed(&same);
}

#[test]
fn s065_s172_jobs_wait_for_their_agent_and_run_when_it_is_up() {
    let site = Site::new();
    let source = tree(&site.repo, "source", 1, 1000);
    let backup = site.submit(&backup_of(&source, "files"));
    assert_eq!(site.job(&backup)["state"], "queued");
    let mut agent = site.agent("one", "");
    site.completed(&backup);
    agent.kill();
    let target = site.repo.scratch().join("target");
    let mut order = restore_to(&target, "files");
    order["workload"] = json!("hyper_v");
    let restore = site.submit(&order);
    assert_eq!(site.job(&restore)["state"], "queued");
    agent.start();
    site.completed(&restore);
    assert_same_tree(&source, &mover::landed(&target, &source));
}

#[test]
fn s151_busy_agent_leaves_a_job_queued_until_it_is_free() {
    let site = Site::new();
    let _agent = site.agent("one", "memory = '450MiB'");
    let source = tree(&site.repo, "source", 1, 1000);
    let marker = site.repo.scratch().join("marker");
    let mut order = backup_of(&source, "first");
    order["order"]["before"] = while_there(&marker);
    let first = site.submit(&order);
    site.wait(&first, &["estimating", "running"]);
    let second = site.submit(&backup_of(&source, "second"));
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(site.job(&second)["state"], "queued");
    std::fs::remove_file(&marker).expect("remove");
    site.completed(&first);
    site.completed(&second);
}
