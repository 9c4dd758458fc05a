//! `mover serve`: the control plane, until a signal ends it.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::sync::watch;

use super::error::{CliError, Result};
use super::exit::Exit;
use super::{Session, interrupt};
use crate::serve::{self, Settings, Started};

/// `mover serve`
#[derive(Args, Debug)]
#[command(
    after_help = "The first start makes the data directory, the embedded database, a certificate authority and an \
admin token, which is shown once: at a terminal, else in DIR/admin.token, for what a service prints is kept in a journal.\n\
Two servers on one PostgreSQL database share the work: give the second a copy of DIR/authority.key of the first.\n\
Environment: MOVER_DATABASE, MOVER_NAMES, MOVER_MAIL, MOVER_MAIL_FROM. It logs to standard error, RUST_LOG says what. SIGTERM or SIGINT: stops cleanly."
)]
pub struct ServeArgs {
    /// Where the database and the keys are
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Keep the state in this PostgreSQL database instead, postgres://USER:PASSWORD@HOST/NAME
    #[arg(long, value_name = "URL", env = "MOVER_DATABASE", hide_env_values = true)]
    pub database: Option<String>,
    /// Where to serve people, and agents too
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:7443")]
    pub listen: SocketAddr,
    /// Serve agents here, and only here
    #[arg(long, value_name = "ADDR:PORT")]
    pub agent_listen: Option<SocketAddr>,
    /// A name or address by which this server is reached (may be repeated, or with commas); the first is told to agents
    #[arg(long = "name", value_name = "DNS", env = "MOVER_NAMES", value_delimiter = ',')]
    pub names: Vec<String>,
    /// What becomes of jobs whose agent is away, as JSON
    #[arg(long, value_name = "FILE")]
    pub away: Option<PathBuf>,
    /// Send mail by this server, smtps://USER:PASSWORD@HOST
    #[arg(long, value_name = "URL", env = "MOVER_MAIL", hide_env_values = true, requires = "mail_from")]
    pub mail: Option<String>,
    /// Send mail in the name of this address
    #[arg(long, value_name = "ADDRESS", env = "MOVER_MAIL_FROM")]
    pub mail_from: Option<String>,
    /// Serve people in plain text, for a proxy on this machine that speaks TLS; needs --agent-listen
    #[arg(long)]
    pub plain_http: bool,
    /// Connections that one address may hold; more are refused
    #[arg(long, value_name = "N", default_value_t = serve::CONNECTIONS_PER_ADDRESS, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections_per_address: u32,
    /// Silence of an agent after which its jobs go elsewhere; agents are heard six times as often
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(10..=3600))]
    pub lease: u64,
    /// Make another admin token and show it, as the first start does
    #[arg(long)]
    pub new_admin_token: bool,
    /// Let webhooks reach this machine itself
    #[arg(long)]
    pub hooks_to_loopback: bool,
}

/// Serves.
pub fn run(session: &Session, args: &ServeArgs) -> Result<Exit> {
    let settings = Settings {
        data: args.data.clone(),
        database: args.database.clone(),
        listen: args.listen,
        agent_listen: args.agent_listen,
        names: args.names.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        away: args.away.clone(),
        mail: args.mail.clone().zip(args.mail_from.clone()),
        plain_http: args.plain_http,
        connections_per_address: args.connections_per_address,
        lease: Duration::from_secs(args.lease),
        new_admin_token: args.new_admin_token,
        hooks_to_loopback: args.hooks_to_loopback,
    };
    let (stop, stopped) = watch::channel(false);
    let graceful = interrupt::graceful(move || _ = stop.send(true));
    serve::run(settings, stopped, |started| tell(session, &args.data, started))?;
    drop(graceful);
    session.output.object("summary", json!({ "exit_code": Exit::Done.code() }))?;
    Ok(Exit::Done)
}

/// Where the first token is put, and the line by which the first agent joins.
struct Handed {
    token: PathBuf,
    join: PathBuf,
}

/// Puts what is secret into files for this user alone, in place of an output that others read or keep.
fn hand_over(data: &Path, started: &Started) -> Result<Option<Handed>> {
    let (Some(token), Some(join)) = (&started.admin_token, &started.join) else { return Ok(None) };
    let handed = Handed { token: data.join("admin.token"), join: data.join("agent.join") };
    for (file, text) in [(&handed.token, token), (&handed.join, join)] {
        write_private(file, text).map_err(|error| CliError::system("write", file.display(), error))?;
    }
    Ok(Some(handed))
}

fn write_private(file: &Path, text: &str) -> std::io::Result<()> {
    // One that is there keeps its mode when it is written: make it anew.
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

fn tell(session: &Session, data: &Path, started: &Started) -> Result<()> {
    let output = &session.output;
    let is_seen = std::io::stdout().is_terminal();
    let handed = if is_seen { None } else { hand_over(data, started)? };
    let shown = |secret: &Option<String>| secret.clone().filter(|_| is_seen);
    let fields = json!({
        "url": started.url,
        "agents_url": started.agents_url,
        "authority_sha256": started.authority_sha256,
        "authority_file": started.authority_file,
        "admin_token": shown(&started.admin_token),
        "join": shown(&started.join),
        "admin_token_file": handed.as_ref().map(|handed| &handed.token),
        "join_file": handed.as_ref().map(|handed| &handed.join),
    });
    output.object("started", fields)?;
    if !output.json {
        output.line(&format!("serving at {}", started.url))?;
        output.line(&format!("certificate of the authority: {}", started.authority_file.display()))?;
        output.line(&format!("its fingerprint, for agents: {}", started.authority_sha256))?;
        if let Some(handed) = &handed {
            let (token, join) = (handed.token.display(), handed.join.display());
            output.line(&format!("admin token: in {token}; take it away from there"))?;
            output.line(&format!("an agent joins within the hour with the command in {join}"))?;
        } else if let (Some(token), Some(join)) = (&started.admin_token, &started.join) {
            output.line(&format!("admin token, shown this once: {token}"))?;
            output.line(&format!("an agent joins within the hour with: {join}"))?;
        }
    }
    output.flush()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn first_token_is_a_file_for_its_owner_alone_even_where_one_was_open_to_all() {
        let data = tempfile::tempdir().expect("a directory");
        let open = data.path().join("admin.token");
        std::fs::write(&open, "old").expect("a file");
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).expect("its mode");
        let started = Started {
            url: String::new(),
            agents_url: String::new(),
            authority_sha256: String::new(),
            authority_file: PathBuf::new(),
            admin_token: Some("mvr_secret".to_owned()),
            join: Some("mover agent enrol".to_owned()),
        };
        let handed = hand_over(data.path(), &started).expect("written").expect("there is a token");
        for (file, text) in [(&handed.token, "mvr_secret\n"), (&handed.join, "mover agent enrol\n")] {
            assert_eq!(std::fs::read_to_string(file).expect("text"), text);
            assert_eq!(std::fs::metadata(file).expect("a file").permissions().mode() & 0o777, 0o600);
        }
        let later = Started { admin_token: None, join: None, ..started };
        assert!(hand_over(data.path(), &later).expect("nothing to do").is_none());
    }
}
