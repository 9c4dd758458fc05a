//! Reads copies of chunks that are relied on instead of others, before these go: each frame once, the packs side by side.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::survey::{Place, Sources};
use crate::blocking::side_by_side;
use crate::error::{RepositoryError, Result};
use crate::ids::ChunkId;
use crate::pack::{FrameRuns, Framed, PackOpener};
use crate::repository::Repository;

type Copy = (Place, ChunkId);

/// The copies that one frame holds.
struct FrameCopies<'c>(&'c [Copy]);

impl Framed for FrameCopies<'_> {
    fn span(&self) -> std::ops::Range<u64> {
        let (place, _) = self.0[0];
        place.frame_offset..place.frame_offset + u64::from(place.frame_bytes)
    }
}

/// Those that are not what they should be, and why: one of each frame, in the order of places. Memory: a few runs of
/// frames a thread. Blocks.
///
/// # Errors
/// What says nothing about the copies: storage errors.
pub(super) fn damaged_copies(
    repository: &Repository,
    sources: &Sources,
    mut copies: Vec<Copy>,
    threads: usize,
) -> Result<Vec<(Place, RepositoryError)>> {
    copies.sort_unstable();
    let packs: Vec<&[Copy]> = copies.chunk_by(|(a, _), (b, _)| a.pack == b.pack).collect();
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(Place, RepositoryError)>> {
        let mut damaged = Vec::new();
        while let Some(pack) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
            // Who fails ends it for all.
            let found = damaged_in_pack(repository, sources, pack);
            damaged.extend(found.inspect_err(|_| next.store(packs.len(), Ordering::Relaxed))?);
        }
        Ok(damaged)
    };
    let found = side_by_side(threads.min(packs.len()), work);
    let mut damaged = found.into_iter().collect::<Result<Vec<_>>>()?.concat();
    damaged.sort_unstable_by_key(|(place, _)| *place);
    Ok(damaged)
}

fn damaged_in_pack(
    repository: &Repository,
    sources: &Sources,
    copies: &[Copy],
) -> Result<Vec<(Place, RepositoryError)>> {
    let info = &sources.packs[copies[0].0.pack as usize];
    let name = info.object_name();
    let opener = PackOpener::new(repository.secrets(), info);
    let by_frame = copies.chunk_by(|(a, _), (b, _)| (a.frame, a.frame_offset) == (b.frame, b.frame_offset));
    let frames: Vec<FrameCopies<'_>> = by_frame.map(FrameCopies).collect();
    let mut damaged = Vec::new();
    for run in FrameRuns::new(repository.backend().as_ref(), &name, &frames) {
        for frame in run.frames {
            let (first, _) = frame.0[0];
            let opened = run.sealed(frame).and_then(|sealed| {
                opener.as_ref().map_err(Clone::clone).and_then(|opener| opener.open_frame_bytes(first.frame, sealed))
            });
            let checked = opened.and_then(|plain| {
                let is_whole = |(place, id): &&Copy| {
                    chunk_at(&plain, place).map(|chunk| repository.secrets().chunk_id(chunk)) == Some(*id)
                };
                match frame.0.iter().find(|copy| !is_whole(copy)) {
                    None => Ok(()),
                    Some((place, id)) => Err(RepositoryError::corrupt(
                        format!("{name} frame {}", place.frame),
                        format!("chunk {id} has other bytes"),
                    )),
                }
            });
            match checked {
                Ok(()) => {}
                Err(error @ RepositoryError::Storage(_)) => return Err(error),
                Err(error) => damaged.push((first, error)),
            }
        }
    }
    Ok(damaged)
}

fn chunk_at<'p>(plain: &'p [u8], place: &Place) -> Option<&'p [u8]> {
    let from = place.chunk_offset as usize;
    plain.get(from..from.checked_add(place.chunk_bytes as usize)?)
}
