//! Tokens, enrolments and the audit log on both databases.

use std::time::Duration;

use crate::agents::{Description, enrolment, store as registry};
use crate::error::ControlError;
use crate::ids::{AgentId, RecordId};
use crate::testing::{NOON, each_database};

use super::audit::{self, AuditRecord};
use super::idempotency::{self, Answer, Begun};
use super::{Role, tokens};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn tokens_are_stored_as_hashes_and_end_when_revoked_or_over() {
    each_database(async |database| {
        let (token, secret) = tokens::create(&database, "ci", Role::Operator, None, NOON).await.expect("made");
        let known = tokens::authenticate(&database, secret.reveal(), NOON).await.expect("known");
        assert_eq!(known, token);
        let stored = database.read(async |tx| tx.one("SELECT hash FROM tokens", &[]).await?.text("hash")).await;
        assert!(!secret.reveal().contains(&stored.expect("hash")) && secret.reveal().len() == 4 + 64);
        let wrong = format!("{}0", &secret.reveal()[..67]);
        let other = super::secret::Secret::new("mvr");
        for guess in [wrong.as_str(), other.reveal(), "", "mvr_"] {
            if guess != secret.reveal() {
                let refused = tokens::authenticate(&database, guess, NOON).await;
                assert!(matches!(refused, Err(ControlError::Forbidden(_))), "{guess}");
            }
        }
        tokens::revoke(&database, &token.id).await.expect("revoked");
        assert!(tokens::authenticate(&database, secret.reveal(), NOON).await.is_err());
        let end = Some(NOON.plus(HOUR));
        let (_, short) = tokens::create(&database, "short", Role::Viewer, end, NOON).await.expect("made");
        assert!(tokens::authenticate(&database, short.reveal(), NOON).await.is_ok());
        assert!(tokens::authenticate(&database, short.reveal(), NOON.plus(HOUR)).await.is_err());
        assert!(tokens::create(&database, "agent", Role::Agent, None, NOON).await.is_err());
        assert_eq!(tokens::list(&database, None, 10).await.expect("list").len(), 2);
    });
}

#[test]
fn enrolment_token_makes_one_agent_within_its_time() {
    each_database(async |database| {
        let description = Description {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cores: 2,
            memory_bytes: 1 << 30,
            tags: Vec::new(),
            reaches: Vec::new(),
            instance: "first".to_owned(),
        };
        let enrol = async |token: &str, id: &str, name: &str, print: &str, now| {
            enrolment::enrol(&database, token, &AgentId::from(id), name, &description, print, now).await
        };
        let token = enrolment::create(&database, "main", HOUR, "admin", NOON).await.expect("made");
        let agent = enrol(token.reveal(), "1", "one", "print 1", NOON).await.expect("enrolled");
        assert_eq!(agent.pool, "main");
        assert_eq!(enrol(token.reveal(), "1", "one", "print 1", NOON).await.expect("again"), agent, "a lost answer");
        assert!(enrol(token.reveal(), "2", "two", "print 2", NOON).await.is_err(), "used already");
        assert!(enrol(token.reveal(), "1", "one", "print x", NOON).await.is_err(), "another certificate");
        let second = enrolment::create(&database, "main", HOUR, "admin", NOON).await.expect("made");
        assert!(enrol(second.reveal(), "2", "two", "print 2", NOON.plus(HOUR)).await.is_err(), "over");
        let taken = enrol(second.reveal(), "2", "one", "print 2", NOON).await;
        assert!(matches!(taken, Err(ControlError::Conflict(_))), "the name is taken: {taken:?}");
        enrol(second.reveal(), "2", "two", "print 2", NOON).await.expect("the refusal spent nothing");
        assert!(enrol("mve_guess", "3", "three", "print 3", NOON).await.is_err());
        assert_eq!(registry::by_fingerprint(&database, "print 2").await.expect("known").name, "two");
        assert_eq!(registry::list(&database, None, 10).await.expect("list").len(), 2);
        assert!(enrolment::create(&database, "main", HOUR * 24 * 8, "admin", NOON).await.is_err());
    });
}

#[test]
fn audit_log_is_read_newest_first_in_pages() {
    each_database(async |database| {
        for number in 0..3 {
            let act = AuditRecord {
                id: RecordId::new(NOON),
                at: NOON,
                who: "me".to_owned(),
                role: Role::Admin,
                action: "policy.update".to_owned(),
                object: number.to_string(),
                outcome: "done".to_owned(),
                detail: None,
            };
            audit::record(&database, &act).await.expect("added");
        }
        let first = audit::list(&database, None, 2).await.expect("page");
        let second = audit::list(&database, Some(&first[1].id), 2).await.expect("page");
        let objects: Vec<&str> = first.iter().chain(&second).map(|act| act.object.as_str()).collect();
        assert_eq!(objects, ["2", "1", "0"]);
    });
}

#[test]
fn idempotency_key_has_one_answer_and_one_request() {
    each_database(async |database| {
        let begin = async |who: &str, key: &str, request: &[u8], now| {
            idempotency::begin(&database, who, key, request, now).await
        };
        assert_eq!(begin("me", "k", b"a", NOON).await.expect("new"), Begun::Since(NOON));
        let later = NOON.plus(HOUR);
        assert_eq!(begin("me", "k", b"a", later).await.expect("its server died"), Begun::Since(NOON));
        let first = Answer { status: 201, body: "one".to_owned() };
        idempotency::end(&database, "me", "k", &first).await.expect("kept");
        let second = Answer { status: 500, body: "two".to_owned() };
        idempotency::end(&database, "me", "k", &second).await.expect("not kept");
        assert_eq!(begin("me", "k", b"a", later).await.expect("known"), Begun::Answered(first));
        assert!(matches!(begin("me", "k", b"b", later).await, Err(ControlError::Conflict(_))));
        assert_eq!(begin("you", "k", b"a", later).await.expect("another"), Begun::Since(later));
        let much_later = NOON.plus(idempotency::KEPT + HOUR * 2);
        assert_eq!(begin("me", "k", b"a", much_later).await.expect("forgotten"), Begun::Since(much_later));
    });
}

#[test]
fn sessions_end_with_the_token_that_opened_them() {
    each_database(async |database| {
        let (token, secret) = tokens::create(&database, "me", Role::Viewer, None, NOON).await.expect("made");
        let opened = tokens::open_session(&database, &token, HOUR, NOON).await.expect("opened");
        let known = tokens::authenticate(&database, opened.1.reveal(), NOON).await.expect("known");
        assert_eq!((known.role, known.parent.clone()), (Role::Viewer, Some(token.id.clone())));
        assert!(tokens::open_session(&database, &known, HOUR, NOON).await.is_err(), "no session from a session");
        assert!(tokens::authenticate(&database, opened.1.reveal(), NOON.plus(HOUR)).await.is_err(), "over");
        tokens::revoke(&database, &token.id).await.expect("revoked");
        assert!(tokens::authenticate(&database, opened.1.reveal(), NOON).await.is_err(), "ended with its token");
        assert!(tokens::authenticate(&database, secret.reveal(), NOON).await.is_err());
    });
}

/// A session was opened in the moment in which its token was revoked, and outlived it.
#[test]
fn session_is_not_opened_with_a_token_that_ended_meanwhile() {
    each_database(async |database| {
        let (token, _) = tokens::create(&database, "me", Role::Admin, Some(NOON.plus(HOUR)), NOON).await.expect("made");
        // As a login has it: authenticated before, revoked since.
        let known = token.clone();
        assert!(tokens::counts(&database, &token.id, NOON).await.expect("look"));
        assert!(!tokens::counts(&database, &token.id, NOON.plus(HOUR)).await.expect("look"), "over");
        let late = tokens::open_session(&database, &known, HOUR, NOON.plus(HOUR)).await;
        assert!(matches!(late, Err(ControlError::Forbidden(_))), "{late:?}");
        let (session, _) = tokens::open_session(&database, &known, HOUR, NOON).await.expect("opened");
        tokens::revoke(&database, &token.id).await.expect("revoked");
        for id in [&token.id, &session.id] {
            assert!(!tokens::counts(&database, id, NOON).await.expect("look"));
        }
        let late = tokens::open_session(&database, &known, HOUR, NOON).await;
        assert!(matches!(late, Err(ControlError::Forbidden(_))), "{late:?}");
        assert_eq!(tokens::list(&database, None, 10).await.expect("list").len(), 2, "none more");
    });
}

#[test]
fn text_that_is_no_token_is_refused_by_its_form() {
    let secret = super::secret::Secret::new("mvr");
    let long = format!("{}0", secret.reveal());
    assert!(tokens::is_well_formed(secret.reveal()));
    for wrong in ["", "mvr_", "mvr_0000", &secret.reveal()[4..], &secret.reveal().to_uppercase(), &long] {
        assert!(!tokens::is_well_formed(wrong), "{wrong}");
    }
}

/// A request that was refused kept its key: the corrected request under the same key was refused for that.
#[test]
fn idempotency_key_of_a_request_that_was_refused_is_free_again() {
    each_database(async |database| {
        let begin = async |request: &[u8]| idempotency::begin(&database, "me", "k", request, NOON).await;
        begin(b"wrong").await.expect("new");
        idempotency::free(&database, "me", "k").await.expect("refused");
        assert_eq!(begin(b"right").await.expect("another request"), Begun::Since(NOON));
        let answer = Answer { status: 201, body: "made".to_owned() };
        idempotency::end(&database, "me", "k", &answer).await.expect("kept");
        idempotency::free(&database, "me", "k").await.expect("nothing");
        assert_eq!(begin(b"right").await.expect("known"), Begun::Answered(answer), "what was answered stays");
    });
}
