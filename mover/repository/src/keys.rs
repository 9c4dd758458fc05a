//! Credentials and key slots: how the secrets of a repository come out of a password, a key file or a private key.
//!
//! A slot is one write-once object `keys/<id>`: the secrets, sealed under a key stretched from
//! the credential, with a commitment to that key (so that one ciphertext cannot open under two
//! passwords) and a plain checksum (so that damage is told apart from a wrong password). It names a public key of its
//! own, to which rotations seal new generations, and what it may do, both signed by who made it.
//! `FORMAT.md` section 2 has the bytes. Limits are checked before a byte is allocated or a
//! password stretched. Stretching takes about 0.1 s and its memory: never on an executor thread.

use crate::backend::{Backend, Created, ObjectMeta};
use crate::codec::{DecodeError, Decoder, Encoder};
use crate::crypto::{
    Aad, FrameKey, FrameOpener, FrameSealer, HEADER_BYTES, Header, ObjectKind, SIGNATURE_BYTES, Secrets, SigningKey,
    TAG_BYTES, derive, hpke, random_array,
};
use crate::error::{RepositoryError, Result};
use crate::ids::ObjectId;
use crate::key_text::{self, PrivateKey, PublicKey};
use crate::limits::KEY_OBJECT_BYTES_MAX;
use crate::repository::KeyRights;
use bytes::Bytes;
use std::fmt;
use zeroize::Zeroizing;

/// Prefix of all key slots.
pub const KEYS_PREFIX: &str = "keys";
/// Shortest key file.
pub const KEY_FILE_BYTES_MIN: usize = 32;
/// Longest key file.
pub const KEY_FILE_BYTES_MAX: usize = 64 << 10;
/// Most slots that are tried.
const SLOTS_MAX: usize = 256;

pub(crate) const CHECKSUM_BYTES: usize = 32;
/// A key of 32 bytes as it is sealed to a public key.
const SEALED_KEY_BYTES: usize = 32 + TAG_BYTES;
const SLOT_INFO: &[u8] = b"mover repository format 1: key slot";

/// What a user holds. Zeroized when dropped, never printed.
#[derive(Clone)]
pub enum Credential {
    /// A password or passphrase.
    Password(Zeroizing<String>),
    /// The content of a key file: at least [`KEY_FILE_BYTES_MIN`] random bytes.
    KeyFile(Zeroizing<Vec<u8>>),
    /// A private key: opens what was sealed to its public half.
    PrivateKey(PrivateKey),
    /// The public half of somebody's key: for a new slot, opens nothing.
    PublicKey(PublicKey),
}

impl Credential {
    /// A password as typed, or a recovery key.
    ///
    /// # Errors
    /// [`RepositoryError::BadCredential`] if it is empty, or a recovery key with a typing error.
    pub fn password(password: impl Into<String>) -> Result<Self> {
        let password = Zeroizing::new(password.into());
        if password.is_empty() {
            return Err(RepositoryError::BadCredential { reason: "the password is empty" });
        }
        Ok(Self::Password(key_text::recovery_key_as_printed(&password)?.unwrap_or(password)))
    }

    /// A password from a file's content: one trailing line end (`\n` or `\r\n`) is not part of it.
    ///
    /// # Errors
    /// [`RepositoryError::BadCredential`] if it is empty or not UTF-8.
    pub fn password_from_file_bytes(content: &[u8]) -> Result<Self> {
        let line = content.strip_suffix(b"\n").map_or(content, |rest| rest.strip_suffix(b"\r").unwrap_or(rest));
        let text = std::str::from_utf8(line)
            .map_err(|_| RepositoryError::BadCredential { reason: "the password is not UTF-8 text" })?;
        Self::password(text)
    }

    /// The content of a key file: random bytes, or a private key.
    ///
    /// # Errors
    /// [`RepositoryError::BadCredential`] if it is too short or too long, or a private key that was changed.
    pub fn key_file(content: Vec<u8>) -> Result<Self> {
        let content = Zeroizing::new(content);
        if let Some(private) = PrivateKey::from_file(&content)? {
            return Ok(Self::PrivateKey(private));
        }
        match content.len() {
            KEY_FILE_BYTES_MIN..=KEY_FILE_BYTES_MAX => Ok(Self::KeyFile(content)),
            0..KEY_FILE_BYTES_MIN => {
                Err(RepositoryError::BadCredential { reason: "the key file is shorter than 32 bytes" })
            }
            _ => Err(RepositoryError::BadCredential { reason: "the key file is longer than 64 KiB" }),
        }
    }

    fn slot_kind(&self) -> SlotKind {
        match self {
            Self::Password(_) => SlotKind::Password,
            Self::KeyFile(_) => SlotKind::KeyFile,
            Self::PrivateKey(_) | Self::PublicKey(_) => SlotKind::PublicKey,
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({:?}, <redacted>)", self.slot_kind())
    }
}

/// Cost of stretching a password with Argon2id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretching {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Stretching {
    /// Most memory a slot may ask for: 1 GiB.
    pub const MEMORY_KIB_MAX: u32 = 1 << 20;
    /// Most passes a slot may ask for.
    pub const PASSES_MAX: u32 = 16;
    /// Most lanes a slot may ask for.
    pub const LANES_MAX: u32 = 4;
    /// The least that Argon2 allows: for tests, never for a real password.
    pub const CHEAPEST: Self = Self { memory_kib: 8, passes: 1, lanes: 1 };

    fn check(self) -> std::result::Result<Self, DecodeError> {
        let in_bounds = (1..=Self::LANES_MAX).contains(&self.lanes)
            && (1..=Self::PASSES_MAX).contains(&self.passes)
            && (8 * self.lanes..=Self::MEMORY_KIB_MAX).contains(&self.memory_kib);
        if in_bounds { Ok(self) } else { Err(DecodeError::Invalid { field: "cost of the password stretching" }) }
    }

    fn stretch(self, password: &str, salt: &[u8; 32]) -> std::result::Result<Zeroizing<[u8; 32]>, argon2::Error> {
        let params = argon2::Params::new(self.memory_kib, self.passes, self.lanes, Some(32))?;
        let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let mut output = Zeroizing::new([0u8; 32]);
        argon.hash_password_into(password.as_bytes(), salt, output.as_mut_slice())?;
        Ok(output)
    }
}

impl Default for Stretching {
    /// 64 MiB, 3 passes, 1 lane.
    fn default() -> Self {
        Self { memory_kib: 64 << 10, passes: 3, lanes: 1 }
    }
}

/// What opens a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SlotKind {
    /// A password.
    Password = 1,
    /// The content of a key file.
    KeyFile = 2,
    /// The private half of the public key that it was sealed to.
    PublicKey = 3,
}

/// A key slot as read, not yet opened.
pub struct KeySlot {
    name: String,
    header: Header,
    repository: ObjectId,
    kind: SlotKind,
    stretching: Stretching,
    salt: [u8; 32],
    commitment: [u8; 32],
    /// Of a slot for a public key: the random key that stands in for a stretched credential.
    encapsulated: Option<([u8; 32], [u8; SEALED_KEY_BYTES])>,
    sealed: Vec<u8>,
    rights: KeyRights,
    renewal: [u8; 32],
    /// All that the signature covers, and the signature.
    signed: (Vec<u8>, [u8; SIGNATURE_BYTES]),
}

/// What an opened slot gives.
pub struct Opened {
    /// The secrets that were known when it was made.
    pub secrets: Secrets,
    /// Opens what rotations have sealed to it since.
    pub(crate) renewal: Zeroizing<[u8; 32]>,
}

/// Every format ends a slot with this checksum, so that a flipped bit is no newer format.
fn is_checksum_right(object: &[u8]) -> bool {
    object.split_last_chunk::<CHECKSUM_BYTES>().is_some_and(|(content, sum)| blake3::hash(content) == *sum)
}

/// Name of a slot.
pub fn slot_name(id: &ObjectId) -> String {
    format!("{KEYS_PREFIX}/{id}")
}

/// Id in the name of a slot.
pub fn parse_slot_name(name: &str) -> Option<ObjectId> {
    name.strip_prefix(KEYS_PREFIX)?.strip_prefix('/')?.parse().ok()
}

impl KeySlot {
    /// Name of its object.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What opens it.
    pub fn kind(&self) -> SlotKind {
        self.kind
    }

    /// What it may do, as it says itself: see [`KeySlot::is_signed_by_admin`].
    pub fn rights(&self) -> KeyRights {
        self.rights
    }

    /// The public key to which rotations seal new generations.
    pub(crate) fn renewal_key(&self) -> &[u8; 32] {
        &self.renewal
    }

    /// True if an admin made it as it is.
    pub fn is_signed_by_admin(&self, secrets: &Secrets) -> bool {
        secrets.is_signed_by_admin(&self.name, &self.signed.0, &self.signed.1)
    }

    /// Checks and takes apart a slot object.
    ///
    /// # Errors
    /// [`RepositoryError::Corrupt`] or [`RepositoryError::OtherFormat`].
    pub fn decode(name: &str, object: &[u8]) -> Result<Self> {
        let header = Header::decode(object, ObjectKind::KeySlot, name);
        if matches!(header, Err(RepositoryError::OtherFormat { .. })) && !is_checksum_right(object) {
            return Err(RepositoryError::corrupt(name, "its checksum does not match"));
        }
        let header = header?;
        let Some((content, _)) = object.split_last_chunk::<CHECKSUM_BYTES>() else {
            return Err(RepositoryError::corrupt(name, "it is truncated"));
        };
        if !is_checksum_right(object) {
            return Err(RepositoryError::corrupt(name, "its checksum does not match"));
        }
        Self::decode_fields(name, header, content).map_err(RepositoryError::decoding(name))
    }

    fn decode_fields(name: &str, header: Header, content: &[u8]) -> std::result::Result<Self, DecodeError> {
        let mut decoder = Decoder::new(content);
        decoder.raw(HEADER_BYTES)?;
        let repository = ObjectId(decoder.array()?);
        let kind = match decoder.u8()? {
            1 => SlotKind::Password,
            2 => SlotKind::KeyFile,
            3 => SlotKind::PublicKey,
            _ => return Err(DecodeError::Invalid { field: "kind of key slot" }),
        };
        let stretching = Stretching { memory_kib: decoder.u32()?, passes: decoder.u32()?, lanes: decoder.u32()? };
        if kind == SlotKind::Password {
            stretching.check()?;
        }
        let slot = Self {
            name: name.to_owned(),
            header,
            repository,
            kind,
            stretching,
            salt: decoder.array()?,
            commitment: decoder.array()?,
            encapsulated: match kind {
                SlotKind::PublicKey => Some((decoder.array()?, decoder.array()?)),
                SlotKind::Password | SlotKind::KeyFile => None,
            },
            sealed: decoder.string(KEY_OBJECT_BYTES_MAX, "sealed secrets")?.to_vec(),
            rights: KeyRights::decode(&mut decoder)?,
            renewal: decoder.array()?,
            signed: (content[..content.len() - decoder.remaining()].to_vec(), decoder.array()?),
        };
        decoder.finish()?;
        Ok(slot)
    }

    /// The repository that the slot says it belongs to.
    pub fn repository_id(&self) -> ObjectId {
        self.repository
    }

    /// Tries a credential. `None`: it is not this slot's. Blocks for the time of the stretching.
    ///
    /// # Errors
    /// [`RepositoryError::Corrupt`] if the key is right and the content is not;
    /// [`RepositoryError::LimitExceeded`] if the memory for the stretching is not to be had.
    pub fn open(&self, credential: &Credential) -> Result<Option<Opened>> {
        if credential.slot_kind() != self.kind {
            return Ok(None);
        }
        let Some(stretched) = self.stretched(credential)? else { return Ok(None) };
        let commitment = derive::derive(derive::SLOT_COMMITMENT, &[stretched.as_slice(), &self.salt]);
        if aws_lc_rs::constant_time::verify_slices_are_equal(commitment.as_slice(), &self.commitment).is_err() {
            return Ok(None);
        }
        let key = FrameKey(derive::derive(derive::SLOT_SEAL, &[stretched.as_slice(), &self.salt]));
        let opener = FrameOpener::new(&key, Aad::new(&self.header, &self.repository, self.name.as_bytes()));
        let mut buffer = Zeroizing::new(self.sealed.clone());
        let payload = opener.open(0, true, &mut buffer).map_err(|error| RepositoryError::corrupt(&self.name, error))?;
        let Some((renewal, payload)) = payload.split_first_chunk::<32>() else {
            return Err(RepositoryError::corrupt(&self.name, "it holds too little"));
        };
        let renewal = Zeroizing::new(*renewal);
        if hpke::public_of(&renewal) != self.renewal {
            return Err(RepositoryError::corrupt(&self.name, "its renewal key is another one"));
        }
        let secrets = Secrets::decode(self.repository, payload).map_err(RepositoryError::decoding(&self.name))?;
        Ok(Some(Opened { secrets, renewal }))
    }

    fn stretched(&self, credential: &Credential) -> Result<Option<Zeroizing<[u8; 32]>>> {
        let (Credential::PrivateKey(private), Some((encapsulated, sealed))) = (credential, &self.encapsulated) else {
            return stretch(credential, self.stretching, &self.salt);
        };
        let aad = slot_aad(&self.repository, &self.name);
        let Ok(opened) = hpke::open_with(&private.0, SLOT_INFO, &aad, encapsulated, sealed) else { return Ok(None) };
        let mut key = Zeroizing::new([0u8; 32]);
        key.copy_from_slice(&opened);
        Ok(Some(key))
    }
}

/// `None` where it takes more than the credential: a public key opens nothing.
fn stretch(credential: &Credential, stretching: Stretching, salt: &[u8; 32]) -> Result<Option<Zeroizing<[u8; 32]>>> {
    match credential {
        Credential::Password(password) => stretching.stretch(password, salt).map(Some).map_err(|error| {
            RepositoryError::LimitExceeded { what: format!("the password cannot be stretched: {error}") }
        }),
        Credential::KeyFile(content) => Ok(Some(derive::derive(derive::KEY_FILE, &[content.as_slice()]))),
        Credential::PrivateKey(_) | Credential::PublicKey(_) => Ok(None),
    }
}

/// Stretches once, for whoever wants to know how long that takes.
pub(crate) fn time_stretching(credential: &Credential, stretching: Stretching) -> Result<()> {
    stretch(credential, stretching, &[0; 32]).map(drop)
}

fn slot_aad(repository: &ObjectId, name: &str) -> Vec<u8> {
    [repository.as_bytes(), name.as_bytes()].concat()
}

/// The key from which that of a slot follows; for a public key a random one, and how it is sealed to that.
struct SlotKey {
    stretched: Zeroizing<[u8; 32]>,
    encapsulated: Vec<u8>,
}

impl SlotKey {
    fn new(credential: &Credential, stretching: Stretching, salt: &[u8; 32], aad: &[u8]) -> Result<Self> {
        let public = match credential {
            Credential::PublicKey(public) => *public,
            Credential::PrivateKey(private) => private.public(),
            Credential::Password(_) | Credential::KeyFile(_) => {
                let stretched = stretch(credential, stretching, salt)?.expect("these two are stretched");
                return Ok(Self { stretched, encapsulated: Vec::new() });
            }
        };
        let stretched = Zeroizing::new(random_array());
        let mut sealed = stretched.clone();
        let (encapsulated, tag) = hpke::seal_to(&public.0, SLOT_INFO, aad, sealed.as_mut_slice())
            .map_err(|_| RepositoryError::BadCredential { reason: "nothing can be sealed to that public key" })?;
        Ok(Self { stretched, encapsulated: [&encapsulated[..], sealed.as_slice(), &tag].concat() })
    }
}

/// Builds a new slot for `secrets`, signed by them: its name and its bytes. Blocks for the stretching.
///
/// # Errors
/// [`RepositoryError::LimitExceeded`] if the cost is out of bounds or its memory not to be had.
pub fn seal_slot(secrets: &Secrets, credential: &Credential, stretching: Stretching) -> Result<(String, Bytes)> {
    seal_slot_signed(secrets, credential, stretching, secrets.signing())
}

/// As [`seal_slot`], signed by who makes it for somebody else.
pub(crate) fn seal_slot_signed(
    secrets: &Secrets,
    credential: &Credential,
    stretching: Stretching,
    signer: &SigningKey,
) -> Result<(String, Bytes)> {
    stretching.check().map_err(|error| RepositoryError::LimitExceeded { what: error.to_string() })?;
    let (name, salt) = (slot_name(&ObjectId(random_array())), random_array());
    let (header, repository) = (Header::new(ObjectKind::KeySlot, 0), secrets.repository_id());
    let key = SlotKey::new(credential, stretching, &salt, &slot_aad(&repository, &name))?;
    let commitment = derive::derive(derive::SLOT_COMMITMENT, &[key.stretched.as_slice(), &salt]);
    let frame_key = FrameKey(derive::derive(derive::SLOT_SEAL, &[key.stretched.as_slice(), &salt]));

    let (renewal, renewal_public) = hpke::generate_key_pair();
    let mut payload = Zeroizing::new([renewal.as_slice(), &secrets.encode()].concat());
    let aad = Aad::new(&header, &repository, name.as_bytes());
    let (_, tag) = FrameSealer::new(frame_key, aad).seal_last(&mut payload);
    let recorded = match credential {
        Credential::Password(_) => stretching,
        _ => Stretching { memory_kib: 0, passes: 0, lanes: 0 },
    };
    let mut encoder = Encoder::new();
    encoder.raw(&header.encode());
    encoder.raw(repository.as_bytes());
    encoder.u8(credential.slot_kind() as u8);
    encoder.u32(recorded.memory_kib);
    encoder.u32(recorded.passes);
    encoder.u32(recorded.lanes);
    encoder.raw(&salt);
    encoder.raw(commitment.as_slice());
    encoder.raw(&key.encapsulated);
    encoder.string(&[payload.as_slice(), &tag].concat());
    let rights = if secrets.is_admin() { KeyRights::Full } else { KeyRights::PutOnly };
    encoder.u8(rights.byte());
    encoder.raw(&renewal_public);
    Ok((name.clone(), sign_and_sum(encoder.finish(), signer, &repository, &name).into()))
}

/// Puts the signature and the checksum behind a key object.
pub(crate) fn sign_and_sum(mut object: Vec<u8>, signer: &SigningKey, repository: &ObjectId, name: &str) -> Vec<u8> {
    let signature = signer.sign(repository, name, &object);
    object.extend_from_slice(&signature);
    let checksum = blake3::hash(&object);
    object.extend_from_slice(checksum.as_bytes());
    assert!(object.len() <= KEY_OBJECT_BYTES_MAX, "a key object stays under its limit");
    object
}

/// Stores a slot made by [`seal_slot`].
pub(crate) async fn store_slot(backend: &dyn Backend, name: &str, object: Bytes) -> Result<()> {
    match backend.create(name, object).await? {
        Created::New => Ok(()),
        Created::AlreadyExisted => Err(RepositoryError::corrupt(name, "a random name was taken")),
    }
}

/// Reads all slots; a damaged one is returned as its error, since another may open.
pub(crate) async fn read_slots(backend: &dyn Backend, listed: Vec<ObjectMeta>) -> Result<Vec<Result<KeySlot>>> {
    if listed.is_empty() {
        return Err(RepositoryError::MissingObject { object: format!("{KEYS_PREFIX}/*") });
    }
    let reads = listed.into_iter().take(SLOTS_MAX).map(|meta| {
        let object = backend.get(&meta.name, KEY_OBJECT_BYTES_MAX as u64);
        async move {
            match object.await {
                Ok(bytes) => KeySlot::decode(&meta.name, &bytes),
                Err(error) => Err(error.into()),
            }
        }
    });
    Ok(crate::io::in_parallel(8, reads).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> Secrets {
        Secrets::generate(ObjectId([5; 32]))
    }

    fn password(text: &str) -> Credential {
        Credential::password(text).unwrap()
    }

    #[test]
    fn a_slot_opens_with_its_own_credential_only() {
        let secrets = secrets();
        let key_file = Credential::key_file(vec![3; 40]).unwrap();
        for credential in [password("correct"), key_file.clone()] {
            let (name, object) = seal_slot(&secrets, &credential, Stretching::CHEAPEST).unwrap();
            let slot = KeySlot::decode(&name, &object).unwrap();
            let opened = slot.open(&credential).unwrap().expect("it opens");
            assert_eq!(opened.secrets.encode(), secrets.encode());
            assert!(slot.open(&password("wrong")).unwrap().is_none());
            assert!(slot.open(&Credential::key_file(vec![4; 40]).unwrap()).unwrap().is_none());
        }
    }

    #[test]
    fn f27_every_flipped_byte_and_every_truncation_of_a_slot_is_an_error() {
        let (name, object) = seal_slot(&secrets(), &password("p"), Stretching::CHEAPEST).unwrap();
        for at in 0..object.len() {
            let mut changed = object.to_vec();
            changed[at] ^= 0x41;
            let flipped = KeySlot::decode(&name, &changed).err();
            assert!(matches!(flipped, Some(RepositoryError::Corrupt { .. })), "byte {at} flipped: {flipped:?}");
            assert!(KeySlot::decode(&name, &object[..at]).is_err(), "cut at {at}");
        }
        let grown = [&object[..], b"x"].concat();
        assert!(KeySlot::decode(&name, &grown).is_err());
    }

    #[test]
    fn a_forged_cost_is_refused_before_it_is_paid() {
        let (name, object) = seal_slot(&secrets(), &password("p"), Stretching::CHEAPEST).unwrap();
        let forge = |at: usize, value: u32| {
            let mut forged = object[..object.len() - CHECKSUM_BYTES].to_vec();
            forged[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let checksum = blake3::hash(&forged);
            forged.extend_from_slice(checksum.as_bytes());
            KeySlot::decode(&name, &forged)
        };
        let (memory, passes, lanes) = (65, 69, 73);
        assert!(forge(memory, 16).is_ok(), "the offsets are right");
        for (at, value) in [(memory, (1 << 20) + 1), (memory, u32::MAX), (memory, 7), (passes, 17), (passes, 0)] {
            assert!(matches!(forge(at, value), Err(RepositoryError::Corrupt { .. })), "{at} {value}");
        }
        for value in [0, 5, u32::MAX] {
            assert!(forge(lanes, value).is_err());
        }
    }

    #[test]
    fn a_slot_moved_to_another_name_does_not_open() {
        let (name, object) = seal_slot(&secrets(), &password("p"), Stretching::CHEAPEST).unwrap();
        let moved = KeySlot::decode(&slot_name(&ObjectId([9; 32])), &object).unwrap();
        assert_ne!(moved.name, name);
        assert!(matches!(moved.open(&password("p")), Err(RepositoryError::Corrupt { .. })));
    }

    #[test]
    fn a_password_file_may_end_with_one_line_end() {
        let same = |content: &[u8]| match Credential::password_from_file_bytes(content) {
            Ok(Credential::Password(password)) => Some(password.to_string()),
            _ => None,
        };
        assert_eq!(same(b"secret\n").as_deref(), Some("secret"));
        assert_eq!(same(b"secret\r\n").as_deref(), Some("secret"));
        assert_eq!(same(b"secret").as_deref(), Some("secret"));
        assert_eq!(same(b"secret\n\n").as_deref(), Some("secret\n"));
        assert_eq!(same(b" secret ").as_deref(), Some(" secret "));
        for refused in [&b""[..], b"\n", b"\r\n", b"\xff\n"] {
            assert_eq!(same(refused), None);
        }
        assert!(Credential::key_file(vec![0; 31]).is_err());
        assert_eq!(format!("{:?}", password("hush")), "Credential(Password, <redacted>)");
    }
}
