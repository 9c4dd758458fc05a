//! The downloader: reads ranges of packs, several at a time.
//!
//! One a shard. A range is asked for once the memory for all that it turns into is granted, so what follows never
//! waits for memory. Limits: the memory budget, and `requests_max` requests in flight. A range that cannot be read
//! is passed on without bytes (its chunks may lie elsewhere) unless the repository itself is gone: that ends the
//! restore. Must never take a repository that is away for one that has lost its packs.

use std::collections::VecDeque;
use std::sync::Arc;

use mover_repository::backend::{Backend, StorageError};

use crate::error::Failure;
use crate::restore::messages::{ReadRange, SealedRange, Unread};
use crate::restore::report::add;
use crate::restore::site::Site;
use crate::runtime::{Address, Budget, Injector, Runtime, StopSignal, TaskHandle, Worker};

/// An object that every repository has: if it can be read, the repository is there.
const WITNESS: &str = "config";

/// Reads ranges.
pub struct Downloader<R> {
    runtime: R,
    backend: Arc<dyn Backend>,
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
    /// Where packs lie.
    pub backend: Arc<dyn Backend>,
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
        let DownloaderParts { backend, site, budget, stop, ranges, decompressor, requests_max } = parts;
        let requests = VecDeque::with_capacity(requests_max);
        Downloader { runtime, backend, site, budget, stop, ranges, decompressor, requests, requests_max }
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
        let (backend, site, decompressor) = (self.backend.clone(), self.site.clone(), self.decompressor.clone());
        self.requests.push_back(self.runtime.spawn("range request", async move {
            let object = range.pack.object_name();
            let end = range.start + range.bytes as u64;
            let answer = backend.get_range(&object, range.start..end).await;
            add(&site.tally.requests, 1);
            add(&site.tally.bytes_read, range.bytes as u64);
            site.progress.add_bytes_read(range.bytes as u64);
            let body = match answer {
                Ok(bytes) if bytes.len() == range.bytes => Ok(bytes),
                Ok(bytes) => Err(Unread::Failed(format!("{object} gave {} bytes for {}", bytes.len(), range.bytes))),
                Err(error) => match backend.size(WITNESS).await {
                    Ok(_) => Err(Unread::Failed(error.to_string())),
                    Err(away) => {
                        site.kill.kill(away_failure(&error, &away));
                        return;
                    }
                },
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

fn away_failure(error: &StorageError, away: &StorageError) -> Failure {
    Failure::repository(error.operation, &error.object, format!("{}; the repository does not answer: {away}", error.source))
        .with_retryable(true)
        .with_guidance("bring the repository back and run the same restore again with --overwrite if-changed; what is complete is kept")
        .with_source(away.clone())
}
