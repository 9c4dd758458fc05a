//! The kit checked by a client that is not ours, the `object_store` crate: what a server, a fault and a link promise.

use std::collections::HashMap;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::{
    Certificate, ClientOptions, Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
    RetryConfig,
};

use super::*;

/// A request that a fault lets hang is given up after this time; nothing that works takes so long.
const PATIENCE: Duration = Duration::from_millis(500);

fn client_with(environment: &[(String, String)], options: ClientOptions) -> AmazonS3 {
    let of: HashMap<&str, &str> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    AmazonS3Builder::new()
        .with_access_key_id(of["AWS_ACCESS_KEY_ID"])
        .with_secret_access_key(of["AWS_SECRET_ACCESS_KEY"])
        .with_region(of["AWS_REGION"])
        .with_endpoint(of["AWS_ENDPOINT_URL"])
        .with_bucket_name("backups")
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_client_options(options)
        .with_retry(retry)
        .build()
        .expect("a client")
}

fn client(environment: &[(String, String)]) -> AmazonS3 {
    client_with(environment, ClientOptions::new().with_allow_http(true).with_timeout(PATIENCE * 20))
}

fn impatient(server: &S3Server) -> AmazonS3 {
    client_with(&server.environment(), ClientOptions::new().with_allow_http(true).with_timeout(PATIENCE))
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

fn text(bytes: usize) -> PutPayload {
    PutPayload::from((0..bytes).map(|at| b'a' + u8::try_from(at % 23).expect("small")).collect::<Vec<u8>>())
}

async fn create(store: &AmazonS3, key: &str, payload: PutPayload) -> object_store::Result<()> {
    store.put_opts(&Path::from(key), payload, PutMode::Create.into()).await.map(drop)
}

async fn read(store: &AmazonS3, key: &str) -> object_store::Result<Vec<u8>> {
    store.get(&Path::from(key)).await?.bytes().await.map(Vec::from)
}

async fn names(store: &AmazonS3) -> Vec<String> {
    let listed = store.list_with_delimiter(Some(&Path::from("many"))).await.expect("list");
    listed.objects.into_iter().map(|object| object.location.to_string()).collect()
}

/// What every store must do; run on each kind of server.
async fn works(store: &AmazonS3) {
    create(store, "many/a", text(1000)).await.expect("put");
    create(store, "many/b", text(3)).await.expect("put");
    assert_eq!(read(store, "many/a").await.expect("get").len(), 1000);
    let range = GetOptions { range: Some(GetRange::Bounded(23..26)), ..GetOptions::default() };
    let part = store.get_opts(&Path::from("many/a"), range).await.expect("get a range").bytes().await.expect("bytes");
    assert_eq!(&part[..], b"abc");
    assert_eq!(names(store).await, ["many/a", "many/b"]);
    let again = create(store, "many/a", text(4)).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    assert_eq!(read(store, "many/a").await.expect("get").len(), 1000, "the second write did not win");

    let large = Path::from("many/large");
    let mut upload = store.put_multipart(&large).await.expect("begin an upload");
    for bytes in [5 << 20, 100] {
        upload.put_part(text(bytes)).await.expect("put a part");
    }
    upload.complete().await.expect("complete");
    assert_eq!(store.head(&large).await.expect("head").size, (5 << 20) + 100);
    store.delete(&large).await.expect("delete");
    assert!(matches!(store.head(&large).await, Err(Error::NotFound { .. })));
}

#[test]
fn server_does_what_a_store_must() {
    let server = S3Server::start();
    run(works(&client(&server.environment())));
    let requests = server.requests();
    assert_eq!((requests.of(Kind::Put), requests.with_status(412)), (3, 1));
    assert_eq!((requests.of(Kind::Get), requests.of(Kind::GetRange), requests.of(Kind::List)), (2, 1, 1));
    assert_eq!((requests.of(Kind::CreateUpload), requests.of(Kind::UploadPart)), (1, 2));
    assert_eq!((requests.of(Kind::CompleteUpload), requests.of(Kind::Head), requests.of(Kind::DeleteMany)), (1, 2, 1));
    assert_eq!(requests.total(), 14);
    let ranged = requests.all.iter().find(|request| request.kind == Kind::GetRange).expect("recorded");
    assert_eq!((ranged.key.as_str(), ranged.range.as_deref()), ("many/a", Some("bytes=23-25")));
    assert_eq!((ranged.status, ranged.answer_bytes), (Some(206), 3));
    server.forget_requests();
    assert_eq!(server.requests().total(), 0);
}

#[test]
fn server_refuses_a_wrong_secret() {
    let server = S3Server::start();
    let mut environment = server.environment();
    environment[1].1.push('x');
    let refused = run(create(&client(&environment), "a", text(10)));
    assert!(matches!(refused, Err(Error::PermissionDenied { .. })), "{refused:?}");
    assert_eq!((server.requests().total(), server.requests().with_status(403)), (1, 1));
    assert!(!server.object_file("a").exists());
}

#[test]
fn server_with_tls_is_refused_without_its_authority() {
    let server = S3Server::start_tls();
    let plain = ClientOptions::new().with_timeout(PATIENCE * 20);
    let refused = run(create(&client_with(&server.environment(), plain.clone()), "a", text(10)));
    assert!(refused.is_err());
    assert_eq!(server.requests().total(), 0, "a request passed a connection that was not verified");
    let pem = std::fs::read(server.ca_file().expect("an authority")).expect("read it");
    let trusting = plain.with_root_certificate(Certificate::from_pem(&pem).expect("a certificate"));
    run(works(&client_with(&server.environment(), trusting)));
}

#[test]
fn server_lets_one_of_many_creators_win() {
    let server = S3Server::start();
    let store = client(&server.environment());
    let won = run(async {
        let tries = (0..16).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { create(&store, "one", text(200_000)).await.is_ok() })
        });
        let mut won = 0;
        for each in tries.collect::<Vec<_>>() {
            won += usize::from(each.await.expect("a try"));
        }
        won
    });
    assert_eq!(won, 1);
    assert_eq!(server.requests().with_status(412), 15);
}

/// A server with the object `a` of 1000 bytes, and `b` of 1000 other bytes.
fn prepared() -> (S3Server, AmazonS3) {
    let server = S3Server::start();
    let store = impatient(&server);
    run(async {
        create(&store, "a", text(1000)).await.expect("put");
        create(&store, "b", PutPayload::from(vec![b'!'; 1000])).await.expect("put");
    });
    server.forget_requests();
    (server, store)
}

#[test]
fn fault_answers_are_given_to_matching_requests_alone() {
    let (server, store) = prepared();
    let answers = [
        (Answer::slow_down(Some(7)), "SlowDown"),
        (Answer::internal_error(), "InternalError"),
        (Answer::access_denied(), "AccessDenied"),
        (Answer::expired_token(), "ExpiredToken"),
        (Answer::clock_skew(), "RequestTimeTooSkewed"),
    ];
    for (answer, code) in answers {
        let status = answer.status;
        let rule = Rule::new(Fault::Answer(answer)).kind(Kind::Get).key_prefix("a").skip(1).times(2);
        let rule = server.faults().add(rule);
        let errors = run(async {
            assert!(read(&store, "b").await.is_ok(), "another key meets the fault");
            assert!(read(&store, "a").await.is_ok(), "the first is spared");
            let errors = [read(&store, "a").await, read(&store, "a").await];
            assert!(read(&store, "a").await.is_ok(), "the fault is used up");
            errors
        });
        for error in errors {
            let error = error.expect_err("a fault");
            assert!(format!("{error:?}").contains(code), "{code}: {error:?}");
        }
        assert_eq!(server.faults().applied(rule), 2);
        assert_eq!(server.requests().with_status(status), 2);
        server.faults().clear();
        server.forget_requests();
    }
    server.faults().add(Rule::new(Fault::Answer(Answer::wrong_region("us-west-2"))).method("GET"));
    assert!(run(read(&store, "a")).is_err());
    assert_eq!(server.requests().with_status(301), 1);
}

#[test]
fn fault_answer_reaches_a_client_that_still_sends() {
    let (server, store) = prepared();
    server.faults().add(Rule::new(Fault::Answer(Answer::slow_down(None))).kind(Kind::Put));
    let error = run(create(&store, "large", text(8 << 20))).expect_err("a fault");
    assert!(format!("{error:?}").contains("SlowDown"), "{error:?}");
}

#[test]
fn fault_stalls_before_and_in_the_middle() {
    let (server, store) = prepared();
    let before = server.faults().add(Rule::new(Fault::StallBefore).times(1));
    assert!(run(read(&store, "a")).is_err());
    assert_eq!(server.faults().applied(before), 1);
    server.faults().clear();
    server.faults().add(Rule::new(Fault::StallAfter { bytes: 400 }));
    assert!(run(read(&store, "a")).is_err());
    server.faults().clear();
    assert_eq!(run(read(&store, "a")).expect("healed").len(), 1000);
    let requests = server.requests().all;
    let seen: Vec<_> = requests.iter().map(|request| (request.status, request.answer_bytes)).collect();
    assert_eq!(seen, [(None, 0), (Some(200), 400), (Some(200), 1000)]);
}

#[test]
fn fault_cuts_a_body_openly_or_in_secret() {
    let (server, store) = prepared();
    let cut = server.faults().add(Rule::new(Fault::CutAfter { bytes: 300 }));
    assert!(run(read(&store, "a")).is_err());
    server.faults().remove(cut);
    server.faults().add(Rule::new(Fault::ShortenTo { bytes: 300 }));
    assert_eq!(run(read(&store, "a")).expect("nothing is wrong to HTTP").len(), 300);
}

#[test]
fn fault_loses_the_answer_of_what_was_done() {
    let (server, store) = prepared();
    server.faults().add(Rule::new(Fault::LoseAnswer).kind(Kind::Put).times(1));
    run(async {
        assert!(create(&store, "c", text(10)).await.is_err());
        let again = create(&store, "c", text(10)).await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    });
}

#[test]
fn fault_serves_another_object() {
    let (server, store) = prepared();
    server.faults().add(Rule::new(Fault::OtherObject { key: "b".to_owned() }).kind(Kind::Get).key_prefix("a"));
    assert_eq!(run(read(&store, "a")).expect("wrong, not failed"), vec![b'!'; 1000]);
}

#[test]
fn fault_lists_late() {
    let (server, store) = prepared();
    run(async {
        for key in ["many/1", "many/2", "many/3"] {
            create(&store, key, text(1)).await.expect("put");
        }
        let late = server.faults().add(Rule::new(Fault::ListLate { creations: 2 }));
        assert_eq!(names(&store).await, ["many/1"]);
        assert_eq!(read(&store, "many/3").await.expect("only the listing is late").len(), 1);
        create(&store, "many/4", text(1)).await.expect("put");
        assert_eq!(names(&store).await, ["many/1", "many/2"]);
        server.faults().remove(late);
        assert_eq!(names(&store).await.len(), 4);
    });
}

#[test]
fn fault_delays_an_answer_and_does_not_change_it() {
    let (server, store) = prepared();
    let long = server.faults().add(Rule::new(Fault::Delay(PATIENCE * 100)));
    assert!(run(read(&store, "a")).is_err(), "longer than the client waits");
    server.faults().remove(long);
    server.faults().add(Rule::new(Fault::Delay(PATIENCE / 10)));
    assert_eq!(run(read(&store, "a")).expect("late").len(), 1000);
}

#[test]
fn seaweed_does_what_a_store_must() {
    if let Some(reason) = SeaweedFs::missing() {
        crate::skip_test!(reason);
    }
    let server = SeaweedFs::start();
    run(works(&client(&server.environment())));
}

#[test]
fn seaweed_refuses_a_wrong_secret_and_has_locked_buckets() {
    if let Some(reason) = SeaweedFs::missing() {
        crate::skip_test!(reason);
    }
    let server = SeaweedFs::start_locked();
    server.create_bucket("backups", true);
    let mut environment = server.environment();
    run(works(&client(&environment)));
    environment[1].1.push('x');
    let refused = run(create(&client(&environment), "a", text(10)));
    assert!(matches!(refused, Err(Error::PermissionDenied { .. })), "{refused:?}");
}
