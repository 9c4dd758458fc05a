//! `mover serve` as a process.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{Client, Postgres, TestAgent};
use crate::{Mover, mover};

/// How long a signal may take to end it.
const STOP: Duration = Duration::from_secs(60);

/// A running server; killed when it is dropped.
pub struct Serve {
    child: Child,
    /// What it said when it began.
    pub started: Value,
    /// Its token; empty when an earlier start showed it.
    pub admin_token: String,
}

/// A port that is free now. Another process may take it: whoever starts a server on it tries again.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port").local_addr().expect("an address").port()
}

impl Serve {
    /// Starts one with these options; panics with what it said if it does not begin.
    pub fn start(data: &Path, more: &[&str]) -> Serve {
        let log = data.with_extension("log");
        let mut command = Serve::command(data, more);
        let errors = std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log");
        let mut child = command.stdout(Stdio::piped()).stderr(errors).spawn().expect("start the server");
        let mut lines = BufReader::new(child.stdout.take().expect("its output"));
        let mut line = String::new();
        let _ = lines.read_line(&mut line);
        let started: Value = serde_json::from_str(&line).unwrap_or_default();
        if started["type"] != "started" {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the server did not begin: {line}{}", std::fs::read_to_string(&log).unwrap_or_default());
        }
        // Its output is no terminal: the token is in a file.
        let file = started["admin_token_file"].as_str();
        let admin_token = file.map(|file| std::fs::read_to_string(file).expect("the token").trim().to_owned());
        let admin_token = admin_token.unwrap_or_default();
        Serve { child, started, admin_token }
    }

    /// The command, with `--json`, on a port of 127.0.0.1 unless `more` says otherwise.
    pub fn command(data: &Path, more: &[&str]) -> Command {
        // Hooks of tests listen on this machine.
        let mut arguments = vec!["serve", "--json", "--hooks-to-loopback", "--data", data.to_str().expect("a path")];
        if !more.contains(&"--lease") {
            // So that no test waits a minute until a silent agent's job goes elsewhere.
            arguments.extend(["--lease", "15"]);
        }
        if !more.contains(&"--listen") {
            arguments.extend(["--listen", "127.0.0.1:0"]);
        }
        arguments.extend(more);
        let mut command = Mover::command(&arguments);
        if let Some(url) = Postgres::for_server(data).filter(|_| !more.contains(&"--database")) {
            command.env("MOVER_DATABASE", url);
        }
        command.env("RUST_LOG", "info");
        command
    }

    fn text(&self, field: &str) -> String {
        self.started[field].as_str().unwrap_or_else(|| panic!("no {field} in {}", self.started)).to_owned()
    }

    /// Where people find it.
    pub fn url(&self) -> String {
        self.text("url")
    }

    /// Where agents find it.
    pub fn agents_url(&self) -> String {
        self.text("agents_url")
    }

    /// The certificate of its authority.
    pub fn authority_file(&self) -> PathBuf {
        PathBuf::from(self.text("authority_file"))
    }

    /// A client with this token; an empty one is none.
    pub fn client(&self, token: &str) -> Client {
        let authority = std::fs::read(self.authority_file()).expect("the authority");
        Client::new(&self.url(), &authority, None, token)
    }

    /// A client that may everything.
    pub fn admin(&self) -> Client {
        self.client(&self.admin_token)
    }

    /// A client with a new token of this role.
    pub fn with_role(&self, role: &str) -> Client {
        let made = self.admin().post("/api/v1/tokens", &serde_json::json!({ "name": role, "role": role }));
        self.client(made.expect(201).body["secret"].as_str().expect("a secret"))
    }

    /// An agent that has joined the pool `main`.
    pub fn agent(&self, name: &str) -> TestAgent {
        TestAgent::join(self, name)
    }

    /// The id of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it without a warning.
    pub fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Asks it to stop, as a service manager does: its exit code.
    pub fn stop(mut self) -> i32 {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
        let deadline = std::time::Instant::now() + STOP;
        while std::time::Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status.code().unwrap_or(-1);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the server did not stop");
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a server that must not begin: how it ended.
pub fn refused(data: &Path, more: &[&str]) -> crate::Run {
    mover::finish(Serve::command(data, more), None)
}
