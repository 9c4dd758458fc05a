//! Secrets that are given out once and stored as their hash.
//!
//! 256 bits of chance, so a plain hash is enough: there is nothing to guess. A look-up is by the hash, whose timing
//! tells nothing of the secret; the comparison that decides is in constant time all the same.

use std::fmt;

/// Bytes of chance in a secret.
const SECRET_BYTES: usize = 32;
/// What each kind begins with: tokens of people, sessions, enrolments.
const PREFIXES: [&str; 3] = ["mvr", "mvs", "mve"];
/// Characters that may be told.
const PUBLIC: usize = 12;

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

/// What may be told of a secret: its prefix and 32 of its 256 bits. Of what is none, nothing: it may be a password.
pub fn public(secret: &str) -> String {
    let is_one = secret.split_once('_').is_some_and(|(prefix, bits)| {
        PREFIXES.contains(&prefix)
            && bits.len() == 2 * SECRET_BYTES
            && bits.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    if is_one { format!("{}…", &secret[..PUBLIC]) } else { "what is no token".to_owned() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_told_of_a_secret_and_nothing_of_what_is_none() {
        let secret = Secret::new("mvr");
        let told = public(secret.reveal());
        assert_eq!(told, format!("{}…", &secret.reveal()[..12]));
        for other in ["", "hunter2", "mvr_short", &secret.reveal()[4..], &secret.reveal().replace("mvr", "abc")] {
            assert_eq!(public(other), "what is no token");
        }
        assert_eq!(public(&format!("mvr_{}é", "a".repeat(62))), "what is no token");
    }
}
