//! Decoders of headers, keys, config and log records against arbitrary and mutated bytes: an
//! error or a value, never a panic, never more memory than the input (F27).

use crate::crypto::{Header, ObjectKind, Secrets, VerifyingKey, open_object};
use crate::ids::{LogNumber, ObjectId, UnixNanos};
use crate::keys::{Credential, KeySlot, Stretching, seal_slot};
use crate::log::{DoneRecord, OpenRecord, Outcome, Role, Seen};
use proptest::prelude::*;
use std::sync::LazyLock;

static SECRETS: LazyLock<Secrets> = LazyLock::new(|| Secrets::generate(ObjectId([6; 32])));

fn with_checksum(content: &[u8]) -> Vec<u8> {
    [content, blake3::hash(content).as_bytes()].concat()
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,40}"
}

prop_compose! {
    fn open_record()(
        host in text(), set in text(), process_id: u32, job: [u8; 32], adopts: Option<u32>, started: i128,
    ) -> OpenRecord {
        OpenRecord {
            role: Role::Reader,
            host,
            process_id,
            machine: ObjectId(job),
            set,
            job: ObjectId(job),
            depends_on: adopts.map(|number| ObjectId([number as u8; 32])),
            adopts: adopts.filter(|number| *number != 0).map(|number| LogNumber(number.into())),
            started: UnixNanos(started),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn f27_arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Header::decode_any(&bytes, "x");
        let _ = OpenRecord::decode(&bytes);
        let _ = DoneRecord::decode(&bytes);
        let _ = Secrets::decode(ObjectId([6; 32]), &bytes);
        let _ = open_object(&SECRETS, ObjectKind::LogRecord, "x", &bytes);
        let header = Header::new(ObjectKind::KeySlot, 0).encode();
        let _ = KeySlot::decode("keys/x", &with_checksum(&[&header[..], &bytes].concat()));
    }

    #[test]
    fn f27_a_mutated_secrets_payload_never_panics(at in any::<proptest::sample::Index>(), value: u8) {
        let mut payload = SECRETS.encode().to_vec();
        let at = at.index(payload.len());
        payload[at] = value;
        let _ = Secrets::decode(ObjectId([6; 32]), &payload);
    }

    #[test]
    fn open_records_survive(record in open_record(), key: [u8; 32]) {
        let body = record.encode(&VerifyingKey(key));
        prop_assert_eq!(OpenRecord::decode(&body).unwrap(), (VerifyingKey(key), record));
    }

    #[test]
    fn what_was_seen_holds_until_an_outcome_seen_changes(
        outcomes in proptest::collection::vec(any::<Option<u8>>(), 1..40),
        later in proptest::collection::vec(any::<Option<u8>>(), 40),
        changed in any::<proptest::sample::Index>(),
    ) {
        let hash_in = |list: &[Option<u8>], number: LogNumber| {
            list.get(number.0 as usize - 1).copied().flatten().map(|byte| [byte; 32])
        };
        let below = LogNumber(outcomes.len() as u64 + 1);
        let seen = Seen::of(below, |number| hash_in(&outcomes, number));

        // Open numbers may get outcomes and new numbers may come: nothing seen has changed.
        let grown: Vec<_> = (0..40).map(|at| outcomes.get(at).copied().flatten().or(later[at])).collect();
        prop_assert_eq!(seen.check(|number| hash_in(&grown, number)), Ok(()));

        // An outcome that was seen and is another one, or is gone, is noticed.
        let at = changed.index(outcomes.len());
        if let Some(byte) = outcomes[at] {
            for other in [None, Some(byte.wrapping_add(1))] {
                let mut altered = grown.clone();
                altered[at] = other;
                prop_assert!(seen.check(|number| hash_in(&altered, number)).is_err());
            }
        }
        let record = DoneRecord { signer: VerifyingKey([1; 32]), seen, outcome: Outcome::Ended { reason: String::new() } };
        prop_assert_eq!(DoneRecord::decode(&record.encode()).unwrap(), record);
    }

    #[test]
    fn passwords_open_their_own_slots_only(right in "\\PC{1,20}", wrong in "\\PC{1,20}") {
        let right_credential = Credential::password(right.as_str()).unwrap();
        let (name, object) = seal_slot(&SECRETS, &right_credential, Stretching::CHEAPEST).unwrap();
        let slot = KeySlot::decode(&name, &object).unwrap();
        prop_assert!(slot.open(&right_credential).unwrap().is_some());
        let opened = slot.open(&Credential::password(wrong.as_str()).unwrap()).unwrap();
        prop_assert_eq!(opened.is_some(), wrong == right);
    }
}
