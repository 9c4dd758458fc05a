//! Names of things: text that orders by the time of its making, and unix milliseconds.
//!
//! Ids are ULIDs: 26 characters, 48 bits of time and 80 of chance, so rows made later come later in every index. They
//! are made before the transaction that stores them; a repeated transaction therefore stores the same row.

use std::fmt;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Milliseconds since 1970, UTC.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// This much later.
    pub fn plus(self, duration: std::time::Duration) -> UnixMillis {
        UnixMillis(self.0.saturating_add(millis(duration)))
    }

    /// This much earlier.
    pub fn minus(self, duration: std::time::Duration) -> UnixMillis {
        UnixMillis(self.0.saturating_sub(millis(duration)))
    }

    /// As a point in time of the calendar; what no calendar holds becomes its border.
    pub fn timestamp(self) -> jiff::Timestamp {
        let border = if self.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(border)
    }
}

impl From<jiff::Timestamp> for UnixMillis {
    fn from(time: jiff::Timestamp) -> UnixMillis {
        UnixMillis(time.as_millisecond())
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.timestamp(), f)
    }
}

/// A duration in whole milliseconds.
pub(crate) fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A new ULID, greater than every one that this process made before at the same or a later time.
fn new_ulid(now: UnixMillis) -> String {
    static GENERATOR: Mutex<Option<ulid::Generator>> = Mutex::new(None);
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(u64::try_from(now.0).unwrap_or(0));
    let mut generator = GENERATOR.lock();
    let made = generator.get_or_insert_with(ulid::Generator::new).generate_from_datetime(time);
    // The 80 bits of one millisecond ran over: any number of that time will do.
    made.unwrap_or_else(|_| ulid::Ulid::from_datetime(time)).to_string()
}

/// The ULID of a time and a seed.
fn derived_ulid(now: UnixMillis, seed: &[u8]) -> String {
    let digest = blake3::derive_key("mover control plane 2026 ids of repeated requests", seed);
    let mut chance = [0; 16];
    chance.copy_from_slice(&digest[..16]);
    ulid::Ulid::from_parts(u64::try_from(now.0).unwrap_or(0), u128::from_le_bytes(chance)).to_string()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// A new one, made at `now`.
            pub fn new(now: UnixMillis) -> $name {
                $name(new_ulid(now))
            }

            /// The same for the same `seed` at the same `now`: who repeats a request makes the same thing.
            pub fn derived(now: UnixMillis, seed: &[u8]) -> $name {
                $name(derived_ulid(now, seed))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> $name {
                $name(text)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> $name {
                $name(text.to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

id!(
    /// A job. The recovery point of a backup is created under it.
    JobId
);
id!(
    /// An agent.
    AgentId
);
id!(
    /// A policy.
    PolicyId
);
id!(
    /// A row of the history: event, audit line, message to deliver.
    RecordId
);
