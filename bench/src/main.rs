//! `mover-bench`: what this machine could do with this data, and how near `mover` comes to it.
//!
//! `limits` measures each stage alone on one core beside plain references; `backup` and `restore` run the released
//! binary and divide the ideal, which those limits give, by the time it took; `corpus` makes data to measure on; `rivals`
//! runs other backup tools beside it, and `results` shows what came out.
//! It calls no library of `mover` (the stages are measured as the crates underneath deliver them), but for `control`,
//! which runs the control plane in this process with simulated agents.

mod clock;
mod control;
mod corpus;
mod crowd;
mod efficiency;
mod files;
mod harm;
mod ideal;
mod inventory;
mod lifecycle;
mod limits;
mod network;
mod reads;
mod reference;
mod report;
mod results;
mod rivals;
mod sample;
mod stages;
mod subject;
mod whatif;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Benchmark harness of mover.
#[derive(Parser)]
#[command(name = "mover-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure each stage on one core, beside b3sum, zstd -b, openssl speed and cp -a
    Limits(Options),
    /// Back PATH up and print the efficiency, and that of an unchanged second backup
    Backup(Options),
    /// Restore a backup of PATH and print the efficiency
    Restore(Options),
    /// Slow a stage down, and take a core away, and compare with what the bottleneck report foretold
    Whatif(whatif::WhatIf),
    /// Measure a reader beside a backup, with and without --idle, and the page cache before and after one (needs fio)
    Harm(harm::Harm),
    /// Verify and prune a repository that is not in the page cache, beside what the device reads and writes in sequence
    Lifecycle(Options),
    /// Make data to measure on, the same for the same seed
    Corpus(corpus::Options),
    /// Measure mover beside the backup tools on the PATH: first, unchanged, incremental, rescan, restore
    Rivals(rivals::Options),
    /// The same over a link with a set rate, delay and loss (root)
    Network(network::Options),
    /// Simulate many agents and many jobs against one control plane, on SQLite and on PostgreSQL
    Control(control::Options),
    /// Make RESULTS.md and its plots of what was measured
    Results(results::Options),
}

/// What the three measuring commands share.
#[derive(Args, Clone)]
pub struct Options {
    /// The file or directory to measure on
    pub path: PathBuf,
    /// One JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// Exit 1 where the efficiency is below this share
    #[arg(long, value_name = "SHARE")]
    pub require: Option<f64>,
    /// zstd level, for the stage and for the run
    #[arg(long, default_value_t = 1)]
    pub level: i32,
    /// Repeat the run and take the median
    #[arg(long, default_value_t = 1)]
    pub runs: usize,
    /// Where the repository and the target go; default: beside PATH, on its file system
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// The binary to measure; default: beside this program
    #[arg(long, value_name = "FILE")]
    pub mover: Option<PathBuf>,
    /// Passed on to mover
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Limits(options) => limits::run(&options),
        Command::Backup(options) => efficiency::backup(&options),
        Command::Restore(options) => efficiency::restore(&options),
        Command::Whatif(options) => whatif::run(&options),
        Command::Harm(options) => harm::run(&options),
        Command::Lifecycle(options) => lifecycle::run(&options),
        Command::Corpus(options) => corpus::run(&options),
        Command::Rivals(options) => rivals::run(&options),
        Command::Network(options) => network::run(&options),
        Command::Control(options) => control::run(&options),
        Command::Results(options) => results::run(&options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mover-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Errors of this program are sentences for a person.
pub type Result<T> = std::result::Result<T, String>;

/// Adds what was being done to an error of the system.
pub fn during<T, E: std::fmt::Display>(what: impl std::fmt::Display, result: std::result::Result<T, E>) -> Result<T> {
    result.map_err(|error| format!("cannot {what}: {error}"))
}
