//! Packs as written and read: round trip, damage at each byte, limits.

use bytes::Bytes;

use crate::error::RepositoryError;
use crate::ids::LogNumber;
use crate::limits::{FRAME_BYTES_MAX, PACK_BYTES_MAX, PACK_FRAMES_MAX};
use crate::pack::contents::{decode_contents, encode_contents};
use crate::pack::{FrameInfo, PACK_HEADER_BYTES, PackClass, PackContents, PackOpener, PackSealer, read_contents};
use crate::testing::{Bench, block_on, chunk_id, noise};

fn open_all(bench: &Bench, contents: &PackContents) -> Result<Vec<Vec<u8>>, RepositoryError> {
    let opener = PackOpener::new(bench.repository.secrets(), &contents.info())?;
    let object = bench.bytes(&contents.info().object_name());
    let frames = contents.frames.iter().map(|frame| {
        let from = frame.offset as usize;
        let Some(sealed) = object.get(from..from + frame.sealed_bytes as usize) else {
            return Err(RepositoryError::corrupt("pack", "short"));
        };
        opener.open_frame(frame.number, sealed.to_vec())
    });
    frames.collect()
}

#[test]
fn a_pack_of_either_class_is_read_as_written() {
    let bench = Bench::new();
    for class in [PackClass::Data, PackClass::Structure] {
        let frames = vec![vec![b"one".to_vec(), b"two".to_vec()], vec![noise(1, 100_000)], vec![]];
        let contents = bench.pack(5, class, &frames);
        let name = contents.info().object_name();
        assert_eq!(block_on(read_contents(&bench.repository, &name)).unwrap(), contents);
        assert_eq!(open_all(&bench, &contents).unwrap(), [b"onetwo".to_vec(), noise(1, 100_000), vec![]]);
        let object = bench.bytes(&name);
        for frame in &contents.frames {
            let from = frame.offset as usize;
            let sealed = &object[from..from + frame.sealed_bytes as usize];
            assert_eq!(*blake3::hash(sealed).as_bytes(), frame.blake3);
            assert_eq!(
                PackOpener::new(bench.repository.secrets(), &contents.info())
                    .unwrap()
                    .open_frame_bytes(frame.number, Bytes::copy_from_slice(sealed))
                    .unwrap(),
                frames[frame.number as usize].concat()
            );
        }
    }
}

#[test]
fn f27_every_flip_cut_and_growth_of_a_pack_is_an_error() {
    let bench = Bench::new();
    for class in [PackClass::Data, PackClass::Structure] {
        let contents = bench.pack(5, class, &[vec![b"plain".to_vec()], vec![b"text".to_vec()]]);
        let name = contents.info().object_name();
        let good = bench.bytes(&name);
        let read = || block_on(read_contents(&bench.repository, &name)).and_then(|found| open_all(&bench, &found));
        assert!(read().is_ok());
        for at in 0..good.len() {
            let mut flipped = good.to_vec();
            flipped[at] ^= 1 << (at % 8);
            bench.store.overwrite(&name, flipped);
            assert!(read().is_err(), "{class:?}: flip at {at}");
            bench.store.overwrite(&name, good.slice(..at));
            assert!(read().is_err(), "{class:?}: cut at {at}");
        }
        for extra in [1, 16, 4096] {
            let mut grown = good.to_vec();
            grown.resize(good.len() + extra, 0);
            bench.store.overwrite(&name, grown);
            assert!(read().is_err(), "{class:?}: grown by {extra}");
        }
        bench.store.remove(&name);
        assert!(matches!(read(), Err(RepositoryError::MissingObject { .. })));
    }
}

#[test]
fn f14_a_pack_under_another_name_is_refused() {
    let bench = Bench::new();
    let first = bench.pack(5, PackClass::Structure, &[vec![b"a".to_vec()]]);
    let second = bench.pack(5, PackClass::Structure, &[vec![b"b".to_vec()]]);
    bench.store.overwrite(&second.info().object_name(), bench.bytes(&first.info().object_name()));
    assert!(block_on(read_contents(&bench.repository, &second.info().object_name())).is_err());
    let elsewhere = crate::pack::pack_name(LogNumber(6), &first.id);
    bench.store.overwrite(&elsewhere, bench.bytes(&first.info().object_name()));
    assert!(block_on(read_contents(&bench.repository, &elsewhere)).is_err());
}

#[test]
fn f16_no_two_frames_share_key_and_nonce() {
    // The ledger inside FrameSealer panics if any pair repeats; equal frames must differ when sealed.
    let bench = Bench::new();
    let frames = vec![vec![b"same".to_vec()]; 20];
    for class in [PackClass::Data, PackClass::Structure] {
        let mut sealed = std::collections::HashSet::new();
        for _ in 0..3 {
            let contents = bench.pack(5, class, &frames);
            assert!(contents.frames.iter().all(|frame| sealed.insert(frame.blake3)));
        }
    }
}

#[test]
fn a_put_only_client_writes_data_it_cannot_read_and_structure_it_can() {
    let bench = Bench::new();
    let data = bench.pack(5, PackClass::Data, &[vec![b"secret".to_vec()]]);
    let structure = bench.pack(5, PackClass::Structure, &[vec![b"list".to_vec()]]);
    let client = bench.repository.secrets().put_only();
    assert!(matches!(PackOpener::new(&client, &data.info()), Err(RepositoryError::NoReadKey { .. })));
    assert!(PackOpener::new(&client, &structure.info()).is_ok());
    let object = bench.bytes(&data.info().object_name());
    let name = data.info().object_name();
    assert_eq!(super::open_contents(&client, &name, data.bytes, &object, &object).unwrap(), data);
}

#[test]
fn frame_numbers_may_have_gaps_but_must_rise_and_stay_in_bounds() {
    let frame = |number, offset| FrameInfo {
        number,
        offset,
        sealed_bytes: 10,
        blake3: [0; 32],
        chunks: vec![(chunk_id(1), 3)],
    };
    let start = PACK_HEADER_BYTES as u64;
    let decode = |frames: &[FrameInfo], end| decode_contents(&encode_contents(LogNumber(1), frames), end);
    assert!(decode(&[frame(3, start), frame(9, start + 10)], start + 20).is_ok());
    assert!(decode(&[frame(3, start), frame(3, start + 10)], start + 20).is_err());
    assert!(decode(&[frame(PACK_FRAMES_MAX, start)], start + 10).is_err());
    assert!(decode(&[frame(3, start), frame(9, start + 11)], start + 21).is_err());
    assert!(decode(&[frame(3, start)], start + 11).is_err());
    // 64 bits on disk: an offset that only looks right when cut to 32 bits is refused.
    assert!(decode(&[frame(3, start + (1 << 32))], start + 10 + (1 << 32)).is_err());
    assert!(decode(&[frame(3, start + (1 << 32))], start + 10).is_err());
    assert!(decode(&[frame(3, u64::MAX - 5)], start + 10).is_err());
}

#[test]
fn f17_a_pack_refuses_what_is_over_its_limits() {
    let bench = Bench::new();
    let sealer = PackSealer::open(&bench.repository, LogNumber(1), PackClass::Data);
    assert!(sealer.has_room(FRAME_BYTES_MAX));
    assert!(!sealer.has_room(PACK_BYTES_MAX as usize));
    let attempt = |chunks: Vec<u8>, claimed: u32| {
        let mut sealer = PackSealer::open(&bench.repository, LogNumber(1), PackClass::Data);
        let seal = || sealer.seal_raw(&chunks, &[(chunk_id(1), claimed)]);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(seal)).is_err()
    };
    assert!(attempt(vec![0; 10], 9));
    assert!(attempt(vec![0; FRAME_BYTES_MAX], FRAME_BYTES_MAX as u32));
}
