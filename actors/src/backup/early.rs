//! Early: entries that wait in the recorder for those before them in path order.
//!
//! A sorted queue by sequence, encoded so that what exceeds its share of memory can spill to
//! sealed scratch storage. The encoding is private to one run and is not part of the format.

use std::sync::Arc;

use mover_repository::codec::{DecodeError, Decoder, Encoder};
use mover_repository::ids::{ChunkId, UnixNanos};
use mover_repository::log::Grade;
use mover_repository::manifest::{Content, Entry, Kind, Metadata, Piece};

use crate::backup::messages::FileTask;
use crate::error::Failure;
use crate::scratch::Scratch;
use crate::source::{FileKind, Stat};
use crate::spill::SortedSpill;

/// What arrived for one sequence number.
#[derive(Debug)]
pub enum Pending {
    /// A complete entry.
    Entry(Box<Entry>),
    /// A further name of an earlier file.
    Link {
        /// What to read should the first name be lost.
        task: Box<FileTask>,
        /// Sequence of the first name.
        first_sequence: u64,
        /// Path of the first name.
        first: Vec<u8>,
    },
    /// No entry.
    Missing,
}

/// See the module.
pub struct Early {
    queue: SortedSpill<u64>,
}

impl Early {
    /// An empty queue that keeps `memory_bytes` in memory.
    pub fn new(scratch: Arc<dyn Scratch>, memory_bytes: usize) -> Self {
        Self { queue: SortedSpill::new(scratch, memory_bytes) }
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Lets `pending` wait for its turn.
    pub fn push(&mut self, sequence: u64, pending: Pending) -> Result<(), Failure> {
        let mut encoder = Encoder::new();
        encode(&pending, &mut encoder);
        self.queue.push(sequence, encoder.finish()).map_err(|error| Failure::internal("spill", "manifest entry", error))
    }

    /// What waited for `sequence`, if it has come.
    pub fn pop_if(&mut self, sequence: u64) -> Result<Option<Pending>, Failure> {
        let popped =
            self.queue.pop_if(&sequence).map_err(|error| Failure::internal("read back", "manifest entry", error))?;
        let Some(bytes) = popped else { return Ok(None) };
        let decoded = decode(&mut Decoder::new(&bytes));
        decoded.map(Some).map_err(|error| Failure::internal("read back", "manifest entry", error))
    }
}

fn encode(pending: &Pending, out: &mut Encoder) {
    match pending {
        Pending::Missing => out.u8(0),
        Pending::Entry(entry) => {
            out.u8(1);
            encode_entry(entry, out);
        }
        Pending::Link { task, first_sequence, first } => {
            out.u8(2);
            out.u64(*first_sequence);
            out.string(first);
            out.u64(task.sequence);
            out.string(&task.path);
            encode_stat(&task.stat, out);
        }
    }
}

fn decode(input: &mut Decoder<'_>) -> Result<Pending, DecodeError> {
    Ok(match input.u8()? {
        0 => Pending::Missing,
        1 => Pending::Entry(Box::new(decode_entry(input)?)),
        _ => {
            let first_sequence = input.u64()?;
            let first = string(input)?;
            let sequence = input.u64()?;
            let path = string(input)?;
            let stat = decode_stat(input)?;
            let task = Box::new(FileTask { sequence, path, stat, attempt: 0, audit: None });
            Pending::Link { task, first_sequence, first }
        }
    })
}

fn encode_entry(entry: &Entry, out: &mut Encoder) {
    out.string(&entry.path);
    encode_kind(&entry.kind, out);
    let meta = &entry.meta;
    for number in [meta.mode, meta.uid, meta.gid] {
        out.u32(number);
    }
    out.i128(meta.mtime.0);
    out.i128(meta.ctime.0);
    for number in [meta.inode, meta.links, meta.size] {
        out.u64(number);
    }
    out.count(meta.xattrs.len());
    for (name, value) in &meta.xattrs {
        out.string(name);
        out.string(value);
    }
    encode_content(&entry.content, out);
    out.u8(match entry.grade {
        Grade::Torn => 0,
        Grade::Stable => 1,
        Grade::Snapshot => 2,
    });
    out.u8(u8::from(entry.error));
}

fn decode_entry(input: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    let path = string(input)?;
    let kind = decode_kind(input)?;
    let [mode, uid, gid] = [input.u32()?, input.u32()?, input.u32()?];
    let [mtime, ctime] = [UnixNanos(input.i128()?), UnixNanos(input.i128()?)];
    let [inode, links, size] = [input.u64()?, input.u64()?, input.u64()?];
    let xattrs =
        (0..input.count(8, "xattrs")?).map(|_| Ok((string(input)?, string(input)?))).collect::<Result<_, _>>()?;
    let content = decode_content(input)?;
    let grade = match input.u8()? {
        0 => Grade::Torn,
        1 => Grade::Stable,
        _ => Grade::Snapshot,
    };
    let error = input.u8()? != 0;
    let meta = Metadata { mode, uid, gid, mtime, ctime, inode, links, size, xattrs };
    Ok(Entry { path, kind, meta, content, grade, error })
}

fn encode_kind(kind: &Kind, out: &mut Encoder) {
    match kind {
        Kind::File => out.u8(0),
        Kind::Directory => out.u8(1),
        Kind::Symlink { target } => {
            out.u8(2);
            out.string(target);
        }
        Kind::Fifo => out.u8(3),
        Kind::CharDevice { major, minor } => {
            out.u8(4);
            out.u32(*major);
            out.u32(*minor);
        }
        Kind::BlockDevice { major, minor } => {
            out.u8(5);
            out.u32(*major);
            out.u32(*minor);
        }
        Kind::HardLink { first } => {
            out.u8(6);
            out.string(first);
        }
    }
}

fn decode_kind(input: &mut Decoder<'_>) -> Result<Kind, DecodeError> {
    Ok(match input.u8()? {
        0 => Kind::File,
        1 => Kind::Directory,
        2 => Kind::Symlink { target: string(input)? },
        3 => Kind::Fifo,
        4 => Kind::CharDevice { major: input.u32()?, minor: input.u32()? },
        5 => Kind::BlockDevice { major: input.u32()?, minor: input.u32()? },
        _ => Kind::HardLink { first: string(input)? },
    })
}

fn encode_content(content: &Content, out: &mut Encoder) {
    match content {
        Content::Tree { root, levels, pieces } => {
            out.u8(1);
            out.raw(root.as_bytes());
            out.u8(*levels);
            out.u64(*pieces);
        }
        Content::Inline(pieces) => {
            out.u8(0);
            out.count(pieces.len());
            for piece in pieces {
                match piece {
                    Piece::Hole { bytes } => {
                        out.u8(0);
                        out.u64(*bytes);
                    }
                    Piece::Chunk { id, bytes } => {
                        out.u8(1);
                        out.raw(id.as_bytes());
                        out.u32(*bytes);
                    }
                }
            }
        }
    }
}

fn decode_content(input: &mut Decoder<'_>) -> Result<Content, DecodeError> {
    if input.u8()? == 1 {
        return Ok(Content::Tree { root: ChunkId(input.array()?), levels: input.u8()?, pieces: input.u64()? });
    }
    let pieces = (0..input.count(9, "pieces")?).map(|_| {
        Ok(match input.u8()? {
            0 => Piece::Hole { bytes: input.u64()? },
            _ => Piece::Chunk { id: ChunkId(input.array()?), bytes: input.u32()? },
        })
    });
    pieces.collect::<Result<_, _>>().map(Content::Inline)
}

fn encode_stat(stat: &Stat, out: &mut Encoder) {
    out.u8(stat.kind as u8);
    for number in [stat.mode, stat.uid, stat.gid, stat.rdev.0, stat.rdev.1] {
        out.u32(number);
    }
    out.i128(stat.mtime.0);
    out.i128(stat.ctime.0);
    out.u8(u8::from(stat.birth.is_some()));
    out.i128(stat.birth.map_or(0, |birth| birth.0));
    for number in [stat.inode, stat.device, stat.links, stat.size, stat.blocks_bytes] {
        out.u64(number);
    }
}

fn decode_stat(input: &mut Decoder<'_>) -> Result<Stat, DecodeError> {
    const KINDS: [FileKind; 7] = [
        FileKind::File,
        FileKind::Directory,
        FileKind::Symlink,
        FileKind::Fifo,
        FileKind::CharDevice,
        FileKind::BlockDevice,
        FileKind::Socket,
    ];
    let kind = *KINDS.get(input.u8()? as usize).ok_or(DecodeError::Invalid { field: "kind" })?;
    let [mode, uid, gid, major, minor] = [input.u32()?, input.u32()?, input.u32()?, input.u32()?, input.u32()?];
    let [mtime, ctime] = [UnixNanos(input.i128()?), UnixNanos(input.i128()?)];
    let (has_birth, birth) = (input.u8()? == 1, UnixNanos(input.i128()?));
    let birth = has_birth.then_some(birth);
    let [inode, device, links] = [input.u64()?, input.u64()?, input.u64()?];
    let [size, blocks_bytes] = [input.u64()?, input.u64()?];
    let rdev = (major, minor);
    Ok(Stat { kind, mode, uid, gid, mtime, ctime, inode, device, links, size, blocks_bytes, rdev, birth })
}

fn string(input: &mut Decoder<'_>) -> Result<Vec<u8>, DecodeError> {
    input.string(usize::MAX, "string").map(<[u8]>::to_vec)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::scratch::MemoryScratch;

    pub fn stat() -> Stat {
        Stat {
            kind: FileKind::BlockDevice,
            mode: 0o7777,
            uid: u32::MAX,
            gid: 7,
            mtime: UnixNanos(-5),
            ctime: UnixNanos(i128::from(i64::MAX)),
            inode: 1,
            device: 2,
            links: 3,
            size: 1 << 40,
            blocks_bytes: 4096,
            rdev: (8, 1),
            birth: Some(UnixNanos(77)),
        }
    }

    /// One entry of every kind and content, so that no field can be forgotten on the way.
    #[test]
    fn entries_wait_in_any_order_and_come_back_whole() {
        let meta = Metadata {
            mode: 0o1755,
            uid: 1,
            gid: 2,
            mtime: UnixNanos(-1),
            ctime: UnixNanos(9),
            inode: 3,
            links: 4,
            size: 5,
            xattrs: vec![(b"user.a".to_vec(), vec![0, 255])],
        };
        let kinds = [
            Kind::File,
            Kind::Directory,
            Kind::Symlink { target: b"\xff/x".to_vec() },
            Kind::Fifo,
            Kind::CharDevice { major: 1, minor: 3 },
            Kind::BlockDevice { major: 8, minor: 0 },
            Kind::HardLink { first: b"a/b".to_vec() },
        ];
        let pieces = vec![Piece::Hole { bytes: 1 << 33 }, Piece::Chunk { id: ChunkId([9; 32]), bytes: 77 }];
        let contents = [Content::Inline(pieces), Content::Tree { root: ChunkId([1; 32]), levels: 2, pieces: 1 << 34 }];
        let entries: Vec<Entry> = kinds
            .iter()
            .flat_map(|kind| contents.iter().map(move |content| (kind.clone(), content.clone())))
            .map(|(kind, content)| Entry {
                path: b"p/q".to_vec(),
                kind,
                meta: meta.clone(),
                content,
                grade: Grade::Torn,
                error: true,
            })
            .collect();
        // No memory at all: everything goes through scratch.
        let mut early = Early::new(Arc::new(MemoryScratch::default()), 0);
        for (sequence, entry) in entries.iter().enumerate().rev() {
            early.push(sequence as u64, Pending::Entry(Box::new(entry.clone()))).expect("push");
        }
        let task = FileTask { sequence: 99, path: b"l".to_vec(), stat: stat(), attempt: 0, audit: None };
        early.push(99, Pending::Link { task: Box::new(task), first_sequence: 7, first: b"f".to_vec() }).expect("push");
        assert!(early.pop_if(1).expect("pop").is_none(), "0 comes first");
        for (sequence, entry) in entries.iter().enumerate() {
            match early.pop_if(sequence as u64).expect("pop") {
                Some(Pending::Entry(back)) => assert_eq!(*back, *entry),
                other => panic!("{other:?}"),
            }
        }
        match early.pop_if(99).expect("pop") {
            Some(Pending::Link { task, first_sequence: 7, first }) => {
                assert_eq!((task.stat, task.sequence, first), (stat(), 99, b"f".to_vec()));
            }
            other => panic!("{other:?}"),
        }
        assert!(early.is_empty());
    }
}
