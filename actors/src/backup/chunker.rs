//! Chunker: reads what the scanner hands out and cuts it where the content says.
//!
//! One chunker is one *lane*; every shard runs [`LANES`] of them, so that one reads while the
//! buffer of the other is hashed and compressed. A batch of small files is one call of the source
//! and one buffer; a large file is read extent by extent, whichever lane is free. A chunk never
//! crosses an extent or a hole.
//!
//! Lives on one shard; its buffers never leave it. Bounded by the read-buffer budget and the
//! deduplicator's mailbox. Must never pad: what a file did not hold is not recorded, and the
//! recorder judges by the stats before and after whether the file stood still.

use std::sync::Arc;

use mover_repository::limits::EXTENT_BYTES;

use crate::backup::buffers::{BufferPool, READ_BYTES, ReadBuffer};
use crate::backup::cut::Cutter;
use crate::backup::messages::{AfterRead, CutBuffer, CutPart, CutSpan, FileTask, LargeFile, PartEnd, PartOf, Work};
use crate::backup::shared::JobShared;
use crate::error::Failure;
use crate::runtime::{Address, Injector, Pace, Reserve, Runtime, Worker};
use crate::source::{Attributes, FileKind, FileRead, FileRequest, FilesRead, SourceError, SourceErrorKind, Span};

/// Chunkers a shard.
pub const LANES: usize = 2;
/// A buffer with less room than this is sent on before the next read.
const READ_BYTES_MIN: usize = 256 << 10;

/// See the module.
pub struct Chunker<R: Runtime> {
    rt: R,
    job: Arc<JobShared>,
    fileset: usize,
    lane: usize,
    cutter: Cutter,
    buffers: BufferPool,
    /// One buffer that nobody can take away from this lane.
    reserve: Reserve,
    pace: Pace,
    /// Bytes on their way from one buffer to the next; kept for its memory.
    tail: Vec<u8>,
    work: Injector<Work>,
    next: Address<CutBuffer>,
}

/// A buffer that is being filled and cut.
struct Filling {
    buffer: ReadBuffer,
    /// First byte that belongs to no chunk yet.
    uncut: usize,
    spans: Vec<CutSpan>,
}

impl<R: Runtime> Worker for Chunker<R> {
    const NAME: &'static str = "chunker";

    async fn run(&mut self) -> Result<(), Failure> {
        while let Some(work) = self.work.take(self.rt.shard()).await {
            match work {
                // What was handed out before the stop and is not begun is given up: no recovery point comes of it.
                Work::Batch(tasks) if self.job.stop.is_requested() => {
                    self.give_up(tasks.into_iter().map(PartOf::Whole)).await?
                }
                Work::Extent { file, number } if self.job.stop.is_requested() => {
                    self.give_up([PartOf::Extent { file, number, last: false }]).await?;
                }
                Work::Batch(tasks) => self.batch(tasks).await?,
                Work::Extent { file, number } => self.extent(file, number).await?,
                Work::Stream(file) => self.stream(file).await?,
            }
        }
        Ok(())
    }
}

impl<R: Runtime> Chunker<R> {
    /// A chunker that takes from `work` and sends what it has cut to `next`, the deduplicator of its shard.
    #[allow(clippy::too_many_arguments, reason = "called once, by the wiring, which names each")]
    pub fn new(
        rt: &R,
        job: Arc<JobShared>,
        fileset: usize,
        lane: usize,
        buffers: BufferPool,
        reserve: Reserve,
        work: Injector<Work>,
        next: Address<CutBuffer>,
    ) -> Self {
        let cutter = Cutter::new(job.chunk_sizes, job.repository.secrets().gear());
        let (rt, pace, tail) = (rt.clone(), Pace::new(), vec![]);
        Self { rt, job, fileset, lane, cutter, buffers, reserve, pace, tail, work, next }
    }

    /// Says of each part that it was not read.
    async fn give_up(&mut self, parts: impl IntoIterator<Item = PartOf>) -> Result<(), Failure> {
        let parts = parts
            .into_iter()
            .map(|of| CutPart { spans: vec![], end: Some(PartEnd { of, outcome: Err(interrupted()) }) });
        let message =
            CutBuffer { lane: self.lane, data: Arc::new(ReadBuffer::detached(&self.buffers)), parts: parts.collect() };
        Ok(self.next.send(message).await?)
    }

    /// Small files and entries without content.
    async fn batch(&mut self, tasks: Vec<FileTask>) -> Result<(), Failure> {
        let is_file = |task: &&FileTask| task.stat.kind == FileKind::File;
        let requests: Vec<FileRequest> =
            tasks.iter().filter(is_file).map(|task| FileRequest { path: task.path.clone(), stat: task.stat }).collect();
        let mut buffer = self.buffers.take(&self.reserve).await;
        let mut files = if requests.is_empty() {
            vec![].into_iter()
        } else {
            match self.job.source.read_files(self.fileset, requests, buffer.lend()).await {
                Ok(FilesRead { buffer: bytes, files }) => {
                    buffer.put_back(bytes);
                    files.into_iter()
                }
                Err(error) => tasks.iter().filter(is_file).map(|_| Err(error.clone())).collect::<Vec<_>>().into_iter(),
            }
        };
        self.job.progress.add_bytes_read(buffer.len() as u64);
        let is_other = |task: &&FileTask| task.stat.kind != FileKind::File;
        let attributes_of = |task: &FileTask| self.job.source.attributes(self.fileset, &task.path, task.stat.kind);
        let mut attributes = tasks.iter().filter(is_other).map(attributes_of).collect::<Vec<_>>().into_iter();
        let mut parts = Vec::with_capacity(tasks.len());
        for task in tasks {
            let part = if task.stat.kind == FileKind::File {
                let read = files.next().expect("one result a request");
                self.whole_file(task, read, &buffer).await
            } else {
                let found = attributes.next().expect("one request an entry").await;
                let outcome = found.map(|found| AfterRead { stat: task.stat, attributes: Some(found), moved: false });
                CutPart { spans: vec![], end: Some(PartEnd { of: PartOf::Whole(task), outcome }) }
            };
            parts.push(part);
        }
        self.send(buffer, parts).await
    }

    /// Cuts one file of a batch.
    async fn whole_file(&mut self, task: FileTask, read: Result<FileRead, SourceError>, buffer: &[u8]) -> CutPart {
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                return CutPart { spans: vec![], end: Some(PartEnd { of: PartOf::Whole(task), outcome: Err(error) }) };
            }
        };
        let mut spans = vec![];
        let mut at = read.range.start;
        let whole = [Span::Data { offset: 0, bytes: read.range.len() as u64 }];
        let layout = if read.spans.is_empty() { &whole[..] } else { &read.spans[..] };
        for span in layout {
            match *span {
                Span::Hole { bytes, .. } => spans.push(CutSpan::Hole(bytes)),
                Span::Data { bytes, .. } => {
                    let end = at + bytes as usize;
                    while at < end {
                        let length = self.cutter.first(&buffer[at..end]);
                        spans.push(CutSpan::Chunk(at..at + length));
                        at += length;
                        self.pace.work(&self.rt, length).await;
                    }
                }
            }
        }
        drop_hole_behind(&mut spans, read.before.size.saturating_sub(read.after.size));
        // What counts is that the file stood still while it was read, not since it was listed.
        let mut task = task;
        task.stat = read.before;
        let attributes = Some(Attributes { xattrs: read.xattrs, link_target: None });
        let outcome = Ok(AfterRead { stat: read.after, attributes, moved: false });
        CutPart { spans, end: Some(PartEnd { of: PartOf::Whole(task), outcome }) }
    }

    /// One extent of a large file.
    async fn extent(&mut self, file: Arc<LargeFile>, number: u32) -> Result<(), Failure> {
        let start = u64::from(number) * EXTENT_BYTES;
        let end = file.task.stat.size.min(start + EXTENT_BYTES);
        let mut filling = self.filling().await;
        let outcome = match self.read_extent(&file, start, end, &mut filling).await? {
            Ok(()) => self.after(&file, number).await,
            Err(error) => Err(error),
        };
        if let Ok(after) = &outcome {
            drop_hole_behind(&mut filling.spans, end.saturating_sub(after.stat.size));
        }
        let end = PartEnd { of: PartOf::Extent { file, number, last: false }, outcome };
        self.send(filling.buffer, vec![CutPart { spans: filling.spans, end: Some(end) }]).await
    }

    async fn read_extent(
        &mut self,
        file: &LargeFile,
        start: u64,
        end: u64,
        filling: &mut Filling,
    ) -> Result<Result<(), SourceError>, Failure> {
        let spans = if file.task.stat.may_have_holes() {
            match file.handle.spans(start..end).await {
                Ok(spans) => spans,
                Err(error) => return Ok(Err(error)),
            }
        } else {
            vec![Span::Data { offset: start, bytes: end - start }]
        };
        for span in spans {
            match span {
                Span::Hole { bytes, .. } => filling.spans.push(CutSpan::Hole(bytes)),
                Span::Data { offset, bytes } => match self.read_run(file, offset, bytes, filling).await? {
                    Ok(read) if read == bytes => {}
                    Ok(_shorter) => break,
                    Err(error) => return Ok(Err(error)),
                },
            }
        }
        Ok(Ok(()))
    }

    /// Reads and cuts `bytes` bytes of data without a hole; fewer if the file ends before.
    async fn read_run(
        &mut self,
        file: &LargeFile,
        offset: u64,
        bytes: u64,
        filling: &mut Filling,
    ) -> Result<Result<u64, SourceError>, Failure> {
        let mut done = 0;
        while done < bytes {
            let room = self.room(filling).await?;
            let want = room.min(READ_BYTES).min((bytes - done).min(READ_BYTES as u64) as usize);
            let before = filling.buffer.len();
            let reading = file.handle.read_at(offset + done, want, filling.buffer.lend());
            let answer = match self.job.is_stream {
                // A silent producer may keep the read for ever; nothing of a stream that is stopped is kept.
                true => futures_lite::future::or(reading, self.stopped()).await,
                false => reading.await,
            };
            match answer {
                Ok(buffer) => filling.buffer.put_back(buffer),
                Err(error) => return Ok(Err(error)),
            }
            let read = filling.buffer.len() - before;
            done += read as u64;
            self.job.progress.add_bytes_read(read as u64);
            self.cut(filling, read < want || done == bytes).await;
            if read < want {
                break;
            }
        }
        Ok(Ok(done))
    }

    async fn stopped<T>(&self) -> Result<T, SourceError> {
        self.job.stop.requested().await;
        Err(interrupted())
    }

    /// Cuts what can be cut: all of it at the end of a run, else every chunk whose end is known.
    async fn cut(&mut self, filling: &mut Filling, run_ends: bool) {
        loop {
            let rest = &filling.buffer[filling.uncut..];
            let length = match rest {
                [] => return,
                _ if run_ends => self.cutter.first(rest),
                _ => match self.cutter.first_known(rest) {
                    Some(length) => length,
                    None => return,
                },
            };
            filling.spans.push(CutSpan::Chunk(filling.uncut..filling.uncut + length));
            filling.uncut += length;
            self.pace.work(&self.rt, length).await;
        }
    }

    /// Room for the next read; sends a full buffer on and carries its uncut tail into a new one.
    async fn room(&mut self, filling: &mut Filling) -> Result<usize, Failure> {
        let room = self.buffers.buffer_bytes() - filling.buffer.len();
        if room >= READ_BYTES_MIN {
            return Ok(room);
        }
        // The tail is copied out first: the reserve may be the very buffer that is sent away.
        let mut tail = std::mem::take(&mut self.tail);
        tail.extend_from_slice(&filling.buffer[filling.uncut..]);
        let spans = std::mem::take(&mut filling.spans);
        let full = std::mem::replace(&mut filling.buffer, ReadBuffer::detached(&self.buffers));
        self.send(full, vec![CutPart { spans, end: None }]).await?;
        filling.buffer = self.buffers.take(&self.reserve).await;
        filling.buffer.carry(&tail);
        filling.uncut = 0;
        tail.clear();
        self.tail = tail;
        Ok(self.buffers.buffer_bytes() - filling.buffer.len())
    }

    /// A stream: read to its end, a part for every [`EXTENT_BYTES`] of it.
    async fn stream(&mut self, file: Arc<LargeFile>) -> Result<(), Failure> {
        let mut number = 0;
        loop {
            let start = u64::from(number) * EXTENT_BYTES;
            let mut filling = self.filling().await;
            let read = self.read_run(&file, start, EXTENT_BYTES, &mut filling).await?;
            let (outcome, last) = match read {
                Ok(bytes) => (self.after(&file, number).await, bytes < EXTENT_BYTES),
                Err(error) => (Err(error), true),
            };
            let end = PartEnd { of: PartOf::Extent { file: file.clone(), number, last }, outcome };
            self.send(filling.buffer, vec![CutPart { spans: filling.spans, end: Some(end) }]).await?;
            if last {
                return Ok(());
            }
            number += 1;
        }
    }

    async fn after(&mut self, file: &LargeFile, number: u32) -> Result<AfterRead, SourceError> {
        let attributes = match number {
            0 => Some(Attributes { xattrs: file.handle.xattrs().await?, link_target: None }),
            _ => None,
        };
        Ok(AfterRead { stat: file.handle.stat().await?, attributes, moved: false })
    }

    async fn filling(&mut self) -> Filling {
        let buffer = self.buffers.take(&self.reserve).await;
        Filling { buffer, uncut: 0, spans: vec![] }
    }

    async fn send(&mut self, buffer: ReadBuffer, parts: Vec<CutPart>) -> Result<(), Failure> {
        let message = CutBuffer { lane: self.lane, data: Arc::new(buffer), parts };
        Ok(self.next.send(message).await?)
    }
}

fn interrupted() -> SourceError {
    let cause = "the backup was interrupted".into();
    SourceError { path: vec![], operation: "read", kind: SourceErrorKind::Internal, cause }
}

/// A file that shrank while it was read does not end in a hole that it has no more: nothing is padded, not even with holes.
fn drop_hole_behind(spans: &mut Vec<CutSpan>, mut missing: u64) {
    while let Some(CutSpan::Hole(bytes)) = spans.last_mut()
        && missing > 0
    {
        let cut = missing.min(*bytes);
        *bytes -= cut;
        missing -= cut;
        if *bytes == 0 {
            spans.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F19: what was cut off a file while it was read is not recorded as a hole either.
    #[test]
    fn f19_a_hole_behind_the_end_of_a_file_that_shrank_is_dropped() {
        let cut = |missing| {
            let mut spans = vec![CutSpan::Hole(50), CutSpan::Chunk(0..10), CutSpan::Hole(30), CutSpan::Hole(40)];
            drop_hole_behind(&mut spans, missing);
            spans
        };
        assert_eq!(cut(0).len(), 4);
        assert_eq!(cut(40), [CutSpan::Hole(50), CutSpan::Chunk(0..10), CutSpan::Hole(30)]);
        assert_eq!(cut(60), [CutSpan::Hole(50), CutSpan::Chunk(0..10), CutSpan::Hole(10)]);
        assert_eq!(cut(1000), [CutSpan::Hole(50), CutSpan::Chunk(0..10)], "data that was read stays");
    }
}
