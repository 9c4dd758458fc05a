//! The files of the cache: one for each piece of an object, each of which proves itself.
//!
//! `<cache>/<hash of the place>/<two digits>/<hash of object name and range>`, written to a temporary and renamed, never
//! synced. A file holds a header (magic, version, name, range, length of the object), BLAKE3 of header and content, and
//! the content; anything else at its place is removed and counted. Modification times say what was used last. The bound
//! is for all places together. Each process counts what it writes and looks at the directory again after a sixteenth
//! of the bound, so that several together stay within a sixteenth each of it. Never an error to its caller; removes
//! nothing but files named as its own. Every call blocks.

use bytes::Bytes;
use parking_lot::Mutex;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

const MAGIC: [u8; 8] = *b"movercch";
const VERSION: u8 = 1;
const HASH_BYTES: usize = 32;
/// What a file takes on the disk is counted in blocks of this size.
const DISK_BLOCK_BYTES: u64 = 4096;
/// By the convention of bford.info/cachedir.
const CACHE_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# Made by mover; may be deleted at any moment.\n";
const TEMPORARY_PREFIX: &str = "tmp-";
/// A temporary that is older has lost its writer.
const TEMPORARY_AGE_MAX: Duration = Duration::from_secs(3600);

/// What a cache has done since it was opened; hits and misses count pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounters {
    /// Pieces that were there.
    pub hits: u64,
    /// Bytes of these.
    pub hit_bytes: u64,
    /// Pieces that were not there, or wrong.
    pub misses: u64,
    /// Entries that were not what was put there, and were removed.
    pub wrong_entries: u64,
    /// Pieces put there.
    pub stored: u64,
    /// Bytes of these.
    pub stored_bytes: u64,
    /// Entries removed to make room.
    pub evicted: u64,
}

/// A range of an object that is kept as one entry.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub name: String,
    pub range: Range<u64>,
    pub object_bytes: u64,
}

impl Piece {
    /// The header of its entry.
    fn head(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(64 + self.name.len());
        head.extend_from_slice(&MAGIC);
        head.push(VERSION);
        head.extend_from_slice(&(self.name.len() as u16).to_le_bytes());
        head.extend_from_slice(self.name.as_bytes());
        for number in [self.range.start, self.range.end, self.object_bytes] {
            head.extend_from_slice(&number.to_le_bytes());
        }
        head
    }

    fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// The entries of one repository, in a directory that it may share with others.
pub(super) struct Entries {
    root: PathBuf,
    place: PathBuf,
    bytes_max: u64,
    usage: Mutex<Usage>,
    takes_writes: AtomicBool,
    counters: Mutex<CacheCounters>,
    note: Box<dyn Fn(&str) + Send + Sync>,
}

#[derive(Default)]
struct Usage {
    /// What the directory held when it was last looked at, and what this process wrote since; `None` before the first look.
    held_bytes: Option<u64>,
    written_bytes: u64,
}

struct Found {
    used: SystemTime,
    bytes: u64,
    path: PathBuf,
}

impl Entries {
    pub(super) fn new(root: PathBuf, place: &str, bytes_max: u64, note: Box<dyn Fn(&str) + Send + Sync>) -> Self {
        let directory = root.join(&blake3::hash(place.as_bytes()).to_hex()[..32]);
        Self {
            root,
            place: directory,
            bytes_max,
            usage: Mutex::default(),
            takes_writes: AtomicBool::new(true),
            counters: Mutex::default(),
            note,
        }
    }

    pub(super) fn counters(&self) -> CacheCounters {
        *self.counters.lock()
    }

    fn path(&self, piece: &Piece) -> PathBuf {
        let hash = blake3::hash(&Piece { object_bytes: 0, ..piece.clone() }.head()).to_hex();
        self.place.join(&hash[..2]).join(hash.as_str())
    }

    /// The content of an entry, if it is there and right; then it counts as used now.
    pub(super) fn load(&self, piece: &Piece) -> Option<Bytes> {
        let path = self.path(piece);
        let outcome = read_entry(&path, piece);
        let mut counters = self.counters.lock();
        match outcome {
            Ok(content) => {
                counters.hits += 1;
                counters.hit_bytes += content.len() as u64;
                return Some(content);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => counters.misses += 1,
            Err(error) => {
                counters.misses += 1;
                counters.wrong_entries += 1;
                tracing::debug!(entry = %path.display(), %error, "an entry of the cache is wrong and is removed");
                let _ = fs::remove_file(&path);
            }
        }
        None
    }

    /// Keeps the content of a piece, if there is room or room can be made.
    pub(super) fn store(&self, piece: &Piece, content: &[u8]) {
        debug_assert_eq!(content.len() as u64, piece.bytes());
        let head = piece.head();
        let file_bytes = on_disk((head.len() + HASH_BYTES + content.len()) as u64);
        if !self.takes_writes.load(Ordering::Relaxed) || file_bytes > self.bytes_max {
            return;
        }
        self.make_room(file_bytes);
        let hash = proof(&head, content);
        let parts = [&head[..], hash.as_bytes(), content];
        let path = self.path(piece);
        let mut written = write_entry(&path, &parts);
        if matches!(&written, Err(error) if error.kind() == ErrorKind::NotFound) {
            // The directory was not there, or was removed at that very moment.
            written = self.make_directory(&path).and_then(|()| write_entry(&path, &parts));
        }
        match written {
            Ok(()) => {
                let mut counters = self.counters.lock();
                counters.stored += 1;
                counters.stored_bytes += content.len() as u64;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                if self.takes_writes.swap(false, Ordering::Relaxed) {
                    let place = self.root.display();
                    (self.note)(&format!("the cache in {place} takes nothing more, going on without it: {error}"));
                }
            }
        }
    }

    /// Makes the directory of an entry. The place is marked as a cache, for backups that leave caches out; the directory
    /// above it is not, for the user may have named one that holds more.
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        let directory = path.parent().expect("an entry is in a directory");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        fs::write(self.place.join("CACHEDIR.TAG"), CACHE_TAG)
    }

    /// Counts `bytes` that will be written, and removes what was used least recently if they do not fit.
    fn make_room(&self, bytes: u64) {
        let mut usage = self.usage.lock();
        let fits = usage.held_bytes.is_some_and(|held| held + bytes <= self.bytes_max);
        if !fits || usage.written_bytes > self.bytes_max / 16 {
            *usage = Usage { held_bytes: Some(self.sweep(bytes)), written_bytes: 0 };
        }
        usage.held_bytes = usage.held_bytes.map(|held| held + bytes);
        usage.written_bytes += bytes;
    }

    /// Looks at all entries of all places. Unless `room_bytes` more fit, removes old ones until they do and an eighth is
    /// free. Gives what is left.
    fn sweep(&self, room_bytes: u64) -> u64 {
        let mut found = Vec::new();
        for place in children(&self.root).filter(|path| is_hex(path, 32)) {
            for directory in children(&place).filter(|path| is_hex(path, 2)) {
                found.extend(children(&directory).filter_map(examine));
            }
        }
        let mut held: u64 = found.iter().map(|entry| entry.bytes).sum();
        if held + room_bytes <= self.bytes_max {
            return held;
        }
        let target = (self.bytes_max - room_bytes).min(self.bytes_max / 8 * 7);
        found.sort_unstable_by_key(|entry| entry.used);
        for entry in found {
            if held <= target {
                break;
            }
            // Another process may have been faster.
            if fs::remove_file(&entry.path).is_ok() {
                self.counters.lock().evicted += 1;
            }
            held -= entry.bytes;
        }
        held
    }
}

/// Reads an entry; anything but the very entry is [`ErrorKind::InvalidData`].
fn read_entry(path: &Path, piece: &Piece) -> io::Result<Bytes> {
    // Whatever lies there, opening it must not wait or lead elsewhere.
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let (metadata, head) = (file.metadata()?, piece.head());
    let content_from = head.len() + HASH_BYTES;
    let wrong = |what: &str| io::Error::new(ErrorKind::InvalidData, what.to_owned());
    if !metadata.is_file() || metadata.len() != content_from as u64 + piece.bytes() {
        return Err(wrong("not a file of the right length"));
    }
    let mut bytes = vec![0; metadata.len() as usize];
    file.read_exact(&mut bytes)?;
    if bytes[..head.len()] != head {
        return Err(wrong("of another object, range or version"));
    }
    if proof(&head, &bytes[content_from..]) != bytes[head.len()..content_from] {
        return Err(wrong("its hash is another"));
    }
    // On a read-only disk nothing is removed either.
    let _ = file.set_modified(SystemTime::now());
    Ok(Bytes::from(bytes).slice(content_from..))
}

fn proof(head: &[u8], content: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(head).update(content);
    hasher.finalize()
}

fn write_entry(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let directory = path.parent().expect("an entry is in a directory");
    let mut temporary = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempfile_in(directory)?;
    for part in parts {
        temporary.write_all(part)?;
    }
    temporary.persist(path).map(|_: File| ()).map_err(|error| error.error)
}

/// What lies in a directory; nothing if it cannot be read.
fn children(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().filter_map(|entry| entry.ok().map(|entry| entry.path()))
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn is_hex(path: &Path, digits: usize) -> bool {
    let name = name_of(path);
    name.len() == digits && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What a file of the cache takes; a temporary whose writer is gone is removed.
fn examine(path: PathBuf) -> Option<Found> {
    let is_temporary = name_of(&path).starts_with(TEMPORARY_PREFIX);
    if !is_temporary && !is_hex(&path, 2 * HASH_BYTES) {
        return None;
    }
    let metadata = fs::symlink_metadata(&path).ok().filter(|metadata| !metadata.is_dir())?;
    let used = metadata.modified().ok()?;
    if is_temporary && used.elapsed().is_ok_and(|age| age > TEMPORARY_AGE_MAX) && fs::remove_file(&path).is_ok() {
        return None;
    }
    Some(Found { used, bytes: on_disk(metadata.len()), path })
}

fn on_disk(bytes: u64) -> u64 {
    bytes.next_multiple_of(DISK_BLOCK_BYTES)
}
