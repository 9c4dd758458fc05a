//! The decompressor: opens sealed frames, decompresses them and checks every chunk that is needed.
//!
//! One a shard; CPU work only, with a yield each MiB. A chunk whose frame does not open or whose hash is wrong is
//! looked for at its other places; only if none has it, the files that need it are given up. Limits: one frame at a
//! time, its memory is in the permit of its range and goes with the last slice of it; [`OPENERS_MAX`] pack keys are
//! kept. Must never pass on a byte whose chunk hash was not checked.

use std::sync::Arc;

use bytes::Bytes;
use mover_repository::chunk_reader::ChunkReader;
use mover_repository::ids::{ChunkId, PackId};
use mover_repository::pack::PackOpener;
use mover_repository::repository::Repository;

use crate::error::Failure;
use crate::restore::messages::{FrameRead, PlainFrame, PlainPiece, SealedRange, Unread};
use crate::restore::planned_file::Lost;
use crate::restore::report::add;
use crate::restore::site::Site;
use crate::runtime::{Actor, Address, Pace, Permit, Runtime};

/// Pack keys that are kept open. Ranges come sorted by pack, so few are in use at a time.
const OPENERS_MAX: usize = 16;

/// Opens and checks frames.
pub struct Decompressor<R> {
    runtime: R,
    repository: Repository,
    chunks: Arc<ChunkReader>,
    site: Arc<Site>,
    writer: Address<PlainFrame>,
    openers: Vec<(PackId, Arc<PackOpener>)>,
    pace: Pace,
}

/// The plain bytes of a frame and the memory that they hold.
struct PlainBytes {
    plain: Bytes,
    _permit: Permit,
}

impl AsRef<[u8]> for PlainBytes {
    fn as_ref(&self) -> &[u8] {
        &self.plain
    }
}

impl<R: Runtime> Decompressor<R> {
    /// A decompressor on the shard of `runtime`.
    pub fn new(
        runtime: R,
        repository: Repository,
        chunks: Arc<ChunkReader>,
        site: Arc<Site>,
        writer: Address<PlainFrame>,
    ) -> Self {
        Decompressor { runtime, repository, chunks, site, writer, openers: Vec::new(), pace: Pace::new() }
    }

    /// The opener of the range's pack, kept for the ranges that follow.
    fn opener(&mut self, sealed: &SealedRange) -> Result<Arc<PackOpener>, String> {
        let pack = &sealed.range.pack;
        if let Some(at) = self.openers.iter().position(|(id, _)| *id == pack.id) {
            let hit = self.openers.remove(at);
            let opener = hit.1.clone();
            self.openers.push(hit);
            return Ok(opener);
        }
        let opener = PackOpener::new(self.repository.secrets(), pack).map_err(|error| error.to_string())?;
        let opener = Arc::new(opener);
        if self.openers.len() == OPENERS_MAX {
            self.openers.remove(0);
        }
        self.openers.push((pack.id, opener.clone()));
        Ok(opener)
    }

    /// Checks the chunks of a frame and cuts them out, one piece a place.
    async fn cut(&mut self, frame: FrameRead, plain: Result<Bytes, String>) -> Vec<PlainPiece> {
        let mut pieces = Vec::with_capacity(frame.places.len());
        let mut checked: Option<(ChunkId, Result<Bytes, Lost>)> = None;
        for place in frame.places {
            let known = checked.as_ref().is_some_and(|(chunk, _)| *chunk == place.chunk);
            if !known {
                let bytes = self.checked_chunk(&place.chunk, &plain, place.chunk_offset, place.chunk_bytes).await;
                checked = Some((place.chunk, bytes));
            }
            let Some((_, bytes)) = &checked else { continue };
            pieces.push(PlainPiece { file: place.file, file_offset: place.file_offset, bytes: bytes.clone() });
        }
        pieces
    }

    async fn checked_chunk(
        &mut self,
        chunk: &ChunkId,
        plain: &Result<Bytes, String>,
        offset: u32,
        length: u32,
    ) -> Result<Bytes, Lost> {
        let range = offset as usize..offset as usize + length as usize;
        let damage = match plain {
            Ok(plain) if range.end > plain.len() => "its frame is shorter than the index says".to_owned(),
            Ok(plain) => {
                let bytes = plain.slice(range);
                self.pace.work(&self.runtime, bytes.len()).await;
                if self.repository.secrets().chunk_id(&bytes) == *chunk {
                    return Ok(bytes);
                }
                "its bytes do not match its id".to_owned()
            }
            Err(cause) => cause.clone(),
        };
        // Tries every place that the index knows, this one again among them.
        match self.chunks.read(chunk).await {
            Ok(bytes) if bytes.len() == length as usize => {
                tracing::warn!(%chunk, %damage, "a damaged chunk was found whole in another place");
                add(&self.site.tally.chunks_rescued, 1);
                Ok(bytes)
            }
            Ok(_) => Err(Lost::Cause(format!("chunk {chunk}: its length is not what the index says"))),
            Err(error) => {
                let cause = format!("chunk {chunk} is lost: {damage}; {error}");
                if let Some(gone) = self.site.repository_gone(&cause).await {
                    self.site.kill.kill(gone);
                }
                Err(Lost::Cause(cause))
            }
        }
    }

    async fn give_up(&mut self, sealed: SealedRange) -> Result<(), Failure> {
        let places = sealed.range.frames.into_iter().flat_map(|frame| frame.places);
        let pieces = places.map(|place| PlainPiece {
            file: place.file,
            file_offset: place.file_offset,
            bytes: Err(Lost::Stopped),
        });
        Ok(self.writer.send(PlainFrame { pieces: pieces.collect(), last_of_range: true }).await?)
    }
}

impl<R: Runtime> Actor for Decompressor<R> {
    type Message = SealedRange;
    const NAME: &'static str = "decompressor";

    async fn handle(&mut self, mut sealed: SealedRange) -> Result<(), Failure> {
        let body = match &sealed.body {
            Err(Unread::Stopped) => return self.give_up(sealed).await,
            Err(Unread::Failed(cause)) => Err(cause.clone()),
            Ok(body) => Ok(body.clone()),
        };
        let opener = self.opener(&sealed);
        let frames = std::mem::take(&mut sealed.range.frames);
        let frames_count = frames.len();
        for (at, frame) in frames.into_iter().enumerate() {
            let opened = match (&body, &opener) {
                (Ok(body), Ok(opener)) => {
                    self.site.progress.add_frames(1);
                    let bytes = body.slice(frame.start..frame.start + frame.sealed_bytes);
                    opener.open_frame_bytes(frame.number, bytes).map_err(|error| error.to_string())
                }
                (Err(cause), _) | (_, Err(cause)) => Err(cause.clone()),
            };
            let share_bytes = frame.plain_bytes.min(sealed.permit.bytes());
            let permit = sealed.permit.split(share_bytes);
            let plain = opened.map(|plain| Bytes::from_owner(PlainBytes { plain, _permit: permit }));
            if let Ok(plain) = &plain {
                self.pace.work(&self.runtime, plain.len()).await;
            }
            let pieces = self.cut(frame, plain).await;
            let last_of_range = at + 1 == frames_count;
            self.writer.send(PlainFrame { pieces, last_of_range }).await?;
        }
        Ok(())
    }
}
