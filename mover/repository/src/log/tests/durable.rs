//! What an outcome follows from is durable before it is: who wrote it may have been killed before he synced its name.
//!
//! Two processes on one directory. The crash matrix cuts the power between runs that come one after the other; here one
//! goes on while the other one decides.

use std::time::Duration;

use super::*;
use crate::backend::LocalBackend;
use crate::backend::local::disk_trace::{DiskStep, DiskTrace};

struct Processes {
    _directory: tempfile::TempDir,
    first: Repository,
    second: Repository,
    /// What the second one does.
    trace: Arc<DiskTrace>,
}

impl Processes {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let trace = Arc::new(DiskTrace::default());
        let backend = Arc::new(LocalBackend::open(directory.path(), true).unwrap());
        let first = block_on(Repository::init(backend, &credential(), InitOptions::default())).unwrap();
        let traced = Arc::new(LocalBackend::open_traced(directory.path(), false, trace.clone()).unwrap());
        let second = block_on(Repository::open(traced, &credential())).unwrap();
        Self { _directory: directory, first, second, trace }
    }

    /// True if the second process synced the outcome of `relied_on` before it gave `number` one.
    fn is_synced_before(&self, relied_on: LogNumber, number: LogNumber) -> bool {
        let done = done_name(relied_on);
        let sync = DiskStep::SyncDirectory(done.strip_suffix("/done").unwrap().to_owned());
        let steps = self.trace.steps();
        let decided =
            steps.iter().position(|step| matches!(step, DiskStep::Link { to, .. } if *to == done_name(number)));
        steps[..decided.expect("it has an outcome")].contains(&sync)
    }
}

fn ended() -> Outcome {
    Outcome::Ended { reason: "test".into() }
}

#[test]
fn an_outcome_that_is_seen_at_registration_is_durable_before_the_next_one() {
    let processes = Processes::new();
    let seen = register(&processes.first);
    let _between = register(&processes.first);
    let relied_on = seen.number();
    block_on(seen.commit(ended())).unwrap();
    let registration = register(&processes.second);
    let number = registration.number();
    block_on(registration.commit(ended())).unwrap();
    assert!(processes.is_synced_before(relied_on, number));
    // From then on it is known to be: the next one does not sync it again.
    let next = register(&processes.second);
    let steps = processes.trace.steps().len();
    block_on(next.commit(ended())).unwrap();
    let again = DiskStep::SyncDirectory(done_name(relied_on).strip_suffix("/done").unwrap().to_owned());
    assert!(!processes.trace.steps()[steps..].contains(&again));
}

#[test]
fn an_outcome_that_is_waited_for_is_durable_before_what_follows_from_it() {
    let processes = Processes::new();
    let slow = register(&processes.first);
    let _between = register(&processes.first);
    let (relied_on, registration) = (slow.number(), register(&processes.second));
    let number = registration.number();
    block_on(slow.commit(ended())).unwrap();
    let waited = processes.second.await_outcomes(number, Duration::ZERO, |entry| entry.number == relied_on);
    assert!(block_on(waited).unwrap().1.is_empty());
    block_on(registration.commit(ended())).unwrap();
    assert!(processes.is_synced_before(relied_on, number));
}
