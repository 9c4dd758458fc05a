//! Kills and interrupts: what was committed stays, what was stored is used again, and nothing half-done shows.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use mover_tests::mover::{landed, wait};
use mover_tests::random::Random;
use mover_tests::skip;
use mover_tests::summary::json_lines;
use mover_tests::tree::{KIB, MIB, files_below, names_below, small_files, write_random};
use mover_tests::{Repo, exit};

fn start(repo: &Repo, subcommand: &str, arguments: &[&std::ffi::OsStr]) -> Child {
    let mut command = repo.command(subcommand, arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("start")
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let process = rustix::process::Pid::from_child(child);
    // The child may have ended by itself: that is no error here.
    let _ = rustix::process::kill_process(process, signal);
}

fn stored_bytes(repo: &Repo) -> u64 {
    // Packs in progress are among them: what they hold is lost with the run, and stored again.
    repo.objects().iter().filter(|(path, _)| path.starts_with("packs")).map(|(_, bytes)| bytes).sum()
}

fn is_unfinished(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".tmp-"))
}

/// Every file of `source` has its bytes below `place`.
fn assert_same_content(source: &Path, place: &Path) {
    for (name, _) in files_below(source) {
        let content = |root: &Path| std::fs::read(root.join(&name)).expect("read");
        assert!(content(source) == content(place), "{} differs after the rerun", name.display());
    }
}

/// How many runs are registered in the log (`open`), or have ended (`done`).
fn log_objects(repo: &Repo, kind: &str) -> usize {
    repo.objects().iter().filter(|(path, _)| path.starts_with("log") && path.ends_with(kind)).count()
}

/// Waits until a run beyond the first `runs` is registered: opening the repository takes longest and writes nothing.
fn until_registered(repo: &Repo, child: &mut Child, runs: usize) {
    let patience = Instant::now() + Duration::from_secs(60);
    while log_objects(repo, "open") <= runs && Instant::now() < patience && child.try_wait().expect("look").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn crash_at_random_moments_loses_no_earlier_point() {
    let repo = Repo::new();
    let source = repo.directory("source");
    small_files(&source, 300, 0, 40_000, 1);
    write_random(&source.join("large"), 30 * MIB, 2);
    let first = repo.backup(&source).point();
    let mut random = Random::new(3);
    let rounds = if std::env::var_os("MOVER_TEST_NIGHTLY").is_some() { 300 } else { 30 };
    let unfinished = || names_below(repo.place()).iter().filter(|name| is_unfinished(name)).count() as u64;
    let (mut killed_at_work, mut killed_in_a_write) = (0, 0);
    for round in 0..rounds {
        write_random(&source.join("large"), 30 * MIB, 100 + round);
        write_random(&source.join(format!("more-{round}")), random.below(MIB), 200 + round);
        let runs = log_objects(&repo, "open");
        let mut child = start(&repo, "backup", &[source.as_os_str()]);
        // One round in five is killed while it opens the repository.
        if round % 5 > 0 {
            until_registered(&repo, &mut child, runs);
        }
        std::thread::sleep(Duration::from_millis(random.below(150)));
        killed_at_work += u64::from(child.try_wait().expect("look").is_none());
        child.kill().expect("kill");
        child.wait().expect("wait");
        killed_in_a_write += u64::from(unfinished() > 0);
        if round % 10 == 9 {
            let target = repo.directory("between");
            repo.restore_run(&first, &target, &[]).expect(exit::DONE);
            std::fs::remove_dir_all(&target).expect("remove");
        }
    }
    assert!(killed_at_work > 0 && killed_in_a_write > 0, "no kill hit: {killed_at_work}, {killed_in_a_write}");
    // Each kill may have left an unfinished pack: they are counted, and the next backup removes them all.
    let told = json_lines(&repo.run("verify", &["--json"]).expect(exit::DONE).stdout);
    assert_eq!(told.last().expect("a summary")["unfinished_files"], unfinished());
    let summary = repo.backup(&source);
    assert_eq!(unfinished(), 0);
    let restored = repo.restore(&summary.point(), &source, "target");
    assert_eq!(files_below(&restored), files_below(&source));
    assert!(skip::succeeds("diff", &["-r", source.to_str().expect("plain"), restored.to_str().expect("plain")]));
    repo.verify_all();
}

#[test]
fn crash_at_half_way_stores_at_most_a_tenth_again() {
    let repo = Repo::new();
    let source = repo.directory("source");
    for number in 0..16 {
        write_random(&source.join(format!("file-{number:02}")), 64 * MIB, number);
    }
    let total = 16 * 64 * MIB;
    let mut child = start(&repo, "backup", &[source.as_os_str()]);
    let patience = Instant::now() + Duration::from_secs(120);
    while stored_bytes(&repo) < total / 2 && Instant::now() < patience && child.try_wait().expect("wait").is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
    let stored = stored_bytes(&repo);
    assert!(stored >= total / 2, "the first run stored only {stored} bytes");
    assert!(stored < total, "the first run was done before it was killed");
    let again = repo.backup(&source);
    let twice = (again.bytes_new() + stored).saturating_sub(total);
    assert!(twice <= stored / 10, "{twice} of {stored} stored bytes were stored again");
    let restored = repo.restore(&again.point(), &source, "target");
    assert_eq!(files_below(&restored), files_below(&source));
    repo.verify_all();
}

/// A killed restore leaves nothing half-written under a final name, and the rerun after it brings every byte and leaves
/// no temporary name: not of files that had their final mode, nor of links or further names.
#[test]
fn crash_of_a_restore_leaves_no_half_file_and_a_rerun_completes() {
    let repo = Repo::new();
    let source = repo.directory("source");
    small_files(&source, 500, 0, 20 * KIB, 1);
    for number in 0..200 {
        std::os::unix::fs::symlink(format!("to-{number}"), source.join(format!("link-{number}"))).expect("symlink");
    }
    for number in 0..4 {
        write_random(&source.join(format!("large-{number}")), 40 * MIB, number);
    }
    let point = repo.backup(&source).point();
    let mut random = Random::new(9);
    let target = repo.directory("target");
    let place = landed(&target, &source);
    for _ in 0..8 {
        let mut child = start(&repo, "restore", &[point.as_ref(), "--target".as_ref(), target.as_os_str()]);
        std::thread::sleep(Duration::from_millis(50 + random.below(400)));
        child.kill().expect("kill");
        child.wait().expect("wait");
        for (name, _) in files_below(&place) {
            if source.join(&name).exists() {
                let same =
                    std::fs::read(source.join(&name)).expect("read") == std::fs::read(place.join(&name)).expect("read");
                assert!(same, "{} is half-written under its final name", name.display());
            }
        }
    }
    repo.restore_run(&point, &target, &[]).expect(exit::DONE);
    assert_eq!(names_below(&place), names_below(&source), "something is missing or left over after the rerun");
    assert_same_content(&source, &place);
}

#[test]
fn crash_of_init_leaves_no_repository_that_half_works() {
    for delay in [0, 5, 20, 60, 120] {
        let repo = Repo::without_init();
        let mut child = start(&repo, "init", &[]);
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().expect("kill");
        child.wait().expect("wait");
        let run = repo.run("points", &[] as &[&str]);
        assert!([exit::DONE, exit::NO_REPOSITORY].contains(&run.code), "after {delay} ms: {run}");
    }
}

/// A tree that takes long enough to be interrupted.
fn long_backup(repo: &Repo) -> std::path::PathBuf {
    let source = repo.directory("source");
    for number in 0..10 {
        write_random(&source.join(format!("file-{number}")), 64 * MIB, number);
    }
    source
}

fn until_something_is_stored(repo: &Repo) {
    let patience = Instant::now() + Duration::from_secs(60);
    while stored_bytes(repo) < 32 * MIB && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn crash_interrupted_once_finishes_cleanly_and_says_what_is_kept() {
    let repo = Repo::new();
    let source = long_backup(&repo);
    let child = start(&repo, "backup", &[source.as_os_str()]);
    until_something_is_stored(&repo);
    signal(&child, rustix::process::Signal::INT);
    let run = wait(child, "backup".to_owned());
    assert_eq!(run.code, exit::INTERRUPTED, "{run}");
    let said = format!("{}{}", run.text(), run.stderr).to_lowercase();
    assert!(said.contains("kept") || said.contains("again"), "it does not say how to go on: {run}");
    assert!(
        !names_below(repo.place()).iter().any(|name| name.to_string_lossy().contains("tmp")),
        "temporary files stay"
    );
    let stored = stored_bytes(&repo);
    let again = repo.backup(&source);
    assert!(again.bytes_new() + stored <= 640 * MIB + stored / 10 + MIB, "work was lost");
}

/// The first signal lets what is begun be stored, which takes seconds at this level, and records how the run ended. The
/// second one does not wait for that: the run has no outcome.
#[test]
fn crash_interrupted_twice_exits_130_at_once_and_loses_nothing() {
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("file"), MIB, 1);
    let first = repo.backup(&source).point();
    for number in 0..16 {
        let text = Random::new(number).text(8 * MIB as usize);
        std::fs::write(source.join(format!("text-{number}")), text).expect("write");
    }
    let outcomes = log_objects(&repo, "done");
    let mut child = start(&repo, "backup", &["--level".as_ref(), "19".as_ref(), source.as_os_str()]);
    until_registered(&repo, &mut child, outcomes);
    std::thread::sleep(Duration::from_millis(300));
    signal(&child, rustix::process::Signal::INT);
    std::thread::sleep(Duration::from_millis(20));
    signal(&child, rustix::process::Signal::INT);
    let run = wait(child, "backup".to_owned());
    assert_eq!(run.code, exit::INTERRUPTED, "{run}");
    assert_eq!(log_objects(&repo, "done"), outcomes, "it finished in order, as after one signal: {run}");
    repo.restore_run(&first, &repo.directory("before"), &[]).expect(exit::DONE);
    repo.backup(&source);
    repo.verify_all();
}

/// An interrupted restore says how to go on, and the restore it names completes it.
#[test]
fn crash_of_an_interrupted_restore_is_completed_by_the_command_it_names() {
    let repo = Repo::new();
    let source = long_backup(&repo);
    let point = repo.backup(&source).point();
    let target = repo.directory("target");
    let place = landed(&target, &source);
    let child = start(&repo, "restore", &[point.as_ref(), "--target".as_ref(), target.as_os_str()]);
    let patience = Instant::now() + Duration::from_secs(60);
    while files_below(&place).is_empty() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(2));
    }
    signal(&child, rustix::process::Signal::INT);
    let run = wait(child, "restore".to_owned());
    assert_eq!(run.code, exit::INTERRUPTED, "{run}");
    assert!(run.stderr.contains("--overwrite if-changed"), "it does not say how to go on: {run}");
    let restored = files_below(&place).len();
    assert!((1..10).contains(&restored), "{restored} of 10 files were restored before the interruption");
    repo.restore_run(&point, &target, &["--overwrite".as_ref(), "if-changed".as_ref()]).expect(exit::DONE);
    assert_eq!(names_below(&place), names_below(&source));
    assert_same_content(&source, &place);
}
