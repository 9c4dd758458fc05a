//! A stream of unknown length as a source: [`StreamSource`], for `--stdin NAME`.
//!
//! One fileset whose root is one regular file. Its bytes come once, in order: [`SourceFile::read_at`] must ask for
//! them in sequence, and a short answer is the end. Nothing is read ahead of what is asked for, so a stalled job
//! stalls the writer of the stream.
//!
//! One thread of its own reads; it is not joined, because a read of a silent pipe cannot be interrupted. It ends
//! with the read that it is in. That a producer died is not visible to a reader of a pipe: an end is an end.
//!
//! Must never: read twice, or take a failed read for the end.

use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use crossbeam::channel::Sender;
use mover_repository::ids::UnixNanos;
use mover_repository::io::{Completer, completion};
use parking_lot::Mutex;

use super::{
    Attributes, FileKind, FileRequest, FilesRead, FilesetSpec, Listed, Listing, SIZE_UNKNOWN, Source, SourceError,
    SourceErrorKind, SourceFile, SourceFuture, Span, Stat, Xattrs,
};

struct ReadOrder {
    offset: u64,
    want: usize,
    buffer: Vec<u8>,
    done: Completer<Result<Vec<u8>, SourceError>>,
}

struct Shared {
    name: Vec<u8>,
    orders: Sender<ReadOrder>,
    stat: Mutex<Stat>,
}

/// Bytes from a pipe, as one file.
#[derive(Clone)]
pub struct StreamSource {
    shared: Arc<Shared>,
}

impl StreamSource {
    /// The stream `name`, read from `input`.
    pub fn new(name: Vec<u8>, input: impl Read + Send + 'static) -> std::io::Result<Self> {
        let now = UnixNanos::now();
        let stat = Stat {
            kind: FileKind::File,
            mode: 0o600,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            mtime: now,
            ctime: now,
            inode: 0,
            device: 0,
            links: 1,
            size: SIZE_UNKNOWN,
            blocks_bytes: SIZE_UNKNOWN,
            rdev: (0, 0),
            birth: None,
        };
        let (orders, inbox) = crossbeam::channel::unbounded::<ReadOrder>();
        let shared = Arc::new(Shared { name: name.clone(), orders, stat: Mutex::new(stat) });
        let weak = Arc::downgrade(&shared);
        std::thread::Builder::new().name("stream".to_owned()).spawn(move || {
            let mut reader = Reader { name, input, position: 0, ended: false, failed: None };
            for order in inbox {
                let result = reader.serve(order.offset, order.want, order.buffer);
                if let (true, Some(shared)) = (reader.ended, weak.upgrade()) {
                    let mut stat = shared.stat.lock();
                    stat.size = reader.position;
                    stat.blocks_bytes = reader.position;
                }
                order.done.complete(result);
            }
        })?;
        Ok(Self { shared })
    }

    fn refuse<T>(&self, operation: &'static str) -> SourceFuture<T> {
        let error = SourceError {
            path: self.shared.name.clone(),
            operation,
            kind: SourceErrorKind::NotSupported,
            cause: "a stream is one file, read once from its beginning".to_owned(),
        };
        Box::pin(async move { Err(error) })
    }
}

struct Reader<R> {
    name: Vec<u8>,
    input: R,
    position: u64,
    ended: bool,
    failed: Option<SourceError>,
}

impl<R: Read> Reader<R> {
    fn serve(&mut self, offset: u64, want: usize, mut buffer: Vec<u8>) -> Result<Vec<u8>, SourceError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        if offset != self.position {
            let cause = format!("byte {offset} was asked for, the stream is at {}", self.position);
            return Err(self.error(SourceErrorKind::NotSupported, cause));
        }
        if self.ended {
            return Ok(buffer);
        }
        let start = buffer.len();
        buffer.reserve(want);
        // `take` and `read_to_end` fill spare capacity without zeroing it first.
        match self.input.by_ref().take(want as u64).read_to_end(&mut buffer) {
            Ok(bytes) => {
                self.position += bytes as u64;
                self.ended = bytes < want;
                Ok(buffer)
            }
            Err(cause) => {
                self.position += (buffer.len() - start) as u64;
                let error = self.error(SourceErrorKind::Io, cause.to_string());
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    fn error(&self, kind: SourceErrorKind, cause: String) -> SourceError {
        SourceError { path: self.name.clone(), operation: "read", kind, cause }
    }
}

impl Source for StreamSource {
    fn describe(&self) -> String {
        format!("the stream {}", String::from_utf8_lossy(&self.shared.name))
    }

    fn fileset_count(&self) -> usize {
        1
    }

    fn fileset(&self, _k: usize) -> FilesetSpec {
        FilesetSpec { root_path: self.shared.name.clone() }
    }

    fn is_sequential(&self, _k: usize) -> bool {
        true
    }

    fn root(&self, _k: usize) -> SourceFuture<Listed> {
        let stat = *self.shared.stat.lock();
        Box::pin(async move { Ok(Listed { name: Vec::new(), stat }) })
    }

    fn list(&self, _k: usize, _directory: &[u8]) -> SourceFuture<Listing> {
        self.refuse("list")
    }

    fn stat(&self, _k: usize, _path: &[u8]) -> SourceFuture<Stat> {
        let stat = *self.shared.stat.lock();
        Box::pin(async move { Ok(stat) })
    }

    fn attributes(&self, _k: usize, _path: &[u8], _kind: FileKind) -> SourceFuture<Attributes> {
        Box::pin(async { Ok(Attributes::default()) })
    }

    fn read_files(&self, _k: usize, _files: Vec<FileRequest>, _buffer: Vec<u8>) -> SourceFuture<FilesRead> {
        self.refuse("read")
    }

    fn open_file(&self, _k: usize, path: &[u8], _stat: &Stat) -> SourceFuture<Arc<dyn SourceFile>> {
        if !path.is_empty() {
            return self.refuse("open");
        }
        let file: Arc<dyn SourceFile> = Arc::new(StreamFile { shared: self.shared.clone() });
        Box::pin(async move { Ok(file) })
    }
}

struct StreamFile {
    shared: Arc<Shared>,
}

impl SourceFile for StreamFile {
    fn read_at(&self, offset: u64, want: usize, buffer: Vec<u8>) -> SourceFuture<Vec<u8>> {
        let (done, result) = completion();
        let name = self.shared.name.clone();
        // The channel holds what callers have in flight and never fills by itself.
        let sent = self.shared.orders.send(ReadOrder { offset, want, buffer, done });
        let lost = move || SourceError {
            path: name,
            operation: "read",
            kind: SourceErrorKind::Internal,
            cause: "the reader of the stream ended".to_owned(),
        };
        Box::pin(async move {
            match (sent, result.await) {
                (Ok(()), Ok(read)) => read,
                _ => Err(lost()),
            }
        })
    }

    fn spans(&self, range: Range<u64>) -> SourceFuture<Vec<Span>> {
        let end = range.end.min(self.shared.stat.lock().size);
        let bytes = end.saturating_sub(range.start);
        let spans = if bytes == 0 { Vec::new() } else { vec![Span::Data { offset: range.start, bytes }] };
        Box::pin(async move { Ok(spans) })
    }

    fn stat(&self) -> SourceFuture<Stat> {
        let stat = *self.shared.stat.lock();
        Box::pin(async move { Ok(stat) })
    }

    fn xattrs(&self) -> SourceFuture<Xattrs> {
        Box::pin(async { Ok(Xattrs::new()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::block_on;

    /// Gives its bytes in odd pieces, as a pipe does, then fails or ends.
    struct Pipe {
        bytes: std::collections::VecDeque<u8>,
        fails: bool,
    }

    impl Read for Pipe {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.bytes.is_empty() && self.fails {
                return Err(std::io::Error::other("cable pulled"));
            }
            let bytes = buffer.len().min(self.bytes.len()).min(777);
            for slot in &mut buffer[..bytes] {
                *slot = self.bytes.pop_front().unwrap();
            }
            Ok(bytes)
        }
    }

    fn open(bytes: &[u8], fails: bool) -> Arc<dyn SourceFile> {
        let source =
            StreamSource::new(b"dump".to_vec(), Pipe { bytes: bytes.iter().copied().collect(), fails }).unwrap();
        let root = block_on(source.root(0)).unwrap();
        assert_eq!((root.stat.kind, root.stat.size), (FileKind::File, SIZE_UNKNOWN));
        block_on(source.open_file(0, b"", &root.stat)).unwrap()
    }

    #[test]
    fn a_stream_comes_in_order_and_its_end_tells_the_size() {
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        let file = open(&bytes, false);
        let mut got = Vec::new();
        loop {
            let part = block_on(file.read_at(got.len() as u64, 4096, Vec::new())).unwrap();
            got.extend_from_slice(&part);
            if part.len() < 4096 {
                break;
            }
        }
        assert_eq!(got, bytes);
        assert_eq!(block_on(file.stat()).unwrap().size, bytes.len() as u64);
        assert!(block_on(file.read_at(0, 10, Vec::new())).is_err(), "a stream has no second reading");
    }

    #[test]
    fn a_failed_read_is_not_the_end() {
        let file = open(&[1; 5000], true);
        assert_eq!(block_on(file.read_at(0, 4096, Vec::new())).unwrap().len(), 4096);
        let error = block_on(file.read_at(4096, 4096, Vec::new())).unwrap_err();
        assert!(error.cause.contains("cable"), "{error}");
        assert!(block_on(file.read_at(5000, 4096, Vec::new())).is_err(), "the failure stays");
        assert_eq!(block_on(file.stat()).unwrap().size, SIZE_UNKNOWN);
    }
}
