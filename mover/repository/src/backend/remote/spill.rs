//! Sealed bytes that wait for the network in a file without a name, so that they take no memory: what a far and fast
//! link needs on its way is more than a job may have. They are sealed before they come here, and gone with the process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use memmap2::Mmap;

/// Bytes that are written once and then sent, perhaps several times.
pub(super) struct Spill {
    file: File,
    bytes: u64,
}

impl Spill {
    /// An empty one in the directory for temporary files.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile()?, bytes: 0 })
    }

    /// Length so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds `parts` at the end. Blocks as long as the page cache does.
    pub(super) fn append(&mut self, parts: &[Bytes]) -> io::Result<()> {
        for part in parts {
            self.file.write_all_at(part, self.bytes)?;
            self.bytes += part.len() as u64;
        }
        Ok(())
    }

    /// All of it, as bytes that live in the page cache.
    pub(super) fn into_bytes(self) -> io::Result<Bytes> {
        if self.bytes == 0 {
            return Ok(Bytes::new());
        }
        // SAFETY: the file has no name, so nobody else can write or cut it, and nothing here does after this.
        let map = unsafe { Mmap::map(&self.file) }?;
        Ok(Bytes::from_owner(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_comes_back() {
        let mut spill = Spill::new().unwrap();
        assert!(Spill::new().unwrap().into_bytes().unwrap().is_empty());
        spill.append(&[Bytes::from_static(b"ab"), Bytes::new()]).unwrap();
        spill.append(&[Bytes::from_static(b"cde")]).unwrap();
        assert_eq!(spill.bytes(), 5);
        assert_eq!(spill.into_bytes().unwrap(), &b"abcde"[..]);
    }
}
