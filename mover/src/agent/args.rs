//! What is typed after `mover agent`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::client::args::{AgentName, EnrolTokenArgs, ListArgs, ServerArgs};

/// `mover agent`
#[derive(Args, Debug)]
pub struct AgentArgs {
    /// What to do
    #[command(subcommand)]
    pub what: AgentCommand,
}

/// What can be done with agents.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Make this host an agent, with a token that an administrator made by `mover agent enrol-token`
    Enrol(EnrolArgs),
    /// Run the jobs that the control plane hands out, until SIGTERM
    Run(RunArgs),
    /// Make a token that one host may enrol with
    EnrolToken(EnrolTokenArgs),
    /// List the agents
    List(ListArgs),
    /// Show one agent
    Show(AgentName),
    /// Give an agent no new work; what it has it finishes
    Drain(AgentName),
    /// Give an agent work again
    Undrain(AgentName),
    /// Take everything from an agent: its certificate counts no more
    Revoke(AgentName),
    /// Forget an agent that was revoked and has no job: its name is free again
    Remove(AgentName),
}

/// `mover agent enrol`
#[derive(Args, Debug)]
pub struct EnrolArgs {
    /// The server, and how to know it.
    #[command(flatten)]
    pub server: ServerArgs,
    /// The token, or - to read it from standard input
    #[arg(long, value_name = "TOKEN", env = "MOVER_ENROL_TOKEN", hide_env_values = true)]
    pub token: String,
    /// Name for people; built in: that of the host
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Where the agent keeps its key and its jobs
    #[arg(long, value_name = "DIRECTORY")]
    pub state: Option<PathBuf>,
}

/// `mover agent run`
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Where the agent keeps its key and its jobs; built in: $STATE_DIRECTORY, or /var/lib/mover-agent for root, else
    /// ~/.local/state/mover/agent
    #[arg(long, value_name = "DIRECTORY")]
    pub state: Option<PathBuf>,
}
