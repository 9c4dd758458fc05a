//! A site for tests: a server on a port of its own, a repository, and agents as processes that know it by name.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mover_tests::control::serve::free_port;
use mover_tests::control::{Client, Serve};
use mover_tests::{Mover, Repo, exit, mover};
use serde_json::{Value, json};

/// No job of these tests takes so long; one that does hangs.
const HANGS_AFTER: Duration = Duration::from_secs(400);

/// See the module.
pub struct Site {
    /// The repository that agents know as `main`.
    pub repo: Repo,
    listen: String,
    options: Vec<String>,
    serve: RefCell<Option<Serve>>,
    token: String,
    authority: PathBuf,
}

impl Site {
    /// With a running server and an empty repository.
    pub fn new() -> Site {
        Site::with(&[])
    }

    /// The same, with more options of its server.
    pub fn with(more: &[&str]) -> Site {
        let repo = Repo::new();
        let listen = format!("127.0.0.1:{}", free_port());
        let options: Vec<String> =
            ["--listen", &listen].into_iter().chain(more.iter().copied()).map(str::to_owned).collect();
        let serve = start(&repo, &options);
        let (token, authority) = (serve.admin_token.clone(), serve.authority_file());
        Site { repo, listen, options, serve: RefCell::new(Some(serve)), token, authority }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("https://{}", self.listen)
    }

    /// Certificate of its authority.
    pub fn authority(&self) -> &Path {
        &self.authority
    }

    /// The server of now.
    pub fn admin(&self) -> Client {
        let authority = std::fs::read(&self.authority).expect("the authority");
        Client::new(&self.url(), &authority, None, &self.token)
    }

    /// Ends the server without a warning.
    pub fn kill_serve(&self) {
        if let Some(serve) = self.serve.borrow_mut().take() {
            serve.kill();
        }
    }

    /// Starts it again where it was.
    pub fn start_serve(&self) {
        *self.serve.borrow_mut() = Some(start(&self.repo, &self.options));
    }

    /// The same, this time with more options.
    pub fn start_serve_with(&self, more: &[&str]) {
        let options: Vec<String> =
            self.options.iter().cloned().chain(more.iter().map(|more| (*more).to_owned())).collect();
        *self.serve.borrow_mut() = Some(start(&self.repo, &options));
    }

    /// The token of its administrator.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A file with the admin token.
    pub fn token_file(&self) -> PathBuf {
        let file = self.repo.scratch().join("token");
        std::fs::write(&file, &self.token).expect("write the token");
        file
    }

    /// An agent of the pool `main` that is enrolled and runs; `more` are lines of its `agent.toml`.
    pub fn agent(&self, name: &str, more: &str) -> AgentProcess {
        self.agent_by(name, more, &self.url())
    }

    /// The same, by way of another address.
    pub fn agent_by(&self, name: &str, more: &str, url: &str) -> AgentProcess {
        self.agent_in(name, more, url, self.repo.directory(&format!("agent-{name}")))
    }

    /// The same, with its state in this directory.
    pub fn agent_in(&self, name: &str, more: &str, url: &str, state: PathBuf) -> AgentProcess {
        let made = self.admin().post("/api/v1/enrolments", &json!({ "pool": "main" })).expect(201);
        let config = self.repo.scratch().join(format!("agent-{name}.toml"));
        let (place, password) = (self.repo.place().display(), self.repo.password_file().display());
        let commands = if more.contains("commands =") { "" } else { "commands = ['/bin', '/usr/bin']\n" };
        let text = format!("{commands}{more}\n[repository.main]\nurl = '{place}'\npassword-file = '{password}'\n");
        std::fs::write(&config, text).expect("write agent.toml");
        let fingerprint = made.field("authority_sha256");
        let state_text = state.to_str().expect("a path");
        let token = made.field("token");
        let typed = ["agent", "enrol", "--server", url, "--token", &token, "--ca-fingerprint", &fingerprint];
        let typed: Vec<&str> = typed.into_iter().chain(["--name", name, "--state", state_text, "--json"]).collect();
        let mut enrol = Mover::command(&typed);
        enrol.arg("--config").arg(&config);
        let run = mover::finish(enrol, None).expect(exit::DONE);
        let id = run.summary().value()["agent"].as_str().expect("an id").to_owned();
        let mut agent = AgentProcess { child: None, id, state, config, program: None };
        agent.start();
        agent
    }

    /// Submits a job: its id.
    #[track_caller]
    pub fn submit(&self, job: &Value) -> String {
        self.admin().post("/api/v1/jobs", job).expect(201).field("id")
    }

    /// The job as the server has it.
    #[track_caller]
    pub fn job(&self, id: &str) -> Value {
        self.admin().get(&format!("/api/v1/jobs/{id}")).expect(200).body
    }

    /// Waits until the job is in one of these states: the job.
    #[track_caller]
    pub fn wait(&self, id: &str, states: &[&str]) -> Value {
        let began = Instant::now();
        loop {
            let job = self.job(id);
            let state = job["state"].as_str().expect("a state");
            if states.contains(&state) {
                return job;
            }
            assert!(began.elapsed() < HANGS_AFTER, "job {id} is {state} still: {job}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits for its end, and fails the test unless it completed.
    #[track_caller]
    pub fn completed(&self, id: &str) -> Value {
        let ends = ["completed", "completed_with_errors", "failed", "aborted", "cancelled", "skipped", "expired"];
        let job = self.wait(id, &ends);
        assert_eq!(job["state"], "completed", "{job}");
        job
    }

    /// Ids of all recovery points in the repository.
    pub fn points(&self) -> Vec<String> {
        let run = self.repo.run("points", &["--json"]).expect(exit::DONE);
        let lines = run.text();
        let points = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        points
            .filter(|line| line["type"] == "point")
            .filter_map(|line| line["id"].as_str().map(str::to_owned))
            .collect()
    }
}

fn start(repo: &Repo, options: &[String]) -> Serve {
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    Serve::start(&repo.scratch().join("serve"), &options)
}

/// Waits until `is_so`, or fails the test.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < HANGS_AFTER, "it never came about: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `mover agent run` as a process; killed when it is dropped.
pub struct AgentProcess {
    child: Option<Child>,
    /// Its id.
    pub id: String,
    /// Its directory.
    pub state: PathBuf,
    config: PathBuf,
    /// Another file than the binary under test that it is started from.
    pub program: Option<PathBuf>,
}

impl AgentProcess {
    /// Starts it, again.
    pub fn start(&mut self) {
        let command = match &self.program {
            Some(program) => Command::new(program),
            None => Mover::command::<&str>(&[]),
        };
        self.start_by(command);
    }

    /// Starts it where the kernel names another boot, as after a restart of the host. Needs root.
    pub fn start_after_a_restart_of_its_host(&mut self) {
        let boot = self.state.with_extension("boot");
        std::fs::write(&boot, "0b6f3fd2-6a51-4d0e-9c58-3f9f5d1f7a10\n").expect("write");
        let program = Mover::command::<&str>(&[]);
        let mut command = Command::new("unshare");
        let script = format!("mount --bind {} /proc/sys/kernel/random/boot_id && exec \"$0\" \"$@\"", boot.display());
        command.args(["--mount", "sh", "-c", &script]).arg(program.get_program());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        self.start_by(command);
    }

    fn start_by(&mut self, mut command: Command) {
        let arguments = ["agent", "run", "--state", self.state.to_str().expect("a path")];
        command.args(arguments).stdin(Stdio::null());
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file()).expect("a log");
        command.arg("--config").arg(&self.config).env("RUST_LOG", "info").stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("start the agent"));
    }

    /// Starts it anew with another password for the repository.
    pub fn use_password(&mut self, file: &Path) {
        self.kill();
        let text = std::fs::read_to_string(&self.config).expect("read agent.toml");
        let kept = text.lines().filter(|line| !line.starts_with("password-file"));
        let text =
            kept.chain([format!("password-file = '{}'", file.display()).as_str()]).collect::<Vec<_>>().join("\n");
        std::fs::write(&self.config, text).expect("write agent.toml");
        self.start();
    }

    fn log_file(&self) -> PathBuf {
        self.state.with_extension("log")
    }

    /// What it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Its process.
    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(self.child.as_ref().expect("it runs"))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("a signal");
    }

    /// The processes that it has started and that run.
    pub fn children(&self) -> Vec<i32> {
        let pid = self.pid().as_raw_nonzero();
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    }

    /// Sends what it has started a signal.
    pub fn signal_children(&self, signal: rustix::process::Signal) {
        for child in self.children().into_iter().filter_map(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(child, signal);
        }
    }

    /// Ends it without a warning.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether it has ended by itself: its exit code.
    pub fn ended(&mut self) -> Option<i32> {
        self.child.as_mut()?.try_wait().expect("wait").map(|status| status.code().unwrap_or(-1))
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A backup of `source` by any agent of the pool.
pub fn backup_of(source: &Path, set: &str) -> Value {
    json!({
        "kind": "backup", "workload": "database", "set": set, "source": set, "repository": "main",
        "place": { "pool": { "pool": "main", "reach": null, "preferred": null } },
        "order": { "filesets": [{ "name": "all", "paths": [source] }], "retry_pause_seconds": 1 },
    })
}

/// A restore of the newest point of `set` into `target`.
pub fn restore_to(target: &Path, set: &str) -> Value {
    json!({
        "kind": "restore", "workload": "database", "set": set, "source": set, "repository": "main",
        "place": { "pool": { "pool": "main", "reach": null, "preferred": null } },
        "order": { "restore": { "point": "latest", "target": target, "verify": true }, "retry_pause_seconds": 1 },
    })
}

/// Random bytes in `files` files of one size below a new directory.
pub fn tree(repo: &Repo, name: &str, files: usize, bytes: usize) -> PathBuf {
    let directory = repo.directory(name);
    for number in 0..files {
        let mut content = vec![0; bytes];
        std::fs::File::open("/dev/urandom").expect("random").read_exact(&mut content).expect("random bytes");
        std::fs::write(directory.join(format!("file-{number}")), content).expect("write");
    }
    directory
}

/// A relay that counts what passes.
pub struct Relay {
    /// Where it listens.
    pub url: String,
    bytes: Arc<AtomicU64>,
}

impl Relay {
    /// To the server at `to`, `HOST:PORT`.
    pub fn start(to: &str) -> Relay {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let bytes = Arc::new(AtomicU64::new(0));
        let (counted, to) = (Arc::clone(&bytes), to.to_owned());
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(&to) else { continue };
                let pairs = [(near.try_clone(), far.try_clone()), (far.try_clone(), near.try_clone())];
                for (from, to) in pairs {
                    let counted = Arc::clone(&counted);
                    let (Ok(from), Ok(to)) = (from, to) else { continue };
                    std::thread::spawn(move || pass(from, to, &counted));
                }
            }
        });
        Relay { url, bytes }
    }

    /// Bytes that have passed, both ways.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, counted: &AtomicU64) {
    let mut part = vec![0; 64 << 10];
    while let Ok(bytes @ 1..) = from.read(&mut part) {
        counted.fetch_add(bytes as u64, Ordering::Relaxed);
        if to.write_all(&part[..bytes]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}
