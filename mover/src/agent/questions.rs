//! What a person wants to see of a repository: only agents hold its keys, so one of them looks. Bounded in time, in
//! entries and in how many are asked at once; beside the jobs, never instead of one.

use std::rc::Rc;
use std::time::Duration;

use mover_control::protocol::{Ask, Question, ReplyRequest, path};
use serde_json::Value;

use super::child;
use super::connection::TIMEOUT;
use super::invocation::{Host, Invocation};
use super::job::Ground;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(60);
/// Entries of one answer, whatever was asked for.
const ENTRIES_MAX: usize = 10_000;
/// Bytes of one answer, so that it is no request that the server refuses.
const BYTES_MAX: usize = 4 << 20;

/// Answers one.
pub async fn answer(ground: Rc<Ground>, slots: u32, question: Question) {
    let reply = match tokio::time::timeout(ANSWER, look(&ground, slots, &question)).await {
        Ok(reply) => reply,
        Err(_) => Err(format!("the repository did not answer within {} s", ANSWER.as_secs())),
    };
    let request = ReplyRequest { id: question.id, reply };
    if let Err(refusal) = ground.connection.post::<()>(path::REPLY, &request, TIMEOUT).await {
        tracing::info!(%refusal, "an answer was not wanted");
    }
}

/// The command that knows, the type of its lines, and how many are wanted.
fn call(host: &Host<'_>, question: &Question) -> Result<(Invocation, &'static str, usize), String> {
    let call = host.call(&question.repository, None)?;
    Ok(match &question.ask {
        Ask::Points { set } => {
            let set = set.as_ref().map(|set| format!("--set={set}"));
            (call.with(["points", "--json"]).with(set), "point", ENTRIES_MAX)
        }
        Ask::List { point, path, limit } => {
            let typed = call.with(["ls", "--json", "--", point.as_str()]);
            let typed = typed.with((path != "/" && !path.is_empty()).then_some(path.as_str()));
            (typed, "entry", usize::try_from(*limit).unwrap_or(ENTRIES_MAX).min(ENTRIES_MAX))
        }
    })
}

async fn look(ground: &Ground, slots: u32, question: &Question) -> Result<Vec<Value>, String> {
    let host = Host { settings: &ground.settings, slots };
    let (call, kind, limit) = call(&host, question)?;
    let mut running = child::start(&ground.state, &format!("question-{}", question.id), &call)?;
    let (mut found, mut bytes, mut error) = (Vec::new(), 0, None);
    while let Some(line) = running.lines.recv().await {
        if line["type"] == "error" {
            error = line["message"].as_str().map(str::to_owned);
        }
        if line["type"] != kind {
            continue;
        }
        bytes += line.to_string().len();
        if found.len() >= limit || bytes > BYTES_MAX {
            // Who asked sees a full page.
            running.kill();
            running.wait(&ground.state).await;
            return Ok(found);
        }
        found.push(line);
    }
    let ended = running.wait(&ground.state).await;
    match ended.code {
        Some(0 | 3) => Ok(found),
        _ => Err(error.unwrap_or(ended.stderr)),
    }
}
