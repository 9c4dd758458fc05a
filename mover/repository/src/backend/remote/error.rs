//! What the failure of a request means: for the next try, for callers, and for a person.

use std::fmt;

use super::retry::Trouble;
use super::transport::Note;
use crate::backend::{StorageError, StorageErrorKind};

/// Clocks that differ by more are told: signed requests are refused from a quarter of an hour on.
const SKEW_TOLD_SECONDS: i64 = 300;

/// A cause in the words of a store, and what to do about it.
#[derive(Debug)]
pub(crate) struct RemoteCause {
    message: String,
    /// What to do, in one line.
    help: Option<&'static str>,
}

impl RemoteCause {
    /// What to do about an error whose cause is one of these.
    pub(crate) fn help_in(error: &std::io::Error) -> Option<&'static str> {
        error.get_ref()?.downcast_ref::<RemoteCause>()?.help
    }
}

impl fmt::Display for RemoteCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RemoteCause {}

/// The failure of one try.
pub(super) struct Failed {
    pub trouble: Trouble,
    pub kind: StorageErrorKind,
    /// The source of the credentials may have others by now.
    pub is_expired: bool,
    message: String,
    help: Option<&'static str>,
}

impl Failed {
    fn new(trouble: Trouble, kind: StorageErrorKind, message: impl Into<String>) -> Self {
        Self { trouble, kind, is_expired: false, message: message.into(), help: None }
    }

    fn refused(message: impl Into<String>, help: &'static str) -> Self {
        Self { help: Some(help), ..Self::new(Trouble::Final, StorageErrorKind::Refused, message) }
    }

    /// A failure of the way to the store that may be over soon.
    pub(super) fn network(message: impl Into<String>) -> Self {
        Self::new(Trouble::Network, StorageErrorKind::Other, message)
    }

    /// A failure that no further try changes.
    pub(super) fn of_kind(kind: StorageErrorKind, message: impl Into<String>) -> Self {
        Self::new(Trouble::Final, kind, message)
    }

    /// The same, of a key that another one may have replaced.
    fn of_key(self) -> Self {
        Self { trouble: Trouble::Key, is_expired: true, ..self }
    }

    /// The same with what a person can do.
    pub(super) fn with_help(self, help: &'static str) -> Self {
        Self { help: Some(help), ..self }
    }

    /// The error for whoever made the call.
    pub(super) fn into_error(self, operation: &'static str, object: &str) -> StorageError {
        let cause = RemoteCause { message: self.message, help: self.help };
        StorageError::of_kind(operation, object, self.kind, std::io::Error::other(cause))
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

/// Reads an error of the client library and what was noted of the answer.
pub(super) fn judge(error: &object_store::Error, note: &Note) -> Failed {
    if note.is_metadata {
        return no_credentials(error, note);
    }
    match note.status {
        None => not_answered(error, note),
        Some(status) => answered(status, &error.to_string(), note),
    }
}

/// The last source of credentials had none. A machine that has such a service may be slow to have it.
fn no_credentials(error: &object_store::Error, note: &Note) -> Failed {
    let cause = match (note.status, &note.broken) {
        (Some(status), _) => format!("HTTP {status}"),
        (None, Some(broken)) => broken.clone(),
        (None, None) => innermost(error),
    };
    let message = format!(
        "there are no credentials: none were named, and the metadata service of this machine gave none: {cause}"
    );
    let help = "set the key and the secret of the store in the environment, such as AWS_ACCESS_KEY_ID and \
                AWS_SECRET_ACCESS_KEY, or name a file that has them by AWS_SHARED_CREDENTIALS_FILE";
    let trouble = match note.status {
        Some(400..=499) => Trouble::Final,
        _ => Trouble::Network,
    };
    Failed { trouble, ..Failed::refused(message, help) }
}

/// Settings with which no request can be made.
pub(super) fn no_client(error: &object_store::Error) -> Failed {
    let help = "set the credentials of the store in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY \
                together, or name a file that has them by AWS_SHARED_CREDENTIALS_FILE; `mover help init` has the list";
    Failed::refused(innermost(error), help)
}

fn not_answered(error: &object_store::Error, note: &Note) -> Failed {
    let Some(broken) = &note.broken else {
        // No request was made: credentials or settings are missing.
        return no_client(error);
    };
    let lower = broken.to_lowercase();
    if lower.contains("certificate") {
        return Failed::refused(
            format!("the store cannot prove who it is: {broken}"),
            "name the certificate authority of a private store by AWS_CA_BUNDLE, if you trust it; nothing was sent",
        );
    }
    if lower.contains("corrupt message")
        || lower.contains("invalid http version")
        || lower.contains("invalidcontenttype")
    {
        let help = "check whether the endpoint is http:// or https://";
        return Failed::refused(format!("the store does not speak the protocol of its address: {broken}"), help);
    }
    let help = "check the network and the endpoint of the store; --patience says how long it is asked again";
    Failed { help: Some(help), ..Failed::network(broken.clone()) }
}

/// The last cause says what happened, the ones before only where.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// The text between `<name>` and its end in an answer.
fn element<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let (_, behind) = text.split_once(&format!("<{name}>"))?;
    Some(behind.split_once(&format!("</{name}>"))?.0)
}

fn answered(status: u16, text: &str, note: &Note) -> Failed {
    let code = element(text, "Code").unwrap_or_default();
    let said = match element(text, "Message") {
        Some(message) if !code.is_empty() => format!("{message} ({code}, HTTP {status})"),
        _ if !code.is_empty() => format!("{code} (HTTP {status})"),
        _ => format!("HTTP {status}"),
    };
    if let Some(failed) = by_code(code, &said, text, note) {
        return failed;
    }
    match status {
        200..=299 => {
            let said = format!("the answer makes no sense: {}", last_part(text));
            Failed::new(Trouble::Nonsense, StorageErrorKind::Other, said)
        }
        301 | 302 | 307 | 308 => wrong_region(note.region.as_deref(), &said),
        304 | 412 => Failed::of_kind(StorageErrorKind::AlreadyExists, said),
        // An answer without a body, such as to HEAD, does not say whether it is the key or what it may do.
        400 if code.is_empty() => Failed::of_kind(StorageErrorKind::Other, said).of_key(),
        401 | 403 if code.is_empty() => refused_key(&said, note).of_key(),
        401 | 403 => refused_key(&said, note),
        // A store says what is missing; another server, or a proxy, must not be taken for one that has lost an object.
        404 if code.is_empty() && text.contains("<html") => {
            Failed::refused(format!("no object store answers there: {said}"), "check the endpoint of the store")
        }
        404 => Failed::of_kind(StorageErrorKind::NotFound, said),
        409 => Failed::of_kind(StorageErrorKind::AlreadyExists, said),
        416 => Failed::of_kind(StorageErrorKind::Short, "the object ends before the range"),
        408 | 429 => Failed::new(Trouble::Busy(note.retry_after), StorageErrorKind::Other, said),
        501 => Failed::of_kind(StorageErrorKind::NotSupported, said),
        507 => Failed::of_kind(StorageErrorKind::Full, said),
        500..=599 => Failed::new(Trouble::Busy(note.retry_after), StorageErrorKind::Other, said),
        _ => Failed::of_kind(StorageErrorKind::Other, said),
    }
}

fn last_part(text: &str) -> &str {
    text.rsplit(": ").next().unwrap_or(text)
}

/// What the codes of S3 and Azure mean where the status alone does not tell.
fn by_code(code: &str, said: &str, text: &str, note: &Note) -> Option<Failed> {
    let failed = match code {
        "NoSuchBucket" | "ContainerNotFound" => {
            Failed::refused(said, "create the bucket first, or check its name and the endpoint")
        }
        "RequestTimeTooSkewed" => skewed(said, note),
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => {
            wrong_region(element(text, "Region").or(note.region.as_deref()), said)
        }
        "ExpiredToken" | "TokenRefreshRequired" | "ExpiredTokenException" => {
            let help = "renew the credentials where they come from; mover reads them again by itself";
            Failed { help: Some(help), is_expired: true, ..Failed::network(said) }
        }
        // Who replaces a key takes the old one away: its source may have the new one.
        "InvalidAccessKeyId" => denied(said).of_key(),
        // Damaged on the way: the store refused it, and the bytes here are still right.
        "BadDigest"
        | "InvalidDigest"
        | "XAmzContentChecksumMismatch"
        | "XAmzContentSHA256Mismatch"
        | "IncompleteBody"
        | "Md5Mismatch"
        | "Crc64Mismatch" => Failed::network(said),
        "RequestTimeout"
        | "OperationAborted"
        | "ConditionalRequestConflict"
        | "SlowDown"
        | "ServerBusy"
        | "InternalError" => Failed::new(Trouble::Busy(note.retry_after), StorageErrorKind::Other, said),
        "InvalidRequest" | "ObjectLockConfigurationNotFoundError"
            if note.is_locking || said.to_lowercase().contains("lock") =>
        {
            Failed::refused(said, "the bucket has no object lock: make one that has it, or leave object-lock unset")
        }
        "QuotaExceeded" | "XMinioStorageFull" => Failed::of_kind(StorageErrorKind::Full, said),
        "MethodNotAllowed" | "NotImplemented" => Failed::of_kind(StorageErrorKind::NotSupported, said),
        _ => return None,
    };
    Some(failed)
}

fn wrong_region(region: Option<&str>, said: &str) -> Failed {
    let message = match region {
        Some(region) => format!("the bucket is in the region {region}: {said}"),
        None => format!("the bucket is in another region: {said}"),
    };
    Failed::refused(message, "set AWS_REGION to the region of the bucket")
}

fn refused_key(said: &str, note: &Note) -> Failed {
    if note.clock_ahead_seconds.is_some_and(|seconds| seconds.abs() > SKEW_TOLD_SECONDS) {
        return skewed(said, note);
    }
    denied(said)
}

fn denied(said: &str) -> Failed {
    let help = "check the key of the store, its secret and what it may do in this bucket";
    Failed { help: Some(help), ..Failed::of_kind(StorageErrorKind::PermissionDenied, said) }
}

fn skewed(said: &str, note: &Note) -> Failed {
    let message = match note.clock_ahead_seconds {
        Some(seconds) if seconds >= 0 => format!("the clock of this machine is {seconds} s behind the store's: {said}"),
        Some(seconds) => format!("the clock of this machine is {} s ahead of the store's: {said}", -seconds),
        None => said.to_owned(),
    };
    Failed::refused(message, "set the clock of this machine, by NTP for instance")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, body: &str) -> Failed {
        let note = Note { status: Some(status), clock_ahead_seconds: Some(4000), ..Note::default() };
        let source = format!("Server returned non-2xx status code: {status}: {body}");
        judge(&object_store::Error::Generic { store: "S3", source: source.into() }, &note)
    }

    fn xml(code: &str) -> String {
        format!("<?xml?><Error><Code>{code}</Code><Message>Said so.</Message><Region>eu-1</Region></Error>")
    }

    #[test]
    fn answers_are_told_apart() {
        let kinds = [
            (404, xml("NoSuchKey"), StorageErrorKind::NotFound, Trouble::Final),
            (404, String::new(), StorageErrorKind::NotFound, Trouble::Final),
            (404, "<html>nginx</html>".to_owned(), StorageErrorKind::Refused, Trouble::Final),
            (404, xml("NoSuchBucket"), StorageErrorKind::Refused, Trouble::Final),
            (412, xml("PreconditionFailed"), StorageErrorKind::AlreadyExists, Trouble::Final),
            (409, xml("ConditionalRequestConflict"), StorageErrorKind::Other, Trouble::Busy(None)),
            (416, xml("InvalidRange"), StorageErrorKind::Short, Trouble::Final),
            (503, xml("SlowDown"), StorageErrorKind::Other, Trouble::Busy(None)),
            (500, String::new(), StorageErrorKind::Other, Trouble::Busy(None)),
            (501, String::new(), StorageErrorKind::NotSupported, Trouble::Final),
            (400, xml("BadDigest"), StorageErrorKind::Other, Trouble::Network),
            (400, xml("InvalidRequest"), StorageErrorKind::Other, Trouble::Final),
            (400, String::new(), StorageErrorKind::Other, Trouble::Key),
            (403, xml("RequestTimeTooSkewed"), StorageErrorKind::Refused, Trouble::Final),
            (403, xml("InvalidAccessKeyId"), StorageErrorKind::PermissionDenied, Trouble::Key),
            (301, xml("PermanentRedirect"), StorageErrorKind::Refused, Trouble::Final),
        ];
        for (status, body, kind, trouble) in kinds {
            let failed = judged(status, &body);
            assert_eq!((failed.kind, failed.trouble), (kind, trouble), "{status} {body}");
        }
    }

    #[test]
    fn a_person_reads_what_is_wrong_and_what_to_do() {
        let error = judged(403, &xml("RequestTimeTooSkewed")).into_error("read", "config");
        let expected = "cannot read config: the clock of this machine is 4000 s behind the store's: \
                        Said so. (RequestTimeTooSkewed, HTTP 403)";
        assert_eq!(error.to_string(), expected);
        assert!(error.guidance().unwrap().contains("NTP"));
        let error = judged(400, &xml("AuthorizationHeaderMalformed")).into_error("read", "config");
        assert!(error.to_string().contains("the bucket is in the region eu-1"), "{error}");
    }
}
