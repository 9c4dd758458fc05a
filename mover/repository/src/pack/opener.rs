//! Opens frames and tables of contents of packs. FORMAT.md "Packs".
//!
//! Whatever bytes a store returns give an error or the plain bytes that were sealed; memory is
//! bounded by the limits of frame and table. An opener may be shared by threads.

use std::ops::Range;

use bytes::Bytes;
use futures_util::future::join;

use crate::backend::{IoFuture, SpanReader, StorageError, StorageErrorKind};
use crate::crypto::{FrameOpener, Secrets};
use crate::error::{RepositoryError, Result};
use crate::limits::{FRAME_BYTES_MAX, PACK_BYTES_MAX, TOC_BYTES_MAX};
use crate::pack::contents::{PackContents, decode_contents};
use crate::pack::frame::{CompressedFrame, FRAME_TAG_BYTES, decode_frame, decode_frame_bytes};
use crate::pack::header::{
    PACK_HEADER_BYTES, PackClass, PackHeader, PackInfo, TRAILER_BYTES, decode_trailer, parse_pack_name,
};
use crate::repository::Repository;

/// Bytes at the end of a pack that are read at once; the table of most packs is within.
const TAIL_BYTES: u64 = 64 << 10;

/// A request for the frames of a pack that was begun, and where it ends.
pub(crate) type Begun = (Box<dyn SpanReader>, u64);

/// Opens the frames of one pack.
#[derive(Debug)]
pub struct PackOpener {
    name: String,
    opener: FrameOpener,
}

impl PackOpener {
    /// Derives or unwraps the key of a pack.
    ///
    /// # Errors
    /// [`RepositoryError::NoReadKey`] for a data pack without the private read key,
    /// [`RepositoryError::UnknownGeneration`], [`RepositoryError::Corrupt`].
    pub fn new(secrets: &Secrets, info: &PackInfo) -> Result<Self> {
        let name = info.object_name();
        let header =
            PackHeader { class: info.class, generation: info.generation, id: info.id, key_block: info.key_block };
        let key = match info.class {
            PackClass::Data => secrets.unwrap_pack_key(&info.id, &info.key_block, &name)?,
            PackClass::Structure => {
                secrets.structure_key(info.generation, info.class.object_kind(), info.id.as_bytes(), &name)?
            }
        };
        Ok(PackOpener { opener: FrameOpener::new(&key, header.aad(&secrets.repository_id())), name })
    }

    /// Opens frame `number` and returns its plain bytes, decoded. A `Bytes` or `Vec<u8>` that
    /// nobody else holds is opened in place.
    ///
    /// # Errors
    /// [`RepositoryError::Corrupt`].
    pub fn open_frame(&self, number: u32, sealed: impl Into<Vec<u8>>) -> Result<Vec<u8>> {
        let plain = self.open(number, sealed.into())?;
        decode_frame(plain).map_err(|error| self.corrupt(number, error))
    }

    /// As [`PackOpener::open_frame`], without moving the bytes of a raw frame.
    ///
    /// # Errors
    /// [`RepositoryError::Corrupt`].
    pub fn open_frame_bytes(&self, number: u32, sealed: impl Into<Vec<u8>>) -> Result<Bytes> {
        let plain = self.open(number, sealed.into())?;
        decode_frame_bytes(plain).map_err(|error| self.corrupt(number, error))
    }

    /// Opens frame `number` and leaves it compressed, to be sealed into another pack.
    ///
    /// # Errors
    /// [`RepositoryError::Corrupt`].
    pub fn open_compressed(&self, number: u32, sealed: impl Into<Vec<u8>>) -> Result<CompressedFrame> {
        let plaintext = self.open(number, sealed.into())?;
        CompressedFrame::from_plaintext(plaintext).map_err(|error| self.corrupt(number, error))
    }

    fn open(&self, number: u32, mut sealed: Vec<u8>) -> Result<Vec<u8>> {
        if sealed.len() > FRAME_BYTES_MAX {
            return Err(self.corrupt(number, "it is longer than a frame may be"));
        }
        let plain_bytes =
            self.opener.open(number, false, &mut sealed).map_err(|error| self.corrupt(number, error))?.len();
        sealed.truncate(plain_bytes);
        Ok(sealed)
    }

    fn corrupt(&self, number: u32, reason: impl ToString) -> RepositoryError {
        RepositoryError::corrupt(format!("{} frame {number}", self.name), reason)
    }
}

/// Reads header, trailer and table of the pack object `name`.
///
/// # Errors
/// [`RepositoryError::MissingObject`], [`RepositoryError::Corrupt`], [`RepositoryError::Storage`].
pub async fn read_contents(repository: &Repository, name: &str) -> Result<PackContents> {
    // Asked of the store itself, so that a pack that is gone is missing whatever a cache still has of it.
    let bytes = repository.backend().size(name).await.map_err(|error| missing(name, error))?;
    read_contents_of(repository, name, bytes).await
}

/// As [`read_contents`], of a pack that is known to be there and to have `bytes` bytes.
///
/// # Errors
/// As [`read_contents`].
pub async fn read_contents_of(repository: &Repository, name: &str, bytes: u64) -> Result<PackContents> {
    match read_contents_once(repository, name, bytes).await {
        Err(error) if error.blames_bytes() && repository.backend().distrust_cached(name) => {
            read_contents_once(repository, name, bytes).await
        }
        outcome => outcome,
    }
}

/// As [`read_contents_of`], of a pack whose frames are read next: of a far store the request that has the header goes on
/// with them. It is given with where it ends.
///
/// # Errors
/// As [`read_contents`].
pub(crate) async fn read_contents_and_on(
    repository: &Repository,
    name: &str,
    bytes: u64,
) -> Result<(PackContents, Option<Begun>)> {
    let backend = repository.backend();
    if backend.link().is_none() {
        return Ok((read_contents_of(repository, name, bytes).await?, None));
    }
    check_size(bytes, name)?;
    let read = |range| backend.get_range(name, range);
    let tail = read_tail(&read, bytes, name).await?;
    let (header, frames_end) = (0..PACK_HEADER_BYTES as u64, frames_end(bytes, &tail, name)?);
    let mut span = backend.span(name, 0..frames_end);
    let header = match &mut span {
        Some(span) => span.read(header),
        None => read(header),
    };
    let header = header.await.map_err(|error| missing(name, error))?;
    let contents = open_contents(repository.secrets(), name, bytes, &header, &tail)?;
    Ok((contents, span.map(|span| (span, frames_end))))
}

async fn read_contents_once(repository: &Repository, name: &str, bytes: u64) -> Result<PackContents> {
    check_size(bytes, name)?;
    let read = |range| repository.backend().get_cacheable(name, range, bytes);
    // Side by side: a far store answers both after one round trip.
    let (header, tail) = join(read(0..PACK_HEADER_BYTES as u64), read_tail(&read, bytes, name)).await;
    let header = header.map_err(|error| missing(name, error))?;
    open_contents(repository.secrets(), name, bytes, &header, &tail?)
}

/// The end of a pack: at least table and trailer.
async fn read_tail(read: &impl Fn(Range<u64>) -> IoFuture<Bytes>, bytes: u64, name: &str) -> Result<Bytes> {
    let tail = read(bytes - bytes.min(TAIL_BYTES)..bytes).await.map_err(|error| missing(name, error))?;
    match frames_end(bytes, &tail, name)? {
        from if bytes - from > tail.len() as u64 => read(from..bytes).await.map_err(|error| missing(name, error)),
        _ => Ok(tail),
    }
}

/// Where the frames of a pack end, as its trailer says.
fn frames_end(bytes: u64, tail: &[u8], name: &str) -> Result<u64> {
    Ok(bytes - (toc_length(bytes, tail, name)? + TRAILER_BYTES) as u64)
}

fn missing(name: &str, error: StorageError) -> RepositoryError {
    match error.kind {
        StorageErrorKind::NotFound => RepositoryError::MissingObject { object: name.to_string() },
        _ => RepositoryError::Storage(error),
    }
}

fn check_size(bytes: u64, name: &str) -> Result<()> {
    let smallest = (PACK_HEADER_BYTES + FRAME_TAG_BYTES + TRAILER_BYTES) as u64;
    if bytes < smallest || bytes > PACK_BYTES_MAX {
        return Err(RepositoryError::corrupt(name, format!("{bytes} bytes cannot be a pack")));
    }
    Ok(())
}

fn toc_length(bytes: u64, tail: &[u8], name: &str) -> Result<usize> {
    let trailer = &tail[tail.len().saturating_sub(TRAILER_BYTES)..];
    let toc_bytes = decode_trailer(trailer, name)?;
    let room = bytes - (PACK_HEADER_BYTES + TRAILER_BYTES) as u64;
    if toc_bytes < FRAME_TAG_BYTES || toc_bytes as u64 > room || toc_bytes > TOC_BYTES_MAX {
        return Err(RepositoryError::corrupt(name, "its trailer gives an impossible length"));
    }
    Ok(toc_bytes)
}

/// Opens the table of a pack of `bytes` bytes from its first and last bytes, which a caller has
/// read: `header` at least the header, `tail` at least table and trailer.
///
/// # Errors
/// [`RepositoryError::Corrupt`], [`RepositoryError::UnknownGeneration`],
/// [`RepositoryError::OtherFormat`].
pub fn open_contents(secrets: &Secrets, name: &str, bytes: u64, header: &[u8], tail: &[u8]) -> Result<PackContents> {
    let (writer, id) =
        parse_pack_name(name).ok_or_else(|| RepositoryError::corrupt(name, "its name is not that of a pack"))?;
    check_size(bytes, name)?;
    let header = PackHeader::decode(header, name)?;
    if header.id != id {
        return Err(RepositoryError::corrupt(name, "the header names another pack"));
    }
    let toc_bytes = toc_length(bytes, tail, name)?;
    let Some(from) = tail.len().checked_sub(toc_bytes + TRAILER_BYTES) else {
        return Err(RepositoryError::corrupt(name, "its end was not read"));
    };
    let key = secrets.structure_key(header.generation, header.class.object_kind(), id.as_bytes(), name)?;
    let opener = FrameOpener::new(&key, header.aad(&secrets.repository_id()));
    let mut sealed = tail[from..from + toc_bytes].to_vec();
    let plain = opener
        .open_toc(&mut sealed)
        .map_err(|error| RepositoryError::corrupt(format!("{name} table of contents"), error))?;
    let frames_end = bytes - (toc_bytes + TRAILER_BYTES) as u64;
    let (sealed_writer, frames) = decode_contents(plain, frames_end).map_err(RepositoryError::decoding(name))?;
    if sealed_writer != writer {
        return Err(RepositoryError::corrupt(name, "its table names another writer"));
    }
    Ok(PackContents {
        id,
        writer,
        class: header.class,
        generation: header.generation,
        key_block: header.key_block,
        bytes,
        frames,
    })
}
