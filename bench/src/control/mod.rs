//! `control`: many agents and many queued jobs against one control plane, on SQLite and on PostgreSQL.
//!
//! Measured twice on each database. *Core*: the actors of `mover serve` on a thread of their own, asked as the handlers of
//! the agents ask (who is it, heard, poll, beat, finish, wake); without HTTP and TLS. *HTTPS*: the program itself, `mover
//! serve`, and each agent with a connection of its own by mutual TLS. Agents are tasks of one thread of this process, which
//! in the second case takes its share of the same cores; their CPU is not charged to the control plane, that of the
//! processes of PostgreSQL is. Three rounds on one database: *burst* (jobs take no time: what the server can do), *paced*
//! (jobs take a while: what an agent waits for), *beats* (what a heartbeat costs).
//!
//! It fails where a job did not run, or ran twice. `bench/control.md` has figures.

mod core;
mod notes;
mod plane;
mod postgres;
mod process;
mod round;
mod served;
mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::{Result, during};
use mover_control::database::Database;
use plane::Plane;
use postgres::Postgres;
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
    /// The program whose `serve` is measured; default: `mover` beside this one
    #[arg(long, value_name = "FILE")]
    mover: Option<PathBuf>,
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
    /// `core` or `HTTPS`.
    way: &'static str,
    rounds: Vec<Figures>,
    /// Below HTTP: what the database grew by.
    bytes_per_job: Option<f64>,
    /// By HTTPS: what the server grew by, KiB of resident memory.
    kib_per_agent: Option<f64>,
    load_before: String,
    load_after: String,
}

/// Simulates; `false` where the rate is below what `--require` says.
pub fn run(options: &Options) -> Result<bool> {
    let program = options.mover.clone().map_or_else(crate::subject::beside_this_program, Ok)?;
    let scratch = match &options.scratch {
        Some(directory) => tempfile::tempdir_in(directory),
        None => tempfile::tempdir(),
    };
    let scratch = during("make a directory", scratch)?;
    let runtime = during("start a runtime", tokio::runtime::Builder::new_current_thread().enable_all().build())?;
    let place = Place::Directory(scratch.path().join("core"));
    let mut outcomes = vec![
        below_http(options, &runtime, place, None)?,
        by_https(options, &runtime, &program, &scratch.path().join("sqlite"), None)?,
    ];
    // A database of its own for each: what the first leaves would be swept by the second.
    match (Postgres::start(scratch.path())?, Postgres::start(scratch.path())?) {
        (Some(first), Some(second)) => {
            outcomes.push(below_http(options, &runtime, Place::Url(first.url.clone()), Some(&first))?);
            drop(first);
            outcomes.push(by_https(options, &runtime, &program, &scratch.path().join("postgres"), Some(&second))?);
        }
        _ => eprintln!("PostgreSQL is not installed here; only SQLite was measured"),
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

fn database(postgres: Option<&Postgres>) -> &'static str {
    if postgres.is_some() { "PostgreSQL" } else { "SQLite" }
}

fn below_http(options: &Options, runtime: &Runtime, place: Place, postgres: Option<&Postgres>) -> Result<Outcome> {
    let load_before = load();
    let core = runtime.block_on(core::Core::start(place, postgres, options.agents))?;
    let empty = runtime.block_on(core.database_bytes())?;
    let rounds = play(options, runtime, &core)?;
    let jobs: usize = rounds.iter().map(|round| round.jobs).sum();
    let bytes_per_job = Some((runtime.block_on(core.database_bytes())? - empty) / jobs as f64);
    core.stop();
    let (database, load_after) = (database(postgres), load());
    Ok(Outcome { database, way: "core", rounds, bytes_per_job, kib_per_agent: None, load_before, load_after })
}

fn by_https(
    options: &Options,
    runtime: &Runtime,
    program: &Path,
    data: &Path,
    postgres: Option<&Postgres>,
) -> Result<Outcome> {
    let load_before = load();
    let served = runtime.block_on(served::Served::start(program, data, postgres, options.agents))?;
    let rounds = play(options, runtime, &served)?;
    let kib_per_agent = Some(served.kib_per_agent()?);
    let (database, load_after) = (database(postgres), load());
    Ok(Outcome { database, way: "HTTPS", rounds, bytes_per_job: None, kib_per_agent, load_before, load_after })
}

fn play(options: &Options, runtime: &Runtime, plane: &impl Plane) -> Result<Vec<Figures>> {
    let pace = Duration::from_secs_f64(options.job_seconds);
    let plans = [
        Round { name: "burst", jobs: options.jobs, duration: Duration::ZERO, beats: 0 },
        Round { name: "paced", jobs: options.jobs, duration: pace, beats: 1 },
        Round { name: "beats", jobs: options.agents, duration: Duration::ZERO, beats: 20 },
    ];
    plans.iter().map(|plan| round::run(plan, plane, runtime)).collect()
}

/// Processes that ran or waited for a core in the last minute: what disturbed, besides this.
fn load() -> String {
    let text = std::fs::read_to_string(Path::new("/proc/loadavg")).unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn tell(outcome: &Outcome) {
    let Outcome { database, way, load_before, load_after, .. } = outcome;
    println!("\n{database}, {way} (load before {load_before}, after {load_after})");
    println!(
        "| round | jobs | seconds | lease + end a second | poll to lease p50 ms | p99 ms | end p99 ms | CPU ms a job | beats a second | CPU us a beat |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for figures in &outcome.rounds {
        println!("{}", figures.row());
    }
    if let Some(bytes) = outcome.bytes_per_job {
        println!("database: {bytes:.0} bytes a job, its events with it");
    }
    if let Some(kib) = outcome.kib_per_agent {
        println!("memory of the server: {kib:.0} KiB an agent, its connection and what the rounds left with it");
    }
}
