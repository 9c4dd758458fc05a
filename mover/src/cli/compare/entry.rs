//! Facts about one entry and their comparison. Paths may be longer than `PATH_MAX`: they are opened
//! in steps that are not.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use mover_repository::ids::UnixNanos;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, openat, readlinkat, statx};
use rustix::io::Errno;

use super::{Comparison, Root};
use crate::cli::text::{escape, mode_text};

/// Longest path given to one system call.
const STEP_BYTES_MAX: usize = 3800;
/// Largest list of names, and largest value, of extended attributes that Linux allows.
const XATTR_BYTES_MAX: usize = 64 << 10;
/// Room for the names that files usually have.
const XATTR_LIST_BYTES_USUAL: usize = 1 << 10;

/// An inode: device and number.
pub type InodeKey = (u32, u32, u64);

/// What a stat tells.
#[derive(Clone, Debug)]
pub struct Facts {
    file_type: FileType,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: UnixNanos,
    pub ctime: UnixNanos,
    pub size: u64,
    pub blocks_bytes: u64,
    links: u64,
    inode: InodeKey,
    rdev: (u32, u32),
}

impl Facts {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.file_type == FileType::Directory
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.file_type == FileType::RegularFile
    }

    /// Whether it has fewer blocks than bytes.
    pub fn may_have_holes(&self) -> bool {
        self.blocks_bytes < self.size
    }
}

/// The last component of a path, as the directory that holds it knows it.
fn name_of<'p>(root: &'p Root, path: &'p [u8]) -> &'p [u8] {
    if path.is_empty() {
        return &root.name;
    }
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

fn stat_in(directory: &File, name: &[u8]) -> Result<Facts, Errno> {
    let raw = statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
    let nanos =
        |seconds: i64, nanoseconds: u32| UnixNanos(i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds));
    Ok(Facts {
        file_type: FileType::from_raw_mode(raw.stx_mode.into()),
        mode: u32::from(raw.stx_mode) & 0o7777,
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        mtime: nanos(raw.stx_mtime.tv_sec, raw.stx_mtime.tv_nsec),
        ctime: nanos(raw.stx_ctime.tv_sec, raw.stx_ctime.tv_nsec),
        size: raw.stx_size,
        blocks_bytes: raw.stx_blocks * 512,
        links: raw.stx_nlink.into(),
        inode: (raw.stx_dev_major, raw.stx_dev_minor, raw.stx_ino),
        rdev: (raw.stx_rdev_major, raw.stx_rdev_minor),
    })
}

/// The facts of `path` below a root.
pub fn facts_at(root: &Root, path: &[u8]) -> Result<Facts, Errno> {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(end) => stat_in(&open_directory(root, &path[..end])?, &path[end + 1..]),
        None => stat_in(&root.directory, name_of(root, path)),
    }
}

/// Opens the directory `path` below a root, whatever the length of the path.
pub fn open_directory(root: &Root, path: &[u8]) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = File::from(openat(&root.directory, ".", flags, Mode::empty())?);
    let mut rest = path;
    while !rest.is_empty() {
        let step_end = if rest.len() <= STEP_BYTES_MAX {
            rest.len()
        } else {
            rest[..STEP_BYTES_MAX].iter().rposition(|byte| *byte == b'/').ok_or(Errno::NAMETOOLONG)?
        };
        directory = File::from(openat(&directory, &rest[..step_end], flags, Mode::empty())?);
        rest = rest.get(step_end + 1..).unwrap_or_default();
    }
    Ok(directory)
}

/// Opens a regular file in a directory without touching its atime where that is permitted.
pub fn open_file(directory: &File, name: &[u8]) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match openat(directory, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(directory, name, flags, Mode::empty()).map(File::from),
        opened => opened.map(File::from),
    }
}

/// Opens the regular file `path` below a root.
pub fn open_file_at(root: &Root, path: &[u8]) -> Result<File, Errno> {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(end) => open_file(&open_directory(root, &path[..end])?, &path[end + 1..]),
        None => open_file(&root.directory, name_of(root, path)),
    }
}

/// All names in a directory, `.` and `..` left out.
pub fn names(directory: &File) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for item in rustix::fs::Dir::read_from(directory)? {
        let item = item?;
        let name = item.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// Compares everything about an entry but its content. Gives the facts of the original if both
/// sides are there and of the same type.
pub fn compare(comparison: &Comparison, original: &File, copy: &File, path: &[u8]) -> Option<Facts> {
    let original_stat = stat_in(original, name_of(&comparison.original, path));
    let copy_stat = stat_in(copy, name_of(&comparison.copy, path));
    let (facts, other) = match (original_stat, copy_stat) {
        (Ok(facts), Ok(other)) => (facts, other),
        (Ok(facts), Err(Errno::NOENT)) if facts.file_type == FileType::Socket => {
            comparison.report.lock().unwrap_or_else(PoisonError::into_inner).sockets += 1;
            return None;
        }
        (Ok(facts), Err(Errno::NOENT)) => {
            comparison.differ(path, Some(&facts), "missing in the copy".to_owned());
            return None;
        }
        (Err(Errno::NOENT), Ok(_)) => {
            comparison.differ(path, None, "only in the copy".to_owned());
            return None;
        }
        (original, copy) => {
            let cause = original.err().or(copy.err()).unwrap_or(Errno::IO);
            comparison.differ(path, None, format!("cannot be examined: {cause}"));
            return None;
        }
    };
    comparison.entries.fetch_add(1, Ordering::Relaxed);
    if facts.is_file() {
        comparison.files.fetch_add(1, Ordering::Relaxed);
    }
    if facts.file_type != other.file_type {
        let what = format!("type: {:?}, in the copy {:?}", facts.file_type, other.file_type);
        comparison.differ(path, Some(&facts), what);
        return None;
    }
    compare_stat(comparison, path, &facts, &other);
    compare_links(comparison, path, &facts, &other);
    if facts.file_type == FileType::Symlink {
        compare_target(comparison, original, copy, path, &facts);
    }
    compare_xattrs(comparison, original, copy, path, &facts);
    Some(facts)
}

fn compare_stat(comparison: &Comparison, path: &[u8], facts: &Facts, other: &Facts) {
    let differ = |what: &str, ours: &dyn Display, theirs: &dyn Display| {
        comparison.differ(path, Some(facts), format!("{what}: {ours}, in the copy {theirs}"));
    };
    // the mode of a symbolic link means nothing and cannot be set
    if facts.mode != other.mode && facts.file_type != FileType::Symlink {
        differ("mode", &mode_text('-', facts.mode), &mode_text('-', other.mode));
    }
    if facts.uid != other.uid {
        differ("owner", &facts.uid, &other.uid);
    }
    if facts.gid != other.gid {
        differ("group", &facts.gid, &other.gid);
    }
    if facts.mtime != other.mtime {
        differ("mtime in ns", &facts.mtime.0, &other.mtime.0);
    }
    if facts.is_file() && facts.size != other.size {
        differ("size", &facts.size, &other.size);
    }
    let is_device = matches!(facts.file_type, FileType::CharacterDevice | FileType::BlockDevice);
    if is_device && facts.rdev != other.rdev {
        let number = |rdev: (u32, u32)| format!("{}:{}", rdev.0, rdev.1);
        differ("device", &number(facts.rdev), &number(other.rdev));
    }
}

/// Names that share an inode on one side must share one on the other.
fn compare_links(comparison: &Comparison, path: &[u8], facts: &Facts, other: &Facts) {
    if facts.is_directory() || (facts.links < 2 && other.links < 2) {
        return;
    }
    let mut links = comparison.links.lock().unwrap_or_else(PoisonError::into_inner);
    let copy = *links.copy_of.entry(facts.inode).or_insert(other.inode);
    let original = *links.original_of.entry(other.inode).or_insert(facts.inode);
    drop(links);
    if copy != other.inode {
        comparison.differ(path, Some(facts), "hard link: no longer the same file as its other names".to_owned());
    }
    if original != facts.inode {
        comparison.differ(path, Some(facts), "hard link: shares its file with a name it should not".to_owned());
    }
}

fn compare_target(comparison: &Comparison, original: &File, copy: &File, path: &[u8], facts: &Facts) {
    let ours = readlinkat(original, name_of(&comparison.original, path), Vec::new());
    let theirs = readlinkat(copy, name_of(&comparison.copy, path), Vec::new());
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) if ours == theirs => {}
        (Ok(ours), Ok(theirs)) => {
            let what = format!("link target: {}, in the copy {}", escape(ours.as_bytes()), escape(theirs.as_bytes()));
            comparison.differ(path, Some(facts), what);
        }
        _ => comparison.differ(path, Some(facts), "link target cannot be read".to_owned()),
    }
}

type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

fn compare_xattrs(comparison: &Comparison, original: &File, copy: &File, path: &[u8], facts: &Facts) {
    let ours = xattrs(original, name_of(&comparison.original, path));
    let theirs = xattrs(copy, name_of(&comparison.copy, path));
    let (ours, theirs) = match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => (ours, theirs),
        (ours, theirs) => {
            let cause = ours.err().or(theirs.err()).unwrap_or(Errno::IO);
            return comparison.differ(path, Some(facts), format!("attributes cannot be read: {cause}"));
        }
    };
    if ours == theirs {
        return;
    }
    for (name, value) in &ours {
        match theirs.get(name) {
            None => comparison.differ(path, Some(facts), format!("attribute {}: missing in the copy", escape(name))),
            Some(other) if other != value => {
                comparison.differ(path, Some(facts), format!("attribute {}: another value in the copy", escape(name)));
            }
            Some(_) => {}
        }
    }
    for name in theirs.keys().filter(|name| !ours.contains_key(*name)) {
        comparison.differ(path, Some(facts), format!("attribute {}: only in the copy", escape(name)));
    }
}

/// All extended attributes of a name in a directory; none where the file system has none.
fn xattrs(directory: &File, name: &[u8]) -> Result<Xattrs, Errno> {
    // there is no *at call for these in every supported kernel; the descriptor's own path is as good
    let path = [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), name].concat();
    let mut list = vec![0u8; XATTR_LIST_BYTES_USUAL];
    let list_bytes = loop {
        match rustix::fs::llistxattr(path.as_slice(), list.as_mut_slice()) {
            Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Xattrs::new()),
            Ok(bytes) => break bytes,
            Err(Errno::RANGE) if list.len() < XATTR_BYTES_MAX => list.resize(XATTR_BYTES_MAX, 0),
            Err(error) => return Err(error),
        }
    };
    let mut found = Xattrs::new();
    let mut value = vec![0u8; XATTR_BYTES_MAX];
    for attribute in list[..list_bytes].split(|byte| *byte == 0).filter(|attribute| !attribute.is_empty()) {
        match rustix::fs::lgetxattr(path.as_slice(), attribute, value.as_mut_slice()) {
            Ok(value_bytes) => drop(found.insert(attribute.to_vec(), value[..value_bytes].to_vec())),
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
