//! What an agent must not forget: the jobs that it runs, and how those ended of which the server does not know yet.
//!
//! A job is written down before its first command starts, its result before the job is struck out. So after a crash each
//! job is either running (its child is dead with the agent, and what comes after it is still to be run), or has a result
//! to deliver, or never began.
//!
//! A disk that is full costs no result: it stays in memory until the disk takes it or the server has it. No new work is
//! asked for meanwhile. What a server does not understand is kept in `results/refused/` for people to look at.

use std::cell::{Cell, RefCell};

use mover_control::ids::JobId;
use mover_control::job::Outcome;
use mover_control::job::order::{Command, RestartPolicy};
use mover_control::lease::report::{Ending, Held};
use mover_control::lease::take::Lease;
use mover_control::protocol::FinishRequest;
use serde::{Deserialize, Serialize};

use super::state::StateDirectory;
use crate::cli::error::Result;

/// What is written to see whether the disk takes it: more than one job needs.
const PROBE_BYTES: usize = 2 << 20;

/// A job in the hands of this agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Begun {
    held: Held,
    restart: RestartPolicy,
    /// Of the host when it began.
    boot: String,
    /// What it belongs to.
    #[serde(default)]
    set: String,
    /// What is to be run after it, whatever comes of it.
    #[serde(default)]
    after: Vec<Command>,
    /// Its result was made after a crash, when nothing had been run after it.
    #[serde(default)]
    ended_unheard: bool,
}

/// A job whose agent was killed before it ran what comes after the job.
#[derive(Clone, Debug)]
pub struct Orphan {
    /// Under which lease it ran.
    pub held: Held,
    /// What it belongs to.
    pub set: String,
    /// What is to be run.
    pub after: Vec<Command>,
}

fn job_name(job: &JobId) -> String {
    format!("jobs/{job}.json")
}

fn result_name(held: &Held) -> String {
    format!("results/{}-{}.json", held.job, held.fence)
}

fn refused_name(held: &Held) -> String {
    format!("results/refused/{}-{}.json", held.job, held.fence)
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data has a JSON form")
}

/// Another one after each start of the host.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// See the module.
pub struct Spool {
    state: StateDirectory,
    boot: String,
    /// Results that the disk did not take.
    unwritten: RefCell<Vec<FinishRequest>>,
    is_writable: Cell<bool>,
}

impl Spool {
    /// In this directory, on a host that was started under this id.
    pub fn new(state: StateDirectory, boot: String) -> Spool {
        Spool { state, boot, unwritten: RefCell::default(), is_writable: Cell::new(true) }
    }

    /// The directory.
    pub fn state(&self) -> &StateDirectory {
        &self.state
    }

    /// Whether the disk takes what a job needs; looked at again where it did not.
    pub fn is_writable(&self) -> bool {
        self.is_writable.get() || self.probe()
    }

    /// Whether it took the latest.
    pub fn was_writable(&self) -> bool {
        self.is_writable.get()
    }

    /// Tries the disk, and brings there what waits for it.
    pub fn probe(&self) -> bool {
        const NAME: &str = "probe";
        let tried = self.state.write(NAME, &[0; PROBE_BYTES]);
        self.state.remove(NAME);
        let was_writable = self.is_writable.replace(tried.is_ok());
        match tried {
            Ok(()) if !was_writable => tracing::info!("the directory of this agent takes jobs again"),
            Err(error) if was_writable => {
                tracing::error!(%error, "no more work: the directory of this agent takes none")
            }
            _ => {}
        }
        if self.is_writable.get() {
            self.unwritten.borrow_mut().retain(|result| self.write_result(result).is_err());
        }
        self.is_writable.get()
    }

    fn write_begun(&self, begun: &Begun) -> Result<()> {
        let written = self.state.write(&job_name(&begun.held.job), &json(begun));
        self.is_writable.set(self.is_writable.get() && written.is_ok());
        written
    }

    fn write_result(&self, result: &FinishRequest) -> Result<()> {
        let written = self.state.write(&result_name(&result.held), &json(result));
        self.is_writable.set(self.is_writable.get() && written.is_ok());
        written
    }

    /// Writes down that a job begins.
    pub fn begin(&self, lease: &Lease) -> Result<()> {
        let order = &lease.job.order;
        self.write_begun(&Begun {
            held: Held { job: lease.job.id.clone(), fence: lease.fence },
            restart: order.restart,
            boot: self.boot.clone(),
            set: lease.job.set.clone(),
            after: order.after.clone(),
            ended_unheard: false,
        })
    }

    /// Keeps how a job ended, and strikes it out.
    pub fn end(&self, result: FinishRequest) {
        let held = result.held.clone();
        if let Err(error) = self.write_result(&result) {
            tracing::error!(job = %held.job, %error, "the result cannot be written down; it is kept in memory");
            self.unwritten.borrow_mut().push(result);
        }
        self.forget(&held);
    }

    /// Strikes out a job under this lease; under a later one it stays.
    pub fn forget(&self, held: &Held) {
        let name = job_name(&held.job);
        let text = self.state.read(&name).ok().flatten().unwrap_or_default();
        let is_other = serde_json::from_str::<Begun>(&text).is_ok_and(|begun| begun.held != *held);
        if !is_other {
            self.state.remove(&name);
        }
    }

    /// What the server is still to be told.
    pub fn undelivered(&self) -> Vec<FinishRequest> {
        let mut all: Vec<FinishRequest> = self.unwritten.borrow().clone();
        let written = self.state.documents("results").into_iter().map(|(_, result): (_, FinishRequest)| result);
        for result in written {
            // A write that failed at its very end has left both.
            if all.iter().all(|known| known.held != result.held) {
                all.push(result);
            }
        }
        all
    }

    /// The server knows it, or does not want to.
    pub fn delivered(&self, held: &Held) {
        self.unwritten.borrow_mut().retain(|result| result.held != *held);
        self.state.remove(&result_name(held));
    }

    /// The server does not understand it: nobody asks again, and nothing is lost.
    pub fn refuse(&self, result: &FinishRequest) {
        let held = &result.held;
        // A full disk takes another name of what is there.
        if self.state.rename(&result_name(held), &refused_name(held)).is_err()
            && let Err(error) = self.state.write(&refused_name(held), &json(result))
        {
            let point = &result.outcome.recovery_point;
            tracing::error!(job = %held.job, %error, ?point, "a result that was refused cannot be kept either");
        }
        self.delivered(held);
    }

    /// After a start: jobs that were running when the process before this one ended. Those that must not go on after a
    /// restart of the host are ended here; the others go back to the queue when the server learns that this agent began
    /// anew. Gives those after which something is still to be run; they are struck out when it has been.
    pub fn recover(&self) -> Vec<Orphan> {
        let known = self.undelivered();
        let mut orphans = Vec::new();
        for (_, mut begun) in self.state.documents::<Begun>("jobs") {
            let has_result = known.iter().any(|result| result.held == begun.held);
            tracing::info!(job = %begun.held.job, has_result, "was running when the agent ended");
            if has_result && !begun.ended_unheard {
                self.forget(&begun.held);
                continue;
            }
            if !has_result && begun.restart == RestartPolicy::Abort && begun.boot != self.boot {
                let message = Some("its host restarted while it ran, and its policy says abort".to_owned());
                let outcome = Outcome { message, ..Outcome::default() };
                begun.ended_unheard = true;
                if let Err(error) = self.write_begun(&begun) {
                    tracing::error!(job = %begun.held.job, %error, "cannot be written down");
                }
                let result = FinishRequest { held: begun.held.clone(), ending: Ending::Aborted, outcome };
                if let Err(error) = self.write_result(&result) {
                    tracing::error!(job = %begun.held.job, %error, "the result cannot be written down");
                    self.unwritten.borrow_mut().push(result);
                }
            }
            match begun.after.is_empty() {
                true => self.forget(&begun.held),
                false => orphans.push(Orphan { held: begun.held, set: begun.set, after: begun.after }),
            }
        }
        orphans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(directory: &tempfile::TempDir) -> Spool {
        Spool::new(StateDirectory::open(Some(directory.path())).expect("open"), "now".to_owned())
    }

    fn begun(spool: &Spool, job: &str, restart: RestartPolicy, boot: &str, after: &[Command]) -> Held {
        let held = Held { job: JobId::from(job), fence: 3 };
        let (boot, set) = (boot.to_owned(), "set".to_owned());
        let begun = Begun { held: held.clone(), restart, boot, set, after: after.to_vec(), ended_unheard: false };
        spool.write_begun(&begun).expect("write");
        held
    }

    fn result(held: &Held, ending: Ending) -> FinishRequest {
        FinishRequest { held: held.clone(), ending, outcome: Outcome::default() }
    }

    fn jobs(spool: &Spool) -> usize {
        spool.state.documents::<Begun>("jobs").len()
    }

    #[test]
    fn s010_only_a_restart_of_the_host_aborts_and_only_jobs_that_say_so() {
        let directory = tempfile::tempdir().expect("a directory");
        let spool = spool(&directory);
        begun(&spool, "resumes", RestartPolicy::Resume, "before", &[]);
        begun(&spool, "same-boot", RestartPolicy::Abort, "now", &[]);
        let aborted = begun(&spool, "aborts", RestartPolicy::Abort, "before", &[]);
        let done = begun(&spool, "done", RestartPolicy::Abort, "before", &[]);
        spool.write_result(&result(&done, Ending::Completed)).expect("write");
        assert!(spool.recover().is_empty());
        let left = spool.undelivered();
        assert_eq!(left.len(), 2);
        let ending = |job: &str| left.iter().find(|result| result.held.job.as_str() == job).map(|r| r.ending.clone());
        assert_eq!(ending("aborts"), Some(Ending::Aborted));
        assert_eq!(ending("done"), Some(Ending::Completed), "a result that is there is not replaced");
        assert_eq!(jobs(&spool), 0);
        spool.delivered(&aborted);
        assert_eq!(spool.undelivered().len(), 1);
    }

    /// What a job had frozen once stayed frozen when its agent was killed.
    #[test]
    fn commands_after_a_job_whose_agent_was_killed_are_still_to_be_run_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let spool = spool(&directory);
        let thaw = Command { arguments: vec!["/thaw".to_owned()], limit_seconds: 1, required: true };
        let after = std::slice::from_ref(&thaw);
        let resumes = begun(&spool, "resumes", RestartPolicy::Resume, "now", after);
        let aborts = begun(&spool, "aborts", RestartPolicy::Abort, "before", after);
        let done = begun(&spool, "done", RestartPolicy::Resume, "now", after);
        spool.write_result(&result(&done, Ending::Completed)).expect("write");
        for round in ["after a kill", "after a kill before they had run"] {
            let orphans = spool.recover();
            let held: Vec<&Held> = orphans.iter().map(|orphan| &orphan.held).collect();
            assert_eq!(held, [&aborts, &resumes], "{round}: those of a job with a result have run");
            assert_eq!(orphans[0].after, std::slice::from_ref(&thaw));
            assert_eq!(spool.undelivered().len(), 2, "{round}");
        }
        [&resumes, &aborts].iter().for_each(|held| spool.forget(held));
        assert!(spool.recover().is_empty());
    }

    #[test]
    fn end_of_an_earlier_lease_leaves_the_later_one_of_the_same_job() {
        let directory = tempfile::tempdir().expect("a directory");
        let spool = spool(&directory);
        let later = begun(&spool, "job", RestartPolicy::Resume, "now", &[]);
        let earlier = Held { fence: later.fence - 1, ..later.clone() };
        spool.end(result(&earlier, Ending::GivenBack));
        spool.forget(&earlier);
        assert_eq!(jobs(&spool), 1);
        spool.end(result(&later, Ending::Completed));
        assert_eq!((jobs(&spool), spool.undelivered().len()), (0, 2));
    }

    #[test]
    fn result_that_the_disk_does_not_take_is_kept_and_delivered_all_the_same() {
        let directory = tempfile::tempdir().expect("a directory");
        let spool = spool(&directory);
        let held = begun(&spool, "job", RestartPolicy::Resume, "now", &[]);
        // A file where a directory was: nothing can be written there, whoever tries.
        let results = directory.path().join("results");
        std::fs::remove_dir_all(&results).expect("remove");
        std::fs::write(&results, "").expect("write");
        spool.end(result(&held, Ending::Completed));
        assert_eq!(spool.undelivered().len(), 1);
        std::fs::remove_file(&results).expect("remove");
        std::fs::create_dir(&results).expect("make");
        assert!(spool.is_writable(), "it is tried");
        assert_eq!(spool.state.documents::<FinishRequest>("results").len(), 1, "what waited for the disk is there");
        assert_eq!(spool.undelivered().len(), 1);
        spool.delivered(&held);
        assert!(spool.undelivered().is_empty());
    }

    #[test]
    fn result_that_the_server_does_not_understand_is_kept_for_people() {
        let directory = tempfile::tempdir().expect("a directory");
        let spool = spool(&directory);
        let held = Held { job: JobId::from("job"), fence: 3 };
        spool.end(result(&held, Ending::Completed));
        spool.refuse(&result(&held, Ending::Completed));
        assert!(spool.undelivered().is_empty());
        assert_eq!(spool.state.documents::<FinishRequest>("results/refused").len(), 1);
    }

    #[test]
    fn state_directory_is_held_by_one_process_and_secret() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let place = directory.path().join("agent");
        let state = StateDirectory::open(Some(&place)).expect("open");
        let second = StateDirectory::open(Some(&place)).map(|_| ()).expect_err("held");
        assert_eq!(second.exit, crate::cli::exit::Exit::InUse);
        state.applicant("one", || Ok(("id".into(), "secret".to_owned()))).expect("an applicant");
        let mode = |path: &std::path::Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&place), mode(&place.join("applicant.json"))), (0o700, 0o600));
    }
}
