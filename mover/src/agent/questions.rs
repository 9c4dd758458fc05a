//! What a person wants to see of a repository: only agents hold its keys, so one of them looks. Bounded in time, in
//! entries and in how many are asked at once; beside the jobs, never instead of one.

use std::rc::Rc;
use std::time::Duration;

use mover_control::protocol::{Ask, Question, ReplyRequest, path};
use serde_json::Value;

use super::child::{self, Running};
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
    let reply = look(&ground, slots, &question).await;
    send(&ground, question, reply).await;
}

/// Says that there are too many already.
pub async fn refuse(ground: Rc<Ground>, question: Question) {
    send(&ground, question, Err("this agent is busy with other questions; ask again".to_owned())).await;
}

async fn send(ground: &Ground, question: Question, reply: Result<Vec<Value>, String>) {
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
    let mut running = child::start(ground.spool.state(), &format!("question-{}", question.id), &call)?;
    let mut heard = Heard { kind, limit, found: Vec::new(), error: None };
    match tokio::time::timeout(ANSWER, heard.listen(&mut running)).await {
        Ok(true) => {
            let ended = running.wait().await;
            match ended.code {
                Some(0 | 3) => Ok(heard.found),
                _ => Err(heard.error.unwrap_or(ended.stderr)),
            }
        }
        // Who asked sees a full page.
        Ok(false) => {
            dismiss(running);
            Ok(heard.found)
        }
        Err(_) => {
            dismiss(running);
            Err(format!("the repository did not answer within {} s", ANSWER.as_secs()))
        }
    }
}

/// Ends a child that nobody listens to any more. It may hang in the kernel; the answer does not wait for that.
fn dismiss(running: Running) {
    running.kill();
    tokio::task::spawn_local(async move { _ = running.wait().await });
}

/// What a child has said.
struct Heard {
    kind: &'static str,
    limit: usize,
    found: Vec<Value>,
    error: Option<String>,
}

impl Heard {
    /// Listens to its end, or until a page is full: then `false`.
    async fn listen(&mut self, running: &mut Running) -> bool {
        let mut bytes = 0;
        while let Some(line) = running.lines.recv().await {
            if line["type"] == "error" {
                self.error = line["message"].as_str().map(str::to_owned);
            }
            if line["type"] != self.kind {
                continue;
            }
            bytes += line.to_string().len();
            if self.found.len() >= self.limit || bytes > BYTES_MAX {
                return false;
            }
            self.found.push(line);
        }
        true
    }
}
