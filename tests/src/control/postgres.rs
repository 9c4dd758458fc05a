//! A PostgreSQL server that a test starts, stops and starts again; on a socket of its own, as an unprivileged user.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Who runs it when this is root, who may not.
const NOBODY: u32 = 65_534;

/// A server; stopped and removed when it is dropped.
pub struct Postgres {
    binaries: PathBuf,
    place: PathBuf,
}

fn binaries() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let found = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    found.filter(|bin| bin.join("initdb").is_file()).max()
}

fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new(program);
    if crate::skip::is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    command
}

impl Postgres {
    /// Why there is none here, or `None`.
    pub fn missing() -> Option<String> {
        binaries().is_none().then(|| "needs postgresql".to_owned())
    }

    /// Starts one; panics where that fails.
    pub fn start() -> Postgres {
        let binaries = binaries().expect("a test asks Postgres::missing() first");
        let place = tempfile::Builder::new().prefix("mover-pg").tempdir().expect("a directory").keep();
        if crate::skip::is_root() {
            std::os::unix::fs::chown(&place, Some(NOBODY), Some(NOBODY)).expect("chown");
        }
        let server = Postgres { binaries, place };
        let mut initialize = unprivileged(&server.binaries.join("initdb"));
        initialize.args(["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8"]);
        // A collation as users have it, where text does not order by its bytes.
        initialize.args(["--locale-provider=icu", "--icu-locale=en-US", "--pgdata"]);
        assert!(initialize.arg(server.data()).status().expect("initdb").success(), "initdb failed");
        server.resume();
        server
    }

    fn data(&self) -> PathBuf {
        self.place.join("data")
    }

    fn control(&self, arguments: &[&str]) -> bool {
        let mut command = unprivileged(&self.binaries.join("pg_ctl"));
        command.args(arguments).arg("--pgdata").arg(self.data()).arg("--log").arg(self.place.join("log"));
        command.status().expect("pg_ctl").success()
    }

    /// Starts it again.
    pub fn resume(&self) {
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={} -c fsync=off -c max_connections=100",
            self.place.display()
        );
        assert!(self.control(&["start", "--wait", "--options", &options]), "PostgreSQL did not start");
    }

    /// Stops it as a crash would.
    pub fn interrupt(&self) {
        assert!(self.control(&["stop", "--mode", "immediate"]), "PostgreSQL did not stop");
    }

    /// Its address, for `--database`.
    pub fn url(&self) -> String {
        format!("postgres://postgres@localhost/postgres?host={}", self.place.display().to_string().replace('/', "%2F"))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.control(&["stop", "--mode", "immediate"]);
        let _ = std::fs::remove_dir_all(&self.place);
    }
}
