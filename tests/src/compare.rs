//! Compares two trees by tools that are not ours: what one of them says differs, differs.
//!
//! `rsync -naiHAXc --delete` for content, hard links and all that it knows; `find -printf` for nanoseconds, link counts
//! and paths longer than PATH_MAX; `getfattr` and `getfacl` for xattrs and ACLs; `stat` for device numbers; `filefrag`
//! for holes. Access and change times are not compared: the one is not stored, the other cannot be set.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// The tools that a comparison runs; a test that compares needs them (and root, for what they may read).
pub const TOOLS: [&str; 4] = ["rsync", "getfattr", "getfacl", "filefrag"];

/// What one tool found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The tool.
    pub tool: &'static str,
    /// The line that only one side has, or that the tool printed.
    pub line: String,
}

/// Fails the test, with the first lines, where the trees differ.
#[track_caller]
pub fn assert_same_tree(source: &Path, restored: &Path) {
    let found = differences(source, restored);
    let shorten = |line: &str| line.chars().take(300).collect::<String>();
    let shown: Vec<String> =
        found.iter().take(20).map(|each| format!("{}: {}", each.tool, shorten(&each.line))).collect();
    assert!(found.is_empty(), "{} differences, the first:\n{}", found.len(), shown.join("\n"));
}

/// Everything in which two trees differ.
pub fn differences(source: &Path, restored: &Path) -> Vec<Difference> {
    let mut found = rsync(source, restored);
    found.extend(find(source, restored));
    found.extend(by_lines("getfattr", source, restored, &getfattr));
    found.extend(by_lines("getfacl", source, restored, &getfacl));
    found.extend(by_lines("stat", source, restored, &device_numbers));
    found.extend(holes(source, restored));
    found
}

/// What `find` says: fit for any depth, and for people who are not root.
pub fn find(source: &Path, restored: &Path) -> Vec<Difference> {
    let mut found = by_lines("find", source, restored, &find_entries);
    found.extend(by_lines("find", source, restored, &find_directories));
    found
}

fn rsync(source: &Path, restored: &Path) -> Vec<Difference> {
    let mut command = Command::new("rsync");
    command.args(["-naiHAXc", "--delete", "--numeric-ids"]);
    command.arg(with_slash(source)).arg(with_slash(restored));
    let text = output(command, &[0, 23]);
    text.lines().filter(|line| !line.is_empty()).map(|line| difference("rsync", line)).collect()
}

fn with_slash(path: &Path) -> std::ffi::OsString {
    let mut text = path.as_os_str().to_owned();
    text.push("/");
    text
}

fn find_entries(root: &Path) -> String {
    // Type, mode, owner, size, mtime to the nanosecond, number of links, link target, path.
    let format = "%y %m %U %G %s %T@ %n %l %P\\0";
    in_directory(root, "find", &[".", "!", "-type", "d", "-printf", format]).replace('\0', "\n\0")
}

fn find_directories(root: &Path) -> String {
    // Size and link count of a directory belong to the file system, not to the tree.
    in_directory(root, "find", &[".", "-type", "d", "-printf", "%y %m %U %G %T@ %P\\0"]).replace('\0', "\n\0")
}

fn getfattr(root: &Path) -> String {
    by_file(&in_directory(root, "getfattr", &["-d", "-m", "-", "-h", "-R", "-P", "-e", "hex", "."]))
}

fn getfacl(root: &Path) -> String {
    by_file(&in_directory(root, "getfacl", &["-R", "-P", "-n", "-p", "."]))
}

/// One line a file instead of one block a file, so that blocks compare as lines.
fn by_file(text: &str) -> String {
    text.split("\n\n").map(|block| block.replace('\n', " | ")).collect::<Vec<_>>().join("\n")
}

fn device_numbers(root: &Path) -> String {
    in_directory(
        root,
        "find",
        &[".", "(", "-type", "b", "-o", "-type", "c", ")", "-exec", "stat", "-c", "%n %t:%T", "{}", "+"],
    )
}

fn in_directory(root: &Path, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root).env("LC_ALL", "C").env("TZ", "UTC");
    output(command, &[0])
}

fn output(mut command: Command, allowed: &[i32]) -> String {
    let line = format!("{command:?}");
    let done = command.output().unwrap_or_else(|error| panic!("cannot run {line}: {error}"));
    let code = done.status.code().unwrap_or(-1);
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(allowed.contains(&code), "{line} ended with {code}: {error}");
    // Bytes that are not UTF-8 become \xNN, so that no two names look alike.
    let mut text = String::with_capacity(done.stdout.len());
    for piece in done.stdout.utf8_chunks() {
        text.push_str(piece.valid());
        for byte in piece.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

fn by_lines(tool: &'static str, source: &Path, restored: &Path, describe: &dyn Fn(&Path) -> String) -> Vec<Difference> {
    // Counted, because two equal lines on one side and one on the other differ too.
    let mut balance: BTreeMap<String, i64> = BTreeMap::new();
    for line in describe(source).lines() {
        *balance.entry(line.to_owned()).or_insert(0) += 1;
    }
    for line in describe(restored).lines() {
        *balance.entry(line.to_owned()).or_insert(0) -= 1;
    }
    let unequal = balance.into_iter().filter(|(_, count)| *count != 0);
    unequal.map(|(line, count)| difference(tool, &format!("{} {line}", if count > 0 { "-" } else { "+" }))).collect()
}

fn difference(tool: &'static str, line: &str) -> Difference {
    Difference { tool, line: line.to_owned() }
}

/// Files whose map of holes differs. Only holes that restore must keep count: 64 KiB and more.
fn holes(source: &Path, restored: &Path) -> Vec<Difference> {
    let mut found = Vec::new();
    for (relative, bytes) in crate::tree::files_below(source) {
        if bytes < 128 * crate::tree::KIB || !has_holes(&source.join(&relative)) {
            continue;
        }
        let other = restored.join(&relative);
        if !other.is_file() {
            continue;
        }
        let before = data_ranges(&source.join(&relative));
        let after = data_ranges(&other);
        if before != after {
            found.push(difference("filefrag", &format!("{}: {before:?} became {after:?}", relative.display())));
        }
    }
    found
}

fn has_holes(path: &Path) -> bool {
    let status = std::fs::metadata(path).expect("stat");
    std::os::unix::fs::MetadataExt::blocks(&status) * 512 + 64 * crate::tree::KIB < status.len()
}

/// The blocks of `path` that hold data, as `filefrag` tells them: start and end in blocks of 4096 bytes, joined.
pub fn data_ranges(path: &Path) -> Vec<(u64, u64)> {
    let mut command = Command::new("filefrag");
    command.args(["-s", "-v", "-b4096"]).arg(path);
    let path_with_sbin = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    command.env("PATH", path_with_sbin);
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for line in output(command, &[0]).lines() {
        let Some((start, end)) = extent(line) else { continue };
        match ranges.last_mut() {
            Some(last) if start <= last.1 + 16 => last.1 = end,
            _ => ranges.push((start, end)),
        }
    }
    ranges
}

/// `   0:        0..       0:      34816..     34816:      1:             eof` gives (0, 0).
fn extent(line: &str) -> Option<(u64, u64)> {
    let (number, rest) = line.trim_start().split_once(':')?;
    number.parse::<u64>().ok()?;
    if line.contains("unwritten") {
        return None;
    }
    let (start, end) = rest.split_once(':')?.0.split_once("..")?;
    Some((start.trim().parse().ok()?, end.trim().parse().ok()?))
}
