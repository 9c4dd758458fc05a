//! A thread that looks after executors which may have fallen asleep with work to do.
//!
//! It calls a closure at a steady pace until it is dropped. Lives on a thread of its own, because what it
//! guards against stops everything that lives on a shard, timers included. Must never block on a shard.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// See the module.
#[derive(Debug)]
pub(super) struct Pulse {
    stopped: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Pulse {
    /// Calls `beat` every `interval`.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub(super) fn start(interval: Duration, beat: impl Fn() + Send + 'static) -> std::io::Result<Pulse> {
        let stopped: Arc<(Mutex<bool>, Condvar)> = Arc::default();
        let watched = stopped.clone();
        let thread = std::thread::Builder::new().name("pulse".into()).spawn(move || {
            let (is_stopped, changed) = &*watched;
            let mut is_stopped = is_stopped.lock();
            while !*is_stopped {
                if changed.wait_for(&mut is_stopped, interval).timed_out() {
                    beat();
                }
            }
        })?;
        Ok(Pulse { stopped, thread: Some(thread) })
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        *self.stopped.0.lock() = true;
        self.stopped.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn it_beats_until_it_is_dropped() {
        let beats = Arc::new(AtomicUsize::new(0));
        let counted = beats.clone();
        let beat = move || {
            counted.fetch_add(1, Ordering::SeqCst);
        };
        let pulse = Pulse::start(Duration::from_millis(1), beat).expect("a thread");
        while beats.load(Ordering::SeqCst) < 3 {
            std::thread::yield_now();
        }
        drop(pulse);
        assert_eq!(Arc::strong_count(&beats), 1, "its thread is gone");
    }
}
