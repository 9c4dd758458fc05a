//! Keys and sealing.
//!
//! | file | what |
//! | --- | --- |
//! | `derive.rs` | the one key derivation: BLAKE3 derive-key mode, all contexts |
//! | `header.rs` | plain header of every object, additional authenticated data |
//! | `aead.rs` | AES-256-GCM over numbered frames; a number is consumed by sealing |
//! | `hpke.rs` | sealing to a public key: a pack's key, a key slot, new generations |
//! | `sign.rs` | Ed25519 keys of clients |
//! | `secrets.rs` | all secrets of a repository and what is computed with them |
//! | `object.rs` | small sealed objects: config, log records |
//!
//! Every secret is zeroized when dropped and prints as `<redacted>`. Nothing here does I/O; all
//! of it is CPU work that may run on any thread. `FORMAT.md` section 1 has the bytes.

pub mod aead;
pub(crate) mod derive;
mod header;
pub(crate) mod hpke;
mod object;
mod secrets;
mod sign;

pub use aead::{FrameKey, FrameOpener, FrameSealer, SealBroken, TAG_BYTES, TOC_FRAME};
pub use header::{Aad, HEADER_BYTES, Header, ObjectKind, SUITE};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use hpke::public_of as read_public_key;
pub use hpke::{KEY_BLOCK_BYTES, KeyBlock};
pub use object::{OBJECT_OVERHEAD_BYTES, open_object, seal_object};
pub(crate) use secrets::NewGeneration;
pub use secrets::Secrets;
pub use sign::{SIGNATURE_BYTES, SigningKey, VerifyingKey};

/// Random bytes from the operating system's generator, through aws-lc-rs.
///
/// # Panics
/// If the system has no randomness: going on would be worse.
pub fn random_array<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has randomness");
    bytes
}
