//! The plain header that every object begins with, and the additional authenticated data (AAD)
//! that binds each frame to its place.
//!
//! A header is 32 bytes and is part of the AAD, so no bit of it can be changed unnoticed. It is
//! read before anything authenticates it, so another format version or an unknown must-understand
//! bit is believed only where all else is as it should be.

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::error::{RepositoryError, Result};
use crate::ids::ObjectId;
use crate::limits::FORMAT_VERSION;

/// Length of a [`Header`].
pub const HEADER_BYTES: usize = 32;
/// The cipher suite of this version: AES-256-GCM, BLAKE3 derive-key, HPKE with X25519,
/// HKDF-SHA256 and AES-256-GCM, Ed25519.
pub const SUITE: u8 = 1;

const MAGIC: [u8; 8] = *b"mover\r\n\x1a";
const MUST_UNDERSTAND_KNOWN: u32 = 0;
/// How far ahead of this version a format or a suite may be and still be taken for one.
const FORMATS_AHEAD_MAX: u8 = 3;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ObjectKind {
    /// `config`
    Config = 1,
    /// `keys/<id>`
    KeySlot = 2,
    /// Anything below `log/`
    LogRecord = 3,
    /// A pack whose key is encapsulated to the read public key
    DataPack = 4,
    /// A pack whose key follows from the structure secret
    StructurePack = 5,
    /// `index/<id>`
    IndexSegment = 6,
    /// `keys/rotation/<id>`
    Rotation = 7,
}

impl ObjectKind {
    fn from_byte(byte: u8) -> Option<Self> {
        let kinds = [
            Self::Config,
            Self::KeySlot,
            Self::LogRecord,
            Self::DataPack,
            Self::StructurePack,
            Self::IndexSegment,
            Self::Rotation,
        ];
        kinds.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// The plain header of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the object is.
    pub kind: ObjectKind,
    /// Bits that a reader may ignore if it does not know them.
    pub may_ignore: u32,
    /// Generation of the structure secret (0 where none is used: key slots).
    pub generation: u32,
}

impl Header {
    /// A header as this version writes it.
    pub fn new(kind: ObjectKind, generation: u32) -> Self {
        Self { kind, may_ignore: 0, generation }
    }

    /// The bytes of the header.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut encoder = Encoder::new();
        encoder.raw(&MAGIC);
        encoder.u8(self.kind as u8);
        encoder.u8(FORMAT_VERSION);
        encoder.u8(SUITE);
        encoder.u8(0);
        encoder.u32(MUST_UNDERSTAND_KNOWN);
        encoder.u32(self.may_ignore);
        encoder.u32(self.generation);
        encoder.u64(0);
        encoder.finish().try_into().expect("a header has 32 bytes")
    }

    /// Reads the header at the front of `object` and checks that it is of `kind`.
    ///
    /// # Errors
    /// [`RepositoryError::OtherFormat`] if the version, the suite or a must-understand bit is
    /// unknown and all else is as it should be; [`RepositoryError::Corrupt`] for anything else. `name` is for the message.
    pub fn decode(object: &[u8], kind: ObjectKind, name: &str) -> Result<Self> {
        let header = Self::decode_any(object, name)?;
        if header.kind != kind {
            return Err(RepositoryError::corrupt(name, "the header says it is another kind of object"));
        }
        Ok(header)
    }

    /// As [`Header::decode`], for an object of any known kind.
    pub fn decode_any(object: &[u8], name: &str) -> Result<Self> {
        let fields = |decoder: &mut Decoder<'_>| -> std::result::Result<_, DecodeError> {
            Ok((
                decoder.array::<8>()?,
                decoder.array::<4>()?,
                decoder.u32()?,
                decoder.u32()?,
                decoder.u32()?,
                decoder.u64()?,
            ))
        };
        let (magic, [kind, version, suite, reserved], must_understand, may_ignore, generation, reserved_tail) =
            fields(&mut Decoder::new(object)).map_err(RepositoryError::decoding(name))?;
        if magic != MAGIC {
            return Err(RepositoryError::corrupt(name, "it does not begin as a mover object"));
        }
        let kind = ObjectKind::from_byte(kind)
            .ok_or_else(|| RepositoryError::corrupt(name, "the header names an unknown kind of object"))?;
        if reserved != 0 || reserved_tail != 0 {
            return Err(RepositoryError::corrupt(name, "reserved bytes of the header are not zero"));
        }
        // Nothing has authenticated these bytes yet. Formats count by one: a number far ahead is damage.
        if version > FORMAT_VERSION + FORMATS_AHEAD_MAX || suite > SUITE + FORMATS_AHEAD_MAX {
            return Err(RepositoryError::corrupt(name, "the header names a format that cannot exist yet"));
        }
        if version != FORMAT_VERSION || suite != SUITE || must_understand & !MUST_UNDERSTAND_KNOWN != 0 {
            return Err(RepositoryError::OtherFormat { object: name.to_owned(), version });
        }
        Ok(Self { kind, may_ignore, generation })
    }
}

/// Builds the AAD of each frame of one object:
/// `header ‖ repository id ‖ subject length (u32) ‖ subject ‖ frame number (u32) ‖ last (u8)`.
///
/// The subject is the pack id or segment id (32 bytes), or the object name for small objects.
#[derive(Clone, Debug)]
pub struct Aad {
    prefix: Vec<u8>,
}

impl Aad {
    /// The AAD of an object.
    pub fn new(header: &Header, repository: &ObjectId, subject: &[u8]) -> Self {
        let mut encoder = Encoder::new();
        encoder.raw(&header.encode());
        encoder.raw(repository.as_bytes());
        encoder.string(subject);
        Self { prefix: encoder.finish() }
    }

    /// The AAD of one frame; `last` is true for the frame after which none may follow.
    pub fn frame(&self, number: u32, last: bool) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.prefix.len() + 5);
        bytes.extend_from_slice(&self.prefix);
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.push(u8::from(last));
        bytes
    }

    /// The part that all frames share.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_and_every_changed_bit_is_noticed_or_reported() {
        let header = Header { kind: ObjectKind::IndexSegment, may_ignore: 5, generation: 7 };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes, ObjectKind::IndexSegment, "x").unwrap(), header);
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            match Header::decode(&changed, ObjectKind::IndexSegment, "x") {
                Ok(other) => assert_ne!(other, header, "bit {bit}"),
                Err(RepositoryError::OtherFormat { .. } | RepositoryError::Corrupt { .. }) => {}
                Err(other) => panic!("bit {bit}: {other}"),
            }
        }
    }

    #[test]
    fn f27_a_truncated_header_is_an_error() {
        let bytes = Header::new(ObjectKind::Config, 1).encode();
        for length in 0..bytes.len() {
            assert!(matches!(
                Header::decode(&bytes[..length], ObjectKind::Config, "config"),
                Err(RepositoryError::Corrupt { .. })
            ));
        }
    }

    #[test]
    fn a_newer_version_or_an_unknown_bit_asks_for_an_update() {
        let bytes = Header::new(ObjectKind::Config, 1).encode();
        for at in [9, 10, 12, 15] {
            let mut newer = bytes;
            newer[at] += 1;
            assert!(
                matches!(
                    Header::decode(&newer, ObjectKind::Config, "config"),
                    Err(RepositoryError::OtherFormat { .. })
                ),
                "byte {at}"
            );
        }
    }
}
