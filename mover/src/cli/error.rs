//! What a command can end with instead of a result, and the exit code and guidance of each.
//!
//! Messages are lower-case sentences without a full stop that name the object; `help` is one more
//! line that says what to do next.

use std::fmt;

use mover_actors::error::Failure;
use mover_repository::RepositoryError;
use mover_repository::backend::StorageError;

use super::exit::Exit;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub struct CliError {
    /// The exit code this error ends the process with.
    pub exit: Exit,
    /// What went wrong, naming the object.
    pub message: String,
    /// One line of guidance.
    pub help: Option<String>,
}

/// Result of a command or a part of one.
pub type Result<T> = std::result::Result<T, CliError>;

impl CliError {
    /// Wrong usage (exit 2).
    pub fn usage(message: impl Into<String>, help: impl Into<String>) -> CliError {
        CliError { exit: Exit::Usage, message: message.into(), help: Some(help.into()) }
    }

    /// A failure (exit 1).
    pub fn failed(message: impl Into<String>, help: impl Into<String>) -> CliError {
        CliError { exit: Exit::Failed, message: message.into(), help: Some(help.into()) }
    }

    /// A system call that failed (exit 1): `operation` is a verb, `object` what it was done to.
    pub fn system(operation: &str, object: impl fmt::Display, cause: impl fmt::Display) -> CliError {
        CliError { exit: Exit::Failed, message: format!("cannot {operation} {object}: {cause}"), help: None }
    }

    /// The same error with a line of guidance.
    pub fn with_help(mut self, help: impl Into<String>) -> CliError {
        self.help = Some(help.into());
        self
    }
}

fn exit_of(error: &RepositoryError) -> Exit {
    match error {
        RepositoryError::NotARepository { .. } => Exit::NoRepository,
        RepositoryError::WrongKey => Exit::WrongKey,
        RepositoryError::BadCredential { .. } => Exit::Usage,
        RepositoryError::Fenced { .. } | RepositoryError::JobDone { .. } => Exit::InUse,
        _ => Exit::Failed,
    }
}

impl From<RepositoryError> for CliError {
    fn from(error: RepositoryError) -> CliError {
        CliError { exit: exit_of(&error), message: error.to_string(), help: error.guidance() }
    }
}

impl From<StorageError> for CliError {
    fn from(error: StorageError) -> CliError {
        RepositoryError::from(error).into()
    }
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> CliError {
        let below = failure.source.as_deref().and_then(|source| source.downcast_ref::<RepositoryError>());
        let exit = below.map_or(Exit::Failed, exit_of);
        let help = failure.guidance.clone().or_else(|| {
            failure.retryable.then(|| "run the command again: what was stored before is kept and reused".to_owned())
        });
        let mut message = failure.to_string();
        // The job knows objects; a person wants to know which repository it was.
        if let Some(RepositoryError::Storage(StorageError { place: Some(place), .. })) = below {
            message = message.replace("(repository side)", &format!("(repository {place})"));
        }
        CliError { exit, message, help }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_have_their_exit_codes() {
        let place = "/x".to_owned();
        assert_eq!(CliError::from(RepositoryError::NotARepository { place }).exit, Exit::NoRepository);
        assert_eq!(CliError::from(RepositoryError::WrongKey).exit, Exit::WrongKey);
        let failure = Failure::from(RepositoryError::WrongKey);
        assert_eq!(CliError::from(failure).exit, Exit::WrongKey, "also through a job");
        assert_eq!(CliError::from(Failure::internal("run", "", "x")).exit, Exit::Failed);
        // `sync: Input/output error` named neither object nor repository.
        let failed = StorageError::new("sync", "", std::io::Error::from_raw_os_error(libc::EIO));
        let message = CliError::from(Failure::from(failed.at(&"/srv/backup".into()))).message;
        assert_eq!(message, "sync: Input/output error (os error 5) (repository /srv/backup)");
    }
}
