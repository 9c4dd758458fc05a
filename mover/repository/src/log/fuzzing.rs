//! Fuzz targets of log records and of the client's memory.

use super::checkpoint::Summary;
use super::memory::{ClientMemory, encode_file};
use super::outcome::{CondemnedPack, DoneRecord, HurtFrame, Outcome};
use super::point::{Grade, RecoveryPoint, SealedFileset, Totals};
use super::read::entry;
use super::record::{OpenRecord, Role};
use super::{FIRST, ProvenSpan, Seen, Verification};
use crate::codec::{DecodeError, Decoder, Encoder};
use crate::crypto::VerifyingKey;
use crate::fuzzing::{SECRETS, Target, is_canonical};
use crate::ids::{ChunkId, LogNumber, ObjectId, PackId, UnixNanos};
use crate::manifest::ManifestRoot;

pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target::new("log_open", decode_open, || vec![("open", open_record().encode(&VerifyingKey([1; 32])))]),
        Target::new("log_done", decode_done, outcomes),
        Target::new("log_sealed", decode_sealed, || vec![("fileset", encode(|out| fileset().encode(out)))]),
        Target::new("recovery_point", decode_point, || vec![("point", encode(|out| point().encode(out)))]),
        // Encoding it again, to compare, copies every outcome.
        Target::new("log_checkpoint", decode_checkpoint, || vec![("one-point", checkpoint().encode())])
            .within(48, 16 << 10),
        Target::new("client_memory", decode_memory, || {
            let file = encode_file(&seen());
            vec![("seen", file[..file.len() - 32].to_vec())]
        }),
    ]
}

fn encode(put: impl FnOnce(&mut Encoder)) -> Vec<u8> {
    let mut encoder = Encoder::new();
    put(&mut encoder);
    encoder.finish()
}

/// Decodes a part of a record as if it were a record of its own.
fn whole<T>(bytes: &[u8], take: impl FnOnce(&mut Decoder<'_>) -> Result<T, DecodeError>) -> Result<T, DecodeError> {
    let mut decoder = Decoder::new(bytes);
    let value = take(&mut decoder)?;
    decoder.finish()?;
    Ok(value)
}

fn decode_open(bytes: &[u8]) -> bool {
    is_canonical(bytes, OpenRecord::decode(bytes), |(signer, record)| record.encode(signer))
}

fn decode_done(bytes: &[u8]) -> bool {
    is_canonical(bytes, DoneRecord::decode(bytes), DoneRecord::encode)
}

fn decode_sealed(bytes: &[u8]) -> bool {
    is_canonical(bytes, whole(bytes, SealedFileset::decode), |fileset| encode(|out| fileset.encode(out)))
}

fn decode_point(bytes: &[u8]) -> bool {
    is_canonical(bytes, whole(bytes, RecoveryPoint::decode), |point| encode(|out| point.encode(out)))
}

/// The outcome that names a checkpoint says again below which number it sums up.
fn decode_checkpoint(bytes: &[u8]) -> bool {
    let Some((below, _)) = bytes.split_first_chunk() else { return false };
    let decoded = Summary::decode(&SECRETS, LogNumber(u64::from_le_bytes(*below)), bytes);
    is_canonical(bytes, decoded, Summary::encode)
}

/// Puts the checksum behind `bytes`, past which no mutation would come.
fn decode_memory(bytes: &[u8]) -> bool {
    assert!(ClientMemory::decode(bytes).is_none_or(|seen| encode_file(&seen) == bytes));
    let file = [bytes, blake3::hash(bytes).as_bytes()].concat();
    let Some(seen) = ClientMemory::decode(&file) else { return false };
    assert!(encode_file(&seen) == file, "another encoding of the same memory was accepted");
    true
}

fn open_record() -> OpenRecord {
    OpenRecord {
        role: Role::Writer,
        host: "host".into(),
        process_id: 7,
        machine: ObjectId([2; 32]),
        set: "set".into(),
        job: ObjectId([3; 32]),
        adopts: Some(FIRST),
        depends_on: Some(ObjectId([4; 32])),
        started: UnixNanos(-1),
    }
}

fn seen() -> Seen {
    Seen { below: LogNumber(9), without: vec![LogNumber(2), LogNumber(5)], digest: [2; 32] }
}

/// A fileset of a record that nobody restores from.
pub(crate) fn fileset() -> SealedFileset {
    SealedFileset {
        root_path: b"/data/\xff".to_vec(),
        root: ManifestRoot { structure: ChunkId([7; 32]), levels: 2, entries: 3, files: 2, bytes: 1 << 40 },
        scan_started: UnixNanos(5),
        scan_finished: UnixNanos(6),
        totals: Totals { files: 2, bytes: 1 << 40, ..Totals::default() },
    }
}

fn point() -> RecoveryPoint {
    RecoveryPoint {
        id: ObjectId([5; 32]),
        set: "set".into(),
        host: "host".into(),
        paths: vec![b"/data/\xff".to_vec(), b"/other".to_vec()],
        tags: vec!["tag".into()],
        started: UnixNanos(1),
        finished: UnixNanos(2),
        parent: Some(ObjectId([3; 32])),
        depends_on: None,
        filesets: vec![fileset(), fileset()],
        totals: Totals::default(),
        grade: Grade::Stable,
        errors: 4,
    }
}

fn done(outcome: Outcome) -> DoneRecord {
    DoneRecord { signer: VerifyingKey([1; 32]), seen: seen(), outcome }
}

fn checkpoint() -> Summary {
    let outcome = done(Outcome::RecoveryPoint(point()));
    let point = entry(&SECRETS, LogNumber(2), Some(open_record()), VerifyingKey([1; 32]), Some(outcome));
    Summary { below: LogNumber(3), hashes: vec![[1; 32], [2; 32]], entries: vec![point] }
}

fn verification() -> Verification {
    let span =
        ProvenSpan { from: PackId([1; 32]), until: PackId([2; 32]), first_writer: FIRST, last_writer: LogNumber(4) };
    Verification { began: UnixNanos(5), next: PackId([3; 32]), proven: vec![span; 2], hurt: vec![PackId([4; 32])] }
}

fn outcomes() -> Vec<(&'static str, Vec<u8>)> {
    let reason = || "because".to_owned();
    let condemned = CondemnedPack { pack: PackId([4; 32]), writer: LogNumber(3), bytes: 5, bytes_live: 0 };
    let hurt = |frame| HurtFrame { pack: PackId([1; 32]), frame };
    let (slot, pack) = (ObjectId([6; 32]), PackId([1; 32]));
    let outcomes = [
        ("point", Outcome::RecoveryPoint(point())),
        ("fence", Outcome::Fence { by: LogNumber(3), reason: reason() }),
        ("forget", Outcome::Forget { points: vec![ObjectId([1; 32])], reason: reason() }),
        ("condemned", Outcome::Condemned { packs: vec![condemned], reason: reason() }),
        ("swept", Outcome::Swept { deleted: vec![pack], rescued: vec![PackId([2; 32])] }),
        ("damage", Outcome::Damage { frames: vec![hurt(Some(3)), hurt(None)] }),
        ("checkpoint", Outcome::Checkpoint { below: LogNumber(7), parts: vec![[8; 32], [9; 32]] }),
        ("ended", Outcome::Ended { reason: reason() }),
        ("key-added", Outcome::KeyAdded { slot, is_put_only: true, label: "laptop".into() }),
        ("key-removed", Outcome::KeyRemoved { slot }),
        ("verified", Outcome::Verified(verification())),
        ("keys-rotated", Outcome::KeysRotated { generation: 2, rotation: ObjectId([7; 32]) }),
    ];
    outcomes.into_iter().map(|(name, outcome)| (name, done(outcome).encode())).collect()
}
