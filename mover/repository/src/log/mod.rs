//! The log of a repository: who works on it, and what came of it.
//!
//! ```text
//! log/<n>/open          registration of n, create-if-absent at the next free number
//! log/<n>/alive/<k>     "still working"; advice only
//! log/<n>/sealed/<k>    fileset k of a running job is sealed
//! log/<n>/done          the one outcome of n, create-if-absent
//! ```
//!
//! Commit and fence compete for one name: whoever creates `log/<n>/done` decides. Numbers start
//! at 1 and are dense; a listing is only a hint for where they end. Each outcome carries a digest
//! of the outcomes that its writer saw, so that a hidden or rolled-back record is noticed by
//! whoever saw a newer one; a client that never saw the repository cannot notice.
//!
//! | operation | while writer n runs |
//! | --- | --- |
//! | a second writer | takes the next number; both commit |
//! | a fence of n | whichever of commit and fence creates `done` first wins |
//! | a second run of the same job | fences n; if n had committed, that point is its result |
//! | a reader | takes a number of its own, sees what has an outcome |
//!
//! Limits: a record is at most [`LOG_RECORD_BYTES_MAX`](crate::limits::LOG_RECORD_BYTES_MAX).
//! Never: wall-clock time deciding what may be deleted; a record overwritten.
//! `FORMAT.md` section 3 has the bytes.

mod checkpoint;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod history;
mod memory;
mod outcome;
mod point;
mod read;
mod record;
mod registration;
mod takeover;
mod verification;

pub(crate) use checkpoint::{check_newest, checkpoint_is_due, delete_superseded, write_checkpoint};
pub use history::{History, HurtLocations, LogEntry, Standing};
pub use memory::{ClientMemory, Seen};
pub use outcome::{CondemnedPack, DoneRecord, HurtFrame, Outcome};
pub use point::{Grade, RecoveryPoint, SealedFileset, Totals};
pub use read::read_sealed_filesets;
pub(crate) use read::{find_highest_from, read_rotation, read_sealed_fileset};
#[cfg(test)]
pub(crate) use record::seal_record;
pub use record::{OpenRecord, Role, this_machine};
pub(crate) use registration::register;
pub use registration::{Fencing, Registration, SignOfLife};
pub use takeover::job_identity;
pub use verification::{ProvenSpan, Verification};

use crate::ids::LogNumber;

/// Prefix of all log records.
pub const LOG_PREFIX: &str = "log";
/// The first number.
pub const FIRST: LogNumber = LogNumber(1);

/// `log/<n>/open`
pub fn open_name(number: LogNumber) -> String {
    format!("{LOG_PREFIX}/{number}/open")
}

/// `log/<n>/done`
pub fn done_name(number: LogNumber) -> String {
    format!("{LOG_PREFIX}/{number}/done")
}

/// `log/<n>/alive/<k>`
pub fn alive_name(number: LogNumber, k: u32) -> String {
    format!("{LOG_PREFIX}/{number}/alive/{k:08x}")
}

/// `log/<n>/sealed/<k>`
pub fn sealed_name(number: LogNumber, k: u32) -> String {
    format!("{LOG_PREFIX}/{number}/sealed/{k:08x}")
}

/// `log/<n>/sum/<k>`
pub fn sum_name(number: LogNumber, k: u32) -> String {
    format!("{LOG_PREFIX}/{number}/sum/{k:08x}")
}

/// The number in an object name below `log/`.
fn number_in_name(name: &str) -> Option<LogNumber> {
    number_below(name, LOG_PREFIX)
}

/// The number in a name below `prefix/`.
pub(crate) fn number_below(name: &str, prefix: &str) -> Option<LogNumber> {
    let digits = name.strip_prefix(prefix)?.strip_prefix('/')?.split('/').next()?;
    if digits.len() != 16 || digits.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok().map(LogNumber)
}

#[cfg(test)]
mod tests;
