//! Reads frames of one pack front to back in runs of about 4 MiB, the next ones while one is worked on: neither the disk
//! nor the core waits for the other. Of a far store all runs come by one request, unless much lies between them that
//! nobody wants. Memory: [`RUN_BYTES`] × ([`RUNS_AHEAD`] + 1). Blocks.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use super::{Begun, FrameInfo};
use crate::backend::{Backend, IoFuture, SpanReader, StorageErrorKind, joins_span};
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
    asked: VecDeque<Asked<'f, F>>,
    /// The request that is read on, and where it ends.
    span: Option<Begun>,
    /// A request for many runs has failed: from now on each has its own.
    is_apart: bool,
}

/// A run on its way.
struct Asked<'f, F> {
    frames: &'f [F],
    range: Range<u64>,
    read: IoFuture<Bytes>,
    manner: Manner,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// By a request for many runs.
    Together,
    /// By a request of its own.
    Alone,
    /// By a request of its own, after one that failed.
    Again,
}

impl<'f, F: Framed> FrameRuns<'f, F> {
    /// Reads `frames`, in their order in the pack, of the pack object `name`.
    pub(crate) fn new(backend: &'f dyn Backend, name: &'f str, frames: &'f [F]) -> Self {
        Self { backend, name, rest: frames, asked: VecDeque::new(), span: None, is_apart: false }
    }

    /// The same by a request that was begun, if there is one.
    pub(crate) fn going_on(self, span: Option<Begun>) -> Self {
        Self { span, ..self }
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
            let (frames, behind) = self.rest.split_at(count);
            self.rest = behind;
            let (read, manner) = match self.span_of(&range) {
                Some(span) => (span.read(range.clone()), Manner::Together),
                None => (self.backend.get_range(self.name, range.clone()), Manner::Alone),
            };
            self.asked.push_back(Asked { frames, range, read, manner });
        }
    }

    /// The request that has a run: the one that is read on, or a new one for it and all that follow close enough.
    fn span_of(&mut self, run: &Range<u64>) -> Option<&mut Box<dyn SpanReader>> {
        if self.span.as_ref().is_none_or(|(_, end)| run.end > *end) {
            let mut end = run.end;
            for frame in self.rest {
                let span = frame.span();
                if !joins_span(end, span.start) {
                    break;
                }
                end = span.end;
            }
            let is_alone = self.is_apart || end == run.end;
            let begun = if is_alone { None } else { self.backend.span(self.name, run.start..end) };
            self.span = begun.map(|span| (span, end));
        }
        self.span.as_mut().map(|(span, _)| span)
    }

    fn alone(&self, frames: &'f [F], range: Range<u64>, manner: Manner) -> Asked<'f, F> {
        let read = self.backend.get_range(self.name, range.clone());
        Asked { frames, range, read, manner }
    }
}

impl<'f, F: Framed> Iterator for FrameRuns<'f, F> {
    type Item = FrameRun<'f, F>;

    /// The next run; asked for a second time if that may help. Of one that cannot be read each frame comes alone: some may
    /// be as they were.
    fn next(&mut self) -> Option<FrameRun<'f, F>> {
        self.ask();
        loop {
            let Asked { frames, range, read, manner } = self.asked.pop_front()?;
            let error = match block_on(read) {
                Ok(bytes) => return Some(FrameRun { frames, range, bytes: Ok(bytes) }),
                Err(error) => error,
            };
            let may_help = match (manner, error.kind) {
                (_, StorageErrorKind::NotFound) | (Manner::Again, _) => false,
                // An object that is cut short has what lies before its end.
                (Manner::Together, _) | (Manner::Alone, StorageErrorKind::Other) => true,
                (Manner::Alone, _) => false,
            };
            if may_help {
                (self.is_apart, self.span) = (true, None);
                self.asked.push_front(self.alone(frames, range, Manner::Again));
            } else if frames.len() > 1 && error.kind != StorageErrorKind::NotFound {
                for frame in frames.chunks(1).rev() {
                    self.asked.push_front(self.alone(frame, frame[0].span(), Manner::Alone));
                }
            } else {
                return Some(FrameRun { frames, range, bytes: Err(unreadable(error, self.name)) });
            }
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
    fn a_far_pack_is_one_request_but_for_what_lies_far_apart() {
        let backend = FaultyBackend::far(Arc::new(MemoryBackend::new()));
        block_on(backend.create("packs/x", vec![7; 30 << 20].into())).unwrap();
        let pieces = [0u64, 2, 4, 6, 8, 10, 20, 22, 24].map(|mib| Piece(mib << 20..(mib << 20) + (3 << 19)));
        let runs = FrameRuns::new(&backend, "packs/x", &pieces);
        // Half a MiB lies between most of them: too much for one read, and too little for another request.
        assert!(runs.map(|run| (run.frames.len(), run.bytes.unwrap().len())).eq(vec![(1, 3 << 19); 9]));
        assert_eq!(backend.count(Operation::GetRange, ""), 2);
    }

    #[test]
    fn a_far_pack_that_is_cut_short_gives_what_it_has() {
        let backend = FaultyBackend::far(Arc::new(MemoryBackend::new()));
        block_on(backend.create("packs/x", content().into())).unwrap();
        // The request for all runs, as one for bytes beyond the end, is refused.
        let refused = Fault::at(Operation::GetRange, 1, Effect::Io);
        backend.plan(refused);
        let pieces = [0..100_000, 400_000..500_000, 800_000..900_000, 1_200_000..1_300_000].map(Piece);
        assert_eq!(read(&backend, &pieces), (vec![1, 1, 1, 1], vec![1_200_000]));
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
