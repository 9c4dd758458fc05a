//! The envelope of log records, and the record that opens a registration.
//!
//! A record is a small sealed object whose plain content is `body ‖ signature (64)`. The
//! signature covers repository, object name and body.

use super::point::{put_other_point, take_other_point};
use crate::codec::{DecodeError, Decoder, Encoder};
use crate::crypto::{
    OBJECT_OVERHEAD_BYTES, ObjectKind, SIGNATURE_BYTES, Secrets, VerifyingKey, open_object, seal_object,
};
use crate::error::{RepositoryError, Result};
use crate::ids::{LogNumber, ObjectId, UnixNanos};
use crate::limits::{HOST_BYTES_MAX, LOG_RECORD_BYTES_MAX, SET_BYTES_MAX};
use bytes::Bytes;

/// What a registration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Adds packs and may commit a recovery point.
    Writer = 1,
    /// Restores or verifies: what it needs must stay.
    Reader = 2,
    /// Prunes, forgets, fences or changes keys.
    Admin = 3,
}

impl Role {
    fn from_byte(byte: u8) -> std::result::Result<Self, DecodeError> {
        match byte {
            1 => Ok(Self::Writer),
            2 => Ok(Self::Reader),
            3 => Ok(Self::Admin),
            _ => Err(DecodeError::Invalid { field: "role" }),
        }
    }
}

/// Who registered, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRecord {
    /// What the registration is for.
    pub role: Role,
    /// Name of the host.
    pub host: String,
    /// Process on that host.
    pub process_id: u32,
    /// Tells this machine, as it was booted and as its processes are numbered, from all others; zero: not known.
    pub machine: ObjectId,
    /// The set that is worked on; empty if none.
    pub set: String,
    /// The job; a restarted job keeps its id.
    pub job: ObjectId,
    /// The registration of the same job whose work is taken over.
    pub adopts: Option<LogNumber>,
    /// The recovery point that the one of this run will depend on: it counts, forgotten or not, until this run has ended.
    pub depends_on: Option<ObjectId>,
    /// When the run began.
    pub started: UnixNanos,
}

impl OpenRecord {
    /// The body of an `open` record: the verifying key that the registration introduces, then
    /// the fields.
    pub(crate) fn encode(&self, signer: &VerifyingKey) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder.raw(&signer.0);
        encoder.u8(self.role as u8);
        text(&mut encoder, &self.host);
        encoder.u32(self.process_id);
        encoder.raw(self.machine.as_bytes());
        text(&mut encoder, &self.set);
        encoder.raw(self.job.as_bytes());
        encoder.u64(self.adopts.map_or(0, |number| number.0));
        put_other_point(&mut encoder, self.depends_on.as_ref());
        encoder.i128(self.started.0);
        encoder.finish()
    }

    pub(crate) fn decode(body: &[u8]) -> std::result::Result<(VerifyingKey, Self), DecodeError> {
        let mut decoder = Decoder::new(body);
        let signer = VerifyingKey(decoder.array()?);
        let role = Role::from_byte(decoder.u8()?)?;
        let host = text_field(&mut decoder, HOST_BYTES_MAX, "host")?;
        let process_id = decoder.u32()?;
        let machine = ObjectId(decoder.array()?);
        let set = text_field(&mut decoder, SET_BYTES_MAX, "set")?;
        let job = ObjectId(decoder.array()?);
        let adopts = Some(LogNumber(decoder.u64()?)).filter(|number| number.0 != 0);
        let depends_on = take_other_point(&mut decoder)?;
        let started = UnixNanos(decoder.i128()?);
        decoder.finish()?;
        Ok((signer, Self { role, host, process_id, machine, set, job, adopts, depends_on, started }))
    }

    /// Refuses what a reader would refuse.
    pub(crate) fn check(&self) -> Result<()> {
        check_length("host name", self.host.len(), HOST_BYTES_MAX)?;
        check_length("set name", self.set.len(), SET_BYTES_MAX)
    }
}

/// The [`OpenRecord::machine`] of this process: a name of a host alone may be that of many.
pub fn this_machine() -> ObjectId {
    let read = |path: &str| std::fs::read(path).unwrap_or_default();
    let (machine, boot) = (read("/etc/machine-id"), read("/proc/sys/kernel/random/boot_id"));
    let Ok(namespace) = std::fs::read_link("/proc/self/ns/pid") else { return ObjectId([0; 32]) };
    if boot.is_empty() {
        return ObjectId([0; 32]);
    }
    let mut hasher = blake3::Hasher::new();
    for part in [machine.as_slice(), &boot, namespace.as_os_str().as_encoded_bytes()] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    ObjectId(*hasher.finalize().as_bytes())
}

pub(crate) fn check_length(what: &str, bytes: usize, limit: usize) -> Result<()> {
    if bytes <= limit {
        return Ok(());
    }
    Err(RepositoryError::LimitExceeded { what: format!("a {what} of {bytes} bytes; {limit} are allowed") })
}

/// Appends UTF-8 text.
pub(crate) fn text(encoder: &mut Encoder, value: &str) {
    encoder.string(value.as_bytes());
}

/// Takes UTF-8 text of at most `limit` bytes.
pub(crate) fn text_field(
    decoder: &mut Decoder<'_>,
    limit: usize,
    field: &'static str,
) -> std::result::Result<String, DecodeError> {
    let bytes = decoder.string(limit, field)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Invalid { field })
}

/// Signs and seals `body` as the record `name`.
pub(crate) fn seal_record(secrets: &Secrets, name: &str, body: &[u8]) -> Result<Bytes> {
    let signature = secrets.signing().sign(&secrets.repository_id(), name, body);
    let content = [body, &signature].concat();
    check_length("log record", content.len() + OBJECT_OVERHEAD_BYTES, LOG_RECORD_BYTES_MAX)?;
    Ok(seal_object(secrets, ObjectKind::LogRecord, name, &content))
}

/// An opened record whose signature is not yet checked: which key must have signed it may be
/// told by the body itself.
pub(crate) struct OpenedRecord {
    pub(crate) body: Vec<u8>,
    signature: [u8; SIGNATURE_BYTES],
}

pub(crate) fn open_record(secrets: &Secrets, name: &str, object: &[u8]) -> Result<OpenedRecord> {
    let mut body = open_object(secrets, ObjectKind::LogRecord, name, object)?;
    let Some((_, signature)) = body.split_last_chunk::<SIGNATURE_BYTES>() else {
        return Err(RepositoryError::corrupt(name, "it carries no signature"));
    };
    let signature = *signature;
    body.truncate(body.len() - SIGNATURE_BYTES);
    Ok(OpenedRecord { body, signature })
}

impl OpenedRecord {
    pub(crate) fn verify(&self, secrets: &Secrets, name: &str, signer: &VerifyingKey) -> Result<()> {
        signer
            .verify(&secrets.repository_id(), name, &self.body, &self.signature)
            .map_err(|_| RepositoryError::corrupt(name, "its signature does not match"))
    }
}
