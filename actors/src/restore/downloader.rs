//! The downloader: reads ranges of packs, several at a time.
//!
//! One a shard. A range is asked for once the memory for all that it turns into is granted, so what follows never
//! waits for memory. The ranges of a span come one after the other, of a far store by one request; spans come side by
//! side. Limits: the memory budget, and `requests_max` spans in flight. A range that cannot be read is passed on without
//! bytes (its chunks may lie elsewhere) unless the repository itself is gone: that ends the restore. Must never take a
//! repository that is away for one that has lost its packs.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use mover_repository::backend::{SpanReader, StorageError};

use crate::error::Failure;
use crate::restore::messages::{ReadRange, ReadSpan, SealedRange, Unread};
use crate::restore::report::add;
use crate::restore::site::Site;
use crate::runtime::{Address, Budget, Injector, Permit, Runtime, StopSignal, TaskHandle, Worker};

/// Reads ranges.
pub struct Downloader<R> {
    runtime: R,
    work: Arc<Work>,
    spans: Injector<ReadSpan>,
    requests: VecDeque<TaskHandle>,
    requests_max: usize,
}

/// What a downloader works with.
pub struct DownloaderParts {
    /// The counts and the kill switch.
    pub site: Arc<Site>,
    /// Memory for ranges and what they turn into.
    pub budget: Budget,
    /// Ends the restore early.
    pub stop: StopSignal,
    /// Reads that any shard may take.
    pub spans: Injector<ReadSpan>,
    /// The next actor of the shard.
    pub decompressor: Address<SealedRange>,
    /// Spans in flight on this shard.
    pub requests_max: usize,
}

/// What the tasks of a shard share.
struct Work {
    site: Arc<Site>,
    budget: Budget,
    stop: StopSignal,
    decompressor: Address<SealedRange>,
}

impl<R: Runtime> Downloader<R> {
    /// A downloader on the shard of `runtime`.
    pub fn new(runtime: R, parts: DownloaderParts) -> Self {
        let DownloaderParts { site, budget, stop, spans, decompressor, requests_max } = parts;
        let work = Arc::new(Work { site, budget, stop, decompressor });
        Downloader { runtime, work, spans, requests: VecDeque::with_capacity(requests_max), requests_max }
    }

    async fn begin(&mut self, span: ReadSpan) {
        let mut ranges = span.ranges.into_iter();
        let Some(first) = ranges.next() else { return };
        // Memory for the first range before the next span is looked at: so the order of the plan is kept.
        let permit = self.work.room(&first).await;
        while self.requests.len() >= self.requests_max {
            if let Some(oldest) = self.requests.pop_front() {
                oldest.await;
            }
        }
        let work = self.work.clone();
        self.requests.push_back(self.runtime.spawn("range request", async move {
            let others = ranges.as_slice();
            let end = others.last().unwrap_or(&first);
            let whole = first.start..end.start + end.bytes as u64;
            let mut together = match others.is_empty() {
                true => None,
                false => work.site.backend.span(&first.pack.object_name(), whole),
            };
            let mut next = Some((first, permit));
            while let Some((range, permit)) = next {
                if !work.read(&mut together, range, permit).await {
                    return;
                }
                next = match ranges.next() {
                    Some(range) => {
                        let permit = work.room(&range).await;
                        Some((range, permit))
                    }
                    None => None,
                };
            }
        }));
    }
}

impl Work {
    /// Memory for a range. A frame larger than its share of the budget goes alone.
    async fn room(&self, range: &ReadRange) -> Permit {
        self.budget.acquire(range.cost_bytes.min(self.budget.total_bytes())).await
    }

    /// Reads one range and passes it on. False if the restore has ended.
    async fn read(&self, span: &mut Option<Box<dyn SpanReader>>, range: ReadRange, permit: Permit) -> bool {
        if self.stop.is_requested() {
            let unread = SealedRange { range, body: Err(Unread::Stopped), permit };
            return self.decompressor.send(unread).await.is_ok();
        }
        let object = range.pack.object_name();
        let (wanted, bytes) = (range.start..range.start + range.bytes as u64, range.bytes as u64);
        let answer = match span {
            Some(span) => span.read(wanted).await,
            None => self.site.backend.get_range(&object, wanted).await,
        };
        add(&self.site.tally.requests, 1);
        add(&self.site.tally.bytes_read, bytes);
        self.site.progress.add_bytes_read(bytes);
        let Some(body) = self.judge(answer, &object, range.bytes).await else { return false };
        if body.is_err() {
            // What could be read by one request before may be readable range by range.
            *span = None;
        }
        // A decompressor that has ended tells its own cause.
        self.decompressor.send(SealedRange { range, body, permit }).await.is_ok()
    }

    /// The bytes, or why there are none; nothing if the repository is gone, which ends the restore.
    async fn judge(
        &self,
        answer: Result<Bytes, StorageError>,
        object: &str,
        bytes: usize,
    ) -> Option<Result<Bytes, Unread>> {
        match answer {
            Ok(read) if read.len() == bytes => Some(Ok(read)),
            Ok(read) => Some(Err(Unread::Failed(format!("{object} gave {} bytes for {bytes}", read.len())))),
            Err(error) => {
                let cause = error.to_string();
                if let Some(gone) = self.site.repository_gone(&cause).await {
                    self.site.kill.kill(gone);
                    return None;
                }
                Some(Err(Unread::Failed(cause)))
            }
        }
    }
}

impl<R: Runtime> Worker for Downloader<R> {
    const NAME: &'static str = "downloader";

    async fn run(&mut self) -> Result<(), Failure> {
        while let Some(span) = self.spans.take(self.runtime.shard()).await {
            self.begin(span).await;
        }
        while let Some(request) = self.requests.pop_front() {
            request.await;
        }
        Ok(())
    }
}
