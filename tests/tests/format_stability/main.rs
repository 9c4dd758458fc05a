//! Repositories of every released format, as the binary of their day made them: today's binary opens a copy, restores
//! every point as it was described then, proves all data, and goes on with it.
//!
//! `tests/fixtures/format-<n>` holds the repository, what opens it, and `points.json`: what each point must give back.
//! `MOVER_MAKE_FIXTURE=1 cargo test -p mover-tests --test format_stability` makes the one of the current version with
//! the released binary (as root, since owners are part of it). A fixture that exists is never made again: once a version
//! is released, its bytes are what others have on their disks.

mod description;
mod making;

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mover_repository::limits::FORMAT_VERSION;
use mover_tests::mover::scratch;
use mover_tests::summary::json_lines;
use mover_tests::{Repo, exit, needs};
use serde_json::Value;

/// Bytes of one fixture: it is committed.
const FIXTURE_BYTES_MAX: u64 = 200 << 10;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn fixture(version: u8) -> PathBuf {
    fixtures().join(format!("format-{version}"))
}

/// The versions that today's code must read: all but 0, the draft.
fn versions() -> impl Iterator<Item = u8> {
    1..=FORMAT_VERSION
}

/// All tests of this suite wait for the fixture that one of them makes.
fn make_if_asked() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        if std::env::var_os("MOVER_MAKE_FIXTURE").is_some() && !fixture(FORMAT_VERSION).exists() {
            making::make(FORMAT_VERSION, &fixture(FORMAT_VERSION));
        }
    });
}

/// A copy of a fixture that a test may change.
struct Copy {
    repo: Repo,
    points: Vec<Value>,
}

impl Copy {
    fn of(version: u8) -> Copy {
        make_if_asked();
        let scratch = scratch();
        let place = scratch.path().join("repository");
        copy_tree(&fixture(version), scratch.path());
        for secret in ["password", "key-file", "put-only-key-file"] {
            // As private as a user would keep them: git knows no such mode.
            std::fs::set_permissions(scratch.path().join(secret), PermissionsExt::from_mode(0o600)).expect("chmod");
        }
        let password = std::fs::read(scratch.path().join("password")).expect("read the password");
        let described = std::fs::read(scratch.path().join("points.json")).expect("read points.json");
        let points: Value = serde_json::from_slice(&described).expect("points.json is JSON");
        let repo = Repo::at(scratch, place);
        std::fs::write(repo.password_file(), password).expect("write the password");
        Copy { repo, points: points["points"].as_array().expect("a list of points").clone() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.repo.scratch().join(name)
    }

    /// Restores each point that is not forgotten, opened by `opening`, and compares it with its description.
    fn restores_as_described(&self, opening: &[&OsStr]) {
        for point in &self.points {
            let id = point["id"].as_str().expect("an id");
            let target = tempfile::tempdir_in(self.repo.scratch()).expect("a directory");
            self.repo.restore_run(id, target.path(), opening).expect(exit::DONE);
            let landed = target.path().join(point["lands_at"].as_str().expect("a place"));
            let found = description::of(&landed);
            let described = point["entries"].as_array().expect("entries");
            for (now, then) in found.iter().zip(described) {
                assert_eq!(now, then, "point {id}: what is restored now, and what there was");
            }
            assert_eq!(found.len(), described.len(), "entries of point {id}");
        }
    }

    fn listed(&self) -> Vec<String> {
        let lines = json_lines(&self.repo.run("points", &["--json"]).expect(exit::DONE).stdout);
        let points = lines.iter().filter(|line| line["type"] == "point");
        points.map(|line| line["id"].as_str().expect("an id").to_owned()).collect()
    }
}

fn copy_tree(from: &Path, to: &Path) {
    for name in mover_tests::tree::names_below(from) {
        let (old, new) = (from.join(&name), to.join(&name));
        if old.is_dir() {
            std::fs::create_dir_all(&new).expect("create");
        } else {
            std::fs::copy(&old, &new).unwrap_or_else(|error| panic!("copy {}: {error}", old.display()));
        }
    }
}

#[test]
fn every_format_version_that_is_read_has_a_fixture() {
    make_if_asked();
    for version in versions() {
        let place = fixture(version);
        assert!(
            place.join("points.json").is_file(),
            "format {version} has no fixture: MOVER_MAKE_FIXTURE=1 cargo test -p mover-tests --test format_stability"
        );
        let bytes: u64 = mover_tests::tree::files_below(&place).iter().map(|(_, bytes)| bytes).sum();
        assert!(bytes <= FIXTURE_BYTES_MAX, "the fixture of format {version} has {bytes} bytes");
    }
    let known: Vec<String> = versions().map(|version| format!("format-{version}")).collect();
    for entry in std::fs::read_dir(fixtures()).expect("list the fixtures") {
        let name = entry.expect("list the fixtures").file_name().to_string_lossy().into_owned();
        assert!(!name.starts_with("format-") || known.contains(&name), "{name} is of no version that is read");
    }
}

#[test]
fn points_of_every_format_version_restore_as_they_were_described() {
    needs!(root, "sha256sum");
    for version in versions() {
        let copy = Copy::of(version);
        let described: Vec<&str> = copy.points.iter().map(|point| point["id"].as_str().expect("an id")).collect();
        assert_eq!(copy.listed(), described, "format {version}");
        copy.restores_as_described(&[]);
        let key_file = copy.file("key-file");
        copy.repo.run("verify", &[OsStr::new("--data"), OsStr::new("all")]).expect(exit::DONE);
        copy.restores_as_described(&[OsStr::new("--key-file"), key_file.as_os_str()]);
    }
}

/// A repository of an older version is not only read: backups, prune and restores go on in it.
#[test]
fn a_repository_of_every_format_version_is_carried_on() {
    needs!(root, "sha256sum");
    for version in versions() {
        let copy = Copy::of(version);
        let source = copy.repo.directory("more");
        mover_tests::tree::small_files(&source, 40, 100, 4000, 5);
        let put_only = copy.file("put-only-key-file");
        let arguments = [OsStr::new("--key-file"), put_only.as_os_str(), OsStr::new("--json"), source.as_os_str()];
        let by_client = copy.repo.run("backup", &arguments).expect(exit::DONE).summary();
        let by_owner = copy.repo.backup(&source);
        assert_eq!(by_owner.bytes_new(), 0, "format {version}: what the client stored is known");
        copy.repo.run("forget", &[by_client.point()]).expect(exit::DONE);
        for _ in 0..2 {
            copy.repo.run("prune", &["--max-unused", "0"]).expect(exit::DONE);
        }
        copy.repo.verify_all();
        copy.restores_as_described(&[]);
        let restored = copy.repo.restore(&by_owner.point(), &source, "more-restored");
        assert_eq!(description::of(&restored), description::of(&source));
    }
}

/// Version 0 was never released. What was made with it is called by its name, not damaged, and nothing in it changes.
#[test]
fn a_repository_of_the_draft_is_called_a_draft_and_left_as_it_is() {
    let scratch = scratch();
    copy_tree(&fixtures().join("draft"), scratch.path());
    let place = scratch.path().join("repository");
    let password = std::fs::read(scratch.path().join("password")).expect("read the password");
    let repo = Repo::at(scratch, place.clone());
    std::fs::write(repo.password_file(), password).expect("write the password");
    let before = description::of(&place);
    let source = repo.directory("source");
    for command in
        [&["points".as_ref()][..], &["verify".as_ref()], &["prune".as_ref()], &["backup".as_ref(), source.as_os_str()]]
    {
        let run = repo.run(command[0].to_str().expect("text"), &command[1..]);
        assert_eq!(run.code, exit::FAILED, "{run}");
        assert!(run.stderr.contains("draft of the format") && !run.stderr.contains("damaged"), "{run}");
    }
    assert_eq!(description::of(&place), before);
}
