//! Calls that fail instead of being the last: a full disk at each write, an error at each sync, each read; listings that
//! miss what is new.

use std::sync::Arc;

use mover_repository::backend::faulty::{Effect, Fault, Operation};
use mover_repository::backend::local::disk_trace::{DiskFault, DiskStepKind};
use mover_repository::backend::{Backend, FaultyBackend, MemoryBackend};

use super::disk::Cut;
use super::scene::{Act, FIRST, Scene, open};
use super::store::Record;
use super::{images, said, sampled};

const ACTS: [Act; 8] =
    [Act::Backup, Act::Forget, Act::Prune, Act::KeyAdd, Act::KeyRemove, Act::KeyChange, Act::RepairIndex, Act::Compact];

/// Runs an act with a fault of the disk, and checks what it leaves, killed or cut off from power after its end. Gives
/// how the act ended.
fn with_fault(scene: &Scene, act: Act, fault: DiskFault) -> Result<(), String> {
    let record = Record::of(scene, &[(act, Some(fault))]);
    let (end, result) = record.ended[0].clone();
    for image in images(&record, end, |_, _| true).iter().filter(|image| matches!(image.cut, Cut::Killed | Cut::Lost)) {
        if let Err(wrong) = scene.check(act, &image.objects, image.is_acknowledged) {
            panic!("{act:?} with {fault:?}, which ended with {result:?}: {wrong}; {}", said(&record, image));
        }
    }
    result
}

/// Strikes each step of an act, once and for good.
fn each_step(scene: &Scene, act: Act, kind: DiskStepKind, errno: i32, most: usize) -> Vec<String> {
    let steps = Record::of(scene, &[(act, None)]).steps.len();
    let faults: Vec<DiskFault> =
        (0..steps).flat_map(|at| [DiskFault::Once(at, kind, errno), DiskFault::From(at, kind, errno)]).collect();
    let results = sampled(faults, most).into_iter().map(|fault| with_fault(scene, act, fault));
    results.filter_map(Result::err).collect()
}

/// FAILURES F13: a disk that is full says so, at whichever write it is met, and loses nothing.
#[test]
fn f13_crash_the_disk_is_full_at_each_write() {
    let scene = Scene::new();
    for act in ACTS {
        let failures = each_step(&scene, act, DiskStepKind::Grow, libc::ENOSPC, 12);
        assert!(!failures.is_empty(), "{act:?} met no fault");
        let untold = failures.iter().find(|failure| !failure.contains("No space left on device"));
        assert_eq!(untold, None, "{act:?}");
    }
}

/// After a sync that failed nothing that relied on it is acknowledged.
#[test]
fn crash_each_sync_fails() {
    let scene = Scene::new();
    for act in ACTS {
        let failures = each_step(&scene, act, DiskStepKind::Sync, libc::EIO, 12);
        assert!(!failures.is_empty(), "{act:?} met no fault");
    }
}

/// A store in memory that holds the scene, with faults.
fn faulty(scene: &Scene) -> (Arc<MemoryBackend>, Arc<FaultyBackend>) {
    let store = Arc::new(MemoryBackend::new());
    store.restore(scene.objects.clone());
    (store.clone(), Arc::new(FaultyBackend::new(store)))
}

/// Runs an act on a store in memory with faults that `plan` makes, and checks what is there afterwards, and what is
/// after a power cut.
fn on_faulty_store(scene: &Scene, act: Act, what: &str, plan: impl Fn(&FaultyBackend)) -> bool {
    let (store, backend) = faulty(scene);
    let repository = open(&(backend.clone() as Arc<dyn Backend>), FIRST).expect("it opens");
    plan(&backend);
    let result = scene.act(act, &repository);
    for is_cut in [false, true] {
        if is_cut {
            store.crash();
        }
        if let Err(wrong) = scene.check(act, &store.snapshot(), result.is_ok()) {
            panic!("{act:?} with {what}, which ended with {result:?}: {wrong}");
        }
    }
    result.is_ok()
}

#[test]
fn crash_each_read_fails() {
    let scene = Scene::new();
    let mut failed = 0;
    for act in ACTS {
        let (_, backend) = faulty(&scene);
        let repository = open(&(backend.clone() as Arc<dyn Backend>), FIRST).expect("it opens");
        backend.forget_calls();
        scene.act(act, &repository).expect("it works without a fault");
        let mut faults = Vec::new();
        for operation in [Operation::Get, Operation::GetRange, Operation::Size, Operation::List] {
            for nth in 1..=backend.count(operation, "") as u64 {
                let fault = Fault::at(operation, nth, Effect::Io);
                faults.extend([fault.clone(), fault.forever()]);
            }
        }
        for fault in sampled(faults, 12) {
            failed +=
                usize::from(!on_faulty_store(&scene, act, &format!("{fault:?}"), |store| store.plan(fault.clone())));
        }
    }
    assert!(failed > 20, "{failed} acts met a fault");
}

/// FAILURES F04, F12: a listing that misses what is new implies neither that it is unused nor that it is there.
#[test]
fn f04_f12_crash_each_listing_is_stale() {
    let scene = Scene::new();
    for act in ACTS {
        for missed in [1, 2, 3, 5, 8, 13, usize::MAX] {
            on_faulty_store(&scene, act, &format!("listings that miss {missed}"), |store| {
                store.miss_newest(missed, &scene.created);
            });
        }
    }
}
