//! The program that is measured: the released `mover`, in a temporary repository, through its command line and JSON.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::clock::{Spent, children_seconds};
use crate::ideal::Moved;
use crate::{Options, Result, during};

/// One repository and the binary that uses it.
pub struct Subject {
    program: PathBuf,
    repository: PathBuf,
    /// Opens the repository without the fixed cost of stretching a password, which no data can make smaller.
    key_file: PathBuf,
    memory: Option<String>,
    level: i32,
}

/// How one run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The time, CPU seconds of all its threads.
    pub spent: Spent,
    /// Its summary.
    pub summary: Value,
}

impl Subject {
    /// Initialises a repository at `repository`, which must not exist.
    pub fn create(options: &Options, repository: &Path) -> Result<Subject> {
        let program = match &options.mover {
            Some(program) => program.clone(),
            None => beside_this_program()?,
        };
        let key_file = repository.with_extension("key");
        let subject = Subject {
            key_file: key_file.clone(),
            program,
            repository: repository.to_owned(),
            memory: options.memory.clone(),
            level: options.level,
        };
        subject.run("init", &["--new-key-file".as_ref(), key_file.as_os_str()])?;
        Ok(subject)
    }

    /// `mover backup PATH`.
    pub fn backup(&self, path: &Path) -> Result<Outcome> {
        self.backup_with(path, &[])
    }

    /// `mover backup MORE PATH`.
    pub fn backup_with(&self, path: &Path, more: &[OsString]) -> Result<Outcome> {
        let level = self.level.to_string();
        let mut arguments: Vec<&OsStr> = vec!["--level".as_ref(), level.as_ref(), path.as_os_str()];
        arguments.extend(more.iter().map(OsString::as_os_str));
        self.run("backup", &arguments)
    }

    /// `mover restore latest --target TARGET`.
    pub fn restore(&self, target: &Path) -> Result<Outcome> {
        self.restore_with(target, &[])
    }

    /// `mover restore latest --target TARGET MORE`.
    pub fn restore_with(&self, target: &Path, more: &[OsString]) -> Result<Outcome> {
        let mut arguments: Vec<&OsStr> = vec!["latest".as_ref(), "--target".as_ref(), target.as_os_str()];
        arguments.extend(more.iter().map(OsString::as_os_str));
        self.run("restore", &arguments)
    }

    /// Starts `mover backup MORE PATH` and does not wait.
    pub fn start_backup(&self, path: &Path, more: &[&str]) -> Result<Child> {
        let mut arguments: Vec<&OsStr> = more.iter().map(OsStr::new).collect();
        arguments.push(path.as_os_str());
        let mut command = self.command("backup", &arguments);
        during("start a backup", command.stdout(Stdio::null()).stderr(Stdio::null()).spawn())
    }

    fn command(&self, subcommand: &str, arguments: &[&OsStr]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(subcommand).arg("-r").arg(&self.repository).arg("--json").args(arguments);
        if let Some(memory) = &self.memory {
            command.arg("--memory").arg(memory);
        }
        command.env_remove("MOVER_PASSWORD").env_remove("MOVER_PASSWORD_FILE").env_remove("MOVER_KEY_FILE");
        if subcommand != "init" {
            command.env("MOVER_KEY_FILE", &self.key_file);
        }
        command.env("XDG_STATE_HOME", self.repository.with_extension("state")).stdin(Stdio::null());
        command
    }

    /// `mover SUBCOMMAND ARGUMENTS` in the repository.
    pub fn run(&self, subcommand: &str, arguments: &[&OsStr]) -> Result<Outcome> {
        let mut command = self.command(subcommand, arguments);
        let (cpu, wall) = (children_seconds(), Instant::now());
        let output = during(format!("start {}", self.program.display()), command.output())?;
        let spent = Spent { cpu: children_seconds() - cpu, wall: wall.elapsed().as_secs_f64() };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("mover {subcommand} ended with {}: {said}", output.status));
        }
        let last = output.stdout.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).unwrap_or(b"{}");
        let summary = during(format!("read the summary of mover {subcommand}"), serde_json::from_slice(last))?;
        Ok(Outcome { spent, summary })
    }
}

/// The program that is measured where nobody names one.
pub fn beside_this_program() -> Result<PathBuf> {
    let own = during("find this program", std::env::current_exe())?;
    let program = own.with_file_name("mover");
    if program.is_file() {
        Ok(program)
    } else {
        Err(format!("{} is missing: run `cargo build --release -p mover`, or name it with --mover", program.display()))
    }
}

impl Outcome {
    /// A number of the summary, wherever in it.
    pub fn number(&self, name: &str) -> Option<u64> {
        find(&self.summary, name)?.as_u64()
    }

    /// Plain bytes of the frames that a backup compressed.
    fn compressed(&self) -> u64 {
        let levels = find(&self.summary, "levels").and_then(Value::as_array);
        let zstd = levels.into_iter().flatten().filter(|used| used["level"] != 0);
        zstd.filter_map(|used| used["plain_bytes"].as_u64()).sum()
    }

    /// What a backup moved.
    pub fn moved(&self) -> Result<Moved> {
        let number = |name: &str| self.number(name).ok_or_else(|| format!("no {name} in {}", self.summary));
        Ok(Moved {
            plain: number("bytes_read")?,
            new: number("bytes_new")?,
            stored: number("bytes_stored")?,
            compressed: self.compressed(),
            files: number("files")?,
        })
    }
}

fn find<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    let object = value.as_object()?;
    object.get(name).or_else(|| object.values().find_map(|inner| find(inner, name)))
}
