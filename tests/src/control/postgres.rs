//! A PostgreSQL server that a test starts, stops and starts again; on a socket of its own, as an unprivileged user.
//!
//! With `MOVER_TEST_CONTROL_ON=postgres` every `mover serve` of a test process has a database of its own on one such
//! server, instead of the embedded one. A shell that holds the other end of a pipe stops a server when this process is
//! gone, however it ends.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};

/// Who runs it when this is root, who may not.
const NOBODY: u32 = 65_534;

/// A server; stopped and removed when it is dropped.
pub struct Postgres {
    binaries: PathBuf,
    place: PathBuf,
    /// Its pipe stays open as long as this process lives.
    guard: Option<Child>,
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
        let mut server = Postgres { binaries, place, guard: None };
        let mut initialize = unprivileged(&server.binaries.join("initdb"));
        initialize.args(["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8"]);
        // A collation as users have it, where text does not order by its bytes.
        initialize.args(["--locale-provider=icu", "--icu-locale=en-US", "--pgdata"]);
        assert!(initialize.arg(server.data()).status().expect("initdb").success(), "initdb failed");
        server.resume();
        server.guard = Some(server.guarded());
        server
    }

    fn guarded(&self) -> Child {
        let stop = format!(
            "cat >/dev/null; {}/pg_ctl stop --mode immediate --pgdata {}; rm -rf {}",
            self.binaries.display(),
            self.data().display(),
            self.place.display()
        );
        let mut guard = unprivileged(Path::new("/bin/sh"));
        // A group of its own: a Ctrl-C at the terminal ends this process, then the guard does its work.
        guard.args(["-c", &stop]).process_group(0).stdin(Stdio::piped()).spawn().expect("a guard")
    }

    /// The database of the server whose data directory this is, or `None` where servers have the embedded one.
    pub fn for_server(data: &Path) -> Option<String> {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        static NAMES: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());
        if std::env::var("MOVER_TEST_CONTROL_ON").ok()? != "postgres" {
            return None;
        }
        let shared = SHARED.get_or_init(Postgres::start);
        let mut names = NAMES.lock().expect("no test panics in here");
        let fresh = format!("server_{}", names.len());
        let name = names.entry(data.to_owned()).or_insert_with(|| {
            let mut create = unprivileged(&shared.binaries.join("createdb"));
            create.args(["--username=postgres", "--host"]).arg(&shared.place).arg(&fresh);
            assert!(create.status().expect("createdb").success(), "createdb failed");
            fresh
        });
        Some(shared.url().replace("/postgres?", &format!("/{name}?")))
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
            "-c listen_addresses= -c unix_socket_directories={} -c fsync=off -c max_connections=300",
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
        if let Some(mut guard) = self.guard.take() {
            let _ = guard.kill();
            let _ = guard.wait();
        }
        let _ = self.control(&["stop", "--mode", "immediate"]);
        let _ = std::fs::remove_dir_all(&self.place);
    }
}
