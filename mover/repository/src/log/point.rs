//! Recovery points: the commit record of one finished backup.

use super::record::{text, text_field};
use crate::codec::{DecodeError, Decoder, Encoder};
use crate::ids::{ObjectId, UnixNanos};
use crate::limits::{HOST_BYTES_MAX, PATH_BYTES_MAX, SET_BYTES_MAX, TAG_BYTES_MAX};
use crate::manifest::ManifestRoot;

/// How consistent the content of a file, or of the worst file of a point, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Grade {
    /// It changed while it was read, every time.
    Torn = 1,
    /// Unchanged by `statx` before and after the read.
    Stable = 2,
    /// Read from a snapshot.
    Snapshot = 3,
}

impl Grade {
    /// The byte in a record.
    pub fn to_byte(self) -> u8 {
        self as u8
    }

    /// Reads the byte of a record.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for a byte that names no grade.
    pub fn from_byte(byte: u8) -> Result<Self, DecodeError> {
        match byte {
            1 => Ok(Self::Torn),
            2 => Ok(Self::Stable),
            3 => Ok(Self::Snapshot),
            _ => Err(DecodeError::Invalid { field: "grade" }),
        }
    }
}

macro_rules! totals {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// What a fileset or a point holds and what it cost. Bytes are bytes, the rest are counts.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Totals {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Totals {
            /// Appends all fields as `u64`, in the order of their declaration.
            pub fn encode(&self, encoder: &mut Encoder) {
                $(encoder.u64(self.$field);)*
            }

            /// Takes what [`Totals::encode`] wrote.
            ///
            /// # Errors
            /// [`DecodeError::Truncated`].
            pub fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
                Ok(Self { $($field: decoder.u64()?,)* })
            }

            /// Adds another fileset's totals.
            pub fn add(&mut self, other: &Totals) {
                $(self.$field = self.$field.saturating_add(other.$field);)*
            }
        }
    };
}

totals! {
    /// Regular files.
    files,
    /// Directories.
    directories,
    /// Links, fifos, devices.
    others,
    /// Logical bytes of all files.
    bytes,
    /// Bytes read from the source in this run.
    bytes_read,
    /// Plain bytes of chunks that were new to the repository.
    bytes_new,
    /// Sealed bytes stored for them.
    bytes_stored,
    /// Files of grade torn.
    files_torn,
    /// Files that could not be read.
    files_unreadable,
    /// Sockets, which are not backed up.
    sockets_skipped,
    /// Entries left out by a filter.
    excluded,
}

/// A fileset whose packs are durable and whose manifest is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedFileset {
    /// Absolute source path, or name of the stream.
    pub root_path: Vec<u8>,
    /// Root of its manifest.
    pub root: ManifestRoot,
    /// When its scan began.
    pub scan_started: UnixNanos,
    /// When its scan ended.
    pub scan_finished: UnixNanos,
    /// What it holds and what it cost.
    pub totals: Totals,
}

impl SealedFileset {
    pub(crate) fn encode(&self, encoder: &mut Encoder) {
        encoder.string(&self.root_path);
        self.root.encode(encoder);
        encoder.i128(self.scan_started.0);
        encoder.i128(self.scan_finished.0);
        self.totals.encode(encoder);
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            root_path: decoder.string(PATH_BYTES_MAX, "root path")?.to_vec(),
            root: ManifestRoot::decode(decoder)?,
            scan_started: UnixNanos(decoder.i128()?),
            scan_finished: UnixNanos(decoder.i128()?),
            totals: Totals::decode(decoder)?,
        })
    }
}

/// The commit record of one finished backup: restorable since it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryPoint {
    /// Its name for users, 32 random bytes.
    pub id: ObjectId,
    /// The set that it belongs to.
    pub set: String,
    /// The host that it was taken on.
    pub host: String,
    /// The paths that were asked for.
    pub paths: Vec<Vec<u8>>,
    /// Free text given by the user.
    pub tags: Vec<String>,
    /// When the run began.
    pub started: UnixNanos,
    /// When the run ended.
    pub finished: UnixNanos,
    /// The point that unchanged files were taken over from.
    pub parent: Option<ObjectId>,
    /// The point without which this one is of no use, such as the full backup under a log backup:
    /// retention keeps it as long.
    pub depends_on: Option<ObjectId>,
    /// Its filesets, in the order in which they were moved.
    pub filesets: Vec<SealedFileset>,
    /// Sum over the filesets.
    pub totals: Totals,
    /// Grade of its worst file.
    pub grade: Grade,
    /// Entries that could not be read.
    pub errors: u64,
}

/// Shortest encoding of a [`SealedFileset`]; bounds what a forged count can allocate.
const FILESET_BYTES_MIN: usize = 4 + 57 + 16 + 16 + 11 * 8;

impl RecoveryPoint {
    pub(crate) fn encode(&self, encoder: &mut Encoder) {
        encoder.raw(self.id.as_bytes());
        text(encoder, &self.set);
        text(encoder, &self.host);
        encoder.count(self.paths.len());
        self.paths.iter().for_each(|path| encoder.string(path));
        encoder.count(self.tags.len());
        self.tags.iter().for_each(|tag| text(encoder, tag));
        encoder.i128(self.started.0);
        encoder.i128(self.finished.0);
        put_other_point(encoder, self.parent.as_ref());
        put_other_point(encoder, self.depends_on.as_ref());
        encoder.count(self.filesets.len());
        self.filesets.iter().for_each(|fileset| fileset.encode(encoder));
        self.totals.encode(encoder);
        encoder.u8(self.grade.to_byte());
        encoder.u64(self.errors);
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let id = ObjectId(decoder.array()?);
        let set = text_field(decoder, SET_BYTES_MAX, "set")?;
        let host = text_field(decoder, HOST_BYTES_MAX, "host")?;
        let mut paths = Vec::new();
        for _ in 0..decoder.count(4, "paths")? {
            paths.push(decoder.string(PATH_BYTES_MAX, "path")?.to_vec());
        }
        let mut tags = Vec::new();
        for _ in 0..decoder.count(4, "tags")? {
            tags.push(text_field(decoder, TAG_BYTES_MAX, "tag")?);
        }
        let (started, finished) = (UnixNanos(decoder.i128()?), UnixNanos(decoder.i128()?));
        let (parent, depends_on) = (take_other_point(decoder)?, take_other_point(decoder)?);
        let mut filesets = Vec::new();
        for _ in 0..decoder.count(FILESET_BYTES_MIN, "filesets")? {
            filesets.push(SealedFileset::decode(decoder)?);
        }
        let totals = Totals::decode(decoder)?;
        let grade = Grade::from_byte(decoder.u8()?)?;
        let errors = decoder.u64()?;
        Ok(Self { id, set, host, paths, tags, started, finished, parent, depends_on, filesets, totals, grade, errors })
    }
}

/// A flag, and the id of another point if it is set.
pub(super) fn put_other_point(encoder: &mut Encoder, point: Option<&ObjectId>) {
    encoder.u8(u8::from(point.is_some()));
    if let Some(point) = point {
        encoder.raw(point.as_bytes());
    }
}

/// What [`put_other_point`] wrote.
pub(super) fn take_other_point(decoder: &mut Decoder<'_>) -> Result<Option<ObjectId>, DecodeError> {
    match decoder.u8()? {
        0 => Ok(None),
        1 => decoder.array().map(|id| Some(ObjectId(id))),
        _ => Err(DecodeError::Invalid { field: "flag of another point" }),
    }
}
