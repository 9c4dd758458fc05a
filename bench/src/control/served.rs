//! A real `mover serve`, and agents that reach it as agents do: HTTP over mutual TLS, one connection each, from an
//! address of loopback of their own.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::stream::{StreamExt, TryStreamExt, iter};
use mover_control::ids::{AgentId, JobId};
use mover_control::job::{JobState, Outcome};
use mover_control::lease::report::{Advice, Ending, Held};
use mover_control::protocol::{
    BeatAnswer, BeatRequest, EnrolAnswer, EnrolRequest, FinishAnswer, FinishRequest, POLL_WAIT, PollAnswer,
    PollRequest, path,
};
use rcgen::{CertificateParams, KeyPair};
use reqwest::{Certificate, Client, Identity, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::plane::{Plane, description};
use super::postgres::Postgres;
use super::process;
use crate::{Result, during};

/// Requests of one kind in flight while the stage is set.
const TOGETHER: usize = 50;
/// Tokens that jobs are submitted with: one may ask only so often.
const TOKENS: usize = 25;
/// Longer than any answer takes.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A server as a process, with agents that have joined it.
pub struct Served<'a> {
    child: Child,
    url: String,
    people: Vec<Person>,
    agents: Vec<Client>,
    postgres: Option<&'a Postgres>,
    memory_before_kib: f64,
}

/// Somebody with a token.
struct Person {
    http: Client,
    token: String,
}

impl<'a> Served<'a> {
    /// Starts `program serve` with its state in `data`, or on this PostgreSQL, and has `count` agents join.
    pub async fn start(
        program: &Path,
        data: &Path,
        postgres: Option<&'a Postgres>,
        count: usize,
    ) -> Result<Served<'a>> {
        let mut command = Command::new(program);
        command.args(["serve", "--json", "--listen", "127.0.0.1:0", "--data"]).arg(data).env_remove("MOVER_DATABASE");
        if let Some(postgres) = postgres {
            command.env("MOVER_DATABASE", &postgres.url);
        }
        let log = during("make a log", std::fs::File::create(data.with_extension("log")))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).env("RUST_LOG", "warn");
        let child = during(format!("start {}", program.display()), command.spawn())?;
        let mut served = Served {
            child,
            url: String::new(),
            people: Vec::new(),
            agents: Vec::new(),
            postgres,
            memory_before_kib: 0.0,
        };
        let mut line = String::new();
        let output = served.child.stdout.take().expect("it is piped");
        during("read what the server says", BufReader::new(output).read_line(&mut line))?;
        let said: Value = during(format!("understand '{line}'"), serde_json::from_str(&line))?;
        let word = |name: &str| said[name].as_str().ok_or_else(|| format!("the server did not begin: {said}"));
        served.url = word("agents_url")?.to_owned();
        let authority = during("read the authority", std::fs::read(word("authority_file")?))?;
        let authority = during("read the authority", Certificate::from_pem(&authority))?;
        let token = during("read the token", std::fs::read_to_string(word("admin_token_file")?))?;
        let admin = Person { http: client(&authority, None, address(0))?, token: token.trim().to_owned() };
        for number in 0..TOKENS {
            let body = json!({ "name": format!("bench {number}"), "role": "operator" });
            let made: Value = admin.post(&served.url, "/api/v1/tokens", &body).await?;
            let token = made["secret"].as_str().ok_or("a token has no secret")?.to_owned();
            served.people.push(Person { http: client(&authority, None, address(0))?, token });
        }
        served.memory_before_kib = process::resident_kib(served.child.id())?;
        let joined = (0..count).map(|number| join(&served.url, &admin, &authority, number));
        served.agents = iter(joined).buffered(TOGETHER).try_collect().await?;
        Ok(served)
    }

    /// What an agent that waits costs the server, in KiB of resident memory: its growth since nobody had joined.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn kib_per_agent(&self) -> Result<f64> {
        let now = process::resident_kib(self.child.id())?;
        Ok((now - self.memory_before_kib) / self.agents.len() as f64)
    }

    async fn ask<T: DeserializeOwned>(&self, agent: usize, path: &str, body: &impl Serialize) -> Result<T> {
        post(&self.agents[agent], &self.url, path, None, body).await
    }

    async fn ask_for(&self, agent: usize, free: u32, wait: Duration) -> Result<PollAnswer> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let wait_seconds = wait.as_secs();
        let request = PollRequest { version, free, resident: Vec::new(), answering: Vec::new(), wait_seconds };
        self.ask(agent, path::POLL, &request).await
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Plane for Served<'_> {
    fn agents(&self) -> usize {
        self.agents.len()
    }

    async fn submit(&self, round: &str, count: usize) -> Result<Vec<JobId>> {
        let one = async |number: usize| {
            let body = json!({
                "kind": "backup", "workload": "virtual_machine", "set": format!("{round} {number}"),
                "source": format!("source {round} {number}"), "repository": format!("repository {}", number % 20),
                "place": { "pool": { "pool": "main", "reach": null, "preferred": null } }, "order": {},
            });
            let made: Value = self.people[number % TOKENS].post(&self.url, "/api/v1/jobs", &body).await?;
            Ok::<_, String>(JobId::from(made["id"].as_str().ok_or("a job has no id")?))
        };
        // What waited at the end of the round before has closed its connection: handshakes are no part of a round, and no
        // poll of that round, which is replaced by this one, gets a job of this round.
        let connect = async |agent: usize| self.ask_for(agent, 0, Duration::ZERO).await.map(|_| ());
        let () = iter((0..self.agents.len()).map(connect)).buffered(TOGETHER).try_collect().await?;
        iter((0..count).map(one)).buffered(TOGETHER).try_collect().await
    }

    async fn poll(&self, agent: usize) -> Result<Vec<Held>> {
        let answer = self.ask_for(agent, 1, POLL_WAIT).await?;
        Ok(answer.leases.into_iter().map(|lease| Held { job: lease.job.id, fence: lease.fence }).collect())
    }

    async fn beat(&self, agent: usize, held: &Held) -> Result<Vec<Advice>> {
        let request = BeatRequest { jobs: vec![(held.clone(), None)] };
        Ok(self.ask::<BeatAnswer>(agent, path::BEAT, &request).await?.advice)
    }

    async fn finish(&self, agent: usize, held: Held) -> Result<()> {
        let request = FinishRequest { held, ending: Ending::Completed, outcome: Outcome::default() };
        self.ask::<FinishAnswer>(agent, path::FINISH, &request).await.map(|_| ())
    }

    async fn counts(&self) -> Result<Vec<(JobState, i64)>> {
        let person = &self.people[0];
        let request = person.http.get(format!("{}/api/v1/overview", self.url)).bearer_auth(&person.token);
        let answer = during("ask for the overview", request.send().await)?;
        let overview: Value = read("/api/v1/overview", answer).await?;
        let counts = overview["jobs"].as_array().ok_or("an overview has no jobs")?.iter();
        let counts = counts.map(|count| {
            let state = during("understand a state", serde_json::from_value(count["state"].clone()))?;
            Ok((state, count["count"].as_i64().unwrap_or_default()))
        });
        counts.collect()
    }

    fn cpu_seconds(&self) -> Result<f64> {
        Ok(process::cpu_seconds(self.child.id())? + self.postgres.map_or(Ok(0.0), Postgres::cpu_seconds)?)
    }
}

impl Person {
    async fn post<T: DeserializeOwned>(&self, url: &str, path: &str, body: &Value) -> Result<T> {
        post(&self.http, url, path, Some(&self.token), body).await
    }
}

/// Has one host join: a client with its papers.
async fn join(url: &str, admin: &Person, authority: &Certificate, number: usize) -> Result<Client> {
    let made: Value = admin.post(url, "/api/v1/enrolments", &json!({ "pool": "main" })).await?;
    let key = during("make a key", KeyPair::generate())?;
    let request = CertificateParams::default().serialize_request(&key).and_then(|request| request.pem());
    let request = EnrolRequest {
        token: made["token"].as_str().ok_or("an enrolment has no token")?.to_owned(),
        agent: AgentId::from(format!("agent-{number:06}")),
        name: format!("agent {number}"),
        description: description(),
        certificate_request: during("make a certificate request", request)?,
    };
    let stranger = client(authority, None, address(number + 1))?;
    let answer: EnrolAnswer = post(&stranger, url, path::ENROL, None, &request).await?;
    let papers = [answer.certificate, key.serialize_pem()].concat();
    let identity = during("use the papers of an agent", Identity::from_pem(papers.as_bytes()))?;
    client(authority, Some(identity), address(number + 1))
}

/// One address of loopback for each agent, as each has one in a pool.
fn address(number: usize) -> IpAddr {
    let [_, a, b, c] = (number as u32 + 0x0001_0001).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, a, b, c))
}

fn client(authority: &Certificate, identity: Option<Identity>, from: IpAddr) -> Result<Client> {
    let builder = Client::builder().tls_certs_only([authority.clone()]).local_address(from).timeout(TIMEOUT).no_proxy();
    // A connection is used again however long an agent worked in between.
    let builder = builder.pool_idle_timeout(None).pool_max_idle_per_host(1);
    let builder = match identity {
        Some(identity) => builder.identity(identity),
        None => builder,
    };
    during("make a client", builder.build())
}

/// One request, said again for as long as the server wants it later.
async fn post<T: DeserializeOwned>(
    http: &Client,
    url: &str,
    path: &str,
    token: Option<&str>,
    body: &impl Serialize,
) -> Result<T> {
    loop {
        let request = http.post(format!("{url}{path}")).json(body);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let answer = request.send().await.map_err(|error| format!("{path}: {error:?}"))?;
        if answer.status() != StatusCode::TOO_MANY_REQUESTS {
            return read(path, answer).await;
        }
        let seconds = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        tokio::time::sleep(Duration::from_secs(seconds.unwrap_or(1))).await;
    }
}

async fn read<T: DeserializeOwned>(path: &str, answer: Response) -> Result<T> {
    let status = answer.status();
    let text = answer.text().await.map_err(|error| format!("{path}: {error:?}"))?;
    if !status.is_success() {
        return Err(format!("{path}: {status}: {text}"));
    }
    during(format!("understand the answer of {path}"), serde_json::from_str(&text))
}
