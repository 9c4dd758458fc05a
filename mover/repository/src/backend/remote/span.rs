//! Ranges of one object by one request: the answer is read on as each range is asked for, and waits in the connection in
//! between. So a pack costs one request, and memory only for the range that somebody has room for. A range alone is a
//! span of one. An answer that breaks off goes on where it ended.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
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
        Self { reading: Arc::new(Mutex::new(Reading::new(client, name.to_owned(), path, span))) }
    }
}

impl SpanReader for RemoteSpan {
    fn read(&mut self, range: Range<u64>) -> IoFuture<Bytes> {
        let mut turn = Box::pin(Arc::clone(&self.reading).lock_owned());
        // Takes its place in the queue now: tasks do not start in the order in which they were made.
        let at_once = turn.as_mut().now_or_never();
        start("read", async move {
            let mut reading = match at_once {
                Some(reading) => reading,
                None => turn.await,
            };
            if reading.is_before(&range) {
                return reading.read(range).await;
            }
            // It was begun for other ranges, or an earlier read was given up in the middle.
            let (client, name, path) = (Arc::clone(&reading.client), reading.name.clone(), reading.path.clone());
            drop(reading);
            read_range(client, name, path, range).await
        })
    }
}

/// Exactly the bytes of one range.
pub(super) async fn read_range(
    client: Arc<Client>,
    name: String,
    path: Path,
    range: Range<u64>,
) -> Result<Bytes, StorageError> {
    if !range.is_empty() {
        return Reading::new(client, name, path, range.clone()).read(range).await;
    }
    // There is nothing to ask for but whether the object reaches so far.
    match range.start <= client.size(&name, &path).await? {
        true => Ok(Bytes::new()),
        false => Err(client.short(&name)),
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
    fn new(client: Arc<Client>, name: String, path: Path, span: Range<u64>) -> Self {
        Self { client, name, path, at: span.start, end: span.end, answer: None, rest: Bytes::new() }
    }

    /// Whether a range can still come out of the answer.
    fn is_before(&self, range: &Range<u64>) -> bool {
        self.at <= range.start && range.start <= range.end && range.end <= self.end
    }

    async fn read(&mut self, range: Range<u64>) -> Result<Bytes, StorageError> {
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
