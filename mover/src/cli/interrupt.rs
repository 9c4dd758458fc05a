//! SIGINT, SIGTERM and SIGHUP: once asks a running job to finish cleanly, twice ends the process.
//!
//! The handler only counts, writes one byte to a pipe, or calls `_exit`; everything else happens on
//! the thread named `interrupt`. A command that keeps no work (a listing) is ended at once.

use std::io::{PipeReader, PipeWriter, Read};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::thread::JoinHandle;

use super::exit::Exit;

/// Signals seen since the running job took over.
static SEEN: AtomicU32 = AtomicU32::new(0);
/// Whether a job is running that wants to finish by itself.
static GRACEFUL: AtomicBool = AtomicBool::new(false);
/// Write end of the pipe to the watching thread, −1 before it exists.
static WAKE_FD: AtomicI32 = AtomicI32::new(-1);
/// Read end, taken by the one watching thread at a time.
static WAKE_READER: OnceLock<PipeReader> = OnceLock::new();

extern "C" fn on_signal(_signal: libc::c_int) {
    if !GRACEFUL.load(Ordering::SeqCst) || SEEN.fetch_add(1, Ordering::SeqCst) > 0 {
        // SAFETY: `_exit` is async-signal-safe and does not return.
        unsafe { libc::_exit(i32::from(Exit::Interrupted.code())) }
    }
    wake(b's');
}

/// Writes one byte to the watching thread; async-signal-safe, keeps `errno`.
fn wake(byte: u8) {
    // SAFETY: `write` is async-signal-safe, the buffer lives for the call, and a bad descriptor only
    // gives an error; `errno` is put back for the code that was interrupted.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(WAKE_FD.load(Ordering::SeqCst), (&raw const byte).cast(), 1);
        *libc::__errno_location() = errno;
    }
}

/// Installs the handlers. Called once, before threads exist.
pub fn install() {
    let Ok((reader, writer)) = std::io::pipe() else { return };
    keep_pipe(reader, writer);
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the structure is fully initialised (zero is a valid empty mask), the handler is
        // async-signal-safe, and `old` is only read after the call filled it.
        unsafe {
            let mut old: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut old);
            // nohup asked for this signal to be ignored
            if signal == libc::SIGHUP && old.sa_sigaction == libc::SIG_IGN {
                continue;
            }
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

fn keep_pipe(reader: PipeReader, writer: PipeWriter) {
    if WAKE_READER.set(reader).is_ok() {
        WAKE_FD.store(writer.into_raw_fd(), Ordering::SeqCst);
    }
}

/// Whether the running job has been asked to stop.
pub fn requested() -> bool {
    SEEN.load(Ordering::SeqCst) > 0
}

/// While it lives, the first signal calls a closure instead of ending the process.
pub struct Graceful {
    watcher: Option<JoinHandle<()>>,
}

/// Takes over: the first signal runs `on_first` on an own thread, the second ends the process with
/// exit code 130 at once.
pub fn graceful(on_first: impl FnOnce() + Send + 'static) -> Graceful {
    let Some(reader) = WAKE_READER.get() else { return Graceful { watcher: None } };
    debug_assert!(reader.as_raw_fd() >= 0);
    let watcher = std::thread::Builder::new().name("interrupt".to_owned()).spawn(move || {
        let mut byte = [0u8];
        let mut source: &PipeReader = reader;
        if source.read_exact(&mut byte).is_ok() && byte[0] == b's' {
            on_first();
        }
    });
    SEEN.store(0, Ordering::SeqCst);
    GRACEFUL.store(true, Ordering::SeqCst);
    Graceful { watcher: watcher.ok() }
}

impl Drop for Graceful {
    fn drop(&mut self) {
        GRACEFUL.store(false, Ordering::SeqCst);
        if let Some(watcher) = self.watcher.take() {
            // a watcher that already got its signal has ended; do not leave a byte for the next one
            if !watcher.is_finished() && !requested() {
                wake(b'q');
            }
            let _ = watcher.join();
        }
    }
}
