//! Outcomes: the one thing that came of a registration, in `log/<n>/done`.

use super::memory::Seen;
use super::point::RecoveryPoint;
use super::record::{check_length, text, text_field};
use super::verification::Verification;
use crate::codec::{DecodeError, Decoder, Encoder};
use crate::crypto::VerifyingKey;
use crate::error::Result;
use crate::ids::{LogNumber, ObjectId, PackId};
use crate::limits::{CHECKPOINT_PARTS_MAX, HOST_BYTES_MAX, REASON_BYTES_MAX, SET_BYTES_MAX, TAG_BYTES_MAX};

/// A pack that a pruner wants gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CondemnedPack {
    /// The pack.
    pub pack: PackId,
    /// The registration that wrote it.
    pub writer: LogNumber,
    /// Its size in bytes, as evidence.
    pub bytes: u64,
    /// Plain bytes in it that live points still need, as evidence.
    pub bytes_live: u64,
}

/// A frame, or a whole pack, that does not open any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HurtFrame {
    /// The pack.
    pub pack: PackId,
    /// The frame; `None`: all of the pack.
    pub frame: Option<u32>,
}

/// What came of a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "few are alive at a time, and most are recovery points")]
pub enum Outcome {
    /// A backup finished: its recovery point exists from now on.
    RecoveryPoint(RecoveryPoint),
    /// Somebody ended this registration from outside: it can never commit.
    Fence {
        /// Registration of who fenced.
        by: LogNumber,
        /// Why.
        reason: String,
    },
    /// Recovery points that count no more.
    Forget {
        /// The points.
        points: Vec<ObjectId>,
        /// Why: the rule that applied.
        reason: String,
    },
    /// Packs to be treated as absent and deleted later.
    Condemned {
        /// The packs with evidence.
        packs: Vec<CondemnedPack>,
        /// Why.
        reason: String,
    },
    /// Condemned packs were looked at again: what was not needed is gone, what was needed counts again.
    Swept {
        /// Packs that were deleted. Index segments may name them still, so they stay condemned.
        deleted: Vec<PackId>,
        /// Packs that a recovery point needs after all.
        rescued: Vec<PackId>,
    },
    /// Frames found damaged: chunks in them are stored anew when seen again.
    Damage {
        /// Where.
        frames: Vec<HurtFrame>,
    },
    /// All numbers below have outcomes, and `log/<n>/sum/<k>` hold what still matters of them.
    Checkpoint {
        /// Numbers below this one are summed up.
        below: LogNumber,
        /// BLAKE3 of each part, as it is stored.
        parts: Vec<[u8; 32]>,
    },
    /// A key slot was added: what it may do, and what its owner calls it.
    KeyAdded {
        /// The slot.
        slot: ObjectId,
        /// It may only add to the repository.
        is_put_only: bool,
        /// Free text.
        label: String,
    },
    /// A key slot is to go: its object is deleted after this.
    KeyRemoved {
        /// The slot.
        slot: ObjectId,
    },
    /// A new generation of keys is in force: what is written from now on is sealed under it.
    KeysRotated {
        /// Its number.
        generation: u32,
        /// The object that gives it to the key slots.
        rotation: ObjectId,
    },
    /// The registration ended without an effect.
    Ended {
        /// Why, in one sentence.
        reason: String,
    },
    /// Data was verified: what was proven, and what is hurt.
    Verified(Verification),
}

impl Outcome {
    /// True if it counts only when an admin key signed it: it takes something away, were it only the reason to look
    /// for damage. A fence of one's own registration is the exception that the reader of the history knows.
    pub fn is_destructive(&self) -> bool {
        !matches!(self, Self::RecoveryPoint(_) | Self::Damage { .. } | Self::Ended { .. })
    }

    /// Refuses what a reader would refuse.
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Self::RecoveryPoint(point) => {
                check_length("set name", point.set.len(), SET_BYTES_MAX)?;
                check_length("host name", point.host.len(), HOST_BYTES_MAX)?;
                point.tags.iter().try_for_each(|tag| check_length("tag", tag.len(), TAG_BYTES_MAX))
            }
            Self::Fence { reason, .. }
            | Self::Forget { reason, .. }
            | Self::Condemned { reason, .. }
            | Self::Ended { reason } => check_length("reason", reason.len(), REASON_BYTES_MAX),
            Self::KeyAdded { label, .. } => check_length("label", label.len(), HOST_BYTES_MAX),
            Self::Verified(verification) => verification.check(),
            Self::KeyRemoved { .. }
            | Self::KeysRotated { .. }
            | Self::Swept { .. }
            | Self::Damage { .. }
            | Self::Checkpoint { .. } => Ok(()),
        }
    }

    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::RecoveryPoint(point) => {
                encoder.u8(1);
                point.encode(encoder);
            }
            Self::Fence { by, reason } => {
                encoder.u8(2);
                encoder.u64(by.0);
                text(encoder, reason);
            }
            Self::Forget { points, reason } => {
                encoder.u8(3);
                encoder.count(points.len());
                points.iter().for_each(|point| encoder.raw(point.as_bytes()));
                text(encoder, reason);
            }
            Self::Condemned { packs, reason } => {
                encoder.u8(4);
                encoder.count(packs.len());
                for condemned in packs {
                    encoder.raw(condemned.pack.as_bytes());
                    encoder.u64(condemned.writer.0);
                    encoder.u64(condemned.bytes);
                    encoder.u64(condemned.bytes_live);
                }
                text(encoder, reason);
            }
            Self::Swept { deleted, rescued } => {
                encoder.u8(5);
                for packs in [deleted, rescued] {
                    encoder.count(packs.len());
                    packs.iter().for_each(|pack| encoder.raw(pack.as_bytes()));
                }
            }
            Self::Damage { frames } => {
                encoder.u8(6);
                encoder.count(frames.len());
                for hurt in frames {
                    encoder.raw(hurt.pack.as_bytes());
                    encoder.u32(hurt.frame.unwrap_or(u32::MAX));
                }
            }
            Self::Checkpoint { below, parts } => {
                encoder.u8(7);
                encoder.u64(below.0);
                encoder.count(parts.len());
                parts.iter().for_each(|part| encoder.raw(part));
            }
            Self::Ended { reason } => {
                encoder.u8(8);
                text(encoder, reason);
            }
            Self::KeyAdded { slot, is_put_only, label } => {
                encoder.u8(9);
                encoder.raw(slot.as_bytes());
                encoder.u8(u8::from(*is_put_only));
                text(encoder, label);
            }
            Self::KeyRemoved { slot } => {
                encoder.u8(10);
                encoder.raw(slot.as_bytes());
            }
            Self::Verified(verification) => {
                encoder.u8(11);
                verification.encode(encoder);
            }
            Self::KeysRotated { generation, rotation } => {
                encoder.u8(12);
                encoder.u32(*generation);
                encoder.raw(rotation.as_bytes());
            }
        }
    }

    fn decode(decoder: &mut Decoder<'_>) -> std::result::Result<Self, DecodeError> {
        let reason = |decoder: &mut Decoder<'_>| text_field(decoder, REASON_BYTES_MAX, "reason");
        Ok(match decoder.u8()? {
            1 => Self::RecoveryPoint(RecoveryPoint::decode(decoder)?),
            2 => Self::Fence { by: LogNumber(decoder.u64()?), reason: reason(decoder)? },
            3 => Self::Forget {
                points: list(decoder, 32, "points", |d| d.array().map(ObjectId))?,
                reason: reason(decoder)?,
            },
            4 => Self::Condemned {
                packs: list(decoder, 56, "packs", |d| {
                    Ok(CondemnedPack {
                        pack: PackId(d.array()?),
                        writer: LogNumber(d.u64()?),
                        bytes: d.u64()?,
                        bytes_live: d.u64()?,
                    })
                })?,
                reason: reason(decoder)?,
            },
            5 => Self::Swept {
                deleted: list(decoder, 32, "packs", |d| d.array().map(PackId))?,
                rescued: list(decoder, 32, "packs", |d| d.array().map(PackId))?,
            },
            6 => Self::Damage {
                frames: list(decoder, 36, "frames", |d| {
                    let (pack, frame) = (PackId(d.array()?), d.u32()?);
                    Ok(HurtFrame { pack, frame: Some(frame).filter(|frame| *frame != u32::MAX) })
                })?,
            },
            7 => Self::Checkpoint {
                below: LogNumber(decoder.u64()?),
                parts: match list(decoder, 32, "parts", |d| d.array())? {
                    parts if parts.len() <= CHECKPOINT_PARTS_MAX => parts,
                    _ => return Err(DecodeError::Invalid { field: "parts of a checkpoint" }),
                },
            },
            8 => Self::Ended { reason: reason(decoder)? },
            9 => Self::KeyAdded {
                slot: ObjectId(decoder.array()?),
                is_put_only: match decoder.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(DecodeError::Invalid { field: "rights of a key" }),
                },
                label: text_field(decoder, HOST_BYTES_MAX, "label")?,
            },
            10 => Self::KeyRemoved { slot: ObjectId(decoder.array()?) },
            11 => Self::Verified(Verification::decode(decoder)?),
            12 => Self::KeysRotated { generation: decoder.u32()?, rotation: ObjectId(decoder.array()?) },
            _ => return Err(DecodeError::Invalid { field: "kind of outcome" }),
        })
    }
}

pub(super) fn list<T>(
    decoder: &mut Decoder<'_>,
    item_bytes: usize,
    field: &'static str,
    mut item: impl FnMut(&mut Decoder<'_>) -> std::result::Result<T, DecodeError>,
) -> std::result::Result<Vec<T>, DecodeError> {
    let items = decoder.count(item_bytes, field)?;
    let mut list = Vec::with_capacity(items);
    for _ in 0..items {
        list.push(item(decoder)?);
    }
    Ok(list)
}

/// The content of `log/<n>/done`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoneRecord {
    /// Who decided.
    pub signer: VerifyingKey,
    /// What the signer had seen.
    pub seen: Seen,
    /// What came of it.
    pub outcome: Outcome,
}

impl DoneRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder.raw(&self.signer.0);
        self.seen.encode(&mut encoder);
        self.outcome.encode(&mut encoder);
        encoder.finish()
    }

    pub(crate) fn decode(body: &[u8]) -> std::result::Result<Self, DecodeError> {
        let mut decoder = Decoder::new(body);
        let record = Self {
            signer: VerifyingKey(decoder.array()?),
            seen: Seen::decode(&mut decoder)?,
            outcome: Outcome::decode(&mut decoder)?,
        };
        decoder.finish()?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::open_record;
    use super::super::{OpenRecord, ProvenSpan, Role};
    use super::*;
    use crate::ids::UnixNanos;
    use crate::testing::point;

    #[test]
    fn f27_each_cut_of_each_record_body_is_an_error() {
        let done = |outcome| DoneRecord {
            signer: VerifyingKey([1; 32]),
            seen: Seen { below: LogNumber(9), without: vec![LogNumber(2), LogNumber(5)], digest: [2; 32] },
            outcome,
        };
        let condemned = CondemnedPack { pack: PackId([4; 32]), writer: LogNumber(3), bytes: 5, bytes_live: 0 };
        let reason = "because".to_owned();
        let outcomes = [
            Outcome::RecoveryPoint(point("set")),
            Outcome::Fence { by: LogNumber(3), reason: reason.clone() },
            Outcome::Forget { points: vec![ObjectId([1; 32])], reason: reason.clone() },
            Outcome::Condemned { packs: vec![condemned], reason: reason.clone() },
            Outcome::Swept { deleted: vec![PackId([1; 32])], rescued: vec![PackId([2; 32])] },
            Outcome::Damage {
                frames: vec![
                    HurtFrame { pack: PackId([1; 32]), frame: Some(3) },
                    HurtFrame { pack: PackId([2; 32]), frame: None },
                ],
            },
            Outcome::Checkpoint { below: LogNumber(7), parts: vec![[1; 32], [2; 32]] },
            Outcome::Ended { reason },
            Outcome::KeyAdded { slot: ObjectId([6; 32]), is_put_only: true, label: "laptop".into() },
            Outcome::KeyRemoved { slot: ObjectId([6; 32]) },
            Outcome::KeysRotated { generation: 2, rotation: ObjectId([7; 32]) },
            Outcome::Verified(Verification {
                began: UnixNanos(-5),
                next: PackId([7; 32]),
                proven: vec![ProvenSpan {
                    from: PackId([8; 32]),
                    until: PackId([7; 32]),
                    first_writer: LogNumber(1),
                    last_writer: LogNumber(u64::MAX),
                }],
                hurt: vec![PackId([9; 32])],
            }),
        ];
        for record in outcomes.map(done) {
            let body = record.encode();
            assert_eq!(DoneRecord::decode(&body).unwrap(), record);
            for length in 0..body.len() {
                assert!(DoneRecord::decode(&body[..length]).is_err(), "{record:?} cut at {length}");
            }
            assert!(DoneRecord::decode(&[&body[..], b"x"].concat()).is_err());
        }
        let signer = VerifyingKey([1; 32]);
        let body = open_record(Role::Reader).encode(&signer);
        assert_eq!(OpenRecord::decode(&body).unwrap(), (signer, open_record(Role::Reader)));
        for length in 0..body.len() {
            assert!(OpenRecord::decode(&body[..length]).is_err());
        }
    }
}
