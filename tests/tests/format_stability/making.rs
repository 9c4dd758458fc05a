//! Makes the fixture of a format version with the released binary.
//!
//! The tree is small and has what the format tells apart: a file of several chunks, one whose list of pieces is a tree,
//! holes, hard and symbolic links, a fifo, extended attributes, names of any bytes. The history has a full backup, an
//! incremental one, one of a client that may only add, a stream, a forgotten point and a prune.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use mover_tests::mover::{finish, landed};
use mover_tests::nasty::{set_time, set_xattr};
use mover_tests::tree::{settle, sparse_file, write, write_random};
use mover_tests::{Repo, exit};
use rustix::fs::{CWD, FileType, Mode};
use serde_json::{Value, json};

use crate::description;

/// Where the sources are while a fixture is made: part of every recovery point, so not a random name.
const PLACE: &str = "/tmp/mover-format-fixture";
const SET: &str = "fixture";

/// Makes the fixture of `version` at `place`.
pub fn make(version: u8, place: &Path) {
    assert!(mover_tests::skip::is_root(), "owners are part of a fixture: make it as root");
    // What an attempt that failed left behind.
    let _ = std::fs::remove_dir_all(PLACE);
    std::fs::create_dir(PLACE).expect("create the place of the sources");
    let scratch = tempfile::Builder::new().prefix("scratch-").tempdir_in(PLACE).expect("a directory");
    let repository = scratch.path().join("repository");
    let repo = Repo::at(scratch, repository);
    let points = fill(&repo);
    std::fs::create_dir_all(place).expect("create the fixture");
    for name in mover_tests::tree::files_below(repo.place()) {
        let copy = place.join("repository").join(&name.0);
        std::fs::create_dir_all(copy.parent().expect("a parent")).expect("create");
        std::fs::copy(repo.place().join(&name.0), copy).expect("copy an object");
    }
    for secret in ["password", "key-file", "put-only-key-file"] {
        std::fs::copy(repo.scratch().join(secret), place.join(secret)).expect("copy a secret");
    }
    drop(repo);
    std::fs::remove_dir_all(PLACE).expect("remove the sources");
    std::fs::write(place.join("points.json"), text(version, &points)).expect("write points.json");
}

/// JSON with one line an entry.
fn text(version: u8, points: &[Value]) -> String {
    let point = |point: &Value| {
        let entries: Vec<String> =
            point["entries"].as_array().expect("entries").iter().map(|entry| format!("  {entry}")).collect();
        let (id, lands_at, entries) = (&point["id"], &point["lands_at"], entries.join(",\n"));
        format!(r#"{{ "id": {id}, "lands_at": {lands_at}, "entries": [{entries}] }}"#).replacen('[', "[\n", 1)
    };
    let points: Vec<String> = points.iter().map(point).collect();
    format!("{{ \"format\": {version}, \"points\": [\n{}\n] }}\n", points.join(",\n"))
}

/// Makes the history; gives what each point that is left must restore.
fn fill(repo: &Repo) -> Vec<Value> {
    let source = Path::new(PLACE).join("source");
    let key = |name: &str| repo.scratch().join(name);
    run(repo, "init", &["--new-key-file".as_ref(), key("key-file").as_os_str()]);
    let label = ["--put-only", "--label", "client", "--new-key-file"].map(OsStr::new);
    run(repo, "key", &[&[OsStr::new("add")], &label[..], &[key("put-only-key-file").as_os_str()]].concat());

    first_tree(&source);
    let full = point(repo, &source, &["--tag", "full"]);
    write_random(&source.join("soon forgotten"), 20 << 10, 1);
    let forgotten = repo.backup_with(&source, &["--set", SET]).point();
    second_tree(&source);
    let incremental = point(repo, &source, &["--tag", "incremental"]);
    run(repo, "forget", &[OsStr::new(&forgotten)]);
    run(repo, "prune", &["--max-unused", "0"].map(OsStr::new));

    write(&source.join("by the client"), b"a host that may only add");
    touch_all(&source);
    let put_only = key("put-only-key-file");
    let by_client = point(repo, &source, &["--key-file", put_only.to_str().expect("UTF-8")]);
    vec![full, incremental, by_client, stream(repo)]
}

#[track_caller]
fn run(repo: &Repo, subcommand: &str, arguments: &[&OsStr]) {
    let mut command = repo.command(subcommand, arguments);
    // The group of `key` takes its own subcommand first.
    if subcommand == "key" {
        command = mover_tests::Mover::command(&[&[OsStr::new("key")], arguments].concat());
        command.arg("-r").arg(repo.place()).env("MOVER_PASSWORD_FILE", repo.password_file());
    }
    finish(command, None).expect(exit::DONE);
}

/// Backs the tree up and describes it.
fn point(repo: &Repo, source: &Path, more: &[&str]) -> Value {
    // Files that are too young would be read again by whoever goes on with the fixture.
    settle(source);
    let summary = repo.backup_with(source, &[&["--set", SET], more].concat());
    let lands_at = landed(Path::new(""), source);
    json!({ "id": summary.point(), "lands_at": lands_at.to_str(), "entries": description::of(source) })
}

fn stream(repo: &Repo) -> Value {
    let content: Vec<u8> = (0..500).flat_map(|row| format!("insert into t values ({row});\n").into_bytes()).collect();
    let arguments = ["--json", "--set", "stream", "--stdin", "dump.sql"];
    let id = finish(repo.command("backup", &arguments), Some(&content)).expect(exit::DONE).summary().point();
    let target = repo.directory("stream");
    repo.restore_run(&id, &target, &[]).expect(exit::DONE);
    // Attributes of a stream are those that its restore gives; its content is what was sent.
    let landed = target.join("dump.sql");
    assert!(std::fs::read(&landed).expect("read") == content);
    json!({ "id": id, "lands_at": "dump.sql", "entries": description::of(&landed) })
}

fn first_tree(root: &Path) {
    write(&root.join("text"), b"the first version\n");
    write(&root.join("empty"), b"");
    let lines = (0..8000).map(|row| format!("{row:08} {}\n", "all work and no play ".repeat(9)));
    write(&root.join("several chunks"), lines.collect::<String>().as_bytes());
    // 80 blocks of data between holes: more pieces than stay inline.
    sparse_file(&root.join("sparse"), 80 * (128 << 10), &[], 0);
    let file = std::fs::OpenOptions::new().write(true).open(root.join("sparse")).expect("open");
    for block in 0..80u64 {
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], block * (128 << 10)).expect("write a block");
    }
    for number in 0..60 {
        write(&root.join(format!("many/file-{number:03}")), format!("{number}").as_bytes());
    }
    for name in ["ünïcode".as_bytes(), b"not utf-8 \xff\xfe", b"new\nline"] {
        write(&root.join("names").join(OsStr::from_bytes(name)), name);
    }
    write(&root.join("links/first"), b"two names, one file");
    std::fs::hard_link(root.join("links/first"), root.join("links/second")).expect("link");
    symlink("first", root.join("links/symbolic")).expect("symlink");
    symlink(OsStr::from_bytes(b"nowhere \xff"), root.join("links/dangling")).expect("symlink");
    rustix::fs::mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).expect("mknod");
    set_xattr(&root.join("text"), "user.comment", b"on a file\x00\xff");
    set_xattr(&root.join("many"), "user.comment", b"on a directory");
    std::os::unix::fs::chown(root.join("text"), Some(1000), Some(u32::MAX - 1)).expect("chown");
    std::fs::set_permissions(root.join("text"), PermissionsExt::from_mode(0o4751)).expect("chmod");
    touch_all(root);
}

fn second_tree(root: &Path) {
    std::fs::remove_file(root.join("soon forgotten")).expect("remove");
    write(&root.join("text"), b"the second version\n");
    std::fs::remove_file(root.join("many/file-007")).expect("remove");
    std::fs::rename(root.join("many/file-008"), root.join("moved")).expect("rename");
    touch_all(root);
}

/// Gives every entry the same times whenever the fixture is made; one of them lies before 1970.
fn touch_all(root: &Path) {
    for name in mover_tests::tree::names_below(root) {
        set_time(&root.join(name), 1_700_000_000, 123_456_789);
    }
    set_time(&root.join("empty"), -1, 5);
    set_time(root, 1_600_000_000, 0);
}
