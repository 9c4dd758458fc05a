//! What a command can end with instead of a result, and the exit code and guidance of each.
//!
//! Messages are lower-case sentences without a full stop that name the object; `help` is one more
//! line that says what to do next.

use std::fmt;

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

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}
