//! `mover serve`: the control plane, until a signal ends it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use tokio::sync::watch;

use super::error::Result;
use super::exit::Exit;
use super::{Session, interrupt};
use crate::serve::{self, Settings, Started};

/// `mover serve`
#[derive(Args, Debug)]
#[command(
    after_help = "The first start makes the data directory, the embedded database, a certificate authority and an \
admin token, which is shown once.\n\
Two servers on one PostgreSQL database share the work: give the second a copy of DIR/authority.key of the first.\n\
Environment: MOVER_DATABASE. SIGTERM or SIGINT: stops cleanly."
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
    /// A name or address by which this server is reached (may be repeated); the first is told to agents
    #[arg(long = "name", value_name = "DNS")]
    pub names: Vec<String>,
    /// What becomes of jobs whose agent is away, as JSON
    #[arg(long, value_name = "FILE")]
    pub away: Option<PathBuf>,
    /// Send mail by this server, smtps://USER:PASSWORD@HOST
    #[arg(long, value_name = "URL", env = "MOVER_MAIL", hide_env_values = true, requires = "mail_from")]
    pub mail: Option<String>,
    /// Send mail in the name of this address
    #[arg(long, value_name = "ADDRESS")]
    pub mail_from: Option<String>,
    /// Serve people in plain text, for a proxy on this machine that speaks TLS; needs --agent-listen
    #[arg(long)]
    pub plain_http: bool,
    /// Connections that one address may hold; more are refused
    #[arg(long, value_name = "N", default_value_t = serve::CONNECTIONS_PER_ADDRESS, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections_per_address: u32,
    /// Make another admin token and show it, as the first start does
    #[arg(long)]
    pub new_admin_token: bool,
}

/// Serves.
pub fn run(session: &Session, args: &ServeArgs) -> Result<Exit> {
    let settings = Settings {
        data: args.data.clone(),
        database: args.database.clone(),
        listen: args.listen,
        agent_listen: args.agent_listen,
        names: args.names.clone(),
        away: args.away.clone(),
        mail: args.mail.clone().zip(args.mail_from.clone()),
        plain_http: args.plain_http,
        connections_per_address: args.connections_per_address,
        new_admin_token: args.new_admin_token,
    };
    let (stop, stopped) = watch::channel(false);
    let graceful = interrupt::graceful(move || _ = stop.send(true));
    serve::run(settings, stopped, |started| tell(session, started))?;
    drop(graceful);
    session.output.object("summary", json!({ "exit_code": Exit::Done.code() }))?;
    Ok(Exit::Done)
}

fn tell(session: &Session, started: &Started) -> Result<()> {
    let output = &session.output;
    let fields = json!({
        "url": started.url,
        "agents_url": started.agents_url,
        "authority_sha256": started.authority_sha256,
        "authority_file": started.authority_file,
        "admin_token": started.admin_token,
        "join": started.join,
    });
    output.object("started", fields)?;
    if !output.json {
        output.line(&format!("serving at {}", started.url))?;
        output.line(&format!("certificate of the authority: {}", started.authority_file.display()))?;
        output.line(&format!("its fingerprint, for agents: {}", started.authority_sha256))?;
        if let (Some(token), Some(join)) = (&started.admin_token, &started.join) {
            output.line(&format!("admin token, shown this once: {token}"))?;
            output.line(&format!("an agent joins within the hour with: {join}"))?;
        }
    }
    output.flush()
}
