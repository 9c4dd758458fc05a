//! The states of a job and the moves between them, as one table.
//!
//! The code moves a job through [`check_move`] alone; `STATES.md` is this table printed, and a test fails while they
//! differ. An ended job never moves again.

use std::fmt;

use serde::{Deserialize, Serialize};

use JobState::*;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for an agent, a time, or another job.
    Queued,
    /// An agent has it and counts files and bytes.
    Estimating,
    /// Data is moved, one fileset after the other.
    Running,
    /// What was stored or restored is read and compared.
    Verifying,
    /// Done, nothing to say.
    Completed,
    /// Done, with exceptions that are listed.
    CompletedWithErrors,
    /// Not done, and no attempt is left.
    Failed,
    /// Ended by a restart of its host, or by a fault that forbids going on (S-010, S-046).
    Aborted,
    /// Ended because somebody asked for it.
    Cancelled,
    /// Never begun, since the table *Agent away* or an unfinished run before it says so.
    Skipped,
    /// Never begun within its window.
    Expired,
}

/// Which part of its life a job is in; stored beside the state for the indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Nobody's yet.
    Waiting = 0,
    /// Leased to an agent.
    Active = 1,
    /// For good.
    Ended = 2,
}

impl JobState {
    /// All, in order of life.
    pub const ALL: [JobState; 11] = [
        Queued,
        Estimating,
        Running,
        Verifying,
        Completed,
        CompletedWithErrors,
        Failed,
        Aborted,
        Cancelled,
        Skipped,
        Expired,
    ];

    /// The part of its life.
    pub fn phase(self) -> Phase {
        match self {
            Queued => Phase::Waiting,
            Estimating | Running | Verifying => Phase::Active,
            Completed | CompletedWithErrors | Failed | Aborted | Cancelled | Skipped | Expired => Phase::Ended,
        }
    }

    /// True for a job whose work is done.
    pub fn is_success(self) -> bool {
        matches!(self, Completed | CompletedWithErrors)
    }

    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            Queued => "queued",
            Estimating => "estimating",
            Running => "running",
            Verifying => "verifying",
            Completed => "completed",
            CompletedWithErrors => "completed with errors",
            Failed => "failed",
            Aborted => "aborted",
            Cancelled => "cancelled",
            Skipped => "skipped",
            Expired => "expired",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Who makes a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mover {
    /// The control plane.
    Control,
    /// The agent that holds the lease, with its fence.
    Agent,
}

/// Every legal move: from, to, who, and why.
pub const MOVES: [(JobState, JobState, Mover, &str); 30] = [
    (Queued, Estimating, Mover::Control, "leased to an agent"),
    (Queued, Failed, Mover::Control, "the table Agent away says so: at once, or when its window ends (S-012)"),
    (Queued, Cancelled, Mover::Control, "somebody asked for it"),
    (Queued, Skipped, Mover::Control, "the agent of a scheduled run is away (S-031)"),
    (Queued, Expired, Mover::Control, "its window ended before an agent was free"),
    (Estimating, Running, Mover::Agent, "the first fileset begins"),
    (Estimating, Verifying, Mover::Agent, "a job that only verifies"),
    (Running, Verifying, Mover::Agent, "all filesets are moved"),
    (Estimating, Completed, Mover::Agent, "nothing was to be moved"),
    (Running, Completed, Mover::Agent, "committed"),
    (Verifying, Completed, Mover::Agent, "committed"),
    (Estimating, CompletedWithErrors, Mover::Agent, "committed, with exceptions"),
    (Running, CompletedWithErrors, Mover::Agent, "committed, with exceptions"),
    (Verifying, CompletedWithErrors, Mover::Agent, "committed, with exceptions"),
    (Estimating, Failed, Mover::Agent, "no attempt is left, or none can help"),
    (Running, Failed, Mover::Agent, "no attempt is left, or none can help"),
    (Verifying, Failed, Mover::Agent, "no attempt is left, or none can help"),
    (Estimating, Aborted, Mover::Agent, "it must not go on (S-046)"),
    (
        Running,
        Aborted,
        Mover::Agent,
        "it must not go on (S-046), or its host restarted and the policy says abort (S-010)",
    ),
    (
        Verifying,
        Aborted,
        Mover::Agent,
        "it must not go on (S-046), or its host restarted and the policy says abort (S-010)",
    ),
    (Estimating, Cancelled, Mover::Agent, "somebody asked for it"),
    (Running, Cancelled, Mover::Agent, "somebody asked for it"),
    (Verifying, Cancelled, Mover::Agent, "somebody asked for it"),
    (Estimating, Queued, Mover::Control, "the lease lapsed, was given back, or a retry is due after its pause"),
    (Running, Queued, Mover::Control, "the lease lapsed, was given back, or a retry is due after its pause"),
    (Verifying, Queued, Mover::Control, "the lease lapsed, was given back, or a retry is due after its pause"),
    (Queued, Running, Mover::Agent, "taken up again: nobody else had leased it since (same fence)"),
    (Queued, Verifying, Mover::Agent, "taken up again: nobody else had leased it since (same fence)"),
    (Queued, Completed, Mover::Agent, "delivered late: nobody else had leased it since (same fence)"),
    (Queued, CompletedWithErrors, Mover::Agent, "delivered late: nobody else had leased it since (same fence)"),
];

/// Whether the table has this move.
pub fn is_legal(from: JobState, to: JobState) -> bool {
    MOVES.iter().any(|(a, b, _, _)| (*a, *b) == (from, to))
}

/// The table for people.
pub fn markdown() -> String {
    let mut text = String::from(
        "# States of a job\n\nPrinted from `src/job/state.rs`; a test fails while they differ. A job in one of the last \
         seven states never moves again.\n\n| from | to | by | when |\n| --- | --- | --- | --- |\n",
    );
    for (from, to, mover, why) in MOVES {
        let by = match mover {
            Mover::Control => "control plane",
            Mover::Agent => "agent, with its fence",
        };
        text.push_str(&format!("| {from} | {to} | {by} | {why} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_document_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/STATES.md");
        if std::env::var_os("MOVER_PRINT_STATES").is_some() {
            std::fs::write(path, markdown()).expect("write STATES.md");
        }
        let document = std::fs::read_to_string(path).expect("STATES.md");
        assert!(document == markdown(), "STATES.md is stale: run this test with MOVER_PRINT_STATES=1");
    }

    #[test]
    fn states_that_ended_have_no_move_and_all_others_reach_an_end() {
        for (from, to, _, why) in MOVES {
            assert!(from.phase() != Phase::Ended, "{from} to {to}");
            assert!(from != to && !why.is_empty());
            assert_eq!(MOVES.iter().filter(|(a, b, _, _)| (*a, *b) == (from, to)).count(), 1, "{from} to {to} twice");
        }
        for state in JobState::ALL {
            let leaves = MOVES.iter().any(|(from, _, _, _)| *from == state);
            assert_eq!(leaves, state.phase() != Phase::Ended, "{state}");
        }
    }
}
