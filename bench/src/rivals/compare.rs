//! Compares two trees byte for byte: names, kinds, lengths, content, targets of links. Attributes are not its matter.
//!
//! Holes of both sides are skipped, so that a huge sparse file is compared in the time of its data. Reads only.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::{Result, during};

const BLOCK_BYTES: usize = 1 << 20;

/// The first difference in words; `None` where both are equal.
pub fn difference(left: &Path, right: &Path) -> Result<Option<String>> {
    let mut buffers = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
    let mut open = vec![(left.to_owned(), right.to_owned())];
    while let Some((one, other)) = open.pop() {
        let status = during(format!("look at {}", one.display()), std::fs::symlink_metadata(&one))?;
        let Ok(restored) = std::fs::symlink_metadata(&other) else {
            return Ok(Some(format!("{} is missing", other.display())));
        };
        if status.file_type() != restored.file_type() {
            return Ok(Some(format!("{} is of another kind", other.display())));
        }
        if status.is_dir() {
            let (names, names_restored) = (names(&one)?, names(&other)?);
            if let Some(name) = names.symmetric_difference(&names_restored).next() {
                return Ok(Some(format!("{} is in one tree alone", other.join(name).display())));
            }
            open.extend(names.iter().map(|name| (one.join(name), other.join(name))));
        } else if status.is_symlink() {
            let read = |path: &Path| during(format!("read {}", path.display()), std::fs::read_link(path));
            if read(&one)? != read(&other)? {
                return Ok(Some(format!("{} points elsewhere", other.display())));
            }
        } else if status.is_file() && (status.len() != restored.len() || !same_content(&one, &other, &mut buffers)?) {
            return Ok(Some(format!("{} has other content", other.display())));
        }
    }
    Ok(None)
}

fn names(directory: &Path) -> Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in during(format!("list {}", directory.display()), std::fs::read_dir(directory))? {
        names.insert(during(format!("list {}", directory.display()), entry)?.file_name());
    }
    Ok(names)
}

fn same_content(left: &Path, right: &Path, buffers: &mut (Vec<u8>, Vec<u8>)) -> Result<bool> {
    let open = |path: &Path| during(format!("open {}", path.display()), File::open(path));
    let (one, other) = (open(left)?, open(right)?);
    let bytes = during("look at a file", one.metadata())?.len();
    let mut position = 0;
    while position < bytes {
        // Where both have a hole, nothing needs reading.
        position = next_data(&one, position, bytes).min(next_data(&other, position, bytes));
        let count = BLOCK_BYTES.min((bytes - position) as usize);
        let (first, second) = (&mut buffers.0[..count], &mut buffers.1[..count]);
        during(format!("read {}", left.display()), one.read_exact_at(first, position))?;
        during(format!("read {}", right.display()), other.read_exact_at(second, position))?;
        if first != second {
            return Ok(false);
        }
        position += count as u64;
    }
    Ok(true)
}

fn next_data(file: &File, position: u64, end: u64) -> u64 {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(position)) {
        Ok(data) => data,
        Err(rustix::io::Errno::NXIO) => end,
        // A file system without holes: everything is data.
        Err(_) => position,
    }
}

#[cfg(test)]
mod tests {
    use super::difference;
    use std::path::Path;

    fn tree(place: &Path, content: &[u8]) {
        std::fs::create_dir_all(place.join("inner")).expect("create");
        std::fs::write(place.join("inner/file"), content).expect("write");
        std::os::unix::fs::symlink("inner/file", place.join("link")).expect("link");
        let sparse = std::fs::File::create(place.join("sparse")).expect("create");
        sparse.set_len(8 << 20).expect("lengthen");
    }

    #[test]
    fn rivals_comparison_finds_one_byte_and_one_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        tree(&one, b"the same bytes");
        tree(&two, b"the same bytes");
        assert_eq!(difference(&one, &two), Ok(None));
        std::fs::write(two.join("inner/file"), b"the same byteS").expect("write");
        assert!(difference(&one, &two).expect("compare").expect("differs").ends_with("inner/file has other content"));
        std::fs::write(two.join("inner/file"), b"the same bytes").expect("write");
        std::fs::write(two.join("more"), b"").expect("write");
        assert!(difference(&one, &two).expect("compare").expect("differs").ends_with("more is in one tree alone"));
    }

    #[test]
    fn rivals_comparison_looks_into_holes_of_one_side() {
        let directory = tempfile::tempdir().expect("a directory");
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        tree(&one, b"x");
        tree(&two, b"x");
        std::fs::write(two.join("sparse"), vec![0; 8 << 20]).expect("write zeros");
        assert_eq!(difference(&one, &two), Ok(None), "a hole equals zeros");
        let mut zeros = vec![0; 8 << 20];
        zeros[5 << 20] = 1;
        std::fs::write(two.join("sparse"), zeros).expect("write");
        assert!(difference(&one, &two).expect("compare").is_some());
    }
}
