//! Processes that this one starts: they die with it, have a group of their own, and are waited for without a signal handler.
//!
//! The kernel kills a child when the *thread* that started it ends, so all are started by the main thread. A thread waits
//! for the end of each and leaves it unreaped: its number is nobody else's until [`Process::reap`], so a signal never
//! meets a stranger.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use tokio::sync::oneshot;

/// Bytes kept of the end of standard error.
const STDERR_BYTES: usize = 8 << 10;

/// One that runs, or has ended and is not reaped.
pub struct Process {
    child: Child,
    pid: Pid,
    ended: oneshot::Receiver<()>,
    has_ended: bool,
    /// The end of what it said on standard error.
    stderr: oneshot::Receiver<String>,
}

impl Process {
    /// Starts it; its standard error is kept.
    ///
    /// # Errors
    /// The system refuses.
    pub fn start(mut command: Command) -> std::io::Result<Process> {
        command.stderr(Stdio::piped()).process_group(0);
        let parent = rustix::process::getpid();
        let prepare = move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // It may have ended before the line above.
            if rustix::process::getppid() != Some(parent) {
                return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        };
        // SAFETY: between fork and exec only two system calls are made, no memory is taken, no lock is asked for.
        unsafe { command.pre_exec(prepare) };
        let mut child = command.spawn()?;
        let pid = Pid::from_child(&child);
        let (tell, ended) = oneshot::channel();
        let wait = move || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while waitid(WaitId::Pid(pid), options).is_err_and(|errno| errno == rustix::io::Errno::INTR) {}
            let _ = tell.send(());
        };
        let (said, stderr) = oneshot::channel();
        let errors = child.stderr.take();
        let listen = move || _ = said.send(errors.map(tail).unwrap_or_default());
        let name = |what: &str| std::thread::Builder::new().name(format!("{what} {pid:?}"));
        let threads = name("waits").spawn(wait).and_then(|_| name("hears").spawn(listen));
        if let Err(error) = threads {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        Ok(Process { child, pid, ended, has_ended: false, stderr })
    }

    /// What it reads.
    pub fn take_input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// What it writes.
    pub fn take_output(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Asks it to stop cleanly.
    pub fn stop(&self) {
        let _ = kill_process(self.pid, Signal::TERM);
    }

    /// Ends it at once, with whatever it started.
    pub fn kill(&self) {
        let _ = kill_process_group(self.pid, Signal::KILL);
    }

    /// Waits for its end; may be asked again.
    pub async fn ended(&mut self) {
        if !self.has_ended {
            let _ = (&mut self.ended).await;
            self.has_ended = true;
        }
    }

    /// After its end: how it ended and what it said last. Whatever it left behind ends with it.
    pub async fn reap(mut self) -> (Option<ExitStatus>, String) {
        self.ended().await;
        self.kill();
        let status = self.child.wait().ok();
        let said = tokio::time::timeout(std::time::Duration::from_secs(5), &mut self.stderr).await;
        (status, said.ok().and_then(Result::ok).unwrap_or_default())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Reaped already if it was waited for; then this does nothing.
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

/// The end of what a stream says.
fn tail(mut stream: impl Read) -> String {
    let (mut kept, mut part) = (Vec::new(), [0; 4096]);
    while let Ok(bytes) = stream.read(&mut part) {
        if bytes == 0 {
            break;
        }
        kept.extend_from_slice(&part[..bytes]);
        if kept.len() > 2 * STDERR_BYTES {
            kept.drain(..kept.len() - STDERR_BYTES);
        }
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}
