//! All secrets of a repository, and what is computed with them.
//!
//! | secret | rotates | used for |
//! | --- | --- | --- |
//! | id | never | chunk ids, identity digests |
//! | cut | never | gear table, cuts of manifest leaves |
//! | structure | by generation | tables of contents, index, log, reference pages |
//! | read (X25519) | by generation | keys of data packs; the private half is optional |
//! | signing (Ed25519) | one a client | log records |
//!
//! They are independent and random; no one follows from another. A client without the private
//! read key can back up and deduplicate but cannot read file content.

use super::aead::FrameKey;
use super::derive::{self, Key, derive};
use super::header::ObjectKind;
use super::hpke::{self, KeyBlock};
use super::sign::{SIGNATURE_BYTES, SigningKey, VerifyingKey};
use super::{SealBroken, random_array};
use crate::codec::{DecodeError, Decoder, Encoder};
use crate::error::{RepositoryError, Result};
use crate::ids::{ChunkId, LogNumber, ObjectId, PackId};
use std::fmt;
use zeroize::Zeroizing;

/// Most generations of one class, and most admin keys, that a key slot may hold.
const GENERATIONS_MAX: usize = 256;

struct StructureKey {
    generation: u32,
    secret: Key,
}

struct ReadKey {
    generation: u32,
    public: [u8; 32],
    private: Option<Key>,
}

/// The secrets of one repository as one key slot holds them.
pub struct Secrets {
    repository: ObjectId,
    id: Key,
    cut: Key,
    structure: Vec<StructureKey>,
    read: Vec<ReadKey>,
    signing: SigningKey,
    admins: Vec<VerifyingKey>,
    /// Where in the log the generations above the first one came into force. Not in a key slot: read when a repository
    /// is opened.
    rotations: Vec<Rotated>,
    chunk_key: Key,
    identity_key: Key,
    path_key: Key,
}

/// A rotation that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rotated {
    generation: u32,
    at: LogNumber,
}

/// The secrets of a generation that a rotation draws, of which a client without the right to read is given only a part.
pub(crate) struct NewGeneration {
    /// Its number, the same for both classes.
    pub(crate) generation: u32,
    /// The structure secret.
    pub(crate) structure: Key,
    /// The public read key.
    pub(crate) read_public: [u8; 32],
    /// The private one.
    pub(crate) read_private: Option<Key>,
}

impl Secrets {
    /// Draws all secrets of a new repository; its signing key is the first admin key.
    pub fn generate(repository: ObjectId) -> Self {
        let (private, public) = hpke::generate_key_pair();
        let signing = SigningKey::random();
        let admins = vec![signing.verifying_key()];
        Self::assemble(
            repository,
            Zeroizing::new(random_array()),
            Zeroizing::new(random_array()),
            vec![StructureKey { generation: 1, secret: Zeroizing::new(random_array()) }],
            vec![ReadKey { generation: 1, public, private: Some(private) }],
            signing,
            admins,
        )
    }

    /// Secrets of a new repository whose chunks have the ids and the boundaries of those of `other`: id and cut secret
    /// are the same, all else is drawn anew.
    pub(crate) fn like(repository: ObjectId, other: &Self) -> Self {
        let fresh = Self::generate(repository);
        let Self { structure, read, signing, admins, .. } = fresh;
        Self::assemble(repository, other.id.clone(), other.cut.clone(), structure, read, signing, admins)
    }

    /// True if a chunk has the same id in both repositories.
    pub(crate) fn shares_ids_with(&self, other: &Self) -> bool {
        // Whoever is asked knows both keys: there is nobody to hide the time of the comparison from.
        self.chunk_key == other.chunk_key
    }

    /// Secrets of which those that decide what a run does (cut points, chunk ids) follow from `seed`,
    /// so that a simulated run can be replayed in another process.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn seeded(repository: ObjectId, seed: u64) -> Self {
        let (private, public) = hpke::generate_key_pair();
        let signing = SigningKey::random();
        let admins = vec![signing.verifying_key()];
        let secret =
            |number: u8| Zeroizing::new(*blake3::hash(&[&seed.to_le_bytes()[..], &[number]].concat()).as_bytes());
        let structure = vec![StructureKey { generation: 1, secret: secret(2) }];
        let read = vec![ReadKey { generation: 1, public, private: Some(private) }];
        Self::assemble(repository, secret(0), secret(1), structure, read, signing, admins)
    }

    fn assemble(
        repository: ObjectId,
        id: Key,
        cut: Key,
        structure: Vec<StructureKey>,
        read: Vec<ReadKey>,
        signing: SigningKey,
        admins: Vec<VerifyingKey>,
    ) -> Self {
        let chunk_key = derive(derive::CHUNK_ID, &[id.as_slice()]);
        let identity_key = derive(derive::IDENTITY_DIGEST, &[id.as_slice()]);
        let path_key = derive(derive::PATH_HASH, &[cut.as_slice()]);
        let rotations = Vec::new();
        Self { repository, id, cut, structure, read, signing, admins, rotations, chunk_key, identity_key, path_key }
    }

    /// The same secrets once more, for another slot or another store.
    pub(crate) fn duplicate(&self) -> Self {
        let mut copy = Self::decode(self.repository, &self.encode()).expect("what was encoded is decoded");
        copy.rotations = self.rotations.clone();
        copy
    }

    /// Draws the generation after the newest one.
    ///
    /// # Errors
    /// [`RepositoryError::LimitExceeded`] if there are as many as a key slot may hold.
    pub(crate) fn draw_generation(&self) -> Result<NewGeneration> {
        if self.structure.len().max(self.read.len()) >= GENERATIONS_MAX {
            let what = format!("{GENERATIONS_MAX} generations of keys; a new repository is needed");
            return Err(RepositoryError::LimitExceeded { what });
        }
        let (private, read_public) = hpke::generate_key_pair();
        Ok(NewGeneration {
            generation: self.structure_generation() + 1,
            structure: Zeroizing::new(random_array()),
            read_public,
            read_private: Some(private),
        })
    }

    /// Takes a generation that is in force: what is written from now on is sealed under it.
    pub(crate) fn add_generation(&mut self, new: NewGeneration) {
        assert_eq!(new.generation, self.structure_generation() + 1, "generations count by one");
        self.structure.push(StructureKey { generation: new.generation, secret: new.structure });
        self.read.push(ReadKey { generation: new.generation, public: new.read_public, private: new.read_private });
    }

    /// Notes where in the log a generation came into force.
    pub(crate) fn note_rotation(&mut self, generation: u32, at: LogNumber) {
        self.rotations.push(Rotated { generation, at });
    }

    /// Where a generation came into force; none for the first one, and for one that is not known.
    pub(crate) fn rotated_at(&self, generation: u32) -> Option<LogNumber> {
        self.rotations.iter().find(|rotated| rotated.generation == generation).map(|rotated| rotated.at)
    }

    /// The generation under which records of a log number have to be sealed, at least: who was not given it any more
    /// can still seal under an older one.
    pub(crate) fn generation_at(&self, number: LogNumber) -> u32 {
        let before = self.rotations.iter().filter(|rotated| rotated.at < number);
        before.map(|rotated| rotated.generation).max().unwrap_or_default()
    }

    /// All generations of the structure secret, oldest first.
    pub(crate) fn structure_generations(&self) -> impl DoubleEndedIterator<Item = u32> {
        self.structure.iter().map(|key| key.generation)
    }

    /// True if an admin key signed `body` as the content of object `name`.
    pub(crate) fn is_signed_by_admin(&self, name: &str, body: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        self.admins.iter().any(|admin| admin.verify(&self.repository, name, body, signature).is_ok())
    }

    /// The subset for a client that may add but not read: no private read key, and a signing key
    /// of its own that is not an admin key.
    pub fn put_only(&self) -> Self {
        let structure = self
            .structure
            .iter()
            .map(|key| StructureKey { generation: key.generation, secret: key.secret.clone() })
            .collect();
        let read = self
            .read
            .iter()
            .map(|key| ReadKey { generation: key.generation, public: key.public, private: None })
            .collect();
        let mut subset = Self::assemble(
            self.repository,
            self.id.clone(),
            self.cut.clone(),
            structure,
            read,
            SigningKey::random(),
            self.admins.clone(),
        );
        subset.rotations = self.rotations.clone();
        subset
    }

    /// The repository that these secrets belong to.
    pub fn repository_id(&self) -> ObjectId {
        self.repository
    }

    /// The id of a chunk: BLAKE3 of its plain bytes, keyed by the id secret.
    #[inline]
    pub fn chunk_id(&self, plain: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.chunk_key, plain).as_bytes())
    }

    /// The gear table of the chunker: 256 little-endian words of BLAKE3's extended output.
    pub fn gear(&self) -> Box<[u64; 256]> {
        let mut bytes = Zeroizing::new([0u8; 2048]);
        derive::derive_long(derive::GEAR_TABLE, &[self.cut.as_slice()], bytes.as_mut_slice());
        let mut table = Box::new([0u64; 256]);
        for (entry, word) in table.iter_mut().zip(bytes.chunks_exact(8)) {
            *entry = u64::from_le_bytes(word.try_into().expect("8 bytes"));
        }
        table
    }

    /// Keyed hash of a path: decides where manifest leaves are cut.
    pub fn path_hash(&self, path: &[u8]) -> u64 {
        let hash = blake3::keyed_hash(&self.path_key, path);
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 bytes"))
    }

    /// Keyed digest of a manifest entry's identity.
    pub fn identity_digest(&self, bytes: &[u8]) -> [u8; 16] {
        let hash = blake3::keyed_hash(&self.identity_key, bytes);
        hash.as_bytes()[..16].try_into().expect("16 bytes")
    }

    /// True if file content can be read: a private read key of every generation is at hand.
    pub fn can_read(&self) -> bool {
        self.read.iter().all(|key| key.private.is_some())
    }

    /// True if this client's destructive records count.
    pub fn is_admin(&self) -> bool {
        self.admins.contains(&self.signing.verifying_key())
    }

    /// True if `key` is one whose destructive records count.
    pub fn is_admin_key(&self, key: &VerifyingKey) -> bool {
        self.admins.contains(key)
    }

    /// This client's signing key.
    pub fn signing(&self) -> &SigningKey {
        &self.signing
    }

    /// The structure generation under which new objects are sealed.
    pub fn structure_generation(&self) -> u32 {
        self.structure.last().expect("there is at least one generation").generation
    }

    /// The key of one object that is sealed under the structure secret: a structure pack (salt:
    /// pack id), an index segment (salt: segment id) or a small object (salt: random, stored).
    ///
    /// # Errors
    /// [`RepositoryError::UnknownGeneration`] naming `object`, or [`RepositoryError::Corrupt`] if there
    /// can be no such generation.
    pub fn structure_key(&self, generation: u32, kind: ObjectKind, salt: &[u8; 32], object: &str) -> Result<FrameKey> {
        let key = self
            .structure
            .iter()
            .find(|key| key.generation == generation)
            .ok_or_else(|| unknown_generation(object, generation, self.structure_generation()))?;
        Ok(FrameKey(derive(derive::STRUCTURE_OBJECT, &[key.secret.as_slice(), &[kind as u8], salt])))
    }

    /// Encapsulates the random key of a data pack to the current public read key.
    ///
    /// # Errors
    /// [`SealBroken`] if the public key in the slot is not a curve point that can be used.
    pub fn wrap_pack_key(&self, pack: &PackId, key: &FrameKey) -> std::result::Result<KeyBlock, SealBroken> {
        let read = self.read.last().expect("there is at least one generation");
        hpke::wrap(&read.public, read.generation, &self.repository, pack, key)
    }

    /// Opens what [`Secrets::wrap_pack_key`] made; `object` is for the message.
    ///
    /// # Errors
    /// [`RepositoryError::NoReadKey`], [`RepositoryError::UnknownGeneration`] or
    /// [`RepositoryError::Corrupt`].
    pub fn unwrap_pack_key(&self, pack: &PackId, block: &KeyBlock, object: &str) -> Result<FrameKey> {
        let generation = block.generation();
        let read =
            self.read.iter().find(|key| key.generation == generation).ok_or_else(|| {
                unknown_generation(object, generation, self.read.last().map_or(0, |key| key.generation))
            })?;
        let private = read.private.as_ref().ok_or_else(|| RepositoryError::NoReadKey { object: object.to_owned() })?;
        hpke::unwrap(private, &self.repository, pack, block)
            .map_err(|_| RepositoryError::corrupt(object, "its key block does not open"))
    }

    /// The plain payload of a key slot. `FORMAT.md` section 2 has the bytes.
    pub(crate) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let bytes = 108 + self.structure.len() * 36 + self.read.len() * 69 + self.admins.len() * 32;
        let mut encoder = Encoder::with_capacity(bytes);
        encoder.raw(self.id.as_slice());
        encoder.raw(self.cut.as_slice());
        encoder.count(self.structure.len());
        for key in &self.structure {
            encoder.u32(key.generation);
            encoder.raw(key.secret.as_slice());
        }
        encoder.count(self.read.len());
        for key in &self.read {
            encoder.u32(key.generation);
            encoder.raw(&key.public);
            encoder.u8(u8::from(key.private.is_some()));
            if let Some(private) = &key.private {
                encoder.raw(private.as_slice());
            }
        }
        encoder.raw(self.signing.seed().as_slice());
        encoder.count(self.admins.len());
        self.admins.iter().for_each(|admin| encoder.raw(&admin.0));
        Zeroizing::new(encoder.finish())
    }

    pub(crate) fn decode(repository: ObjectId, payload: &[u8]) -> std::result::Result<Self, DecodeError> {
        let mut decoder = Decoder::new(payload);
        let id = secret(&mut decoder)?;
        let cut = secret(&mut decoder)?;
        let mut structure = Vec::new();
        for _ in 0..bounded(decoder.count(36, "structure keys")?, "structure keys")? {
            structure.push(StructureKey { generation: decoder.u32()?, secret: secret(&mut decoder)? });
        }
        let mut read = Vec::new();
        for _ in 0..bounded(decoder.count(37, "read keys")?, "read keys")? {
            let (generation, public) = (decoder.u32()?, decoder.array()?);
            let private = match decoder.u8()? {
                0 => None,
                1 => Some(secret(&mut decoder)?),
                _ => return Err(DecodeError::Invalid { field: "private read key flag" }),
            };
            if private.as_ref().is_some_and(|private| hpke::public_of(private) != public) {
                return Err(DecodeError::Invalid { field: "read key pair" });
            }
            read.push(ReadKey { generation, public, private });
        }
        if !structure.is_sorted_by(|a, b| a.generation < b.generation)
            || !read.is_sorted_by(|a, b| a.generation < b.generation)
        {
            return Err(DecodeError::Invalid { field: "order of generations" });
        }
        let signing = SigningKey::from_seed(secret(&mut decoder)?);
        let mut admins = Vec::new();
        for _ in 0..bounded(decoder.count(32, "admin keys")?, "admin keys")? {
            admins.push(VerifyingKey(decoder.array()?));
        }
        decoder.finish()?;
        Ok(Self::assemble(repository, id, cut, structure, read, signing, admins))
    }
}

/// The generation stands where no key has authenticated it yet. Rotations count by one, so the next one may
/// exist although this key slot was made before it; any other number is damage.
fn unknown_generation(object: &str, generation: u32, newest: u32) -> RepositoryError {
    if newest.checked_add(1) == Some(generation) {
        return RepositoryError::UnknownGeneration { object: object.to_owned(), generation };
    }
    RepositoryError::corrupt(object, format!("it names key generation {generation}; the newest known one is {newest}"))
}

fn secret(decoder: &mut Decoder<'_>) -> std::result::Result<Key, DecodeError> {
    let mut key = Zeroizing::new([0u8; 32]);
    key.copy_from_slice(decoder.raw(32)?);
    Ok(key)
}

fn bounded(count: usize, field: &'static str) -> std::result::Result<usize, DecodeError> {
    match count {
        1..=GENERATIONS_MAX => Ok(count),
        _ => Err(DecodeError::Invalid { field }),
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets")
            .field("repository", &self.repository)
            .field("can_read", &self.can_read())
            .field("is_admin", &self.is_admin())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_survive_a_slot_and_never_print() {
        let secrets = Secrets::generate(ObjectId([4; 32]));
        let payload = secrets.encode();
        let again = Secrets::decode(ObjectId([4; 32]), &payload).unwrap();
        assert_eq!(again.encode(), payload);
        assert_eq!(again.chunk_id(b"x"), secrets.chunk_id(b"x"));
        assert!(again.can_read() && again.is_admin());
        let printed = format!("{secrets:?}");
        assert!(printed.len() < 200 && !printed.contains(&format!("{:02x}{:02x}", secrets.id[0], secrets.id[1])[..]));
    }

    #[test]
    fn f27_a_cut_or_grown_payload_is_an_error() {
        let payload = Secrets::generate(ObjectId([4; 32])).encode();
        for length in 0..payload.len() {
            assert!(Secrets::decode(ObjectId([4; 32]), &payload[..length]).is_err(), "cut at {length}");
        }
        let mut grown = payload.to_vec();
        grown.push(0);
        assert!(Secrets::decode(ObjectId([4; 32]), &grown).is_err());
    }

    #[test]
    fn a_put_only_client_writes_what_it_cannot_read() {
        let full = Secrets::generate(ObjectId([4; 32]));
        let client = Secrets::decode(ObjectId([4; 32]), &full.put_only().encode()).unwrap();
        assert!(!client.can_read() && !client.is_admin());
        assert_eq!(client.chunk_id(b"same"), full.chunk_id(b"same"));
        assert_eq!(client.gear(), full.gear());
        let (pack, key) = (PackId([7; 32]), FrameKey::random());
        let block = client.wrap_pack_key(&pack, &key).unwrap();
        assert!(matches!(client.unwrap_pack_key(&pack, &block, "p"), Err(RepositoryError::NoReadKey { .. })));
        assert_eq!(full.unwrap_pack_key(&pack, &block, "p").unwrap().0, key.0);
    }

    #[test]
    fn uses_of_one_secret_are_separate() {
        let secrets = Secrets::generate(ObjectId([4; 32]));
        assert_ne!(secrets.chunk_key, secrets.identity_key);
        let salt = [1; 32];
        let key = |kind| secrets.structure_key(1, kind, &salt, "x").unwrap().0;
        assert_ne!(key(ObjectKind::IndexSegment), key(ObjectKind::StructurePack));
        assert!(matches!(
            secrets.structure_key(2, ObjectKind::LogRecord, &salt, "x"),
            Err(RepositoryError::UnknownGeneration { generation: 2, .. })
        ));
        // No advice about key rotations because of one flipped bit.
        for generation in [0, 3, 17, u32::MAX] {
            let refused = secrets.structure_key(generation, ObjectKind::LogRecord, &salt, "x");
            assert!(matches!(refused, Err(RepositoryError::Corrupt { .. })), "{generation}");
        }
        let gear = secrets.gear();
        let distinct: std::collections::HashSet<u64> = gear.iter().copied().collect();
        assert_eq!(distinct.len(), 256);
    }
}
