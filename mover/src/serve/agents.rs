//! The agents' side: `mover_control::protocol` over HTTP. Who the agent is comes from its certificate.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use actix_web::http::Method;
use actix_web::http::StatusCode;
use mover_control::ControlError;
use mover_control::access::Role;
use mover_control::agents::{self, Agent, enrolment};
use mover_control::browse::{self, OpenQuestion};
use mover_control::database::Database;
use mover_control::error::Refusal;
use mover_control::ids::{RecordId, UnixMillis};
use mover_control::lease::lapse;
use mover_control::lease::report::{self, Advice};
use mover_control::lease::take::{Lease, Offer};
use mover_control::placement::{lane, version};
use mover_control::protocol::{
    AdvanceRequest, BeatAnswer, BeatRequest, EnrolAnswer, EnrolRequest, FinishAnswer, FinishRequest, GrantRequest,
    HelloAnswer, HelloRequest, PollAnswer, PollRequest, Question, RenewRequest, ReplyRequest, path,
};
use mover_control::service::queue::{Poll, WAIT_MAX, give_back};
use tokio::sync::oneshot;

use super::app::App;
use super::call::{Call, Reply};
use super::endpoint::{Access, Endpoint};
use super::problem::Problem;

/// Version of this server.
const OWN_VERSION: &str = env!("CARGO_PKG_VERSION");
/// Jobs in one heartbeat at most.
const BEATS_MAX: usize = 4096;

type Answer = Result<Reply, Problem>;

/// The routes.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new(Method::POST, path::ENROL, Access::Anybody, enrol).says("Join").acts("agent.enrol"),
        agent(path::RENEW, renew).says("A certificate for longer").acts("agent.renew"),
        agent(path::HELLO, hello).says("An agent begins"),
        agent(path::POLL, poll).says("Wait for work"),
        agent(path::BEAT, beat).says("Heartbeat"),
        agent(path::ADVANCE, advance).says("A job goes on"),
        agent(path::GRANT, grant).says("May a job commit"),
        agent(path::FINISH, finish).says("A job ended"),
        agent(path::REPLY, reply).says("What is in a repository"),
    ]
}

fn agent<F>(path: &'static str, handler: impl Fn(Call) -> F + Send + Sync + 'static) -> Endpoint
where
    F: Future<Output = Answer> + 'static,
{
    Endpoint::new(Method::POST, path, Access::Agent, handler)
}

fn refuse_version(agent: &str, id: &mover_control::ids::AgentId) -> Result<(), Problem> {
    version::check(agent, OWN_VERSION)
        .map_err(|reason| ControlError::AgentRefused { agent: id.clone(), refusal: Refusal::Version, reason }.into())
}

async fn enrol(call: Call) -> Answer {
    let asked: EnrolRequest = call.body()?;
    let name = asked.name.clone();
    match join(call, asked).await {
        Ok(reply) => Ok(reply.by(name, Role::Agent)),
        Err(problem) => Err(problem.by(name, Role::Agent)),
    }
}

async fn join(call: Call, asked: EnrolRequest) -> Answer {
    refuse_version(&asked.description.version, &asked.agent)?;
    let is_id = asked.agent.as_str().len() <= 64
        && !asked.agent.as_str().is_empty()
        && asked.agent.as_str().chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-');
    if !is_id {
        return Err(Problem::malformed("the id of an agent is 1 to 64 letters, digits and hyphens"));
    }
    let now = call.now();
    let signed = call.app.authority.agent(&asked.certificate_request, &asked.agent, now);
    let signed = signed.map_err(Problem::malformed)?;
    let enrolled = enrolment::enrol(
        call.database(),
        &asked.token,
        &asked.agent,
        &asked.name,
        &asked.description,
        &signed.fingerprint,
        now,
    );
    let agent = enrolled.await?;
    call.app.wake();
    let object = agent.id.to_string();
    let authority = call.app.authority.certificate.clone();
    Ok(Reply::created(&EnrolAnswer { agent, certificate: signed.certificate, authority }, object))
}

async fn renew(call: Call) -> Answer {
    let asked: RenewRequest = call.body()?;
    let agent = call.agent().clone();
    let signed = call.app.authority.agent(&asked.certificate_request, &agent.id, call.now());
    let signed = signed.map_err(Problem::malformed)?;
    if signed.fingerprint != agent.fingerprint {
        let detail = "a certificate is renewed for the key that the agent has; enrol anew to change the key";
        return Err(Problem::new(StatusCode::CONFLICT, "key-changed", detail));
    }
    let authority = call.app.authority.certificate.clone();
    Ok(Reply::json(&EnrolAnswer { agent, certificate: signed.certificate, authority }))
}

async fn hello(call: Call) -> Answer {
    let said: HelloRequest = call.body()?;
    let agent = lapse::greet(call.database(), &call.agent().id, &said, call.now()).await?;
    call.app.wake();
    let slots = agent.slots();
    Ok(Reply::json(&HelloAnswer {
        agent,
        server_version: OWN_VERSION.to_owned(),
        heartbeat_seconds: call.app.heartbeat.as_secs().max(1),
        slots,
    }))
}

/// A poll on its way to the queue.
type Asked = Pin<Box<dyn Future<Output = Result<mover_control::Result<Vec<Lease>>, actix::MailboxError>>>>;

/// A poll that waits. When it is dropped (its connection broke, a question came first) it waits no more, and what was on
/// its way to it goes back.
struct Waiting {
    leases: Option<Asked>,
    asker: Option<oneshot::Sender<()>>,
    database: Database,
    now: UnixMillis,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.asker.take());
        let Some(leases) = self.leases.take() else { return };
        let (database, now) = (self.database.clone(), self.now);
        actix_web::rt::spawn(async move {
            if let Ok(Ok(leases)) = leases.await {
                give_back(&database, leases, now).await;
            }
        });
    }
}

async fn poll(call: Call) -> Answer {
    let asked: PollRequest = call.body()?;
    let agent = call.agent();
    refuse_version(&asked.version, &agent.id)?;
    if asked.resident.len().max(asked.answering.len()) > BEATS_MAX {
        return Err(Problem::malformed(format!(
            "at most {BEATS_MAX} repositories are resident, and as many questions are being answered"
        )));
    }
    let wait = Duration::from_secs(asked.wait_seconds).min(WAIT_MAX);
    let offer = Offer { agent: agent.id.clone(), free: asked.free, resident: asked.resident };
    let lanes: BTreeSet<String> =
        lane::of_agent(&agent.id, &agent.pool, &agent.description.reaches).into_iter().collect();
    let (poll, asker) = Poll::new(offer, wait);
    let mut waiting = Waiting {
        leases: Some(Box::pin(call.app.service.queue.send(poll))),
        asker: Some(asker),
        database: call.database().clone(),
        now: call.now(),
    };
    let mut stopping = call.app.stopping.clone();
    let leases = async {
        let request = waiting.leases.as_mut().expect("it waits");
        let answer = request.await;
        waiting.leases = None;
        answer
    };
    let answer = tokio::select! {
        biased;
        leases = leases => {
            let leases = leases.map_err(|_| Problem::internal())??;
            PollAnswer { leases, questions: Vec::new() }
        }
        questions = questions(&call.app, agent, &lanes, &asked.answering) => PollAnswer { leases: Vec::new(), questions: questions? },
        _ = stopping.wait_for(|stopping| *stopping) => PollAnswer::default(),
    };
    for lease in &answer.leases {
        tracing::info!(job = %lease.job.id, agent = %lease.agent, fence = lease.fence, "leased");
    }
    Ok(Reply::json(&answer))
}

/// The next questions that this agent got.
async fn questions(
    app: &App,
    agent: &Agent,
    lanes: &BTreeSet<String>,
    answering: &[RecordId],
) -> Result<Vec<Question>, Problem> {
    let mut open = app.questions.clone();
    loop {
        let seen = open.borrow_and_update().clone();
        let mut taken = Vec::new();
        let is_for_it =
            |question: &&OpenQuestion| !question.lanes.is_disjoint(lanes) && !answering.contains(&question.question.id);
        for question in seen.iter().filter(is_for_it) {
            if browse::take(&app.database, &question.question.id, &agent.id).await? {
                taken.push(question.question.clone());
            }
        }
        if !taken.is_empty() {
            return Ok(taken);
        }
        if open.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn beat(call: Call) -> Answer {
    let said: BeatRequest = call.body()?;
    if said.jobs.len() > BEATS_MAX {
        return Err(Problem::malformed(format!("a heartbeat is of at most {BEATS_MAX} jobs")));
    }
    let advice = report::beat(call.database(), &call.agent().id, &said.jobs, call.now()).await?;
    Ok(Reply::json(&BeatAnswer { advice }))
}

async fn advance(call: Call) -> Answer {
    let said: AdvanceRequest = call.body()?;
    let agent = &call.agent().id;
    let job = report::advance(call.database(), agent, &said.held, said.state, &said.progress, call.now()).await?;
    tracing::info!(job = %job.id, %agent, state = %job.state, "advanced");
    Ok(Reply::json(&job.stop.map_or(Advice::Continue, |why| Advice::Stop { why })))
}

async fn grant(call: Call) -> Answer {
    let asked: GrantRequest = call.body()?;
    report::grant(call.database(), &call.agent().id, &asked.held, call.now()).await?;
    tracing::info!(job = %asked.held.job, agent = %call.agent().id, "may commit");
    Ok(Reply::empty())
}

async fn finish(call: Call) -> Answer {
    let said: FinishRequest = call.body()?;
    let agent = &call.agent().id;
    let finished = report::finish(call.database(), agent, &said.held, &said.ending, said.outcome, call.now()).await?;
    tracing::info!(job = %finished.job.id, %agent, state = %finished.job.state, repeated = finished.repeated, "finished");
    if !finished.repeated {
        call.app.wake();
    }
    Ok(Reply::json(&FinishAnswer { state: finished.job.state, repeated: finished.repeated }))
}

async fn reply(call: Call) -> Answer {
    let said: ReplyRequest = call.body()?;
    browse::put_reply(call.database(), &said.id, &call.agent().id, &said.reply).await?;
    Ok(Reply::empty())
}

/// An agent is heard several times before it counts as away.
const _: () = assert!(agents::CONNECTED.as_secs() > 3 * agents::HEARTBEAT.as_secs());
