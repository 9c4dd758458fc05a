//! Writes one large object: gathers it in a temporary file and sends it by one request, or by several if it is larger
//! than a part. A part is on its way while the next one is gathered.
//!
//! Appends are answered once their bytes are in the file, so the memory of a job is free again; see [`Spill`]. The name
//! appears with the last request. The first error poisons the writer. Dropped before `finish`, nothing is left but, if
//! the process is killed, parts without a name: a store removes them by a rule of its bucket
//! (`AbortIncompleteMultipartUpload`).

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::{MultipartId, PutMode, PutPayload};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::client::{Client, Lost};
use super::error::Failed;
use super::runtime::runtime;
use super::spill::Spill;
use crate::backend::{IoFuture, ObjectWriter, StorageError, StorageErrorKind, ready};

type Answer = oneshot::Sender<Result<(), StorageError>>;

enum Step {
    Append(Vec<Bytes>, Answer),
    Finish(Answer),
}

/// See the module.
pub(super) struct RemoteWriter {
    name: String,
    steps: mpsc::UnboundedSender<Step>,
}

impl RemoteWriter {
    pub(super) fn begin(client: Arc<Client>, name: &str, path: Result<Path, StorageError>) -> Box<dyn ObjectWriter> {
        let path = match path {
            Ok(path) => path,
            Err(error) => return Box::new(Refused(error)),
        };
        // Whoever appends holds a permit for the memory, so the queue needs no bound.
        let (steps, inbox) = mpsc::unbounded_channel();
        let object =
            Object { client, name: name.to_owned(), path, upload: None, parts: JoinSet::new(), sent: Vec::new() };
        runtime().spawn(object.run(inbox));
        Box::new(RemoteWriter { name: name.to_owned(), steps })
    }

    fn submit(&self, step: impl FnOnce(Answer) -> Step) -> IoFuture<()> {
        let (answer, answered) = oneshot::channel();
        // A task that has ended drops the answer, which says so.
        let _ = self.steps.send(step(answer));
        let name = self.name.clone();
        Box::pin(async move {
            let ended = |_| StorageError::of_kind("write", name, StorageErrorKind::Poisoned, "the writer has ended");
            answered.await.map_err(ended).flatten()
        })
    }
}

impl ObjectWriter for RemoteWriter {
    fn append(&mut self, parts: Vec<Bytes>) -> IoFuture<()> {
        self.submit(|answer| Step::Append(parts, answer))
    }

    fn finish(self: Box<Self>) -> IoFuture<()> {
        self.submit(Step::Finish)
    }
}

/// A writer of a name that no object may have.
struct Refused(StorageError);

impl ObjectWriter for Refused {
    fn append(&mut self, _: Vec<Bytes>) -> IoFuture<()> {
        ready(Err(self.0.clone()))
    }

    fn finish(self: Box<Self>) -> IoFuture<()> {
        ready(Err(self.0))
    }
}

/// The object, on the runtime.
struct Object {
    client: Arc<Client>,
    name: String,
    path: Path,
    /// Once there is more than one part.
    upload: Option<MultipartId>,
    parts: JoinSet<Result<(usize, PartId), StorageError>>,
    sent: Vec<Option<PartId>>,
}

impl Object {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Step>) {
        let mut spill: Option<Spill> = None;
        let mut total_bytes = 0;
        let mut failed: Option<StorageError> = None;
        while let Some(step) = inbox.recv().await {
            let (result, answer) = match (step, &failed) {
                (Step::Append(_, answer) | Step::Finish(answer), Some(error)) => (Err(error.clone()), answer),
                (Step::Append(parts, answer), None) => {
                    total_bytes += parts.iter().map(|part| part.len() as u64).sum::<u64>();
                    (self.append(&mut spill, parts).await, answer)
                }
                (Step::Finish(answer), None) => {
                    let finished = self.finish(spill.take(), total_bytes).await;
                    let _ = answer.send(finished);
                    return;
                }
            };
            failed = result.as_ref().err().cloned();
            let _ = answer.send(result);
        }
        self.abandon().await;
    }

    fn local(&self, error: io::Error) -> StorageError {
        let place = std::env::temp_dir();
        let message = format!("temporary file in {}: {error}", place.display());
        // Never said to be the store that is full.
        let help = "what waits for the network lies there: free space in it, or name another directory by TMPDIR";
        Failed::of_kind(StorageErrorKind::Poisoned, message).with_help(help).into_error("write", &self.name)
    }

    async fn append(&mut self, spill: &mut Option<Spill>, parts: Vec<Bytes>) -> Result<(), StorageError> {
        let (open, spills) = (spill.take(), self.client.spills.clone());
        let written = tokio::task::spawn_blocking(move || {
            let mut open = match open {
                Some(open) => open,
                None => spills.open()?,
            };
            open.append(&parts)?;
            Ok::<_, io::Error>(open)
        });
        let open = written.await.map_err(io::Error::other).flatten().map_err(|error| self.local(error))?;
        if open.bytes() >= self.client.part_bytes {
            return self.send_part(open).await;
        }
        *spill = Some(open);
        Ok(())
    }

    /// Sends what was gathered as the next part, beside what follows.
    async fn send_part(&mut self, spill: Spill) -> Result<(), StorageError> {
        let body = spill.into_bytes().map_err(|error| self.local(error))?;
        let upload = match &self.upload {
            Some(upload) => upload.clone(),
            None => {
                let (client, path) = (&self.client, &self.path);
                let begin = || async {
                    client.lock_next(&self.name).await?;
                    client.store.create_multipart(path).await
                };
                let begun = client.persist("write", &self.name, begin).await?;
                self.upload.insert(begun).clone()
            }
        };
        let number = self.sent.len();
        self.sent.push(None);
        let (client, path, name) = (Arc::clone(&self.client), self.path.clone(), self.name.clone());
        self.parts.spawn(async move {
            let put = || client.store.put_part(&path, &upload, number, PutPayload::from_bytes(body.clone()));
            Ok((number, client.persist("write", &name, put).await?))
        });
        Ok(())
    }

    async fn finish(&mut self, spill: Option<Spill>, total_bytes: u64) -> Result<(), StorageError> {
        let Some(upload) = self.upload.clone() else {
            let body = spill.map_or(Ok(Bytes::new()), Spill::into_bytes).map_err(|error| self.local(error))?;
            return self.put(body).await;
        };
        if let Some(spill) = spill {
            self.send_part(spill).await?;
        }
        while let Some(sent) = self.parts.join_next().await {
            let ended = |error| StorageError::of_kind("write", &*self.name, StorageErrorKind::Other, error);
            let (number, part) = sent.map_err(ended).flatten()?;
            self.sent[number] = Some(part);
        }
        let parts: Vec<PartId> = self.sent.iter().flatten().cloned().collect();
        let client = &self.client;
        let complete = || client.store.complete_multipart(&self.path, &upload, parts.clone());
        match client.persist_and_tell("write", &self.name, complete).await {
            Ok(_) => Ok(()),
            // The answer to the try that did it was lost.
            Err((error, Lost::Perhaps)) if error.kind == StorageErrorKind::NotFound => {
                self.is_there(total_bytes, error).await
            }
            Err((error, _)) => Err(error),
        }
    }

    async fn put(&self, body: Bytes) -> Result<(), StorageError> {
        let client = &self.client;
        let bytes = body.len() as u64;
        let put = || async {
            client.lock_next(&self.name).await?;
            let payload = PutPayload::from_bytes(body.clone());
            client.store.put_opts(&self.path, payload, PutMode::Create.into()).await
        };
        match client.persist_and_tell("write", &self.name, put).await {
            Ok(_) => Ok(()),
            Err((error, Lost::Perhaps)) if error.kind == StorageErrorKind::AlreadyExists => {
                self.is_there(bytes, error).await
            }
            Err((error, _)) => Err(error),
        }
    }

    /// Whether an earlier try made the object after all. Large objects have names that nobody else draws.
    async fn is_there(&self, bytes: u64, otherwise: StorageError) -> Result<(), StorageError> {
        match self.client.size(&self.name, &self.path).await {
            Ok(stored) if stored == bytes => Ok(()),
            _ => Err(otherwise),
        }
    }

    async fn abandon(mut self) {
        self.parts.abort_all();
        while self.parts.join_next().await.is_some() {}
        if let Some(upload) = &self.upload {
            // What cannot be removed now goes by the rule of the bucket.
            let _ = self.client.store.abort_multipart(&self.path, upload).await;
        }
    }
}
