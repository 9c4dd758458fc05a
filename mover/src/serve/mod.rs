//! `mover serve`: the control plane as a process. HTTP, TLS, certificates and roles are here; what is decided, and when,
//! is in `mover-control`. No byte of anybody's data passes here.
//!
//! ```text
//!  people, console ──TLS──▶ ┌─ dispatch: who, how often, role, bounds, idempotency, audit ─┐──▶ api ────▶ mover-control
//!  agents ────mutual TLS──▶ └──────────────────────────────────────────────────────────────┘──▶ agents ─▶ mover-control
//! ```
//!
//! | file | what it holds |
//! | --- | --- |
//! | `endpoint`, `dispatch`, `call`, `problem` | a route as data, what happens to each request, its answer |
//! | `api/`, `agents` | the handlers of people and of agents |
//! | `authority`, `tls` | who signs; who is at the other end |
//! | `app`, `server`, `console`, `openapi`, `figures` | what handlers share, listeners, page, document, metrics |
//! | `limit`, `connections` | how often who may ask, how many connections an address has |
//!
//! Two servers on one PostgreSQL share everything, each runs all actors, and whichever is asked answers. A server keeps
//! nothing: it may be killed at any moment.

mod agents;
mod api;
mod app;
mod authority;
mod call;
mod connections;
mod console;
mod dispatch;
mod endpoint;
mod figures;
mod limit;
mod openapi;
mod problem;
mod server;
mod tls;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use mover_control::access::{Role, tokens};
use mover_control::agents::enrolment;
use mover_control::clock::SystemClock;
use mover_control::database::Database;
use mover_control::placement::away::AwayTable;
use mover_control::service::delivery::{Deliveries, SmtpMail};
use mover_control::service::{Context, Service};
use sd_notify::NotifyState;
use tokio::sync::{Semaphore, watch};

use crate::cli::error::{CliError, Result};
use api::Enrolment;
use app::{App, Listeners, STREAMS_MAX};
use authority::Authority;
pub use connections::BUILT_IN as CONNECTIONS_PER_ADDRESS;
use connections::Connections;
use tls::{Judge, ServerCertificate};

/// How long the enrolment token of the first start counts.
const FIRST_ENROLMENT: Duration = Duration::from_secs(3600);
/// How often it is looked whether the certificate of the server is to be renewed.
const RENEWAL_LOOK: Duration = Duration::from_secs(3600);
/// How long the end of connections to the database is waited for.
const CLOSE: Duration = Duration::from_secs(5);
/// Heartbeats in the silence that ends a lease: several may be lost.
const HEARTBEATS_A_LEASE: u32 = 6;

/// What a server is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its directory.
    pub data: PathBuf,
    /// `postgres://…`, or the embedded database.
    pub database: Option<String>,
    /// For people, and for agents too if `agent_listen` is not said.
    pub listen: SocketAddr,
    /// For agents alone.
    pub agent_listen: Option<SocketAddr>,
    /// Names by which it is reached.
    pub names: Vec<String>,
    /// File with the table *Agent away*.
    pub away: Option<PathBuf>,
    /// Mail server and sender.
    pub mail: Option<(String, String)>,
    /// People come through a proxy on this machine, in plain text.
    pub plain_http: bool,
    /// Connections that one address may hold.
    pub connections_per_address: u32,
    /// How long an agent may be silent before its jobs go elsewhere.
    pub lease: Duration,
    /// Make another admin token.
    pub new_admin_token: bool,
    /// Webhooks may reach this machine itself.
    pub hooks_to_loopback: bool,
}

/// What is told once, when the server has begun.
pub struct Started {
    /// Where people find it.
    pub url: String,
    /// Where agents find it.
    pub agents_url: String,
    /// SHA-256 of the certificate of the authority.
    pub authority_sha256: String,
    /// File with that certificate.
    pub authority_file: PathBuf,
    /// Shown once.
    pub admin_token: Option<String>,
    /// How the first agent joins.
    pub join: Option<String>,
}

/// Runs a server until `stop` says so.
///
/// # Errors
/// It cannot begin; in words.
pub fn run(settings: Settings, stop: watch::Receiver<bool>, tell: impl FnOnce(&Started) -> Result<()>) -> Result<()> {
    check(&settings)?;
    actix_web::rt::System::new().block_on(serve(settings, stop, tell))
}

fn check(settings: &Settings) -> Result<()> {
    if settings.plain_http && !settings.listen.ip().is_loopback() {
        return Err(CliError::usage(
            format!("--plain-http is for a proxy on this machine, and {} is not loopback", settings.listen),
            "listen on 127.0.0.1, or leave --plain-http away",
        ));
    }
    if settings.plain_http && settings.agent_listen.is_none() {
        return Err(CliError::usage(
            "with --plain-http agents need an address of their own, for they prove who they are by TLS",
            "add --agent-listen 0.0.0.0:7443",
        ));
    }
    Ok(())
}

async fn serve(
    settings: Settings,
    stop: watch::Receiver<bool>,
    tell: impl FnOnce(&Started) -> Result<()>,
) -> Result<()> {
    prepare_directory(&settings.data)?;
    let people = listen(settings.listen)?;
    let agents = settings.agent_listen.map(listen).transpose()?;
    let metrics = figures::start();
    let database = open(&settings).await?;
    let mut context = Context::new(database.clone(), Arc::new(SystemClock::new()));
    if let Some(file) = &settings.away {
        context.away = Arc::new(read_away(file)?);
    }
    context.lease = settings.lease;
    let now = context.clock.now();
    let authority = Authority::open(&database, &settings.data, now).await?;
    let authority_file = settings.data.join("authority.pem");
    write_whole(&authority_file, authority.certificate.as_bytes())?;
    let names = names(&settings);
    let certificate = ServerCertificate::new(&authority, &names, now)?;
    let listeners = Listeners {
        people: local(&people)?,
        agents: agents.as_ref().map(local).transpose()?,
        is_plain: settings.plain_http,
    };
    let (questions, seen_questions) = watch::channel(Arc::default());
    let app = Arc::new(App {
        clock: Arc::clone(&context.clock),
        agents_url: url("https", &names, listeners.agents.unwrap_or(listeners.people)),
        service: Service::start(context, deliveries(&settings)?),
        database: database.clone(),
        authority,
        limiter: limit::Limiter::default(),
        proven: limit::Proven::default(),
        heartbeat: settings.lease / HEARTBEATS_A_LEASE,
        questions: seen_questions,
        stopping: stop.clone(),
        streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        metrics: metrics.clone(),
        listeners,
    });
    let tls = tls::config(&app.authority, Arc::clone(&certificate))?;
    let judge = Judge::new(&app.authority, Arc::clone(&app.clock))?;
    let connections = Connections::new(settings.connections_per_address);
    let started = started(&app, &settings, &names, authority_file).await?;
    let server = server::start(Arc::clone(&app), people, agents, tls, judge, connections)?;
    let handle = server.handle();
    let mut served = actix_web::rt::spawn(server);
    actix_web::rt::spawn(app::follow_questions(database.clone(), Arc::clone(&app.clock), questions));
    actix_web::rt::spawn(renew(Arc::clone(&app), certificate, names));
    actix_web::rt::spawn(keep_up(metrics));
    tell(&started)?;
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    tracing::info!(url = started.url, agents = started.agents_url, "serving");

    let mut stop = stop;
    let ended = tokio::select! {
        ended = &mut served => ended,
        _ = stop.wait_for(|stop| *stop) => {
            let _ = sd_notify::notify(&[NotifyState::Stopping]);
            tracing::info!("stopping");
            handle.stop(true).await;
            served.await
        }
    };
    let ended = ended.unwrap_or(Ok(()));
    let _ = tokio::time::timeout(CLOSE, database.close()).await;
    ended.map_err(|error| CliError::system("serve at", "the address", error))
}

/// The directory, for this user alone.
fn prepare_directory(data: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let failed = |error: std::io::Error| CliError::system("make", data.display(), error);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(failed)?;
    let mode = std::fs::metadata(data).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(CliError::failed(
            format!("{} can be entered by other users, and keys are in it", data.display()),
            format!("chmod 700 {}", data.display()),
        ));
    }
    Ok(())
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).map_err(|error| {
        let help = "is another server there? choose another address with --listen";
        CliError::system("listen on", address, error).with_help(help)
    })
}

fn local(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|error| CliError::system("listen on", "the address", error))
}

async fn open(settings: &Settings) -> Result<Database> {
    let opened = match &settings.database {
        Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
            Database::open_postgres(url).await
        }
        Some(_) => {
            return Err(CliError::usage(
                "--database is the address of a PostgreSQL database",
                "write postgres://USER:PASSWORD@HOST/NAME, or leave it away for the embedded database",
            ));
        }
        None => Database::open_embedded(&settings.data).await,
    };
    opened.map_err(|error| {
        let message = match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        CliError::failed(
            message,
            "is the database there, and is its address right? the data directory must be writable",
        )
    })
}

fn read_away(file: &Path) -> Result<AwayTable> {
    let text = std::fs::read_to_string(file).map_err(|error| CliError::system("read", file.display(), error))?;
    let own: AwayTable = serde_json::from_str(&text).map_err(|error| {
        let help = "it is JSON like {\"nas\": {\"on_demand\": \"queue\", \"scheduled\": \"queue\"}}";
        CliError::usage(format!("{} is no table of agents that are away: {error}", file.display()), help)
    })?;
    // Rows that it does not name stay as they are.
    let mut table = AwayTable::default();
    table.0.extend(own.0);
    Ok(table)
}

fn deliveries(settings: &Settings) -> Result<Deliveries> {
    let failed = |error: mover_control::ControlError| CliError::usage(error.to_string(), "see --mail and --mail-from");
    let mail = match &settings.mail {
        Some((url, from)) => Some(Arc::new(SmtpMail::new(url, from).map_err(failed)?) as Arc<_>),
        None => None,
    };
    Deliveries::new(mail, settings.hooks_to_loopback).map_err(failed)
}

/// Names and addresses of the certificate.
fn names(settings: &Settings) -> Vec<String> {
    let mut names = settings.names.clone();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    names.extend([host, "localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()]);
    for address in [Some(settings.listen), settings.agent_listen].into_iter().flatten() {
        if !address.ip().is_unspecified() {
            names.push(address.ip().to_string());
        }
    }
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| !name.is_empty() && seen.insert(name.clone()));
    names
}

fn url(scheme: &str, names: &[String], address: SocketAddr) -> String {
    // On loopback only its own address leads there.
    let host = if address.ip().is_loopback() { &address.ip().to_string() } else { &names[0] };
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    format!("{scheme}://{host}:{}", address.port())
}

/// What is told; the first start makes an admin token and an enrolment.
async fn started(app: &App, settings: &Settings, names: &[String], authority_file: PathBuf) -> Result<Started> {
    let failed = |error: mover_control::ControlError| CliError::system("make", "the first token", error);
    let now = app.clock.now();
    let admins = tokens::count(&app.database, Role::Admin, now).await.map_err(failed)?;
    let (mut admin_token, mut join) = (None, None);
    if admins == 0 || settings.new_admin_token {
        let (_, secret) = tokens::create(&app.database, "admin", Role::Admin, None, now).await.map_err(failed)?;
        admin_token = Some(secret.reveal().to_owned());
        let enrolled = enrolment::create(&app.database, "main", FIRST_ENROLMENT, "admin", now).await;
        join = Some(Enrolment::of(app, enrolled.map_err(failed)?.reveal()).command);
    }
    let scheme = if settings.plain_http { "http" } else { "https" };
    Ok(Started {
        url: url(scheme, names, app.listeners.people),
        agents_url: app.agents_url.clone(),
        authority_sha256: app.authority.pin(),
        authority_file,
        admin_token,
        join,
    })
}

fn write_whole(file: &Path, content: &[u8]) -> Result<()> {
    let failed = |error: std::io::Error| CliError::system("write", file.display(), error);
    let part = file.with_extension("part");
    std::fs::write(&part, content).map_err(failed)?;
    std::fs::rename(&part, file).map_err(failed)
}

/// Shows a new certificate in time, for ever. Looks often, since a clock may be set in between.
async fn renew(app: Arc<App>, certificate: Arc<ServerCertificate>, names: Vec<String>) {
    loop {
        tokio::time::sleep(RENEWAL_LOOK).await;
        if certificate.is_due(app.clock.now())
            && let Err(error) = certificate.renew(&app.authority, &names, app.clock.now())
        {
            tracing::error!(error = &error as &dyn std::error::Error, "the certificate of the server was not renewed");
        }
    }
}

/// Tells the watchdog of the system that this thread lives, and keeps the metrics small.
async fn keep_up(metrics: PrometheusHandle) {
    let half = sd_notify::watchdog_enabled().map(|period| period / 2);
    let period = half.unwrap_or(Duration::from_secs(5)).min(Duration::from_secs(5));
    loop {
        if half.is_some() {
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        }
        metrics.run_upkeep();
        tokio::time::sleep(period).await;
    }
}

#[cfg(test)]
mod tests {
    use mover_control::job::{Origin, Workload};
    use mover_control::placement::away::AwayAction;

    use super::*;

    #[test]
    fn away_file_extends_the_default_table() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{"nas":{"on_demand":"fail_at_once","scheduled":"queue"}}"#).unwrap();
        let table = read_away(file.path()).unwrap();
        assert_eq!(table.action(None, Workload::Nas, Origin::OnDemand), AwayAction::FailAtOnce);
        let host = table.action(None, Workload::FileServer, Origin::Scheduled);
        assert_eq!(host, AwayAction::WaitUntilWindowEnds, "S-012 holds still");
    }
}
