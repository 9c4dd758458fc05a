//! Many ranges of one object by one request: the answer is read on as each range is asked for, and waits in the
//! connection in between. So a pack costs one request, and memory only for the range that somebody has room for.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use tokio::sync::Mutex;

use super::client::Client;
use super::error::{Failed, innermost};
use super::retry::Tries;
use super::runtime::start;
use crate::backend::{IoFuture, SpanReader, StorageError, ready};

/// See the module.
pub(super) struct RemoteSpan {
    reading: Arc<Mutex<Reading>>,
}

struct Reading {
    client: Arc<Client>,
    name: String,
    path: Path,
    /// Where the next byte of the answer lies in the object, and where the last one ends.
    at: u64,
    end: u64,
    answer: Option<BoxStream<'static, object_store::Result<Bytes>>>,
    /// Bytes of the answer that nobody asked for yet.
    rest: Bytes,
}

impl RemoteSpan {
    pub(super) fn new(client: Arc<Client>, name: &str, path: Path, span: Range<u64>) -> Self {
        let name = name.to_owned();
        let reading = Reading { client, name, path, at: span.start, end: span.end, answer: None, rest: Bytes::new() };
        Self { reading: Arc::new(Mutex::new(reading)) }
    }
}

impl SpanReader for RemoteSpan {
    fn read(&mut self, range: Range<u64>) -> IoFuture<Bytes> {
        let reading = Arc::clone(&self.reading);
        start("read", async move { reading.lock().await.read(range).await })
    }
}

/// A span of a name that no object may have.
pub(super) struct RefusedSpan(pub StorageError);

impl SpanReader for RefusedSpan {
    fn read(&mut self, _: Range<u64>) -> IoFuture<Bytes> {
        ready(Err(self.0.clone()))
    }
}

impl Reading {
    async fn read(&mut self, range: Range<u64>) -> Result<Bytes, StorageError> {
        if range.start < self.at || range.end > self.end || range.start > range.end {
            // It was begun for other ranges, or an earlier read was given up in the middle.
            return self.client.get_range(&self.name, &self.path, range).await;
        }
        let bytes = (range.end - range.start) as usize;
        let mut body = BytesMut::with_capacity(bytes);
        let mut tries = Tries::default();
        while body.len() < bytes {
            let failed = match self.take_on(range.start, bytes - body.len(), &mut body).await? {
                Ok(()) => {
                    tries = Tries::default();
                    continue;
                }
                Err(failed) => failed,
            };
            self.answer = None;
            if !self.client.wait("read", &self.name, &mut tries, &failed).await {
                return Err(failed.into_error("read", &self.name).at(&self.client.shown));
            }
        }
        Ok(body.freeze())
    }

    /// Takes the next piece of the answer: what lies before `start` is dropped, at most `wanted` bytes are added to `body`.
    async fn take_on(
        &mut self,
        start: u64,
        wanted: usize,
        body: &mut BytesMut,
    ) -> Result<Result<(), Failed>, StorageError> {
        if self.rest.is_empty() {
            match self.next_piece().await? {
                Ok(piece) => self.rest = piece,
                Err(failed) => return Ok(Err(failed)),
            }
        }
        let gap = start.saturating_sub(self.at).min(self.rest.len() as u64);
        self.rest.advance(gap as usize);
        let taken = self.rest.split_to(self.rest.len().min(wanted));
        self.at += gap + taken.len() as u64;
        body.extend_from_slice(&taken);
        Ok(Ok(()))
    }

    async fn next_piece(&mut self) -> Result<Result<Bytes, Failed>, StorageError> {
        if self.answer.is_none() {
            let begun = self.client.begin(&self.name, &self.path, self.at..self.end).await?;
            self.answer = Some(begun.into_stream());
        }
        let answer = self.answer.as_mut().expect("begun above");
        Ok(match answer.next().await {
            Some(Ok(piece)) => Ok(piece),
            Some(Err(error)) => Err(Failed::network(innermost(&error))),
            None => Err(Failed::network("the answer was cut short")),
        })
    }
}
