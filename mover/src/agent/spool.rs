//! What an agent must not forget: the jobs that it runs, and how those ended of which the server does not know yet.
//!
//! A job is written down before its child starts, its result before the job is struck out. So after a crash each job is
//! either running (its child is dead with the agent), or has a result to deliver, or never began.

use mover_control::job::order::RestartPolicy;
use mover_control::job::{JobKind, Outcome};
use mover_control::lease::report::{Ending, Held};
use mover_control::lease::take::Lease;
use mover_control::protocol::FinishRequest;
use serde::{Deserialize, Serialize};

use super::state::StateDirectory;
use crate::cli::error::Result;

/// A job in the hands of this agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Begun {
    held: Held,
    kind: JobKind,
    restart: RestartPolicy,
    /// Of the host when it began.
    boot: String,
}

fn job_name(held: &Held) -> String {
    format!("jobs/{}.json", held.job)
}

fn result_name(held: &Held) -> String {
    format!("results/{}-{}.json", held.job, held.fence)
}

/// Another one after each start of the host.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Writes down that a job begins.
pub fn begin(state: &StateDirectory, lease: &Lease, boot: &str) -> Result<()> {
    let held = Held { job: lease.job.id.clone(), fence: lease.fence };
    let name = job_name(&held);
    let (kind, restart) = (lease.job.kind, lease.job.order.restart);
    let begun = Begun { held, kind, restart, boot: boot.to_owned() };
    state.write(&name, &serde_json::to_vec(&begun).expect("plain data has a JSON form"))
}

/// Writes down how a job ended, and strikes it out.
pub fn end(state: &StateDirectory, result: &FinishRequest) -> Result<()> {
    let document = serde_json::to_vec(result).expect("plain data has a JSON form");
    state.write(&result_name(&result.held), &document)?;
    state.remove(&job_name(&result.held));
    Ok(())
}

/// Strikes out a job that is somebody else's now.
pub fn forget(state: &StateDirectory, held: &Held) {
    state.remove(&job_name(held));
}

/// What the server is still to be told.
pub fn undelivered(state: &StateDirectory) -> Vec<FinishRequest> {
    state.documents("results").into_iter().map(|(_, result)| result).collect()
}

/// The server knows it, or does not want to.
pub fn delivered(state: &StateDirectory, held: &Held) {
    state.remove(&result_name(held));
}

/// After a start: jobs that were running when the process before this one ended. Those that must not go on after a restart
/// of the host are ended here; the others go back to the queue when the server learns that this agent began anew.
pub fn recover(state: &StateDirectory, boot: &str) -> Result<()> {
    let known = undelivered(state);
    for (_, begun) in state.documents::<Begun>("jobs") {
        let has_result = known.iter().any(|result| result.held == begun.held);
        if !has_result && begun.restart == RestartPolicy::Abort && begun.boot != boot {
            let message = Some("its host restarted while it ran, and its policy says abort".to_owned());
            let outcome = Outcome { message, ..Outcome::default() };
            end(state, &FinishRequest { held: begun.held, ending: Ending::Aborted, outcome })?;
            continue;
        }
        tracing::info!(job = %begun.held.job, has_result, "was running when the agent ended");
        forget(state, &begun.held);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mover_control::ids::JobId;

    fn begun(state: &StateDirectory, job: &str, restart: RestartPolicy, boot: &str) -> Held {
        let held = Held { job: JobId::from(job), fence: 3 };
        let begun = Begun { held: held.clone(), kind: JobKind::Backup, restart, boot: boot.to_owned() };
        state.write(&job_name(&held), &serde_json::to_vec(&begun).expect("JSON")).expect("write");
        held
    }

    #[test]
    fn s010_only_a_restart_of_the_host_aborts_and_only_jobs_that_say_so() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = StateDirectory::open(Some(directory.path())).expect("open");
        begun(&state, "resumes", RestartPolicy::Resume, "before");
        begun(&state, "same-boot", RestartPolicy::Abort, "now");
        let aborted = begun(&state, "aborts", RestartPolicy::Abort, "before");
        let done = begun(&state, "done", RestartPolicy::Abort, "before");
        let result = FinishRequest { held: done, ending: Ending::Completed, outcome: Outcome::default() };
        state.write(&result_name(&result.held), &serde_json::to_vec(&result).expect("JSON")).expect("write");
        recover(&state, "now").expect("recover");
        let left = undelivered(&state);
        assert_eq!(left.len(), 2);
        let ending = |job: &str| left.iter().find(|result| result.held.job.as_str() == job).map(|r| r.ending.clone());
        assert_eq!(ending("aborts"), Some(Ending::Aborted));
        assert_eq!(ending("done"), Some(Ending::Completed), "a result that is there is not replaced");
        assert!(state.documents::<Begun>("jobs").is_empty());
        delivered(&state, &aborted);
        assert_eq!(undelivered(&state).len(), 1);
    }

    #[test]
    fn state_directory_is_held_by_one_process_and_secret() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let place = directory.path().join("agent");
        let state = StateDirectory::open(Some(&place)).expect("open");
        let second = StateDirectory::open(Some(&place)).map(|_| ()).expect_err("held");
        assert_eq!(second.exit, crate::cli::exit::Exit::InUse);
        state.key(|| Ok("secret".to_owned())).expect("key");
        assert_eq!(state.key(|| Ok("another".to_owned())).expect("key"), "secret");
        let mode = |path: &std::path::Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&place), mode(&place.join("key.pem"))), (0o700, 0o600));
    }
}
