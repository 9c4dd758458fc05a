//! Where a store is and how it is reached: a URL, and the variables of the environment that its vendor's tools know.
//!
//! TLS is checked against the authorities of the system, or those of a private one that is named; plain HTTP is used only
//! where the endpoint says `http://`, never as a second try.

use std::str::FromStr;
use std::sync::Arc;

use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::multipart::MultipartStore;
use object_store::{ObjectStore, RetryConfig};

use super::credentials;
use super::transport::Transport;
use crate::backend::{StorageError, StorageErrorKind, check_name};

/// What a client of any vendor can do.
pub(super) trait Store: ObjectStore + MultipartStore {}
impl<T: ObjectStore + MultipartStore> Store for T {}

/// Variables of the environment: name and value.
pub type Environment = Vec<(String, String)>;

/// Kinds of stores by the beginning of their URLs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vendor {
    S3,
    Google,
    Azure,
}

/// The address of a repository in an object store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemotePlace {
    vendor: Vendor,
    bucket: String,
    /// Without slashes at its ends; empty for the whole bucket.
    prefix: String,
}

impl RemotePlace {
    /// True if `place` begins as the URL of an object store does.
    pub fn is_remote(place: &str) -> bool {
        vendor_of(place).is_some()
    }

    /// Reads `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`.
    ///
    /// # Errors
    /// [`StorageErrorKind::InvalidName`] with what is wrong.
    pub fn parse(place: &str) -> Result<Self, StorageError> {
        let invalid =
            |why: &str| Err(StorageError::of_kind("use", place, StorageErrorKind::InvalidName, why.to_owned()));
        let Some((vendor, rest)) = vendor_of(place) else {
            return invalid("it begins with none of s3://, gs:// and az://");
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let is_bucket = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if bucket.is_empty() || !bucket.chars().all(is_bucket) {
            return invalid("it names no bucket: write for instance s3://bucket/prefix");
        }
        if !prefix.is_empty() && check_name("use", prefix).is_err() {
            return invalid("the prefix may have letters, digits, '.', '_', '-' and single '/'");
        }
        Ok(Self { vendor, bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }

    /// The URL as a user writes it.
    pub fn url(&self) -> String {
        let scheme = match self.vendor {
            Vendor::S3 => "s3",
            Vendor::Google => "gs",
            Vendor::Azure => "az",
        };
        match self.prefix.as_str() {
            "" => format!("{scheme}://{}", self.bucket),
            prefix => format!("{scheme}://{}/{prefix}", self.bucket),
        }
    }

    /// Whether stores of this kind have object lock.
    pub fn has_object_lock(&self) -> bool {
        self.vendor == Vendor::S3
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A client for this place; of an S3 store also as such.
    pub(super) fn connect(
        &self,
        environment: &Environment,
        transport: Transport,
    ) -> object_store::Result<(Arc<dyn Store>, Option<AmazonS3>)> {
        let url = format!("{}://{}", self.url().split_once(':').map_or("", |(scheme, _)| scheme), self.bucket);
        let once = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let wire = Arc::clone(transport.wire());
        Ok(match self.vendor {
            Vendor::S3 => {
                // The bytes are sealed, and checked by the store against a checksum that is signed.
                let builder = AmazonS3Builder::new()
                    .with_url(url)
                    .with_retry(once)
                    .with_http_connector(transport)
                    .with_unsigned_payload(true)
                    .with_checksum_algorithm(Checksum::CRC64NVME);
                let builder = configured(builder, environment, "AWS_", AmazonS3Builder::with_config);
                let credentials = credentials::provider(&builder, environment, &wire)?;
                let s3 = builder.with_credentials(credentials).build()?;
                (Arc::new(s3.clone()), Some(s3))
            }
            Vendor::Google => {
                let builder =
                    GoogleCloudStorageBuilder::new().with_url(url).with_retry(once).with_http_connector(transport);
                let builder = configured(builder, environment, "GOOGLE_", GoogleCloudStorageBuilder::with_config);
                (Arc::new(builder.build()?), None)
            }
            Vendor::Azure => {
                let builder =
                    MicrosoftAzureBuilder::new().with_url(url).with_retry(once).with_http_connector(transport);
                let builder = configured(builder, environment, "AZURE_", MicrosoftAzureBuilder::with_config);
                (Arc::new(builder.build()?), None)
            }
        })
    }
}

/// The builder with those variables of its vendor that it knows.
fn configured<B, K: FromStr>(
    builder: B,
    environment: &Environment,
    beginning: &str,
    set: impl Fn(B, K, String) -> B,
) -> B {
    let named = environment.iter().filter(|(name, value)| name.starts_with(beginning) && !value.is_empty());
    named.fold(builder, |builder, (name, value)| match name.to_ascii_lowercase().parse() {
        Ok(key) => set(builder, key, value.clone()),
        Err(_) => builder,
    })
}

fn vendor_of(place: &str) -> Option<(Vendor, &str)> {
    let vendors = [("s3://", Vendor::S3), ("gs://", Vendor::Google), ("az://", Vendor::Azure)];
    vendors.into_iter().find_map(|(scheme, vendor)| Some((vendor, place.strip_prefix(scheme)?)))
}

/// The value of a variable, if it is set and not empty.
pub(super) fn variable(environment: &Environment, name: &str) -> Option<String> {
    let found = environment.iter().find(|(each, value)| each == name && !value.is_empty());
    found.map(|(_, value)| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_written() {
        for (text, prefix) in [("s3://b", ""), ("s3://b/p/q", "p/q"), ("gs://b.c-d/p", "p"), ("az://c/p_1", "p_1")] {
            let place = RemotePlace::parse(text).unwrap();
            assert_eq!((place.url().as_str(), place.prefix()), (text, prefix));
        }
        assert_eq!(RemotePlace::parse("s3://b/p/").unwrap().url(), "s3://b/p");
        for wrong in
            ["s3://", "s3:///p", "s3://b/p//q", "s3://b/../q", "s3://b c/p", "ftp://b", "s3://b/ä", "s3://b?x=1"]
        {
            assert_eq!(RemotePlace::parse(wrong).unwrap_err().kind, StorageErrorKind::InvalidName, "{wrong}");
        }
        assert!(!RemotePlace::is_remote("./s3:/b"));
    }
}
