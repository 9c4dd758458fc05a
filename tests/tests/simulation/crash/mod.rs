//! The crash matrix: each act, cut at each step that it asks of the file system, with what was not synced there, lost, torn
//! or reordered; and with each step failing, each read failing, each listing stale. After each: some key opens it, every
//! point that was acknowledged is whole, verify is clean or names what is hurt, and the next backup and prune complete.
//!
//! Images that are equal are checked once. What is left is sampled by a fixed seed; the nightly form checks all.

mod disk;
mod faults;
mod scene;
mod store;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use mover_repository::backend::local::disk_trace::{DiskFault, DiskStep};
use mover_tests::random::Random;

use crate::world::Objects;
use disk::Cut;
use scene::{Act, Scene};
use store::Record;

/// Images of one act that the short form checks.
const SAMPLE: usize = 24;

fn is_nightly() -> bool {
    std::env::var_os("MOVER_TEST_NIGHTLY").is_some()
}

/// A disk after a cut, as objects.
struct Image {
    steps: usize,
    cut: Cut,
    objects: Objects,
    is_acknowledged: bool,
}

/// The images that differ, of cuts after `from` steps or more.
fn images(record: &Record, from: usize, is_taken: impl Fn(usize, &DiskStep) -> bool) -> Vec<Image> {
    let seeds = if is_nightly() { 8 } else { 2 };
    let (ended, result) = record.ended.last().expect("a process");
    let (mut seen, mut images) = (HashSet::new(), Vec::new());
    record.each_disk(is_taken, |steps, disk| {
        if steps < from {
            return;
        }
        let first = steps as u64 * 1000;
        let seeded = (first..first + seeds).flat_map(|seed| [Cut::Torn(seed), Cut::Reordered(seed)]);
        for cut in [Cut::Killed, Cut::Lost].into_iter().chain(seeded) {
            let (objects, is_acknowledged) = (disk.after(cut), steps == *ended && result.is_ok());
            let mut hasher = DefaultHasher::new();
            (&objects, is_acknowledged).hash(&mut hasher);
            if seen.insert(hasher.finish()) {
                images.push(Image { steps, cut, objects, is_acknowledged });
            }
        }
    });
    images
}

/// At most so many of them, by a fixed seed; all of them at night. The last ones, after the acknowledgement, stay.
fn sampled<T>(mut all: Vec<T>, most: usize) -> Vec<T> {
    let mut random = Random::new(all.len() as u64);
    while all.len() > most && !is_nightly() {
        let last = all.len() as u64 - most.min(4) as u64;
        all.remove(random.below(last) as usize);
    }
    all
}

fn said(record: &Record, image: &Image) -> String {
    let first = image.steps.saturating_sub(3);
    let shown: Vec<String> = record.steps[first..image.steps].iter().map(short).collect();
    format!("{:?} after {} of {} steps, the last ones {shown:?}", image.cut, image.steps, record.steps.len())
}

fn short(step: &DiskStep) -> String {
    match step {
        DiskStep::Write { file, bytes, .. } => format!("write {} bytes of file {file}", bytes.len()),
        other => format!("{other:?}"),
    }
}

/// Cuts the power at each step of an act.
fn power_cuts(scene: &Scene, act: Act) {
    let record = Record::of(scene, &[(act, None)]);
    record.ended[0].1.as_ref().unwrap_or_else(|error| panic!("{act:?}: {error}"));
    let all = images(&record, 0, |_, _| true);
    let (found, steps) = (all.len(), record.steps.len());
    let checked = sampled(all, SAMPLE);
    println!("{act:?}: {steps} steps, {found} images, {} checked", checked.len());
    for image in &checked {
        if let Err(wrong) = scene.check(act, &image.objects, image.is_acknowledged) {
            panic!("{act:?}: {wrong}; {}", said(&record, image));
        }
    }
}

#[test]
fn crash_power_is_cut_at_each_step_of_a_backup() {
    power_cuts(&Scene::new(), Act::Backup);
}

#[test]
fn crash_power_is_cut_at_each_step_of_a_prune() {
    power_cuts(&Scene::new(), Act::Prune);
}

#[test]
fn crash_power_is_cut_at_each_step_of_a_forget() {
    power_cuts(&Scene::new(), Act::Forget);
}

#[test]
fn crash_power_is_cut_at_each_step_of_changes_of_keys() {
    let scene = Scene::new();
    [Act::KeyAdd, Act::KeyRemove, Act::KeyChange].into_iter().for_each(|act| power_cuts(&scene, act));
}

#[test]
fn crash_power_is_cut_at_each_step_of_a_repair_or_a_merge_of_the_index() {
    let scene = Scene::new();
    [Act::RepairIndex, Act::Compact].into_iter().for_each(|act| power_cuts(&scene, act));
}

#[test]
fn crash_power_is_cut_at_each_step_of_a_repair_of_packs() {
    power_cuts(&Scene::damaged(), Act::RepairPacks);
}

/// One process is killed at each step that gave something a name, another one goes on from there at once, and then
/// the power is cut: what the first one did not come to sync may be gone, and what the second one did is not.
#[test]
fn crash_power_is_cut_after_another_run_was_killed() {
    let scene = Scene::new();
    for first in [Act::Backup, Act::Forget, Act::Prune] {
        let record = Record::of(&scene, &[(first, None)]);
        let names_something = |step: &DiskStep| matches!(step, DiskStep::Link { .. } | DiskStep::Rename { .. });
        let kills: Vec<usize> =
            (0..record.steps.len()).filter(|at| names_something(&record.steps[*at])).map(|at| at + 1).collect();
        for kill in sampled(kills, 4) {
            for act in [Act::Backup, Act::Prune, Act::RepairIndex] {
                let record = Record::of(&scene, &[(first, Some(DiskFault::Killed(kill))), (act, None)]);
                let from = record.ended[0].0;
                for image in sampled(images(&record, from, |_, _| true), 3) {
                    if let Err(wrong) = scene.check(first, &image.objects, false) {
                        panic!("{act:?} after {first:?} was killed: {wrong}; {}", said(&record, &image));
                    }
                }
            }
        }
    }
}

/// The disk that loses all it may, once all processes have ended; without the steps that are not taken.
fn cut_at_the_end(record: &Record, is_taken: impl Fn(usize, &DiskStep) -> bool) -> Objects {
    let mut left = Objects::new();
    record.each_disk(is_taken, |_, disk| left = disk.after(Cut::Lost));
    left
}

/// How many steps an act takes until its last record has its name, which no sync covers yet.
fn steps_to_the_last_name(scene: &Scene, act: Act) -> usize {
    let record = Record::of(scene, &[(act, None)]);
    let is_record = |step: &DiskStep| matches!(step, DiskStep::Link { to, .. } if to.ends_with("/done"));
    record.steps.iter().rposition(is_record).expect("a record") + 1
}

/// A forget was killed when its record had a name, before that name was synced. A prune counted it and deleted what the
/// point alone needed; then the power was cut, the record was gone, and the point was back without its data.
#[test]
fn crash_a_prune_relies_on_no_record_that_a_power_cut_may_take_back() {
    let scene = Scene::new();
    let killed = DiskFault::Killed(steps_to_the_last_name(&scene, Act::Forget));
    let record = Record::of(&scene, &[(Act::Forget, Some(killed)), (Act::Prune, None)]);
    assert!(record.ended[0].1.is_err() && record.ended[1].1.is_ok(), "{:?}", record.ended);
    scene.check(Act::Forget, &cut_at_the_end(&record, |_, _| true), false).unwrap();
    let before = record.ended[0].0;
    let DiskStep::Link { to, .. } = &record.steps[before - 1] else { panic!("{:?}", record.steps[before - 1]) };
    let directory = to.strip_suffix("/done").expect("a record").to_owned();
    let sync = DiskStep::SyncDirectory(directory);
    let without = cut_at_the_end(&record, |number, step| number < before || *step != sync);
    assert!(scene.check(Act::Forget, &without, false).is_err(), "the sync of the record makes no difference");
}

/// A key was removed, and after a power cut it opened the repository again: its deletion had not been synced.
#[test]
fn crash_a_key_that_was_removed_does_not_come_back() {
    let scene = Scene::new();
    let record = Record::of(&scene, &[(Act::KeyRemove, None)]);
    scene.check(Act::KeyRemove, &cut_at_the_end(&record, |_, _| true), true).unwrap();
    let sync = DiskStep::SyncDirectory("keys".to_owned());
    let without = cut_at_the_end(&record, |_, step| *step != sync);
    assert!(scene.check(Act::KeyRemove, &without, true).is_err(), "the sync of the keys makes no difference");
}

/// The matrix can fail: with the syncs of files, or of directories, left out, a cut is found that loses something.
#[test]
fn crash_matrix_notices_each_kind_of_sync_that_is_left_out() {
    let scene = Scene::new();
    let record = Record::of(&scene, &[(Act::Backup, None)]);
    let is_of_file = |step: &DiskStep| matches!(step, DiskStep::SyncFile(_));
    let is_of_directory = |step: &DiskStep| matches!(step, DiskStep::SyncDirectory(_));
    for is_left_out in [&is_of_file as &dyn Fn(&DiskStep) -> bool, &is_of_directory] {
        let all = images(&record, 0, |_, step| !is_left_out(step));
        let is_noticed = |image: &Image| scene.check(Act::Backup, &image.objects, image.is_acknowledged).is_err();
        assert!(all.iter().rev().any(is_noticed), "no cut of {} shows it", all.len());
    }
}

/// FAILURES F06: a blob was not found after maintenance, and nothing said why. Wherever a prune is cut off, each pack that
/// is gone was named before, with a reason, by a record that is there.
#[test]
fn f06_crash_each_pack_that_is_gone_was_journaled_before() {
    let scene = Scene::new();
    let record = Record::of(&scene, &[(Act::Prune, None)]);
    let mut gone = 0;
    for image in sampled(images(&record, 0, |_, _| true), SAMPLE) {
        match scene.journaled(&image.objects) {
            Ok(packs) => gone = gone.max(packs),
            Err(wrong) => panic!("{wrong}; {}", said(&record, &image)),
        }
    }
    assert!(gone > 3, "only {gone} packs were deleted");
}
