//! Edits of a tree in place, the same for the same tree, seed and number: what a day of work changes (about 1 % of the
//! files changed, added, removed, renamed), and a rescan (same bytes, other times).
//!
//! A few large files are changed inside: runs of blocks, most of them close together, a few given back as holes, as a
//! running machine changes its disk. Edits never leave the tree and follow no symbolic link.

use std::fs::{File, OpenOptions};
use std::io::Result;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FallocateFlags;

use super::bytes::{Stream, Text, binary};

/// Files from here on are changed in scattered runs, smaller ones in one place.
const LARGE_BYTES: u64 = 4 << 20;
/// In a tree of fewer files every large one changes, as a disk image does.
const FEW_FILES: usize = 200;
const PAGE_BYTES: u64 = 4096;
/// One rescan moves times by so much: further than any tool rounds.
const TOUCH_STEP: Duration = Duration::from_secs(3600);

/// How much of a tree one edit concerns, in files of a thousand.
#[derive(Clone, Copy, Debug)]
pub struct Strength {
    changed: usize,
    added: usize,
    removed: usize,
    renamed: usize,
}

/// About 1 % of the files: the change between two backups.
pub const INCREMENTAL: Strength = Strength { changed: 6, added: 2, removed: 1, renamed: 1 };
/// About 4 %: thirty of these leave little as it was.
pub const AGEING: Strength = Strength { changed: 30, added: 5, removed: 3, renamed: 2 };

/// What an edit did, in files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edited {
    /// Files with other content than before.
    pub changed: usize,
    /// New files.
    pub added: usize,
    /// Files that are gone.
    pub removed: usize,
    /// Files under another name, some in another directory.
    pub renamed: usize,
}

impl std::fmt::Display for Edited {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Edited { changed, added, removed, renamed } = self;
        write!(formatter, "{changed} changed, {added} added, {removed} removed, {renamed} renamed")
    }
}

/// Every regular file below `tree`, in path order.
pub fn files(tree: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if std::fs::symlink_metadata(tree)?.is_file() {
        found.push(tree.to_owned());
        return Ok(found);
    }
    let mut open = vec![tree.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Applies edit `number` to `tree`.
pub fn apply(tree: &Path, seed: u64, number: u32, strength: Strength) -> Result<Edited> {
    let text = Text::new(seed);
    let mut stream = Stream::new(seed, &format!("edit {number}"));
    let mut files = files(tree)?;
    shuffle(&mut stream, &mut files);
    let mut edited = Edited::default();
    if files.len() < FEW_FILES {
        for path in &files {
            if std::fs::metadata(path)?.len() >= LARGE_BYTES {
                change(&mut stream, &text, path)?;
                edited.changed += 1;
            }
        }
        if edited.changed > 0 {
            return Ok(edited);
        }
    }
    let share = |per_mille: usize| (files.len() * per_mille / 1000).max(1);
    let mut rest = files.iter();
    for path in rest.by_ref().take(share(strength.changed)) {
        change(&mut stream, &text, path)?;
        edited.changed += 1;
    }
    for path in rest.by_ref().take(share(strength.renamed)) {
        // Every second one goes to another directory.
        let beside = if stream.below(2) == 0 { path } else { &files[stream.below(files.len() as u64) as usize] };
        let name = new_name("moved", number, edited.renamed, path);
        std::fs::rename(path, beside.with_file_name(name))?;
        edited.renamed += 1;
    }
    let mut content = Vec::new();
    for path in rest.by_ref().take(share(strength.added)) {
        let bytes = stream.size(20_000.0, 8 << 20);
        text.fill(&mut stream, bytes, &mut content);
        std::fs::write(path.with_file_name(new_name("added", number, edited.added, path)), &content)?;
        edited.added += 1;
    }
    for path in rest.by_ref().take(share(strength.removed)) {
        std::fs::remove_file(path)?;
        edited.removed += 1;
    }
    Ok(edited)
}

fn new_name(what: &str, number: u32, index: usize, old: &Path) -> String {
    let ending = old.extension().map_or_else(|| "txt".into(), |ending| ending.to_string_lossy());
    format!("{what}_{number:03}_{index:05}.{ending}")
}

fn shuffle(stream: &mut Stream, files: &mut [PathBuf]) {
    for last in (1..files.len()).rev() {
        files.swap(last, stream.below(last as u64 + 1) as usize);
    }
}

fn change(stream: &mut Stream, text: &Text, path: &Path) -> Result<()> {
    if std::fs::metadata(path)?.len() >= LARGE_BYTES {
        scatter(stream, text, path)
    } else {
        change_small(stream, text, path)
    }
}

/// Overwrites, inserts or appends a few hundred bytes, of the kind that the file holds.
fn change_small(stream: &mut Stream, text: &Text, path: &Path) -> Result<()> {
    let mut content = std::fs::read(path)?;
    let looks_like_text = content.iter().take(4096).all(|byte| (9..127).contains(byte));
    let mut piece = Vec::new();
    let bytes = 64 + stream.below(960) as usize;
    if looks_like_text {
        text.fill(stream, bytes, &mut piece);
    } else {
        binary(stream, bytes, &mut piece);
    }
    let at = stream.below(content.len() as u64 + 1) as usize;
    match stream.below(3) {
        0 => content.extend_from_slice(&piece),
        1 => drop(content.splice(at..at, piece)),
        _ => {
            let end = content.len().min(at + piece.len());
            drop(content.splice(at..end, piece));
        }
    }
    std::fs::write(path, content)
}

/// Changes about 1 % of a large file in runs of 4 to 256 KiB, two of three of them within one tenth of it.
fn scatter(stream: &mut Stream, text: &Text, path: &Path) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let pages = file.metadata()?.len() / PAGE_BYTES;
    let hot_pages = pages / 10;
    let hot_start = stream.below(pages - hot_pages);
    let mut left = (pages / 100).max(1);
    let mut content = Vec::new();
    while left > 0 {
        let run = (1 + stream.below(64)).min(left);
        let (start, span) = if stream.below(3) < 2 { (hot_start, hot_pages) } else { (0, pages) };
        let at = (start + stream.below(span)).min(pages - run) * PAGE_BYTES;
        let bytes = (run * PAGE_BYTES) as usize;
        match stream.below(10) {
            0 => punch(&file, at, bytes as u64)?,
            1..6 => {
                text.fill(stream, bytes, &mut content);
                file.write_all_at(&content, at)?;
            }
            _ => {
                binary(stream, bytes, &mut content);
                file.write_all_at(&content, at)?;
            }
        }
        left -= run;
    }
    Ok(())
}

fn punch(file: &File, offset: u64, bytes: u64) -> Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, offset, bytes) {
        // A file system without holes gets zeros, which read the same.
        Err(rustix::io::Errno::OPNOTSUPP) => file.write_all_at(&vec![0; bytes as usize], offset),
        other => Ok(other?),
    }
}

/// Gives every file another time of change and leaves its bytes: a rescan that finds equal content.
pub fn touch(tree: &Path) -> Result<usize> {
    let files = files(tree)?;
    for path in &files {
        let file = File::open(path)?;
        let earlier = file.metadata()?.modified()? - TOUCH_STEP;
        file.set_modified(earlier)?;
    }
    Ok(files.len())
}

/// Copies a file and keeps its holes.
pub fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let source = File::open(from)?;
    let target = File::create(to)?;
    let bytes = source.metadata()?.size();
    target.set_len(bytes)?;
    let mut block = vec![0; 1 << 20];
    let mut position = 0;
    while let Ok(data) = rustix::fs::seek(&source, rustix::fs::SeekFrom::Data(position)) {
        let end = rustix::fs::seek(&source, rustix::fs::SeekFrom::Hole(data))?;
        position = data;
        while position < end {
            let count = block.len().min((end - position) as usize);
            source.read_exact_at(&mut block[..count], position)?;
            target.write_all_at(&block[..count], position)?;
            position += count as u64;
        }
    }
    Ok(())
}
