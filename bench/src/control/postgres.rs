//! A PostgreSQL of its own, with its syncs as it is delivered, removed with this value.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::process;
use crate::{Result, during};

/// Who runs the server when this is root, who may not.
const NOBODY: u32 = 65_534;

/// A running server.
pub struct Postgres {
    /// Of an empty database.
    pub url: String,
    bin: PathBuf,
    data: PathBuf,
    /// Where nobody may enter; the scratch directory is of this user alone.
    _place: tempfile::TempDir,
}

impl Postgres {
    /// Starts one, or tells that there is none.
    pub fn start(scratch: &Path) -> Result<Option<Postgres>> {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let found = versions.map(|version| version.path().join("bin")).filter(|bin| bin.join("initdb").is_file());
        let Some(bin) = found.max() else { return Ok(None) };
        let beside = scratch.parent().unwrap_or(scratch);
        let place = tempfile::Builder::new().prefix("mover-bench-postgres").tempdir_in(beside);
        let place = during("make a directory", place)?;
        if rustix::process::geteuid().is_root() {
            during("give the directory away", std::os::unix::fs::chown(place.path(), Some(NOBODY), Some(NOBODY)))?;
        }
        let data = place.path().join("data");
        run(unprivileged(&bin.join("initdb")).args(["--auth=trust", "--username=postgres", "--pgdata"]).arg(&data))?;
        let options = format!("-c listen_addresses= -c unix_socket_directories={}", place.path().display());
        let mut start = unprivileged(&bin.join("pg_ctl"));
        start.args(["start", "--wait", "--options", &options, "--log"]).arg(place.path().join("log"));
        run(start.arg("--pgdata").arg(&data))?;
        let host = place.path().display().to_string().replace('/', "%2F");
        let url = format!("postgres://postgres@localhost/postgres?host={host}");
        Ok(Some(Postgres { url, bin, data, _place: place }))
    }
}

impl Postgres {
    /// CPU seconds of all its processes so far.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let file =
            during("find the processes of PostgreSQL", std::fs::read_to_string(self.data.join("postmaster.pid")))?;
        let main: u32 = during("find the processes of PostgreSQL", file.lines().next().unwrap_or_default().parse())?;
        process::cpu_seconds(main)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut stop = unprivileged(&self.bin.join("pg_ctl"));
        let _ = run(stop.args(["stop", "--mode", "immediate", "--pgdata"]).arg(&self.data));
    }
}

fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    command
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = during(format!("start {program}"), command.status())?;
    if status.success() { Ok(()) } else { Err(format!("{program} ended with {status}")) }
}
