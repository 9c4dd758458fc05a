//! TLS of a server: 1.3, or 1.2 for who cannot; a certificate that is renewed while it runs; certificates of clients.
//!
//! A client may show a certificate and must then hold its key: that is proven in the handshake. Whether it is one of
//! ours is judged after it ([`Judge`]), so that an agent with a wrong one gets a reason that it can act on, and a
//! browser that has certificates of its own still gets the console.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;
use mover_control::clock::SettledClock;
use mover_control::ids::UnixMillis;
use mover_control::protocol::problem;
use parking_lot::RwLock;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};

use super::authority::{self, Authority, LIFE, RENEWED_BEFORE};
use crate::cli::error::{CliError, Result};

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// It showed no certificate.
    Anybody,
    /// It holds the key of a certificate that our authority signed.
    Agent {
        /// Of its key.
        fingerprint: String,
        /// Whom the certificate names.
        name: String,
        /// When the certificate ends, in unix seconds.
        ends: i64,
    },
    /// It showed a certificate that does not count: end of a problem type, and why.
    Refused(&'static str, String),
}

/// The certificate that a server shows, changed while it runs.
#[derive(Debug)]
pub struct ServerCertificate(RwLock<(Arc<CertifiedKey>, UnixMillis)>);

impl ServerCertificate {
    /// A new one for these names.
    ///
    /// # Errors
    /// A name is none.
    pub fn new(authority: &Authority, names: &[String], now: UnixMillis) -> Result<Arc<Self>> {
        Ok(Arc::new(ServerCertificate(RwLock::new((certified(authority, names, now)?, now)))))
    }

    /// Shows another one from the next handshake on.
    ///
    /// # Errors
    /// A name is none.
    pub fn renew(&self, authority: &Authority, names: &[String], now: UnixMillis) -> Result<()> {
        *self.0.write() = (certified(authority, names, now)?, now);
        Ok(())
    }

    /// Whether it is time for another one: this one ends soon, or, made by a clock that was ahead, has not begun.
    pub fn is_due(&self, now: UnixMillis) -> bool {
        let made = self.0.read().1;
        now < made || now >= made.plus(LIFE.saturating_sub(RENEWED_BEFORE))
    }
}

fn certified(authority: &Authority, names: &[String], now: UnixMillis) -> Result<Arc<CertifiedKey>> {
    let (certificate, key) = authority.server(names, now)?;
    super::figures::certified(now.plus(LIFE));
    let chain = vec![certificate, authority.der().clone()];
    let made = CertifiedKey::from_der(chain, key, &provider());
    made.map(Arc::new).map_err(|error| CliError::system("use", "the certificate of the server", error))
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().0))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// What a listener needs.
///
/// # Errors
/// The library refuses, which would be a bug here.
pub fn config(authority: &Authority, certificate: Arc<ServerCertificate>) -> Result<ServerConfig> {
    let failed = |error: rustls::Error| CliError::system("set up", "TLS", error);
    let subject = authority::subject(authority.der()).map(DistinguishedName::from);
    let verifier =
        AnyClient { algorithms: provider().signature_verification_algorithms, subjects: subject.into_iter().collect() };
    Ok(ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(certificate))
}

/// Takes any certificate whose key the client holds.
struct AnyClient {
    algorithms: WebPkiSupportedAlgorithms,
    subjects: Vec<DistinguishedName>,
}

impl fmt::Debug for AnyClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyClient")
    }
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> std::result::Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Says whose a certificate is.
pub struct Judge {
    verifier: Arc<dyn ClientCertVerifier>,
    /// The time that all else here is decided by: a clock that jumps for a moment turns no agent away.
    clock: Arc<SettledClock>,
}

impl Judge {
    /// By this authority.
    ///
    /// # Errors
    /// The library refuses, which would be a bug here.
    pub fn new(authority: &Authority, clock: Arc<SettledClock>) -> Result<Judge> {
        let failed = |error: String| CliError::system("set up", "the check of certificates", error);
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).map_err(|error| failed(error.to_string()))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
        let verifier = verifier.map_err(|error| failed(error.to_string()))?;
        Ok(Judge { verifier, clock })
    }

    /// Who shows this chain.
    pub fn judge(&self, chain: &[CertificateDer<'_>]) -> Peer {
        let now = UnixTime::since_unix_epoch(Duration::from_millis(self.clock.now().0.unsigned_abs()));
        let Some((own, others)) = chain.split_first() else { return Peer::Anybody };
        if let Err(error) = self.verifier.verify_client_cert(own, others, now) {
            return refused(&error);
        }
        match (authority::fingerprint(own), authority::name_and_end(own)) {
            (Some(fingerprint), Some((name, ends))) => Peer::Agent { fingerprint, name, ends },
            _ => Peer::Refused(problem::CERTIFICATE_NAME, "the certificate names no agent".to_owned()),
        }
    }

    /// Puts who is at the other end of a new connection where requests find it.
    pub fn note(&self, connection: &dyn Any, data: &mut Extensions) {
        if let Some(stream) = connection.downcast_ref::<TlsStream<TcpStream>>() {
            let (_, session) = stream.get_ref();
            data.insert(self.judge(session.peer_certificates().unwrap_or_default()));
        }
    }
}

fn refused(error: &rustls::Error) -> Peer {
    let name = match error {
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            problem::CERTIFICATE_EXPIRED
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => problem::CERTIFICATE_NOT_YET_VALID,
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            problem::CERTIFICATE_AUTHORITY
        }
        _ => problem::CERTIFICATE_NAME,
    };
    Peer::Refused(name, format!("the client certificate does not count: {error}"))
}

#[cfg(test)]
mod tests {
    use mover_control::clock::{BELIEF, ManualClock};
    use mover_control::database::Database;
    use mover_control::ids::AgentId;
    use rcgen::{CertificateParams, KeyPair};
    use rustls::pki_types::pem::PemObject;

    use super::*;

    /// 2026-03-02, noon UTC.
    const NOON: UnixMillis = UnixMillis(1_772_452_800_000);

    fn authority(data: &std::path::Path) -> Authority {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let database = Database::open_embedded(data).await.unwrap();
            let made = Authority::open(&database, data, NOON).await.unwrap();
            let again = Authority::open(&database, data, NOON).await.unwrap();
            assert_eq!(made.pin(), again.pin(), "the second finds the first");
            std::fs::write(data.join("authority.key"), "00".repeat(32)).unwrap();
            let foreign = Authority::open(&database, data, NOON).await.err().expect("another key");
            assert!(foreign.message.contains("does not open the authority"), "{}", foreign.message);
            std::fs::remove_file(data.join("authority.key")).unwrap();
            assert!(Authority::open(&database, data, NOON).await.is_err(), "a key is not made for an old authority");
            database.close().await;
            made
        })
    }

    fn agent_certificate(authority: &Authority, now: UnixMillis) -> (CertificateDer<'static>, String) {
        let key = KeyPair::generate().unwrap();
        // Whatever the request says of itself, the certificate says what the authority means.
        let mut asked = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        asked.distinguished_name.push(rcgen::DnType::CommonName, "somebody else");
        asked.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let request = asked.serialize_request(&key).unwrap().pem().unwrap();
        let signed = authority.agent(&request, &AgentId::from("agent-1"), now).unwrap();
        (CertificateDer::from_pem_slice(signed.certificate.as_bytes()).unwrap(), signed.fingerprint)
    }

    #[test]
    fn certificates_are_judged_by_authority_time_and_purpose() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (own, other) = (authority(first.path()), authority(second.path()));
        let judge_at = |now| Judge::new(&own, SettledClock::new(ManualClock::at(now))).unwrap();
        let (certificate, fingerprint) = agent_certificate(&own, NOON);
        let Peer::Agent { name, fingerprint: seen, ends } = judge_at(NOON).judge(std::slice::from_ref(&certificate))
        else {
            panic!("it counts");
        };
        assert_eq!((name.as_str(), seen), ("agent-1", fingerprint));
        assert_eq!(ends * 1000, NOON.plus(authority::LIFE).0);
        let later = NOON.plus(authority::LIFE + Duration::from_secs(1));
        let (foreign, _) = agent_certificate(&other, NOON);
        let (server, _) = own.server(&["localhost".to_owned()], NOON).unwrap();
        let cases = [
            (certificate.clone(), later, problem::CERTIFICATE_EXPIRED),
            (certificate, NOON.minus(Duration::from_secs(48 * 3600)), problem::CERTIFICATE_NOT_YET_VALID),
            (foreign, NOON, problem::CERTIFICATE_AUTHORITY),
            (server, NOON, problem::CERTIFICATE_NAME),
        ];
        for (certificate, now, expected) in cases {
            match judge_at(now).judge(&[certificate]) {
                Peer::Refused(name, why) => assert_eq!(name, expected, "{why}"),
                peer => panic!("{expected}: {peer:?}"),
            }
        }
        assert_eq!(judge_at(NOON).judge(&[]), Peer::Anybody);
        assert!(own.agent("nonsense", &AgentId::from("a"), NOON).is_err());
    }

    #[test]
    fn clock_that_jumps_for_a_moment_turns_no_agent_away() {
        let data = tempfile::tempdir().unwrap();
        let own = authority(data.path());
        let manual = ManualClock::at(NOON);
        let judge = Judge::new(&own, SettledClock::new(manual.clone())).unwrap();
        let (certificate, _) = agent_certificate(&own, NOON);
        for wrong in [NOON.plus(LIFE * 2), NOON.minus(LIFE)] {
            manual.set_wall(wrong);
            assert!(matches!(judge.judge(std::slice::from_ref(&certificate)), Peer::Agent { .. }), "{wrong}");
        }
        manual.advance(BELIEF);
        let believed = judge.judge(&[certificate]);
        assert!(matches!(believed, Peer::Refused(problem::CERTIFICATE_NOT_YET_VALID, _)), "{believed:?}");
    }

    #[test]
    fn certificate_of_the_server_is_renewed_in_time_and_when_the_clock_went_back() {
        let data = tempfile::tempdir().unwrap();
        let own = authority(data.path());
        let shown = ServerCertificate::new(&own, &["localhost".to_owned()], NOON).unwrap();
        let hour = Duration::from_secs(3600);
        assert!(!shown.is_due(NOON) && !shown.is_due(NOON.plus(LIFE - RENEWED_BEFORE - hour)));
        for due in [NOON.plus(LIFE - RENEWED_BEFORE), NOON.minus(hour)] {
            assert!(shown.is_due(due), "{due}");
        }
        shown.renew(&own, &["localhost".to_owned()], NOON.minus(hour)).unwrap();
        assert!(!shown.is_due(NOON.minus(hour)));
    }
}
