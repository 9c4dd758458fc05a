//! The object `config`: what all clients of a repository must agree on.
//!
//! Written once, last by `init`: its presence makes a place a repository. Sealed under the
//! structure secret. `FORMAT.md` section 2 has the bytes.

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::crypto::{ObjectKind, Secrets, open_object, seal_object};
use crate::error::{RepositoryError, Result};
use crate::ids::{ObjectId, UnixNanos};
use crate::limits::{CHUNK_BYTES_DEFAULT, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN};
use bytes::Bytes;

/// Name of the object.
pub const CONFIG_NAME: &str = "config";

/// How files are cut into chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ChunkerKind {
    /// FastCDC 2020 with a keyed gear table, extents of 64 MiB.
    FastCdc2020 = 1,
}

/// Chunker and its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkerConfig {
    /// Algorithm.
    pub kind: ChunkerKind,
    /// Smallest chunk in bytes, the last of an extent excepted.
    pub bytes_min: u32,
    /// Size in bytes that chunks aim at.
    pub bytes_average: u32,
    /// Largest chunk in bytes.
    pub bytes_max: u32,
}

impl Default for ChunkerConfig {
    fn default() -> Self {
        let (bytes_min, bytes_average, bytes_max) = CHUNK_BYTES_DEFAULT;
        Self { kind: ChunkerKind::FastCdc2020, bytes_min, bytes_average, bytes_max }
    }
}

impl ChunkerConfig {
    /// Checks the sizes against the limits of the format and each other.
    pub(crate) fn check(&self) -> std::result::Result<(), DecodeError> {
        let is_ordered = self.bytes_min < self.bytes_average && self.bytes_average < self.bytes_max;
        if is_ordered && self.bytes_min >= CHUNK_BYTES_MIN && self.bytes_max <= CHUNK_BYTES_MAX {
            return Ok(());
        }
        Err(DecodeError::Invalid { field: "chunk sizes" })
    }
}

/// Bounds of the compression level; backpressure moves it between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressionConfig {
    /// Lowest zstd level, at least 1.
    pub level_min: u8,
    /// Highest zstd level, at most 19.
    pub level_max: u8,
}

impl Default for CompressionConfig {
    fn default() -> Self {
        Self { level_min: 1, level_max: 9 }
    }
}

impl CompressionConfig {
    pub(crate) fn check(&self) -> std::result::Result<(), DecodeError> {
        if 1 <= self.level_min && self.level_min <= self.level_max && self.level_max <= 19 {
            return Ok(());
        }
        Err(DecodeError::Invalid { field: "compression levels" })
    }
}

/// The settings of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name of the repository.
    pub repository: ObjectId,
    /// When `init` made it.
    pub created: UnixNanos,
    /// How files are cut.
    pub chunker: ChunkerConfig,
    /// How frames are compressed.
    pub compression: CompressionConfig,
}

impl Config {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder.raw(self.repository.as_bytes());
        encoder.i128(self.created.0);
        encoder.u8(self.chunker.kind as u8);
        encoder.u32(self.chunker.bytes_min);
        encoder.u32(self.chunker.bytes_average);
        encoder.u32(self.chunker.bytes_max);
        encoder.u8(self.compression.level_min);
        encoder.u8(self.compression.level_max);
        encoder.finish()
    }

    pub(crate) fn decode(body: &[u8]) -> std::result::Result<Self, DecodeError> {
        let mut decoder = Decoder::new(body);
        let repository = ObjectId(decoder.array()?);
        let created = UnixNanos(decoder.i128()?);
        let kind = match decoder.u8()? {
            1 => ChunkerKind::FastCdc2020,
            _ => return Err(DecodeError::Invalid { field: "chunker kind" }),
        };
        let chunker =
            ChunkerConfig { kind, bytes_min: decoder.u32()?, bytes_average: decoder.u32()?, bytes_max: decoder.u32()? };
        chunker.check()?;
        let compression = CompressionConfig { level_min: decoder.u8()?, level_max: decoder.u8()? };
        compression.check()?;
        decoder.finish()?;
        Ok(Self { repository, created, chunker, compression })
    }

    /// The sealed object.
    pub(crate) fn seal(&self, secrets: &Secrets) -> Bytes {
        seal_object(secrets, ObjectKind::Config, CONFIG_NAME, &self.encode())
    }

    /// Opens the object and checks that it belongs to the secrets.
    pub(crate) fn open(secrets: &Secrets, object: &[u8]) -> Result<Self> {
        let body = open_object(secrets, ObjectKind::Config, CONFIG_NAME, object)?;
        let config = Self::decode(&body).map_err(RepositoryError::decoding(CONFIG_NAME))?;
        if config.repository != secrets.repository_id() {
            return Err(RepositoryError::corrupt(CONFIG_NAME, "it belongs to another repository"));
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(repository: ObjectId) -> Config {
        Config {
            repository,
            created: UnixNanos(-5),
            chunker: ChunkerConfig::default(),
            compression: CompressionConfig::default(),
        }
    }

    #[test]
    fn f27_config_survives_and_each_cut_or_flip_is_an_error() {
        let secrets = Secrets::generate(ObjectId([5; 32]));
        let config = config(ObjectId([5; 32]));
        let object = config.seal(&secrets);
        assert_eq!(Config::open(&secrets, &object).unwrap(), config);
        for at in 0..object.len() {
            let mut changed = object.to_vec();
            changed[at] ^= 1;
            assert!(Config::open(&secrets, &changed).is_err(), "byte {at}");
            assert!(Config::open(&secrets, &object[..at]).is_err(), "cut at {at}");
        }
        let body = config.encode();
        for length in 0..body.len() {
            assert!(Config::decode(&body[..length]).is_err());
        }
    }

    #[test]
    fn sizes_out_of_bounds_are_refused() {
        let with = |bytes_min, bytes_average, bytes_max| {
            ChunkerConfig { kind: ChunkerKind::FastCdc2020, bytes_min, bytes_average, bytes_max }.check()
        };
        assert!(with(64 << 10, 256 << 10, 1 << 20).is_ok());
        assert!(with(1, 256 << 10, 1 << 20).is_err());
        assert!(with(64 << 10, 256 << 10, u32::MAX).is_err());
        assert!(with(256 << 10, 64 << 10, 1 << 20).is_err());
    }
}
