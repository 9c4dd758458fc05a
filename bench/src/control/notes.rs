//! What the figures mean for a hundred thousand agents: worked out on paper from what was measured, nothing else.

use mover_control::agents::HEARTBEAT;
use mover_control::protocol::POLL_WAIT;
use mover_control::service::queue::WAITERS_MAX;

use super::Outcome;

/// Agents of the calculation.
const AGENTS: f64 = 100_000.0;
/// Jobs of each of them a day.
const JOBS_A_DAY: f64 = 4.0;

/// Prints the calculation.
pub fn tell(outcomes: &[Outcome]) {
    let heartbeat = HEARTBEAT.as_secs_f64();
    let beats = AGENTS / heartbeat;
    let polls = AGENTS / POLL_WAIT.as_secs_f64();
    let jobs = AGENTS * JOBS_A_DAY / 86_400.0;
    println!("\nOn paper, for {AGENTS} agents with {JOBS_A_DAY} jobs a day each:");
    let wait = POLL_WAIT.as_secs();
    println!("- all idle: each polls again every {wait} s and sends no heartbeat: {polls:.0} requests a second.");
    println!(
        "- all at work (the worst moment): a heartbeat every {heartbeat} s, and a poll every {wait} s while a slot is free: {:.0} requests a second, {beats:.0} of them heartbeats.",
        beats + polls
    );
    println!("- jobs: {jobs:.1} a second in the mean; if all begin within one hour, {:.0} a second.", AGENTS / 3600.0);
    let kib = outcomes.iter().filter_map(|outcome| outcome.kib_per_agent).fold(0.0, f64::max);
    println!(
        "- connections: {AGENTS} that wait take about {:.1} GiB ({kib:.0} KiB each were measured), and as many open files.",
        AGENTS * kib / 1024.0 / 1024.0
    );
    let servers = (AGENTS / WAITERS_MAX as f64).ceil();
    println!(
        "- waiting polls: one server holds {WAITERS_MAX}, beyond it answers at once and agents come again: {servers} servers, so PostgreSQL."
    );
    for outcome in outcomes {
        let (burst, beat) = (&outcome.rounds[0], &outcome.rounds[2]);
        let cores = beats * beat.cpu_us_per_beat / 1e6;
        println!(
            "- {}, {}: {:.0} heartbeats a second were measured against {beats:.0} needed, {cores:.1} cores of CPU of server and database for them; \
             {:.0} leases a second against {:.0} in that hour.",
            outcome.database,
            outcome.way,
            beat.beats_per_second,
            burst.jobs_per_second,
            AGENTS / 3600.0,
        );
        if let Some(bytes) = outcome.bytes_per_job {
            let gib = bytes * jobs * 86_400.0 * 365.0 / f64::from(1 << 30);
            println!("- {}: {gib:.1} GiB a year of jobs and events before housekeeping.", outcome.database);
        }
    }
    println!(
        "- what breaks first: the waiting polls of one server, then the heartbeats, which each write a row; leases are far from their bound. \
         An operator runs {servers} servers on one PostgreSQL behind a balancer, and raises the limit of open files; \
         or, simpler, gives each site of 10,000 agents a control plane of its own, which one server with SQLite carries."
    );
}
