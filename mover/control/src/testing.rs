//! For tests: each behaviour on SQLite and on a real PostgreSQL, agents and jobs made in a line.
//!
//! The server is the one of `MOVER_TEST_POSTGRES` (an address whose user may create databases), else one that is started
//! here once a process: as an unprivileged user, on a socket of its own. A shell that holds the other end of a pipe
//! stops it when this process is gone, however it ends. Where there is no PostgreSQL the test counts as skipped.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use actix::Addr;

use crate::agents::{Description, enrolment};
use crate::database::Database;
use crate::error::Result;
use crate::ids::{AgentId, JobId, UnixMillis};
use crate::job::{Job, JobKind, JobOrder, NewJob, Origin, Place, Workload, admission};
use crate::lease::take::{Lease, Offer};
use crate::placement::away::AwayTable;
use crate::service::queue::{Poll, Queue};

/// A time to begin at: 2026-03-02, a Monday, noon UTC.
pub const NOON: UnixMillis = UnixMillis(1_772_452_800_000);
/// Who runs the server when this is root, who may not.
const NOBODY: u32 = 65_534;

/// Runs `test` on an empty database of each kind.
pub fn each_database(test: impl AsyncFn(Database)) {
    run(async {
        let directory = tempfile::tempdir().expect("a directory");
        let database = Database::open_embedded(directory.path()).await.expect("an embedded database");
        test(database.clone()).await;
        database.close().await;
    });
    let Some(server) = postgres() else {
        let thread = std::thread::current();
        skipped(thread.name().unwrap_or("a test"), "needs postgresql");
        return;
    };
    run(async {
        let url = fresh_postgres(server).await;
        let database = Database::open_postgres(&url).await.expect("a PostgreSQL database");
        test(database.clone()).await;
        database.close().await;
    });
}

/// Runs a future to its end on a thread of its own kind, as actors have it.
pub fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, future);
}

/// As the suites record it: never silently.
pub fn skipped(test: &str, reason: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "in CI nothing may be skipped: {test}: {reason}");
    let Some(record) = std::env::var_os("MOVER_TEST_SKIPPED") else { return };
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(record).expect("open the skip record");
    writeln!(file, "{test}: {reason}").expect("write the skip record");
}

/// The address of an empty database on the server.
pub async fn fresh_postgres(server: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("mover_{}_{number}", std::process::id());
    sqlx::any::install_default_drivers();
    let mut connection = <sqlx::AnyConnection as sqlx::Connection>::connect(server).await.expect("the server");
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::raw_sql(create).execute(&mut connection).await.expect("a database");
    match server.split_once('?') {
        Some((place, options)) => format!("{}/{name}?{options}", place.trim_end_matches("/postgres")),
        None => format!("{}/{name}", server.trim_end_matches("/postgres")),
    }
}

/// The address of the server, or `None` where there is none.
pub fn postgres() -> Option<&'static str> {
    static SERVER: OnceLock<Option<String>> = OnceLock::new();
    let server = SERVER.get_or_init(|| std::env::var("MOVER_TEST_POSTGRES").ok().or_else(start_postgres));
    server.as_deref()
}

fn binaries() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let found = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    found.filter(|bin| bin.join("initdb").is_file()).max()
}

fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new(program);
    if std::fs::metadata("/proc/self").map(|itself| std::os::unix::fs::MetadataExt::uid(&itself)).ok() == Some(0) {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    command
}

fn start_postgres() -> Option<String> {
    let server = OwnPostgres::start()?;
    Some(server.url())
}

/// A PostgreSQL that is started here, and stopped when this process is gone.
pub struct OwnPostgres {
    bin: PathBuf,
    place: PathBuf,
}

impl OwnPostgres {
    /// Starts one, or tells that there is none.
    pub fn start() -> Option<OwnPostgres> {
        let bin = binaries()?;
        let place = tempfile::Builder::new().prefix("mover-pg").tempdir().expect("a directory").keep();
        let made = Command::new("chown").arg(format!("{NOBODY}:{NOBODY}")).arg(&place).status();
        made.expect("chown");
        let server = OwnPostgres { bin, place };
        let mut initialize = unprivileged(&server.bin.join("initdb"));
        initialize.args(["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8"]);
        // A collation as users have it, where text does not order by its bytes.
        initialize.args(["--locale-provider=icu", "--icu-locale=en-US", "--pgdata"]);
        assert!(initialize.arg(server.data()).status().expect("initdb").success(), "initdb failed");
        server.come();
        // Reads until this process is gone.
        let stop = format!(
            "cat >/dev/null; {}/pg_ctl stop --mode immediate --pgdata {}; rm -rf {}",
            server.bin.display(),
            server.data().display(),
            server.place.display()
        );
        let mut guard = unprivileged(Path::new("/bin/sh"));
        // A group of its own: a Ctrl-C at the terminal ends this process, then the guard does its work.
        let guard = guard.args(["-c", &stop]).process_group(0).stdin(Stdio::piped()).spawn().expect("a guard");
        // Its pipe stays open as long as this process lives.
        std::mem::forget(guard);
        Some(server)
    }

    /// Its address.
    pub fn url(&self) -> String {
        let host = self.place.display().to_string().replace('/', "%2F");
        format!("postgres://postgres@localhost/postgres?host={host}")
    }

    fn data(&self) -> PathBuf {
        self.place.join("data")
    }

    /// It is there, again.
    pub fn come(&self) {
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={} -c fsync=off -c max_connections=300 -c autovacuum=on",
            self.place.display()
        );
        let mut start = unprivileged(&self.bin.join("pg_ctl"));
        start.args(["start", "--wait", "--options", &options, "--log"]).arg(self.place.join("log"));
        assert!(start.arg("--pgdata").arg(self.data()).status().expect("pg_ctl").success(), "it did not start");
    }

    /// It goes away, as if its machine had lost power.
    pub fn go(&self) {
        let mut stop = unprivileged(&self.bin.join("pg_ctl"));
        stop.args(["stop", "--mode", "immediate", "--pgdata"]).arg(self.data());
        assert!(stop.status().expect("pg_ctl").success(), "it did not stop");
    }
}

/// An agent `name` of the pool `main` that reaches these, heard at `now`.
pub async fn agent(database: &Database, name: &str, reaches: &[&str], now: UnixMillis) -> AgentId {
    let description = Description {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cores: 8,
        memory_bytes: 16 << 30,
        tags: Vec::new(),
        reaches: reaches.iter().map(|reach| (*reach).to_owned()).collect(),
        instance: "first".to_owned(),
    };
    let life = std::time::Duration::from_secs(600);
    let token = enrolment::create(database, "main", life, "admin", now).await.expect("a token");
    let id = AgentId::from(name);
    let print = format!("print {name}");
    let enrolled = enrolment::enrol(database, token.reveal(), &id, name, &description, &print, now);
    enrolled.await.expect("an agent").id
}

/// A backup of the set `set` that any agent of the pool `main` can do.
pub fn backup(set: &str, now: UnixMillis) -> NewJob {
    NewJob {
        id: JobId::new(now),
        kind: JobKind::Backup,
        workload: Workload::VirtualMachine,
        origin: Origin::OnDemand,
        policy: None,
        set: set.to_owned(),
        source: format!("source of {set}"),
        repository: "repository".to_owned(),
        place: Place::Pool { pool: "main".to_owned(), reach: None, preferred: None },
        priority: 0,
        share: None,
        weight: 1,
        not_before: None,
        expires_at: None,
        source_limit: None,
        repository_limit: None,
        requested_by: "somebody".to_owned(),
        wait: false,
        order: JobOrder::default(),
    }
}

/// A backup of the own files of `agent`.
pub fn backup_of_host(agent: &AgentId, now: UnixMillis) -> NewJob {
    let place = Place::Host { agent: agent.clone() };
    NewJob { workload: Workload::FileServer, place, ..backup("files", now) }
}

/// Lets it in by the default table.
pub async fn submit(database: &Database, new: NewJob, now: UnixMillis) -> Job {
    admission::submit(database, new, &AwayTable::default(), now).await.expect("a job")
}

/// Asks a queue for work, at once; the answer is waited for as long as it says.
pub fn poll(queue: &Addr<Queue>, offer: Offer, wait: Duration) -> impl Future<Output = Result<Vec<Lease>>> + use<> {
    let (poll, asker) = Poll::new(offer, wait);
    let request = queue.send(poll);
    async move {
        let answer = request.await.expect("the queue lives");
        drop(asker);
        answer
    }
}
