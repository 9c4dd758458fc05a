//! The real hole map of a file, by `SEEK_DATA` and `SEEK_HOLE`.
//!
//! Only holes that the repository records are told: at least `HOLE_BYTES_MIN` long, both ends aligned to
//! `HOLE_ALIGN_BYTES` (the end of the file excepted). What is shorter is part of the data around it and reads as
//! zeros. A file system that knows no holes says that all is data. Blocking; for I/O threads only.

use std::ops::Range;
use std::os::fd::BorrowedFd;

use mover_repository::limits::{HOLE_ALIGN_BYTES, HOLE_BYTES_MIN};
use rustix::fs::SeekFrom;
use rustix::io::{Errno, Result};

use super::Span;

/// Data and holes of `range`, clipped to `size`, in order and without gaps.
pub(crate) fn spans(fd: BorrowedFd<'_>, range: Range<u64>, size: u64) -> Result<Vec<Span>> {
    let end = range.end.min(size);
    let mut spans = Vec::new();
    let mut data_from = range.start;
    let mut at = range.start;
    while at < end {
        let Some(hole) = next_hole(fd, at, end)? else { break };
        at = hole.end;
        let Some(kept) = recorded_part(hole, size) else { continue };
        if data_from < kept.start {
            spans.push(Span::Data { offset: data_from, bytes: kept.start - data_from });
        }
        spans.push(Span::Hole { offset: kept.start, bytes: kept.end - kept.start });
        data_from = kept.end;
    }
    if data_from < end {
        spans.push(Span::Data { offset: data_from, bytes: end - data_from });
    }
    Ok(spans)
}

/// The first hole that begins in `at..end`, cut there.
fn next_hole(fd: BorrowedFd<'_>, at: u64, end: u64) -> Result<Option<Range<u64>>> {
    let start = match rustix::fs::seek(fd, SeekFrom::Hole(at)) {
        Ok(start) => start,
        Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    if start >= end {
        return Ok(None);
    }
    let stop = match rustix::fs::seek(fd, SeekFrom::Data(start)) {
        Ok(stop) => stop.min(end),
        Err(Errno::NXIO) => end,
        Err(errno) => return Err(errno),
    };
    // A file that changes under the two calls may answer with data at `start`.
    Ok(if stop > start { Some(start..stop) } else { Some(start..(start + HOLE_ALIGN_BYTES).min(end)) })
}

fn recorded_part(hole: Range<u64>, size: u64) -> Option<Range<u64>> {
    let start = hole.start.next_multiple_of(HOLE_ALIGN_BYTES);
    let end = if hole.end == size { size } else { hole.end / HOLE_ALIGN_BYTES * HOLE_ALIGN_BYTES };
    (end >= start + HOLE_BYTES_MIN).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    fn sparse(size: u64, data: &[(u64, usize)]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        for (offset, bytes) in data {
            file.write_all_at(&vec![7; *bytes], *offset).unwrap();
        }
        file
    }

    #[test]
    fn data_and_holes_cover_the_range() {
        let size = 1 << 20;
        let file = sparse(size, &[(256 << 10, 4096), (300 << 10, 4096)]);
        let all = spans(file.as_fd(), 0..u64::MAX, size).unwrap();
        assert_eq!(
            all,
            [
                Span::Hole { offset: 0, bytes: 256 << 10 },
                // The 40 KiB between the two writes are too short to be recorded.
                Span::Data { offset: 256 << 10, bytes: 48 << 10 },
                Span::Hole { offset: 304 << 10, bytes: size - (304 << 10) },
            ]
        );
        let part = spans(file.as_fd(), (200 << 10)..(400 << 10), size).unwrap();
        assert_eq!(
            part,
            [Span::Data { offset: 200 << 10, bytes: 104 << 10 }, Span::Hole { offset: 304 << 10, bytes: 96 << 10 },]
        );
    }

    #[test]
    fn a_file_without_holes_or_of_holes_alone_is_one_span() {
        let full = sparse(100_000, &[(0, 100_000)]);
        assert_eq!(spans(full.as_fd(), 0..100_000, 100_000).unwrap(), [Span::Data { offset: 0, bytes: 100_000 }]);
        let empty = sparse(5 << 30, &[]);
        assert_eq!(spans(empty.as_fd(), 0..5 << 30, 5 << 30).unwrap(), [Span::Hole { offset: 0, bytes: 5 << 30 }]);
        let odd = sparse(70_001, &[]);
        assert_eq!(spans(odd.as_fd(), 0..70_001, 70_001).unwrap(), [Span::Hole { offset: 0, bytes: 70_001 }]);
        assert_eq!(spans(odd.as_fd(), 0..0, 0).unwrap(), []);
    }
}
