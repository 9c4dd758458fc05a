//! Starts the released binary and remembers what it said.
//!
//! The binary is `MOVER_BIN`, or `target/release/mover` of this workspace; `tests/run` builds it. A [`Repo`] is a
//! temporary repository with its password file; everything it owns is gone when it is dropped.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::Summary;

/// The exit codes of DESIGN "The command line".
pub mod exit {
    /// Done.
    pub const DONE: i32 = 0;
    /// Failed.
    pub const FAILED: i32 = 1;
    /// Wrong usage.
    pub const USAGE: i32 = 2;
    /// Done, with exceptions, each listed.
    pub const EXCEPTIONS: i32 = 3;
    /// No repository there.
    pub const NO_REPOSITORY: i32 = 10;
    /// Wrong password or key.
    pub const WRONG_KEY: i32 = 12;
    /// An agent that was revoked.
    pub const REVOKED: i32 = 13;
    /// Interrupted, work kept.
    pub const INTERRUPTED: i32 = 130;
}

/// How one run of the binary ended.
#[derive(Debug)]
pub struct Run {
    /// The exit code; 128 + signal where a signal ended it.
    pub code: i32,
    /// Standard output, as bytes because `dump` prints content.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
    line: String,
}

impl Run {
    /// Fails the test unless the run ended with `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Run {
        assert!(!self.panicked(), "{self}");
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// Fails the test unless the run ended with an error that names `object` and is no panic.
    #[track_caller]
    pub fn expect_error(self, code: i32, object: &str) -> Run {
        let run = self.expect(code);
        assert!(run.stderr.contains(object), "the error does not name {object:?}: {run}");
        run
    }

    /// Whether a Rust panic shows in what it said.
    pub fn panicked(&self) -> bool {
        self.stderr.contains("panicked at") || self.code == 101 || self.code == 128 + 6
    }

    /// The summary, which is the last line of `--json`.
    #[track_caller]
    pub fn summary(&self) -> Summary {
        Summary::parse(&self.stdout)
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stdout = String::from_utf8_lossy(&self.stdout[..self.stdout.len().min(2000)]);
        write!(formatter, "{}\nexit {}\nstdout: {stdout}\nstderr: {}", self.line, self.code, self.stderr)
    }
}

/// The binary under test.
pub struct Mover;

impl Mover {
    /// Where the binary is; fails the test with the command to build it where it is not.
    pub fn program() -> PathBuf {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/mover");
        let program = std::env::var_os("MOVER_BIN").map_or(built, PathBuf::from);
        assert!(program.is_file(), "{} is missing: run `cargo build --release`", program.display());
        program
    }

    /// A command with none of the settings of the person who runs the tests.
    pub fn command<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
        Mover::bare(Command::new(Mover::program()), arguments)
    }

    /// A line as a person pastes it into a shell, where `mover` is the binary under test.
    pub fn shell(line: &str) -> Command {
        let mut command = Mover::bare(Command::new("sh"), &["-c", line]);
        let own = Mover::program().canonicalize().expect("the binary");
        let directories = std::env::var_os("PATH").unwrap_or_default();
        let own = own.parent().expect("a directory").to_owned();
        let path = std::iter::once(own).chain(std::env::split_paths(&directories));
        command.env("PATH", std::env::join_paths(path).expect("a PATH"));
        command
    }

    fn bare<S: AsRef<OsStr>>(mut command: Command, arguments: &[S]) -> Command {
        command.args(arguments).stdin(Stdio::null());
        for name in ["MOVER_REPO", "MOVER_PASSWORD", "MOVER_PASSWORD_FILE", "MOVER_KEY_FILE", "RUST_LOG"] {
            command.env_remove(name);
        }
        for name in
            ["SERVER", "CA", "CA_FINGERPRINT", "TOKEN_FILE", "ENROL_TOKEN", "DATABASE", "MAIL", "MAIL_FROM", "NAMES"]
        {
            command.env_remove(format!("MOVER_{name}"));
        }
        for word in ["TO", "LIKE"] {
            for what in ["PASSWORD", "PASSWORD_FILE", "KEY_FILE"] {
                command.env_remove(format!("MOVER_{word}_{what}"));
            }
        }
        // Credentials and proxies of that person would reach a store that no test means.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let is_way = text.to_ascii_uppercase().ends_with("_PROXY") || text.starts_with("SSL_CERT_");
            if is_way || ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|vendor| text.starts_with(vendor)) {
                command.env_remove(&name);
            }
        }
        command.env("RUST_BACKTRACE", "0");
        command
    }

    /// Runs the binary to its end.
    pub fn run<S: AsRef<OsStr>>(arguments: &[S]) -> Run {
        finish(Mover::command(arguments), None)
    }
}

/// Runs `command` to its end, with `input` on standard input.
pub fn finish(mut command: Command, input: Option<&[u8]>) -> Run {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let line = format!("{command:?}");
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {line}: {error}"));
    let feeder = input.map(|bytes| feed(&mut child, bytes.to_vec()));
    let run = wait(child, line);
    if let Some(thread) = feeder {
        thread.join().expect("the feeder ended");
    }
    run
}

/// No run takes so long; one that does hangs. A guard against waiting for ever, not a measurement.
const HANGS_AFTER: Duration = Duration::from_secs(600);

/// Waits for a child whose outputs are pipes. Kills it, and fails the test, if it hangs.
pub fn wait(child: Child, line: String) -> Run {
    let process = rustix::process::Pid::from_child(&child);
    let (ended, has_ended) = mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        let hangs = has_ended.recv_timeout(HANGS_AFTER) == Err(mpsc::RecvTimeoutError::Timeout);
        if hangs {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
        hangs
    });
    let output = child.wait_with_output().expect("wait for the binary");
    let _ = ended.send(());
    assert!(!guard.join().expect("the guard ended"), "it hung and was killed: {line}");
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    let code = output.status.code().unwrap_or_else(|| 128 + signal.expect("a code or a signal"));
    Run { code, stdout: output.stdout, stderr: String::from_utf8_lossy(&output.stderr).into_owned(), line }
}

/// A child may close its input early (that is a case to test), so a broken pipe is no failure here.
fn feed(child: &mut Child, bytes: Vec<u8>) -> std::thread::JoinHandle<()> {
    let mut stdin = child.stdin.take().expect("standard input is a pipe");
    std::thread::spawn(move || {
        let _ = stdin.write_all(&bytes);
    })
}

/// A temporary directory with a repository, its password file and room for sources and targets.
pub struct Repo {
    scratch: tempfile::TempDir,
    place: PathBuf,
    password_file: PathBuf,
    environment: Vec<(String, String)>,
}

impl Repo {
    /// A new repository, made by `mover init`.
    pub fn new() -> Repo {
        let repo = Repo::without_init();
        repo.run("init", &[] as &[&str]).expect(exit::DONE);
        repo
    }

    /// The directories and the password only.
    pub fn without_init() -> Repo {
        let scratch = scratch();
        let place = scratch.path().join("repository");
        Repo::at(scratch, place)
    }

    /// A repository on a place of its own (a small file system, say), not initialised.
    pub fn at(scratch: tempfile::TempDir, place: PathBuf) -> Repo {
        let password_file = scratch.path().join("password");
        std::fs::write(&password_file, "correct horse battery staple").expect("write the password file");
        Repo { scratch, place, password_file, environment: Vec::new() }
    }

    /// A repository in an object store that this environment reaches, not initialised.
    pub fn in_store(url: &str, environment: Vec<(String, String)>) -> Repo {
        Repo { environment, ..Repo::at(scratch(), PathBuf::from(url)) }
    }

    /// Reaches the same place by another environment from now on.
    pub fn set_environment(&mut self, environment: Vec<(String, String)>) {
        self.environment = environment;
    }

    /// The directory that holds everything of this fixture.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The repository's own directory.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// The file with the password.
    pub fn password_file(&self) -> &Path {
        &self.password_file
    }

    /// A fresh directory inside the fixture.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.scratch.path().join(name);
        std::fs::create_dir_all(&path).expect("create a directory of the fixture");
        path
    }

    /// `mover SUBCOMMAND -r REPO ARGUMENTS`, not started yet.
    pub fn command<S: AsRef<OsStr>>(&self, subcommand: &str, arguments: &[S]) -> Command {
        let mut all: Vec<OsString> = vec![subcommand.into(), "-r".into(), self.place.clone().into_os_string()];
        all.extend(arguments.iter().map(|argument| argument.as_ref().to_owned()));
        let mut command = Mover::command(&all);
        command.env("MOVER_PASSWORD_FILE", &self.password_file).current_dir(self.scratch.path());
        // What this client remembers of the history it saw; deleting a record must be noticed without it too.
        command.env("XDG_STATE_HOME", self.scratch.path().join("state"));
        // Neither the cache nor the credentials of the person who runs the tests.
        command.env("XDG_CACHE_HOME", self.scratch.path().join("cache")).env("HOME", self.scratch.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a subcommand to its end.
    pub fn run<S: AsRef<OsStr>>(&self, subcommand: &str, arguments: &[S]) -> Run {
        finish(self.command(subcommand, arguments), None)
    }

    /// Backs `path` up with `--json` and further arguments; must end with 0.
    #[track_caller]
    pub fn backup_with(&self, path: &Path, more: &[&str]) -> Summary {
        let mut arguments: Vec<&OsStr> = vec![OsStr::new("--json")];
        arguments.extend(more.iter().map(OsStr::new));
        arguments.push(path.as_os_str());
        self.run("backup", &arguments).expect(exit::DONE).summary()
    }

    /// Backs `path` up; must end with 0.
    #[track_caller]
    pub fn backup(&self, path: &Path) -> Summary {
        self.backup_with(path, &[])
    }

    /// Restores `point` into a fresh target; must end with 0. Gives the place where `source` landed.
    #[track_caller]
    pub fn restore(&self, point: &str, source: &Path, target_name: &str) -> PathBuf {
        let target = self.directory(target_name);
        self.restore_run(point, &target, &[]).expect(exit::DONE);
        landed(&target, source)
    }

    /// Runs `mover restore POINT --target TARGET --json` with further arguments.
    pub fn restore_run(&self, point: &str, target: &Path, more: &[&OsStr]) -> Run {
        let mut arguments: Vec<&OsStr> = vec![OsStr::new("--json"), OsStr::new(point), OsStr::new("--target")];
        arguments.push(target.as_os_str());
        arguments.extend_from_slice(more);
        self.run("restore", &arguments)
    }

    /// Runs `mover verify` over all data; must end with 0.
    #[track_caller]
    pub fn verify_all(&self) {
        self.run("verify", &["--data", "all"]).expect(exit::DONE);
    }

    /// All objects of the repository: path below the repository and size, sorted.
    pub fn objects(&self) -> Vec<(PathBuf, u64)> {
        crate::tree::files_below(&self.place)
    }
}

impl Default for Repo {
    fn default() -> Repo {
        Repo::new()
    }
}

/// A temporary directory on the file system of `TMPDIR`.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("mover-test-").tempdir().expect("create a temporary directory")
}

/// Where content of `source`, an absolute path, lands below `target`.
pub fn landed(target: &Path, source: &Path) -> PathBuf {
    let real = source.canonicalize().unwrap_or_else(|_| source.to_owned());
    target.join(real.strip_prefix("/").expect("an absolute source"))
}
