//! A store in trouble: what is made again, how often, and what is not. Stuck requests.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::block_on;
use mover_repository::backend::{Backend, Created, StorageErrorKind};
use mover_tests::random::Random;
use mover_tests::s3::{Answer, Fault, Kind, Rule, S3Server};
use mover_tests::tree::MIB;
use mover_tests::{exit, needs};

use super::fixture::{PREFIX, assert_restores, backend, kinds, repository, shared_backend, tree};

/// A body that says which object it is of.
fn body(number: usize) -> Bytes {
    Bytes::from(format!("object {number} ").repeat(1000))
}

#[test]
fn a_store_that_asks_for_time_gets_it() {
    let server = S3Server::start();
    let store = shared_backend(&server);
    let asked = Rule::new(Fault::Answer(Answer::slow_down(Some(2)))).kind(Kind::Put).times(1);
    server.faults().add(asked);
    assert_eq!(block_on(store.create("log/1", body(1))).expect("create"), Created::New);
    let requests = server.requests();
    let statuses: Vec<_> = requests.all.iter().map(|request| request.status).collect();
    assert_eq!(statuses, [Some(503), Some(200)]);
    let waited = requests.all[1].arrived - requests.all[0].arrived;
    assert!(waited >= Duration::from_secs(2), "it came back after {waited:?}");
}

#[test]
fn a_storm_of_errors_costs_a_request_each_and_nothing_else() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    let server = S3Server::start();
    let repo = repository(&server);
    let source = tree(&repo, 20);
    server.forget_requests();
    let calm_point = repo.backup(&source).point();
    assert_restores(&repo, &calm_point, &source, "calm");
    let calm = server.requests().total();

    let other = S3Server::start();
    let stormy = super::fixture::initialised(&other.url(PREFIX), other.environment());
    let mut random = Random::new(5);
    for request in 0..500 {
        if random.below(10) < 3 {
            other.faults().add(Rule::new(Fault::Answer(Answer::internal_error())).skip(request).times(1));
        }
    }
    other.forget_requests();
    let point = stormy.backup(&source).point();
    assert_restores(&stormy, &point, &source, "stormy");
    let requests = other.requests();
    let failed = requests.with_status(500);
    assert!(failed >= 5, "{failed}");
    let bound = calm + failed + 8;
    assert!(requests.total() <= bound, "calm {calm}, {failed} failed, {}", kinds(&requests));
    other.faults().clear();
    stormy.verify_all();
}

#[test]
fn what_is_denied_is_asked_for_once() {
    let server = S3Server::start();
    let repo = repository(&server);
    let source = tree(&repo, 4);
    let point = repo.backup(&source).point();
    server
        .faults()
        .add(Rule::new(Fault::Answer(Answer::access_denied())).method("GET").key_prefix(&format!("{PREFIX}/packs")));
    server.forget_requests();
    let run = repo.restore_run(&point, &repo.directory("target"), &[]);
    assert_ne!(run.code, exit::DONE, "{run}");
    assert!(run.stderr.contains("AccessDenied") && run.stderr.contains("help: check the key"), "{run}");
    let mut times: HashMap<(String, Option<String>), usize> = HashMap::new();
    for request in server.requests().all.into_iter().filter(|request| request.status == Some(403)) {
        *times.entry((request.key, request.range)).or_default() += 1;
    }
    assert!(!times.is_empty() && times.values().all(|count| *count == 1), "{times:?}");
}

/// The store did it and the answer was lost: done again it exists already, which is no second one and no failure.
#[test]
fn a_lost_answer_makes_no_second_point_and_no_failure() {
    for kind in ["log", "packs", "index"] {
        let server = S3Server::start();
        let repo = repository(&server);
        let source = tree(&repo, 4);
        let prefix = format!("{PREFIX}/{kind}");
        let rule = server.faults().add(Rule::new(Fault::LoseAnswer).method("PUT").key_prefix(&prefix).times(3));
        repo.backup(&source);
        assert!(server.faults().applied(rule) > 0, "{kind}");
        server.faults().clear();
        assert_eq!(repo.run("points", &["--json"]).expect(exit::DONE).summary().points(), 1, "{kind}");
        repo.verify_all();
    }
}

#[test]
fn a_lost_answer_to_the_end_of_an_upload_in_parts_is_no_failure() {
    let server = S3Server::start();
    let store = backend(&server.url(PREFIX), server.environment(), |options| options.part_bytes = 5 * MIB);
    let rule = server.faults().add(Rule::new(Fault::LoseAnswer).kind(Kind::CompleteUpload).times(1));
    let content = Bytes::from(Random::new(3).bytes(12 << 20));
    let mut writer = store.stream("packs/00/a");
    block_on(writer.append(vec![content.clone()])).expect("append");
    block_on(writer.finish()).expect("finish");
    assert_eq!(server.faults().applied(rule), 1);
    assert_eq!(block_on(store.get("packs/00/a", 1 << 30)).expect("read"), content);
}

#[test]
fn a_part_that_is_lost_is_sent_again_alone() {
    let server = S3Server::start();
    let store = backend(&server.url(PREFIX), server.environment(), |options| options.part_bytes = 5 * MIB);
    server.faults().add(Rule::new(Fault::Answer(Answer::internal_error())).kind(Kind::UploadPart).skip(1).times(1));
    let content = Bytes::from(Random::new(4).bytes(16 << 20));
    let mut writer = store.stream("packs/00/a");
    for start in (0..16).map(|piece| piece << 20) {
        block_on(writer.append(vec![content.slice(start..start + (1 << 20))])).expect("append");
    }
    block_on(writer.finish()).expect("finish");
    // 5 + 5 + 5 + 1 MiB, and one of them twice.
    assert_eq!(server.requests().of(Kind::UploadPart), 5);
    assert_eq!(block_on(store.get("packs/00/a", 1 << 30)).expect("read"), content);
}

/// Peers tell how long a request takes; the one that hangs is made again, and no other.
#[test]
fn a_stuck_read_is_made_again_once() {
    for fault in [Fault::StallBefore, Fault::StallAfter { bytes: 5000 }] {
        let server = S3Server::start();
        let store = shared_backend(&server);
        for number in 0..12 {
            block_on(store.create(&format!("packs/{number}"), body(number))).expect("create");
        }
        let read = |number: usize| block_on(store.get(&format!("packs/{number}"), 1 << 20)).expect("read");
        (0..12).for_each(|number| assert_eq!(read(number), body(number)));
        server.forget_requests();
        let rule = server.faults().add(Rule::new(fault).method("GET").skip(5).times(1));
        (0..12).for_each(|number| assert_eq!(read(number), body(number)));
        assert_eq!(server.faults().applied(rule), 1);
        assert_eq!(server.requests().total(), 13);
        assert_eq!(store.counters().stuck.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn a_stuck_write_is_made_again_once() {
    let server = S3Server::start();
    let store = shared_backend(&server);
    for number in 0..12 {
        block_on(store.create(&format!("log/{number}"), body(number))).expect("create");
    }
    server.forget_requests();
    server.faults().add(Rule::new(Fault::StallBefore).kind(Kind::Put).times(1));
    let content = Bytes::from(Random::new(3).bytes(3 << 20));
    let mut writer = store.stream("packs/00/a");
    block_on(writer.append(vec![content.clone()])).expect("append");
    block_on(writer.finish()).expect("finish");
    assert_eq!(server.requests().total(), 2);
    assert_eq!(store.counters().stuck.load(Ordering::Relaxed), 1);
    assert_eq!(block_on(store.get("packs/00/a", 1 << 30)).expect("read"), content);
}

#[test]
fn a_restore_with_a_stuck_read_costs_one_request_more() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    let server = S3Server::start();
    let repo = repository(&server);
    let source = tree(&repo, 20);
    let point = repo.backup(&source).point();
    server.forget_requests();
    assert_restores(&repo, &point, &source, "calm");
    let calm = server.requests();
    let packs = format!("{PREFIX}/packs");
    for (name, fault) in [("before", Fault::StallBefore), ("within", Fault::StallAfter { bytes: 5000 })] {
        // The last of the large reads: by then it is known how long such things take.
        let last = calm.below(&packs).of(Kind::GetRange) as u64 - 1;
        let rule = server.faults().add(Rule::new(fault).kind(Kind::GetRange).key_prefix(&packs).skip(last).times(1));
        server.forget_requests();
        assert_restores(&repo, &point, &source, name);
        assert_eq!(server.faults().applied(rule), 1, "{name}");
        let requests = server.requests();
        let extra = requests.below(&packs).total() - calm.below(&packs).total();
        assert_eq!(extra, 1, "{name}: {} became {}", kinds(&calm), kinds(&requests));
        server.faults().clear();
    }
}

#[test]
fn patience_ends_with_an_error_that_names_the_store() {
    let server = S3Server::start();
    let store = backend(&server.url(PREFIX), server.environment(), |options| options.patience = Duration::from_secs(1));
    block_on(store.create("log/1", body(1))).expect("create");
    server.faults().add(Rule::new(Fault::Answer(Answer::internal_error())));
    let error = block_on(store.get("log/1", 1 << 20)).expect_err("it never answers");
    assert_eq!(error.kind, StorageErrorKind::Other);
    let text = error.to_string();
    assert!(
        text.contains("cannot read log/1 in s3://backups/backups/host") && text.contains("InternalError"),
        "{text}"
    );
}
