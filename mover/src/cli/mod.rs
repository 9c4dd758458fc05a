//! The command line: one file a command, and what they share.
//!
//! `run` parses, resolves, runs and gives the exit code; a panic of a command is an error like any
//! other. Must never print a secret, nor let a name of any bytes reach a terminal unescaped.

pub mod args;
mod backup;
mod bandwidth;
mod commit_gate;
mod compare;
mod config_show;
mod copy;
mod diff;
mod doctor;
mod dump;
mod engine;
mod entries;
pub mod error;
mod estimate;
pub mod exit;
mod filesets;
mod forget;
mod global_args;
mod init;
pub mod interrupt;
mod key;
mod ls;
mod other;
pub mod output;
mod point;
mod points;
pub mod process;
mod progress_view;
mod protect;
mod prune;
mod rate;
mod rekey;
mod repair;
pub mod repository;
mod restore;
pub mod secret;
mod serve;
pub mod stats;
pub mod table;
pub mod terminal;
pub mod text;
mod try_it;
mod try_report;
pub mod units;
mod verify;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use clap::error::ErrorKind;

use crate::agent::args::{AgentArgs, AgentCommand};
use crate::config::{self, Resolved};
use crate::{agent, client};
use args::{Cli, Command, ConfigCommand};
use bandwidth::Bandwidth;
use error::{CliError, Result};
use exit::Exit;
use output::Output;

/// What every command gets: where to write, and the settings in force.
pub struct Session {
    /// Results, notes, errors.
    pub output: Arc<Output>,
    /// The settings.
    pub resolved: Resolved,
    /// The limits of network repositories, shared by all jobs of this process.
    pub bandwidth: Bandwidth,
}

/// Runs the command that `arguments` name, and reports its error.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match Cli::parse_ordered(&arguments) {
        Ok(cli) => cli,
        Err(error) => return report_usage(&error, &arguments),
    };
    start_logging(&cli.command);
    let output = Arc::new(Output::new(cli.global.json, cli.global.quiet));
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| dispatch(cli, &output)));
    let result = outcome.unwrap_or(Ok(Exit::Failed)).and_then(|exit| output.flush().map(|()| exit));
    result.unwrap_or_else(|error| {
        output.error(&error);
        let _ = output.flush();
        error.exit
    })
}

fn report_usage(error: &clap::Error, arguments: &[OsString]) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            return Exit::Done;
        }
        // no command at all: the help is the answer
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => _ = error.print(),
        _ => {
            let text = error.to_string();
            terminal::say(&format!("mover: {}", text.strip_prefix("error: ").unwrap_or(&text).trim_end()));
        }
    }
    if arguments.iter().any(|argument| argument == "--json") {
        let message = usage_message(error);
        let fields = serde_json::json!({ "message": message, "help": "see --help", "exit_code": Exit::Usage.code() });
        let _ = Output::new(true, false).object("error", fields);
    }
    Exit::Usage
}

/// What is wrong with the command line, in one line: the first paragraph of what the parser says.
fn usage_message(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "no command was given".to_owned();
    }
    let text = error.to_string();
    let first = text.strip_prefix("error: ").unwrap_or(&text).lines().take_while(|line| !line.trim().is_empty());
    first.map(str::trim).collect::<Vec<_>>().join(" ")
}

/// What a command logs where `RUST_LOG` says nothing. A daemon has no other way to say what became of it, and alerts and
/// messages send people to its log; whoever types a command sees what it says.
fn own_log(command: &Command) -> Option<&'static str> {
    let is_daemon = matches!(command, Command::Serve(_) | Command::Agent(AgentArgs { what: AgentCommand::Run(_) }));
    is_daemon.then_some("warn,mover=info,mover_control=info,mover_repository=info,mover_actors=info")
}

/// Log lines go to standard error: as `RUST_LOG` asks for them, else as is this command's own way.
fn start_logging(command: &Command) {
    let asked = tracing_subscriber::EnvFilter::try_from_default_env().ok();
    if let Some(filter) = asked.or_else(|| own_log(command).map(tracing_subscriber::EnvFilter::new)) {
        // Colours are for people: in a journal they are noise.
        let is_seen = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(is_seen);
        let _ = lines.with_writer(std::io::stderr).try_init();
    }
}

fn dispatch(cli: Cli, output: &Arc<Output>) -> Result<Exit> {
    let variable = |name: &str| std::env::var_os(name);
    // An agent has a config file of its own kind.
    let own_config = cli.global.config.as_deref();
    match &cli.command {
        Command::Agent(AgentArgs { what: AgentCommand::Run(args) }) => return agent::run(args, own_config),
        Command::Agent(AgentArgs { what: AgentCommand::Enrol(args) }) => return agent::enrol(output, args, own_config),
        _ => {}
    }
    let file = config::config_file(cli.global.config.as_deref(), variable);
    let cores = mover_actors::runtime::cores_available().len();
    let flags = cli.settings();
    let resolved = config::load(flags.clone(), file.clone(), variable)?.resolve(cores)?;
    if resolved.settings.idle == Some(true) {
        process::yield_to_others().map_err(|error| CliError::system("lower", "the priority of this process", error))?;
    }
    // a local directory is not limited, so nobody follows the file for it
    let followed = file.filter(|_| resolved.settings.repo.as_deref().is_some_and(repository::is_over_network));
    let bandwidth = bandwidth::start(output, &resolved.settings.bandwidth, flags.bandwidth, followed);
    let session = Session { output: Arc::clone(output), resolved, bandwidth };
    match &cli.command {
        Command::Try(args) => try_it::run(&session, args),
        Command::Init(args) => init::run(&session, args),
        Command::Backup(args) => backup::run(&session, args),
        Command::Points(args) => points::run(&session, args),
        Command::Ls(args) => ls::run(&session, args),
        Command::Diff(args) => diff::run(&session, args),
        Command::Dump(args) => dump::run(&session, args),
        Command::Restore(args) => restore::run(&session, args),
        Command::Copy(args) => copy::run(&session, args),
        Command::Verify(args) => verify::run(&session, args),
        Command::Repair(args) => repair::run(&session, args),
        Command::Forget(args) => forget::run(&session, args),
        Command::Prune(args) => prune::run(&session, args),
        Command::Protect(args) => protect::run(&session, args),
        Command::Key(args) => key::run(&session, args),
        Command::Serve(args) => serve::run(&session, args),
        Command::Agent(args) => run_agent_client(&session, args),
        Command::Job(args) => client::job::run(&session, args),
        Command::Policy(args) => client::policy::run(&session, args),
        Command::Point(args) => client::point::run(&session, args),
        Command::Token(args) => client::token::run(&session, args),
        Command::Doctor => doctor::run(&session),
        Command::Config(args) => match args.what {
            ConfigCommand::Show => config_show::run(&session),
        },
    }
}

fn run_agent_client(session: &Session, args: &AgentArgs) -> Result<Exit> {
    match &args.what {
        AgentCommand::List(args) => client::agent::list(session, args),
        AgentCommand::Show(args) => client::agent::show(session, args),
        AgentCommand::Drain(args) => client::agent::act(session, args, "drain"),
        AgentCommand::Undrain(args) => client::agent::act(session, args, "undrain"),
        AgentCommand::Revoke(args) => client::agent::act(session, args, "revoke"),
        AgentCommand::Remove(args) => client::agent::remove(session, args),
        AgentCommand::EnrolToken(args) => client::agent::enrol_token(session, args),
        AgentCommand::Run(_) | AgentCommand::Enrol(_) => unreachable!("they have no session"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_log_by_themselves_and_commands_of_people_do_not() {
        let logs = |typed: &[&str]| {
            let cli = Cli::parse_ordered(&typed.iter().map(OsString::from).collect::<Vec<_>>()).expect("a command");
            own_log(&cli.command).is_some()
        };
        assert!(logs(&["mover", "serve", "--data", "/d"]) && logs(&["mover", "agent", "run"]));
        assert!(!logs(&["mover", "agent", "list"]) && !logs(&["mover", "points"]) && !logs(&["mover", "backup", "/a"]));
        let filter =
            own_log(&Cli::parse_ordered(&["mover", "agent", "run"].map(OsString::from)).expect("a command").command);
        assert_eq!(filter.and_then(|filter| filter.parse::<tracing_subscriber::EnvFilter>().err().map(|_| ())), None);
    }

    /// The JSON error of a restore without a place ended in "arguments were not provided:", and nothing told that
    /// there is `--in-place`.
    #[test]
    fn a_usage_error_says_all_in_one_line() {
        let message = |typed: &[&str]| {
            let error = Cli::parse_ordered(&typed.iter().map(OsString::from).collect::<Vec<_>>()).unwrap_err();
            usage_message(&error)
        };
        let missing = message(&["mover", "restore", "latest"]);
        assert!(missing.contains("--target") && missing.contains("--in-place"), "{missing}");
        let both = message(&["mover", "restore", "latest", "--target", "/t", "--in-place"]);
        assert!(both.contains("--target") && both.contains("--in-place"), "{both}");
        assert!(message(&["mover", "backup", "--nonsense"]).contains("--nonsense"));
        assert_eq!(message(&["mover"]), "no command was given");
    }
}
