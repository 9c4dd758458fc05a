//! What of a file is in the page cache, by `mincore`.

use std::fs::File;
use std::path::Path;

use rustix::fs::Advice;

/// Pages of `path` that are in the page cache, and how many it has.
pub fn resident_pages(path: &Path) -> (usize, usize) {
    let file = File::open(path).expect("open");
    let bytes = usize::try_from(file.metadata().expect("stat").len()).expect("a length");
    if bytes == 0 {
        return (0, 0);
    }
    // SAFETY: a new mapping where the kernel chooses, which nobody else knows of; it is not read.
    let start = unsafe {
        let (protection, flags) = (rustix::mm::ProtFlags::READ, rustix::mm::MapFlags::SHARED);
        rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, flags, &file, 0).expect("map")
    };
    let mut pages = vec![0u8; bytes.div_ceil(rustix::param::page_size())];
    // SAFETY: the range is mapped, and the vector has a byte for each of its pages.
    let result = unsafe { libc::mincore(start, bytes, pages.as_mut_ptr()) };
    assert_eq!(result, 0, "mincore of {}", path.display());
    // SAFETY: the mapping of above, which is used no more.
    unsafe { rustix::mm::munmap(start, bytes).expect("unmap") };
    (pages.iter().filter(|page| **page & 1 == 1).count(), pages.len())
}

/// Writes `path` to its disk and drops it from the page cache.
pub fn drop_from_cache(path: &Path) {
    let file = File::open(path).expect("open");
    file.sync_all().expect("sync");
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).expect("advise");
}
