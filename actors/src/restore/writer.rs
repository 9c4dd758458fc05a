//! The writer: puts plain bytes under their names in the target.
//!
//! Files that lie within one read range are gathered and written in batches, one blocking call of the target for
//! up to [`BATCH_FILES_MAX`] files or [`BATCH_BYTES_MAX`]; longer ones are written piece by piece under a temporary
//! name, in any order, by any shard, and whoever writes the last piece finishes the file. One a shard. Limits: at
//! most [`CALLS_MAX`] calls of the target in flight. Must never hold a piece back beyond its range: memory that
//! waits for input could be the memory that the input waits for.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Failure;
use crate::restore::messages::{PlainFrame, PlainPiece};
use crate::restore::planned_file::PlannedFile;
use crate::restore::site::Site;
use crate::runtime::{Actor, Runtime, TaskHandle};

/// Files in one call of the target: enough that the hand-over to its threads does not count.
const BATCH_FILES_MAX: usize = 256;
/// Bytes in one call of the target.
const BATCH_BYTES_MAX: usize = 2 << 20;
/// Calls of the target in flight on one shard: its threads never run dry while this shard decodes.
const CALLS_MAX: usize = 8;

/// Writes of one open file that are next to each other in time.
struct Pieces {
    file: Arc<PlannedFile>,
    pieces: u64,
    writes: Vec<(u64, Bytes)>,
    bytes: usize,
}

/// The last actor of a restore.
pub struct Writer<R> {
    runtime: R,
    site: Arc<Site>,
    whole: Vec<Arc<PlannedFile>>,
    whole_bytes: usize,
    pieces: Option<Pieces>,
    calls: VecDeque<TaskHandle>,
}

impl<R: Runtime> Writer<R> {
    /// A writer on the shard of `runtime`.
    pub fn new(runtime: R, site: Arc<Site>) -> Self {
        Writer { runtime, site, whole: Vec::new(), whole_bytes: 0, pieces: None, calls: VecDeque::new() }
    }

    async fn gather(&mut self, piece: PlainPiece) {
        let PlainPiece { file, file_offset, bytes } = piece;
        match bytes {
            // A file that is given up may lie in several ranges: nothing of it is held.
            Ok(_) if file.lost().is_some() => {}
            Ok(bytes) => {
                self.whole_bytes += bytes.len();
                file.gather(file_offset, bytes);
            }
            Err(lost) => file.lose(lost),
        }
        if !file.settle(1) {
            return;
        }
        self.whole.push(file);
        if self.whole.len() >= BATCH_FILES_MAX || self.whole_bytes >= BATCH_BYTES_MAX {
            self.write_whole().await;
        }
    }

    async fn add_piece(&mut self, piece: PlainPiece) {
        let PlainPiece { file, file_offset, bytes } = piece;
        if self.pieces.as_ref().is_some_and(|pieces| !Arc::ptr_eq(&pieces.file, &file)) {
            self.write_pieces().await;
        }
        let pieces = self.pieces.get_or_insert_with(|| Pieces { file, pieces: 0, writes: Vec::new(), bytes: 0 });
        pieces.pieces += 1;
        match bytes {
            Ok(bytes) => {
                pieces.bytes += bytes.len();
                pieces.writes.push((file_offset, bytes));
            }
            Err(lost) => pieces.file.lose(lost),
        }
        if pieces.bytes >= BATCH_BYTES_MAX {
            self.write_pieces().await;
        }
    }

    async fn write_whole(&mut self) {
        if self.whole.is_empty() {
            return;
        }
        let files = std::mem::take(&mut self.whole);
        self.whole_bytes = 0;
        let site = self.site.clone();
        self.start(async move { site.write_whole(files).await }).await;
    }

    async fn write_pieces(&mut self) {
        let Some(Pieces { file, pieces, writes, .. }) = self.pieces.take() else { return };
        let site = self.site.clone();
        self.start(async move { site.write_pieces(&file, pieces, writes).await }).await;
    }

    async fn start(&mut self, call: impl Future<Output = ()> + 'static) {
        while self.calls.len() >= CALLS_MAX {
            if let Some(oldest) = self.calls.pop_front() {
                oldest.await;
            }
        }
        self.calls.push_back(self.runtime.spawn("target call", call));
    }
}

impl<R: Runtime> Actor for Writer<R> {
    type Message = PlainFrame;
    const NAME: &'static str = "writer";

    async fn handle(&mut self, frame: PlainFrame) -> Result<(), Failure> {
        for piece in frame.pieces {
            if piece.file.is_whole() {
                self.gather(piece).await;
            } else {
                self.add_piece(piece).await;
            }
        }
        if frame.last_of_range {
            self.write_pieces().await;
            self.write_whole().await;
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        self.write_pieces().await;
        self.write_whole().await;
        while let Some(call) = self.calls.pop_front() {
            call.await;
        }
        Ok(())
    }
}
