//! What is typed after `mover job|policy|point|token`, and where the server is.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::trust::Trust;
use crate::cli::error::{CliError, Result};
use crate::cli::units::Period;

/// The server, and by what it is known.
#[derive(Args, Clone, Debug, Default)]
pub struct ServerArgs {
    /// The control plane, https://HOST:PORT
    #[arg(long, global = true, value_name = "URL", env = "MOVER_SERVER", help_heading = "Server")]
    pub server: Option<String>,
    // Not by the parser from the environment: what is typed must win over what is set there for the other of the two.
    /// Certificate of the authority of the server, PEM [env: MOVER_CA]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "ca_fingerprint", help_heading = "Server")]
    pub ca: Option<PathBuf>,
    /// SHA-256 of that certificate, as the server prints it at its start [env: MOVER_CA_FINGERPRINT]
    #[arg(long, global = true, value_name = "SHA256", help_heading = "Server")]
    pub ca_fingerprint: Option<String>,
}

/// The server with the token of who asks.
#[derive(Args, Clone, Debug, Default)]
pub struct ClientArgs {
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
    /// File with the token of whoever asks
    #[arg(long, global = true, value_name = "FILE", env = "MOVER_TOKEN_FILE", help_heading = "Server")]
    pub token_file: Option<PathBuf>,
}

impl ServerArgs {
    /// Its address.
    ///
    /// # Errors
    /// None was named, or it is not https (exit 2).
    pub fn url(&self) -> Result<String> {
        let url = self.server.as_deref().filter(|url| !url.is_empty()).ok_or_else(|| {
            CliError::usage("no server was named", "give --server https://HOST:PORT, or set MOVER_SERVER")
        })?;
        if !url.starts_with("https://") {
            return Err(CliError::usage(format!("'{url}' is no address of a server"), "it begins with https://"));
        }
        Ok(url.trim_end_matches('/').to_owned())
    }

    /// By what it is known: as it was typed, else as the environment says.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn trust(&self) -> Result<Trust> {
        self.trust_in(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn trust_in(&self, variable: impl Fn(&str) -> Option<OsString>) -> Result<Trust> {
        let typed = (self.ca.clone(), self.ca_fingerprint.clone());
        let (file, fingerprint) = match typed {
            (None, None) => {
                let fingerprint = variable("MOVER_CA_FINGERPRINT").map(|text| text.to_string_lossy().into_owned());
                (variable("MOVER_CA").map(PathBuf::from), fingerprint)
            }
            typed => typed,
        };
        if let Some(file) = &file {
            let pem = std::fs::read_to_string(file).map_err(|error| CliError::system("read", file.display(), error))?;
            return Ok(Trust::Authority(pem));
        }
        Ok(fingerprint.map_or(Trust::Machine, Trust::Fingerprint))
    }
}

/// One agent.
#[derive(Args, Debug)]
pub struct AgentName {
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
    /// Its name or id
    #[arg(value_name = "AGENT")]
    pub agent: String,
}

/// A list of all.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// `mover agent enrol-token`
#[derive(Args, Debug)]
pub struct EnrolTokenArgs {
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
    /// The pool that the agent joins
    #[arg(long, value_name = "POOL", default_value = "main")]
    pub pool: String,
    /// How long the token counts, at most 7d
    #[arg(long = "for", value_name = "DURATION", default_value = "1h")]
    pub life: Period,
}

/// `mover job`
#[derive(Args, Debug)]
pub struct JobArgs {
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
    /// What to do
    #[command(subcommand)]
    pub what: JobCommand,
}

/// What can be done with jobs.
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Submit a job, as a JSON document: the body of POST /api/v1/jobs
    Submit(DocumentArgs),
    /// List jobs, newest first
    List(JobListArgs),
    /// Show one job
    Show(JobId),
    /// Stop a job
    Cancel(JobId),
    /// Submit a job that has ended once more
    Retry(JobId),
    /// Wait for the end of a job; the exit code is that of the job
    Wait(JobWaitArgs),
    /// Show the history of a job
    Logs(JobId),
}

/// One job.
#[derive(Args, Debug)]
pub struct JobId {
    /// Its id
    #[arg(value_name = "JOB")]
    pub job: String,
}

/// `mover job wait`
#[derive(Args, Debug)]
pub struct JobWaitArgs {
    /// Its id
    #[arg(value_name = "JOB")]
    pub job: String,
    /// Give up after so long (exit 1); the job goes on
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<Period>,
}

/// A JSON document.
#[derive(Args, Debug)]
pub struct DocumentArgs {
    /// File with a JSON document, or - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// `mover job list`
#[derive(Args, Debug)]
pub struct JobListArgs {
    /// Only in this state: queued, running, completed, …
    #[arg(long, value_name = "STATE")]
    pub state: Option<String>,
    /// Only of this set
    #[arg(long, value_name = "NAME")]
    pub set: Option<String>,
    /// Only of this policy, by its name or id
    #[arg(long, value_name = "POLICY")]
    pub policy: Option<String>,
    /// Only of this agent, by its name or id
    #[arg(long, value_name = "AGENT")]
    pub agent: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value = "100")]
    pub limit: usize,
}

/// `mover policy`
#[derive(Args, Debug)]
pub struct PolicyArgs {
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
    /// What to do
    #[command(subcommand)]
    pub what: PolicyCommand,
}

/// What can be done with policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Make a policy from a JSON document
    Create(DocumentArgs),
    /// List the policies
    List,
    /// Show one, as the document that made it
    Show(PolicyName),
    /// Replace what a policy says
    Update(PolicyUpdateArgs),
    /// Let its calendar run
    Enable(PolicyName),
    /// Stop its calendar
    Disable(PolicyName),
    /// Remove it; its jobs and recovery points stay
    Delete(PolicyName),
    /// Run it now; its bandwidth limit holds unless another is given
    Run(PolicyRunArgs),
    /// When it runs next
    Next(PolicyName),
    /// Whether a document could work, with the reason if not; changes nothing
    Validate(DocumentArgs),
}

/// One policy.
#[derive(Args, Debug)]
pub struct PolicyName {
    /// Its name or id
    #[arg(value_name = "POLICY")]
    pub policy: String,
}

/// `mover policy update`
#[derive(Args, Debug)]
pub struct PolicyUpdateArgs {
    /// Its name or id
    #[arg(value_name = "POLICY")]
    pub policy: String,
    /// File with a JSON document, or - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Only if it is at this version still; without it, whatever it is at now
    #[arg(long, value_name = "N")]
    pub version: Option<i64>,
}

/// `mover policy run`
#[derive(Args, Debug)]
pub struct PolicyRunArgs {
    /// Its name or id
    #[arg(value_name = "POLICY")]
    pub policy: String,
    /// Read everything, take over nothing unread
    #[arg(long)]
    pub full: bool,
    /// Another bandwidth calendar than that of the policy; `unlimited` lifts the limit
    #[arg(long, value_name = "CALENDAR")]
    pub bandwidth: Option<String>,
    /// Wait for an agent that is away, where it would fail at once
    #[arg(long)]
    pub wait: bool,
}

/// `mover point`
#[derive(Args, Debug)]
pub struct PointArgs {
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
    /// What to do
    #[command(subcommand)]
    pub what: PointCommand,
}

/// What can be done with recovery points.
#[derive(Debug, Subcommand)]
pub enum PointCommand {
    /// List the recovery points that jobs have made, newest first
    List(PointListArgs),
    /// Look into one: an agent that reaches the repository lists a directory
    Browse(PointBrowseArgs),
    /// Submit a restore
    Restore(Box<PointRestoreArgs>),
}

/// `mover point list`
#[derive(Args, Debug)]
pub struct PointListArgs {
    /// Only of this set
    #[arg(long, value_name = "NAME")]
    pub set: Option<String>,
    /// Only in this repository, by the name that the control plane knows
    #[arg(long, value_name = "NAME")]
    pub repository: Option<String>,
}

/// `mover point browse`
#[derive(Args, Debug)]
pub struct PointBrowseArgs {
    /// The repository, by the name that the control plane knows
    #[arg(long, value_name = "NAME")]
    pub repository: String,
    /// Id of the recovery point, or `latest`
    #[arg(value_name = "POINT")]
    pub point: String,
    /// Absolute path of a directory in it
    #[arg(value_name = "PATH", default_value = "/")]
    pub path: String,
}

/// `mover point restore`
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("goes").required(true).args(["target", "in_place"])))]
#[command(group(clap::ArgGroup::new("who").required(true).args(["agent", "pool"])))]
pub struct PointRestoreArgs {
    /// Id of the recovery point, or `latest`
    #[arg(value_name = "POINT")]
    pub point: String,
    /// The repository, by the name that the control plane knows
    #[arg(long, value_name = "NAME")]
    pub repository: String,
    /// The set that the point belongs to
    #[arg(long, value_name = "NAME")]
    pub set: String,
    /// What kind of thing it is of: file_server, nas, sql_server, …
    #[arg(long, value_name = "KIND", default_value = "file_server")]
    pub workload: String,
    /// On this agent, by its name or id
    #[arg(long, value_name = "AGENT")]
    pub agent: Option<String>,
    /// On any agent of this pool
    #[arg(long, value_name = "POOL")]
    pub pool: Option<String>,
    /// Only on agents of the pool that reach this
    #[arg(long, value_name = "NAME", requires = "pool")]
    pub reach: Option<String>,
    /// Below this directory of the agent
    #[arg(long, value_name = "DIR")]
    pub target: Option<String>,
    /// Where it came from
    #[arg(long)]
    pub in_place: bool,
    /// Only this absolute path and what is below it (may be repeated)
    #[arg(long = "path", value_name = "PATH")]
    pub paths: Vec<String>,
    /// Which existing files to replace: always, if-changed, if-newer or never
    #[arg(long, value_name = "WHICH")]
    pub overwrite: Option<String>,
    /// Read everything back afterwards and compare
    #[arg(long)]
    pub verify: bool,
}

/// `mover token`
#[derive(Args, Debug)]
pub struct TokenArgs {
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
    /// What to do
    #[command(subcommand)]
    pub what: TokenCommand,
}

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it, once
    Create(TokenCreateArgs),
    /// List the tokens, without their secrets
    List,
    /// End a token
    Revoke(TokenId),
}

/// `mover token create`
#[derive(Args, Debug)]
pub struct TokenCreateArgs {
    /// Whose it is: the name in the audit log
    #[arg(value_name = "NAME")]
    pub name: String,
    /// What it may do: viewer, operator or admin
    #[arg(long, value_name = "ROLE", default_value = "viewer")]
    pub role: String,
    /// It ends by itself after so long
    #[arg(long = "for", value_name = "DURATION")]
    pub life: Option<Period>,
}

/// One token.
#[derive(Args, Debug)]
pub struct TokenId {
    /// Its id
    #[arg(value_name = "TOKEN")]
    pub token: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line by which an agent joins names a fingerprint; where `MOVER_CA` was set it was refused.
    #[test]
    fn what_is_typed_of_the_authority_wins_over_the_environment() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("authority.pem");
        std::fs::write(&file, "PEM").expect("write");
        let set = |names: &'static [&'static str]| {
            let file = file.clone();
            move |name: &str| {
                let value = if name == "MOVER_CA" { file.clone().into_os_string() } else { "set".into() };
                names.contains(&name).then_some(value)
            }
        };
        let typed = ServerArgs { ca_fingerprint: Some("typed".to_owned()), ..ServerArgs::default() };
        let both: &[&str] = &["MOVER_CA", "MOVER_CA_FINGERPRINT"];
        assert!(matches!(typed.trust_in(set(both)), Ok(Trust::Fingerprint(text)) if text == "typed"));
        let typed = ServerArgs { ca: Some(file.clone()), ..ServerArgs::default() };
        assert!(matches!(typed.trust_in(set(&["MOVER_CA_FINGERPRINT"])), Ok(Trust::Authority(text)) if text == "PEM"));
        let nothing = ServerArgs::default();
        assert!(matches!(nothing.trust_in(set(&["MOVER_CA"])), Ok(Trust::Authority(_))));
        assert!(matches!(nothing.trust_in(set(&["MOVER_CA_FINGERPRINT"])), Ok(Trust::Fingerprint(_))));
        assert!(matches!(nothing.trust_in(set(&[])), Ok(Trust::Machine)));
    }
}
