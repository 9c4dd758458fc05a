//! Sealed temporary storage for what does not fit the memory budget.
//!
//! Blocks are appended and read back by number. Each file has a random AES-256-GCM key that lives in memory
//! alone and uses the block number as nonce, so what lies on the disk tells nothing but sizes, and cannot be
//! altered unnoticed. On a disk the file has no name (`O_TMPFILE`, or unlinked right after it was made), so
//! nothing is left behind however the process ends.
//!
//! Limits: a block is at most [`SCRATCH_BLOCK_BYTES_MAX`]; 16 bytes of memory a block. Must never: write a
//! plain byte to a disk, or write a block number twice. Blocking (mostly the page cache); best on an I/O
//! thread.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

/// Largest plain block.
pub const SCRATCH_BLOCK_BYTES_MAX: usize = 4 << 20;

/// Why temporary storage failed. It ends the job: what was spilled is needed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScratchError {
    /// The disk of the temporary directory failed or is full.
    #[error("temporary file in {place}: {operation}: {source}")]
    Io {
        /// Where.
        place: String,
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A block came back other than it was written.
    #[error("temporary file in {place}: block {block} was altered")]
    Altered {
        /// Where.
        place: String,
        /// Which block.
        block: u64,
    },
}

/// A place that makes temporary files: a directory, or memory in the simulation.
pub trait Scratch: Send + Sync + fmt::Debug + 'static {
    /// A new, empty file.
    fn open(&self) -> Result<ScratchFile, ScratchError>;
}

/// Temporary files in a directory of the file system.
#[derive(Debug, Clone)]
pub struct DirectoryScratch {
    directory: PathBuf,
}

impl DirectoryScratch {
    /// Files go to `directory`, or to `$TMPDIR` (else `/tmp`).
    pub fn new(directory: Option<&Path>) -> Self {
        Self { directory: directory.map_or_else(std::env::temp_dir, Path::to_path_buf) }
    }
}

impl Scratch for DirectoryScratch {
    fn open(&self) -> Result<ScratchFile, ScratchError> {
        let place = self.directory.display().to_string();
        match unnamed_file(&self.directory) {
            Ok(file) => Ok(ScratchFile::new(place, Store::File(file))),
            Err(source) => Err(ScratchError::Io { place, operation: "create", source }),
        }
    }
}

fn unnamed_file(directory: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => return Ok(File::from(fd)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::ACCESS) => {
            return Err(io::Error::from(rustix::io::Errno::NOENT));
        }
        Err(_) => {}
    }
    // A file system without O_TMPFILE (NFS, some overlays): a random name that is unlinked at once.
    let mut random = [0u8; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("no randomness"))?;
    let name = directory.join(format!(".mover-{:032x}", u128::from_le_bytes(random)));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(&name, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::unlink(&name)?;
    Ok(File::from(fd))
}

/// Temporary files in memory, for the simulation and for tests.
#[derive(Debug, Clone)]
pub struct MemoryScratch {
    bytes_max: usize,
}

impl Default for MemoryScratch {
    fn default() -> Self {
        Self::with_room(usize::MAX)
    }
}

impl MemoryScratch {
    /// Each file is full after `bytes_max` sealed bytes, as a disk would be.
    pub fn with_room(bytes_max: usize) -> Self {
        Self { bytes_max }
    }
}

impl Scratch for MemoryScratch {
    fn open(&self) -> Result<ScratchFile, ScratchError> {
        let store = Store::Memory { bytes: Vec::new(), bytes_max: self.bytes_max };
        Ok(ScratchFile::new("memory".to_owned(), store))
    }
}

/// The usual scratch of a job: `$TMPDIR`.
pub fn default_scratch() -> Arc<dyn Scratch> {
    Arc::new(DirectoryScratch::new(None))
}

enum Store {
    File(File),
    Memory { bytes: Vec<u8>, bytes_max: usize },
}

#[derive(Clone, Copy)]
struct Block {
    offset: u64,
    sealed_bytes: u32,
}

/// One temporary file: numbered blocks, sealed, gone when dropped.
pub struct ScratchFile {
    place: String,
    store: Store,
    key: LessSafeKey,
    blocks: Vec<Block>,
    end: u64,
}

impl fmt::Debug for ScratchFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScratchFile").field("place", &self.place).field("blocks", &self.blocks.len()).finish()
    }
}

impl ScratchFile {
    fn new(place: String, store: Store) -> Self {
        let mut secret = Zeroizing::new([0u8; 32]);
        aws_lc_rs::rand::fill(secret.as_mut_slice()).expect("the system gives random bytes");
        let key = UnboundKey::new(&AES_256_GCM, secret.as_slice()).expect("the key has 256 bits");
        Self { place, store, key: LessSafeKey::new(key), blocks: Vec::new(), end: 0 }
    }

    /// Sealed bytes so far.
    pub fn bytes(&self) -> u64 {
        self.end
    }

    /// Seals and appends a block; returns its number. The number is spent even if the write fails.
    pub fn append(&mut self, plain: &[u8]) -> Result<u64, ScratchError> {
        assert!(plain.len() <= SCRATCH_BLOCK_BYTES_MAX, "a scratch block of {} bytes", plain.len());
        let number = self.blocks.len() as u64;
        let mut sealed = Vec::with_capacity(plain.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(plain);
        self.key
            .seal_in_place_append_tag(nonce(number), Aad::empty(), &mut sealed)
            .expect("a block is far below the limit of the cipher");
        let block = Block { offset: self.end, sealed_bytes: sealed.len() as u32 };
        self.blocks.push(block);
        match &mut self.store {
            Store::File(file) => file.write_all_at(&sealed, block.offset).map_err(|source| self.io("write", source))?,
            Store::Memory { bytes, bytes_max } => {
                if bytes.len() + sealed.len() > *bytes_max {
                    return Err(self.io("write", io::Error::from(io::ErrorKind::StorageFull)));
                }
                bytes.extend_from_slice(&sealed);
            }
        }
        self.end += sealed.len() as u64;
        Ok(number)
    }

    /// Reads a block back and checks it.
    pub fn read(&self, number: u64) -> Result<Vec<u8>, ScratchError> {
        let block = self.blocks[number as usize];
        let mut sealed = vec![0u8; block.sealed_bytes as usize];
        match &self.store {
            Store::File(file) => {
                file.read_exact_at(&mut sealed, block.offset).map_err(|source| self.io("read", source))?;
            }
            Store::Memory { bytes, .. } => {
                let from = block.offset as usize;
                sealed.copy_from_slice(&bytes[from..from + block.sealed_bytes as usize]);
            }
        }
        let opened = self.key.open_in_place(nonce(number), Aad::empty(), &mut sealed);
        let plain_bytes = match opened {
            Ok(plain) => plain.len(),
            Err(_) => return Err(ScratchError::Altered { place: self.place.clone(), block: number }),
        };
        sealed.truncate(plain_bytes);
        Ok(sealed)
    }

    /// Gives the disk space of a block back, where the file system can; the block must not be read again.
    pub fn discard(&mut self, number: u64) {
        let block = self.blocks[number as usize];
        if let Store::File(file) = &self.store {
            let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
            // Only a kindness to the disk: whole 4 KiB pages are freed, and failure costs nothing but room.
            let _ = rustix::fs::fallocate(file, flags, block.offset, u64::from(block.sealed_bytes));
        }
    }

    fn io(&self, operation: &'static str, source: io::Error) -> ScratchError {
        ScratchError::Io { place: self.place.clone(), operation, source }
    }
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0u8; NONCE_LEN];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_and_lie_sealed_without_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = DirectoryScratch::new(Some(dir.path()));
        let mut file = scratch.open().unwrap();
        let plain = b"a path that must not be seen".repeat(100);
        let first = file.append(&plain).unwrap();
        let second = file.append(b"").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has a name");
        assert_eq!(file.read(first).unwrap(), plain);
        assert_eq!(file.read(second).unwrap(), b"");
        let Store::File(raw) = &file.store else { panic!("not a file") };
        let mut seen = vec![0u8; plain.len()];
        raw.read_exact_at(&mut seen, 0).unwrap();
        assert!(!seen.windows(16).any(|window| plain.starts_with(window)));
        raw.write_all_at(&[seen[7] ^ 1], 7).unwrap();
        assert!(matches!(file.read(first), Err(ScratchError::Altered { block: 0, .. })));
    }

    #[test]
    fn a_full_disk_and_a_missing_directory_are_errors() {
        let mut file = MemoryScratch::with_room(100).open().unwrap();
        file.append(&[1; 50]).unwrap();
        let error = file.append(&[2; 50]).unwrap_err();
        assert!(matches!(error, ScratchError::Io { operation: "write", .. }), "{error}");
        assert_eq!(file.read(0).unwrap(), [1; 50]);
        assert!(DirectoryScratch::new(Some(Path::new("/nonexistent/place"))).open().is_err());
    }
}
