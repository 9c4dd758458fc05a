//! Class, name, header and trailer of a pack. FORMAT.md "Packs".
//!
//! Header: the 32 bytes that every object begins with, then pack id and key block. All of it is
//! AAD of every frame. Trailer: length of the sealed table and a magic; it is not sealed, but a
//! wrong length cannot open. Any thread.

use crate::codec::{Decoder, Encoder};
use crate::crypto::{Aad, HEADER_BYTES, Header, KEY_BLOCK_BYTES, KeyBlock, ObjectKind};
use crate::error::{RepositoryError, Result};
use crate::ids::{LogNumber, ObjectId, PackId};
use crate::limits::TOC_BYTES_MAX;

/// Header, pack id and key block.
pub const PACK_HEADER_BYTES: usize = HEADER_BYTES + 32 + KEY_BLOCK_BYTES;
/// Length of the sealed table as `u32`, four zero bytes, magic.
pub const TRAILER_BYTES: usize = 16;

const TRAILER_MAGIC: [u8; 8] = *b"movertoc";

/// Which key opens the frames of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PackClass {
    /// A random key, encapsulated to the read public key: file content and names.
    Data,
    /// A key derived from the structure secret: lists of chunks, separators.
    Structure,
}

impl PackClass {
    pub(crate) fn object_kind(self) -> ObjectKind {
        match self {
            PackClass::Data => ObjectKind::DataPack,
            PackClass::Structure => ObjectKind::StructurePack,
        }
    }
}

/// What is needed to find and open a pack's frames, without reading its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackInfo {
    /// The pack.
    pub id: PackId,
    /// Who wrote it.
    pub writer: LogNumber,
    /// Which key opens its frames.
    pub class: PackClass,
    /// Generation of the structure secret.
    pub generation: u32,
    /// Encapsulated key; all zero in a structure pack.
    pub key_block: KeyBlock,
    /// Length of the whole object.
    pub bytes: u64,
}

impl PackInfo {
    /// Name of the object: `packs/<writer>/<pack id>`.
    pub fn object_name(&self) -> String {
        pack_name(self.writer, &self.id)
    }
}

/// Name of a pack's object.
pub fn pack_name(writer: LogNumber, id: &PackId) -> String {
    format!("packs/{writer}/{id}")
}

/// Writer and id in the name of a pack's object; `None` if it is not such a name.
pub fn parse_pack_name(name: &str) -> Option<(LogNumber, PackId)> {
    let (writer, id) = name.strip_prefix("packs/")?.split_once('/')?;
    let id: PackId = id.parse().ok()?;
    let number = LogNumber(u64::from_str_radix(writer, 16).ok()?);
    (number.to_string() == writer).then_some((number, id))
}

/// The plain header of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PackHeader {
    pub class: PackClass,
    pub generation: u32,
    pub id: PackId,
    pub key_block: KeyBlock,
}

impl PackHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.raw(&Header::new(self.class.object_kind(), self.generation).encode());
        out.raw(&self.subject());
        out.finish()
    }

    /// Pack id and key block: the subject of every frame's AAD.
    fn subject(&self) -> [u8; 32 + KEY_BLOCK_BYTES] {
        let mut subject = [0; 32 + KEY_BLOCK_BYTES];
        subject[..32].copy_from_slice(self.id.as_bytes());
        subject[32..].copy_from_slice(&self.key_block.0);
        subject
    }

    pub(super) fn aad(&self, repository: &ObjectId) -> Aad {
        Aad::new(&Header::new(self.class.object_kind(), self.generation), repository, &self.subject())
    }

    /// Decodes the header of the object `name`.
    pub(super) fn decode(bytes: &[u8], name: &str) -> Result<Self> {
        let header = Header::decode_any(bytes, name)?;
        let class = match header.kind {
            ObjectKind::DataPack => PackClass::Data,
            ObjectKind::StructurePack => PackClass::Structure,
            _ => return Err(RepositoryError::corrupt(name, "the header says it is another kind of object")),
        };
        if header.may_ignore != 0 {
            return Err(RepositoryError::corrupt(name, "the header of a pack has unknown bits"));
        }
        let mut input = Decoder::new(&bytes[HEADER_BYTES..]);
        let id = PackId(input.array().map_err(RepositoryError::decoding(name))?);
        let key_block = KeyBlock(input.array().map_err(RepositoryError::decoding(name))?);
        if class == PackClass::Structure && key_block.0 != [0; KEY_BLOCK_BYTES] {
            return Err(RepositoryError::corrupt(name, "a structure pack has a key block"));
        }
        Ok(PackHeader { class, generation: header.generation, id, key_block })
    }
}

/// The trailer behind a sealed table of `toc_bytes`.
pub(super) fn encode_trailer(toc_bytes: usize) -> [u8; TRAILER_BYTES] {
    let mut trailer = [0; TRAILER_BYTES];
    let length = u32::try_from(toc_bytes).expect("a table is at most TOC_BYTES_MAX long");
    trailer[..4].copy_from_slice(&length.to_le_bytes());
    trailer[8..].copy_from_slice(&TRAILER_MAGIC);
    trailer
}

/// Length of the sealed table.
pub(super) fn decode_trailer(bytes: &[u8], name: &str) -> Result<usize> {
    let corrupt = |reason: &str| RepositoryError::corrupt(name, reason);
    if bytes.len() != TRAILER_BYTES || bytes[8..] != TRAILER_MAGIC || bytes[4..8] != [0; 4] {
        return Err(corrupt("it does not end with the trailer of a pack"));
    }
    let length = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes")) as usize;
    if length > TOC_BYTES_MAX {
        return Err(corrupt("its table of contents is over the limit"));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_name_survives_and_others_are_refused() {
        let name = pack_name(LogNumber(300), &PackId([0xab; 32]));
        assert_eq!(parse_pack_name(&name), Some((LogNumber(300), PackId([0xab; 32]))));
        let id = "ab".repeat(32);
        for other in
            ["packs/1/".to_string() + &id, "packs/zz/x".into(), format!("packs/+00000000000001f/{id}"), "x".into()]
        {
            assert_eq!(parse_pack_name(&other), None, "{other}");
        }
    }
}
