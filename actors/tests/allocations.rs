//! How often a backup asks for memory: a count, where seconds would tell about the machine.
//!
//! What a run costs beside its files is taken out by comparing two runs that differ in their files alone.

mod lab;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use lab::{Lab, noise};

/// Counts what all threads ask for.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LARGE_BYTES: AtomicU64 = AtomicU64::new(0);
/// A request of at least this size is a buffer for data.
const LARGE_BYTES_MIN: usize = 1 << 20;

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        if layout.size() >= LARGE_BYTES_MIN {
            LARGE_BYTES.fetch_add(layout.size() as u64, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations, and bytes of large ones, of one first backup of `path`.
fn spent(path: &Path) -> (u64, u64) {
    let lab = Lab::new();
    let before = (ALLOCATIONS.load(Ordering::Relaxed), LARGE_BYTES.load(Ordering::Relaxed));
    lab.backup(path).point.expect("a recovery point");
    let after = (ALLOCATIONS.load(Ordering::Relaxed), LARGE_BYTES.load(Ordering::Relaxed));
    (after.0 - before.0, after.1 - before.1)
}

/// One test: the counters are those of the process.
#[test]
fn a_backup_asks_for_little_memory_a_file_and_none_a_mebibyte() {
    let small = |files: u64| {
        let tree = tempfile::tempdir().expect("a directory");
        for number in 0..files {
            std::fs::write(tree.path().join(format!("f{number}")), noise(number, 2000)).expect("write");
        }
        spent(tree.path())
    };
    let ((few, _), (many, _)) = (small(1000), small(5000));
    let a_file = (many - few) as f64 / 4000.0;
    println!("{a_file:.1} allocations a small file");
    assert!(a_file < 20.0, "{a_file:.1} allocations a small file");

    let large = |mebibytes: usize| {
        let tree = tempfile::tempdir().expect("a directory");
        let text = b"all work and no play ".repeat((mebibytes << 20) / 21);
        std::fs::write(tree.path().join("large"), text).expect("write");
        spent(tree.path())
    };
    let ((short, short_bytes), (long, long_bytes)) = (large(64), large(256));
    let a_mebibyte = long.saturating_sub(short) as f64 / 192.0;
    println!(
        "{a_mebibyte:.1} allocations a MiB, {} MiB more of read buffers",
        long_bytes.saturating_sub(short_bytes) >> 20
    );
    assert!(a_mebibyte < 40.0, "{a_mebibyte:.1} allocations a MiB");
    assert!(long_bytes < short_bytes + (32 << 20), "read buffers are used again");
}
