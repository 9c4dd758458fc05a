//! `control`: many agents and many queued jobs against one control plane, on SQLite and on PostgreSQL.
//!
//! The control plane is that of `mover serve` below its HTTP: the same actors on a thread of their own, asked as the
//! handlers of the agents ask (who is it, heard, poll, beat, finish, wake). TLS and HTTP are not in the figures. Agents are tasks of
//! another thread, so their CPU is not charged to the server; that of the processes of PostgreSQL is. Three rounds on one database: *burst* (jobs take no time:
//! what the server can do), *paced* (jobs take a while: what an agent waits for), *beats* (what a heartbeat costs).
//!
//! It fails where a job did not run, or ran twice.

mod notes;
mod pool;
mod postgres;
mod round;
mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::{Result, during};
use mover_control::database::Database;
use mover_control::database::dialect::Dialect;
use round::{Figures, Round};

/// `mover-bench control`
#[derive(Args)]
pub struct Options {
    /// Agents, all in one pool
    #[arg(long, default_value_t = 1000)]
    agents: usize,
    /// Jobs that are queued before the agents begin, in each round
    #[arg(long, default_value_t = 10_000)]
    jobs: usize,
    /// Only on this PostgreSQL, an empty database; default: SQLite, then a PostgreSQL that is started for it
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// What a job takes in the paced round, in the middle; shorter is more load
    #[arg(long, default_value_t = 4.0)]
    job_seconds: f64,
    /// Where the databases go; default: the directory for temporary files
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Exit 1 where a database leases and ends fewer jobs a second in the burst
    #[arg(long, value_name = "RATE")]
    require: Option<f64>,
}

/// What came out on one database.
#[derive(Serialize)]
struct Outcome {
    database: &'static str,
    rounds: Vec<Figures>,
    bytes_per_job: f64,
    load_before: String,
    load_after: String,
}

/// Simulates; `false` where the rate is below what `--require` says.
pub fn run(options: &Options) -> Result<bool> {
    let scratch = match &options.scratch {
        Some(directory) => tempfile::tempdir_in(directory),
        None => tempfile::tempdir(),
    };
    let scratch = during("make a directory", scratch)?;
    let mut outcomes = Vec::new();
    if let Some(url) = &options.database {
        eprintln!("the CPU of a PostgreSQL that was there before is not in the figures");
        outcomes.push(simulate(options, "PostgreSQL", Place::Url(url.clone()), None)?);
    } else {
        outcomes.push(simulate(options, "SQLite", Place::Directory(scratch.path().join("sqlite")), None)?);
        match postgres::Postgres::start(scratch.path())? {
            Some(server) => {
                outcomes.push(simulate(options, "PostgreSQL", Place::Url(server.url.clone()), Some(&server))?);
            }
            None => eprintln!("PostgreSQL is not installed here; only SQLite was measured"),
        }
    }
    if options.json {
        println!("{}", serde_json::to_string(&outcomes).expect("plain data has a JSON form"));
    } else {
        outcomes.iter().for_each(tell);
        notes::tell(&outcomes);
    }
    let slowest = outcomes.iter().map(|outcome| outcome.rounds[0].jobs_per_second).fold(f64::MAX, f64::min);
    Ok(options.require.is_none_or(|least| slowest >= least))
}

/// Where the state is.
pub enum Place {
    Directory(PathBuf),
    Url(String),
}

impl Place {
    /// Opens it, as `mover serve` does.
    pub async fn open(&self) -> Result<Database> {
        let opened = match self {
            Place::Directory(directory) => Database::open_embedded(directory).await,
            Place::Url(url) => Database::open_postgres(url).await,
        };
        during("open the database", opened)
    }
}

fn simulate(
    options: &Options,
    name: &'static str,
    place: Place,
    beside: Option<&postgres::Postgres>,
) -> Result<Outcome> {
    let load_before = load();
    let server = server::Server::start(place)?;
    let runtime = during("start a runtime", tokio::runtime::Builder::new_current_thread().enable_all().build())?;
    let agents = runtime.block_on(pool::enrol(&server, options.agents))?;
    let empty = runtime.block_on(bytes(&server))?;
    let pace = Duration::from_secs_f64(options.job_seconds);
    let plans = [
        Round { name: "burst", jobs: options.jobs, duration: Duration::ZERO, beats: 0 },
        Round { name: "paced", jobs: options.jobs, duration: pace, beats: 1 },
        Round { name: "beats", jobs: options.agents, duration: Duration::ZERO, beats: 20 },
    ];
    let mut rounds = Vec::new();
    for plan in &plans {
        rounds.push(round::run(plan, &server, beside, &agents, &runtime)?);
    }
    let jobs: usize = plans.iter().map(|plan| plan.jobs).sum();
    let bytes_per_job = (runtime.block_on(bytes(&server))? - empty) / jobs as f64;
    server.stop();
    Ok(Outcome { database: name, rounds, bytes_per_job, load_before, load_after: load() })
}

/// What the database takes.
async fn bytes(server: &server::Server) -> Result<f64> {
    let sql = match server.database.dialect() {
        Dialect::Sqlite => "SELECT page_count * page_size AS n FROM pragma_page_count(), pragma_page_size()",
        Dialect::Postgres => "SELECT pg_database_size(current_database()) AS n",
    };
    let size = server.database.read(async |tx| tx.one(sql, &[]).await?.number("n")).await;
    Ok(during("measure the database", size)? as f64)
}

/// Processes that ran or waited for a core in the last minute: what disturbed, besides this.
fn load() -> String {
    let text = std::fs::read_to_string(Path::new("/proc/loadavg")).unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn tell(outcome: &Outcome) {
    println!("\n{} (load before {}, after {})", outcome.database, outcome.load_before, outcome.load_after);
    println!(
        "| round | jobs | seconds | lease + end a second | poll to lease p50 ms | p99 ms | end p99 ms | CPU ms a job | beats a second | CPU us a beat |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for figures in &outcome.rounds {
        println!("{}", figures.row());
    }
    println!("database: {:.0} bytes a job, its events with it", outcome.bytes_per_job);
}
