//! `mover agent list|show|drain|undrain|revoke|remove|enrol-token`: agents as an operator sees and handles them.

use serde_json::{Value, json};

use super::api::{Api, cell, place, print_list, print_one, time};
use super::args::{AgentName, EnrolTokenArgs, ListArgs};
use crate::cli::Session;
use crate::cli::error::{CliError, Result};
use crate::cli::exit::Exit;
use crate::cli::units::human_bytes;

const AGENTS: &str = "/api/v1/agents";
/// Agents looked at for a name.
const AGENTS_MAX: usize = 100_000;

/// Lists.
pub fn list(session: &Session, args: &ListArgs) -> Result<Exit> {
    let agents = Api::new(&args.client)?.list(AGENTS, &[], AGENTS_MAX)?;
    let columns = ["name", "pool", "state", ">jobs", ">slots", "version", "last heard", "reaches", "id"];
    print_list(session, "agent", &agents, &columns, |agent| {
        vec![
            cell(&agent["name"]),
            cell(&agent["pool"]),
            state(agent).to_owned(),
            cell(&agent["running"]),
            cell(&agent["slots"]),
            cell(&agent["description"]["version"]),
            time(&agent["last_seen"]),
            words(&agent["description"]["reaches"]),
            cell(&agent["id"]),
        ]
    })?;
    Ok(Exit::Done)
}

fn words(list: &Value) -> String {
    let words: Vec<String> = list.as_array().into_iter().flatten().map(cell).collect();
    words.join(", ")
}

fn state(agent: &Value) -> &'static str {
    let is = |name: &str| agent[name].as_bool().unwrap_or(false);
    match (is("revoked"), is("draining"), is("connected")) {
        (true, ..) => "revoked",
        (_, true, _) => "draining",
        (_, _, true) => "connected",
        _ => "away",
    }
}

/// The id of an agent that was named by it or by its name.
///
/// # Errors
/// There is none.
pub fn id_of(api: &Api, named: &str) -> Result<String> {
    let agents = api.list(AGENTS, &[], AGENTS_MAX)?;
    let found =
        agents.iter().find(|agent| agent["id"] == named).or_else(|| agents.iter().find(|agent| agent["name"] == named));
    let id = found.and_then(|agent| agent["id"].as_str());
    id.map(str::to_owned)
        .ok_or_else(|| CliError::failed(format!("there is no agent {named}"), "see `mover agent list`"))
}

fn show_one(session: &Session, agent: &Value) -> Result<Exit> {
    let described = &agent["description"];
    let fields = [
        ("agent", cell(&agent["name"])),
        ("id", cell(&agent["id"])),
        ("pool", cell(&agent["pool"])),
        (
            "state",
            if agent.get("connected").is_some() || agent["revoked"] == true {
                state(agent).to_owned()
            } else {
                String::new()
            },
        ),
        ("draining", if agent["draining"] == true { "yes".to_owned() } else { String::new() }),
        ("jobs", cell(&agent["running"])),
        ("slots", cell(&agent["slots"])),
        ("version", cell(&described["version"])),
        ("cores", cell(&described["cores"])),
        ("memory", human_bytes(described["memory_bytes"].as_u64().unwrap_or(0))),
        ("reaches", words(&described["reaches"])),
        ("tags", words(&described["tags"])),
        ("enrolled", time(&agent["enrolled_at"])),
        ("last heard", time(&agent["last_seen"])),
    ];
    print_one(session, "agent", agent, &fields)?;
    Ok(Exit::Done)
}

/// Shows one.
pub fn show(session: &Session, args: &AgentName) -> Result<Exit> {
    let api = Api::new(&args.client)?;
    let id = id_of(&api, &args.agent)?;
    show_one(session, &api.get(&format!("{AGENTS}/{}", place(&id)))?)
}

/// Drains, undrains, revokes.
pub fn act(session: &Session, args: &AgentName, what: &str) -> Result<Exit> {
    let api = Api::new(&args.client)?;
    let id = id_of(&api, &args.agent)?;
    show_one(session, &api.post(&format!("{AGENTS}/{}/{what}", place(&id)), &json!({}))?)
}

/// Removes one that was revoked.
pub fn remove(session: &Session, args: &AgentName) -> Result<Exit> {
    let api = Api::new(&args.client)?;
    let id = id_of(&api, &args.agent)?;
    api.delete(&format!("{AGENTS}/{}", place(&id)))?;
    session.output.say(&format!("{} is gone; its name is free", args.agent))?;
    session.output.object("summary", json!({ "agent": id, "exit_code": 0 }))?;
    Ok(Exit::Done)
}

/// Makes a token that one host may enrol with.
pub fn enrol_token(session: &Session, args: &EnrolTokenArgs) -> Result<Exit> {
    let body = json!({ "pool": args.pool, "life_seconds": args.life.0.as_secs() });
    let made = Api::new(&args.client)?.post("/api/v1/enrolments", &body)?;
    session.output.object("enrolment", made.clone())?;
    if !session.output.json {
        session.output.line(&cell(&made["token"]))?;
        session.output.say(&format!("the host joins with: {}", cell(&made["command"])))?;
    }
    Ok(Exit::Done)
}
