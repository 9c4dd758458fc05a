//! The threads on which requests to object stores run: one small tokio runtime for the process, started with the first
//! store and never stopped. Whoever waits for an answer needs no reactor.

use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::backend::{IoFuture, StorageError, StorageErrorKind};

/// Threads that move bytes between sockets and buffers: one carries about 5 Gbit/s. A second one where there are cores
/// to spare, for two wake each other for every small piece that comes over a slow link.
fn threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 4 { 1 } else { 2 }
}

/// The runtime of this process.
///
/// # Panics
/// If the operating system cannot start a thread.
pub(super) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let builder =
            || Builder::new_multi_thread().worker_threads(threads()).thread_name("store").enable_all().build();
        builder().expect("the system starts threads")
    })
}

/// A task on the runtime, ended with whoever waits for it.
struct Task<T> {
    handle: JoinHandle<Result<T, StorageError>>,
    operation: &'static str,
}

impl<T> Future for Task<T> {
    type Output = Result<T, StorageError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let operation = self.operation;
        let ended = |error| StorageError::of_kind(operation, "", StorageErrorKind::Other, error);
        match Pin::new(&mut self.handle).poll(context) {
            Poll::Ready(joined) => Poll::Ready(joined.map_err(ended).flatten()),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// Starts `work` on the runtime. Dropping the future ends it.
pub(super) fn start<T: Send + 'static>(
    operation: &'static str,
    work: impl Future<Output = Result<T, StorageError>> + Send + 'static,
) -> IoFuture<T> {
    Box::pin(Task { handle: runtime().spawn(work), operation })
}
