//! The one way in which records become bytes: fixed-width little-endian integers and byte
//! strings with an explicit length. No self-description, no padding.
//!
//! A [`Decoder`] never allocates more than the input it was given and returns [`DecodeError`]
//! for whatever a disk or an attacker can do to the bytes. It must never panic.

use thiserror::Error;

/// Why bytes are not the record they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The record ends before the field does.
    #[error("truncated at byte {at}")]
    Truncated {
        /// Offset of the field.
        at: usize,
    },
    /// Bytes follow the last field.
    #[error("{bytes} bytes follow the end of the record")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A value that the format does not allow.
    #[error("{field} is out of bounds")]
    Invalid {
        /// Which field.
        field: &'static str,
    },
}

/// Appends fields to a growing buffer.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
}

macro_rules! integer {
    ($put:ident, $take:ident, $type:ty) => {
        impl Encoder {
            #[doc = concat!("Appends a `", stringify!($type), "`, little-endian.")]
            #[inline]
            pub fn $put(&mut self, value: $type) {
                self.bytes.extend_from_slice(&value.to_le_bytes());
            }
        }
        impl<'a> Decoder<'a> {
            #[doc = concat!("Takes a `", stringify!($type), "`, little-endian.")]
            #[inline]
            pub fn $take(&mut self) -> Result<$type, DecodeError> {
                self.array().map(<$type>::from_le_bytes)
            }
        }
    };
}
integer!(u8, u8, u8);
integer!(u16, u16, u16);
integer!(u32, u32, u32);
integer!(u64, u64, u64);
integer!(i64, i64, i64);
integer!(i128, i128, i128);

impl Encoder {
    /// An empty record.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty record that does not move in memory while it stays under `bytes`: for secrets.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes) }
    }

    /// Appends bytes whose length the format fixes.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends a byte string: its length as `u32`, then its bytes.
    pub fn string(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).expect("a field is shorter than 4 GiB"));
        self.raw(bytes);
    }

    /// Appends the length of a list as `u32`; its items follow.
    pub fn count(&mut self, items: usize) {
        self.u32(u32::try_from(items).expect("a list is shorter than 2^32"));
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True before the first field.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The finished record.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Takes fields from the front of a record.
#[derive(Debug, Clone)]
pub struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Takes exactly `length` bytes.
    #[inline]
    pub fn raw(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let rest = &self.bytes[self.at..];
        if length > rest.len() {
            return Err(DecodeError::Truncated { at: self.at });
        }
        self.at += length;
        Ok(&rest[..length])
    }

    /// Takes an array of fixed length.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.raw(N).map(|slice| slice.try_into().expect("raw returned N bytes"))
    }

    /// Takes a byte string of at most `limit` bytes.
    pub fn string(&mut self, limit: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = self.u32()? as usize;
        if length > limit {
            return Err(DecodeError::Invalid { field });
        }
        self.raw(length)
    }

    /// Takes the length of a list whose items take at least `item_bytes_min` bytes each, so that
    /// a forged count cannot make the reader allocate more than the record could hold.
    pub fn count(&mut self, item_bytes_min: usize, field: &'static str) -> Result<usize, DecodeError> {
        let items = self.u32()? as usize;
        if items.saturating_mul(item_bytes_min.max(1)) > self.bytes.len() - self.at {
            return Err(DecodeError::Invalid { field });
        }
        Ok(items)
    }

    /// Bytes not yet taken.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Ends the record: nothing may follow.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { bytes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_at_every_byte_is_an_error() {
        let mut encoder = Encoder::new();
        encoder.u8(1);
        encoder.u64(u64::MAX);
        encoder.string(b"path");
        encoder.i128(-1);
        let record = encoder.finish();
        let decode = |bytes: &[u8]| -> Result<(), DecodeError> {
            let mut decoder = Decoder::new(bytes);
            decoder.u8()?;
            decoder.u64()?;
            decoder.string(4, "path")?;
            decoder.i128()?;
            decoder.finish()
        };
        assert_eq!(decode(&record), Ok(()));
        for length in 0..record.len() {
            assert!(matches!(decode(&record[..length]), Err(DecodeError::Truncated { .. })), "cut at {length}");
        }
        let mut longer = record.clone();
        longer.push(0);
        assert_eq!(decode(&longer), Err(DecodeError::Trailing { bytes: 1 }));
    }

    #[test]
    fn a_forged_count_allocates_nothing() {
        let bytes = u32::MAX.to_le_bytes();
        assert_eq!(Decoder::new(&bytes).count(8, "items"), Err(DecodeError::Invalid { field: "items" }));
    }
}
