//! The one key derivation: BLAKE3 in derive-key mode with one context string a use.
//!
//! `key = BLAKE3-derive-key(context, material)`. Material is always a full-entropy secret (or
//! the output of Argon2id), followed by public values of fixed length. A context string is used
//! for one purpose and is never built at run time.

use zeroize::{Zeroize, Zeroizing};

/// A secret of 256 bits.
pub(crate) type Key = Zeroizing<[u8; 32]>;

/// Material: id secret. Key of the keyed BLAKE3 that names chunks.
pub(crate) const CHUNK_ID: &str = "mover repository format 1: chunk id";
/// Material: id secret. Key of the keyed BLAKE3 over a manifest entry's identity.
pub(crate) const IDENTITY_DIGEST: &str = "mover repository format 1: identity digest";
/// Material: cut secret. Its extended output is the gear table of the chunker.
pub(crate) const GEAR_TABLE: &str = "mover repository format 1: gear table";
/// Material: cut secret. Key of the keyed BLAKE3 over paths that cuts manifest leaves.
pub(crate) const PATH_HASH: &str = "mover repository format 1: path hash";
/// Material: structure secret of a generation, object kind (1 byte), salt (32 bytes).
pub(crate) const STRUCTURE_OBJECT: &str = "mover repository format 1: structure object key";
/// Material: stretched credential, salt of the slot (32 bytes).
pub(crate) const SLOT_SEAL: &str = "mover repository format 1: key slot seal";
/// Material: stretched credential, salt of the slot (32 bytes). Public: the key commitment.
pub(crate) const SLOT_COMMITMENT: &str = "mover repository format 1: key slot commitment";
/// Material: content of a key file. The stretched credential of a key-file slot.
pub(crate) const KEY_FILE: &str = "mover repository format 1: key file";

/// Derives a key from the concatenation of `material`.
pub(crate) fn derive(context: &'static str, material: &[&[u8]]) -> Key {
    let mut output = Zeroizing::new([0u8; 32]);
    derive_long(context, material, output.as_mut());
    output
}

/// Derives any number of bytes, by BLAKE3's extended output.
pub(crate) fn derive_long(context: &'static str, material: &[&[u8]], output: &mut [u8]) {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    material.iter().for_each(|part| {
        hasher.update(part);
    });
    let mut reader = hasher.finalize_xof();
    reader.fill(output);
    reader.zeroize();
    hasher.zeroize();
}
