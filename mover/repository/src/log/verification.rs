//! What a verification of data leaves in the log: which packs it proved, and which it found hurt.
//!
//! Of bounded size whatever the repository's: spans of pack ids and of writers, not lists of packs. It counts only
//! when an admin key signed it, or a stolen client could keep damage from being looked for.

use super::outcome::list;
use crate::codec::{DecodeError, Decoder, Encoder};
use crate::error::{RepositoryError, Result};
use crate::ids::{LogNumber, PackId, UnixNanos};
use crate::limits::{VERIFIED_HURT_MAX, VERIFIED_SPANS_MAX};

/// Every pack that was listed, whose id lies in the one range and whose writer in the other, was read whole and found
/// as it was written.
///
/// Packs of writers that had no outcome when the verification registered are not meant: they may have grown since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProvenSpan {
    /// The first id.
    pub from: PackId,
    /// The last id. One below `from` is reached over the end of all ids, from their beginning again.
    pub until: PackId,
    /// The first writer.
    pub first_writer: LogNumber,
    /// The last writer.
    pub last_writer: LogNumber,
}

impl ProvenSpan {
    /// True if the span is about that pack.
    pub fn contains(&self, pack: &PackId, writer: LogNumber) -> bool {
        let is_behind = self.from <= *pack;
        let is_before = *pack <= self.until;
        let is_inside = if self.from <= self.until { is_behind && is_before } else { is_behind || is_before };
        is_inside && (self.first_writer..=self.last_writer).contains(&writer)
    }
}

/// The outcome of a verification that read data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// When it began, by the clock of its machine: no pack was read earlier.
    pub began: UnixNanos,
    /// Where the next one begins to read.
    pub next: PackId,
    /// What it proved.
    pub proven: Vec<ProvenSpan>,
    /// Packs that it found hurt: they are due until a verification that has seen this one proves them.
    pub hurt: Vec<PackId>,
}

impl Verification {
    /// Refuses what a reader would refuse.
    pub(super) fn check(&self) -> Result<()> {
        if self.proven.len() <= VERIFIED_SPANS_MAX && self.hurt.len() <= VERIFIED_HURT_MAX {
            return Ok(());
        }
        let (spans, hurt) = (self.proven.len(), self.hurt.len());
        Err(RepositoryError::LimitExceeded {
            what: format!(
                "a verification of {spans} spans and {hurt} hurt packs; {VERIFIED_SPANS_MAX} and {VERIFIED_HURT_MAX} are allowed"
            ),
        })
    }

    pub(super) fn encode(&self, encoder: &mut Encoder) {
        encoder.i128(self.began.0);
        encoder.raw(self.next.as_bytes());
        encoder.count(self.proven.len());
        for span in &self.proven {
            encoder.raw(span.from.as_bytes());
            encoder.raw(span.until.as_bytes());
            encoder.u64(span.first_writer.0);
            encoder.u64(span.last_writer.0);
        }
        encoder.count(self.hurt.len());
        self.hurt.iter().for_each(|pack| encoder.raw(pack.as_bytes()));
    }

    pub(super) fn decode(decoder: &mut Decoder<'_>) -> std::result::Result<Self, DecodeError> {
        let verification = Self {
            began: UnixNanos(decoder.i128()?),
            next: PackId(decoder.array()?),
            proven: list(decoder, 80, "proven spans", |d| {
                Ok(ProvenSpan {
                    from: PackId(d.array()?),
                    until: PackId(d.array()?),
                    first_writer: LogNumber(d.u64()?),
                    last_writer: LogNumber(d.u64()?),
                })
            })?,
            hurt: list(decoder, 32, "hurt packs", |d| d.array().map(PackId))?,
        };
        match verification.check() {
            Ok(()) => Ok(verification),
            Err(_) => Err(DecodeError::Invalid { field: "length of a verification" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_may_reach_over_the_end_of_all_ids() {
        let id = |byte| PackId([byte; 32]);
        let span = |from, until| ProvenSpan {
            from: id(from),
            until: id(until),
            first_writer: LogNumber(2),
            last_writer: LogNumber(4),
        };
        for (byte, plain, around) in
            [(1, false, true), (3, true, true), (4, true, false), (7, true, true), (9, false, true)]
        {
            assert_eq!(span(3, 7).contains(&id(byte), LogNumber(2)), plain, "{byte}");
            assert_eq!(span(7, 3).contains(&id(byte), LogNumber(4)), around, "{byte}");
        }
        assert!(span(5, 5).contains(&id(5), LogNumber(3)) && !span(5, 5).contains(&id(6), LogNumber(3)));
        assert!(!span(3, 7).contains(&id(5), LogNumber(1)) && !span(3, 7).contains(&id(5), LogNumber(5)));
    }
}
