//! What can go wrong in motion: one error with its side, so that a full repository disk is never mistaken for an
//! unreadable source file (FAILURES F13).
//!
//! Must never: lose the first cause, or hide on which side it arose.

use std::fmt;
use std::sync::Arc;

use mover_repository::backend::StorageError;
use mover_repository::error::RepositoryError;
use mover_repository::log::Registration;

use crate::restore::target::TargetError;
use crate::runtime::mailbox::Closed;
use crate::source::{SourceError, SourceErrorKind};

/// Where a failure arose. It decides who is told, and whether the run may go on without the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The data that is being protected (or, in a restore, the target that receives it).
    Source,
    /// The place that holds the backup.
    Repository,
    /// The order itself: a stop, a lost lease, a wrong option.
    Control,
    /// A bug of ours or a machine that cannot run us.
    Internal,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Source => "source",
            Side::Repository => "repository",
            Side::Control => "control",
            Side::Internal => "internal",
        })
    }
}

/// The error that stops a job: operation, object, cause, side, and whether another try can help.
///
/// Cheap to clone: the kill switch hands the first one to everybody who asks.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Where it arose.
    pub side: Side,
    /// What was being done, as a verb phrase ("write pack") or the name of the actor that panicked.
    pub operation: String,
    /// On what: a path, an object name; empty if there is none.
    pub object: String,
    /// Why, as a sentence without full stop.
    pub cause: String,
    /// True if the same operation may succeed later without a change by the user.
    pub retryable: bool,
    /// True if it only says that somebody else has ended: a real cause replaces it in the kill switch.
    pub consequence: bool,
    /// One line that says what to do next.
    pub guidance: Option<String>,
    /// The error below, for those who choose an exit code by its type.
    pub source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    /// A failure that another try will not cure.
    pub fn new(
        side: Side,
        operation: impl Into<String>,
        object: impl Into<String>,
        cause: impl fmt::Display,
    ) -> Failure {
        Failure {
            side,
            operation: operation.into(),
            object: object.into(),
            cause: cause.to_string(),
            retryable: false,
            consequence: false,
            guidance: None,
            source: None,
        }
    }

    /// A failure on the side of the data that is protected or the target that is written.
    pub fn source(operation: impl Into<String>, object: impl Into<String>, cause: impl fmt::Display) -> Failure {
        Failure::new(Side::Source, operation, object, cause)
    }

    /// A failure of the repository.
    pub fn repository(operation: impl Into<String>, object: impl Into<String>, cause: impl fmt::Display) -> Failure {
        Failure::new(Side::Repository, operation, object, cause)
    }

    /// A failure of the order: stopped, fenced, refused.
    pub fn control(operation: impl Into<String>, object: impl Into<String>, cause: impl fmt::Display) -> Failure {
        Failure::new(Side::Control, operation, object, cause)
    }

    /// A bug of ours, or a machine that cannot run us.
    pub fn internal(operation: impl Into<String>, object: impl Into<String>, cause: impl fmt::Display) -> Failure {
        Failure::new(Side::Internal, operation, object, cause)
    }

    /// The failure of a registered run, which ends with it. One that somebody had ended may have missed in the repository
    /// what was deleted since: it is told that it was fenced, not that the repository is damaged.
    pub async fn ending(self, registration: Registration) -> Failure {
        let fenced = registration.give_up(&self).await;
        fenced.filter(|_| self.side == Side::Repository).map_or(self, Failure::from)
    }

    /// Says whether another try can help.
    pub fn with_retryable(mut self, retryable: bool) -> Failure {
        self.retryable = retryable;
        self
    }

    /// Adds the line that says what to do next.
    pub fn with_guidance(mut self, guidance: impl Into<String>) -> Failure {
        self.guidance = Some(guidance.into());
        self
    }

    /// Keeps the error below for those who look at its type.
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Failure {
        self.source = Some(Arc::new(source));
        self
    }

    /// The panic of a task, told as a failure of ours.
    pub fn from_panic(task: &str, payload: &(dyn std::any::Any + Send)) -> Failure {
        Failure::internal(task, "", format!("panicked: {}", panic_message(payload)))
            .with_guidance("this is a bug in mover; what is already stored is intact, run the command again")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = [self.operation.as_str(), self.object.as_str()];
        let what = what.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ");
        let colon = if what.is_empty() { "" } else { ": " };
        write!(f, "{what}{colon}{} ({} side)", self.cause, self.side)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|below| below as &(dyn std::error::Error + 'static))
    }
}

/// Every error of this crate.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ActorError {
    /// A job stopped; the first cause.
    #[error("{0}")]
    Failed(#[from] Failure),
    /// A message found no receiver any more. The actor behind it has ended; its own failure is the cause to show.
    #[error("{0}")]
    Closed(#[from] Closed),
    /// An executor could not be started. Not cured by a retry.
    #[error("start shard {shard}: {cause}")]
    Start {
        /// Which shard.
        shard: usize,
        /// What the kernel said.
        cause: String,
        /// What to do next.
        guidance: String,
    },
}

impl ActorError {
    /// One line that says what to do next, where there is something to do.
    pub fn guidance(&self) -> Option<String> {
        match self {
            ActorError::Failed(failure) => failure.guidance.clone(),
            ActorError::Closed(_) => None,
            ActorError::Start { guidance, .. } => Some(guidance.clone()),
        }
    }
}

impl From<Closed> for Failure {
    fn from(closed: Closed) -> Failure {
        let mut failure = Failure::internal("send to", closed.mailbox, "its actor has ended");
        failure.consequence = true;
        failure
    }
}

impl From<RepositoryError> for Failure {
    fn from(error: RepositoryError) -> Failure {
        let failure = match &error {
            RepositoryError::Storage(storage) => {
                Failure::repository(storage.operation, storage.object.clone(), &storage.source)
            }
            other => Failure::repository("", "", other),
        };
        let guidance = error.guidance();
        let retryable = error.retryable();
        Failure { guidance, ..failure.with_retryable(retryable).with_source(error) }
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Failure {
        RepositoryError::from(error).into()
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Failure {
        let path = String::from_utf8_lossy(&error.path);
        if error.kind == SourceErrorKind::Scratch {
            let failure = Failure::internal(error.operation, path, &error.cause).with_source(error);
            return failure.with_guidance("set TMPDIR to a directory with room; nothing is wrong with the source");
        }
        Failure::source(error.operation, path, &error.cause).with_source(error)
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Failure {
        Failure::source(error.operation, String::from_utf8_lossy(&error.path), &error.cause).with_source(error)
    }
}

impl From<ActorError> for Failure {
    fn from(error: ActorError) -> Failure {
        match error {
            ActorError::Failed(failure) => failure,
            ActorError::Closed(closed) => closed.into(),
            ActorError::Start { shard, cause, guidance } => {
                Failure::internal("start shard", shard.to_string(), cause).with_guidance(guidance)
            }
        }
    }
}

/// The text of a panic payload, as far as it is text.
pub fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return (*text).to_owned();
    }
    match payload.downcast_ref::<String>() {
        Some(text) => text.clone(),
        None => "panic without a message".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_reads_as_a_sentence_with_its_side() {
        let failure = Failure::repository("write pack", "packs/7/ab", "no space left on device");
        assert_eq!(failure.to_string(), "write pack packs/7/ab: no space left on device (repository side)");
        assert!(!failure.retryable);
    }

    #[test]
    fn f13_a_full_repository_is_told_apart_from_an_unreadable_source() {
        let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
        let failure = Failure::from(StorageError::new("write", "packs/7/ab", full));
        assert_eq!(failure.side, Side::Repository);
        assert!(failure.to_string().starts_with("write packs/7/ab: No space left"), "{failure}");
        assert!(failure.guidance.as_deref().is_some_and(|line| line.contains("free space")));
        let below = failure.source.as_deref().and_then(|below| below.downcast_ref::<RepositoryError>());
        assert!(below.is_some_and(RepositoryError::is_full));
        let failure = Failure::from(RepositoryError::WrongKey);
        assert_eq!(failure.to_string(), "wrong password or key file (repository side)");
    }

    #[test]
    fn a_panic_keeps_its_message_and_the_name_of_its_actor() {
        let payload = std::panic::catch_unwind(|| panic!("frame {} is empty", 7)).unwrap_err();
        let failure = Failure::from_panic("compressor", payload.as_ref());
        assert_eq!(failure.to_string(), "compressor: panicked: frame 7 is empty (internal side)");
    }
}
