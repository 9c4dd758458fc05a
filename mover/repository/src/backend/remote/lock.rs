//! Object lock of S3: what is uploaded is kept until a date, whoever asks for its removal, and that date can be put off.
//!
//! The client library knows no lock. An upload gets its two headers in [`super::transport`], where the request is
//! finished: they count only if they are signed, so it is signed anew, by the library's own code. A lock is put off by a
//! request of its own, under a signed URL. Locks keep *versions*: whoever may write to the bucket can still hide one
//! behind a newer version or a delete marker, from where its owner brings it back.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use md5::{Digest, Md5};
use object_store::aws::{AmazonS3, AwsAuthorizer, AwsCredential};
use object_store::client::{HttpRequest, HttpService};
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};

use super::transport::{NOTE, Transport};
use crate::backend::conformance::SCRATCH_PREFIX;
use crate::backend::lock_time;
use crate::ids::{ObjectId, UnixNanos};

const MODE_HEADER: HeaderName = HeaderName::from_static("x-amz-object-lock-mode");
const UNTIL_HEADER: HeaderName = HeaderName::from_static("x-amz-object-lock-retain-until-date");
const HASH_HEADER: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const SCHEME: &str = "AWS4-HMAC-SHA256";
/// Time within which a signed URL has to be used: it is used at once.
const URL_VALID: Duration = Duration::from_secs(600);

/// Who may end a lock early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetentionMode {
    /// Whoever has a special permission of the store.
    Governance,
    /// Nobody.
    Compliance,
}

impl RetentionMode {
    fn name(self) -> &'static str {
        match self {
            Self::Governance => "GOVERNANCE",
            Self::Compliance => "COMPLIANCE",
        }
    }
}

/// How uploads are locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Who may end it early.
    pub mode: RetentionMode,
    /// How long, from the upload on; none: uploads are not locked, and `mode` is that of locks set later.
    pub period: Option<Duration>,
}

/// The lock of an object, as an answer told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub mode: RetentionMode,
    pub until: UnixNanos,
}

impl Held {
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let text = |name: HeaderName| headers.get(name)?.to_str().ok();
        let until = text(UNTIL_HEADER)?.parse::<jiff::Timestamp>().ok()?;
        let mode = match text(MODE_HEADER) {
            Some("GOVERNANCE") => RetentionMode::Governance,
            _ => RetentionMode::Compliance,
        };
        Some(Self { mode, until: UnixNanos(until.as_nanosecond()) })
    }

    pub(super) fn lasts(&self) -> bool {
        self.until > UnixNanos::now()
    }
}

/// The lock that the next signed request of a try asks for.
#[derive(Debug)]
pub(super) struct Wanted {
    credential: Arc<AwsCredential>,
    mode: RetentionMode,
    until: UnixNanos,
}

impl Wanted {
    /// True for a request that carries a signature which can be made anew.
    pub(super) fn fits(request: &HttpRequest) -> bool {
        region_of(request).is_some()
    }

    /// Puts the headers of the lock into a finished request, and signs it anew.
    pub(super) fn put_into(&self, request: &mut HttpRequest) -> object_store::Result<()> {
        let Some(region) = region_of(request).map(str::to_owned) else { return Ok(()) };
        let hash = request.headers().get(HASH_HEADER).and_then(|hash| hash.to_str().ok()?.parse::<ObjectId>().ok());
        let headers = request.headers_mut();
        headers.remove(AUTHORIZATION);
        headers.insert(MODE_HEADER, HeaderValue::from_static(self.mode.name()));
        headers.insert(UNTIL_HEADER, value(&lock_time(self.until)));
        let authorizer = AwsAuthorizer::new(&self.credential, "s3", &region).with_sign_payload(hash.is_some());
        authorizer.try_authorize(request, hash.as_ref().map(|hash| &hash.0[..]))
    }
}

/// The region in the scope `<key>/<day>/<region>/s3/aws4_request` that a request was signed for.
fn region_of(request: &HttpRequest) -> Option<&str> {
    let authorization = request.headers().get(AUTHORIZATION)?.to_str().ok()?.strip_prefix(SCHEME)?;
    let (scope, _) = authorization.split_once("Credential=")?.1.split_once(',')?;
    let mut parts = scope.rsplit('/');
    (parts.next() == Some("aws4_request") && parts.next() == Some("s3")).then(|| parts.next()).flatten()
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("times and digests are ASCII")
}

/// Locks the objects of one store.
pub(super) struct Lock {
    pub s3: AmazonS3,
    pub transport: Transport,
    pub retention: Retention,
}

impl Lock {
    /// Has the next request of this try lock what it uploads. What `doctor` and `prune` try out is never locked.
    pub(super) async fn next_upload(&self, name: &str) -> object_store::Result<()> {
        let Some(period) = self.retention.period.filter(|_| !is_scratch(name)) else { return Ok(()) };
        let credential = self.s3.credentials().get_credential().await?;
        let until = UnixNanos(UnixNanos::now().0.saturating_add(period.as_nanos() as i128));
        let wanted = Wanted { credential, mode: self.retention.mode, until };
        NOTE.with(|note| note.borrow_mut().wanted = Some(wanted));
        Ok(())
    }

    /// Puts the end of an object's lock off. One try.
    pub(super) async fn put_off(&self, path: &Path, held: Option<Held>, until: UnixNanos) -> object_store::Result<()> {
        // In another mode the store would take it for an attempt to weaken the lock.
        let mode = held.filter(Held::lasts).map_or(self.retention.mode, |held| held.mode);
        let (mode, until) = (mode.name(), lock_time(until));
        let body = format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{mode}</Mode>\
             <RetainUntilDate>{until}</RetainUntilDate></Retention>"
        );
        let digest = HeaderName::from_static("content-md5");
        let md5 = value(&BASE64_STANDARD.encode(Md5::digest(&body)));
        let options =
            SignedUrlOptions::new().with_query([("retention", "")]).with_signed_header(digest.clone(), md5.clone());
        let url = self.s3.signed_url_opts(http::Method::PUT, path, URL_VALID, &options).await?;
        let mut request = HttpRequest::new(body.into());
        *request.method_mut() = http::Method::PUT;
        *request.uri_mut() = url.as_str().parse().map_err(failed)?;
        request.headers_mut().insert(digest, md5);
        let answer = self.transport.call(request).await.map_err(failed)?;
        if answer.status().is_success() {
            return Ok(());
        }
        NOTE.with(|note| note.borrow_mut().is_locking = true);
        let said = answer.into_body().bytes().await.map_err(failed)?;
        Err(failed(String::from_utf8_lossy(&said).into_owned()))
    }
}

fn failed(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> object_store::Error {
    object_store::Error::Generic { store: "S3", source: cause.into() }
}

pub(super) fn is_scratch(name: &str) -> bool {
    name.strip_prefix(SCRATCH_PREFIX).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(scope: &str) -> HttpRequest {
        let mut request = HttpRequest::new(Vec::new().into());
        *request.method_mut() = http::Method::PUT;
        *request.uri_mut() = "http://127.0.0.1:9/bucket/packs/1/a".parse().unwrap();
        let headers = request.headers_mut();
        headers.insert(HASH_HEADER, HeaderValue::from_static("UNSIGNED-PAYLOAD"));
        let text = format!("{SCHEME} Credential={scope}, SignedHeaders=host;x-amz-date, Signature=00");
        headers.insert(AUTHORIZATION, value(&text));
        request
    }

    #[test]
    fn lock_headers_of_an_upload_are_signed() {
        let credential = AwsCredential { key_id: "a/key".into(), secret_key: "secret".into(), token: None };
        let until = UnixNanos(1_800_000_000_999_999_999);
        let wanted = Wanted { credential: Arc::new(credential), mode: RetentionMode::Compliance, until };
        let mut request = signed("a/key/20260101/eu-west-3/s3/aws4_request");
        assert!(Wanted::fits(&request));
        wanted.put_into(&mut request).unwrap();
        assert_eq!(region_of(&request), Some("eu-west-3"));
        let header = |name| request.headers()[&name].to_str().unwrap();
        assert_eq!(header(UNTIL_HEADER), "2027-01-15T08:00:00Z");
        assert_eq!(header(HASH_HEADER), "UNSIGNED-PAYLOAD");
        let signature = header(AUTHORIZATION);
        assert!(signature.contains("x-amz-object-lock-mode;x-amz-object-lock-retain-until-date"), "{signature}");
        assert_eq!(Held::read(request.headers()).unwrap().until, UnixNanos(1_800_000_000_000_000_000));
    }

    #[test]
    fn requests_that_are_not_signed_for_the_store_are_left_alone() {
        for scope in ["key/20260101/eu-west-3/sts/aws4_request", "key", ""] {
            assert!(!Wanted::fits(&signed(scope)), "{scope}");
        }
    }
}
