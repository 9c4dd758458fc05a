//! A second repository of one command, beside that of `-r`: its place, its credential, and errors that say which of the
//! two they are of.

use std::path::PathBuf;

use futures_lite::future::block_on;
use mover_repository::keys::Credential;
use mover_repository::repository::{self as at_rest, OpenOptions, Repository};

use super::Session;
use super::error::{CliError, Result};
use super::exit::Exit;
use super::{repository, secret};
use crate::config::CredentialSource;

/// How the second repository is named on the command line and in the environment.
pub struct Other<'a> {
    /// Its place.
    pub place: &'a str,
    /// The word that its flags begin with; in capitals its variables: `to` is `--to-key-file` and `MOVER_TO_KEY_FILE`.
    pub word: &'static str,
    /// What the flag with a password file says.
    pub password_file: Option<&'a PathBuf>,
    /// What the flag with a key file says.
    pub key_file: Option<&'a PathBuf>,
}

impl Other<'_> {
    /// Opens it. Whether there is one is said before anybody is asked for a password.
    ///
    /// # Errors
    /// As [`repository::open`], each with the place.
    pub fn open(&self, session: &Session) -> Result<Repository> {
        let backend = repository::backend(session, self.place, false)?;
        block_on(at_rest::probe(backend.as_ref()))?;
        let credential = self.credential(session)?;
        let options = OpenOptions { memory_directory: repository::memory_directory() };
        block_on(Repository::open_with(backend, &credential, options)).map_err(|error| {
            let error = CliError::from(error);
            let help = match error.exit {
                Exit::WrongKey => Some(self.ways()),
                _ => error.help,
            };
            CliError { message: format!("{}: {}", self.place, error.message), help, ..error }
        })
    }

    fn ways(&self) -> String {
        let (word, capitals) = (self.word, self.word.to_uppercase());
        format!(
            "give it by --{word}-password-file or --{word}-key-file, or set MOVER_{capitals}_PASSWORD, \
             MOVER_{capitals}_PASSWORD_FILE or MOVER_{capitals}_KEY_FILE"
        )
    }

    fn credential(&self, session: &Session) -> Result<Credential> {
        let read = |source| secret::read(&source, false, &session.output);
        if let Some(path) = self.password_file {
            return read(CredentialSource::PasswordFile(path.clone()));
        }
        if let Some(path) = self.key_file {
            return read(CredentialSource::KeyFile(path.clone()));
        }
        let name = |what: &str| format!("MOVER_{}_{what}", self.word.to_uppercase());
        let variable = |what: &str| std::env::var_os(name(what)).filter(|value| !value.is_empty());
        match (variable("PASSWORD"), variable("PASSWORD_FILE"), variable("KEY_FILE")) {
            (None, None, None) => secret::ask_for(&format!("password of {}: ", self.place), &self.ways()),
            (Some(_), None, None) => secret::from_variable(&name("PASSWORD")),
            (None, Some(path), None) => read(CredentialSource::PasswordFile(path.into())),
            (None, None, Some(path)) => read(CredentialSource::KeyFile(path.into())),
            _ => Err(CliError::usage(
                format!("the environment names more than one credential of {}", self.place),
                "keep one of password, password file and key file",
            )),
        }
    }
}
