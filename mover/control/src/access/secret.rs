//! Secrets that are given out once and stored as their hash.
//!
//! 256 bits of chance, so a plain hash is enough: there is nothing to guess. A look-up is by the hash, whose timing
//! tells nothing of the secret; the comparison that decides is in constant time all the same.

use std::fmt;

/// Bytes of chance in a secret.
const SECRET_BYTES: usize = 32;

/// A secret in the moment of its making: shown once, then only its hash remains.
pub struct Secret(String);

impl Secret {
    /// A new one; the prefix tells people and scanners what it is.
    pub fn new(prefix: &str) -> Secret {
        let bytes: [u8; SECRET_BYTES] = rand::random();
        Secret(format!("{prefix}_{}", blake3::Hash::from_bytes(bytes).to_hex()))
    }

    /// The text, for who may see it now.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What is stored of a secret.
pub fn hash(secret: &str) -> String {
    blake3::derive_key("mover control plane 2026 secrets at rest", secret.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Whether a secret has this hash, in constant time.
pub fn matches(secret: &str, stored: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(hash(secret).as_bytes(), stored.as_bytes()).is_ok()
}
