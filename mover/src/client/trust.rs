//! TLS towards a control plane: 1.2 at least, and the server is known by an authority that was named beforehand.
//!
//! An authority is named by its certificate, or by the SHA-256 of it, which the server prints at its start: the certificate
//! then comes along in the handshake and counts only if it is that one. Nothing is ever taken on trust.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::cli::error::{CliError, Result};
use crate::cli::text::hex;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// By what a server is known.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Certificates of authorities, PEM.
    Authority(String),
    /// SHA-256 of the certificate of the authority, in hexadecimal digits.
    Fingerprint(String),
    /// The authorities of this machine.
    Machine,
}

/// The papers of a client, PEM.
#[derive(Clone, Copy)]
pub struct Papers<'a> {
    /// Its certificate.
    pub certificate: &'a str,
    /// Its private key.
    pub key: &'a str,
}

/// What makes requests.
///
/// # Errors
/// Papers or certificates that cannot be read.
pub fn http(trust: &Trust, papers: Option<Papers<'_>>) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .https_only(true)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("mover/", env!("CARGO_PKG_VERSION")));
    if !matches!(trust, Trust::Machine) || papers.is_some() {
        builder = builder.tls_backend_preconfigured(config(trust, papers)?);
    }
    builder.build().map_err(|error| CliError::system("set up", "TLS", error))
}

fn config(trust: &Trust, papers: Option<Papers<'_>>) -> Result<ClientConfig> {
    let failed = |what: &str, cause: String| CliError::system("use", what, cause);
    let provider = Arc::new(provider::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed("TLS", error.to_string()))?;
    let builder = match trust {
        Trust::Authority(pem) => builder.with_root_certificates(roots(pem)?),
        Trust::Fingerprint(given) => {
            let digits = digits(given);
            if digits.len() != 64 {
                let help = "it is 64 hexadecimal digits, as the server prints them at its start";
                return Err(CliError::usage(format!("'{given}' is no fingerprint"), help));
            }
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(ByFingerprint { fingerprint: digits, provider }))
        }
        Trust::Machine => return Err(CliError::usage("no authority was named", "name one with --ca")),
    };
    let Some(papers) = papers else { return Ok(builder.with_no_client_auth()) };
    let chain: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(papers.certificate.as_bytes()).collect();
    let chain = chain.map_err(|error| failed("the certificate of this agent", error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(papers.key.as_bytes());
    let key = key.map_err(|error| failed("the key of this agent", error.to_string()))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| failed("the papers of this agent", error.to_string()))
}

fn roots(pem: &str) -> Result<RootCertStore> {
    let failed = |cause: String| CliError::system("use", "the certificate of the authority", cause);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(failed("there is no certificate in it".to_owned()));
    }
    Ok(roots)
}

/// A fingerprint as people write it, in pairs or not, in any case.
fn digits(given: &str) -> String {
    given.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_lowercase()
}

fn fingerprint(certificate: &[u8]) -> String {
    hex(digest(&SHA256, certificate).as_ref())
}

/// Whether the first certificate of `pem` has this fingerprint.
pub fn has_fingerprint(pem: &str, given: &str) -> bool {
    let first = CertificateDer::pem_slice_iter(pem.as_bytes()).next();
    first.and_then(std::result::Result::ok).is_some_and(|certificate| fingerprint(&certificate) == digits(given))
}

/// Takes a server whose chain ends in the certificate that was named.
#[derive(Debug)]
struct ByFingerprint {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ByFingerprint {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let is_named = |certificate: &&CertificateDer<'_>| fingerprint(certificate) == self.fingerprint;
        let authority = intermediates.iter().find(is_named).ok_or(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
