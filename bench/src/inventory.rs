//! What is below PATH: every regular file with its size, in path order; counts of the rest.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{Result, during};

/// One regular file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// What it takes on the disk, never more than its length: holes are not read.
    pub data_bytes: u64,
}

/// Everything below one path.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Regular files.
    pub files: Vec<Entry>,
    /// Directories, links and the rest.
    pub others: u64,
}

impl Inventory {
    /// Walks `path`.
    pub fn of(path: &Path) -> Result<Inventory> {
        let mut found = Inventory::default();
        found.add(path)?;
        if found.files.is_empty() { Err(format!("no file in {}", path.display())) } else { Ok(found) }
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let status = during(format!("look at {}", path.display()), std::fs::symlink_metadata(path))?;
        if status.is_file() {
            let data_bytes = status.len().min(status.blocks() * 512);
            self.files.push(Entry { path: path.to_owned(), bytes: status.len(), data_bytes });
            return Ok(());
        }
        self.others += 1;
        if !status.is_dir() {
            return Ok(());
        }
        let mut names = Vec::new();
        for entry in during(format!("list {}", path.display()), std::fs::read_dir(path))? {
            names.push(during(format!("list {}", path.display()), entry)?.path());
        }
        names.sort();
        names.iter().try_for_each(|name| self.add(name))
    }

    /// Bytes of all files that are no hole.
    pub fn data_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.data_bytes).sum()
    }
}
