//! One child of this binary: started with a config file of its own, listened to line by line, asked, stopped, killed.
//!
//! Memory: some lines of its output, the end of its standard error.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::invocation::Invocation;
use super::process::Process;
use super::state::StateDirectory;

/// This program as it is in memory: an upgrade replaces the file below a running agent, and this is still the old one.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// After it was asked to stop, a child has so long until it is killed.
const STOP_GRACE: Duration = Duration::from_secs(90);
/// Lines that wait to be looked at; a child that says more waits.
const LINES: usize = 64;

/// What becomes of a job, as its agent was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    #[default]
    GoOn,
    /// Somebody wants it to stop.
    Stop(String),
    /// The agent stops: to be given back.
    GiveBack,
    /// It is somebody else's: end at once, write nothing.
    Lost(String),
}

/// How a child ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// The end of its standard error.
    pub stderr: String,
}

/// A child that runs.
pub struct Running {
    process: Process,
    input: Option<ChildStdin>,
    /// What it says; ends with it.
    pub lines: mpsc::Receiver<Value>,
    _config: Temporary,
}

/// A file that goes with this value.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Starts this binary; `name` tells its config file from others.
///
/// # Errors
/// The system refuses.
pub fn start(state: &StateDirectory, name: &str, call: &Invocation) -> Result<Running, String> {
    let config = format!("tmp/{name}.toml");
    let text = toml::to_string(&call.settings).map_err(|error| format!("the order has no config file: {error}"))?;
    let config_file = Temporary(state.path().join(&config));
    state.write(&config, text.as_bytes()).map_err(|error| error.to_string())?;
    let mut command = Command::new(OWN_PROGRAM);
    command.arg0("mover").arg("--config").arg(&config_file.0).args(&call.arguments);
    isolate(&mut command, state.path());
    command.envs(&call.environment).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Process::start(command).map_err(|error| format!("cannot start mover: {error}"))?;
    let (to, lines) = mpsc::channel(LINES);
    let output = process.take_output().ok_or("the child has no output")?;
    let listen = move || {
        for line in BufReader::new(output).lines() {
            let Ok(line) = line else { break };
            let Ok(value) = serde_json::from_str(&line) else { continue };
            if to.blocking_send(value).is_err() {
                break;
            }
        }
    };
    let thread = std::thread::Builder::new().name(format!("lines {name}")).spawn(listen);
    thread.map_err(|error| format!("cannot listen to mover: {error}"))?;
    let input = process.take_input();
    Ok(Running { process, input, lines, _config: config_file })
}

/// No setting of whoever started the agent reaches a job.
fn isolate(command: &mut Command, state: &Path) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MOVER_") {
            command.env_remove(&name);
        }
    }
    command.env("XDG_STATE_HOME", state.join("memory")).env("XDG_CACHE_HOME", state.join("cache"));
}

impl Running {
    /// Answers the question before the commit: one short line, which a pipe always takes.
    pub fn answer(&mut self, answer: &Result<(), String>) {
        let line = match answer {
            Ok(()) => "yes\n".to_owned(),
            Err(reason) => format!("{}\n", reason.replace(['\n', '\r'], " ").chars().take(1024).collect::<String>()),
        };
        if let Some(input) = &mut self.input {
            let _ = input.write_all(line.as_bytes());
        }
    }

    /// Asks it to stop cleanly.
    pub fn stop(&self) {
        self.process.stop();
    }

    /// Ends it at once.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Waits for its end.
    pub async fn wait(self) -> Ended {
        let Running { process, input, mut lines, _config } = self;
        drop(input);
        lines.close();
        let (status, stderr) = process.reap().await;
        Ended { code: status.and_then(|status| status.code()), stderr }
    }
}

/// What [`obey`] came back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Something else is wanted.
    News,
    /// It was asked to stop, and has not in time.
    Overdue,
}

/// Waits until something else is wanted than what was seen, or until what was asked to stop is overdue. What is wanted
/// stays wanted: a job that was cancelled and had to be killed was cancelled.
pub async fn obey(control: &mut watch::Receiver<Control>, seen: &mut Control, deadline: &mut Option<Instant>) -> Told {
    let overdue = async {
        match *deadline {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        changed = control.changed() => {
            // Who told is gone only when the agent ends.
            if changed.is_err() {
                std::future::pending::<()>().await;
            }
            see(control, seen, deadline);
            Told::News
        }
        () = overdue => {
            *deadline = None;
            Told::Overdue
        }
    }
}

/// Takes what is wanted now; from the first wish to stop there is one deadline for all that follows.
pub fn see(control: &mut watch::Receiver<Control>, seen: &mut Control, deadline: &mut Option<Instant>) {
    let told = control.borrow_and_update().clone();
    // A server may have said the same in an answer before.
    if told != Control::GoOn && !matches!(seen, Control::Lost(_)) {
        *seen = told;
    }
    if matches!(seen, Control::Stop(_) | Control::GiveBack) && deadline.is_none() {
        *deadline = Some(Instant::now() + STOP_GRACE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was said while nobody listened was forgotten, and the next child of the job ran to its end.
    #[test]
    fn stop_that_came_between_two_children_is_seen_and_has_one_deadline() {
        let (sender, mut control) = watch::channel(Control::GoOn);
        let (mut seen, mut deadline) = (Control::GoOn, None);
        see(&mut control, &mut seen, &mut deadline);
        assert_eq!((&seen, deadline), (&Control::GoOn, None));
        sender.send_replace(Control::Stop("by me".into()));
        see(&mut control, &mut seen, &mut deadline);
        assert_eq!(seen, Control::Stop("by me".into()));
        let first = deadline.expect("it must stop in time");
        sender.send_replace(Control::GiveBack);
        see(&mut control, &mut seen, &mut deadline);
        assert_eq!((&seen, deadline), (&Control::GiveBack, Some(first)), "one deadline for all");
        // What a grant said is not unsaid by the silence of heartbeats.
        sender.send_replace(Control::GoOn);
        seen = Control::Lost("stale".into());
        see(&mut control, &mut seen, &mut deadline);
        assert_eq!(seen, Control::Lost("stale".into()));
    }

    /// A child that had to be killed after a cancellation once made its job lost instead of cancelled.
    #[test]
    fn child_that_is_overdue_leaves_what_was_wanted() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let (_sender, mut control) = watch::channel(Control::Stop("by me".into()));
        let (mut seen, mut deadline) = (Control::GoOn, None);
        runtime.expect("a runtime").block_on(async {
            see(&mut control, &mut seen, &mut deadline);
            deadline = Some(Instant::now());
            assert_eq!(obey(&mut control, &mut seen, &mut deadline).await, Told::Overdue);
        });
        assert_eq!((seen, deadline), (Control::Stop("by me".into()), None));
    }
}
