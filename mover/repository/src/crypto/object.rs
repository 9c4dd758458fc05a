//! Small sealed objects (config, log records): sealed in one piece under the structure secret.
//!
//! Layout: `header (32) ‖ salt (32, random) ‖ ciphertext ‖ tag (16)`. The key is derived from the
//! structure secret, the kind and the salt; the frame number is 0, the last-flag 1, the AAD's
//! subject is the object's name. Sealing draws a new salt each time, so no key is used twice.

use super::aead::{FrameOpener, FrameSealer, TAG_BYTES};
use super::header::{Aad, HEADER_BYTES, Header, ObjectKind};
use super::{Secrets, random_array};
use crate::error::{RepositoryError, Result};
use bytes::Bytes;

const SALT_BYTES: usize = 32;
/// Bytes that sealing adds to a small object.
pub const OBJECT_OVERHEAD_BYTES: usize = HEADER_BYTES + SALT_BYTES + TAG_BYTES;

/// Seals `body` as the object `name`.
pub fn seal_object(secrets: &Secrets, kind: ObjectKind, name: &str, body: &[u8]) -> Bytes {
    let generation = secrets.structure_generation();
    let header = Header::new(kind, generation);
    let salt: [u8; SALT_BYTES] = random_array();
    let key = secrets.structure_key(generation, kind, &salt, name).expect("the current generation is known");
    let sealer = FrameSealer::new(key, Aad::new(&header, &secrets.repository_id(), name.as_bytes()));

    let mut object = Vec::with_capacity(body.len() + OBJECT_OVERHEAD_BYTES);
    object.extend_from_slice(&header.encode());
    object.extend_from_slice(&salt);
    object.extend_from_slice(body);
    let (_, tag) = sealer.seal_last(&mut object[HEADER_BYTES + SALT_BYTES..]);
    object.extend_from_slice(&tag);
    object.into()
}

/// Opens what [`seal_object`] made of the same kind under the same name.
///
/// # Errors
/// [`RepositoryError::Corrupt`], [`RepositoryError::OtherFormat`] or
/// [`RepositoryError::UnknownGeneration`].
pub fn open_object(secrets: &Secrets, kind: ObjectKind, name: &str, object: &[u8]) -> Result<Vec<u8>> {
    let opened = Header::decode(object, kind, name).and_then(|header| open_under(secrets, &header, name, object));
    match opened {
        Err(RepositoryError::OtherFormat { .. } | RepositoryError::UnknownGeneration { .. })
            if is_todays_but_for_its_header(secrets, kind, name, object) =>
        {
            Err(RepositoryError::corrupt(name, "bytes of its header were changed"))
        }
        opened => opened,
    }
}

/// True if the object opens under a header that this version writes. The header is authenticated too, so
/// no newer version has sealed it, whatever the header says now.
fn is_todays_but_for_its_header(secrets: &Secrets, kind: ObjectKind, name: &str, object: &[u8]) -> bool {
    let mut generations = secrets.structure_generations().rev();
    generations.any(|generation| open_under(secrets, &Header::new(kind, generation), name, object).is_ok())
}

fn open_under(secrets: &Secrets, header: &Header, name: &str, object: &[u8]) -> Result<Vec<u8>> {
    if object.len() < OBJECT_OVERHEAD_BYTES {
        return Err(RepositoryError::corrupt(name, format!("truncated at byte {}", object.len())));
    }
    let (salt, sealed) = object[HEADER_BYTES..].split_at(SALT_BYTES);
    let salt = salt.try_into().expect("split at 32");
    let key = secrets.structure_key(header.generation, header.kind, salt, name)?;
    let opener = FrameOpener::new(&key, Aad::new(header, &secrets.repository_id(), name.as_bytes()));
    let mut buffer = sealed.to_vec();
    let plain_bytes = opener.open(0, true, &mut buffer).map_err(|error| RepositoryError::corrupt(name, error))?.len();
    buffer.truncate(plain_bytes);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::aead::ledger;
    use crate::ids::ObjectId;

    #[test]
    fn f14_a_sealed_object_opens_as_itself_only() {
        let secrets = Secrets::generate(ObjectId([1; 32]));
        let object = seal_object(&secrets, ObjectKind::LogRecord, "log/1/done", b"body");
        assert_eq!(object.len(), 4 + OBJECT_OVERHEAD_BYTES);
        let open = |kind, name, bytes: &[u8]| open_object(&secrets, kind, name, bytes);
        assert_eq!(open(ObjectKind::LogRecord, "log/1/done", &object).unwrap(), b"body");
        assert!(open(ObjectKind::LogRecord, "log/2/done", &object).is_err());
        assert!(open(ObjectKind::Config, "log/1/done", &object).is_err());
        let stranger = Secrets::generate(ObjectId([1; 32]));
        assert!(open_object(&stranger, ObjectKind::LogRecord, "log/1/done", &object).is_err());
        for bit in 0..object.len() * 8 {
            let mut changed = object.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            // Damage, not "update mover" nor "use another key": the rest shows that this version sealed it.
            let refused = open(ObjectKind::LogRecord, "log/1/done", &changed);
            assert!(matches!(refused, Err(RepositoryError::Corrupt { .. })), "bit {bit}: {refused:?}");
        }
        for length in 0..object.len() {
            assert!(open(ObjectKind::LogRecord, "log/1/done", &object[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn f16_sealing_the_same_name_again_uses_another_key() {
        let secrets = Secrets::generate(ObjectId([1; 32]));
        let pairs_before = ledger::len();
        // The ledger panics inside `seal_object` if a pair repeats.
        for _ in 0..200 {
            seal_object(&secrets, ObjectKind::LogRecord, "log/1/done", b"body");
        }
        assert!(ledger::len() >= pairs_before + 200);
    }
}
