//! A proxy: the process that runs the jobs which a control plane hands out.
//!
//! ```text
//!  server ◀── hello, poll ──  Agent  ── lease ──▶ Work ── child: mover backup|restore|verify|prune|forget --json
//!         ◀── beat ─────────         ◀─ progress ─┘  └── asks before it publishes ──▶ grant ──▶ server
//!         ◀── finish ── Spool (fsync) ◀── result ─┘
//! ```
//!
//! It dials out, nothing listens. Each job is a child process of the same binary: a crash of one costs one job, and what
//! an agent runs is what a person runs. A child dies with its agent, so an agent that is killed leaves no writer.
//!
//! | what happens | what becomes of a running job |
//! | --- | --- |
//! | one of several servers is away | the next one is asked, and nothing changes |
//! | the server is away | it goes on; before it publishes it waits for the server; results are spooled and delivered later |
//! | the agent is told to stop (SIGTERM) | it stops cleanly and is given back; a second signal ends everything at once |
//! | the server does not let the agent in: a certificate, a clock, a version | as if it were away, and no new work is asked for |
//! | the agent is killed | its child dies; another agent of the pool, or this one, goes on from what is durable; commands after the job are made up for at its next start |
//! | its state directory is full | no new work; what has ended is kept in memory and delivered |
//! | the host restarts | the same, or it is aborted if its policy says so (S-010) |
//! | the lease is lost, the agent revoked | the child is killed, and publishes nothing |
//!
//! Orders run no program that `commands` of `agent.toml` does not allow. A child is started from `/proc/self/exe`: an upgrade
//! of the file below a running agent changes nothing until it is started anew.
//!
//! Runs on one thread, the main one: the death signal of a child goes by the thread that started it. Must never: open a
//! repository itself, move data, send a secret of a repository anywhere, publish without a grant.

pub mod args;
mod caches;
mod child;
mod commands;
mod connection;
mod daemon;
mod ending;
mod enrolment;
mod invocation;
mod job;
mod process;
mod questions;
mod settings;
mod spool;
mod state;

pub use enrolment::enrol;

use crate::cli::error::{CliError, Result};
use crate::cli::exit::Exit;

use args::RunArgs;

/// Runs the agent until it is told to stop.
pub fn run(args: &RunArgs, config: Option<&std::path::Path>) -> Result<Exit> {
    let settings = settings::load(config)?;
    let state = state::StateDirectory::open(args.state.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::system("start", "the agent", error))?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, daemon::run(settings, state))
}
