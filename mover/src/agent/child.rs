//! One child of this binary: started with a config file of its own, listened to line by line, asked, stopped, killed.
//!
//! Memory: some lines of its output, the end of its standard error.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::invocation::Invocation;
use super::process::Process;
use super::state::StateDirectory;

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
    config: String,
}

/// Starts this binary; `name` tells its config file from others.
///
/// # Errors
/// The system refuses.
pub fn start(state: &StateDirectory, name: &str, call: &Invocation) -> Result<Running, String> {
    let config = format!("tmp/{name}.toml");
    let text = toml::to_string(&call.settings).map_err(|error| format!("the order has no config file: {error}"))?;
    state.write(&config, text.as_bytes()).map_err(|error| error.to_string())?;
    let program = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let mut command = Command::new(program);
    command.arg("--config").arg(state.path().join(&config)).args(&call.arguments);
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
    Ok(Running { process, input, lines, config })
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
    pub async fn wait(self, state: &StateDirectory) -> Ended {
        let Running { process, input, mut lines, config } = self;
        drop(input);
        lines.close();
        let (status, stderr) = process.reap().await;
        state.remove(&config);
        Ended { code: status.and_then(|status| status.code()), stderr }
    }
}

/// Waits until something else is wanted than what was seen, and does it to the child; a child that was asked to stop is
/// killed after a while.
pub async fn obey(
    control: &mut watch::Receiver<Control>,
    seen: &mut Control,
    deadline: &mut Option<tokio::time::Instant>,
) {
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
            *seen = control.borrow_and_update().clone();
            if matches!(seen, Control::Stop(_) | Control::GiveBack) && deadline.is_none() {
                *deadline = Some(tokio::time::Instant::now() + STOP_GRACE);
            }
        }
        () = overdue => {
            *deadline = None;
            *seen = Control::Lost("it did not stop in time".to_owned());
        }
    }
}
