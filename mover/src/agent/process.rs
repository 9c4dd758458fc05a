//! Processes that this one starts: they die with it, have a group of their own, and are waited for without a signal handler.
//!
//! The kernel kills a child when the *thread* that started it ends, so all are started by the main thread. A thread waits
//! for the end of each and leaves it unreaped for as long as somebody may send it a signal: its number is nobody else's
//! until then. The main thread never waits for a process: one that hangs in the kernel would stop all other jobs.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::sync::oneshot;

/// Bytes kept of the end of standard error.
const STDERR_BYTES: usize = 8 << 10;

/// One that runs, or has ended. Dropped, it is killed, and reaped when it has ended.
pub struct Process {
    pid: Pid,
    input: Option<ChildStdin>,
    output: Option<ChildStdout>,
    ended: oneshot::Receiver<()>,
    has_ended: bool,
    /// While it is there, the process is not reaped and may be signalled.
    hold: Option<mpsc::Sender<()>>,
    status: oneshot::Receiver<Option<ExitStatus>>,
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
        let thread = |what: &str| std::thread::Builder::new().name(what.to_owned());
        // The thread is there before the process: no process is left without one that reaps it.
        let (hand, handed) = mpsc::channel::<Child>();
        let (hold, held) = mpsc::channel::<()>();
        let (tell, ended) = oneshot::channel();
        let (tell_status, status) = oneshot::channel();
        thread("waits").spawn(move || {
            let Ok(mut child) = handed.recv() else { return };
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            let pid = Pid::from_child(&child);
            while waitid(WaitId::Pid(pid), options).is_err_and(|errno| errno == rustix::io::Errno::INTR) {}
            let _ = tell.send(());
            // Until nobody can send a signal any more.
            let _ = held.recv();
            let _ = tell_status.send(child.wait().ok());
        })?;
        let mut child = command.spawn()?;
        let (said, stderr) = oneshot::channel();
        let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let pid = Pid::from_child(&child);
        let _ = hand.send(child);
        let process = Process { pid, input, output, ended, has_ended: false, hold: Some(hold), status, stderr };
        let listen = move || _ = said.send(errors.map(tail).unwrap_or_default());
        thread("hears").spawn(listen)?;
        Ok(process)
    }

    /// What it reads.
    pub fn take_input(&mut self) -> Option<ChildStdin> {
        self.input.take()
    }

    /// What it writes.
    pub fn take_output(&mut self) -> Option<ChildStdout> {
        self.output.take()
    }

    /// Asks it, and whatever it started, to stop cleanly.
    pub fn stop(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends it at once, with whatever it started.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        if self.hold.is_some() {
            let _ = kill_process_group(self.pid, signal);
        }
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
        self.hold = None;
        let status = (&mut self.status).await.ok().flatten();
        let said = tokio::time::timeout(std::time::Duration::from_secs(5), &mut self.stderr).await;
        (status, said.ok().and_then(Result::ok).unwrap_or_default())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn state_of(pid: Pid) -> Option<char> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        text.rsplit_once(") ")?.1.chars().next()
    }

    /// A process that hung in the kernel once held up the only thread of the agent, which waited for it in a drop.
    #[test]
    fn process_that_is_dropped_is_killed_and_reaped_and_nobody_waits_for_it() {
        let mut command = Command::new("sleep");
        command.arg("1000");
        let mut process = Process::start(command).expect("start");
        let pid = process.pid;
        rustix::process::kill_process_group(pid, Signal::STOP).expect("stopped");
        // The thread may not reap it yet: a drop that waits for that would hang here.
        let (other, held) = mpsc::channel();
        let hold = process.hold.replace(other).expect("held");
        drop(process);
        assert!(held.recv().is_err(), "the drop let go");
        while state_of(pid) != Some('Z') {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        drop(hold);
        while state_of(pid).is_some() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}
