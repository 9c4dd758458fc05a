//! Encapsulates the random key of a data pack to the current read *public* key, so that a client
//! without the private one can write what it cannot read.
//!
//! HPKE (RFC 9180), base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. The `info`
//! is a fixed label; the AAD is `repository id ‖ pack id ‖ generation (u32)`.

use super::aead::{FrameKey, SealBroken};
use super::derive::Key;
use crate::ids::{ObjectId, PackId};
use hpke::aead::{AeadTag, AesGcm256};
use hpke::inout::InOutBuf;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use std::convert::Infallible;
use zeroize::Zeroizing;

/// Length of a [`KeyBlock`].
pub const KEY_BLOCK_BYTES: usize = 4 + 32 + 32 + 16;

const INFO: &[u8] = b"mover repository draft 0: data pack key";

/// An encapsulated pack key: read generation (u32), encapsulated key (32 bytes), sealed pack key
/// (32), tag (16).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyBlock(pub [u8; KEY_BLOCK_BYTES]);

impl KeyBlock {
    /// Generation of the read key that opens it.
    pub fn generation(&self) -> u32 {
        u32::from_le_bytes(self.0[..4].try_into().expect("4 bytes"))
    }
}

/// A new X25519 key pair: (private, public).
pub(crate) fn generate_read_key() -> (Key, [u8; 32]) {
    let (private, public) = X25519HkdfSha256::gen_keypair_with_rng(&mut SystemRng);
    (Zeroizing::new(private.to_bytes().into()), public.to_bytes().into())
}

/// The public key that belongs to `private`.
pub(crate) fn public_of(private: &Key) -> [u8; 32] {
    let private = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(private.as_slice()).expect("32 bytes");
    X25519HkdfSha256::sk_to_pk(&private).to_bytes().into()
}

fn aad(repository: &ObjectId, pack: &PackId, generation: u32) -> Vec<u8> {
    [repository.as_bytes(), pack.as_bytes(), &generation.to_le_bytes()[..]].concat()
}

pub(crate) fn wrap(
    public: &[u8; 32],
    generation: u32,
    repository: &ObjectId,
    pack: &PackId,
    key: &FrameKey,
) -> Result<KeyBlock, SealBroken> {
    let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(public).map_err(|_| SealBroken)?;
    let mut sealed = key.0.clone();
    let (encapsulated, tag) =
        hpke::single_shot_seal_inout_detached_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &public,
            INFO,
            InOutBuf::from(sealed.as_mut_slice()),
            &aad(repository, pack, generation),
            &mut SystemRng,
        )
        .map_err(|_| SealBroken)?;
    let mut block = [0u8; KEY_BLOCK_BYTES];
    block[..4].copy_from_slice(&generation.to_le_bytes());
    block[4..36].copy_from_slice(&encapsulated.to_bytes());
    block[36..68].copy_from_slice(sealed.as_slice());
    block[68..].copy_from_slice(&tag.to_bytes());
    Ok(KeyBlock(block))
}

pub(crate) fn unwrap(
    private: &Key,
    repository: &ObjectId,
    pack: &PackId,
    block: &KeyBlock,
) -> Result<FrameKey, SealBroken> {
    let private = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(private.as_slice()).map_err(|_| SealBroken)?;
    let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&block.0[4..36]).map_err(|_| SealBroken)?;
    let tag = AeadTag::<AesGcm256>::from_bytes(&block.0[68..]).map_err(|_| SealBroken)?;
    let mut key = Zeroizing::new([0u8; 32]);
    key.copy_from_slice(&block.0[36..68]);
    hpke::single_shot_open_inout_detached::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &private,
        &encapsulated,
        INFO,
        InOutBuf::from(key.as_mut_slice()),
        &aad(repository, pack, block.generation()),
        &tag,
    )
    .map_err(|_| SealBroken)?;
    Ok(FrameKey(key))
}

/// The system's generator in the shape that the hpke crate asks for.
struct SystemRng;

impl TryRng for SystemRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(super::random_array()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(super::random_array()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        aws_lc_rs::rand::fill(bytes).expect("the system has randomness");
        Ok(())
    }
}

impl TryCryptoRng for SystemRng {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_key_opens_with_its_private_key_and_place_only() {
        let (private, public) = generate_read_key();
        assert_eq!(public_of(&private), public);
        let (repository, pack) = (ObjectId([1; 32]), PackId([2; 32]));
        let key = FrameKey::random();
        let block = wrap(&public, 3, &repository, &pack, &key).unwrap();
        assert_eq!(block.generation(), 3);
        assert_eq!(unwrap(&private, &repository, &pack, &block).unwrap().0, key.0);

        let (other_private, _) = generate_read_key();
        assert!(unwrap(&other_private, &repository, &pack, &block).is_err());
        assert!(unwrap(&private, &repository, &PackId([3; 32]), &block).is_err());
        assert!(unwrap(&private, &ObjectId([3; 32]), &pack, &block).is_err());
        for at in 0..KEY_BLOCK_BYTES {
            let mut changed = block;
            changed.0[at] ^= 1;
            assert!(unwrap(&private, &repository, &pack, &changed).is_err(), "byte {at}");
        }
    }
}
