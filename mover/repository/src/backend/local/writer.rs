//! Streams a large object into a temporary file.
//!
//! Appends queue up and are written in call order by one pool thread at a time, so several may
//! be in flight and a writer never occupies more than one thread. Write-back is started while
//! the file fills, so that the fsync at the end, on a thread of its own pool, finds little left.
//! The first error poisons the writer: all that follows reports it.

use super::completed;
use super::directory::Directory;
use crate::backend::{IoFuture, ObjectWriter, StorageError, check_name};
use crate::io::{Completer, Pool, completion};
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fd::{AsRawFd, OwnedFd};
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes after which write-back of what was written is started.
const WRITE_BACK_BYTES: u64 = 4 << 20;

type Answer = Completer<Result<(), StorageError>>;

enum Step {
    Append(Vec<Bytes>, Answer),
    Finish(Answer),
    Abandon,
}

#[derive(Default)]
struct Queue {
    steps: VecDeque<Step>,
    /// A pool thread is at work on this queue.
    is_running: bool,
}

#[derive(Default)]
struct Output {
    file: Option<OwnedFd>,
    temporary: String,
    bytes: u64,
    bytes_in_write_back: u64,
    first_error: Option<StorageError>,
}

struct Stream {
    directory: Arc<Directory>,
    name: String,
    syncers: Arc<Pool>,
    queue: Mutex<Queue>,
    output: Mutex<Output>,
}

pub(super) struct LocalWriter {
    stream: Arc<Stream>,
    writers: Arc<Pool>,
    is_finished: bool,
}

impl LocalWriter {
    pub(super) fn new(directory: Arc<Directory>, name: &str, writers: Arc<Pool>, syncers: Arc<Pool>) -> Self {
        let output = Output { first_error: check_name("write", name).err(), ..Output::default() };
        let stream =
            Stream { directory, name: name.to_owned(), syncers, queue: Mutex::default(), output: Mutex::new(output) };
        Self { stream: Arc::new(stream), writers, is_finished: false }
    }

    fn submit(&self, step: Step) {
        let mut queue = self.stream.queue.lock();
        queue.steps.push_back(step);
        if !queue.is_running {
            queue.is_running = true;
            let stream = Arc::clone(&self.stream);
            self.writers.execute(move || drain(&stream));
        }
    }
}

impl ObjectWriter for LocalWriter {
    fn append(&mut self, parts: Vec<Bytes>) -> IoFuture<()> {
        let (answer, answered) = completion();
        self.submit(Step::Append(parts, answer));
        completed("write", &self.stream.name, &self.stream.directory.shown, answered)
    }

    fn finish(mut self: Box<Self>) -> IoFuture<()> {
        self.is_finished = true;
        let (answer, answered) = completion();
        self.submit(Step::Finish(answer));
        completed("write", &self.stream.name, &self.stream.directory.shown, answered)
    }
}

impl Drop for LocalWriter {
    fn drop(&mut self) {
        if !self.is_finished {
            self.submit(Step::Abandon);
        }
    }
}

/// Takes steps until there is none. At most one thread is in here for a stream.
fn drain(stream: &Arc<Stream>) {
    loop {
        let step = {
            let mut queue = stream.queue.lock();
            match queue.steps.pop_front() {
                Some(step) => step,
                None => {
                    queue.is_running = false;
                    return;
                }
            }
        };
        match step {
            Step::Append(parts, answer) => {
                let result = stream.append(&parts);
                // The memory is free before whoever waits for it goes on.
                drop(parts);
                answer.complete(result);
            }
            Step::Finish(answer) => {
                let finishing = Arc::clone(stream);
                stream.syncers.execute(move || {
                    let result = finishing.finish();
                    answer.complete(result);
                });
            }
            Step::Abandon => stream.abandon(&mut stream.output.lock()),
        }
    }
}

impl Stream {
    fn append(&self, parts: &[Bytes]) -> Result<(), StorageError> {
        let mut output = self.output.lock();
        if let Some(first) = &output.first_error {
            return Err(first.clone());
        }
        let result = self.write(&mut output, parts);
        self.keep_first_error(&mut output, result)
    }

    fn write(&self, output: &mut Output, parts: &[Bytes]) -> Result<(), StorageError> {
        self.open(output)?;
        let file = output.file.as_ref().expect("just opened");
        let slices: Vec<&[u8]> = parts.iter().map(Bytes::as_ref).collect();
        self.directory.write_all(file, &self.name, output.bytes, &slices)?;
        output.bytes += slices.iter().map(|slice| slice.len() as u64).sum::<u64>();
        let pending = output.bytes - output.bytes_in_write_back;
        if pending >= WRITE_BACK_BYTES {
            start_write_back(file, &self.name, output.bytes_in_write_back, pending)?;
            output.bytes_in_write_back = output.bytes;
        }
        Ok(())
    }

    fn open(&self, output: &mut Output) -> Result<(), StorageError> {
        if output.file.is_none() {
            let (file, temporary) = self.directory.open_temporary(&self.name)?;
            output.file = Some(file);
            output.temporary = temporary;
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), StorageError> {
        super::Counters::add(&self.directory.counters.finishes, 1);
        let mut output = self.output.lock();
        if let Some(first) = output.first_error.clone() {
            self.abandon(&mut output);
            return Err(first);
        }
        let result = self.open(&mut output).and_then(|()| {
            let file = output.file.as_ref().expect("just opened");
            self.directory.sync_file(file, &self.name)?;
            // Nobody reads it soon, and what was hot on this machine before the backup is to stay so.
            let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
            self.directory.publish(&output.temporary, &self.name)
        });
        if self.keep_first_error(&mut output, result.clone()).is_err() {
            self.abandon(&mut output);
        }
        output.file = None;
        result
    }

    fn keep_first_error(&self, output: &mut Output, result: Result<(), StorageError>) -> Result<(), StorageError> {
        if let Err(error) = &result {
            output.first_error = Some(error.clone());
        }
        result
    }

    fn abandon(&self, output: &mut Output) {
        if output.file.take().is_some() {
            self.directory.abandon_temporary(&output.temporary);
        }
    }
}

/// Asks the kernel to begin writing a range to the disk, without waiting for it.
fn start_write_back(file: &OwnedFd, name: &str, offset: u64, bytes: u64) -> Result<(), StorageError> {
    // SAFETY: the descriptor is open for the length of the call, which touches no memory.
    let result = unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            offset as libc::off64_t,
            bytes as libc::off64_t,
            libc::SYNC_FILE_RANGE_WRITE,
        )
    };
    if result == 0 {
        return Ok(());
    }
    let cause = std::io::Error::last_os_error();
    match cause.raw_os_error() {
        // A file system without it loses the head start, nothing else.
        Some(libc::EINVAL | libc::ENOSYS | libc::ESPIPE | libc::EOPNOTSUPP) => Ok(()),
        _ => Err(StorageError::new("write", name, cause)),
    }
}
