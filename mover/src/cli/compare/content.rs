//! Bytes and holes of regular files. Ranges that are holes on both sides are not read.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use mover_repository::limits::{HOLE_ALIGN_BYTES, HOLE_BYTES_MIN};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::entry::{self, Facts};
use super::{Comparison, Root};

/// Bytes read at a time from each side.
const BLOCK_BYTES: usize = 1 << 20;

/// Compares the first `limit` bytes of a file and its hole map.
pub fn compare_file(comparison: &Comparison, original: &File, copy: &File, path: &[u8], facts: &Facts, limit: u64) {
    let open = |root: &Root, directory: &File, side: &str| {
        let name = if path.is_empty() { root.name.as_slice() } else { last(path) };
        entry::open_file(directory, name)
            .map_err(|error| comparison.differ(path, Some(facts), format!("cannot open the {side}: {error}")))
            .ok()
    };
    let Some(ours) = open(&comparison.original, original, "original") else { return };
    let Some(theirs) = open(&comparison.copy, copy, "copy") else { return };
    compare_holes(comparison, path, facts, &ours, &theirs);
    compare_bytes(comparison, path, &ours, &theirs, 0..facts.size.min(limit));
}

/// Compares a later part of a large file.
pub fn compare_range(comparison: &Comparison, path: &[u8], range: Range<u64>) {
    let ours = entry::open_file_at(&comparison.original, path);
    let theirs = entry::open_file_at(&comparison.copy, path);
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => compare_bytes(comparison, path, &ours, &theirs, range),
        (ours, theirs) => {
            let cause = ours.err().or(theirs.err()).unwrap_or(Errno::IO);
            comparison.differ(path, None, format!("cannot be opened: {cause}"));
        }
    }
}

fn last(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

fn compare_bytes(comparison: &Comparison, path: &[u8], ours: &File, theirs: &File, range: Range<u64>) {
    let block_bytes = usize::try_from(range.end - range.start).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
    let (mut left, mut right) = (vec![0u8; block_bytes], vec![0u8; block_bytes]);
    let mut offset = range.start;
    while offset < range.end {
        let data = next_data(ours, offset, range.end).min(next_data(theirs, offset, range.end));
        comparison.count_bytes(data - offset);
        offset = data;
        let want = usize::try_from(range.end - offset).unwrap_or(block_bytes).min(block_bytes);
        let read = read_full(ours, &mut left[..want], offset)
            .and_then(|ours_read| Ok((ours_read, read_full(theirs, &mut right[..want], offset)?)));
        let (ours_read, theirs_read) = match read {
            Ok(read) => read,
            Err(error) => return comparison.differ(path, None, format!("cannot be read at {offset}: {error}")),
        };
        if left[..ours_read] != right[..theirs_read] {
            let same = left[..ours_read].iter().zip(&right[..theirs_read]).take_while(|(a, b)| a == b).count();
            return comparison.differ(path, None, format!("content: differs from byte {} on", offset + same as u64));
        }
        if ours_read < want {
            return;
        }
        comparison.count_bytes(want as u64);
        offset += want as u64;
    }
}

fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Where the next data begins, `end` if there is none; `offset` where the file system cannot tell.
fn next_data(file: &File, offset: u64, end: u64) -> u64 {
    match seek(file, SeekFrom::Data(offset)) {
        Ok(data) => data.min(end),
        Err(Errno::NXIO) => end,
        Err(_) => offset,
    }
}

/// Two file systems round holes differently, so only a clear difference counts.
fn compare_holes(comparison: &Comparison, path: &[u8], facts: &Facts, ours: &File, theirs: &File) {
    let copy_blocks = theirs.metadata().map_or(0, |metadata| std::os::unix::fs::MetadataExt::blocks(&metadata) * 512);
    if !facts.may_have_holes() && copy_blocks >= facts.size {
        return;
    }
    let (our_count, our_bytes) = holes(ours, facts.size);
    let (their_count, their_bytes) = holes(theirs, facts.size);
    let tolerance = HOLE_BYTES_MIN * (1 + our_count.max(their_count));
    if our_bytes.abs_diff(their_bytes) > tolerance {
        let what = format!("holes: {our_bytes} bytes in {our_count}, in the copy {their_bytes} bytes in {their_count}");
        comparison.differ(path, Some(facts), what);
    }
}

/// Number and bytes of the holes that a backup records.
fn holes(file: &File, size: u64) -> (u64, u64) {
    let (mut count, mut bytes) = (0, 0);
    let mut offset = 0;
    while offset < size {
        let data = next_data(file, offset, size);
        let start = offset.next_multiple_of(HOLE_ALIGN_BYTES);
        let end = if data == size { size } else { data - data % HOLE_ALIGN_BYTES };
        if end.saturating_sub(start) >= HOLE_BYTES_MIN {
            count += 1;
            bytes += end - start;
        }
        if data >= size {
            break;
        }
        match seek(file, SeekFrom::Hole(data)) {
            Ok(hole) if hole > data => offset = hole,
            _ => break,
        }
    }
    (count, bytes)
}
