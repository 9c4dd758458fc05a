//! The stages that touch the file system, one core each: open + stat + read + close, read, write and sync; and back:
//! create + attributes + rename.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, StatxFlags, Timespec, Timestamps, Uid};

use crate::clock::{Spent, measure};
use crate::inventory::Inventory;
use crate::{Result, during};

const BLOCK_BYTES: usize = 1 << 20;
/// Bytes that the write test writes, if there is so much data.
const WRITE_BYTES_MAX: u64 = 1 << 30;
/// Files that the create test makes.
const CREATE_FILES_MAX: usize = 20_000;

/// What a stage did and how long it took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Files that were handled.
    pub files: u64,
    /// Bytes that were moved.
    pub bytes: u64,
    /// The time.
    pub spent: Spent,
}

impl Work {
    /// Bytes per second on the wall.
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.spent.wall.max(1e-9)
    }

    /// CPU nanoseconds a file.
    pub fn ns_per_file(&self) -> f64 {
        self.spent.cpu * 1e9 / self.files.max(1) as f64
    }
}

/// Opens, looks at, reads and closes each file, holes left out; with a warm cache if it runs twice.
pub fn open_stat_read_close(inventory: &Inventory) -> Result<Work> {
    let mut block = vec![0; BLOCK_BYTES];
    let (read, spent) = measure(|| {
        let mut bytes = 0;
        for file in &inventory.files {
            bytes += read_one(&file.path, &mut block)?;
        }
        Ok::<u64, String>(bytes)
    });
    Ok(Work { files: inventory.files.len() as u64, bytes: read?, spent })
}

fn read_one(path: &Path, block: &mut [u8]) -> Result<u64> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = during(format!("open {}", path.display()), rustix::fs::open(path, flags, Mode::empty()))?;
    let status = during("stat", rustix::fs::statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS))?;
    let holes = status.stx_blocks * 512 < status.stx_size;
    let mut bytes = 0;
    let mut position = 0;
    while position < status.stx_size {
        if holes {
            match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(position)) {
                Ok(data) => position = data,
                Err(rustix::io::Errno::NXIO) => break,
                Err(error) => return Err(format!("cannot find data in {}: {error}", path.display())),
            }
        }
        let count = during(format!("read {}", path.display()), rustix::io::pread(&file, &mut *block, position))?;
        if count == 0 {
            break;
        }
        position += count as u64;
        bytes += count as u64;
    }
    Ok(bytes)
}

/// Reads the largest files in large blocks: the rate of reading without opening.
pub fn read(inventory: &Inventory) -> Result<Work> {
    let mut largest: Vec<_> = inventory.files.iter().collect();
    largest.sort_by_key(|file| std::cmp::Reverse(file.data_bytes));
    largest.truncate(64);
    let mut block = vec![0; BLOCK_BYTES];
    let mut work = Work::default();
    for file in largest {
        let mut open = during(format!("open {}", file.path.display()), File::open(&file.path))?;
        let (bytes, spent) = measure(|| {
            let mut bytes = 0;
            while bytes < file.data_bytes {
                match open.read(&mut block) {
                    Ok(0) => break,
                    Ok(count) => bytes += count as u64,
                    Err(error) => return Err(error),
                }
            }
            Ok(bytes)
        });
        work.files += 1;
        work.bytes += during(format!("read {}", file.path.display()), bytes)?;
        work.spent.cpu += spent.cpu;
        work.spent.wall += spent.wall;
    }
    Ok(work)
}

/// Writes `bytes` of `content` over and over into pack-sized files, and syncs each: the write-and-sync rate.
pub fn write_and_sync(directory: &Path, content: &[u8], bytes: u64) -> Result<Work> {
    let goal = bytes.clamp(32 << 20, WRITE_BYTES_MAX);
    let mut work = Work::default();
    let mut written = 0;
    let mut number = 0;
    let (outcome, spent) = measure(|| {
        while written < goal {
            let mut file = File::create(directory.join(format!("pack-{number}")))?;
            number += 1;
            let end = goal.min(written + (32 << 20));
            while written < end {
                let offset = (written as usize) % content.len();
                let length = BLOCK_BYTES.min(content.len() - offset).min((end - written) as usize);
                file.write_all(&content[offset..offset + length])?;
                written += length as u64;
            }
            // As the local backend does it: start the write-back now, wait at the end.
            start_write_back(&file);
        }
        for each in 0..number {
            File::open(directory.join(format!("pack-{each}")))?.sync_data()?;
        }
        File::open(directory)?.sync_all()
    });
    during(format!("write into {}", directory.display()), outcome)?;
    for each in 0..number {
        let _ = std::fs::remove_file(directory.join(format!("pack-{each}")));
    }
    work.files = number;
    work.bytes = written;
    work.spent = spent;
    Ok(work)
}

fn start_write_back(file: &File) {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open while `file` lives; the call takes no pointer, and its failure costs time alone.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Puts a tree that has served away: its bytes go, its inodes stay until the scratch directory goes. For ext4 passes over
/// each inode that was freed in the last minutes, and whoever makes files next would pay for this removal.
pub fn retire(tree: &Path, scratch: &Path) -> std::io::Result<()> {
    if std::fs::symlink_metadata(tree).is_err() {
        return Ok(());
    }
    let place = tempfile::Builder::new().prefix("retired-").tempdir_in(scratch)?.keep();
    if std::fs::rename(tree, place.join("tree")).is_err() {
        // On another file system: it goes at once.
        return crate::reference::remove(tree);
    }
    empty(&place)
}

fn empty(place: &Path) -> std::io::Result<()> {
    let status = std::fs::symlink_metadata(place)?;
    if status.is_dir() {
        for entry in std::fs::read_dir(place)? {
            empty(&entry?.path())?;
        }
    } else if status.is_file() {
        std::fs::OpenOptions::new().write(true).open(place)?.set_len(0)?;
    }
    Ok(())
}

/// Creates files of the sizes of this tree under temporary names, without content, sets owner, mode and times, and
/// renames each: what restore must do for a file beside writing its bytes. They stay until the scratch directory goes:
/// ext4 passes over each inode that was freed in the last minutes (60 to 300 s), so what is made after a large removal is
/// many times as slow.
pub fn create_attributes_rename(directory: &Path, inventory: &Inventory) -> Result<Work> {
    let count = inventory.files.len().min(CREATE_FILES_MAX);
    let place = during("create a directory", tempfile::Builder::new().prefix("created-").tempdir_in(directory))?.keep();
    let open =
        during("open a directory", rustix::fs::open(&place, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()))?;
    let moment = Timespec { tv_sec: 1_700_000_000, tv_nsec: 5 };
    let times = Timestamps { last_access: moment, last_modification: moment };
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let (outcome, spent) = measure(|| {
        for number in 0..count {
            let (temporary, name) = (format!(".mover-{number:08}"), format!("file-{number:08}"));
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = File::from(rustix::fs::openat(&open, &temporary, flags, Mode::from_raw_mode(0o600))?);
            file.write_all_at(b"x", 0).map_err(|_| rustix::io::Errno::IO)?;
            rustix::fs::fchown(&file, Some(Uid::from_raw(user.as_raw())), Some(Gid::from_raw(group.as_raw())))?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
            rustix::fs::futimens(&file, &times)?;
            rustix::fs::renameat(&open, &temporary, &open, &name)?;
        }
        Ok::<(), rustix::io::Errno>(())
    });
    during("create files", outcome)?;
    Ok(Work { files: count as u64, bytes: 0, spent })
}

/// Waits until the file system that holds `path` has written everything.
pub fn sync_file_system(path: &Path) -> Result<()> {
    let open = during(
        format!("open {}", path.display()),
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()),
    )?;
    during(format!("sync {}", path.display()), rustix::fs::syncfs(&open))
}
