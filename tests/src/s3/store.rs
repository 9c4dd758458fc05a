//! The store behind the in-process server: `s3s-fs` with five things mended or made breakable.
//!
//! - Conditional writes are atomic as on S3: `s3s-fs` looks first and writes later, so that two could win.
//! - An upload that is over is missing, as on S3: `s3s-fs` calls it denied.
//! - Objects are read in large pieces: `s3s-fs` reads 4 KiB at a time, which a fast link would notice.
//! - [`Instead`], [`Hidden`] and [`Unconditional`], put into the request's extensions by the faults, change what is read,
//!   listed or written. This is behind the check of the signature, which a changed request would not pass.
//!
//! The body of a conditional write is held in memory: nothing may wait for a slow client while it holds the key.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_lite::{StreamExt, stream};
use s3s::dto::*;
use s3s::{S3, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tokio::task::spawn_blocking;

/// Bytes that one read of an object takes from its file.
const READ_BYTES: u64 = 256 << 10;

/// A read gets the bytes of this key instead.
#[derive(Debug, Clone)]
pub(super) struct Instead(pub String);

/// A listing lacks these keys.
#[derive(Debug, Clone)]
pub(super) struct Hidden(pub HashSet<String>);

/// A write takes place whatever its condition says.
#[derive(Debug, Clone)]
pub(super) struct Unconditional;

type Reply<'a, T> = Pin<Box<dyn Future<Output = S3Result<S3Response<T>>> + Send + 'a>>;
type KeyLock = Arc<tokio::sync::Mutex<()>>;

/// Objects in a directory.
#[derive(Debug)]
pub(super) struct Store {
    files: FileSystem,
    root: PathBuf,
    /// One lock for each key that ever had a conditional write.
    locks: Mutex<HashMap<(String, String), KeyLock>>,
}

impl Store {
    pub(super) fn new(root: PathBuf) -> Store {
        let files = FileSystem::new(&root).expect("open the directory of the object store");
        Store { files, root, locks: Mutex::default() }
    }

    fn lock_of(&self, bucket: &str, key: &str) -> KeyLock {
        let mut locks = self.locks.lock().expect("the locks of keys");
        locks.entry((bucket.to_owned(), key.to_owned())).or_default().clone()
    }

    async fn read(&self, mut request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        if let Some(Instead(key)) = request.extensions.get() {
            // Objects are mixed up; what is not there is still missing.
            if !self.root.join(&request.input.bucket).join(&request.input.key).is_file() {
                return Err(s3_error!(NoSuchKey));
            }
            request.input.key.clone_from(key);
        }
        let path = self.root.join(&request.input.bucket).join(&request.input.key);
        let mut response = self.files.get_object(request).await?;
        let file = File::open(path).map_err(|_| s3_error!(NoSuchKey))?;
        let output = &mut response.output;
        let bytes = output.content_length.and_then(|length| u64::try_from(length).ok()).unwrap_or(0);
        let offset = output.content_range.as_deref().map_or(0, first_of);
        output.body = Some(pieces(Arc::new(file), offset, offset + bytes));
        Ok(response)
    }

    async fn write(&self, mut request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        if request.extensions.get::<Unconditional>().is_some() {
            (request.input.if_none_match, request.input.if_match) = (None, None);
        }
        if request.input.if_none_match.is_none() && request.input.if_match.is_none() {
            return self.files.put_object(request).await;
        }
        if let Some(mut body) = request.input.body.take() {
            let mut held = Vec::new();
            while let Some(piece) = body.next().await {
                held.push(Ok::<Bytes, io::Error>(piece.map_err(|_| s3_error!(IncompleteBody))?));
            }
            request.input.body = Some(StreamingBlob::wrap(stream::iter(held)));
        }
        let lock = self.lock_of(&request.input.bucket, &request.input.key);
        let _held = lock.lock().await;
        self.files.put_object(request).await
    }

    async fn complete(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let lock = self.lock_of(&request.input.bucket, &request.input.key);
        let _held = lock.lock().await;
        let completed = self.files.complete_multipart_upload(request).await;
        // Signatures were checked before: what is denied here is an upload that does not exist, or not any more.
        completed.map_err(|error| match error.code() {
            S3ErrorCode::AccessDenied => s3_error!(NoSuchUpload),
            _ => error,
        })
    }

    async fn list(&self, request: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let hidden = request.extensions.get::<Hidden>().cloned();
        let mut response = self.files.list_objects_v2(request).await?;
        if let (Some(Hidden(keys)), Some(objects)) = (hidden, &mut response.output.contents) {
            let before = objects.len();
            objects.retain(|object| object.key.as_ref().is_none_or(|key| !keys.contains(key)));
            let gone = i32::try_from(before - objects.len()).unwrap_or(0);
            response.output.key_count = response.output.key_count.map(|count| count - gone);
        }
        Ok(response)
    }
}

/// The first byte of `bytes FIRST-LAST/ALL`.
fn first_of(content_range: &str) -> u64 {
    let digits = content_range.trim_start_matches("bytes ").split('-').next();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

fn pieces(file: Arc<File>, from: u64, to: u64) -> StreamingBlob {
    StreamingBlob::wrap(stream::try_unfold(from, move |at| {
        let file = Arc::clone(&file);
        async move {
            if at >= to {
                return Ok(None);
            }
            let length = READ_BYTES.min(to - at);
            let read = spawn_blocking(move || {
                let mut piece = vec![0; usize::try_from(length).expect("a small piece")];
                file.read_exact_at(&mut piece, at).map(|()| piece)
            });
            let piece = read.await.map_err(io::Error::other)??;
            Ok::<_, io::Error>(Some((Bytes::from(piece), at + length)))
        }
    }))
}

/// Methods that `s3s-fs` answers as they are. Written out because `async_trait` does not look into macros.
macro_rules! as_they_are {
    ($($name:ident($input:ident) -> $output:ident;)*) => {
        $(fn $name<'life, 'reply>(&'life self, request: S3Request<$input>) -> Reply<'reply, $output>
        where
            'life: 'reply,
            Self: 'reply,
        {
            self.files.$name(request)
        })*
    };
}

impl S3 for Store {
    as_they_are! {
        create_bucket(CreateBucketInput) -> CreateBucketOutput;
        head_bucket(HeadBucketInput) -> HeadBucketOutput;
        list_buckets(ListBucketsInput) -> ListBucketsOutput;
        get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput;
        head_object(HeadObjectInput) -> HeadObjectOutput;
        copy_object(CopyObjectInput) -> CopyObjectOutput;
        delete_object(DeleteObjectInput) -> DeleteObjectOutput;
        delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput;
        create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput;
        upload_part(UploadPartInput) -> UploadPartOutput;
        list_parts(ListPartsInput) -> ListPartsOutput;
        abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput;
    }

    fn get_object<'life, 'reply>(&'life self, request: S3Request<GetObjectInput>) -> Reply<'reply, GetObjectOutput>
    where
        'life: 'reply,
        Self: 'reply,
    {
        Box::pin(self.read(request))
    }

    fn put_object<'life, 'reply>(&'life self, request: S3Request<PutObjectInput>) -> Reply<'reply, PutObjectOutput>
    where
        'life: 'reply,
        Self: 'reply,
    {
        Box::pin(self.write(request))
    }

    fn complete_multipart_upload<'life, 'reply>(
        &'life self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> Reply<'reply, CompleteMultipartUploadOutput>
    where
        'life: 'reply,
        Self: 'reply,
    {
        Box::pin(self.complete(request))
    }

    fn list_objects_v2<'life, 'reply>(
        &'life self,
        request: S3Request<ListObjectsV2Input>,
    ) -> Reply<'reply, ListObjectsV2Output>
    where
        'life: 'reply,
        Self: 'reply,
    {
        Box::pin(self.list(request))
    }
}
