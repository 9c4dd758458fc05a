//! Rotation: new generations of the structure secret and of the read key pair, given to the slots that are there.
//!
//! ```text
//! 1  register as an admin · wait until every admin with a lower number has an outcome
//! 2  draw the generation · seal it to the renewal key of every slot that an admin signed and none removed
//! 3  create keys/rotation/<id>: the envelopes, the public read key, the log number, signed
//! 4  commit "keys rotated", which names that object: from this number on the generation is in force
//! ```
//!
//! Nothing is written anew but envelopes, so no password but one's own is needed, and no slot is lost. A crash before
//! step 4 leaves an object without a record: nobody uses it, and all opens as before. Who opens the repository asks for
//! the record of every rotation that he finds; the lowest number that is in force counts, so of two admins one wins.
//!
//! A put-only client learns the new public read key from the signed object, the structure secret from its envelope. A
//! record of a higher number that is sealed under an older generation counts for nothing, so who was not given the new
//! one can forge none. A run that registered before ends as it began, and what it writes stays readable.
//!
//! Never: takes back what was read or copied under an older generation, or changes what is stored under it: that is
//! for [`crate::prune::rekey`]. `FORMAT.md` section 2.3 has the bytes.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::backend::{Backend, ObjectMeta};
use crate::codec::{DecodeError, Decoder, Encoder};
use crate::crypto::{
    HEADER_BYTES, Header, NewGeneration, ObjectKind, SIGNATURE_BYTES, Secrets, TAG_BYTES, hpke, random_array,
};
use crate::error::{RepositoryError, Result};
use crate::ids::{LogNumber, ObjectId};
use crate::io::in_parallel;
use crate::key_admin::{KeyInfo, begin, list_slots, outcomes_of_admins};
use crate::keys::{self, CHECKSUM_BYTES, KEYS_PREFIX, KeySlot};
use crate::limits::KEY_OBJECT_BYTES_MAX;
use crate::log::{History, OpenRecord, Outcome, read_rotation};
use crate::repository::{KeyRights, Repository};

const INFO: &[u8] = b"mover repository format 1: rotated keys";
/// Shortest envelope: slot, rights, encapsulated key, length, tag.
const ENVELOPE_BYTES_MIN: usize = 32 + 1 + 32 + 4 + TAG_BYTES;

/// Name of a rotation's object.
pub fn rotation_name(id: &ObjectId) -> String {
    format!("{KEYS_PREFIX}/rotation/{id}")
}

/// Id in the name of a rotation's object.
pub(crate) fn parse_rotation_name(name: &str) -> Option<ObjectId> {
    name.strip_prefix(KEYS_PREFIX)?.strip_prefix("/rotation/")?.parse().ok()
}

/// A rotation as stored; its signature is checked apart.
pub struct Rotation {
    name: String,
    id: ObjectId,
    repository: ObjectId,
    /// The log number that brings it into force.
    at: LogNumber,
    generation: u32,
    read_public: [u8; 32],
    envelopes: Vec<Envelope>,
    signed: (Vec<u8>, [u8; SIGNATURE_BYTES]),
}

/// A generation, sealed to one slot.
struct Envelope {
    slot: ObjectId,
    rights: KeyRights,
    encapsulated: [u8; 32],
    sealed: Vec<u8>,
}

impl Rotation {
    /// Checks and takes apart an object.
    ///
    /// # Errors
    /// [`RepositoryError::Corrupt`] or [`RepositoryError::OtherFormat`].
    pub fn decode(name: &str, object: &[u8]) -> Result<Self> {
        let damaged = |reason: &str| RepositoryError::corrupt(name, reason);
        let id = parse_rotation_name(name).ok_or_else(|| damaged("it is no name of a rotation"))?;
        let (content, sum) = object.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(|| damaged("it is truncated"))?;
        if blake3::hash(content) != *sum {
            return Err(damaged("its checksum does not match"));
        }
        Header::decode(content, ObjectKind::Rotation, name)?;
        Self::decode_fields(name, id, content).map_err(RepositoryError::decoding(name))
    }

    fn decode_fields(name: &str, id: ObjectId, content: &[u8]) -> std::result::Result<Self, DecodeError> {
        let mut decoder = Decoder::new(content);
        decoder.raw(HEADER_BYTES)?;
        let repository = ObjectId(decoder.array()?);
        let (at, generation) = (LogNumber(decoder.u64()?), decoder.u32()?);
        let read_public = decoder.array()?;
        let mut envelopes = Vec::new();
        for _ in 0..decoder.count(ENVELOPE_BYTES_MIN, "envelopes")? {
            envelopes.push(Envelope {
                slot: ObjectId(decoder.array()?),
                rights: KeyRights::decode(&mut decoder)?,
                encapsulated: decoder.array()?,
                sealed: decoder.string(KEY_OBJECT_BYTES_MAX, "sealed generation")?.to_vec(),
            });
        }
        let signed = (content[..content.len() - decoder.remaining()].to_vec(), decoder.array()?);
        decoder.finish()?;
        Ok(Self { name: name.to_owned(), id, repository, at, generation, read_public, envelopes, signed })
    }

    fn is_signed_by_admin(&self, secrets: &Secrets) -> bool {
        self.repository == secrets.repository_id()
            && secrets.is_signed_by_admin(&self.name, &self.signed.0, &self.signed.1)
    }

    /// Opens what was sealed to a slot; none if it was left out.
    fn open(&self, slot: &ObjectId, renewal: &Zeroizing<[u8; 32]>) -> Result<Option<NewGeneration>> {
        let Some(envelope) = self.envelopes.iter().find(|envelope| envelope.slot == *slot) else { return Ok(None) };
        let aad = aad(&self.repository, slot, self.at, self.generation);
        let plain = hpke::open_with(renewal, INFO, &aad, &envelope.encapsulated, &envelope.sealed)
            .map_err(|error| RepositoryError::corrupt(&self.name, error))?;
        let decoded = self.decode_generation(envelope.rights, &plain).map_err(RepositoryError::decoding(&self.name))?;
        let is_pair = |private: &Zeroizing<[u8; 32]>| hpke::public_of(private) == self.read_public;
        if !decoded.read_private.as_ref().is_none_or(is_pair) {
            return Err(RepositoryError::corrupt(&self.name, "its read keys are no pair"));
        }
        Ok(Some(decoded))
    }

    fn decode_generation(&self, rights: KeyRights, plain: &[u8]) -> std::result::Result<NewGeneration, DecodeError> {
        let mut decoder = Decoder::new(plain);
        let structure = Zeroizing::new(decoder.array()?);
        let read_private = match rights {
            KeyRights::Full => Some(Zeroizing::new(decoder.array()?)),
            KeyRights::PutOnly => None,
        };
        decoder.finish()?;
        Ok(NewGeneration { generation: self.generation, structure, read_public: self.read_public, read_private })
    }
}

fn aad(repository: &ObjectId, slot: &ObjectId, at: LogNumber, generation: u32) -> Vec<u8> {
    [repository.as_bytes(), slot.as_bytes(), &at.0.to_le_bytes()[..], &generation.to_le_bytes()].concat()
}

/// Builds the object: name and bytes.
pub(crate) fn seal(
    secrets: &Secrets,
    at: LogNumber,
    new: &NewGeneration,
    slots: &[KeySlot],
) -> Result<(ObjectId, Bytes)> {
    let (id, repository) = (ObjectId(random_array()), secrets.repository_id());
    let mut encoder = Encoder::new();
    encoder.raw(&Header::new(ObjectKind::Rotation, 0).encode());
    encoder.raw(repository.as_bytes());
    encoder.u64(at.0);
    encoder.u32(new.generation);
    encoder.raw(&new.read_public);
    encoder.count(slots.len());
    for slot in slots {
        let slot_id = keys::parse_slot_name(slot.name()).expect("it was listed by such a name");
        let mut plain = Zeroizing::new(new.structure.to_vec());
        if slot.rights() == KeyRights::Full {
            let private = new.read_private.as_ref().expect("who rotates has drawn it");
            // At once, so that no shorter copy of it is left behind.
            plain = Zeroizing::new([new.structure.as_slice(), private.as_slice()].concat());
        }
        let aad = aad(&repository, &slot_id, at, new.generation);
        let (encapsulated, tag) = hpke::seal_to(slot.renewal_key(), INFO, &aad, &mut plain)
            .map_err(|_| RepositoryError::corrupt(slot.name(), "nothing can be sealed to its renewal key"))?;
        encoder.raw(slot_id.as_bytes());
        encoder.u8(slot.rights().byte());
        encoder.raw(&encapsulated);
        encoder.string(&[plain.as_slice(), &tag].concat());
    }
    let body = encoder.finish();
    if body.len() + SIGNATURE_BYTES + CHECKSUM_BYTES > KEY_OBJECT_BYTES_MAX {
        return Err(RepositoryError::LimitExceeded { what: format!("{} keys in one rotation", slots.len()) });
    }
    Ok((id, keys::sign_and_sum(body, secrets.signing(), &repository, &rotation_name(&id)).into()))
}

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// The generation that is in force now.
    pub generation: u32,
    /// Keys that were given it.
    pub carried: Vec<KeyInfo>,
    /// Slots that were not: damaged, or made by nobody who may.
    pub left_out: Vec<KeyInfo>,
}

/// Rotates the structure and the read keys. Waits at most `wait` for other admins.
///
/// # Errors
/// [`RepositoryError::NotSupported`] without an admin key, or if another admin does not come to an end;
/// [`RepositoryError::UnknownGeneration`] if another one was faster; storage errors. Whatever fails, the repository opens
/// as before or, if the last answer was lost, under the new generation.
pub async fn rotate_keys(repository: &Repository, who: &OpenRecord, wait: Duration) -> Result<Rotated> {
    let registration = begin(repository, who).await?;
    match prepare(repository, registration.number(), wait).await {
        Ok((rotation, rotated)) => {
            let outcome = Outcome::KeysRotated { generation: rotated.generation, rotation };
            registration.commit(outcome).await.map(|()| rotated)
        }
        Err(error) => {
            let reason = format!("no keys were rotated: {}", error.reason());
            let _ = registration.commit(Outcome::Ended { reason }).await;
            Err(error)
        }
    }
}

/// All of it but the record.
async fn prepare(repository: &Repository, at: LogNumber, wait: Duration) -> Result<(ObjectId, Rotated)> {
    // Also checks that no other rotation has come first: its record would name a generation that is not known here.
    let history = outcomes_of_admins(repository, at, wait, "rotating keys").await?.before(at);
    let secrets = repository.secrets();
    let (mut slots, mut carried, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
    for (info, slot) in list_slots(repository, &history).await? {
        match slot.filter(|slot| slot.is_signed_by_admin(secrets)) {
            Some(slot) => {
                slots.push(slot);
                carried.push(info);
            }
            None => left_out.push(info),
        }
    }
    if !carried.iter().any(|info| info.is_own) {
        let what = "rotating with a key whose slot is gone, damaged or not signed by an admin: it would be left out";
        return Err(RepositoryError::NotSupported { what: what.into() });
    }
    let new = secrets.draw_generation()?;
    let (id, object) = seal(secrets, at, &new, &slots)?;
    keys::store_slot(repository.backend().as_ref(), &rotation_name(&id), object).await?;
    Ok((id, Rotated { generation: new.generation, carried, left_out }))
}

/// Takes into `secrets` all generations that are in force. `listed` is what there is below `keys/rotation/`.
///
/// # Errors
/// [`RepositoryError::UnknownGeneration`] if the slot was left out of one; storage errors.
pub(crate) async fn take_rotations(
    backend: &dyn Backend,
    listed: &[ObjectMeta],
    secrets: &mut Secrets,
    slot: &ObjectId,
    renewal: &Zeroizing<[u8; 32]>,
) -> Result<()> {
    let known = &*secrets;
    let reads = listed.iter().map(|meta| {
        let object = backend.get(&meta.name, KEY_OBJECT_BYTES_MAX as u64);
        async move {
            // What cannot be read, or is forged, is missed only if the log names it, and that is noticed with the history.
            let rotation = Rotation::decode(&meta.name, &object.await.ok()?).ok()?;
            Some(rotation).filter(|rotation| rotation.is_signed_by_admin(known))
        }
    });
    let mut by_generation: HashMap<u32, Vec<Rotation>> = HashMap::new();
    for rotation in in_parallel(8, reads).await.into_iter().flatten() {
        by_generation.entry(rotation.generation).or_default().push(rotation);
    }
    for generation in 2.. {
        let Some(mut candidates) = by_generation.remove(&generation) else { break };
        candidates.sort_by_key(|rotation| rotation.at);
        let mut in_force = None;
        for candidate in candidates {
            if is_in_force(backend, secrets, &candidate).await? {
                in_force = Some(candidate);
                break;
            }
        }
        let Some(rotation) = in_force else { break };
        if secrets.structure_generation() < generation {
            let new = rotation.open(slot, renewal)?.ok_or_else(|| RepositoryError::UnknownGeneration {
                object: rotation_name(&rotation.id),
                generation,
            })?;
            secrets.add_generation(new);
        }
        secrets.note_rotation(generation, rotation.at);
    }
    Ok(())
}

/// Only a record of the log brings a rotation into force: who crashed before it has changed nothing.
async fn is_in_force(backend: &dyn Backend, secrets: &Secrets, rotation: &Rotation) -> Result<bool> {
    let named = read_rotation(backend, secrets, rotation.at).await?;
    Ok(named == Some((rotation.generation, rotation.id)))
}

/// Compares the rotations that a history tells of with those that `secrets` have taken.
///
/// # Errors
/// [`RepositoryError::UnknownGeneration`] if there was one since the repository was opened, or this key was left out;
/// [`RepositoryError::MissingObject`] if the object of one cannot be read.
pub(crate) fn check_rotations(secrets: &Secrets, history: &History) -> Result<()> {
    for entry in history.entries() {
        let Some(Outcome::KeysRotated { generation, rotation }) = entry.outcome() else { continue };
        match secrets.rotated_at(*generation) {
            // A second one of the same generation lost: the lowest number counts.
            Some(at) if at <= entry.number => {}
            _ if secrets.structure_generation() < *generation => {
                let object = crate::log::done_name(entry.number);
                return Err(RepositoryError::UnknownGeneration { object, generation: *generation });
            }
            _ => return Err(RepositoryError::MissingObject { object: rotation_name(rotation) }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
