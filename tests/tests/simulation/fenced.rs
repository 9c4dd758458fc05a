//! A backup whose run is ended by somebody else, and whose data is then deleted, while it sleeps.
//!
//! It failed at its commit alone, after all its work, and a failure before that left its run without outcome: the next prune
//! had to fence it. `f01_kill_a_backup_that_sleeps_through_a_prune_commits_a_whole_point_or_is_fenced` is the same with real
//! processes.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_lite::future::block_on;
use mover_actors::Side;
use mover_actors::runtime::simulation::Ended;
use mover_repository::RepositoryError;
use mover_repository::backend::{Backend, Created, IoFuture, MemoryBackend, ObjectMeta, ObjectWriter};
use mover_repository::ids::UnixNanos;
use mover_repository::log::{Fencing, OpenRecord, Outcome, Role};
use mover_repository::repository::Repository;

use crate::small_trees;
use crate::world::{Objects, World, job};

/// At the first read of a pack somebody fences whoever may need them, and deletes all packs.
struct Pruned {
    memory: MemoryBackend,
    pruner: OnceLock<Repository>,
    is_pruned: OnceLock<()>,
}

impl Pruned {
    fn prune_before(&self, name: &str) {
        let Some(pruner) = self.pruner.get().filter(|_| name.starts_with("packs/")) else { return };
        self.is_pruned.get_or_init(|| {
            fence_all(pruner);
            for pack in block_on(self.memory.list("packs")).expect("packs") {
                block_on(self.memory.delete(&pack.name)).expect("delete");
            }
        });
    }
}

fn fence_all(pruner: &Repository) {
    let who = OpenRecord {
        role: Role::Admin,
        host: "another host".into(),
        process_id: 2,
        machine: job(2),
        set: String::new(),
        job: job(3),
        adopts: None,
        depends_on: None,
        started: UnixNanos(1),
    };
    let registration = block_on(pruner.register(who)).expect("register");
    let is_open = |number: &_| *number != registration.number();
    let open = registration.history().entries().iter().filter(|entry| entry.done.is_none()).map(|entry| entry.number);
    for number in open.filter(is_open).collect::<Vec<_>>() {
        assert_eq!(block_on(registration.fence(number, "silent")).expect("fence"), Fencing::Fenced);
    }
    block_on(registration.commit(Outcome::Ended { reason: "nothing to condemn".into() })).expect("commit");
}

impl Backend for Pruned {
    fn describe(&self) -> String {
        self.memory.describe()
    }
    fn get(&self, name: &str, limit_bytes: u64) -> IoFuture<Bytes> {
        self.prune_before(name);
        self.memory.get(name, limit_bytes)
    }
    fn get_range(&self, name: &str, range: Range<u64>) -> IoFuture<Bytes> {
        self.prune_before(name);
        self.memory.get_range(name, range)
    }
    fn size(&self, name: &str) -> IoFuture<u64> {
        self.memory.size(name)
    }
    fn list(&self, prefix: &str) -> IoFuture<Vec<ObjectMeta>> {
        self.memory.list(prefix)
    }
    fn create(&self, name: &str, body: Bytes) -> IoFuture<Created> {
        self.memory.create(name, body)
    }
    fn stream(&self, name: &str) -> Box<dyn ObjectWriter> {
        self.memory.stream(name)
    }
    fn barrier(&self) -> IoFuture<()> {
        self.memory.barrier()
    }
    fn delete(&self, name: &str) -> IoFuture<()> {
        self.memory.delete(name)
    }
}

/// What a second backup fails with, whose packs are deleted before it reads the first.
fn deleted_under() -> mover_actors::Failure {
    let world = World::new(1, 1, small_trees(1));
    let first = world.back_up(Objects::new());
    first.outcome.unwrap();
    let memory = MemoryBackend::default();
    memory.restore(first.store.durable());
    let store = Arc::new(Pruned { memory, pruner: OnceLock::new(), is_pruned: OnceLock::new() });
    let second = World { job: job(4), ..world };
    let repository = World::repository_on(store.clone());
    assert!(store.pruner.set(repository.clone()).is_ok());
    let outcome = second.back_up_into(repository.clone());
    assert!(store.is_pruned.get().is_some(), "no pack was read");
    let history = block_on(repository.history()).expect("history");
    assert!(history.entries().iter().all(|entry| entry.done.is_some()), "a failed run has an outcome");
    match outcome.result {
        Err(Ended::Failed(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_backup_that_was_fenced_and_pruned_says_that_it_was_fenced() {
    let failure = deleted_under();
    let below = failure.source.as_deref().and_then(|below| below.downcast_ref::<RepositoryError>());
    assert!(below.is_some_and(RepositoryError::is_fenced), "{failure}");
    assert_eq!(failure.side, Side::Repository);
}
