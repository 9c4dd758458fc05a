//! `mover init`: makes a repository, on request one that suits for copies of another, and a key file that opens it.

use std::path::Path;

use futures_lite::future::block_on;
use mover_repository::config::CompressionConfig;
use mover_repository::key_admin::add_key;
use mover_repository::keys::{Credential, Stretching};
use mover_repository::limits::FORMAT_VERSION;
use mover_repository::log::Role;
use mover_repository::repository::{InitOptions, KeyRights, Repository};
use serde_json::json;

use super::Session;
use super::args::InitArgs;
use super::error::{CliError, Result};
use super::exit::Exit;
use super::other::Other;
use super::{repository, secret};
use crate::config::CredentialSource;

/// Makes the repository.
pub fn run(session: &Session, args: &InitArgs) -> Result<Exit> {
    let place = repository::place(session)?;
    // before anything is made, and before a person is asked for the new password
    let like = args.like.as_deref().map(|from| opened(session, args, from)).transpose()?;
    let backend = repository::backend(session, place, true)?;
    // with a new key file and no other credential named, nobody is asked for a password
    let key_only = args.new_key_file.is_some() && session.resolved.credential == CredentialSource::Prompt;
    let named = match key_only {
        true => None,
        false => Some(secret::read(&session.resolved.credential, true, &session.output)?),
    };
    let key = args.new_key_file.as_deref().map(NewKeyFile::create).transpose()?;
    let (first, second) = match (named, key.as_ref().map(|key| key.credential.clone())) {
        (Some(named), key) => (named, key),
        (None, Some(key)) => (key, None),
        (None, None) => return Err(CliError::usage("no credential was given", "set MOVER_PASSWORD_FILE")),
    };
    let who = repository::open_record(Role::Admin, "")?;
    let made = block_on(async {
        let repository = match &like {
            Some(like) => Repository::init_like(backend, &first, options(session), like).await?,
            None => Repository::init(backend, &first, options(session)).await?,
        };
        if let Some(second) = &second {
            add_key(&repository, &who, second, KeyRights::Full, "made by init", Stretching::default()).await?;
        }
        mover_repository::Result::Ok(repository)
    })?;
    if let Some(key) = key {
        key.keep();
    }
    report(session, &made, place, args)
}

/// The repository that the new one is to be like.
fn opened(session: &Session, args: &InitArgs, from: &str) -> Result<Repository> {
    let (password_file, key_file) = (args.like_password_file.as_ref(), args.like_key_file.as_ref());
    Other { place: from, word: "like", password_file, key_file }.open(session)
}

fn options(session: &Session) -> InitOptions {
    let backup = &session.resolved.settings.backup;
    let mut compression = CompressionConfig::default();
    let level = |asked: Option<i32>| asked.and_then(|level| u8::try_from(level).ok());
    if let Some(lowest) = level(backup.level.or(backup.level_min)) {
        compression.level_min = lowest;
        compression.level_max = compression.level_max.max(lowest);
    }
    if let Some(highest) = level(backup.level.or(backup.level_max)) {
        compression.level_max = highest;
        compression.level_min = compression.level_min.min(highest);
    }
    InitOptions { compression, memory_directory: repository::memory_directory(), ..InitOptions::default() }
}

fn report(session: &Session, made: &Repository, place: &str, args: &InitArgs) -> Result<Exit> {
    let output = &session.output;
    let id = made.id().to_string();
    output.say(&format!("repository {} is ready in {place}", repository::short(&made.id())))?;
    match &args.new_key_file {
        Some(path) => {
            output.say(&format!("keep {} safe and elsewhere: without it the data cannot be read", path.display()))?;
        }
        None => output.say("keep the password safe and elsewhere: without it the data cannot be read")?,
    }
    output
        .say("keep a copy of `config` and `keys/` elsewhere too, and again after `mover key`: nothing replaces them")?;
    if let Some(like) = &args.like {
        output.say(&format!(
            "it names and cuts chunks as {like} does: `mover copy` between the two sends what is missing"
        ))?;
    }
    let fields = json!({ "repository": id, "place": place, "format": FORMAT_VERSION });
    output.object("summary", fields)?;
    Ok(Exit::Done)
}

/// A key file that is removed again unless the repository that it opens came to be.
pub(super) struct NewKeyFile<'p> {
    path: &'p Path,
    /// What it holds.
    pub credential: Credential,
    kept: bool,
}

impl NewKeyFile<'_> {
    /// Makes it; it must not exist.
    pub fn create(path: &Path) -> Result<NewKeyFile<'_>> {
        let credential = secret::key_credential(secret::create_key_file(path)?)?;
        Ok(NewKeyFile { path, credential, kept: false })
    }

    /// It opens something now.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for NewKeyFile<'_> {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(self.path);
        }
    }
}
