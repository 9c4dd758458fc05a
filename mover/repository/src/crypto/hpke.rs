//! Sealing to an X25519 *public* key: the random key of a data pack to the current read key, so that a client
//! without the private one can write what it cannot read; a key slot to somebody's public key; new generations of
//! secrets to the slots that are to have them.
//!
//! HPKE (RFC 9180), base mode, one message each: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. The `info`
//! is a fixed label a use. Of a pack key the AAD is `repository id ‖ pack id ‖ generation (u32)`.

use super::aead::{FrameKey, SealBroken, TAG_BYTES};
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

const INFO: &[u8] = b"mover repository format 1: data pack key";

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
pub(crate) fn generate_key_pair() -> (Key, [u8; 32]) {
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
    let mut sealed = key.0.clone();
    let (encapsulated, tag) = seal_to(public, INFO, &aad(repository, pack, generation), sealed.as_mut_slice())?;
    let mut block = [0u8; KEY_BLOCK_BYTES];
    block[..4].copy_from_slice(&generation.to_le_bytes());
    block[4..36].copy_from_slice(&encapsulated);
    block[36..68].copy_from_slice(sealed.as_slice());
    block[68..].copy_from_slice(&tag);
    Ok(KeyBlock(block))
}

pub(crate) fn unwrap(
    private: &Key,
    repository: &ObjectId,
    pack: &PackId,
    block: &KeyBlock,
) -> Result<FrameKey, SealBroken> {
    let (encapsulated, sealed) = block.0[4..].split_first_chunk().expect("a block is longer than 36 bytes");
    let aad = aad(repository, pack, block.generation());
    let opened = open_with(private, INFO, &aad, encapsulated, sealed)?;
    let mut key = Zeroizing::new([0u8; 32]);
    key.copy_from_slice(&opened);
    Ok(FrameKey(key))
}

/// Seals `plain` in place to a public key, as one message of HPKE in base mode. Gives the encapsulated key and the tag.
///
/// # Errors
/// [`SealBroken`] if the public key is not a curve point that can be used.
pub(crate) fn seal_to(
    public: &[u8; 32],
    info: &[u8],
    aad: &[u8],
    plain: &mut [u8],
) -> Result<([u8; 32], [u8; TAG_BYTES]), SealBroken> {
    let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(public).map_err(|_| SealBroken)?;
    let (encapsulated, tag) =
        hpke::single_shot_seal_inout_detached_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &public,
            info,
            InOutBuf::from(plain),
            aad,
            &mut SystemRng,
        )
        .map_err(|_| SealBroken)?;
    Ok((encapsulated.to_bytes().into(), tag.to_bytes().into()))
}

/// Opens what [`seal_to`] made: the sealed bytes with the tag behind them.
///
/// # Errors
/// [`SealBroken`] if it was sealed to another key, for another use or place, or was changed.
pub(crate) fn open_with(
    private: &Key,
    info: &[u8],
    aad: &[u8],
    encapsulated: &[u8; 32],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealBroken> {
    let private = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(private.as_slice()).map_err(|_| SealBroken)?;
    let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| SealBroken)?;
    let (ciphertext, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(SealBroken)?;
    let tag = AeadTag::<AesGcm256>::from_bytes(tag).map_err(|_| SealBroken)?;
    let mut plain = Zeroizing::new(ciphertext.to_vec());
    hpke::single_shot_open_inout_detached::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &private,
        &encapsulated,
        info,
        InOutBuf::from(plain.as_mut_slice()),
        aad,
        &tag,
    )
    .map_err(|_| SealBroken)?;
    Ok(plain)
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
        let (private, public) = generate_key_pair();
        assert_eq!(public_of(&private), public);
        let (repository, pack) = (ObjectId([1; 32]), PackId([2; 32]));
        let key = FrameKey::random();
        let block = wrap(&public, 3, &repository, &pack, &key).unwrap();
        assert_eq!(block.generation(), 3);
        assert_eq!(unwrap(&private, &repository, &pack, &block).unwrap().0, key.0);

        let (other_private, _) = generate_key_pair();
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
