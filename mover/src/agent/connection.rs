//! Requests of an agent to its server: mutual TLS, problems by their type, patience with jitter.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use mover_control::protocol::problem;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::state::{Identity, Papers};
use crate::cli::error::Result;
use crate::client::api::Problem;
use crate::client::trust::{self, Trust};

/// First pause after a request that failed.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause: so long after a server is back, all its agents are.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Beginning of those about its certificate: expired, not yet valid, unknown, of another name or authority, missing.
const CERTIFICATE: &str = "certificate-";
/// How long an answer may take that nobody waits for on purpose.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody answered, or the server cannot now: the same may be said again.
    Away(String),
    /// This agent is not let in as things are: its certificate does not count by the server's clock, or its version does
    /// not fit. That may pass by itself, so what runs here goes on.
    Barred(String),
    /// This agent was revoked.
    Revoked(String),
    /// The job is somebody else's, or has ended.
    Lost(String),
    /// There is no such job.
    Unknown(String),
    /// The job is to be stopped, or another poll came after this one.
    Conflict(String),
    /// The server refuses this request as it is.
    No(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Away(why) | Refusal::Barred(why) | Refusal::Revoked(why) | Refusal::Lost(why) => f.write_str(why),
            Refusal::Unknown(why) | Refusal::Conflict(why) | Refusal::No(why) => f.write_str(why),
        }
    }
}

/// The control plane as this agent reaches it. With several servers it asks one of them until that does not answer, and
/// from then on the next: they share a database, so it is all one which of them hears what.
pub struct Connection {
    servers: Vec<String>,
    asked: Cell<usize>,
    http: RefCell<reqwest::Client>,
}

impl Connection {
    /// With these papers, and with these servers besides the one that the agent enrolled with; nothing is asked yet.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn new(identity: &Identity, papers: &Papers, standby: &[String]) -> Result<Connection> {
        let servers = std::iter::once(&identity.server).chain(standby).cloned().collect();
        Ok(Connection { servers, asked: Cell::new(0), http: RefCell::new(client(papers)?) })
    }

    /// The server that is asked now.
    pub fn server(&self) -> &str {
        &self.servers[self.asked.get()]
    }

    /// Goes on with new papers.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn renew(&self, papers: &Papers) -> Result<()> {
        *self.http.borrow_mut() = client(papers)?;
        Ok(())
    }

    /// One request, one answer.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> std::result::Result<T, Refusal> {
        let http = self.http.borrow().clone();
        let asked = self.asked.get();
        let answer = post(&http, &self.servers[asked], path, body, timeout).await;
        // Of the requests that one server leaves without an answer the first moves on.
        if matches!(answer, Err(Refusal::Away(_))) && self.asked.get() == asked && self.servers.len() > 1 {
            self.asked.set((asked + 1) % self.servers.len());
            tracing::warn!(server = self.servers[asked], next = self.server(), "no answer; the next server is asked");
        }
        answer
    }
}

fn client(papers: &Papers) -> Result<reqwest::Client> {
    let own = trust::Papers { certificate: &papers.certificate, key: &papers.key };
    trust::http(&Trust::Authority(papers.authority.clone()), Some(own))
}

/// One request of whoever has this client.
///
/// # Errors
/// See [`Refusal`].
pub async fn post<T: DeserializeOwned>(
    http: &reqwest::Client,
    server: &str,
    path: &str,
    body: &impl Serialize,
    timeout: Duration,
) -> std::result::Result<T, Refusal> {
    let text = serde_json::to_vec(body).map_err(|error| Refusal::No(format!("the request has no form: {error}")))?;
    let url = format!("{}{path}", server.trim_end_matches('/'));
    let request = http.post(url).header("content-type", "application/json").timeout(timeout).body(text);
    let away = |error: reqwest::Error| Refusal::Away(crate::client::api::innermost(&error));
    let mut response = request.send().await.map_err(away)?;
    let status = response.status();
    let mut answer = Vec::new();
    while let Some(part) = response.chunk().await.map_err(away)? {
        if answer.len() + part.len() > ANSWER_BYTES_MAX {
            return Err(Refusal::No(format!("the answer of {path} is too large")));
        }
        answer.extend_from_slice(&part);
    }
    if !status.is_success() {
        return Err(refusal(&Problem::read(status.as_u16(), &answer)));
    }
    // What has no content answers to what asks for nothing.
    let content: &[u8] = if answer.is_empty() { b"null" } else { &answer };
    serde_json::from_slice(content)
        .map_err(|error| Refusal::Away(format!("the answer of {path} makes no sense: {error}")))
}

fn refusal(said: &Problem) -> Refusal {
    let why = said.to_string();
    match said.name() {
        problem::AGENT_REVOKED => Refusal::Revoked(why),
        // A server whose clock jumped says these of every agent.
        problem::AGENT_VERSION => Refusal::Barred(why),
        name if name.starts_with(CERTIFICATE) => Refusal::Barred(why),
        problem::STALE_FENCE | problem::ENDED => Refusal::Lost(why),
        problem::NOT_FOUND => Refusal::Unknown(why),
        problem::CONFLICT => Refusal::Conflict(why),
        // Whoever answers has no such path: the listener of people, a proxy, another program. It knows nothing of jobs.
        _ if matches!(said.status, 404 | 405) => Refusal::Away(format!(
            "{why}; the address may be the wrong one: agents have one of their own if the server says so"
        )),
        _ if matches!(said.status, 408 | 429 | 500..) => Refusal::Away(why),
        _ => Refusal::No(why),
    }
}

/// Pauses that grow, each drawn anew between nothing and its bound, so that agents do not come in step.
#[derive(Default)]
pub struct Patience {
    failures: u32,
}

impl Patience {
    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let bound = PAUSE_MIN.saturating_mul(1 << self.failures.min(10)).min(PAUSE_MAX);
        self.failures += 1;
        bound.mul_f64(rand::random_range(0.1..1.0))
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str, status: u16) -> Refusal {
        let text = format!(r#"{{"type":"urn:mover:problem:{name}","title":"t","status":{status},"detail":"because"}}"#);
        refusal(&Problem::read(status, text.as_bytes()))
    }

    #[test]
    fn problems_are_told_apart_by_their_type_and_never_by_words() {
        assert!(matches!(said("agent-revoked", 403), Refusal::Revoked(_)));
        assert!(matches!(said("stale-fence", 409), Refusal::Lost(_)));
        assert!(matches!(said("ended", 409), Refusal::Lost(_)));
        assert!(matches!(said("not-found", 404), Refusal::Unknown(_)));
        assert!(matches!(said("conflict", 409), Refusal::Conflict(_)));
        for (name, status) in [("no-such-path", 404), ("method-not-allowed", 405)] {
            let refusal = said(name, status);
            assert!(
                matches!(&refusal, Refusal::Away(why) if why.contains("the address may be the wrong one")),
                "{refusal}"
            );
        }
        assert!(matches!(refusal(&Problem::read(404, b"<html>")), Refusal::Away(_)), "no word of a job");
        for (name, status) in [("malformed", 400), ("too-large", 413), ("forbidden", 403), ("newer-than-this", 418)] {
            assert!(matches!(said(name, status), Refusal::No(_)), "{name} says nothing of the job");
        }
        assert!(matches!(said("database-away", 503), Refusal::Away(_)));
        assert!(matches!(said("too-many-requests", 429), Refusal::Away(_)));
        assert!(
            matches!(refusal(&Problem::read(502, b"<html>")), Refusal::Away(_)),
            "a proxy that is no server of ours"
        );
    }

    /// A server whose clock jumped two years ahead once made all its agents kill what they ran.
    #[test]
    fn clock_of_the_server_and_versions_bar_an_agent_and_do_not_end_it() {
        for name in ["expired", "not-yet-valid", "unknown", "name", "authority", "missing"] {
            assert!(matches!(said(&format!("certificate-{name}"), 401), Refusal::Barred(_)), "{name}");
        }
        assert!(matches!(said("agent-version", 403), Refusal::Barred(_)));
    }

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew() {
        let mut patience = Patience::default();
        let pauses: Vec<Duration> = (0..40).map(|_| patience.pause()).collect();
        assert!(pauses[0] < PAUSE_MIN && pauses.iter().all(|pause| *pause < PAUSE_MAX));
        assert!(pauses[10..].iter().any(|pause| *pause > PAUSE_MAX / 4));
        patience.reset();
        assert!(patience.pause() < PAUSE_MIN);
    }
}
