//! FORMAT.md against the code: its test vectors and its table of limits.

use bytes::Bytes;

use crate::crypto::{FrameKey, KEY_BLOCK_BYTES, KeyBlock, Secrets};
use crate::fuzzing::fixed_secrets;
use crate::ids::{LogNumber, ObjectId, PackId, UnixNanos};
use crate::index::encode_test_segment;
use crate::limits;
use crate::manifest::{Content, Entry, Identity, Kind, Metadata, Piece, encode_test_pages};
use crate::pack::{PackClass, PackOpener, PackSealer, open_contents, pack_name};

const FORMAT: &str = include_str!("../FORMAT.md");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap()).collect()
}

/// The value of a line of the vectors.
fn vector(name: &str) -> String {
    let line = FORMAT.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    line.unwrap_or_default().to_string()
}

fn seal_pack(secrets: &Secrets, class: PackClass, id: PackId, key: Option<FrameKey>) -> Vec<u8> {
    let mut sealer = PackSealer::with_parts(secrets, LogNumber(1), class, id, key);
    let chunks = [(secrets.chunk_id(b"hello"), 5), (secrets.chunk_id(b"world"), 5)];
    let parts = [sealer.header(), sealer.seal_raw(b"helloworld", &chunks)];
    let (tail, _) = sealer.finish();
    [&parts.concat()[..], &tail].concat()
}

fn entry(secrets: &Secrets) -> Entry {
    Entry {
        path: b"a/b".to_vec(),
        kind: Kind::File,
        meta: Metadata {
            mode: 0o4755,
            uid: 1000,
            gid: 100,
            mtime: UnixNanos(-1),
            ctime: UnixNanos(1_700_000_000_123_456_789),
            inode: 42,
            links: 1,
            size: 65_541,
            xattrs: vec![(b"user.k".to_vec(), b"v".to_vec())],
        },
        content: Content::Inline(vec![
            Piece::Chunk { id: secrets.chunk_id(b"hello"), bytes: 5 },
            Piece::Hole { bytes: 65_536 },
        ]),
        grade: crate::log::Grade::Stable,
        error: false,
    }
}

#[test]
fn test_vectors_are_those_of_format_md() {
    let secrets = fixed_secrets();
    let entry = entry(&secrets);
    let mut input = Vec::new();
    Identity::of(&entry.meta).digest_input(&entry.path, &mut input);
    let gear = secrets.gear();
    let structure_pack = seal_pack(&secrets, PackClass::Structure, PackId([0xaa; 32]), None);
    let name = pack_name(LogNumber(1), &PackId([0xaa; 32]));
    let contents =
        open_contents(&secrets, &name, structure_pack.len() as u64, &structure_pack, &structure_pack).unwrap();
    let segment = encode_test_segment(&secrets, &ObjectId([0xbb; 32]), &contents);
    let pages = encode_test_pages(&secrets, &entry);
    let computed = [
        ("chunk id of \"hello\"", hex(&secrets.chunk_id(b"hello").0)),
        ("path hash of \"a/b\"", format!("{:016x}", secrets.path_hash(b"a/b"))),
        ("gear[0]", format!("{:016x}", gear[0])),
        ("gear[255]", format!("{:016x}", gear[255])),
        ("structure pack aa…, frame hello ‖ world, writer 1", hex(&structure_pack)),
        ("index segment bb… of that pack", hex(&segment)),
        ("identity digest of a/b", hex(&secrets.identity_digest(&input))),
        ("names page of a/b", hex(&pages[0])),
        ("structure page of a/b", hex(&pages[1])),
        ("inner page of level 1", hex(&pages[2])),
    ];
    let lines: Vec<String> = computed.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    for (name, value) in &computed {
        assert_eq!(&vector(name), value, "FORMAT.md section 8 should have:\n{}", lines.concat());
    }
}

#[test]
fn the_data_pack_of_format_md_opens() {
    let secrets = fixed_secrets();
    let id = PackId([0xcc; 32]);
    let object = Bytes::from(unhex(&vector("data pack cc…, frame hello ‖ world, writer 1")));
    if object.is_empty() {
        let fresh = seal_pack(&secrets, PackClass::Data, id, Some(FrameKey::random()));
        panic!("FORMAT.md lacks:\ndata pack cc…, frame hello ‖ world, writer 1: {}", hex(&fresh));
    }
    let name = pack_name(LogNumber(1), &id);
    let contents = open_contents(&secrets, &name, object.len() as u64, &object, &object).unwrap();
    assert_ne!(contents.key_block, KeyBlock([0; KEY_BLOCK_BYTES]));
    let frame = &contents.frames[0];
    let from = frame.offset as usize;
    let sealed = object.slice(from..from + frame.sealed_bytes as usize);
    let opener = PackOpener::new(&secrets, &contents.info()).unwrap();
    assert_eq!(opener.open_frame(frame.number, sealed).unwrap(), b"helloworld");
}

macro_rules! limits_table {
    ($($name:ident)*) => {
        vec![$((stringify!($name).to_string(), limits::$name as u64)),*]
    };
}

#[test]
fn limits_are_those_of_format_md() {
    let mut expected = limits_table!(
        FORMAT_VERSION FRAME_BYTES_MAX FRAME_PLAIN_BYTES_TARGET PACK_BYTES_MAX PACK_BYTES_TARGET PACK_FRAMES_MAX
        TOC_BYTES_MAX LOG_RECORD_BYTES_MAX CHECKPOINT_PARTS_MAX KEY_OBJECT_BYTES_MAX SET_BYTES_MAX HOST_BYTES_MAX TAG_BYTES_MAX
        REASON_BYTES_MAX VERIFIED_SPANS_MAX VERIFIED_HURT_MAX PATH_COMPONENT_BYTES_MAX PATH_BYTES_MAX XATTR_VALUE_BYTES_MAX XATTR_TOTAL_BYTES_MAX
        XATTR_NAME_BYTES_MAX SYMLINK_BYTES_MAX EXTENT_BYTES HOLE_BYTES_MIN HOLE_ALIGN_BYTES CHUNK_BYTES_MIN
        CHUNK_BYTES_MAX INLINE_PIECES_MAX PAGE_BYTES_MAX PAGE_BYTES_TARGET PAGE_BYTES_CUT LEAF_ENTRIES_MAX
        PAGE_PATH_BYTES_MAX PAGE_CHILDREN_MAX PAGE_LEVELS_MAX SEGMENT_BYTES_MAX INDEX_BLOCK_BYTES
    );
    let (smallest, average, largest) = limits::CHUNK_BYTES_DEFAULT;
    for (at, value) in [smallest, average, largest].into_iter().enumerate() {
        expected.push((format!("CHUNK_BYTES_DEFAULT.{at}"), u64::from(value)));
    }
    let section = FORMAT.split("## 9. Limits").nth(1).expect("FORMAT.md has limits");
    let mut written: Vec<(String, u64)> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(name, rest)| (name.to_string(), rest.split(' ').next().unwrap().parse().unwrap()))
        .collect();
    written.sort();
    expected.sort();
    assert_eq!(written, expected);
    let constants = include_str!("limits.rs").matches("pub const ").count();
    assert_eq!(constants + 2, expected.len(), "every constant of limits.rs is in the table");
}
