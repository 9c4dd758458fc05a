//! The directory in which an agent keeps itself: key and certificate, the jobs that it runs, results not yet delivered.
//!
//! Mode 0700, files 0600, each written to a temporary name, synced, and renamed. One process at a time holds it, by a
//! lock that the system drops with the process. What is in it is small: one file a job.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mover_control::ids::AgentId;
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cli::error::{CliError, Result};
use crate::cli::repository::memory_directory;

const IDENTITY: &str = "agent.json";
const KEY: &str = "key.pem";
const CERTIFICATE: &str = "certificate.pem";
const AUTHORITY: &str = "authority.pem";
/// Whoever asks to join and has no answer yet.
const APPLICANT: &str = "applicant.json";

/// Who this agent is and whom it talks to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Drawn once.
    pub agent: AgentId,
    /// For people.
    pub name: String,
    /// `https://HOST:PORT`
    pub server: String,
}

/// Who asks to join.
#[derive(Clone, Serialize, Deserialize)]
pub struct Applicant {
    /// Drawn for it.
    pub agent: AgentId,
    /// For people.
    pub name: String,
    /// Its private key, PEM.
    pub key: String,
}

/// An agent's papers.
#[derive(Clone)]
pub struct Papers {
    /// Its private key, PEM.
    pub key: String,
    /// Its certificate, PEM.
    pub certificate: String,
    /// Who signs for servers and agents, PEM.
    pub authority: String,
}

/// The directory, held by this process.
pub struct StateDirectory {
    path: PathBuf,
    _lock: File,
}

fn default_path() -> Result<PathBuf> {
    let given = std::env::var_os("STATE_DIRECTORY").map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(path) = given {
        return Ok(path);
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/mover-agent"));
    }
    let own = memory_directory().map(|directory| directory.join("agent"));
    own.ok_or_else(|| CliError::usage("there is no home directory to keep the agent in", "name a place with --state"))
}

impl StateDirectory {
    /// Takes hold of it; makes it if need be.
    ///
    /// # Errors
    /// It cannot be made, or another agent holds it (exit 11).
    pub fn open(path: Option<&Path>) -> Result<StateDirectory> {
        let path = path.map_or_else(default_path, |path| Ok(path.to_owned()))?;
        for directory in ["", "jobs", "results", "results/refused", "tmp"].map(|name| path.join(name)) {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
            made.map_err(|error| CliError::system("make", directory.display(), error))?;
        }
        let lock = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path.join("lock"));
        let lock = lock.map_err(|error| CliError::system("open", path.join("lock").display(), error))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(CliError {
                exit: crate::cli::exit::Exit::InUse,
                message: format!("another agent runs in {}", path.display()),
                help: Some("end it first, or give this one a directory of its own with --state".to_owned()),
            });
        }
        // Of earlier processes of this agent: what they ran is dead with them.
        for left in fs::read_dir(path.join("tmp")).into_iter().flatten().flatten() {
            let _ = fs::remove_file(left.path());
        }
        Ok(StateDirectory { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file so that it is there whole or not at all, also after a power cut.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let (place, temporary) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || {
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&temporary, &place)?;
            File::open(place.parent().unwrap_or(&self.path))?.sync_all()
        };
        write().map_err(|error: std::io::Error| {
            // On a full disk the half of it would be in the way of the next.
            let _ = fs::remove_file(&temporary);
            CliError::system("write", place.display(), error)
        })
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// It is not there, or the disk refuses.
    pub fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    /// Reads a file, if it is there.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn read(&self, name: &str) -> Result<Option<String>> {
        let place = self.path.join(name);
        match fs::read_to_string(&place) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CliError::system("read", place.display(), error)),
        }
    }

    /// Removes a file; one that is not there is removed.
    pub fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.path.join(name));
    }

    /// All documents below `directory`, with their names; what cannot be read is told and left.
    pub fn documents<T: DeserializeOwned>(&self, directory: &str) -> Vec<(String, T)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.path.join(directory)).into_iter().flatten().flatten() {
            let name = format!("{directory}/{}", entry.file_name().to_string_lossy());
            if !name.ends_with(".json") {
                continue;
            }
            match self.read(&name).map(|text| serde_json::from_str(&text.unwrap_or_default())) {
                Ok(Ok(document)) => found.push((name, document)),
                Ok(Err(error)) => tracing::warn!(name, %error, "a document that makes no sense is left alone"),
                Err(error) => tracing::warn!(name, %error, "a document is left alone"),
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    /// Who this agent is, if it has enrolled.
    ///
    /// # Errors
    /// It has not (exit 2), or the disk refuses.
    pub fn identity(&self) -> Result<(Identity, Papers)> {
        let read = |name: &str| {
            self.read(name)?.ok_or_else(|| {
                CliError::usage(
                    format!("this host is no agent yet: there is no {}", self.path.join(name).display()),
                    "join first: `mover agent enrol --server https://HOST:PORT --token TOKEN --ca-fingerprint F`",
                )
            })
        };
        let identity = serde_json::from_str(&read(IDENTITY)?)
            .map_err(|error| CliError::system("understand", self.path.join(IDENTITY).display(), error))?;
        let papers = Papers { key: read(KEY)?, certificate: read(CERTIFICATE)?, authority: read(AUTHORITY)? };
        Ok((identity, papers))
    }

    /// As whom this host asks to join under `name`. An enrolment that is repeated after a lost answer asks as the same; under
    /// another name it is another agent, with an id and a key of its own: the server knows the old ones, and may have
    /// revoked them. What the agent has now counts until the new one is [adopted](StateDirectory::adopt).
    ///
    /// # Errors
    /// The disk refuses.
    pub fn applicant(&self, name: &str, draw: impl FnOnce() -> Result<(AgentId, String)>) -> Result<Applicant> {
        let read = |file: &str| Ok::<_, CliError>(self.read(file)?.filter(|text| !text.trim().is_empty()));
        let asked = read(APPLICANT)?.and_then(|text| serde_json::from_str::<Applicant>(&text).ok());
        if let Some(applicant) = asked.filter(|applicant| applicant.name == name) {
            return Ok(applicant);
        }
        let identity = read(IDENTITY)?.and_then(|text| serde_json::from_str::<Identity>(&text).ok());
        if let (Some(identity), Some(key)) = (identity.filter(|identity| identity.name == name), read(KEY)?) {
            return Ok(Applicant { agent: identity.agent, name: name.to_owned(), key });
        }
        let (agent, key) = draw()?;
        let applicant = Applicant { agent, name: name.to_owned(), key };
        self.write(APPLICANT, &serde_json::to_vec(&applicant).expect("plain data has a JSON form"))?;
        Ok(applicant)
    }

    /// The server has let this applicant in: it is this agent from now on. Until all is written, the same enrolment can be
    /// repeated.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn adopt(&self, applicant: &Applicant, server: &str, certificate: &str, authority: &str) -> Result<Identity> {
        let (agent, name) = (applicant.agent.clone(), applicant.name.clone());
        let identity = Identity { agent, name, server: server.to_owned() };
        self.write(KEY, applicant.key.as_bytes())?;
        self.keep(&identity, certificate, authority)?;
        self.remove(APPLICANT);
        Ok(identity)
    }

    /// Keeps what an enrolment or a renewal gave; the identity last, so that it is there only with the rest.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn keep(&self, identity: &Identity, certificate: &str, authority: &str) -> Result<()> {
        self.write(AUTHORITY, authority.as_bytes())?;
        self.write(CERTIFICATE, certificate.as_bytes())?;
        self.write(IDENTITY, &serde_json::to_vec(identity).expect("plain data has a JSON form"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent that was revoked once kept its id and its key for ever, and the server refused them under every name.
    #[test]
    fn another_name_is_another_agent_and_the_same_name_the_same() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = StateDirectory::open(Some(directory.path())).expect("open");
        let apply = |name: &str, drawn: &str| {
            let draw = || Ok((AgentId::from(drawn), format!("key of {drawn}")));
            let applicant = state.applicant(name, draw).expect("an applicant");
            (applicant.agent.to_string(), applicant.key.clone(), applicant)
        };
        let (first, _, applicant) = apply("one", "a");
        assert_eq!(apply("one", "b").0, first, "the answer was lost: it asks as the same");
        state.adopt(&applicant, "https://h", "certificate", "authority").expect("adopt");
        assert_eq!(apply("one", "c").0, "a", "it is that agent");
        assert_eq!(apply("two", "d").0, "d");
        assert_eq!(state.identity().expect("an identity").0.agent.as_str(), "a", "until the other one was let in");
        let (_, key, applicant) = apply("two", "e");
        assert_eq!((applicant.agent.as_str(), key.as_str()), ("d", "key of d"));
        state.adopt(&applicant, "https://h", "certificate", "authority").expect("adopt");
        let (identity, papers) = state.identity().expect("an identity");
        assert_eq!((identity.agent.as_str(), identity.name.as_str(), papers.key.as_str()), ("d", "two", "key of d"));
    }
}
