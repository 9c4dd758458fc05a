//! Looks after executors which may have fallen asleep with work to do.
//!
//! A [`Pulse`] calls a closure again and again, at the pace that this asks for, until it is dropped: on a thread of its own,
//! because what it guards against stops everything that lives on a shard, timers included. A [`Sleeper`] is a thread that
//! can be made to return from a wait in the kernel, by a signal with an empty handler. Must never block on a shard.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Sent to end a sleep in the kernel. Ignored by default and harmless to whoever else might get it.
const KICK: libc::c_int = libc::SIGURG;

/// A thread that may have to be kicked out of a sleep in the kernel.
#[derive(Debug, Default)]
pub(super) struct Sleeper {
    /// While it is set, the thread is alive.
    thread: Mutex<Option<libc::pthread_t>>,
}

impl Sleeper {
    /// The calling thread may be kicked from now on, until [`Sleeper::leave`].
    pub(super) fn enter(&self) {
        // SAFETY: the handler does nothing, so it may run at any point; the struct is initialised whole.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_kick as extern "C" fn(libc::c_int) as usize;
            // Without SA_RESTART: the system call shall return.
            libc::sigaction(KICK, &raw const action, std::ptr::null_mut());
        }
        // SAFETY: has no preconditions.
        *self.thread.lock() = Some(unsafe { libc::pthread_self() });
    }

    /// The calling thread ends.
    pub(super) fn leave(&self) {
        *self.thread.lock() = None;
    }

    /// Makes a system call that the thread sleeps in return early.
    pub(super) fn kick(&self) {
        if let Some(thread) = *self.thread.lock() {
            // SAFETY: the thread is alive, for it clears the field under this lock before it ends.
            unsafe { libc::pthread_kill(thread, KICK) };
        }
    }
}

extern "C" fn on_kick(_signal: libc::c_int) {}

/// See the module.
#[derive(Debug)]
pub(super) struct Pulse {
    stopped: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Pulse {
    /// Calls `beat` after `interval`, and then each time after what it gave.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub(super) fn start(interval: Duration, beat: impl Fn() -> Duration + Send + 'static) -> std::io::Result<Pulse> {
        let stopped: Arc<(Mutex<bool>, Condvar)> = Arc::default();
        let watched = stopped.clone();
        let thread = std::thread::Builder::new().name("pulse".into()).spawn(move || {
            let (is_stopped, changed) = &*watched;
            let mut is_stopped = is_stopped.lock();
            let mut interval = interval;
            while !*is_stopped {
                if changed.wait_for(&mut is_stopped, interval).timed_out() {
                    interval = beat();
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
            Duration::from_millis(1)
        };
        let pulse = Pulse::start(Duration::from_millis(1), beat).expect("a thread");
        while beats.load(Ordering::SeqCst) < 3 {
            std::thread::yield_now();
        }
        drop(pulse);
        assert_eq!(Arc::strong_count(&beats), 1, "its thread is gone");
    }
}
