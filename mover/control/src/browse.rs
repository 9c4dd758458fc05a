//! Questions about what is in a repository. The control plane has no key of any repository: an agent that serves it
//! replies, and the reply passes through the database, so any server can ask and any server can carry it.
//!
//! An agent serves a repository when it could do one of its latest [`JOBS_SEEN`] jobs, or a job of a policy that stores
//! there. At most [`OPEN_MAX`] questions are open at once, each ends after [`PATIENCE`], and a reply is at most
//! [`REPLY_BYTES`]. A question that an agent took and did not reply to is not asked again: who asked asks again.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::arguments;
use crate::database::{Database, Record, Transaction, json};
use crate::error::{ControlError, Result};
use crate::ids::{AgentId, RecordId, UnixMillis};
use crate::job::Place;
use crate::placement::lane;
use crate::policy::Policy;
use crate::protocol::{Ask, Question};

/// How long somebody waits for a reply.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Questions that are open at once.
pub const OPEN_MAX: i64 = 256;
/// A reply at most.
pub const REPLY_BYTES: usize = 4 << 20;
/// Entries of one reply at most.
pub const ENTRIES_MAX: u32 = 1000;
/// Jobs of a repository that are looked at for who serves it.
const JOBS_SEEN: u32 = 200;
/// A path or a name in a question at most.
const TEXT_BYTES: usize = 8192;

/// A question that no agent has taken yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenQuestion {
    /// As the agent gets it.
    pub question: Question,
    /// Agents of one of these lanes may take it.
    pub lanes: BTreeSet<String>,
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Nobody has replied yet.
    None,
    /// The entries, or why there are none.
    Some(std::result::Result<Vec<serde_json::Value>, String>),
}

fn check(question: &Question) -> Result<()> {
    let texts: Vec<&str> = match &question.ask {
        Ask::Points { set } => set.iter().map(String::as_str).collect(),
        Ask::List { point, path, .. } => vec![point, path],
    };
    if question.repository.is_empty() || texts.iter().any(|text| text.len() > TEXT_BYTES) {
        return Err(ControlError::Invalid(format!(
            "a question names a repository, and texts up to {TEXT_BYTES} bytes"
        )));
    }
    match question.ask {
        Ask::List { limit, .. } if limit == 0 || limit > ENTRIES_MAX => {
            Err(ControlError::Invalid(format!("1 to {ENTRIES_MAX} entries can be listed at once")))
        }
        _ => Ok(()),
    }
}

/// Lanes of those that serve a repository.
async fn lanes_of(tx: &mut Transaction, repository: &str) -> Result<BTreeSet<String>> {
    let mut lanes = BTreeSet::new();
    let jobs = "SELECT lane FROM jobs WHERE repository = $1 ORDER BY id DESC LIMIT $2";
    for row in tx.all(jobs, arguments![repository, JOBS_SEEN]).await? {
        lanes.insert(row.text("lane")?);
    }
    for row in tx.all("SELECT document FROM policies", &[]).await? {
        let what = row.document::<Policy>("document")?.what;
        if what.repository == repository {
            lanes.insert(match &what.place {
                Place::Host { agent } => lane::host(agent),
                Place::Pool { pool, reach, .. } => lane::pool(pool, reach.as_deref()),
            });
        }
    }
    Ok(lanes)
}

/// Asks. The reply is looked for by [`reply`]; the same question again changes nothing.
///
/// # Errors
/// Nobody who serves the repository is connected, too many questions are open, or the database fails.
pub async fn ask(database: &Database, question: &Question, now: UnixMillis) -> Result<()> {
    check(question)?;
    // Beside everybody's writes: policies are many, and who serves a repository changes rarely.
    let lanes = database.read(async |tx| lanes_of(tx, &question.repository).await).await?;
    database
        .decide(async |tx| {
            tx.execute("DELETE FROM questions WHERE expires_at <= $1", arguments![now]).await?;
            let open = tx.one("SELECT COUNT(*) AS n FROM questions", &[]).await?.number("n")?;
            if open >= OPEN_MAX {
                return Err(ControlError::Busy(
                    "too many questions wait for a reply; ask again a little later".to_owned(),
                ));
            }
            let mut is_served = false;
            for lane in &lanes {
                is_served |= crate::agents::store::is_served(tx, lane, now).await?;
            }
            if !is_served {
                return Err(ControlError::Conflict(format!(
                    "no agent that serves the repository {} is connected",
                    question.repository
                )));
            }
            tx.execute(
                "INSERT INTO questions (id, repository, ask, lanes, expires_at, phase) VALUES ($1, $2, $3, $4, $5, 0)
                 ON CONFLICT (id) DO NOTHING",
                arguments![&question.id, &question.repository, json(&question.ask), json(&lanes), now.plus(PATIENCE)],
            )
            .await?;
            Ok(())
        })
        .await
}

fn from_record(row: &Record) -> Result<OpenQuestion> {
    let question =
        Question { id: row.text("id")?.into(), repository: row.text("repository")?, ask: row.document("ask")? };
    Ok(OpenQuestion { question, lanes: row.document("lanes")? })
}

/// Questions that nobody has taken.
///
/// # Errors
/// The database fails.
pub async fn open(database: &Database, now: UnixMillis) -> Result<Vec<OpenQuestion>> {
    let sql = "SELECT * FROM questions WHERE phase = 0 AND expires_at > $1 ORDER BY id LIMIT $2";
    database.read(async |tx| tx.all(sql, arguments![now, OPEN_MAX]).await?.iter().map(from_record).collect()).await
}

/// An agent takes a question: false if another one has it, or it is over.
///
/// # Errors
/// The database fails.
pub async fn take(database: &Database, id: &RecordId, agent: &AgentId) -> Result<bool> {
    // The same agent may take it again: the answer to its poll may have been lost.
    let sql = "UPDATE questions SET phase = 1, agent = $1 WHERE id = $2 AND (phase = 0 OR (phase = 1 AND agent = $1))";
    let rows = database.change(async |tx| tx.execute(sql, arguments![agent, id]).await).await?;
    Ok(rows == 1)
}

/// An agent replies to a question that it took. A reply that comes too late is dropped.
///
/// # Errors
/// The reply is too large, the question was not given to this agent, or the database fails.
pub async fn put_reply(
    database: &Database,
    id: &RecordId,
    agent: &AgentId,
    reply: &std::result::Result<Vec<serde_json::Value>, String>,
) -> Result<()> {
    let mut text = json(reply);
    if text.len() > REPLY_BYTES {
        text = json(&Err::<(), _>(format!("the reply is over {REPLY_BYTES} bytes; ask for less")));
    }
    database
        .change(async |tx| {
            let row = tx.optional("SELECT agent FROM questions WHERE id = $1", arguments![id]).await?;
            let Some(row) = row else { return Ok(()) };
            if row.maybe_text("agent")?.as_deref() != Some(agent.as_str()) {
                return Err(ControlError::Forbidden(format!("question {id} was not given to this agent")));
            }
            let sql = "UPDATE questions SET phase = 2, reply = $1 WHERE id = $2 AND phase = 1";
            tx.execute(sql, arguments![&text, id]).await?;
            Ok(())
        })
        .await
}

/// The reply to a question, if there is one.
///
/// # Errors
/// The question is over, or the database fails.
pub async fn reply(database: &Database, id: &RecordId) -> Result<Reply> {
    let sql = "SELECT reply FROM questions WHERE id = $1";
    let row = database.read(async |tx| tx.optional(sql, arguments![id]).await).await?;
    let row = row.ok_or_else(|| ControlError::not_found("question", id))?;
    match row.maybe_text("reply")? {
        Some(_) => Ok(Reply::Some(row.document("reply")?)),
        None => Ok(Reply::None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOON, agent, backup, each_database, submit};

    fn question(path: &str) -> Question {
        let ask = Ask::List { point: "latest".to_owned(), path: path.to_owned(), limit: 10 };
        Question { id: RecordId::new(NOON), repository: "repository".to_owned(), ask }
    }

    #[test]
    fn question_goes_to_one_agent_that_serves_the_repository_and_its_reply_comes_back() {
        each_database(async |database| {
            let asked = question("/");
            let refused = ask(&database, &asked, NOON).await.expect_err("nobody serves it");
            assert!(refused.to_string().contains("no agent that serves"), "{refused}");
            let one = agent(&database, "one", &[], NOON).await;
            let two = agent(&database, "two", &[], NOON).await;
            submit(&database, backup("set", NOON), NOON).await;
            ask(&database, &asked, NOON).await.expect("asked");
            let seen = open(&database, NOON).await.expect("open");
            assert_eq!(seen.len(), 1);
            assert!(seen[0].question == asked && seen[0].lanes.contains("pool:main"));
            assert!(take(&database, &asked.id, &one).await.expect("taken"));
            assert!(!take(&database, &asked.id, &two).await.expect("not twice"));
            assert_eq!(reply(&database, &asked.id).await.expect("none yet"), Reply::None);
            let told = Ok(vec![serde_json::json!({ "path": "/etc" })]);
            assert!(put_reply(&database, &asked.id, &two, &told).await.is_err(), "not its question");
            put_reply(&database, &asked.id, &one, &told).await.expect("replied");
            assert_eq!(reply(&database, &asked.id).await.expect("told"), Reply::Some(told.clone()));
            let later = NOON.plus(PATIENCE);
            assert!(open(&database, later).await.expect("open").is_empty());
            let next = question("/etc");
            agents_seen(&database, &[one.clone(), two], later).await;
            ask(&database, &next, later).await.expect("asked");
            assert!(reply(&database, &asked.id).await.is_err(), "over");
            put_reply(&database, &asked.id, &one, &told).await.expect("a late reply is dropped");
        });
    }

    async fn agents_seen(database: &Database, agents: &[AgentId], now: UnixMillis) {
        let seen: Vec<_> = agents.iter().map(|agent| (agent.clone(), now)).collect();
        crate::agents::store::write_seen(database, &seen).await.expect("seen");
    }

    #[test]
    fn open_questions_are_bounded() {
        each_database(async |database| {
            agent(&database, "one", &[], NOON).await;
            submit(&database, backup("set", NOON), NOON).await;
            for _ in 0..OPEN_MAX {
                ask(&database, &question("/"), NOON).await.expect("asked");
            }
            assert!(matches!(ask(&database, &question("/"), NOON).await, Err(ControlError::Busy(_))));
            let bad = Question { repository: String::new(), ..question("/") };
            assert!(matches!(ask(&database, &bad, NOON).await, Err(ControlError::Invalid(_))));
        });
    }
}
