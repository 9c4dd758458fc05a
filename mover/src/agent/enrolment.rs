//! How a host becomes an agent, and stays one: a key that never leaves it, a certificate for that key, a pinned authority.
//!
//! An enrolment may be repeated with the same token after a lost answer: key and id are kept, so it is the same agent.
//! Under another name it is another agent.

use std::time::Duration;

use mover_control::ids::{AgentId, UnixMillis};
use mover_control::protocol::{EnrolAnswer, EnrolRequest, RenewRequest, path};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::args::EnrolArgs;
use super::connection::{self, Connection, Refusal, TIMEOUT};
use super::settings;
use super::state::{Identity, Papers, StateDirectory};
use crate::cli::error::{CliError, Result};
use crate::cli::exit::Exit;
use crate::cli::output::Output;
use crate::cli::repository::host;
use crate::client::trust::{self, Trust};

/// Renewed when less of its life than this is left.
const RENEWED_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Enrols.
pub fn enrol(output: &Output, args: &EnrolArgs, config: Option<&std::path::Path>) -> Result<Exit> {
    let described = settings::load(config)?;
    let server = args.server.url()?;
    let trust = args.server.trust()?;
    if matches!(trust, Trust::Machine) {
        return Err(CliError::usage(
            "by what is the server to be known?",
            "give --ca-fingerprint (the server prints it at its start) or --ca FILE",
        ));
    }
    let token = match args.token.as_str() {
        "-" => std::io::read_to_string(std::io::stdin())
            .map_err(|error| CliError::system("read", "standard input", error))?
            .trim()
            .to_owned(),
        token => token.to_owned(),
    };
    let state = StateDirectory::open(args.state.as_deref())?;
    let name = args.name.clone().unwrap_or_else(host);
    let applicant = state.applicant(&name, || {
        let key = KeyPair::generate().map(|key| key.serialize_pem()).map_err(no_key)?;
        Ok((AgentId::new(jiff::Timestamp::now().into()), key))
    })?;
    let request = EnrolRequest {
        token,
        agent: applicant.agent.clone(),
        name,
        description: described.describe(String::new()),
        certificate_request: certificate_request(&applicant.key, &applicant.agent)?,
    };
    let http = trust::http(&trust, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::system("start", "the request", error))?;
    let answer: EnrolAnswer = runtime
        .block_on(connection::post(&http, &server, path::ENROL, &request, TIMEOUT))
        .map_err(|refusal| told(&server, refusal))?;
    if let Trust::Fingerprint(given) = &trust
        && !trust::has_fingerprint(&answer.authority, given)
    {
        return Err(CliError::failed(
            format!("{server} names another authority than the one with fingerprint {given}"),
            "ask whoever runs the server; nothing was kept",
        ));
    }
    let identity = state.adopt(&applicant, &server, &answer.certificate, &answer.authority)?;
    let (name, pool) = (&answer.agent.name, &answer.agent.pool);
    output.say(&format!("enrolled as {name} ({}) of pool {pool}", identity.agent))?;
    output.say(&format!("`mover agent run --state {}` begins to work", state.path().display()))?;
    let fields = json!({ "agent": identity.agent, "name": name, "pool": pool, "state": state.path(), "exit_code": 0 });
    output.object("summary", fields)?;
    Ok(Exit::Done)
}

fn no_key(error: rcgen::Error) -> CliError {
    CliError::system("make", "a key", error)
}

fn certificate_request(key: &str, agent: &AgentId) -> Result<String> {
    let key = KeyPair::from_pem(key).map_err(|error| CliError::system("use", "the key of this agent", error))?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, agent.as_str());
    let request = params.serialize_request(&key).and_then(|request| request.pem());
    request.map_err(|error| CliError::system("make", "a certificate request", error))
}

fn told(server: &str, refusal: Refusal) -> CliError {
    let help = match &refusal {
        Refusal::Away(_) => "check the address, the port and the fingerprint; the token is not spent",
        Refusal::Conflict(_) => {
            "give another name with --name, or free this one with `mover agent revoke` and `mover agent remove`; the token is \
             not spent"
        }
        _ => "ask for a new token: `mover agent enrol-token`",
    };
    CliError::failed(format!("{server} did not enrol this host: {refusal}"), help)
}

/// Whether a certificate is near its end.
pub fn is_due(papers: &Papers, now: UnixMillis) -> bool {
    let first = CertificateDer::pem_slice_iter(papers.certificate.as_bytes()).next();
    let end = first.and_then(std::result::Result::ok).and_then(|certificate| {
        let (_, parsed) = X509Certificate::from_der(&certificate).ok()?;
        Some(parsed.validity().not_after.timestamp())
    });
    end.is_none_or(|end| end - now.0 / 1000 < RENEWED_BEFORE.as_secs() as i64)
}

/// Gets a new certificate for the same key, keeps it, and goes on with it.
pub async fn renew(
    state: &StateDirectory,
    connection: &Connection,
    identity: &Identity,
    papers: &mut Papers,
) -> std::result::Result<(), String> {
    let request = certificate_request(&papers.key, &identity.agent).map_err(|error| error.to_string())?;
    let request = RenewRequest { certificate_request: request };
    let answer: EnrolAnswer =
        connection.post(path::RENEW, &request, TIMEOUT).await.map_err(|refusal| refusal.to_string())?;
    // The authority was pinned at the enrolment and is not changed by an answer.
    let renewed = Papers { certificate: answer.certificate, ..papers.clone() };
    connection.renew(&renewed).map_err(|error| error.to_string())?;
    state.keep(identity, &renewed.certificate, &renewed.authority).map_err(|error| error.to_string())?;
    *papers = renewed;
    Ok(())
}
