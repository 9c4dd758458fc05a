//! Bad input, as the issue lists it: a clear error, no panic, nothing lost, nothing half-written under its final name.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use mover_tests::mounts::Mount;
use mover_tests::mover::{finish, landed, scratch};
use mover_tests::strace::under_strace;
use mover_tests::tree::{KIB, MIB, files_below, names_below, small_files, write, write_random};
use mover_tests::{Repo, Run, exit, needs, skip_test};

fn small_backup() -> (Repo, PathBuf, String) {
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("file"), 300 * KIB, 1);
    let point = repo.backup(&source).point();
    (repo, source, point)
}

#[test]
fn bad_wrong_password_exits_12() {
    let (repo, source, point) = small_backup();
    let wrong = repo.scratch().join("wrong");
    write(&wrong, b"wrong");
    for arguments in
        [vec!["points"], vec!["ls", &point], vec!["verify"], vec!["backup", source.to_str().expect("plain")]]
    {
        let mut command = repo.command(arguments[0], &arguments[1..]);
        command.env("MOVER_PASSWORD_FILE", &wrong);
        let run = finish(command, None).expect(exit::WRONG_KEY);
        assert!(run.stderr.to_lowercase().contains("password"), "{run}");
    }
    let mut empty = repo.command("points", &[] as &[&str]);
    empty.env_remove("MOVER_PASSWORD_FILE");
    let run = finish(empty, None);
    assert!(run.code != 0 && run.stderr.contains("MOVER_PASSWORD"), "{run}");
}

#[test]
fn bad_password_file_with_a_trailing_newline_is_the_same_password() {
    let (repo, _, point) = small_backup();
    for ending in ["\n", "\r\n"] {
        write(repo.password_file(), format!("correct horse battery staple{ending}").as_bytes());
        repo.run("ls", &[&point]).expect(exit::DONE);
    }
    write(repo.password_file(), b"");
    let run = repo.run("points", &[] as &[&str]);
    assert!(run.code != 0 && !run.panicked(), "{run}");
}

#[test]
fn bad_no_repository_exits_10() {
    let repo = Repo::without_init();
    let source = repo.directory("source");
    let path = source.to_str().expect("plain");
    for arguments in [&["points"][..], &["backup", path], &["verify"], &["restore", "latest", "--target", path]] {
        let run = repo.run(arguments[0], &arguments[1..]).expect(exit::NO_REPOSITORY);
        assert!(run.stderr.contains("repository") && run.stderr.contains("init"), "no guidance: {run}");
    }
    // An empty directory is no repository either, and stays empty.
    let empty = repo.directory("repository");
    repo.run("backup", &[path]).expect(exit::NO_REPOSITORY);
    assert!(names_below(&empty).is_empty());
}

#[test]
fn bad_repository_path_is_a_file() {
    let repo = Repo::without_init();
    write(repo.place(), b"I am a file");
    let source = repo.directory("source");
    let place = repo.place().to_str().expect("plain").to_owned();
    repo.run("init", &[] as &[&str]).expect_error(exit::FAILED, &place);
    let run = repo.run("backup", &[source.as_os_str()]);
    assert!([exit::FAILED, exit::NO_REPOSITORY].contains(&run.code) && run.stderr.contains(&place), "{run}");
    assert_eq!(std::fs::read(repo.place()).expect("read"), b"I am a file");
}

#[test]
fn bad_init_over_a_repository_or_other_files_is_refused() {
    let (repo, source, point) = small_backup();
    let before = repo.objects();
    assert_ne!(repo.run("init", &[] as &[&str]).code, exit::DONE);
    assert_eq!(repo.objects(), before);
    repo.restore(&point, &source, "target");
    let other = Repo::without_init();
    write(&other.place().join("holiday.jpg"), b"not yours");
    assert_ne!(other.run("init", &[] as &[&str]).code, exit::DONE);
    assert_eq!(names_below(other.place()), [PathBuf::from("holiday.jpg")]);
}

#[test]
fn bad_path_that_does_not_exist_is_named() {
    let repo = Repo::new();
    let missing = repo.scratch().join("missing");
    let run = repo.run("backup", &[missing.as_os_str()]);
    assert!(run.code != exit::DONE && !run.panicked(), "{run}");
    assert!(run.stderr.contains("missing"), "{run}");
    let text = repo.run("points", &["--json"]).expect(exit::DONE).text();
    assert!(!text.contains("missing"), "a recovery point of nothing: {text}");
}

#[test]
fn bad_file_that_vanishes_or_cannot_be_read_is_listed_and_the_rest_is_backed_up() {
    needs!(root, "setpriv");
    let repo = Repo::new();
    let source = repo.directory("source");
    write(&source.join("fine"), b"fine");
    write(&source.join("secret"), b"secret");
    write(&source.join("closed/inner"), b"inner");
    let chmod = |name: &str| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o000);
        std::fs::set_permissions(source.join(name), mode).expect("chmod");
    };
    chmod("secret");
    chmod("closed");
    assert!(mover_tests::skip::succeeds("chown", &["-R", "65534:65534", repo.scratch().to_str().expect("plain")]));
    let program = repo.scratch().join("mover");
    std::fs::copy(mover_tests::Mover::program(), &program).expect("copy the binary");
    let inner = repo.command("backup", &["--json".as_ref(), source.as_os_str()]);
    let mut outer = std::process::Command::new("setpriv");
    outer.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program).args(inner.get_args());
    outer
        .env("XDG_STATE_HOME", repo.scratch().join("state-of-nobody"))
        .env("MOVER_PASSWORD_FILE", repo.password_file())
        .current_dir(repo.scratch());
    let run = finish(outer, None).expect(exit::EXCEPTIONS);
    let said = format!("{}{}", run.text(), run.stderr);
    for name in ["secret", "closed"] {
        assert!(said.contains(name), "{name} is not listed: {said}");
    }
    // The restore says once more which content is not there.
    let target = repo.directory("target");
    repo.restore_run(&run.summary().point(), &target, &[]).expect(exit::EXCEPTIONS);
    let restored = landed(&target, &source);
    assert_eq!(std::fs::read(restored.join("fine")).expect("read"), b"fine");
    assert!(!restored.join("secret").exists(), "a file without content was restored");
}

/// A repository on a small file system, with one good recovery point in it.
fn on_a_small_disk(mount: &Mount) -> (Repo, PathBuf, String) {
    let repo = Repo::at(scratch(), mount.place().join("repository"));
    repo.run("init", &[] as &[&str]).expect(exit::DONE);
    let first = repo.directory("first");
    write_random(&first.join("file"), 2 * MIB, 1);
    let point = repo.backup(&first).point();
    (repo, first, point)
}

#[test]
fn bad_full_disk_at_any_write_loses_nothing() {
    needs!(root, "mount", "mkfs.ext4");
    let mount = match Mount::ext4(64 * MIB) {
        Ok(mount) => mount,
        Err(reason) => skip_test!(reason),
    };
    let (repo, first, point) = on_a_small_disk(&mount);
    let second = repo.directory("second");
    small_files(&second, 400, 1000, 30_000, 2);
    write_random(&second.join("large"), 12 * MIB, 3);
    let mut failures = 0;
    // From "not even a log record" to "all but the last object".
    for left in [0, 4, 8, 16, 32, 64, 128, 256, 1024, 4096, 9000, 12_000, 16_000, 17_000] {
        let filler = mount.fill(left * KIB);
        let run = repo.run("backup", &["--json".as_ref(), second.as_os_str()]);
        assert!(!run.panicked(), "with {left} KiB left: {run}");
        std::fs::remove_file(filler).expect("remove the filler");
        if run.code != exit::DONE {
            failures += 1;
            assert_eq!(run.code, exit::FAILED, "with {left} KiB left: {run}");
            let said = run.stderr.to_lowercase();
            assert!(said.contains("space") || said.contains("full"), "with {left} KiB left: {run}");
        }
        repo.restore(&point, &first, &format!("target-{left}"));
    }
    assert!(failures >= 8, "the disk was full only {failures} times");
    // With room again, the next run completes and everything is sound.
    let summary = repo.backup(&second);
    repo.restore(&summary.point(), &second, "target-second");
    repo.verify_all();
}

#[test]
fn bad_read_only_repository_still_restores() {
    needs!(root, "mount", "mkfs.ext4");
    let mount = match Mount::ext4(32 * MIB) {
        Ok(mount) => mount,
        Err(reason) => skip_test!(reason),
    };
    let (repo, first, point) = on_a_small_disk(&mount);
    mount.read_only(true);
    let run = repo.run("backup", &[first.as_os_str()]);
    assert_eq!(run.code, exit::FAILED, "{run}");
    assert!(!run.panicked() && run.stderr.to_lowercase().contains("read-only"), "{run}");
    mount.read_only(false);
    repo.restore(&point, &first, "target");
}

/// `doctor -r` on a full or read-only place printed eleven failures, each with "do not keep a repository in this place: it
/// could lose backups". It says once what is the matter, and judges nothing that it could not try.
#[test]
fn bad_place_that_takes_no_writes_is_not_called_unfit() {
    needs!(root, "mount", "mkfs.ext4");
    let mount = match Mount::ext4(32 * MIB) {
        Ok(mount) => mount,
        Err(reason) => skip_test!(reason),
    };
    let (repo, _, _) = on_a_small_disk(&mount);
    let failures_of_the_place = || {
        let run = repo.run("doctor", &[] as &[&str]).expect(exit::FAILED);
        let text = run.text();
        assert!(!text.contains("do not keep a repository"), "{text}");
        text.lines().filter(|line| line.starts_with("fail")).map(str::to_owned).collect::<Vec<_>>()
    };
    let filler = mount.fill(0);
    let full = failures_of_the_place();
    assert!(full.len() == 1 && full[0].to_lowercase().contains("no space"), "{full:?}");
    std::fs::remove_file(filler).expect("remove the filler");
    mount.read_only(true);
    let read_only = failures_of_the_place();
    assert!(read_only.len() == 1 && read_only[0].to_lowercase().contains("read-only"), "{read_only:?}");
    mount.read_only(false);
    repo.run("doctor", &[] as &[&str]).expect(exit::DONE);
}

#[test]
fn bad_read_only_target_is_an_error_that_names_it() {
    needs!(root, "mount", "mkfs.ext4");
    let mount = match Mount::ext4(32 * MIB) {
        Ok(mount) => mount,
        Err(reason) => skip_test!(reason),
    };
    let (repo, _, point) = small_backup();
    mount.read_only(true);
    let run = repo.restore_run(&point, mount.place(), &[]);
    assert_eq!(run.code, exit::FAILED, "{run}");
    assert!(!run.panicked() && run.stderr.contains(mount.place().to_str().expect("plain")), "{run}");
    mount.read_only(false);
}

#[test]
fn bad_target_without_room_is_refused_before_the_first_byte() {
    needs!(root, "mount");
    let mount = match Mount::tmpfs(8 * MIB) {
        Ok(mount) => mount,
        Err(reason) => skip_test!(reason),
    };
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("file"), 20 * MIB, 1);
    let point = repo.backup(&source).point();
    let run = repo.restore_run(&point, mount.place(), &[]);
    assert_eq!(run.code, exit::FAILED, "{run}");
    assert!(!run.panicked() && names_below(mount.place()).is_empty(), "{run}");
}

/// A restore in place measured the root file system, not the one that the files go to.
#[test]
fn bad_place_without_room_is_refused_where_the_files_go() {
    needs!(root, "mount");
    let mount = match Mount::tmpfs(16 * MIB) {
        Ok(mount) => mount,
        Err(reason) => skip_test!(reason),
    };
    let repo = Repo::new();
    let source = mount.place().join("source");
    write_random(&source.join("file"), 8 * MIB, 1);
    let point = repo.backup(&source).point();
    std::fs::remove_file(source.join("file")).expect("remove");
    mount.fill(2 * MIB);
    let run = repo.run("restore", &["--json", &point, "--in-place"]);
    let run = run.expect_error(exit::FAILED, mount.place().to_str().expect("plain"));
    assert!(run.stderr.contains("the restore needs"), "{run}");
    assert!(!source.join("file").exists() && names_below(&source).is_empty());
}

/// Files that are about to be replaced were counted as if they stayed: a second restore into a disk that is more than
/// half full was refused.
#[test]
fn bad_target_that_is_half_full_of_the_same_files_has_room_for_them() {
    needs!(root, "mount");
    let mount = match Mount::tmpfs(16 * MIB) {
        Ok(mount) => mount,
        Err(reason) => skip_test!(reason),
    };
    let repo = Repo::new();
    let source = repo.directory("source");
    for number in 0..20 {
        write_random(&source.join(format!("file-{number}")), MIB / 2, number);
    }
    let point = repo.backup(&source).point();
    repo.restore_run(&point, mount.place(), &[]).expect(exit::DONE);
    repo.restore_run(&point, mount.place(), &["--verify".as_ref()]).expect(exit::DONE);
}

#[test]
fn bad_target_without_inodes_is_refused_before_the_first_byte() {
    needs!(root, "mount", "mkfs.ext4");
    let mount = match Mount::ext4(16 * MIB) {
        Ok(mount) => mount,
        Err(reason) => skip_test!(reason),
    };
    let repo = Repo::new();
    let source = repo.directory("source");
    small_files(&source, 6000, 1, 10, 1);
    let point = repo.backup(&source).point();
    let before = names_below(mount.place());
    let run = repo.restore_run(&point, mount.place(), &[]);
    assert_eq!(run.code, exit::FAILED, "{run}");
    assert!(!run.panicked(), "{run}");
    assert_eq!(names_below(mount.place()), before);
}

#[test]
fn bad_target_that_fills_up_meanwhile_leaves_no_half_file() {
    needs!(root, "mount");
    let mount = match Mount::tmpfs(64 * MIB) {
        Ok(mount) => mount,
        Err(reason) => skip_test!(reason),
    };
    let repo = Repo::new();
    let source = repo.directory("source");
    for number in 0..12 {
        write_random(&source.join(format!("file-{number}")), 4 * MIB, number);
    }
    let point = repo.backup(&source).point();
    let place = mount.place().to_owned();
    let run = std::thread::scope(|scope| {
        // Somebody else fills the disk as soon as the first file is there.
        scope.spawn(|| {
            for _ in 0..2000 {
                if !names_below(&place).is_empty() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            mount.fill(0);
        });
        repo.restore_run(&point, &place, &[])
    });
    assert!(!run.panicked(), "{run}");
    only_whole_files(&source, &landed(&place, &source));
}

/// Each file under its final name has exactly the content of the source.
fn only_whole_files(source: &Path, restored: &Path) {
    for (name, _) in files_below(restored) {
        if source.join(&name).exists() {
            let same =
                std::fs::read(source.join(&name)).expect("read") == std::fs::read(restored.join(&name)).expect("read");
            assert!(same, "{} is half-written under its final name", name.display());
        }
    }
}

#[test]
fn bad_target_is_a_file() {
    let (repo, _, point) = small_backup();
    let target = repo.scratch().join("file");
    write(&target, b"a file");
    let run: Run = repo.restore_run(&point, &target, &[OsStr::new("--quiet")]);
    run.expect_error(exit::FAILED, target.to_str().expect("plain"));
    assert_eq!(std::fs::read(&target).expect("read"), b"a file");
}

/// The attributes of a directory that could not be read were left out without a word: its access list was gone after a
/// restore, and what the list had kept from others was open to them.
#[test]
fn bad_directory_whose_attributes_cannot_be_read_is_listed() {
    needs!("strace");
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("closed/file"), KIB, 1);
    let inner = repo.command("backup", &["--json".as_ref(), source.as_os_str()]);
    let options = ["-e", "trace=flistxattr", "-e", "inject=flistxattr:error=EIO"];
    let run = finish(under_strace(&inner, &options, &repo.scratch().join("strace.out")), None);
    let run = run.expect_error(exit::EXCEPTIONS, "");
    assert!(run.text().contains("closed"), "{run}");
}

/// A temporary directory without room, or none at all, made a large directory vanish from the backup, blamed on the
/// source, and the point was published all the same.
#[test]
fn bad_temporary_directory_ends_the_job_and_names_itself() {
    let repo = Repo::new();
    let source = repo.directory("source");
    // More names than are sorted in memory.
    for number in 0..40_000 {
        std::fs::write(source.join(format!("{number:0>200}")), b"").expect("write");
    }
    let mut command = repo.command("backup", &[source.as_os_str()]);
    command.env("TMPDIR", repo.scratch().join("nowhere"));
    finish(command, None).expect_error(exit::FAILED, "TMPDIR");
    assert_eq!(repo.run("points", &["--json"]).expect(exit::DONE).summary().points(), 0);
}
