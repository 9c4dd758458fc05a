//! Who signs: one certificate authority for all servers of a database, for their own certificates and those of agents.
//!
//! The first server makes it and puts it into the database; the key is sealed (AES-256-GCM) by a key of 256 bits in the
//! file `authority.key` of the data directory, mode 0600. So neither a dump nor a reader of the database can sign
//! anything, and a second server on the same PostgreSQL needs a copy of that file, once; without it it says so and
//! does not start.
//!
//! An agent is known by its public key ([`fingerprint`]): a certificate that is signed again for the same key, since
//! an answer was lost or the old one ends, is the same agent. The authority lives 20 years; what it signs, 90 days
//! ([`LIFE`]). Servers renew their own a third before its end, agents ask for theirs.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest;
use mover_control::access::vault;
use mover_control::database::Database;
use mover_control::ids::{AgentId, UnixMillis};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::cli::error::{CliError, Result};

/// How long a certificate of a server or an agent counts.
pub const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// It is renewed when less than this is left.
pub const RENEWED_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long the authority counts.
const AUTHORITY_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// Clocks may differ: certificates count from this much earlier on.
const SKEW: Duration = Duration::from_secs(3600);
/// Where it is in the database.
const NAME: &str = "authority";
/// A certificate request at most.
const REQUEST_BYTES: usize = 16 << 10;

const _: () = assert!(LIFE.as_secs() > 2 * RENEWED_BEFORE.as_secs());

/// As it is in the database.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    certificate: String,
    nonce: String,
    sealed_key: String,
}

/// Signs for servers and agents.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// PEM.
    pub certificate: String,
    der: CertificateDer<'static>,
}

impl Authority {
    /// That of the database; made if there is none.
    ///
    /// # Errors
    /// The key file is missing, is not that of this authority, or the database fails.
    pub async fn open(database: &Database, data: &Path, now: UnixMillis) -> Result<Authority> {
        let file = data.join("authority.key");
        let failed = |error: mover_control::ControlError| CliError::system("read", "the authority", error);
        let known = vault::get(database, NAME).await.map_err(failed)?;
        let text = match known {
            Some(text) => text,
            None => {
                let key = read_or_make_key(&file)?;
                vault::put_if_absent(database, NAME, &make(&key, now)?).await.map_err(failed)?
            }
        };
        let damaged = |cause: String| CliError::system("read", "the authority in the database", cause);
        let stored: Stored = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        let key = unseal(&stored, &read_key(&file)?).ok_or_else(|| foreign(&file))?;
        let key = KeyPair::from_pem(&key).map_err(|error| damaged(error.to_string()))?;
        let issuer = Issuer::from_ca_cert_pem(&stored.certificate, key).map_err(|error| damaged(error.to_string()))?;
        let der = CertificateDer::from_pem_slice(stored.certificate.as_bytes());
        let der = der.map_err(|error| damaged(error.to_string()))?;
        Ok(Authority { issuer, certificate: stored.certificate, der })
    }

    /// DER of its certificate.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// SHA-256 of its certificate, as an agent that joins is told it.
    pub fn pin(&self) -> String {
        hex(digest::digest(&digest::SHA256, &self.der).as_ref())
    }

    /// A new key and certificate of a server with these names or addresses.
    ///
    /// # Errors
    /// A name is none.
    pub fn server(
        &self,
        names: &[String],
        now: UnixMillis,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
        let failed = |error: rcgen::Error| CliError::system("make", "the certificate of the server", error);
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, "mover serve");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        limit(&mut params, LIFE, now);
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let secret = PrivateKeyDer::try_from(key.serialize_der()).expect("a key that was just made");
        Ok((certificate.der().clone(), secret))
    }

    /// Signs what an agent asks for, in the name of the agent and for nothing but that: PEM and fingerprint.
    ///
    /// # Errors
    /// The request is none, or is not signed by its own key; in words.
    pub fn agent(&self, request: &str, agent: &AgentId, now: UnixMillis) -> std::result::Result<Signed, String> {
        if request.len() > REQUEST_BYTES {
            return Err(format!("the certificate request is over {REQUEST_BYTES} bytes"));
        }
        let asked = CertificateSigningRequestParams::from_pem(request)
            .map_err(|error| format!("the certificate request cannot be read: {error}"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, agent.as_str());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        limit(&mut params, LIFE, now);
        let asked = CertificateSigningRequestParams { params, public_key: asked.public_key };
        let certificate: Certificate = asked.signed_by(&self.issuer).map_err(|error| error.to_string())?;
        let fingerprint = fingerprint(certificate.der()).ok_or("the key of the request cannot be read")?;
        Ok(Signed { certificate: certificate.pem(), fingerprint })
    }
}

/// A certificate for an agent.
pub struct Signed {
    /// PEM.
    pub certificate: String,
    /// Of its key.
    pub fingerprint: String,
}

/// SHA-256 of the public key in a certificate: who it is, whatever else the certificate says.
pub fn fingerprint(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(hex(digest::digest(&digest::SHA256, parsed.public_key().raw).as_ref()))
}

/// The common name of a certificate, and when it ends in unix seconds.
pub fn name_and_end(certificate: &[u8]) -> Option<(String, i64)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    Some((name, parsed.validity().not_after.timestamp()))
}

fn limit(params: &mut CertificateParams, life: Duration, now: UnixMillis) {
    let at = |time: UnixMillis| (std::time::UNIX_EPOCH + Duration::from_millis(time.0.unsigned_abs())).into();
    params.not_before = at(now.minus(SKEW));
    params.not_after = at(now.plus(life));
    params.use_authority_key_identifier_extension = true;
    let serial: [u8; 16] = rand::random();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
}

/// A new authority, as it is stored.
fn make(sealing: &[u8], now: UnixMillis) -> Result<String> {
    let failed = |error: rcgen::Error| CliError::system("make", "the certificate authority", error);
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    let number: [u8; 4] = rand::random();
    params.distinguished_name.push(DnType::CommonName, format!("mover control plane {}", hex(&number)));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    limit(&mut params, AUTHORITY_LIFE, now);
    let certificate = params.self_signed(&key).map_err(failed)?;
    let mut sealed = key.serialize_pem().into_bytes();
    let cipher = RandomizedNonceKey::new(&AES_256_GCM, sealing).expect("32 bytes");
    let nonce = cipher.seal_in_place_append_tag(Aad::from(NAME), &mut sealed).expect("a short message");
    let nonce: &[u8; NONCE_LEN] = nonce.as_ref();
    let stored = Stored { certificate: certificate.pem(), nonce: hex(nonce), sealed_key: hex(&sealed) };
    Ok(serde_json::to_string(&stored).expect("plain data has a JSON form"))
}

fn unseal(stored: &Stored, sealing: &[u8]) -> Option<Zeroizing<String>> {
    let nonce: [u8; NONCE_LEN] = unhex(&stored.nonce)?.try_into().ok()?;
    let mut sealed = Zeroizing::new(unhex(&stored.sealed_key)?);
    let cipher = RandomizedNonceKey::new(&AES_256_GCM, sealing).ok()?;
    let nonce = Nonce::assume_unique_for_key(nonce);
    let plain = cipher.open_in_place(nonce, Aad::from(NAME), &mut sealed).ok()?;
    String::from_utf8(plain.to_vec()).ok().map(Zeroizing::new)
}

fn foreign(file: &Path) -> CliError {
    CliError::failed(
        format!("{} does not open the authority in the database", file.display()),
        "copy authority.key from the data directory of the first server on this database",
    )
}

fn read_key(file: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(foreign_missing(file)),
        Err(error) => return Err(CliError::system("read", file.display(), error)),
    };
    let bytes = unhex(text.trim()).filter(|bytes| bytes.len() == AES_256_GCM.key_len());
    bytes.map(Zeroizing::new).ok_or_else(|| foreign(file))
}

fn foreign_missing(file: &Path) -> CliError {
    CliError::failed(
        format!("the database has an authority already, and {} is not there", file.display()),
        "copy authority.key from the data directory of the first server on this database",
    )
}

fn read_or_make_key(file: &PathBuf) -> Result<Zeroizing<Vec<u8>>> {
    if file.exists() {
        return read_key(file);
    }
    let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(rand::random());
    let failed = |error: std::io::Error| CliError::system("write", file.display(), error);
    let mut made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(failed)?;
    made.write_all(hex(bytes.as_slice()).as_bytes()).and_then(|()| made.sync_all()).map_err(failed)?;
    Ok(Zeroizing::new(bytes.to_vec()))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// DER of the subject of a certificate.
pub fn subject(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.subject().as_raw().to_vec())
}
