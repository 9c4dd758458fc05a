//! `mover job`: submit, look, stop, do again, wait.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::api::{self, Api, cell, place, print_list, print_one, time};
use super::args::{JobArgs, JobCommand, JobListArgs, JobWaitArgs};
use super::{agent, policy};
use crate::cli::Session;
use crate::cli::error::{CliError, Result};
use crate::cli::exit::Exit;
use crate::cli::units::human_bytes;

const JOBS: &str = "/api/v1/jobs";
/// Time between two looks at a job that is waited for.
const LOOK: Duration = Duration::from_millis(500);
/// Lines of a history at most.
const EVENTS_MAX: usize = 100_000;

/// Does it.
pub fn run(session: &Session, args: &JobArgs) -> Result<Exit> {
    let api = Api::new(&args.client)?;
    let one = |job: &str| format!("{JOBS}/{}", place(job));
    match &args.what {
        JobCommand::Submit(document) => show(session, &api.post(JOBS, &api::document(&document.file)?)?),
        JobCommand::List(args) => list(session, &api, args),
        JobCommand::Show(job) => show(session, &api.get(&one(&job.job))?),
        JobCommand::Cancel(job) => show(session, &api.post(&format!("{}/cancel", one(&job.job)), &json!({}))?),
        JobCommand::Retry(job) => show(session, &api.post(&format!("{}/retry", one(&job.job)), &json!({}))?),
        JobCommand::Wait(args) => wait(session, &api, args),
        JobCommand::Logs(job) => {
            let events = api.list(&format!("{}/events", one(&job.job)), &[], EVENTS_MAX)?;
            print_list(session, "event", &events, &["time", "what", "state", "agent", "why"], |event| {
                vec![
                    time(&event["at"]),
                    cell(&event["kind"]),
                    cell(&event["state"]),
                    cell(&event["agent"]),
                    cell(&event["message"]),
                ]
            })?;
            Ok(Exit::Done)
        }
    }
}

fn list(session: &Session, api: &Api, args: &JobListArgs) -> Result<Exit> {
    let policy = named(api, "policy", args.policy.as_deref(), policy::id_of)?;
    let agent = named(api, "agent", args.agent.as_deref(), agent::id_of)?;
    let query = [("state", args.state.clone()), ("set", args.set.clone()), ("policy", policy), ("agent", agent)];
    let jobs = api.list(JOBS, &query, args.limit)?;
    let columns = ["id", "kind", "state", "set", "agent", "created", ">done", "message"];
    print_list(session, "job", &jobs, &columns, |job| {
        vec![
            cell(&job["id"]),
            cell(&job["kind"]),
            cell(&job["state"]),
            cell(&job["set"]),
            cell(&job["agent"]),
            time(&job["created_at"]),
            human_bytes(done_bytes(job)),
            cell(&job["message"]),
        ]
    })?;
    Ok(Exit::Done)
}

/// The id of what was named. Jobs outlive what they were of: an id that only they know counts too.
fn named(
    api: &Api,
    what: &'static str,
    named: Option<&str>,
    id_of: fn(&Api, &str) -> Result<String>,
) -> Result<Option<String>> {
    let Some(named) = named else { return Ok(None) };
    match id_of(api, named) {
        Ok(id) => Ok(Some(id)),
        Err(unknown) => {
            let left = api.list(JOBS, &[(what, Some(named.to_owned()))], 1)?;
            if left.is_empty() { Err(unknown) } else { Ok(Some(named.to_owned())) }
        }
    }
}

fn done_bytes(job: &Value) -> u64 {
    let bytes = &job["progress"]["bytes"];
    ["read", "unchanged", "restored"].iter().map(|name| bytes[*name].as_u64().unwrap_or(0)).sum()
}

/// Prints a job: how it stands, what it made, what was wrong, what was left out.
pub fn show(session: &Session, job: &Value) -> Result<Exit> {
    let (progress, outcome) = (&job["progress"], &job["outcome"]);
    let excluded = outcome["excluded"].as_object().into_iter().flatten();
    let excluded: Vec<String> = excluded.map(|(rule, count)| format!("{} by {}", count, cell(&json!(rule)))).collect();
    let fileset = format!("{} of {}", cell(&progress["fileset"]), cell(&progress["filesets"]));
    let fields = [
        ("job", cell(&job["id"])),
        ("kind", cell(&job["kind"])),
        ("state", cell(&job["state"])),
        ("set", cell(&job["set"])),
        ("repository", cell(&job["repository"])),
        ("agent", cell(&job["agent"])),
        ("attempt", cell(&job["attempt"])),
        ("waits on", cell(&job["waits_on"])),
        ("created", time(&job["created_at"])),
        ("started", time(&job["started_at"])),
        ("ended", time(&job["ended_at"])),
        ("fileset", if progress["filesets"] == 0 { String::new() } else { fileset }),
        ("done", human_bytes(done_bytes(job))),
        ("bottleneck", cell(&progress["bottleneck"])),
        ("recovery point", cell(&job["recovery_point"])),
        ("exceptions", cell(&outcome["exceptions_total"])),
        ("left out", excluded.join(", ")),
        ("message", cell(&job["message"])),
    ];
    print_one(session, "job", job, &fields)?;
    if !session.output.json {
        for exception in outcome["exceptions"].as_array().into_iter().flatten() {
            session.output.line(&format!("  {}: {}", cell(&exception["path"]), cell(&exception["cause"])))?;
        }
    }
    Ok(Exit::Done)
}

/// Waits for the end: 0 completed, 3 with exceptions, 1 everything else.
fn wait(session: &Session, api: &Api, args: &JobWaitArgs) -> Result<Exit> {
    let began = Instant::now();
    loop {
        let job = api.get(&format!("{JOBS}/{}", place(&args.job)))?;
        let state = job["state"].as_str().unwrap_or_default();
        if !matches!(state, "queued" | "estimating" | "running" | "verifying") {
            show(session, &job)?;
            return Ok(match state {
                "completed" => Exit::Done,
                "completed_with_errors" => Exit::Exceptions,
                _ => Exit::Failed,
            });
        }
        if args.timeout.is_some_and(|timeout| began.elapsed() >= timeout.0) {
            return Err(CliError::failed(format!("job {} is {state} still", args.job), "it goes on; wait again"));
        }
        std::thread::sleep(LOOK);
    }
}
