//! `mover policy`: documents with a version, what their calendar says, and runs by hand.

use serde_json::{Value, json};

use super::api::{Api, cell, document, place, print_list, print_one, time, with_query};
use super::args::{PolicyArgs, PolicyCommand, PolicyRunArgs, PolicyUpdateArgs};
use super::job;
use crate::cli::Session;
use crate::cli::error::{CliError, Result};
use crate::cli::exit::Exit;

const POLICIES: &str = "/api/v1/policies";
const POLICIES_MAX: usize = 100_000;

/// Does it.
pub fn run(session: &Session, args: &PolicyArgs) -> Result<Exit> {
    let api = Api::new(&args.client)?;
    match &args.what {
        PolicyCommand::Create(file) => show(session, &api.post(POLICIES, &document(&file.file)?)?),
        PolicyCommand::List => list(session, &api),
        PolicyCommand::Show(named) => {
            let stored = find(&api, &named.policy)?;
            session.output.object("policy", stored.clone())?;
            if !session.output.json {
                let text = serde_json::to_string_pretty(&stored["policy"]).unwrap_or_default();
                session.output.line(&text)?;
            }
            Ok(Exit::Done)
        }
        PolicyCommand::Update(args) => update(session, &api, args),
        PolicyCommand::Enable(named) => act(session, &api, &named.policy, "enable"),
        PolicyCommand::Disable(named) => act(session, &api, &named.policy, "disable"),
        PolicyCommand::Delete(named) => {
            api.delete(&path(&api, &named.policy)?)?;
            session.output.say(&format!("{} is gone; its jobs and recovery points stay", named.policy))?;
            session.output.object("summary", json!({ "exit_code": 0 }))?;
            Ok(Exit::Done)
        }
        PolicyCommand::Run(args) => run_now(session, &api, args),
        PolicyCommand::Next(named) => {
            let mut runs = api.get(&format!("{}/runs", path(&api, &named.policy)?))?;
            let Value::Array(items) = runs["items"].take() else { return Ok(Exit::Done) };
            print_list(session, "run", &items, &["begins", "not after"], |run| {
                vec![time(&run["begins"]), time(&run["ends"])]
            })?;
            Ok(Exit::Done)
        }
        PolicyCommand::Validate(file) => validate(session, &api, &document(&file.file)?),
    }
}

/// A policy by its name or id.
fn find(api: &Api, named: &str) -> Result<Value> {
    let mut by_name = api.get(&with_query(POLICIES, &[("name", Some(named.to_owned()))]))?;
    match by_name["items"].as_array_mut().and_then(Vec::pop) {
        Some(found) => Ok(found),
        None => api.get(&format!("{POLICIES}/{}", place(named))),
    }
}

/// The id of a policy that was named by it or by its name.
///
/// # Errors
/// There is none.
pub fn id_of(api: &Api, named: &str) -> Result<String> {
    let found = find(api, named)?;
    let id = found["id"].as_str().map(str::to_owned);
    id.ok_or_else(|| CliError::failed(format!("there is no policy {named}"), "see `mover policy list`"))
}

fn path(api: &Api, named: &str) -> Result<String> {
    Ok(format!("{POLICIES}/{}", place(&id_of(api, named)?)))
}

fn list(session: &Session, api: &Api) -> Result<Exit> {
    let policies = api.list(POLICIES, &[], POLICIES_MAX)?;
    let columns = ["name", "enabled", "workload", "source", "repository", ">version", "id"];
    print_list(session, "policy", &policies, &columns, |stored| {
        let policy = &stored["policy"];
        vec![
            cell(&policy["name"]),
            if stored["enabled"] == false { "no" } else { "yes" }.to_owned(),
            cell(&policy["what"]["workload"]),
            cell(&policy["what"]["source"]),
            cell(&policy["what"]["repository"]),
            cell(&stored["version"]),
            cell(&stored["id"]),
        ]
    })?;
    Ok(Exit::Done)
}

fn show(session: &Session, stored: &Value) -> Result<Exit> {
    let fields = [
        ("policy", cell(&stored["policy"]["name"])),
        ("id", cell(&stored["id"])),
        ("version", cell(&stored["version"])),
        ("enabled", if stored["enabled"] == false { "no" } else { "yes" }.to_owned()),
    ];
    print_one(session, "policy", stored, &fields)?;
    Ok(Exit::Done)
}

fn update(session: &Session, api: &Api, args: &PolicyUpdateArgs) -> Result<Exit> {
    let path = path(api, &args.policy)?;
    let (_, tag) = api.get_tagged(&path)?;
    let version = args.version.map_or(tag, |version| format!("\"{version}\""));
    show(session, &api.put(&path, &version, &document(&args.file)?)?)
}

fn act(session: &Session, api: &Api, named: &str, what: &str) -> Result<Exit> {
    show(session, &api.post(&format!("{}/{what}", path(api, named)?), &json!({}))?)
}

fn run_now(session: &Session, api: &Api, args: &PolicyRunArgs) -> Result<Exit> {
    let body = json!({ "full": args.full, "bandwidth": args.bandwidth, "wait": args.wait });
    job::show(session, &api.post(&format!("{}/run", path(api, &args.policy)?), &body)?)
}

fn validate(session: &Session, api: &Api, policy: &Value) -> Result<Exit> {
    let verdict = api.post(&format!("{POLICIES}/validate"), policy)?;
    session.output.object("verdict", verdict.clone())?;
    if verdict["valid"] == false {
        return Err(CliError::failed(cell(&verdict["reason"]), "change the document; nothing was stored"));
    }
    if !session.output.json {
        session.output.line("it could work")?;
        for begins in verdict["next"].as_array().into_iter().flatten() {
            session.output.line(&format!("a run begins {}", time(begins)))?;
        }
    }
    Ok(Exit::Done)
}
