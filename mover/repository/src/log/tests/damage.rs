//! Damaged, missing and rolled-back records: who goes on, who is refused, and what is said.

use super::*;
use crate::backend::{Backend, IoFuture};

/// One flipped bit in the record of an old run once stopped every restore. Who reads goes on with what is
/// whole and is told of the rest; who writes is refused; and what a reader leaves behind in such a repository
/// does not make its damage the norm for those who come later.
#[test]
fn readers_go_on_beside_a_damaged_record_and_do_not_make_it_the_norm() {
    let backend = MemoryBackend::new();
    let cache = tempfile::tempdir().unwrap();
    init(&backend);
    let client = reopen(&backend, Some(cache.path()));
    let (first, second) = (commit_point(&client, "set").1, commit_point(&client, "set").1);
    let good = backend.snapshot();
    for name in [open_name(FIRST), done_name(FIRST)] {
        let object = good[&name].clone();
        let flip = |at: usize| {
            let mut changed = object.to_vec();
            changed[at] ^= 0x10;
            Some(Bytes::from(changed))
        };
        let mut damages: Vec<Option<Bytes>> = (0..object.len()).map(flip).collect();
        damages.extend([Some(object.slice(..9)), Some([&object[..], b"x"].concat().into()), None]);
        for damaged in damages {
            match damaged {
                Some(bytes) => backend.overwrite(&name, bytes),
                None => backend.remove(&name),
            }
            let reader = block_on(client.register(open_record(Role::Reader))).unwrap();
            let is_removed_outcome = !backend.snapshot().contains_key(&name) && name == done_name(FIRST);
            let named = if is_removed_outcome { LOG_PREFIX } else { &name };
            assert_eq!(reader.damage().iter().filter_map(RepositoryError::object).collect::<Vec<_>>(), [named]);
            // The outcome of a run whose registration is lost still tells which point it made.
            let left = if name == open_name(FIRST) { vec![first.id, second.id] } else { vec![second.id] };
            let points = reader.history().recovery_points();
            assert_eq!(points.iter().map(|(_, point)| point.id).collect::<Vec<_>>(), left);
            block_on(reader.commit(Outcome::Ended { reason: "restored".to_owned() })).unwrap();

            for other in [&client, &reopen(&backend, None)] {
                let refused = block_on(other.register(open_record(Role::Writer))).unwrap_err();
                assert!(refused.to_string().contains(&name), "{refused}");
                assert!(refused.guidance().unwrap().contains("copy of the repository"), "{refused}");
            }
            let after = backend.snapshot();
            let ended = |number: u64| after.contains_key(&done_name(LogNumber(number)));
            assert!((3..=5).all(ended), "reader and refused writers leave no run that looks crashed");
            backend.restore(good.clone());
        }
        // The object put back, with what readers and refused writers recorded meanwhile: all is well.
        backend.remove(&name);
        block_on(reopen(&backend, None).register(open_record(Role::Reader))).map(drop).unwrap();
        backend.overwrite(&name, object);
        assert_eq!(history(&client).unwrap().recovery_points().len(), 2);
        backend.restore(good.clone());
    }
}

/// A bad sector under one record is damage of that record. A store that stopped answering is no damaged history, and
/// asking it for one more number, and one more, would never end.
#[test]
fn a_record_that_cannot_be_read_is_damage_and_a_store_that_is_gone_is_not() {
    let (faulty, reader) = three_points_behind_faults();
    faulty.plan(Fault::at(Operation::Get, 1, Effect::Io).under(&done_name(FIRST)).forever());
    let (rest, damage) = block_on(reader.history_with_damage()).unwrap();
    assert_eq!((rest.recovery_points().len(), damage.len()), (2, 1));
    assert_eq!(damage[0].object(), Some(done_name(FIRST)));

    // Six reads of what is there, one of what may come after it.
    for nth in 1..=7 {
        faulty.heal();
        faulty.plan(Fault::at(Operation::Get, nth, Effect::Io).under("log/").forever());
        let gone = block_on(reader.history_with_damage()).unwrap_err();
        assert!(matches!(gone, RepositoryError::Storage(_)), "from call {nth} on: {gone}");
    }
    faulty.heal();
    // Once is no damage: it is asked again.
    faulty.plan(Fault::at(Operation::Get, 2, Effect::Io).under("log/"));
    assert_eq!(history(&reader).unwrap().recovery_points().len(), 3);
}

/// A repository that was put back from an older mirror could not even be restored from. Readers go on;
/// writers are refused with the name of the file that remembers more, and without that file all is well.
#[test]
fn a_repository_put_back_from_an_older_copy_is_read_and_can_be_accepted() {
    let backend = MemoryBackend::new();
    let cache = tempfile::tempdir().unwrap();
    init(&backend);
    let client = reopen(&backend, Some(cache.path()));
    let (_, kept) = commit_point(&client, "set");
    let mirror = backend.snapshot();
    commit_point(&client, "set");
    backend.restore(mirror);

    let reader = block_on(client.register(open_record(Role::Reader))).unwrap();
    assert_eq!(reader.history().recovery_points().iter().map(|(_, point)| point.id).collect::<Vec<_>>(), [kept.id]);
    assert_eq!(reader.damage().len(), 1);
    block_on(reader.commit(Outcome::Ended { reason: "restored".to_owned() })).unwrap();

    let memory_file = std::fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap().path();
    let refused = block_on(client.register(open_record(Role::Writer))).unwrap_err();
    assert!(refused.guidance().unwrap().contains(memory_file.to_str().unwrap()), "{:?}", refused.guidance());
    std::fs::remove_file(memory_file).unwrap();
    commit_point(&client, "set");
    assert_eq!(history(&client).unwrap().recovery_points().len(), 2);
}

#[test]
fn a_rolled_back_history_is_noticed_by_a_client_that_saw_more() {
    let backend = MemoryBackend::new();
    init(&backend);
    let cache = tempfile::tempdir().unwrap();
    let client = reopen(&backend, Some(cache.path()));
    commit_point(&client, "set");
    let one_point = backend.snapshot();
    commit_point(&client, "set");
    let two_points = backend.snapshot();

    // All of the second run is hidden.
    backend.restore(one_point.clone());
    let client = reopen(&backend, Some(cache.path()));
    assert!(matches!(history(&client), Err(RepositoryError::HistoryAltered { .. })));
    // Only its outcome is hidden.
    let mut without_outcome = two_points.clone();
    without_outcome.remove(&done_name(LogNumber(2)));
    backend.restore(without_outcome);
    assert!(matches!(history(&client), Err(RepositoryError::HistoryAltered { .. })));
    // A client that never saw the repository cannot notice.
    backend.restore(one_point);
    assert_eq!(history(&reopen(&backend, None)).unwrap().recovery_points().len(), 1);
    // With all of it back, all is well; a damaged memory is no memory.
    backend.restore(two_points);
    assert_eq!(history(&client).unwrap().recovery_points().len(), 2);
    let memory_file = std::fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&memory_file, b"damaged").unwrap();
    assert_eq!(history(&client).unwrap().recovery_points().len(), 2);
}

/// `mover points` never ended where a captive portal, or a store gone mad, had an object for every name below `log/`: each
/// number that nobody knew was one more record that could not be read.
#[test]
fn a_store_that_has_an_object_for_every_name_is_refused() {
    struct Parrot(MemoryBackend);
    impl Backend for Parrot {
        fn describe(&self) -> String {
            self.0.describe()
        }
        fn get(&self, name: &str, limit_bytes: u64) -> IoFuture<Bytes> {
            self.0.get(if name.starts_with(LOG_PREFIX) { "config" } else { name }, limit_bytes)
        }
        fn get_range(&self, name: &str, range: std::ops::Range<u64>) -> IoFuture<Bytes> {
            self.0.get_range(name, range)
        }
        fn size(&self, name: &str) -> IoFuture<u64> {
            match self.0.snapshot().contains_key("answers-all-sizes") {
                true => crate::backend::ready(Ok(1)),
                false => self.0.size(name),
            }
        }
        fn list(&self, prefix: &str) -> IoFuture<Vec<crate::backend::ObjectMeta>> {
            self.0.list(prefix)
        }
        fn create(&self, name: &str, body: Bytes) -> IoFuture<crate::backend::Created> {
            self.0.create(name, body)
        }
        fn stream(&self, name: &str) -> Box<dyn crate::backend::ObjectWriter> {
            self.0.stream(name)
        }
        fn barrier(&self) -> IoFuture<()> {
            self.0.barrier()
        }
        fn delete(&self, name: &str) -> IoFuture<()> {
            self.0.delete(name)
        }
    }
    let backend = MemoryBackend::new();
    init(&backend);
    let parrot = block_on(Repository::open(Arc::new(Parrot(backend.clone())), &credential())).unwrap();
    for _ in ["bytes for every name", "and a size for every name"] {
        let refused = block_on(parrot.history_with_damage()).unwrap_err();
        assert!(refused.to_string().contains("nobody can have written"), "{refused}");
        backend.overwrite("answers-all-sizes", &b"yes"[..]);
    }
}
