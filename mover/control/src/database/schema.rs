//! The tables, as numbered steps that are each applied once, all missing ones in one transaction.
//!
//! A step is never edited after its release: a change is a new step at the end. A database with a higher number than
//! this program knows is refused, since an older program would not know what its columns promise.

use crate::arguments;
use crate::error::{ControlError, Result};

use super::{Database, Transaction};

/// Steps in order; the first has number 1.
const STEPS: [&[&str]; 3] = [&[
    // `phase` is 0 in the queue, 1 in work, 2 ended: what partial indexes ask for. `lane` is who can do it: a pool, a
    // source of a pool, or one host. `rank` orders by fair share. `waits_on` names what keeps a queued job from being
    // leased; such jobs are not in the index that a lease reads.
    "CREATE TABLE jobs (
        id TEXT PRIMARY KEY, kind TEXT NOT NULL, workload TEXT NOT NULL, origin TEXT NOT NULL, policy TEXT,
        set_name TEXT NOT NULL, source TEXT NOT NULL, repository TEXT NOT NULL, pool TEXT NOT NULL, lane TEXT NOT NULL,
        lane_of_others TEXT, preferred TEXT,
        priority BIGINT NOT NULL, share TEXT NOT NULL, weight BIGINT NOT NULL, rank BIGINT NOT NULL,
        state TEXT NOT NULL, phase BIGINT NOT NULL, waits_on TEXT,
        created_at BIGINT NOT NULL, not_before BIGINT NOT NULL, expires_at BIGINT, started_at BIGINT, ended_at BIGINT,
        attempt BIGINT NOT NULL, fence BIGINT NOT NULL, agent TEXT, beats BIGINT NOT NULL, granted BIGINT NOT NULL,
        stop TEXT, source_limit BIGINT, repository_limit BIGINT, requested_by TEXT NOT NULL,
        recovery_point TEXT, message TEXT,
        job_order TEXT NOT NULL, progress TEXT NOT NULL, outcome TEXT
    )",
    "CREATE INDEX jobs_ready ON jobs (lane, priority DESC, rank, id) WHERE phase = 0 AND waits_on IS NULL",
    "CREATE INDEX jobs_ranked ON jobs (pool, priority, rank) WHERE phase = 0",
    "CREATE INDEX jobs_waiting ON jobs (waits_on, priority DESC, rank, id) WHERE phase = 0 AND waits_on IS NOT NULL",
    "CREATE INDEX jobs_parked ON jobs (not_before) WHERE phase = 0 AND waits_on IS NOT NULL",
    "CREATE INDEX jobs_expiring ON jobs (expires_at) WHERE phase = 0 AND expires_at IS NOT NULL",
    "CREATE INDEX jobs_preferring ON jobs (lane, id) WHERE phase = 0 AND lane_of_others IS NOT NULL",
    "CREATE INDEX jobs_active ON jobs (agent) WHERE phase = 1",
    "CREATE INDEX jobs_active_source ON jobs (source) WHERE phase = 1",
    "CREATE INDEX jobs_active_repository ON jobs (repository) WHERE phase = 1",
    "CREATE INDEX jobs_open_set ON jobs (set_name, kind) WHERE phase < 2",
    "CREATE INDEX jobs_policy ON jobs (policy, id)",
    "CREATE INDEX jobs_state ON jobs (state, id)",
    "CREATE TABLE shares (
        pool TEXT NOT NULL, priority BIGINT NOT NULL, share TEXT NOT NULL, rank BIGINT NOT NULL,
        PRIMARY KEY (pool, priority, share)
    )",
    "CREATE TABLE events (
        id TEXT PRIMARY KEY, at BIGINT NOT NULL, job TEXT NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL,
        agent TEXT, fence BIGINT NOT NULL, message TEXT
    )",
    "CREATE INDEX events_job ON events (job, id)",
    "CREATE TABLE policies (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, document TEXT NOT NULL, version BIGINT NOT NULL,
        enabled BIGINT NOT NULL, next_due BIGINT, next_retention BIGINT, skips BIGINT NOT NULL,
        last_success BIGINT, last_job TEXT, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL
    )",
    "CREATE INDEX policies_due ON policies (next_due) WHERE enabled = 1 AND next_due IS NOT NULL",
    "CREATE TABLE runs (
        policy TEXT NOT NULL, kind TEXT NOT NULL, due BIGINT NOT NULL, job TEXT NOT NULL,
        PRIMARY KEY (policy, kind, due)
    )",
    "CREATE TABLE agents (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, pool TEXT NOT NULL, version TEXT NOT NULL,
        cores BIGINT NOT NULL, memory_bytes BIGINT NOT NULL, tags TEXT NOT NULL, reaches TEXT NOT NULL,
        fingerprint TEXT NOT NULL UNIQUE, instance TEXT NOT NULL, enrolled_at BIGINT NOT NULL,
        last_seen BIGINT NOT NULL, draining BIGINT NOT NULL, revoked BIGINT NOT NULL
    )",
    // Which agents can do what: the lanes of each, so that "is anybody there for it" is one look at an index.
    "CREATE TABLE agent_lanes (lane TEXT NOT NULL, agent TEXT NOT NULL, PRIMARY KEY (lane, agent))",
    "CREATE INDEX agent_lanes_agent ON agent_lanes (agent)",
    "CREATE TABLE enrolments (
        hash TEXT PRIMARY KEY, pool TEXT NOT NULL, created_by TEXT NOT NULL, created_at BIGINT NOT NULL,
        expires_at BIGINT NOT NULL, used_by TEXT
    )",
    "CREATE TABLE tokens (
        id TEXT PRIMARY KEY, hash TEXT NOT NULL UNIQUE, name TEXT NOT NULL, role TEXT NOT NULL,
        created_at BIGINT NOT NULL, expires_at BIGINT, revoked BIGINT NOT NULL, parent TEXT
    )",
    "CREATE TABLE audit (
        id TEXT PRIMARY KEY, at BIGINT NOT NULL, who TEXT NOT NULL, role TEXT NOT NULL, action TEXT NOT NULL,
        object TEXT NOT NULL, outcome TEXT NOT NULL, detail TEXT
    )",
    "CREATE TABLE outbox (
        id TEXT PRIMARY KEY, created_at BIGINT NOT NULL, job TEXT NOT NULL, channel TEXT NOT NULL,
        payload TEXT NOT NULL, attempt BIGINT NOT NULL, next_at BIGINT NOT NULL, ended BIGINT NOT NULL, error TEXT
    )",
    "CREATE INDEX outbox_due ON outbox (next_at) WHERE ended = 0",
    "CREATE TABLE idempotency (
        who TEXT NOT NULL, name TEXT NOT NULL, request_hash TEXT NOT NULL, status BIGINT NOT NULL, body TEXT NOT NULL,
        at BIGINT NOT NULL, PRIMARY KEY (who, name)
    )",
    "CREATE INDEX idempotency_at ON idempotency (at)",
    "CREATE INDEX jobs_points ON jobs (id) WHERE recovery_point IS NOT NULL",
    "CREATE INDEX jobs_over ON jobs (ended_at) WHERE phase = 2 AND recovery_point IS NULL",
    "CREATE INDEX jobs_over_with_point ON jobs (ended_at) WHERE phase = 2 AND recovery_point IS NOT NULL",
    // What all servers of one database share and nobody else may see; sealed by who puts it there.
    "CREATE TABLE vault (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    // What people ask of repositories; an agent that serves the repository replies. `phase` is 0 open, 1 taken, 2 replied.
    "CREATE TABLE questions (
        id TEXT PRIMARY KEY, repository TEXT NOT NULL, ask TEXT NOT NULL, lanes TEXT NOT NULL, expires_at BIGINT NOT NULL,
        phase BIGINT NOT NULL, agent TEXT, reply TEXT
    )",
    "CREATE INDEX questions_open ON questions (id) WHERE phase = 0",
    "CREATE INDEX questions_over ON questions (expires_at)",
], &[
    "ALTER TABLE jobs ADD COLUMN lapses BIGINT NOT NULL DEFAULT 0",
    "CREATE INDEX jobs_repository ON jobs (repository, id)",
    // Of the kernel that the agent's host runs: another one is a restart of the host.
    "ALTER TABLE agents ADD COLUMN boot TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE outbox ADD COLUMN target TEXT NOT NULL DEFAULT ''",
    // The rank that was leased last: where a share begins that was idle.
    "CREATE TABLE heads (
        pool TEXT NOT NULL, priority BIGINT NOT NULL, rank BIGINT NOT NULL, PRIMARY KEY (pool, priority)
    )",
], &[
    // When any server last listened to agents; 0: none has.
    "CREATE TABLE hearing (at BIGINT NOT NULL)",
    "INSERT INTO hearing (at) VALUES (0)",
]];

/// Brings the database to the last step.
pub(super) async fn migrate(database: &Database) -> Result<()> {
    database.decide(async |tx| bring_up(tx, &STEPS).await).await
}

async fn bring_up(tx: &mut Transaction, steps: &[&[&str]]) -> Result<()> {
    tx.execute("CREATE TABLE IF NOT EXISTS schema_steps (step BIGINT PRIMARY KEY)", &[]).await?;
    let row = tx.one("SELECT COALESCE(MAX(step), 0) AS step FROM schema_steps", &[]).await?;
    let found = row.number("step")?;
    let known = steps.len() as i64;
    if found > known {
        return Err(ControlError::SchemaTooNew { found, known });
    }
    for (step, statements) in (1..).zip(steps).filter(|(step, _)| *step > found) {
        for statement in *statements {
            tx.execute(statement, &[]).await?;
        }
        tx.execute("INSERT INTO schema_steps (step) VALUES ($1)", arguments![step]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::each_database;

    #[test]
    fn schema_newer_than_the_program_is_refused_in_words() {
        each_database(async |database| {
            database
                .decide(async |tx| tx.execute("INSERT INTO schema_steps (step) VALUES (99)", &[]).await)
                .await
                .expect("a row");
            let error = migrate(&database).await.expect_err("newer");
            assert!(error.to_string().contains("schema 99, this program knows up to 3; run the newer"), "{error}");
        });
    }

    #[test]
    fn schema_steps_are_applied_once_and_all_or_none() {
        each_database(async |database| {
            let next: [&[&str]; 4] = [STEPS[0], STEPS[1], STEPS[2], &["ALTER TABLE tokens ADD COLUMN note TEXT"]];
            for _ in 0..2 {
                database.decide(async |tx| bring_up(tx, &next).await).await.expect("fourth step once");
            }
            let broken: [&[&str]; 5] =
                [next[0], next[1], next[2], next[3], &["CREATE TABLE fifth (id TEXT)", "CREATE NONSENSE"]];
            database.decide(async |tx| bring_up(tx, &broken).await).await.expect_err("fifth step");
            let count = database
                .read(async |tx| tx.one("SELECT COUNT(*) AS n FROM schema_steps", &[]).await?.number("n"))
                .await;
            assert_eq!(count.expect("count"), 4);
            database
                .read(async |tx| tx.all("SELECT id FROM fifth", &[]).await.map(|_| ()))
                .await
                .expect_err("no table");
        });
    }
}
