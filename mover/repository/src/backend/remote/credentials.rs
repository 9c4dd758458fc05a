//! Who one is to an S3 store, asked anew when that changes.
//!
//! Keys come from the environment, or else from a web identity or a container, or else from the shared credentials file of
//! the AWS tools (`AWS_SHARED_CREDENTIALS_FILE`, else `~/.aws/credentials`; `AWS_PROFILE`, else `default`), or else from
//! the metadata service of the machine. The file is read again when it was replaced or rewritten, and any source is asked
//! again once the store says that a token has expired or that it knows no such key. Must never write a secret anywhere.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use object_store::CredentialProvider;
use object_store::aws::{AmazonS3Builder, AwsCredential, AwsCredentialProvider};
use parking_lot::Mutex;

use super::place::{Environment, variable};
use super::transport::Wire;

/// The credentials of the client that `builder` makes, asked anew when the store says that they have expired; those of the
/// shared file, if nothing else was named and there is one.
pub(super) fn provider(
    builder: &AmazonS3Builder,
    environment: &Environment,
    wire: &Arc<Wire>,
) -> object_store::Result<AwsCredentialProvider> {
    let is_named = ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"]
        .into_iter()
        .chain(["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_SKIP_SIGNATURE"])
        .any(|name| variable(environment, name).is_some());
    if !is_named && let Some(file) = SharedFile::of(environment) {
        return Ok(Arc::new(file));
    }
    let current = builder.clone().build()?.credentials().clone();
    let asked = Asked { provider: current, expired: wire.expired.load(Ordering::Relaxed) };
    Ok(Arc::new(Renewed { builder: builder.clone(), wire: Arc::clone(wire), asked: Mutex::new(asked) }))
}

/// A provider that keeps what it was given until its end is replaced by a new one when the store sees that end earlier.
#[derive(Debug)]
struct Renewed {
    builder: AmazonS3Builder,
    wire: Arc<Wire>,
    asked: Mutex<Asked>,
}

#[derive(Debug)]
struct Asked {
    provider: AwsCredentialProvider,
    /// How often the store had called credentials out of date when the provider was made.
    expired: u64,
}

impl Renewed {
    fn current(&self) -> object_store::Result<AwsCredentialProvider> {
        let expired = self.wire.expired.load(Ordering::Relaxed);
        let mut asked = self.asked.lock();
        if asked.expired != expired {
            let provider = self.builder.clone().build()?.credentials().clone();
            *asked = Asked { provider, expired };
        }
        Ok(Arc::clone(&asked.provider))
    }
}

#[async_trait::async_trait]
impl CredentialProvider for Renewed {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.current()?.get_credential().await
    }
}

/// The shared credentials file.
#[derive(Debug)]
struct SharedFile {
    path: PathBuf,
    profile: String,
    read: Mutex<Option<(Version, Arc<AwsCredential>)>>,
}

/// What differs once a file was replaced or rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Version {
    fn of(status: &Metadata) -> Self {
        Self { inode: status.ino(), bytes: status.len(), changed: (status.ctime(), status.ctime_nsec()) }
    }
}

impl SharedFile {
    /// The file that was named, or the one at the usual place if it is there.
    fn of(environment: &Environment) -> Option<Self> {
        let named = variable(environment, "AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
        let usual = || variable(environment, "HOME").map(|home| Path::new(&home).join(".aws/credentials"));
        let path = named.or_else(|| usual().filter(|path| path.exists()))?;
        let profile = variable(environment, "AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
        Some(Self { path, profile, read: Mutex::new(None) })
    }

    fn credential(&self) -> Result<Arc<AwsCredential>, String> {
        let unusable = |cause: &dyn std::fmt::Display| format!("credentials file {}: {cause}", self.path.display());
        let status = std::fs::metadata(&self.path).map_err(|error| unusable(&error))?;
        let version = Version::of(&status);
        let mut read = self.read.lock();
        if let Some((_, credential)) = read.as_ref().filter(|(of, _)| *of == version) {
            return Ok(Arc::clone(credential));
        }
        let text = std::fs::read_to_string(&self.path).map_err(|error| unusable(&error))?;
        match (parse(&text, &self.profile), read.as_ref()) {
            (Ok(credential), _) => {
                let credential = Arc::new(credential);
                *read = Some((version, Arc::clone(&credential)));
                Ok(credential)
            }
            // Somebody is writing it just now: what it said before holds until it is whole.
            (Err(_), Some((_, credential))) => Ok(Arc::clone(credential)),
            (Err(cause), None) => Err(unusable(&cause)),
        }
    }
}

#[async_trait::async_trait]
impl CredentialProvider for SharedFile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.credential().map_err(|cause| object_store::Error::Generic { store: "S3", source: cause.into() })
    }
}

/// Reads one profile of an INI file.
fn parse(text: &str, profile: &str) -> Result<AwsCredential, String> {
    let (mut is_inside, mut is_there) = (false, false);
    let (mut key_id, mut secret_key, mut token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            is_inside = name.trim() == profile;
            is_there |= is_inside;
            continue;
        }
        let Some((name, value)) = line.split_once('=').filter(|_| is_inside) else { continue };
        let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        match name.trim() {
            "aws_access_key_id" => key_id = value,
            "aws_secret_access_key" => secret_key = value,
            "aws_session_token" => token = value,
            _ => {}
        }
    }
    match (key_id, secret_key) {
        (Some(key_id), Some(secret_key)) => Ok(AwsCredential { key_id, secret_key, token }),
        _ if is_there => Err(format!("the profile {profile} lacks aws_access_key_id or aws_secret_access_key")),
        _ => Err(format!("it has no profile {profile}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# mine\n[default]\naws_access_key_id = A\naws_secret_access_key=b=c/+\n\n[ other ]\n\
                        aws_access_key_id=B\n; no\naws_secret_access_key = d\naws_session_token = e\n[bare]\nregion = x\n";

    #[test]
    fn profiles_are_told_apart() {
        let default = parse(TEXT, "default").unwrap();
        assert_eq!((default.key_id.as_str(), default.secret_key.as_str(), default.token), ("A", "b=c/+", None));
        let other = parse(TEXT, "other").unwrap();
        assert_eq!((other.key_id.as_str(), other.secret_key.as_str(), other.token.as_deref()), ("B", "d", Some("e")));
        assert!(parse(TEXT, "bare").unwrap_err().contains("lacks"));
        assert!(parse(TEXT, "absent").unwrap_err().contains("no profile absent"));
    }

    #[test]
    fn a_file_is_read_again_when_it_changed_and_kept_while_it_is_half_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials");
        let named = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment = vec![named("AWS_SHARED_CREDENTIALS_FILE", path.to_str().unwrap())];
        let file = SharedFile::of(&environment).unwrap();
        assert!(file.credential().unwrap_err().contains("No such file"));
        for (text, key) in [(TEXT, "A"), ("[default]\naws_acc", "A"), (&*TEXT.replace("= A", "= AA"), "AA")] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(file.credential().unwrap().key_id, key);
        }
    }
}
