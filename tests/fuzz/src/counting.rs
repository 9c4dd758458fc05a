//! An allocator that counts what one thread holds. Shared with the test of all decoders in `tests/tests/fuzz.rs`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts, and passes every call on to the system's allocator.
pub struct Counting;

thread_local! {
    /// Bytes held now, and the most that were; both since the start of the measurement.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// Negative where memory from before the measurement is given back.
fn count(bytes: isize) {
    // A thread that is ending has no counter any more, and nobody who measures it.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + bytes, most.max(now + bytes)));
    });
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(bytes as isize - layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, bytes) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The most bytes that this thread held at any moment of `work`, beside what it held before.
pub fn peak_bytes(work: impl FnOnce()) -> usize {
    HELD.set((0, 0));
    work();
    HELD.get().1 as usize
}
