//! Names of things in a repository: newtypes, so that no bare integer or byte string crosses a
//! module border.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

macro_rules! id32 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The raw 256 bits.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse_hex32(text).map($name).ok_or(InvalidId)
            }
        }
    };
}

id32! {
    /// Name of a chunk: BLAKE3 of its plain bytes, keyed by the repository's id secret.
    ChunkId
}
id32! {
    /// Name of a pack: 32 random bytes, drawn before the first frame is sealed.
    PackId
}
id32! {
    /// Name of an index segment, a key slot or a repository: 32 random bytes.
    ObjectId
}

/// Text that is not 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id of 64 hexadecimal digits")]
pub struct InvalidId;

fn parse_hex32(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0u8; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
    }
    Some(bytes)
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// A number in `log/`. Dense: every number below a known one exists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LogNumber(pub u64);

impl fmt::Display for LogNumber {
    /// 16 hexadecimal digits, so that names sort as numbers do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A point in time: nanoseconds since 1970-01-01 UTC, negative before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct UnixNanos(pub i128);

impl UnixNanos {
    /// The time by the clock of this machine.
    pub fn now() -> UnixNanos {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => UnixNanos(since.as_nanos() as i128),
            Err(before) => UnixNanos(-(before.duration().as_nanos() as i128)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_print_and_parse() {
        let id = ChunkId(std::array::from_fn(|i| i as u8 * 7));
        assert_eq!(id.to_string().parse::<ChunkId>(), Ok(id));
        assert_eq!("AB".repeat(32).parse::<ChunkId>(), Err(InvalidId));
        assert_eq!("ab".repeat(31).parse::<ChunkId>(), Err(InvalidId));
    }
}
