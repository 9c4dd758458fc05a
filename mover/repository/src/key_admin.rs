//! Key slots as admins see them: list, add, remove.
//!
//! What rights a slot has is told by records that an admin signed, never by the slot: a client that may only add could
//! write any. Removals are serialised by the log: who removes waits for every admin with a lower number, and counts what
//! these leave, so two admins cannot remove the last two keys. The record comes before the delete; a delete that was not
//! come to is made up for by the next removal. Removing a slot takes back nothing that its owner has read or copied.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use crate::backend::{StorageErrorKind, delete_if_there};
use crate::error::{RepositoryError, Result};
use crate::ids::{LogNumber, ObjectId, UnixNanos};
use crate::keys::{self, Credential, KEYS_PREFIX, KeySlot, SlotKind, Stretching, parse_slot_name, slot_name};
use crate::limits::{HOST_BYTES_MAX, KEY_OBJECT_BYTES_MAX};
use crate::log::{History, LogEntry, OpenRecord, Outcome, Registration, Role};
use crate::repository::{KeyRights, Repository};

/// How long an addition waits for admins who registered before.
const ADDING_WAIT: Duration = Duration::from_secs(30);

/// One slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its id.
    pub slot: ObjectId,
    /// What opens it; none if the slot is damaged.
    pub opened_by: Option<SlotKind>,
    /// What it may do; none if no admin says so: a damaged slot, or a forged one.
    pub rights: Option<KeyRights>,
    /// What its owner calls it.
    pub label: String,
    /// When it was added, if a record says so.
    pub added: Option<UnixNanos>,
    /// This repository was opened by it.
    pub is_own: bool,
}

/// All slots that are there and not removed, by id.
///
/// # Errors
/// The store does not answer; a damaged history.
pub async fn list_keys(repository: &Repository) -> Result<Vec<KeyInfo>> {
    let history = repository.history().await?;
    Ok(list_slots(repository, &history).await?.into_iter().map(|(info, _)| info).collect())
}

/// As [`list_keys`], by a history; each with its slot, unless that is damaged.
pub(crate) async fn list_slots(repository: &Repository, history: &History) -> Result<Vec<(KeyInfo, Option<KeySlot>)>> {
    let ledger = Ledger::of(history);
    let mut slots = Vec::new();
    for object in repository.backend().list(KEYS_PREFIX).await? {
        let Some(slot) = parse_slot_name(&object.name).filter(|slot| !ledger.removed.contains(slot)) else { continue };
        let decoded = match repository.backend().get(&object.name, KEY_OBJECT_BYTES_MAX as u64).await {
            Ok(read) => KeySlot::decode(&object.name, &read).ok(),
            Err(error) if error.kind == StorageErrorKind::TooLarge => None,
            Err(error) if error.kind == StorageErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        let added = ledger.added.get(&slot);
        let signed = decoded.as_ref().filter(|slot| slot.is_signed_by_admin(repository.secrets()));
        let info = KeyInfo {
            slot,
            opened_by: decoded.as_ref().map(KeySlot::kind),
            rights: added.map(|added| added.rights).or(signed.map(KeySlot::rights)),
            label: added.map(|added| added.label.clone()).unwrap_or_default(),
            added: added.and_then(|added| added.when),
            is_own: repository.slot() == Some(slot),
        };
        slots.push((info, decoded));
    }
    Ok(slots)
}

/// Adds a slot, and the record that says what it may do. Gives its id.
///
/// # Errors
/// [`RepositoryError::NotSupported`] without an admin key; as [`keys::seal_slot`]; storage errors.
pub async fn add_key(
    repository: &Repository,
    who: &OpenRecord,
    credential: &Credential,
    rights: KeyRights,
    label: &str,
    stretching: Stretching,
) -> Result<ObjectId> {
    if label.len() > HOST_BYTES_MAX {
        let what = format!("a label of {} bytes; {HOST_BYTES_MAX} are allowed", label.len());
        return Err(RepositoryError::LimitExceeded { what });
    }
    let registration = begin(repository, who).await?;
    // Another admin may be rotating: the new slot would be left out. A slot without its record opens, and counts for
    // nothing when keys are counted.
    let others = outcomes_of_admins(repository, registration.number(), ADDING_WAIT, "adding a key").await;
    let stored = match others {
        Ok(_) => repository.add_key(credential, rights, stretching).await,
        Err(error) => Err(error),
    };
    let name = match stored {
        Ok(name) => name,
        Err(error) => {
            let _ = registration.commit(Outcome::Ended { reason: "no key was added".into() }).await;
            return Err(error);
        }
    };
    let slot = parse_slot_name(&name).ok_or_else(|| RepositoryError::corrupt(&name, "it is no name of a slot"))?;
    let is_put_only = rights == KeyRights::PutOnly;
    registration.commit(Outcome::KeyAdded { slot, is_put_only, label: label.to_owned() }).await?;
    Ok(slot)
}

/// Removes a slot. Waits at most `wait` for other admins.
///
/// # Errors
/// [`RepositoryError::NotSupported`] without an admin key, for the last slot with all rights, or if another admin does
/// not come to an end; [`RepositoryError::MissingObject`] if there is no such slot; storage errors.
pub async fn remove_key(repository: &Repository, who: &OpenRecord, slot: ObjectId, wait: Duration) -> Result<()> {
    let registration = begin(repository, who).await?;
    match may_remove(repository, &registration, slot, wait).await {
        Ok(made_up_for) => {
            // All slots are in one directory: those that stay are durable before one goes, whoever wrote them.
            repository.backend().adopt(&slot_name(&slot));
            repository.backend().barrier().await?;
            registration.commit(Outcome::KeyRemoved { slot }).await?;
            for removed in made_up_for.into_iter().chain([slot]) {
                delete_if_there(repository.backend().as_ref(), &slot_name(&removed)).await?;
            }
            // A power cut must not bring back what was said to be removed.
            repository.backend().barrier().await?;
            Ok(())
        }
        Err(error) => {
            let reason = format!("no key was removed: {}", error.reason());
            let _ = registration.commit(Outcome::Ended { reason }).await;
            Err(error)
        }
    }
}

/// Registers as an admin.
pub(crate) async fn begin(repository: &Repository, who: &OpenRecord) -> Result<Registration> {
    if !repository.secrets().is_admin() {
        return Err(RepositoryError::NotSupported { what: "changing keys without an admin key".into() });
    }
    repository.register(OpenRecord { role: Role::Admin, ..who.clone() }).await
}

/// Checks that a slot with all rights is left. Gives slots that were removed by record and are still there.
async fn may_remove(
    repository: &Repository,
    registration: &Registration,
    slot: ObjectId,
    wait: Duration,
) -> Result<Vec<ObjectId>> {
    let history = outcomes_of_admins(repository, registration.number(), wait, "removing a key")
        .await?
        .before(registration.number());
    let ledger = Ledger::of(&history);
    let listed = repository.backend().list(KEYS_PREFIX).await?;
    let there: Vec<ObjectId> = listed.iter().filter_map(|object| parse_slot_name(&object.name)).collect();
    if !there.contains(&slot) || ledger.removed.contains(&slot) {
        return Err(RepositoryError::MissingObject { object: slot_name(&slot) });
    }
    let is_left = |other: &&ObjectId| **other != slot && !ledger.removed.contains(*other);
    let mut full = there.iter().filter(is_left).filter(|other| ledger.has_all_rights(other, repository));
    if full.next().is_none() {
        let what = "removing the last key with all rights; add another one first".into();
        return Err(RepositoryError::NotSupported { what });
    }
    Ok(there.into_iter().filter(|other| ledger.removed.contains(other)).collect())
}

/// The history once every admin's number below has an outcome. `doing` is for the message if one has none.
pub(crate) async fn outcomes_of_admins(
    repository: &Repository,
    below: LogNumber,
    wait: Duration,
    doing: &str,
) -> Result<History> {
    // By the key, not only by what a run says of itself: a stolen client would make all admins wait.
    let is_admin = |entry: &LogEntry| {
        repository.secrets().is_admin_key(&entry.signer)
            && entry.open.as_ref().is_none_or(|open| open.role == Role::Admin)
    };
    let (history, open) = repository.await_outcomes(below, wait, is_admin).await?;
    match open.first() {
        None => Ok(history),
        Some(open) => {
            let what =
                format!("{doing} while admin run {} has no outcome; `mover prune` ends one that is dead", open.0);
            Err(RepositoryError::NotSupported { what })
        }
    }
}

/// What the records say of slots.
#[derive(Default)]
struct Ledger {
    added: BTreeMap<ObjectId, Added>,
    removed: HashSet<ObjectId>,
}

struct Added {
    rights: KeyRights,
    label: String,
    when: Option<UnixNanos>,
}

impl Ledger {
    fn of(history: &History) -> Self {
        let mut ledger = Self::default();
        for entry in history.entries() {
            match entry.outcome() {
                Some(Outcome::KeyAdded { slot, is_put_only, label }) => {
                    let rights = if *is_put_only { KeyRights::PutOnly } else { KeyRights::Full };
                    let when = entry.open.as_ref().map(|open| open.started);
                    ledger.added.insert(*slot, Added { rights, label: label.clone(), when });
                }
                Some(Outcome::KeyRemoved { slot }) => _ = ledger.removed.insert(*slot),
                _ => {}
            }
        }
        ledger
    }

    /// By record, or because the admin who asks has opened the repository by it.
    fn has_all_rights(&self, slot: &ObjectId, repository: &Repository) -> bool {
        match self.added.get(slot) {
            Some(added) => added.rights == KeyRights::Full,
            None => repository.slot() == Some(*slot) && repository.secrets().is_admin(),
        }
    }
}

/// Cost of stretching a password that takes about as long as `target` on this machine, within what any reader accepts:
/// 64 MiB to 256 MiB of memory, at least three passes. Blocks for about a second.
pub fn calibrated_stretching(target: Duration) -> Stretching {
    let mut chosen = Stretching::default();
    while chosen.memory_kib < 256 << 10 {
        let begun = Instant::now();
        let credential = Credential::Password(zeroize::Zeroizing::new("calibration".to_owned()));
        if keys::time_stretching(&credential, chosen).is_err() || begun.elapsed() * 2 > target {
            break;
        }
        chosen.memory_kib *= 2;
    }
    chosen
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::{Backend, MemoryBackend};
    use crate::repository::InitOptions;
    use crate::testing::{Bench, block_on};

    fn credential(seed: u8) -> Credential {
        Credential::key_file(vec![seed; 32]).unwrap()
    }

    fn made() -> (Arc<MemoryBackend>, Repository) {
        let store = Arc::new(MemoryBackend::new());
        let repository = block_on(Repository::init(store.clone(), &credential(1), InitOptions::default())).unwrap();
        (store, repository)
    }

    fn open(store: &Arc<MemoryBackend>, seed: u8) -> Result<Repository> {
        block_on(Repository::open(store.clone(), &credential(seed)))
    }

    fn who() -> OpenRecord {
        Bench::open_record(Role::Admin)
    }

    fn add(repository: &Repository, seed: u8, rights: KeyRights) -> Result<ObjectId> {
        block_on(add_key(repository, &who(), &credential(seed), rights, "label", Stretching::CHEAPEST))
    }

    fn remove(repository: &Repository, slot: ObjectId) -> Result<()> {
        block_on(remove_key(repository, &who(), slot, Duration::ZERO))
    }

    #[test]
    fn a_key_is_added_listed_and_removed_and_opens_no_more() {
        let (store, first) = made();
        let slot = add(&first, 2, KeyRights::Full).unwrap();
        let second = open(&store, 2).unwrap();
        assert_eq!(second.slot(), Some(slot));
        let listed = block_on(list_keys(&second)).unwrap();
        let own = listed.iter().find(|info| info.slot == slot).unwrap();
        assert_eq!((listed.len(), own.is_own, own.label.as_str()), (2, true, "label"));
        assert_eq!((own.rights, own.opened_by), (Some(KeyRights::Full), Some(SlotKind::KeyFile)));
        remove(&second, first.slot().unwrap()).unwrap();
        assert!(matches!(open(&store, 1), Err(RepositoryError::WrongKey)));
        assert_eq!(block_on(list_keys(&second)).unwrap().len(), 1);
        assert!(matches!(remove(&second, first.slot().unwrap()), Err(RepositoryError::MissingObject { .. })));
    }

    #[test]
    fn the_last_key_with_all_rights_stays() {
        let (_, repository) = made();
        let own = repository.slot().unwrap();
        assert!(matches!(remove(&repository, own), Err(RepositoryError::NotSupported { .. })));
        add(&repository, 2, KeyRights::PutOnly).unwrap();
        assert!(matches!(remove(&repository, own), Err(RepositoryError::NotSupported { .. })));
        add(&repository, 3, KeyRights::Full).unwrap();
        remove(&repository, own).unwrap();
    }

    /// Each sees two keys and removes the other's.
    #[test]
    fn two_admins_cannot_remove_the_last_two_keys() {
        let (store, first) = made();
        let slot = add(&first, 2, KeyRights::Full).unwrap();
        let second = open(&store, 2).unwrap();
        let slow = block_on(begin(&first, &who())).unwrap();
        let waits = remove(&second, first.slot().unwrap());
        assert!(matches!(waits, Err(RepositoryError::NotSupported { .. })), "{waits:?}");
        assert_eq!(block_on(may_remove(&first, &slow, slot, Duration::ZERO)).unwrap(), []);
        block_on(slow.commit(Outcome::KeyRemoved { slot })).unwrap();
        let refused = remove(&second, first.slot().unwrap());
        assert!(matches!(refused, Err(RepositoryError::NotSupported { .. })), "{refused:?}");
        // The first one crashed before its delete: whoever removes next makes up for it.
        add(&first, 3, KeyRights::Full).unwrap();
        let third = open(&store, 3).unwrap();
        remove(&third, first.slot().unwrap()).unwrap();
        assert_eq!(block_on(store.list(KEYS_PREFIX)).unwrap().len(), 1);
    }

    #[test]
    fn a_slot_that_a_thief_wrote_counts_for_nothing() {
        let (store, admin) = made();
        add(&admin, 2, KeyRights::PutOnly).unwrap();
        let thief = open(&store, 2).unwrap();
        assert!(matches!(add(&thief, 9, KeyRights::Full), Err(RepositoryError::NotSupported { .. })));
        // What a thief can do is write a slot of his own secrets, and a record that does not count.
        let name = block_on(thief.add_key(&credential(9), KeyRights::Full, Stretching::CHEAPEST)).unwrap();
        let slot = parse_slot_name(&name).unwrap();
        let registration = block_on(thief.register(who())).unwrap();
        block_on(registration.commit(Outcome::KeyAdded { slot, is_put_only: false, label: "admin".into() })).unwrap();
        let listed = block_on(list_keys(&admin)).unwrap();
        assert_eq!(listed.iter().find(|info| info.slot == slot).map(|info| info.rights), Some(None));
        let refused = remove(&admin, admin.slot().unwrap());
        assert!(matches!(refused, Err(RepositoryError::NotSupported { .. })), "{refused:?}");
        assert!(!open(&store, 9).unwrap().secrets().is_admin());
    }

    #[test]
    fn the_cost_of_stretching_stays_within_what_a_reader_accepts() {
        let chosen = calibrated_stretching(Duration::from_secs(3600));
        assert_eq!(chosen.memory_kib, 256 << 10);
        assert_eq!(calibrated_stretching(Duration::ZERO), Stretching::default());
    }
}
