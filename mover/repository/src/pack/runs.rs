//! Reads frames of one pack front to back in runs of about 4 MiB, the next ones while one is worked on: neither the disk
//! nor the core waits for the other. Memory: [`RUN_BYTES`] × ([`RUNS_AHEAD`] + 1). Blocks.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use super::FrameInfo;
use crate::backend::{Backend, IoFuture, StorageError, StorageErrorKind};
use crate::blocking::block_on;
use crate::chunk_reader::unreadable;
use crate::error::Result;

/// Bytes that one read of a pack asks for, if a frame is not larger.
const RUN_BYTES: u64 = 4 << 20;
/// Bytes between two frames that are read along, for a read of its own would cost more.
const GAP_BYTES_MAX: u64 = 256 << 10;
/// Reads that are under way while a run is worked on.
const RUNS_AHEAD: usize = 2;

/// What lies in a pack as a frame does.
pub(crate) trait Framed {
    /// Its sealed bytes in the object.
    fn span(&self) -> Range<u64>;
}

impl Framed for &FrameInfo {
    fn span(&self) -> Range<u64> {
        self.offset..self.offset + u64::from(self.sealed_bytes)
    }
}

/// Frames that are read together.
pub(crate) struct FrameRun<'f, F> {
    /// In the order of the pack.
    pub frames: &'f [F],
    range: Range<u64>,
    bytes: Result<Bytes>,
}

impl<F: Framed> FrameRun<'_, F> {
    /// The sealed bytes of one of its frames.
    ///
    /// # Errors
    /// Why the run could not be read.
    pub(crate) fn sealed(&self, frame: &F) -> Result<Bytes> {
        let bytes = self.bytes.as_ref().map_err(Clone::clone)?;
        let (span, start) = (frame.span(), self.range.start);
        Ok(bytes.slice((span.start - start) as usize..(span.end - start) as usize))
    }

    /// Bytes from its first frame to the end of its last one.
    pub(crate) fn span_bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// The runs of one pack.
pub(crate) struct FrameRuns<'f, F> {
    backend: &'f dyn Backend,
    name: &'f str,
    /// What is not asked for yet.
    rest: &'f [F],
    asked: VecDeque<(&'f [F], Range<u64>, IoFuture<Bytes>)>,
}

impl<'f, F: Framed> FrameRuns<'f, F> {
    /// Reads `frames`, in their order in the pack, of the pack object `name`.
    pub(crate) fn new(backend: &'f dyn Backend, name: &'f str, frames: &'f [F]) -> Self {
        Self { backend, name, rest: frames, asked: VecDeque::new() }
    }

    fn ask(&mut self) {
        while self.asked.len() <= RUNS_AHEAD
            && let Some((first, others)) = self.rest.split_first()
        {
            let mut range = first.span();
            let joins = |frame: &&F| {
                let span = frame.span();
                // The places of an index are no better than who wrote it: they may overlap.
                let is_near = span.start.checked_sub(range.end).is_some_and(|gap| gap <= GAP_BYTES_MAX)
                    && span.end - range.start <= RUN_BYTES;
                range.end = if is_near { span.end } else { range.end };
                is_near
            };
            let count = 1 + others.iter().take_while(joins).count();
            let (run, behind) = self.rest.split_at(count);
            self.rest = behind;
            self.asked.push_back((run, range.clone(), self.backend.get_range(self.name, range)));
        }
    }
}

impl<'f, F: Framed> Iterator for FrameRuns<'f, F> {
    type Item = FrameRun<'f, F>;

    /// The next run; asked for a second time if the error says that this may help. Of one that cannot be read each frame
    /// comes alone: some may be as they were.
    fn next(&mut self) -> Option<FrameRun<'f, F>> {
        self.ask();
        let (frames, range, read) = self.asked.pop_front()?;
        let again = |error: StorageError| match error.kind {
            StorageErrorKind::Other => block_on(self.backend.get_range(self.name, range.clone())),
            _ => Err(error),
        };
        match block_on(read).or_else(again) {
            Err(error) if frames.len() > 1 && error.kind != StorageErrorKind::NotFound => {
                for frame in frames.chunks(1).rev() {
                    let span = frame[0].span();
                    self.asked.push_front((frame, span.clone(), self.backend.get_range(self.name, span)));
                }
                self.next()
            }
            read => Some(FrameRun { frames, range, bytes: read.map_err(|error| unreadable(error, self.name)) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::faulty::{Effect, Fault, Operation};
    use crate::backend::{FaultyBackend, MemoryBackend};

    /// What lies anywhere in an object.
    struct Piece(Range<u64>);

    impl Framed for Piece {
        fn span(&self) -> Range<u64> {
            self.0.clone()
        }
    }

    fn content() -> Vec<u8> {
        (0..1_000_000u32).map(|at| (at / 7) as u8).collect()
    }

    fn store() -> FaultyBackend {
        let backend = FaultyBackend::new(Arc::new(MemoryBackend::new()));
        block_on(backend.create("packs/x", content().into())).unwrap();
        backend
    }

    /// How many pieces each run has; all that can be read are right, and the positions of those that cannot.
    fn read(backend: &FaultyBackend, pieces: &[Piece]) -> (Vec<usize>, Vec<u64>) {
        let (mut sizes, mut unread) = (Vec::new(), Vec::new());
        for run in FrameRuns::new(backend, "packs/x", pieces) {
            sizes.push(run.frames.len());
            for piece in run.frames {
                match run.sealed(piece) {
                    Ok(bytes) => assert!(bytes == content()[piece.0.start as usize..piece.0.end as usize]),
                    Err(_) => unread.push(piece.0.start),
                }
            }
        }
        (sizes, unread)
    }

    #[test]
    fn near_frames_are_read_together_and_far_ones_apart() {
        let backend = store();
        let pieces = [0..100_000, 100_000..200_000, 300_000..400_000, 900_000..1_000_000].map(Piece);
        assert_eq!(read(&backend, &pieces), (vec![3, 1], vec![]));
        assert_eq!(backend.count(Operation::GetRange, ""), 2);
    }

    #[test]
    fn places_that_overlap_or_go_back_are_read_one_by_one() {
        let backend = store();
        let pieces = [500_000..600_000, 550_000..650_000, 0..10].map(Piece);
        assert_eq!(read(&backend, &pieces), (vec![1, 1, 1], vec![]));
    }

    #[test]
    fn a_run_that_cannot_be_read_costs_only_the_frames_that_cannot() {
        let backend = store();
        // The run, and its second try.
        backend.plan(Fault::at(Operation::GetRange, 1, Effect::Io));
        backend.plan(Fault::at(Operation::GetRange, 2, Effect::Io));
        let pieces = [0..100, 100..200, 200..300].map(Piece);
        assert_eq!(read(&backend, &pieces), (vec![1, 1, 1], vec![]));
        assert_eq!(backend.count(Operation::GetRange, ""), 5);
        // An object that is cut short: what lies before its end is read.
        let beyond = [999_800..999_900, 999_900..1_000_000, 1_000_000..1_000_100].map(Piece);
        assert_eq!(read(&store(), &beyond), (vec![1, 1, 1], vec![1_000_000]));
    }
}
