//! Verifications night after night: what is remembered, what is due, and who may say so.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::ids::{LogNumber, PackId, UnixNanos};
use crate::log::{HurtFrame, Outcome, ProvenSpan, Role, Verification};
use crate::pack::{PackClass, parse_pack_name, read_contents};
use crate::testing::{Bench, block_on, noise};
use crate::verify::{Data, VerifyOptions, VerifyReport, verify};

const DAY: Duration = Duration::from_secs(86_400);

fn at(day: i128) -> UnixNanos {
    UnixNanos(1_700_000_000_000_000_000 + day * DAY.as_nanos() as i128)
}

fn due_within(days: u32, budget_bytes: u64) -> Data {
    Data::Due { max_age: DAY * days, budget_bytes }
}

fn due(days: u32) -> Data {
    due_within(days, u64::MAX)
}

/// As the command does it: registers, verifies, leaves what was proven.
fn night(bench: &Bench, day: i128, data: Data) -> VerifyReport {
    let reader = block_on(bench.repository.register(Bench::open_record(Role::Reader))).unwrap();
    let options = VerifyOptions { data, threads: 2, now: at(day), ..VerifyOptions::default() };
    let report = verify(&bench.repository, &options, &|_| {}).unwrap();
    block_on(reader.commit(Outcome::Verified(report.verification.clone().unwrap()))).unwrap();
    report
}

/// Adds three packs.
fn backup(bench: &Bench, seed: u64) {
    bench.backup(&[("a", noise(seed, 1000)), ("b", noise(seed + 1000, 700))]);
}

fn bench_of(backups: u64) -> Bench {
    let bench = Bench::new();
    (0..backups).for_each(|seed| backup(&bench, seed));
    bench
}

fn packs(bench: &Bench) -> Vec<(LogNumber, PackId, u64)> {
    let parsed = bench.names("packs").into_iter().map(|name| {
        let (writer, id) = parse_pack_name(&name).unwrap();
        (writer, id, bench.bytes(&name).len() as u64)
    });
    parsed.collect()
}

fn due_packs(bench: &Bench, day: i128, days: u32) -> u64 {
    let options = VerifyOptions { data: due_within(days, 0), now: at(day), ..VerifyOptions::default() };
    verify(&bench.repository, &options, &|_| {}).unwrap().proof.unwrap().due_packs
}

/// The promise of a nightly budget: whatever is there, new packs included, was proven in the last month, and nothing is
/// read much more often. More may be due in one night than fits, so the age asked for is some days less than a month.
#[test]
fn a_nightly_budget_proves_everything_in_a_month() {
    let bench = bench_of(20);
    let bytes: u64 = packs(&bench).iter().map(|pack| pack.2).sum();
    let budget = bytes * 7 / 28;
    let mut proven: HashMap<PackId, i128> = HashMap::new();
    let mut read = 0;
    for day in 0..70 {
        // new data comes for a while, of the size of a twentieth of what was there
        if day < 60 {
            backup(&bench, 100 + day as u64);
        }
        packs(&bench).iter().for_each(|pack| _ = proven.entry(pack.1).or_insert(day));
        let report = night(&bench, day, due_within(25, budget));
        assert!(report.is_clean() && report.bytes_read <= budget, "{report:?}");
        let spans = report.verification.unwrap().proven;
        let contained = packs(&bench).into_iter().filter(|(w, id, _)| spans.iter().any(|span| span.contains(id, *w)));
        let contained: Vec<PackId> = contained.map(|pack| pack.1).collect();
        assert_eq!(contained.len() as u64, report.packs_read, "the record says what was read, and nothing else");
        contained.iter().for_each(|id| _ = proven.insert(*id, day));
        read += report.packs_read;
        let oldest = proven.values().map(|proof| day - proof).max();
        assert!(oldest <= Some(30), "day {day}: a pack was not proven for {oldest:?} days");
    }
    let count = packs(&bench).len() as u64;
    assert!(read <= count * 4, "{read} reads of {count} packs in 70 days");
    let status = night(&bench, 70, due(30)).proof.unwrap();
    assert_eq!((status.due_packs, status.never_packs, status.proven_bytes), (0, 0, status.bytes));
    assert!(status.oldest > Some(at(39)));
}

#[test]
fn what_is_proven_is_not_read_again_until_it_is_due() {
    let bench = bench_of(5);
    assert_eq!(night(&bench, 0, Data::All).packs_read, 15);
    assert_eq!(night(&bench, 29, due(30)).packs_read, 0);
    backup(&bench, 50);
    let report = night(&bench, 29, due(30));
    assert_eq!((report.packs_read, report.verification.unwrap().proven.len()), (3, 1));
    assert_eq!(night(&bench, 30, due(30)).packs_read, 15, "those of the first night alone");
    assert_eq!(night(&bench, 58, due(30)).packs_read, 0);
    assert_eq!(night(&bench, 59, due(30)).packs_read, 3);
    assert_eq!(due_packs(&bench, 59, 0), 18, "nothing is proven within no time");
}

#[test]
fn a_clock_that_is_years_off_costs_reading_and_never_spares_it() {
    let years = 3650;
    for wrong in [-years, years] {
        let bench = bench_of(3);
        night(&bench, wrong, Data::All);
        assert_eq!(due_packs(&bench, 1, 30), 9, "proven at {wrong}");
    }
    let bench = bench_of(3);
    night(&bench, 0, Data::All);
    assert_eq!((due_packs(&bench, 1, 30), due_packs(&bench, -years, 30), due_packs(&bench, years, 30)), (0, 9, 9));
    // Twenty days ahead: when that day comes the proof is as old as it is, and not new.
    let bench = bench_of(3);
    night(&bench, 20, Data::All);
    assert_eq!(night(&bench, 1, due_within(10, 0)).proof.unwrap().due_packs, 9);
    assert_eq!(due_packs(&bench, 21, 10), 9);
}

#[test]
fn a_proof_that_a_client_without_rights_forges_counts_for_nothing() {
    let bench = Bench::new();
    let thief = bench.put_only_client().repository;
    backup(&bench, 1);
    let all = ProvenSpan {
        from: PackId([0; 32]),
        until: PackId([0xff; 32]),
        first_writer: LogNumber(0),
        last_writer: LogNumber(u64::MAX),
    };
    let forged = Verification { began: at(1), next: PackId([0; 32]), proven: vec![all], hurt: vec![] };
    let registration = block_on(thief.register(Bench::open_record(Role::Reader))).unwrap();
    block_on(registration.commit(Outcome::Verified(forged.clone()))).unwrap();
    assert_eq!(due_packs(&bench, 1, 30), 3);
    let history = block_on(bench.repository.history()).unwrap();
    assert_eq!(history.refused().count(), 1);
    // The same from an admin does count, and what the thief reads proves nothing: it cannot open it.
    let registration = block_on(bench.repository.register(Bench::open_record(Role::Reader))).unwrap();
    block_on(registration.commit(Outcome::Verified(forged))).unwrap();
    assert_eq!(due_packs(&bench, 1, 30), 0);
    let options = VerifyOptions { data: Data::All, now: at(2), ..VerifyOptions::default() };
    let report = verify(&thief, &options, &|_| {}).unwrap();
    assert!(report.is_clean() && report.frames_unopened > 0);
    let proven = report.verification.unwrap().proven;
    let data_packs = packs(&bench).into_iter().filter(|(writer, id, _)| {
        let contents = block_on(read_contents(&bench.repository, &format!("packs/{writer}/{id}"))).unwrap();
        contents.class == PackClass::Data && proven.iter().any(|span| span.contains(id, *writer))
    });
    assert_eq!(data_packs.count(), 0);
}

#[test]
fn a_run_that_is_interrupted_keeps_what_it_proved_and_the_next_goes_on_from_there() {
    let bench = bench_of(10);
    let stop = Arc::new(AtomicBool::new(false));
    let reader = block_on(bench.repository.register(Bench::open_record(Role::Reader))).unwrap();
    let options =
        VerifyOptions { data: Data::All, threads: 1, now: at(0), stop: stop.clone(), ..VerifyOptions::default() };
    let report = verify(&bench.repository, &options, &|now| stop.store(now.done >= 12, Ordering::Relaxed)).unwrap();
    assert!(report.is_interrupted && report.is_clean());
    assert_eq!((report.packs_read, report.entries), (12, 0));
    let verification = report.verification.unwrap();
    block_on(reader.commit(Outcome::Verified(verification.clone()))).unwrap();
    let next = packs(&bench).into_iter().find(|pack| pack.1 == verification.next).unwrap();
    assert!(!verification.proven.iter().any(|span| span.contains(&next.1, next.0)));
    assert_eq!(due_packs(&bench, 1, 30), 18);
    let rest = night(&bench, 1, due(30));
    assert_eq!((rest.packs_read, rest.proof.unwrap().due_packs), (18, 0));
}

/// A pack was found hurt one night, and the next said that all is well: it had not looked there.
#[test]
fn f28_what_is_hurt_is_told_each_night_until_it_is_healed() {
    let bench = bench_of(6);
    night(&bench, 0, Data::All);
    let victim = bench.names("packs").into_iter().max_by_key(|name| bench.bytes(name).len()).unwrap();
    let contents = block_on(read_contents(&bench.repository, &victim)).unwrap();
    let whole = bench.bytes(&victim);
    let mut hurt = whole.to_vec();
    hurt[contents.frames[0].offset as usize + 7] ^= 1;
    bench.store.overwrite(&victim, hurt.clone());
    assert!(night(&bench, 1, due(30)).is_clean(), "nothing is due yet");
    assert_eq!(night(&bench, 2, Data::All).errors_total, 1);
    // Even if there is room for no other pack.
    for day in 3..6 {
        backup(&bench, 10 + day as u64);
        let report = night(&bench, day, due_within(30, whole.len() as u64));
        assert_eq!((report.errors_total, report.packs_read), (1, 1), "day {day}");
    }
    // It opens again, if only it is given back: from then on there is nothing to tell.
    bench.store.overwrite(&victim, whole.to_vec());
    assert_eq!(night(&bench, 6, due(30)).packs_read, 10, "that, and three backups");
    assert_eq!(night(&bench, 7, due(30)).packs_read, 0);
    // Damage that is marked is no error any more, but what it is in is never proven.
    bench.store.overwrite(&victim, hurt);
    let marking = block_on(bench.repository.register(Bench::open_record(Role::Admin))).unwrap();
    let frames = vec![HurtFrame { pack: contents.id, frame: Some(contents.frames[0].number) }];
    block_on(marking.commit(Outcome::Damage { frames })).unwrap();
    let report = night(&bench, 8, Data::All);
    assert_eq!((report.errors_total, report.frames_marked), (0, 1));
    assert_eq!(night(&bench, 50, due(30)).proof.unwrap().due_packs, 1);
}

/// A writer that is at work while packs are listed adds others after that: these were proven by nobody.
#[test]
fn packs_of_a_run_that_has_not_ended_are_not_taken_for_proven() {
    let bench = bench_of(2);
    let writer = block_on(bench.repository.register(Bench::open_record(Role::Writer))).unwrap();
    let number = writer.number().0;
    let early = bench.pack(number, PackClass::Data, &[vec![noise(70, 1000)]]);
    assert_eq!(night(&bench, 0, Data::All).packs_read, 7);
    let status = night(&bench, 0, due(30)).proof.unwrap();
    assert_eq!((status.due_packs, status.undecided_packs), (1, 1));
    let late = bench.pack(number, PackClass::Data, &[vec![noise(71, 1000)]]);
    bench.segment(&[early, late]);
    bench.commit(writer, &[("early", noise(70, 1000)), ("late", noise(71, 1000))]);
    assert_eq!(night(&bench, 1, due(30)).packs_read, 4, "both, and two packs of pages");
    assert_eq!(night(&bench, 2, due(30)).proof.unwrap().due_packs, 0);
}

/// One larger than the whole budget must not keep the others from their turn.
#[test]
fn a_pack_that_is_larger_than_the_budget_is_passed_over_and_stays_due() {
    let bench = bench_of(4);
    bench.backup(&[("large", noise(9, 500_000))]);
    let (mut nights, mut read) = (0, 0);
    while read < 14 && nights < 14 {
        let report = night(&bench, 0, due_within(30, 4000));
        assert!(report.bytes_read <= 4000);
        read += report.packs_read;
        nights += 1;
    }
    let status = night(&bench, 0, due_within(30, 4000)).proof.unwrap();
    assert_eq!((read, status.due_packs), (14, 1), "after {nights} nights");
}
