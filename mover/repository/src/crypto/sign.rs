//! Ed25519 keys of clients. A client signs its log records; readers check against the key that
//! the client's registration introduced.

use super::aead::SealBroken;
use super::derive::Key;
use super::random_array;
use crate::ids::ObjectId;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use std::fmt;
use zeroize::Zeroizing;

/// Length of a signature.
pub const SIGNATURE_BYTES: usize = 64;

const CONTEXT: &[u8] = b"mover repository format 1: log record signature";

/// The public half of a client's signing key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerifyingKey(pub [u8; 32]);

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The private half of a client's signing key.
pub struct SigningKey {
    seed: Key,
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// A fresh key.
    pub fn random() -> Self {
        Self::from_seed(Zeroizing::new(random_array()))
    }

    pub(crate) fn from_seed(seed: Key) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).expect("a seed has 32 bytes");
        Self { seed, pair }
    }

    pub(crate) fn seed(&self) -> &Key {
        &self.seed
    }

    /// The public half.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.pair.public_key().as_ref().try_into().expect("a public key has 32 bytes"))
    }

    /// Signs `body` as the content of object `name` of a repository.
    pub fn sign(&self, repository: &ObjectId, name: &str, body: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let signature = self.pair.sign(&message(repository, name, body));
        signature.as_ref().try_into().expect("a signature has 64 bytes")
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({:?}, <redacted>)", self.verifying_key())
    }
}

impl VerifyingKey {
    /// Checks a signature made by [`SigningKey::sign`].
    ///
    /// # Errors
    /// [`SealBroken`].
    pub fn verify(
        &self,
        repository: &ObjectId,
        name: &str,
        body: &[u8],
        signature: &[u8; SIGNATURE_BYTES],
    ) -> Result<(), SealBroken> {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(&message(repository, name, body), signature)
            .map_err(|_| SealBroken)
    }
}

/// What is signed: a fixed label, the repository, the name with its length, BLAKE3 of the body.
fn message(repository: &ObjectId, name: &str, body: &[u8]) -> Vec<u8> {
    let name_bytes = u32::try_from(name.len()).expect("names are short").to_le_bytes();
    [CONTEXT, repository.as_bytes(), &name_bytes, name.as_bytes(), blake3::hash(body).as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f14_a_signature_binds_key_repository_name_and_body() {
        let key = SigningKey::random();
        let repository = ObjectId([1; 32]);
        let signature = key.sign(&repository, "log/1/done", b"body");
        let public = key.verifying_key();
        assert_eq!(public.verify(&repository, "log/1/done", b"body", &signature), Ok(()));
        assert!(public.verify(&repository, "log/2/done", b"body", &signature).is_err());
        assert!(public.verify(&repository, "log/1/done", b"bodies", &signature).is_err());
        assert!(public.verify(&ObjectId([2; 32]), "log/1/done", b"body", &signature).is_err());
        let other = SigningKey::random().verifying_key();
        assert!(other.verify(&repository, "log/1/done", b"body", &signature).is_err());
    }
}
