//! `/api/v1` for people, scripts and the console: one table of routes, handlers by the noun that they are about.

mod agents;
mod events;
mod jobs;
mod overview;
mod people;
mod points;
mod policies;

use actix_web::http::Method;
use mover_control::access::Role::{Admin, Operator, Viewer};
use mover_control::access::audit::AuditRecord;
use mover_control::agents::Agent;
use mover_control::job::Job;
use mover_control::job::events::Event;
use mover_control::job::points::KnownPoint;
use mover_control::placement::away::AwayTable;
use mover_control::policy::Policy;
use mover_control::policy::store::StoredPolicy;

pub use agents::Enrolment;

use super::call::{Call, Reply};
use super::endpoint::{Access, Endpoint, get, post};
use super::problem::Problem;

/// What a handler gives back.
type Answer = Result<Reply, Problem>;

/// Where everything of the API stands.
pub const ROOT: &str = "/api/v1";

/// The routes.
pub fn endpoints() -> Vec<Endpoint> {
    let parts = [jobs(), policies(), agents(), points(), people(), rest()];
    parts.into_iter().flatten().collect()
}

fn jobs() -> Vec<Endpoint> {
    vec![
        get("/api/v1/jobs", Viewer, jobs::list).says("Jobs, newest first").query::<jobs::JobQuery>().pages::<Job>(),
        post("/api/v1/jobs", Operator, "job.submit", jobs::submit)
            .says("Submit a job: a backup, a restore, a verify or a prune")
            .takes::<jobs::SubmitJob>()
            .answers::<Job>(201),
        get("/api/v1/jobs/{id}", Viewer, jobs::get).says("One job").answers::<Job>(200),
        get("/api/v1/jobs/{id}/events", Viewer, jobs::events)
            .says("The history of a job, oldest first")
            .query::<PageQuery>()
            .pages::<Event>(),
        post("/api/v1/jobs/{id}/cancel", Operator, "job.cancel", jobs::cancel)
            .says("Stop a job; twice is once")
            .answers::<Job>(200),
        post("/api/v1/jobs/{id}/retry", Operator, "job.retry", jobs::retry)
            .says("Submit a job that has ended once more")
            .answers::<Job>(201),
    ]
}

fn policies() -> Vec<Endpoint> {
    let one = "/api/v1/policies/{id}";
    let change = |method: Method, role| Endpoint::new(method, one, Access::Token(role), policies::update);
    vec![
        get("/api/v1/policies", Viewer, policies::list)
            .says("Policies")
            .query::<policies::PolicyQuery>()
            .pages::<StoredPolicy>(),
        post("/api/v1/policies", Admin, "policy.create", policies::create)
            .says("Make a policy; its calendar runs from now on")
            .takes::<Policy>()
            .answers::<StoredPolicy>(201),
        post("/api/v1/policies/validate", Viewer, "policy.validate", policies::validate)
            .says("Whether a policy could ever work, with the reason if not; changes nothing")
            .takes::<Policy>()
            .answers::<policies::Verdict>(200)
            .changes_nothing(),
        get(one, Viewer, policies::get).says("One policy; its version is the ETag").answers::<StoredPolicy>(200),
        change(Method::PUT, Admin)
            .says("Replace what a policy says, if it still has the version of If-Match")
            .acts("policy.update")
            .takes::<Policy>()
            .answers::<StoredPolicy>(200)
            .conditional(),
        Endpoint::new(Method::DELETE, one, Access::Token(Admin), policies::remove)
            .says("Remove a policy; its jobs and recovery points stay")
            .acts("policy.remove")
            .answers_nothing(),
        post("/api/v1/policies/{id}/enable", Operator, "policy.enable", policies::enable)
            .says("Let the calendar run")
            .answers::<StoredPolicy>(200),
        post("/api/v1/policies/{id}/disable", Operator, "policy.disable", policies::disable)
            .says("Stop the calendar")
            .answers::<StoredPolicy>(200),
        post("/api/v1/policies/{id}/run", Operator, "policy.run", policies::run)
            .says("Run a policy now")
            .takes::<policies::RunNow>()
            .answers::<Job>(201),
        get("/api/v1/policies/{id}/runs", Viewer, policies::runs)
            .says("When the next runs begin")
            .query::<policies::RunsQuery>()
            .answers::<policies::NextRuns>(200),
    ]
}

fn agents() -> Vec<Endpoint> {
    vec![
        get("/api/v1/agents", Viewer, agents::list).says("Agents").query::<PageQuery>().pages::<agents::SeenAgent>(),
        get("/api/v1/agents/{id}", Viewer, agents::get).says("One agent").answers::<agents::SeenAgent>(200),
        post("/api/v1/agents/{id}/drain", Operator, "agent.drain", agents::drain)
            .says("Give it no new work; what it has it finishes")
            .answers::<Agent>(200),
        post("/api/v1/agents/{id}/undrain", Operator, "agent.undrain", agents::undrain)
            .says("Give it work again")
            .answers::<Agent>(200),
        post("/api/v1/agents/{id}/revoke", Admin, "agent.revoke", agents::revoke)
            .says("Its certificate counts no more; its jobs go to others")
            .answers::<Agent>(200),
        Endpoint::new(Method::DELETE, "/api/v1/agents/{id}", Access::Token(Admin), agents::remove)
            .says("Remove a revoked agent")
            .acts("agent.remove")
            .answers_nothing(),
        post("/api/v1/enrolments", Admin, "enrolment.create", agents::enrol)
            .says("A token with which one agent joins, shown once")
            .takes::<agents::NewEnrolment>()
            .answers::<agents::Enrolment>(201)
            .secret(),
    ]
}

fn points() -> Vec<Endpoint> {
    vec![
        get("/api/v1/points", Viewer, points::list)
            .says("Recovery points that jobs of this control plane made, newest first")
            .query::<points::PointQuery>()
            .pages::<KnownPoint>(),
        get("/api/v1/repository/points", Viewer, points::ask_points)
            .says("Recovery points of a repository, as an agent that serves it finds them now")
            .query::<points::RepositoryQuery>()
            .answers::<points::Listing>(200),
        get("/api/v1/repository/browse", Viewer, points::browse)
            .says("One directory of a recovery point, read by an agent that serves the repository")
            .query::<points::BrowseQuery>()
            .answers::<points::Listing>(200),
        post("/api/v1/points/{id}/restore", Operator, "point.restore", points::restore)
            .says("Restore from a recovery point: a job")
            .takes::<points::Restore>()
            .answers::<Job>(201),
    ]
}

fn people() -> Vec<Endpoint> {
    vec![
        get("/api/v1/tokens", Admin, people::list)
            .says("Tokens and sessions, without their secrets")
            .query::<PageQuery>()
            .pages::<mover_control::access::tokens::Token>(),
        post("/api/v1/tokens", Admin, "token.create", people::create)
            .says("Make a token; its secret is in this answer and nowhere else")
            .takes::<people::NewToken>()
            .answers::<people::MadeToken>(201)
            .secret(),
        post("/api/v1/tokens/{id}/revoke", Admin, "token.revoke", people::revoke)
            .says("End a token and its sessions")
            .answers_nothing(),
        get("/api/v1/session", Viewer, people::who).says("Who I am").answers::<people::Me>(200),
        Endpoint::new(Method::POST, "/api/v1/session", Access::Anybody, people::login)
            .says("Open a session of the console with a token: sets a cookie")
            .acts("session.open")
            .takes::<people::Login>()
            .body_at_most(people::LOGIN_BYTES)
            .answers::<people::Me>(201)
            .secret(),
        Endpoint::new(Method::DELETE, "/api/v1/session", Access::Token(Viewer), people::logout)
            .says("Close this session")
            .acts("session.close")
            .answers_nothing(),
        get("/api/v1/audit", Viewer, people::audit)
            .says("Who did what, newest first")
            .query::<PageQuery>()
            .pages::<AuditRecord>(),
    ]
}

fn rest() -> Vec<Endpoint> {
    vec![
        get("/api/v1/overview", Viewer, overview::overview)
            .says("Jobs by state, what runs with its throughput and bottleneck, agents")
            .answers::<overview::Overview>(200),
        get("/api/v1/away", Viewer, overview::away).says("The table Agent away").answers::<AwayTable>(200),
        get("/api/v1/events", Viewer, events::stream)
            .says("What happens to jobs, live, as server-sent events; goes on after Last-Event-ID")
            .answers_as("text/event-stream"),
        Endpoint::new(Method::GET, "/api/v1/openapi.json", Access::Anybody, openapi).says("This document"),
    ]
}

async fn openapi(_: Call) -> Answer {
    Ok(Reply::json(super::openapi::document()))
}

/// Bytes of a cursor at most.
const CURSOR_BYTES: usize = 64;

/// Where a page begins: the `next` of the page before.
#[derive(serde::Deserialize)]
#[serde(try_from = "String")]
pub struct Cursor(String);

impl TryFrom<String> for Cursor {
    type Error = String;

    fn try_from(text: String) -> Result<Cursor, String> {
        if text.len() > CURSOR_BYTES {
            return Err(format!("a cursor is at most {CURSOR_BYTES} bytes"));
        }
        Ok(Cursor(text))
    }
}

impl Cursor {
    /// As the id of a row.
    pub fn id<I: From<String>>(self) -> I {
        I::from(self.0)
    }
}

/// Which page of a list.
#[derive(serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// `next` of the page before.
    #[param(value_type = Option<String>, max_length = 64)]
    cursor: Option<Cursor>,
    /// Entries of a page; 100 if not said.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}
