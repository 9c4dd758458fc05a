//! Every decoder of the format behind one signature: for the fuzz targets in `tests/fuzz`, and for the tests that go
//! through all of them, cut for cut and length for length.
//!
//! What lies behind a seal is decoded from its plain bytes as well, since no mutation of sealed bytes gets past the
//! tag. Beside the decoding, a target checks what it can: a record that decodes is encoded again to the same bytes,
//! and two readers of one page agree. Compiled for tests and under the feature `fuzzing`, never into the binary.

use std::sync::LazyLock;

use crate::codec::{DecodeError, Encoder};
use crate::config::Config;
use crate::crypto::{
    HEADER_BYTES, Header, NewGeneration, ObjectKind, Secrets, SigningKey, open_object, read_public_key, seal_object,
};
use crate::ids::{LogNumber, ObjectId, UnixNanos};
use crate::keys::{Credential, KeySlot, Stretching, seal_slot, slot_name};
use crate::rotation::{self, Rotation};
use zeroize::Zeroizing;

/// One decoder with what to try first, and how much memory it may ask for.
pub struct Target {
    /// Name of the target in `tests/fuzz`.
    pub name: &'static str,
    decode: fn(&[u8]) -> bool,
    seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
    /// Most bytes of memory for each byte of input, beside [`Target::bytes_beside`].
    pub bytes_a_byte: usize,
    /// Most bytes of memory whatever the input is.
    pub bytes_beside: usize,
}

impl Target {
    pub(crate) const fn new(
        name: &'static str,
        decode: fn(&[u8]) -> bool,
        seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
    ) -> Self {
        Self { name, decode, seeds, bytes_a_byte: 16, bytes_beside: 16 << 10 }
    }

    /// Allows more memory, for a reason that the caller gives.
    pub(crate) const fn within(self, bytes_a_byte: usize, bytes_beside: usize) -> Self {
        Self { bytes_a_byte, bytes_beside, ..self }
    }

    /// Decodes `bytes`; false if they are refused.
    ///
    /// # Panics
    /// If the decoder does, or if what it gives is not what the bytes say.
    pub fn decode(&self, bytes: &[u8]) -> bool {
        (self.decode)(bytes)
    }

    /// Named inputs that the encoders of today make, all of which decode.
    pub fn seeds(&self) -> Vec<(&'static str, Vec<u8>)> {
        (self.seeds)()
    }

    /// Most bytes of memory that decoding an input of `bytes` may hold at any moment.
    pub fn memory_bytes_max(&self, bytes: usize) -> usize {
        self.bytes_beside + self.bytes_a_byte * bytes
    }
}

/// All targets.
pub fn targets() -> Vec<Target> {
    let mut all = vec![
        Target::new("config", decode_config, || vec![("config", config().encode())]),
        Target::new("sealed_object", decode_sealed_object, || {
            vec![("record", seal_object(&SECRETS, ObjectKind::LogRecord, OBJECT_NAME, b"body").to_vec())]
        }),
        Target::new("key_slot", decode_key_slot, key_slots),
        Target::new("key_rotation", decode_key_rotation, || vec![("two-slots", key_rotation())]),
        Target::new("key_secrets", decode_key_secrets, || {
            vec![("all-rights", SECRETS.encode().to_vec()), ("put-only", SECRETS.put_only().encode().to_vec())]
        }),
    ];
    all.extend(crate::log::fuzzing::targets());
    all.extend(crate::pack::fuzzing::targets());
    all.extend(crate::index::fuzzing::targets());
    all.extend(crate::manifest::fuzzing::targets());
    all
}

/// The target of that name.
///
/// # Panics
/// If there is none.
pub fn target(name: &str) -> Target {
    targets().into_iter().find(|target| target.name == name).unwrap_or_else(|| panic!("there is no target {name}"))
}

/// Secrets that never change, so that sealed bytes open again another day. FORMAT.md section 8 has them too.
pub(crate) fn fixed_secrets() -> Secrets {
    let read = Zeroizing::new([4; 32]);
    let mut out = Encoder::new();
    out.raw(&[1; 32]);
    out.raw(&[2; 32]);
    out.count(1);
    out.u32(1);
    out.raw(&[3; 32]);
    out.count(1);
    out.u32(1);
    out.raw(&read_public_key(&read));
    out.u8(1);
    out.raw(read.as_slice());
    out.raw(&[5; 32]);
    out.count(1);
    out.raw(&SigningKey::from_seed(Zeroizing::new([5; 32])).verifying_key().0);
    Secrets::decode(REPOSITORY, &out.finish()).expect("a payload of secrets")
}

pub(crate) static SECRETS: LazyLock<Secrets> = LazyLock::new(fixed_secrets);
const REPOSITORY: ObjectId = ObjectId([6; 32]);
const OBJECT_NAME: &str = "log/0000000000000001/done";
const SLOT: ObjectId = ObjectId([7; 32]);

/// The value of a decoder, which must be encoded to the same bytes again: no two encodings mean the same.
pub(crate) fn is_canonical<T>(
    bytes: &[u8],
    decoded: Result<T, DecodeError>,
    encode: impl FnOnce(&T) -> Vec<u8>,
) -> bool {
    let Ok(value) = decoded else { return false };
    assert!(encode(&value) == bytes, "another encoding of the same value was accepted");
    true
}

fn config() -> Config {
    Config {
        repository: REPOSITORY,
        created: UnixNanos(1_700_000_000_000_000_000),
        chunker: Default::default(),
        compression: Default::default(),
    }
}

fn decode_config(bytes: &[u8]) -> bool {
    is_canonical(bytes, Config::decode(bytes), Config::encode)
}

fn decode_sealed_object(bytes: &[u8]) -> bool {
    for kind in [ObjectKind::Config, ObjectKind::KeySlot] {
        assert!(open_object(&SECRETS, kind, OBJECT_NAME, bytes).is_err(), "opened as another kind of object");
    }
    open_object(&SECRETS, ObjectKind::LogRecord, OBJECT_NAME, bytes).is_ok()
}

fn slot_credential() -> Credential {
    Credential::key_file(vec![8; 32]).expect("a key file of 32 bytes")
}

/// Slots without header and checksum.
fn key_slots() -> Vec<(&'static str, Vec<u8>)> {
    let slot = |credential: &Credential| {
        let (_, object) = seal_slot(&SECRETS, credential, Stretching::CHEAPEST).expect("a slot");
        object[HEADER_BYTES..object.len() - 32].to_vec()
    };
    let password = Credential::password("password").expect("a password");
    vec![("key-file", slot(&slot_credential())), ("password", slot(&password))]
}

/// Puts header and checksum around `bytes`: no mutation would come past the latter. Opened without a password alone,
/// since stretching one is meant to be slow.
fn decode_key_slot(bytes: &[u8]) -> bool {
    let name = slot_name(&SLOT);
    let _ = KeySlot::decode(&name, bytes);
    let content = [&Header::new(ObjectKind::KeySlot, 0).encode()[..], bytes].concat();
    let object = [&content[..], blake3::hash(&content).as_bytes()].concat();
    let Ok(slot) = KeySlot::decode(&name, &object) else { return false };
    let _ = slot.open(&slot_credential());
    true
}

/// A rotation for two slots, without header and checksum.
fn key_rotation() -> Vec<u8> {
    let slot = |secrets: &Secrets| {
        let (name, object) = seal_slot(secrets, &slot_credential(), Stretching::CHEAPEST).expect("a slot");
        KeySlot::decode(&name, &object).expect("its own slot")
    };
    let private = Zeroizing::new([10; 32]);
    let new = NewGeneration {
        generation: 2,
        structure: Zeroizing::new([9; 32]),
        read_public: read_public_key(&private),
        read_private: Some(private),
    };
    let slots = [slot(&SECRETS), slot(&SECRETS.put_only())];
    let (_, object) = rotation::seal(&SECRETS, LogNumber(5), &new, &slots).expect("a rotation");
    object[HEADER_BYTES..object.len() - 32].to_vec()
}

/// Puts header and checksum around `bytes`, as for a slot.
fn decode_key_rotation(bytes: &[u8]) -> bool {
    let name = rotation::rotation_name(&SLOT);
    let _ = Rotation::decode(&name, bytes);
    let content = [&Header::new(ObjectKind::Rotation, 0).encode()[..], bytes].concat();
    let object = [&content[..], blake3::hash(&content).as_bytes()].concat();
    Rotation::decode(&name, &object).is_ok()
}

fn decode_key_secrets(bytes: &[u8]) -> bool {
    is_canonical(bytes, Secrets::decode(REPOSITORY, bytes), |secrets| secrets.encode().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f27_every_decoder_refuses_each_truncation_and_what_has_grown() {
        for target in targets() {
            for (seed, bytes) in target.seeds() {
                assert!(target.decode(&bytes), "{} {seed} is made by the encoder", target.name);
                for length in 0..bytes.len() {
                    assert!(!target.decode(&bytes[..length]), "{} {seed} cut at {length}", target.name);
                }
                assert!(!target.decode(&[&bytes[..], b"x"].concat()), "{} {seed} grown", target.name);
            }
        }
    }

    #[test]
    fn f27_every_decoder_takes_each_flipped_bit_without_a_panic() {
        for target in targets() {
            for (_, bytes) in target.seeds() {
                for bit in 0..bytes.len().min(4 << 10) * 8 {
                    let mut changed = bytes.clone();
                    changed[bit / 8] ^= 1 << (bit % 8);
                    target.decode(&changed);
                }
            }
        }
    }
}
