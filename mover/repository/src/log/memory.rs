//! What a writer or a client has seen of the history.
//!
//! [`Seen`] travels in every outcome; [`ClientMemory`] keeps the newest one in a small local
//! file. Both let whoever saw a newer state notice that a record was hidden or rolled back. The
//! memory is advice for one machine: losing it loses that notice and nothing else.

use super::done_name;
use crate::codec::{DecodeError, Decoder, Encoder};
use crate::ids::{LogNumber, ObjectId};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"moverse0";
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The outcomes that somebody saw: all numbers below `below` had one, but for those in `without`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Numbers below this one were looked at.
    pub below: LogNumber,
    /// Those of them without an outcome then, ascending.
    pub without: Vec<LogNumber>,
    /// BLAKE3 over (number as u64, BLAKE3 of the `done` object) of the others, ascending.
    pub digest: [u8; 32],
}

impl Seen {
    /// Computes what there is to see below `below`. `outcome_hash` gives the hash of a number's
    /// `done` object, if there is one.
    pub(crate) fn of(below: LogNumber, outcome_hash: impl Fn(LogNumber) -> Option<[u8; 32]>) -> Self {
        let mut without = Vec::new();
        let mut hasher = blake3::Hasher::new();
        for number in (super::FIRST.0..below.0).map(LogNumber) {
            match outcome_hash(number) {
                Some(hash) => add_outcome(&mut hasher, number, &hash),
                None => without.push(number),
            }
        }
        Self { below, without, digest: *hasher.finalize().as_bytes() }
    }

    /// What somebody saw who had looked at nothing: it witnesses nothing.
    pub(crate) fn nothing() -> Self {
        Self::of(super::FIRST, |_| None)
    }

    /// True if that number had an outcome then.
    pub fn covers(&self, number: LogNumber) -> bool {
        number < self.below && self.without.binary_search(&number).is_err()
    }

    /// Compares with what there is now. `Err` says what the witness had seen.
    pub(crate) fn check(&self, outcome_hash: impl Fn(LogNumber) -> Option<[u8; 32]>) -> Result<(), String> {
        let mut without = self.without.iter().copied().peekable();
        let mut hasher = blake3::Hasher::new();
        for number in (super::FIRST.0..self.below.0).map(LogNumber) {
            if without.next_if_eq(&number).is_some() {
                continue;
            }
            match outcome_hash(number) {
                Some(hash) => add_outcome(&mut hasher, number, &hash),
                None => return Err(format!("had seen {}, which is gone", done_name(number))),
            }
        }
        if *hasher.finalize().as_bytes() != self.digest {
            return Err(format!("had seen other outcomes below log record {} than there are now", self.below));
        }
        Ok(())
    }

    pub(crate) fn encode(&self, encoder: &mut Encoder) {
        encoder.u64(self.below.0);
        encoder.count(self.without.len());
        self.without.iter().for_each(|number| encoder.u64(number.0));
        encoder.raw(&self.digest);
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let below = LogNumber(decoder.u64()?);
        let mut without = Vec::new();
        for _ in 0..decoder.count(8, "numbers without outcome")? {
            without.push(LogNumber(decoder.u64()?));
        }
        let is_valid = without.is_sorted_by(|a, b| a < b) && without.last().is_none_or(|last| *last < below);
        if !is_valid {
            return Err(DecodeError::Invalid { field: "numbers without outcome" });
        }
        Ok(Self { below, without, digest: decoder.array()? })
    }
}

fn place_file(directory: &Path, place: &str) -> PathBuf {
    let name = blake3::hash(place.as_bytes()).to_hex();
    directory.join(format!("{}.place", &name[..32]))
}

fn add_outcome(hasher: &mut blake3::Hasher, number: LogNumber, hash: &[u8; 32]) {
    hasher.update(&number.0.to_le_bytes());
    hasher.update(hash);
}

/// The local file that remembers the newest history seen of one repository.
#[derive(Clone, Debug)]
pub struct ClientMemory {
    path: PathBuf,
}

impl ClientMemory {
    /// The memory of `repository` in a cache directory, which is created when needed.
    pub fn new(directory: &Path, repository: &ObjectId) -> Self {
        Self { path: directory.join(format!("{repository}.seen")) }
    }

    /// The memory of the repository that was in `place` when this client opened it last. A hint. Blocks.
    pub(crate) fn at_place(directory: &Path, place: &str) -> Option<Self> {
        let named = fs::read_to_string(place_file(directory, place)).ok()?;
        Some(Self::new(directory, &named.trim_end().parse().ok()?))
    }

    /// Notes that `repository` is in `place`, unless that is noted. Blocks.
    ///
    /// # Errors
    /// Any I/O error; the caller goes on without the hint.
    pub(crate) fn note_place(directory: &Path, place: &str, repository: &ObjectId) -> io::Result<()> {
        let (file, named) = (place_file(directory, place), format!("{repository}\n"));
        if fs::read_to_string(&file).is_ok_and(|noted| noted == named) {
            return Ok(());
        }
        fs::create_dir_all(directory)?;
        // Torn or lost, it names no repository, or none that is there.
        fs::write(file, named)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was seen last. A missing or damaged file is `None`: it is advice. Blocks.
    pub fn load(&self) -> Option<Seen> {
        let is_small = fs::metadata(&self.path).is_ok_and(|meta| meta.len() <= FILE_BYTES_MAX);
        let content = fs::read(&self.path).ok().filter(|_| is_small)?;
        let seen = Self::decode(&content);
        if seen.is_none() {
            tracing::warn!(file = %self.path.display(), "ignoring a damaged memory of the repository's history");
        }
        seen
    }

    pub(super) fn decode(content: &[u8]) -> Option<Seen> {
        let (body, checksum) = content.split_last_chunk::<32>()?;
        if blake3::hash(body) != *checksum {
            return None;
        }
        let mut decoder = Decoder::new(body.strip_prefix(&MAGIC)?);
        let seen = Seen::decode(&mut decoder).ok()?;
        decoder.finish().ok()?;
        Some(seen)
    }

    /// Remembers `seen` unless something newer is remembered. Blocks.
    ///
    /// # Errors
    /// Any I/O error; the caller goes on without a memory.
    pub fn store(&self, seen: &Seen) -> io::Result<()> {
        let is_newer = |old: &Seen| {
            (seen.below, std::cmp::Reverse(seen.without.len())) > (old.below, std::cmp::Reverse(old.without.len()))
        };
        if !self.load().as_ref().is_none_or(is_newer) {
            return Ok(());
        }
        let content = encode_file(seen);
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let suffix = u64::from_le_bytes(crate::crypto::random_array());
        let temporary = self.path.with_extension(format!("tmp-{suffix:016x}"));
        let written = fs::File::create_new(&temporary)
            .and_then(|mut file| file.write_all(&content).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&temporary, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

/// The bytes of the file that remembers `seen`.
pub(super) fn encode_file(seen: &Seen) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.raw(&MAGIC);
    seen.encode(&mut encoder);
    let mut content = encoder.finish();
    let checksum = blake3::hash(&content);
    content.extend_from_slice(checksum.as_bytes());
    content
}
