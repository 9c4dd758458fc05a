//! The command line itself: listings, JSON, exit codes, two backups at once, and `try`.

use std::process::Stdio;

use mover_tests::mover::wait;
use mover_tests::summary::json_lines;
use mover_tests::tree::{KIB, MIB, small_files, write, write_random};
use mover_tests::{Mover, Repo, exit, needs};

#[test]
fn command_try_tells_the_three_steps() {
    let scratch = mover_tests::mover::scratch();
    let source = scratch.path().join("source");
    small_files(&source, 200, 0, 10 * KIB, 1);
    let run = Mover::run(&["try".as_ref(), source.as_os_str()]).expect(exit::DONE);
    let text = format!("{}{}", run.text(), run.stderr).to_lowercase();
    for word in ["backup", "restore", "files", "mb/s"] {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
    let mut here = Mover::command(&["try"]);
    here.current_dir(&source);
    mover_tests::mover::finish(here, None).expect(exit::DONE);
    assert_eq!(mover_tests::tree::files_below(&source).len(), 200, "try changed its source");
}

#[test]
fn command_points_shows_what_a_person_wants_to_know() {
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("file"), 10 * KIB, 1);
    let one = repo.backup_with(&source, &["--tag", "monthly", "--set", "web"]);
    let two = repo.backup_with(&source, &["--set", "db"]);
    let text = repo.run("points", &[] as &[&str]).expect(exit::DONE).text();
    for word in ["web", "db", "monthly", &one.point()[..8], &two.point()[..8]] {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
    let only = repo.run("points", &["--set", "db"]).expect(exit::DONE).text();
    assert!(!only.contains("web") && only.contains("db"));
    let lines = json_lines(&repo.run("points", &["--json"]).expect(exit::DONE).stdout);
    assert!(lines.len() >= 2);
}

#[test]
fn command_points_of_an_empty_repository_is_no_error() {
    let repo = Repo::new();
    repo.run("points", &[] as &[&str]).expect(exit::DONE);
}

#[test]
fn command_ls_lists_the_root_and_a_directory() {
    let repo = Repo::new();
    let source = repo.directory("source");
    write(&source.join("deep/leaf"), b"leaf");
    write(&source.join("top"), b"top");
    let point = repo.backup(&source).point();
    let all = repo.run("ls", &[&point]).expect(exit::DONE).text();
    assert!(all.contains("top"), "{all}");
    let inner = source.join("deep");
    let some = repo.run("ls", &[&point, inner.to_str().expect("plain")]).expect(exit::DONE).text();
    assert!(some.contains("leaf") && !some.contains("top"), "{some}");
    repo.run("ls", &[&point, "/not/there"]).expect_error(exit::FAILED, "/not/there");
    json_lines(&repo.run("ls", &["--json", &point]).expect(exit::DONE).stdout);
}

#[test]
fn command_dump_prints_the_bytes_of_a_file() {
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("file"), 2 * MIB + 1, 1);
    let point = repo.backup(&source).point();
    let path = source.join("file");
    let run = repo.run("dump", &[&point, path.to_str().expect("plain")]).expect(exit::DONE);
    assert!(run.stdout == std::fs::read(&path).expect("read"));
    repo.run("dump", &[&point, "/none"]).expect_error(exit::FAILED, "/none");
    repo.run("dump", &[&point, source.to_str().expect("plain")]).expect_error(exit::FAILED, "directory");
}

#[test]
fn command_diff_tells_two_points_apart() {
    let repo = Repo::new();
    let source = repo.directory("source");
    for name in ["same", "changed", "removed"] {
        write(&source.join(name), name.as_bytes());
    }
    let one = repo.backup(&source).point();
    write(&source.join("changed"), b"otherwise");
    write(&source.join("added"), b"added");
    std::fs::remove_file(source.join("removed")).expect("remove");
    let two = repo.backup(&source).point();
    let text = repo.run("diff", &[&one, &two]).expect(exit::DONE).text();
    for name in ["changed", "removed", "added"] {
        assert!(text.lines().any(|line| line.ends_with(name)), "no {name:?} in {text}");
    }
    assert!(!text.lines().any(|line| line.ends_with("same")), "{text}");
}

#[test]
fn command_latest_is_refused_where_it_is_ambiguous() {
    let repo = Repo::new();
    let source = repo.directory("source");
    write(&source.join("file"), b"content");
    repo.run("ls", &["latest"]).expect(exit::FAILED);
    repo.backup_with(&source, &["--set", "one"]);
    repo.run("ls", &["latest"]).expect(exit::DONE);
    repo.backup_with(&source, &["--set", "two"]);
    let run = repo.run("ls", &["latest"]);
    assert_ne!(run.code, exit::DONE, "{run}");
    assert!(run.stderr.contains("--set"), "{run}");
    repo.run("ls", &["latest", "--set", "two"]).expect(exit::DONE);
}

#[test]
fn command_two_backups_at_once_both_succeed() {
    let repo = Repo::new();
    let mut children = Vec::new();
    for name in ["one", "two", "three"] {
        let source = repo.directory(name);
        write_random(&source.join("own"), 20 * MIB, name.len() as u64);
        write_random(&source.join("shared"), 20 * MIB, 99);
        let mut command = repo.command("backup", &["--json".as_ref(), source.as_os_str()]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        children.push((source, command.spawn().expect("start")));
    }
    for (number, (source, child)) in children.into_iter().enumerate() {
        let summary = wait(child, format!("backup {number}")).expect(exit::DONE).summary();
        let restored = repo.restore(&summary.point(), &source, &format!("target-{number}"));
        for file in ["own", "shared"] {
            assert!(
                std::fs::read(source.join(file)).expect("read") == std::fs::read(restored.join(file)).expect("read")
            );
        }
    }
    repo.verify_all();
}

#[test]
fn command_restore_and_verify_beside_a_backup() {
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("file"), 40 * MIB, 1);
    let point = repo.backup(&source).point();
    let other = repo.directory("other");
    write_random(&other.join("file"), 100 * MIB, 2);
    let mut command = repo.command("backup", &["--json".as_ref(), other.as_os_str()]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("start");
    repo.restore(&point, &source, "target");
    repo.verify_all();
    wait(child, "backup".to_owned()).expect(exit::DONE);
}

#[test]
fn command_wrong_usage_exits_2_and_says_how() {
    for arguments in [&["backup"][..], &["nonsense"], &["restore", "-r"], &["backup", "--memory", "lots", "x"]] {
        let run = Mover::run(arguments).expect(exit::USAGE);
        assert!(!run.stderr.is_empty());
    }
    Mover::run(&["--help"]).expect(exit::DONE);
    Mover::run(&["--version"]).expect(exit::DONE);
    // In our own words, and all of them in the JSON too.
    let repo = Repo::new();
    let run = repo.run("restore", &["latest", "--json"]).expect(exit::USAGE);
    assert!(run.stderr.starts_with("mover: ") && run.stderr.contains("--in-place"), "{run}");
    assert!(run.text().contains("--target") && run.text().contains("--in-place"), "{run}");
    let source = repo.directory("source");
    repo.run("backup", &["--set".as_ref(), "".as_ref(), source.as_os_str()]).expect_error(exit::USAGE, "name");
    repo.run("backup", &[repo.place().join("keys").as_os_str()]).expect_error(exit::USAGE, "inside the repository");
    assert_eq!(repo.objects().iter().filter(|(path, _)| path.starts_with("log")).count(), 0);
}

#[test]
fn command_memory_below_the_least_is_refused() {
    let repo = Repo::new();
    let source = repo.directory("source");
    let path = source.to_str().expect("plain");
    repo.run("backup", &["--memory", "64MiB", path]).expect_error(exit::USAGE, "128");
}

#[test]
fn command_doctor_examines_a_repository() {
    let repo = Repo::new();
    repo.run("doctor", &[] as &[&str]).expect(exit::DONE);
}

#[test]
fn command_backup_dry_run_stores_nothing() {
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("file"), MIB, 1);
    repo.run("backup", &["--json".as_ref(), "--dry-run".as_ref(), source.as_os_str()]).expect(exit::DONE);
    assert!(!repo.objects().iter().any(|(path, _)| path.starts_with("packs")));
    assert_eq!(repo.backup(&source).bytes_new(), MIB);
}

#[test]
fn command_quiet_says_nothing_and_json_only_json() {
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("file"), MIB, 1);
    let run = repo.run("backup", &["--quiet".as_ref(), source.as_os_str()]).expect(exit::DONE);
    assert!(run.stdout.is_empty() && run.stderr.is_empty(), "{run}");
    let with_json = repo.run("backup", &["--json".as_ref(), source.as_os_str()]).expect(exit::DONE);
    assert!(!json_lines(&with_json.stdout).is_empty());
}

#[test]
fn command_settings_come_from_flags_before_the_environment() {
    let repo = Repo::new();
    let source = repo.directory("source");
    write(&source.join("file"), b"x");
    let mut command = Mover::command(&["points"]);
    command.env("MOVER_REPO", repo.place()).env("MOVER_PASSWORD", "correct horse battery staple");
    mover_tests::mover::finish(command, None).expect(exit::DONE);
    let mut other = repo.command("points", &[] as &[&str]);
    other.env("MOVER_REPO", "/nowhere");
    mover_tests::mover::finish(other, None).expect(exit::DONE);
}

/// On a terminal a bar with share, rate and time left; elsewhere a plain line at each interval. Both end with the job.
#[test]
fn command_progress_is_a_bar_on_a_terminal_and_plain_lines_elsewhere() {
    needs!("script");
    let repo = Repo::new();
    let source = repo.directory("source");
    for number in 0..10 {
        write_random(&source.join(format!("file-{number}")), 64 * MIB, number);
    }
    let arguments = ["--progress-interval".as_ref(), "50ms".as_ref(), source.as_os_str()];
    let plain = mover_tests::mover::finish(repo.command("backup", &arguments), None).expect(exit::DONE);
    let lines: Vec<&str> = plain.stderr.lines().filter(|line| line.starts_with("backup: ")).collect();
    assert!(lines.len() > 1, "{plain}");
    assert!(lines.iter().all(|line| line.contains("files") && line.contains("/s")), "{plain}");
    assert!(!plain.stderr.contains(['\r', '\u{1b}']), "signs for a terminal without one: {plain}");

    // Slow enough for a time left to be told.
    let slow = ["--reread".as_ref(), "1/1".as_ref(), "--slow-stage".as_ref(), "deduplicator=40".as_ref()];
    let command = repo.command("backup", &[&slow[..], &[source.as_os_str()]].concat());
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let line = format!("stty rows 24 cols 100; exec {} {}", Mover::program().display(), words.join(" "));
    let mut terminal = std::process::Command::new("script");
    terminal.args(["-qec", &line, "/dev/null"]);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => terminal.env(name, value),
            None => terminal.env_remove(name),
        };
    }
    let shown = mover_tests::mover::finish(terminal, None).expect(exit::DONE);
    let text = shown.text();
    assert!(text.contains('\r') && text.contains('%') && text.contains("/s"), "no bar with share and rate: {shown}");
    assert!(text.contains("ETA"), "no time left: {shown}");
    assert!(text.contains("recovery point"), "{shown}");
}

/// Every backup and restore says what limited it: `--stats` in words, `--json` in figures that add up.
#[test]
fn command_stats_name_the_limit_of_a_backup_and_of_a_restore() {
    let repo = Repo::new();
    let source = repo.directory("source");
    small_files(&source, 300, 0, 40_000, 1);
    let arguments = ["--stats".as_ref(), source.as_os_str()];
    let told = repo.run("backup", &arguments).expect(exit::DONE).text();
    let sentence = told.lines().find(|line| line.starts_with("limit: ")).unwrap_or_else(|| panic!("{told}"));
    assert!(sentence.contains(" %; one more core: +"), "{sentence}");
    for stage in ["scanner", "chunker", "deduplicator", "compressor", "uploader", "recorder", "source reads"] {
        assert!(told.lines().any(|line| line.starts_with(stage)), "{stage} is missing: {told}");
    }
    let target = repo.directory("target");
    let restore = repo.run("restore", &["latest", "--stats", "--target", target.to_str().expect("plain")]);
    let told = restore.expect(exit::DONE).text();
    assert!(told.lines().any(|line| line.starts_with("limit: ")), "{told}");

    let summary = repo.run("backup", &["--json".as_ref(), source.as_os_str()]).expect(exit::DONE);
    let lines = json_lines(&summary.stdout);
    let bottleneck = &lines.last().expect("a summary")["bottleneck"];
    let stages = bottleneck["stages"].as_array().expect("stages");
    let sum: f64 = stages.iter().filter_map(|stage| stage["cpu_seconds"].as_f64()).sum();
    let all = bottleneck["cpu_seconds"].as_f64().expect("CPU seconds");
    assert!((sum - all).abs() <= 0.02 * all.max(0.01), "{sum} of {all}: {bottleneck}");
    assert!(bottleneck["limit"].is_string() && bottleneck["one_more_core"].is_number(), "{bottleneck}");

    let wrong = repo.run("backup", &["--slow-stage".as_ref(), "nobody=2".as_ref(), source.as_os_str()]);
    wrong.expect_error(exit::USAGE, "no actor is called nobody");
}
