//! What a recovery point keeps of a fileset's manifest: the root page and its totals. Any thread.

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::ids::ChunkId;
use crate::limits::PAGE_LEVELS_MAX;

/// Root of a manifest's page tree, with the totals of everything below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestRoot {
    /// The root page, of class Structure.
    pub structure: ChunkId,
    /// Level of the root page, at least 1; pages of level 1 name leaves.
    pub levels: u8,
    /// Entries in the fileset.
    pub entries: u64,
    /// Regular files among them, further hard links not counted.
    pub files: u64,
    /// Sum of the sizes of those files, in bytes.
    pub bytes: u64,
}

impl ManifestRoot {
    /// Appends the 57 bytes of this record.
    pub fn encode(&self, out: &mut Encoder) {
        out.raw(self.structure.as_bytes());
        out.u8(self.levels);
        out.u64(self.entries);
        out.u64(self.files);
        out.u64(self.bytes);
    }

    /// Takes what [`ManifestRoot::encode`] wrote; refuses a level that no builder makes.
    pub fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let root = ManifestRoot {
            structure: ChunkId(input.array()?),
            levels: input.u8()?,
            entries: input.u64()?,
            files: input.u64()?,
            bytes: input.u64()?,
        };
        if root.levels == 0 || root.levels > PAGE_LEVELS_MAX {
            return Err(DecodeError::Invalid { field: "manifest levels" });
        }
        Ok(root)
    }
}
