//! The downloader: reads ranges of packs, several at a time.
//!
//! One a shard. A range is asked for once the memory for all that it turns into is granted, so what follows never
//! waits for memory. Limits: the memory budget, and `requests_max` requests in flight. A range that cannot be read
//! is passed on without bytes (its chunks may lie elsewhere) unless the repository itself is gone: that ends the
//! restore. Must never take a repository that is away for one that has lost its packs.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::Failure;
use crate::restore::messages::{ReadRange, SealedRange, Unread};
use crate::restore::report::add;
use crate::restore::site::Site;
use crate::runtime::{Address, Budget, Injector, Runtime, StopSignal, TaskHandle, Worker};

/// Reads ranges.
pub struct Downloader<R> {
    runtime: R,
    site: Arc<Site>,
    budget: Budget,
    stop: StopSignal,
    ranges: Injector<ReadRange>,
    decompressor: Address<SealedRange>,
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
    pub ranges: Injector<ReadRange>,
    /// The next actor of the shard.
    pub decompressor: Address<SealedRange>,
    /// Requests in flight on this shard.
    pub requests_max: usize,
}

impl<R: Runtime> Downloader<R> {
    /// A downloader on the shard of `runtime`.
    pub fn new(runtime: R, parts: DownloaderParts) -> Self {
        let DownloaderParts { site, budget, stop, ranges, decompressor, requests_max } = parts;
        let requests = VecDeque::with_capacity(requests_max);
        Downloader { runtime, site, budget, stop, ranges, decompressor, requests, requests_max }
    }

    async fn read(&mut self, range: ReadRange) -> Result<(), Failure> {
        // A frame larger than its share of the budget goes alone.
        let permit = self.budget.acquire(range.cost_bytes.min(self.budget.total_bytes())).await;
        if self.stop.is_requested() {
            let unread = SealedRange { range, body: Err(Unread::Stopped), permit };
            return Ok(self.decompressor.send(unread).await?);
        }
        while self.requests.len() >= self.requests_max {
            if let Some(oldest) = self.requests.pop_front() {
                oldest.await;
            }
        }
        let (site, decompressor) = (self.site.clone(), self.decompressor.clone());
        self.requests.push_back(self.runtime.spawn("range request", async move {
            let object = range.pack.object_name();
            let end = range.start + range.bytes as u64;
            let answer = site.backend.get_range(&object, range.start..end).await;
            add(&site.tally.requests, 1);
            add(&site.tally.bytes_read, range.bytes as u64);
            site.progress.add_bytes_read(range.bytes as u64);
            let body = match answer {
                Ok(bytes) if bytes.len() == range.bytes => Ok(bytes),
                Ok(bytes) => Err(Unread::Failed(format!("{object} gave {} bytes for {}", bytes.len(), range.bytes))),
                Err(error) => {
                    let cause = error.to_string();
                    if let Some(gone) = site.repository_gone(&cause).await {
                        site.kill.kill(gone);
                        return;
                    }
                    Err(Unread::Failed(cause))
                }
            };
            // A decompressor that has ended tells its own cause.
            let _ = decompressor.send(SealedRange { range, body, permit }).await;
        }));
        Ok(())
    }
}

impl<R: Runtime> Worker for Downloader<R> {
    const NAME: &'static str = "downloader";

    async fn run(&mut self) -> Result<(), Failure> {
        while let Some(range) = self.ranges.take(self.runtime.shard()).await {
            self.read(range).await?;
        }
        while let Some(request) = self.requests.pop_front() {
            request.await;
        }
        Ok(())
    }
}
