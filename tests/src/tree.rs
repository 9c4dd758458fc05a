//! Plain trees for the suites: files of given content, many small files, and a listing of what is below a place.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::random::Random;

/// KiB in bytes.
pub const KIB: u64 = 1024;
/// MiB in bytes.
pub const MIB: u64 = 1024 * KIB;

/// Writes a file and the directories above it.
pub fn write(path: &Path, content: &[u8]) {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).expect("create the parents");
    }
    std::fs::write(path, content).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}

/// Writes `bytes` incompressible bytes, the same for the same seed.
pub fn write_random(path: &Path, bytes: u64, seed: u64) {
    write(path, &Random::new(seed).bytes(bytes as usize));
}

/// `count` small files of text in directories of 100, at least `least` and below `least + spread` bytes each.
pub fn small_files(directory: &Path, count: u64, least: u64, spread: u64, seed: u64) {
    let mut random = Random::new(seed);
    for number in 0..count {
        let bytes = least + random.below(spread.max(1));
        let content = random.text(bytes as usize);
        write(&directory.join(format!("d{:03}/file-{number:06}.txt", number / 100)), &content);
    }
}

/// A file of `bytes` length that holds only the given data ranges; the rest are holes.
pub fn sparse_file(path: &Path, bytes: u64, data: &[(u64, u64)], seed: u64) {
    let file = File::create(path).expect("create the sparse file");
    file.set_len(bytes).expect("set the length");
    let mut random = Random::new(seed);
    for (offset, length) in data {
        file.write_all_at(&random.bytes(*length as usize), *offset).expect("write a range");
    }
    file.sync_all().expect("sync the sparse file");
}

/// Makes everything below `directory` look old, so that no file counts as "changed within 2 s of the run": waits until
/// the youngest ctime is 3 s ago. (A ctime cannot be set.)
pub fn settle(directory: &Path) {
    let mut youngest = SystemTime::UNIX_EPOCH;
    visit(directory, &mut |path| {
        let status = std::fs::symlink_metadata(path).expect("stat");
        let seconds = Duration::from_secs(std::os::unix::fs::MetadataExt::ctime(&status).max(0) as u64);
        youngest = youngest.max(SystemTime::UNIX_EPOCH + seconds);
    });
    let due = youngest + Duration::from_secs(4);
    if let Ok(wait) = due.duration_since(SystemTime::now()) {
        std::thread::sleep(wait);
    }
}

/// Regular files below `directory` with their sizes: relative paths, sorted.
pub fn files_below(directory: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    visit(directory, &mut |path| {
        let status = match std::fs::symlink_metadata(path) {
            // A repository in use: an object has just been given its name.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            status => status.expect("stat"),
        };
        if status.is_file() {
            found.push((path.strip_prefix(directory).expect("below").to_owned(), status.len()));
        }
    });
    found.sort();
    found
}

/// Names of everything below `directory`, relative, sorted.
pub fn names_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    visit(directory, &mut |path| found.push(path.strip_prefix(directory).expect("below").to_owned()));
    found.sort();
    found
}

fn visit(directory: &Path, each: &mut dyn FnMut(&Path)) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.expect("read the directory").path();
        each(&path);
        if std::fs::symlink_metadata(&path).is_ok_and(|status| status.is_dir()) {
            visit(&path, each);
        }
    }
}

/// Bytes that the file or tree takes on its disk.
pub fn allocated_bytes(path: &Path) -> u64 {
    let status = std::fs::symlink_metadata(path).expect("stat");
    let mut total = std::os::unix::fs::MetadataExt::blocks(&status) * 512;
    visit(path, &mut |inner| {
        let inner_status = std::fs::symlink_metadata(inner).expect("stat");
        total += std::os::unix::fs::MetadataExt::blocks(&inner_status) * 512;
    });
    total
}
