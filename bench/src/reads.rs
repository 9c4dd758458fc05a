//! Other ways to read, beside the plain one: around the page cache (`O_DIRECT`), and many small files at a time through
//! io_uring. They tell whether another way would pay on this machine and these data.

use std::ffi::CString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;

use io_uring::{IoUring, opcode, types};

use crate::clock::{Spent, measure_process};
use crate::files::Work;
use crate::inventory::{Entry, Inventory};
use crate::{Result, during};

/// Blocks of direct reads, and their alignment.
const DIRECT_BYTES: usize = 1 << 20;
const ALIGNMENT: usize = 4096;
/// Bytes that are read directly at most: they come from the device.
const DIRECT_BYTES_MAX: u64 = 1 << 30;
/// Files in flight in one ring.
const BATCH: usize = 64;
/// Larger files gain nothing from being read in a batch.
const SMALL_BYTES_MAX: u64 = 256 << 10;
/// Small files that are read at most.
const SMALL_FILES_MAX: usize = 40_000;

/// Reads the largest files around the page cache; `None` where the file system cannot.
pub fn direct(inventory: &Inventory) -> Result<Option<Work>> {
    let mut largest: Vec<&Entry> = inventory.files.iter().collect();
    largest.sort_by_key(|file| std::cmp::Reverse(file.data_bytes));
    let mut block = vec![0u8; DIRECT_BYTES + ALIGNMENT];
    let start = block.as_ptr().align_offset(ALIGNMENT);
    let block = &mut block[start..start + DIRECT_BYTES];
    let mut work = Work::default();
    for file in largest.into_iter().take(64) {
        if work.bytes >= DIRECT_BYTES_MAX {
            break;
        }
        let options = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&file.path);
        let Ok(open) = options else { return Ok(None) };
        let (bytes, spent) = measure_process(|| read_to_end(&open, block, file.data_bytes));
        work.files += 1;
        work.bytes += during(format!("read {}", file.path.display()), bytes)?;
        work.spent.cpu += spent.cpu;
        work.spent.wall += spent.wall;
    }
    Ok(Some(work))
}

fn read_to_end(file: &File, block: &mut [u8], bytes_max: u64) -> rustix::io::Result<u64> {
    let mut bytes = 0;
    while bytes < bytes_max {
        match rustix::io::pread(file, &mut *block, bytes)? {
            0 => break,
            count => bytes += count as u64,
        }
    }
    Ok(bytes)
}

/// Opens, looks at, reads and closes the small files, [`BATCH`] at a time through one ring; `None` where the kernel
/// forbids it or there are no small files.
pub fn batched(inventory: &Inventory) -> Result<Option<Work>> {
    let small = inventory.files.iter().filter(|file| (1..=SMALL_BYTES_MAX).contains(&file.bytes));
    let small: Vec<&Entry> = small.take(SMALL_FILES_MAX).collect();
    let Ok(mut ring) = IoUring::new(2 * BATCH as u32) else { return Ok(None) };
    if small.is_empty() {
        return Ok(None);
    }
    let mut buffers = vec![vec![0u8; SMALL_BYTES_MAX as usize]; BATCH];
    let (bytes, spent): (Result<u64>, Spent) = measure_process(|| {
        let mut bytes = 0;
        for batch in small.chunks(BATCH) {
            bytes += read_batch(&mut ring, batch, &mut buffers)?;
        }
        Ok(bytes)
    });
    Ok(Some(Work { files: small.len() as u64, bytes: bytes?, spent }))
}

/// Three rounds: open all, look at and read all, close all.
fn read_batch(ring: &mut IoUring, batch: &[&Entry], buffers: &mut [Vec<u8>]) -> Result<u64> {
    let names: Vec<CString> = batch
        .iter()
        .map(|file| CString::new(file.path.as_os_str().as_bytes()).expect("a path has no zero byte"))
        .collect();
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    let open = |name: &CString| opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), name.as_ptr()).flags(flags).build();
    let files = round(ring, names.iter().map(open).collect())?;
    // SAFETY: plain data for which all zero bytes are valid.
    let mut looks: Vec<libc::statx> = vec![unsafe { std::mem::zeroed() }; batch.len()];
    let mut entries = Vec::with_capacity(2 * batch.len());
    for (at, file) in files.iter().enumerate() {
        let look = (&raw mut looks[at]).cast();
        let statx = opcode::Statx::new(types::Fd(*file), c"".as_ptr(), look);
        entries.push(statx.flags(libc::AT_EMPTY_PATH).mask(libc::STATX_BASIC_STATS).build());
        let buffer = &mut buffers[at];
        entries.push(opcode::Read::new(types::Fd(*file), buffer.as_mut_ptr(), buffer.len() as u32).build());
    }
    let results = round(ring, entries)?;
    round(ring, files.iter().map(|file| opcode::Close::new(types::Fd(*file)).build()).collect())?;
    Ok(results.chunks(2).map(|pair| pair[1] as u64).sum())
}

/// Submits all entries and waits for all of them; their results in the order of the entries.
fn round(ring: &mut IoUring, entries: Vec<io_uring::squeue::Entry>) -> Result<Vec<i32>> {
    let count = entries.len();
    for (at, entry) in entries.into_iter().enumerate() {
        // SAFETY: names, buffers and looks outlive this function, which returns when the kernel is done with them.
        unsafe { ring.submission().push(&entry.user_data(at as u64)).expect("the ring holds two entries a file") };
    }
    let mut results = vec![0; count];
    let mut done = 0;
    while done < count {
        during("wait for io_uring", ring.submit_and_wait(count - done))?;
        for completed in ring.completion() {
            results[completed.user_data() as usize] = completed.result();
            done += 1;
        }
    }
    match results.iter().find(|result| **result < 0) {
        Some(error) => Err(format!("cannot read through io_uring: {}", std::io::Error::from_raw_os_error(-error))),
        None => Ok(results),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_read_the_same_bytes() {
        let tree = tempfile::tempdir_in(".").expect("a directory");
        for number in 0..(BATCH + 3) {
            std::fs::write(tree.path().join(format!("f{number:03}")), vec![number as u8; 100 * number]).expect("write");
        }
        std::fs::write(tree.path().join("large"), vec![1; 3 << 20]).expect("write");
        let inventory = Inventory::of(tree.path()).expect("an inventory");
        let small: u64 = (0..(BATCH as u64 + 3)).map(|number| 100 * number).sum();
        if let Some(work) = batched(&inventory).expect("read") {
            assert_eq!((work.files, work.bytes), (BATCH as u64 + 2, small));
        }
        if let Some(work) = direct(&inventory).expect("read") {
            assert!(work.bytes >= 3 << 20, "{work:?}");
        }
    }
}
