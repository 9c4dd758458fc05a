//! What a tree holds, told by the file system and by `sha256sum`, never by the code under test.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

/// Every entry at and below `root`, in the order of its names: path, kind, attributes, and the SHA-256 of what a file
/// holds. Bytes that are no printable ASCII are escaped.
pub fn of(root: &Path) -> Vec<Value> {
    let mut names = mover_tests::tree::names_below(root);
    names.insert(0, "".into());
    let mut entries: Vec<Value> = names.iter().map(|name| entry(root, name)).collect();
    name_links(root, &names, &mut entries);
    entries
}

fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// The root may be a file, behind which nothing can be joined.
fn place(root: &Path, name: &Path) -> PathBuf {
    if name.as_os_str().is_empty() { root.to_owned() } else { root.join(name) }
}

fn entry(root: &Path, name: &Path) -> Value {
    let path = place(root, name);
    let status = std::fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let kind = status.file_type();
    let mut entry = json!({
        "path": escaped(name.as_os_str().as_bytes()),
        "mode": format!("{:04o}", status.mode() & 0o7777),
        "owner": status.uid(),
        "group": status.gid(),
        "mtime": format!("{}.{:09}", status.mtime(), status.mtime_nsec()),
    });
    let fields = entry.as_object_mut().expect("an object");
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    if kind.is_file() {
        put("kind", "file".into());
        put("bytes", status.len().into());
        put("sha256", sha256(&std::fs::read(&path).expect("read")).into());
        // Which blocks a file system gives is its own affair; that a hole takes none is ours.
        put("has_holes", (status.blocks() * 512 + (64 << 10) <= status.len()).into());
    } else if kind.is_dir() {
        put("kind", "directory".into());
    } else if kind.is_symlink() {
        put("kind", "symlink".into());
        put("target", escaped(std::fs::read_link(&path).expect("readlink").as_os_str().as_bytes()).into());
    } else if kind.is_fifo() {
        put("kind", "fifo".into());
    } else {
        panic!("{} is of a kind that no fixture has", path.display());
    }
    if !kind.is_symlink() {
        put("xattrs", xattrs(&path).into());
    }
    entry
}

/// Every further name of a file names the first one.
fn name_links(root: &Path, names: &[PathBuf], entries: &mut [Value]) {
    let inode = |name: &Path| {
        let status = std::fs::symlink_metadata(place(root, name)).expect("stat");
        status.is_file().then(|| status.ino())
    };
    for at in 0..names.len() {
        let Some(number) = inode(&names[at]) else { continue };
        if let Some(first) = names[..at].iter().find(|other| inode(other) == Some(number)) {
            entries[at]["link_of"] = escaped(first.as_os_str().as_bytes()).into();
        }
    }
}

/// Those of the user namespace; the others depend on the machine.
fn xattrs(path: &Path) -> Map<String, Value> {
    let mut list = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut list).unwrap_or(0);
    let names = list[..length].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."));
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, &mut value).expect("read an xattr");
        escaped(&value[..length])
    };
    let mut found: Vec<(String, Value)> = names.map(|name| (escaped(name), value(name).into())).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found.into_iter().collect()
}

fn sha256(content: &[u8]) -> String {
    let mut command = Command::new("sha256sum");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start sha256sum");
    child.stdin.take().expect("a pipe").write_all(content).expect("feed sha256sum");
    let output = child.wait_with_output().expect("wait for sha256sum");
    String::from_utf8_lossy(&output.stdout).split(' ').next().expect("a hash").to_owned()
}
