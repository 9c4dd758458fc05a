//! Read buffers: taken against the memory budget, filled by the source, cut, hashed and
//! compressed in place, then given back for the next read.
//!
//! A buffer is allocated once and recycled, because the page faults of a fresh one cost as much
//! as hashing what is read into it. At most [`IDLE_MAX`] wait unused; they are memory that the
//! budget has already seen and are counted in the 64 MiB that the process may use beside it.
//!
//! Shared by the shards of a job. Each lane holds one buffer as a reserve, so that a full budget
//! slows a chunker down but never stops it.

use std::ops::Deref;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::runtime::{Permit, Reserve};

/// Bytes that one read of a large file asks for.
pub const READ_BYTES: usize = 2 << 20;
/// Buffers kept for reuse.
const IDLE_MAX: usize = 8;

/// Source of read buffers of one size.
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

struct Shared {
    buffer_bytes: usize,
    idle: Mutex<Vec<Vec<u8>>>,
}

impl BufferPool {
    /// Buffers with room for one read and the largest chunk that may be carried into it.
    pub fn new(chunk_bytes_max: usize) -> Self {
        Self { shared: Arc::new(Shared { buffer_bytes: READ_BYTES + chunk_bytes_max, idle: Mutex::default() }) }
    }

    /// Capacity of each buffer in bytes.
    pub fn buffer_bytes(&self) -> usize {
        self.shared.buffer_bytes
    }

    /// An empty buffer; waits until the budget has room, or the lane's `reserve` is back.
    pub async fn take(&self, reserve: &Reserve) -> ReadBuffer {
        let permit = reserve.acquire(self.shared.buffer_bytes).await;
        let recycled = self.shared.idle.lock().pop();
        let bytes = recycled.unwrap_or_else(|| Vec::with_capacity(self.shared.buffer_bytes));
        ReadBuffer { bytes, _permit: Some(permit), home: self.shared.clone() }
    }
}

/// A buffer in flight. Holds its permit until the last reference is gone.
pub struct ReadBuffer {
    bytes: Vec<u8>,
    _permit: Option<Permit>,
    home: Arc<Shared>,
}

impl ReadBuffer {
    /// Stands in while a full buffer is sent on and the next one is waited for; holds no memory.
    pub fn detached(pool: &BufferPool) -> Self {
        Self { bytes: vec![], _permit: None, home: pool.shared.clone() }
    }

    /// Lends the vector to a source; [`ReadBuffer::put_back`] returns it.
    pub fn lend(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Takes back what was lent, filled.
    pub fn put_back(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes;
    }

    /// Appends bytes carried over from the buffer before.
    pub fn carry(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes of memory held.
    pub fn capacity(&self) -> usize {
        self.home.buffer_bytes
    }
}

impl Deref for ReadBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        // A lost or grown vector is not worth keeping: the next one would not match its permit.
        if bytes.capacity() < self.home.buffer_bytes || bytes.capacity() > 2 * self.home.buffer_bytes {
            return;
        }
        bytes.clear();
        let mut idle = self.home.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(bytes);
        }
    }
}
