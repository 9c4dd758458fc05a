//! What killed writers left unfinished in the store: counted by who checks, removed by who writes.
//!
//! Only what certainly nobody writes any more is removed: below `packs/<n>` of a number that has an
//! outcome, or begun by a process of this machine that is dead. What may belong to a live writer on
//! another host stays. Removing is best effort: a failure is no reason to stop a backup.

use hashbrown::HashMap;

use crate::backend::{Backend, Temporary};
use crate::error::Result;
use crate::ids::LogNumber;
use crate::repository::Repository;

/// How much was left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Leftovers {
    fn add(&mut self, temporary: &Temporary) {
        self.files += 1;
        self.bytes += temporary.bytes;
    }
}

/// Counts what is unfinished in a store, of the dead and of writers at work.
///
/// # Errors
/// If the store cannot be listed.
pub async fn count_unfinished(backend: &dyn Backend) -> Result<Leftovers> {
    let mut leftovers = Leftovers::default();
    backend.temporaries().await?.iter().for_each(|temporary| leftovers.add(temporary));
    Ok(leftovers)
}

impl Repository {
    /// Removes what certainly nobody writes any more, as far as the store permits. Gives how much it was.
    pub async fn remove_leftovers(&self) -> Leftovers {
        let mut removed = Leftovers::default();
        let mut decided: HashMap<LogNumber, bool> = HashMap::new();
        for temporary in self.backend().temporaries().await.unwrap_or_default() {
            let is_over = match writer_of(&temporary.name) {
                _ if temporary.writer_is_dead => true,
                None => false,
                Some(writer) => match decided.get(&writer) {
                    Some(known) => *known,
                    None => {
                        let has_outcome = self.has_outcome(writer).await.unwrap_or(false);
                        decided.insert(writer, has_outcome);
                        has_outcome
                    }
                },
            };
            if is_over && self.backend().remove_temporary(&temporary.name).await.is_ok() {
                removed.add(&temporary);
            }
        }
        removed
    }
}

/// The log number in `packs/<n>/…`.
fn writer_of(name: &str) -> Option<LogNumber> {
    let digits = name.strip_prefix("packs/")?.split('/').next()?;
    u64::from_str_radix(digits, 16).ok().map(LogNumber).filter(|number| number.to_string() == digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::LocalBackend;
    use crate::keys::{Credential, Stretching};
    use crate::log::{OpenRecord, Outcome, Role};
    use crate::repository::InitOptions;
    use crate::testing::block_on;
    use std::sync::Arc;

    /// Every killed backup left its unfinished packs in the repository for ever: seven kills, 17 files, 90 MB. What
    /// is certainly dead goes with the next backup; what may be alive elsewhere stays, and is counted.
    #[test]
    fn what_is_certainly_dead_is_removed_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let backend = Arc::new(LocalBackend::open(place.path(), true).unwrap());
        let options = InitOptions { stretching: Stretching::CHEAPEST, ..InitOptions::default() };
        let repository =
            block_on(Repository::init(backend.clone(), &Credential::password("p").unwrap(), options)).unwrap();
        let register = || {
            let open = OpenRecord {
                role: Role::Writer,
                host: "host".into(),
                process_id: 1,
                machine: crate::ids::ObjectId([0; 32]),
                set: "set".into(),
                job: crate::ids::ObjectId([1; 32]),
                adopts: None,
                depends_on: None,
                started: crate::ids::UnixNanos(0),
            };
            block_on(repository.register(open)).unwrap()
        };
        let (ended, running) = (register(), register());
        let directories = [ended.number(), running.number()].map(|number| format!("packs/{number}"));
        block_on(ended.commit(Outcome::Ended { reason: "killed, then fenced".into() })).unwrap();
        let elsewhere = ".tmp-0123456789abcdef-00000001-0123456789abcdef";
        let named = [
            (format!("{}/{elsewhere}", directories[0]), true),
            (format!("{}/.tmp-older-kind-of-name", directories[0]), true),
            (format!("{}/{elsewhere}", directories[1]), false),
            (format!("{}/.tmp-older-kind-of-name", directories[1]), false),
            (format!("index/{elsewhere}"), false),
            (format!("packs/{elsewhere}"), false),
        ];
        for (name, _) in &named {
            std::fs::create_dir_all(place.path().join(name).parent().unwrap()).unwrap();
            std::fs::write(place.path().join(name), [0; 100]).unwrap();
        }
        // A live writer of this process, below a number without outcome.
        let mut writer = backend.stream(&format!("{}/alive", directories[1]));
        block_on(writer.append(vec![bytes::Bytes::from_static(b"alive")])).unwrap();

        assert_eq!(block_on(count_unfinished(backend.as_ref())).unwrap(), Leftovers { files: 7, bytes: 605 });
        assert_eq!(block_on(repository.remove_leftovers()), Leftovers { files: 2, bytes: 200 });
        for (name, is_over) in &named {
            assert_eq!(place.path().join(name).exists(), !is_over, "{name}");
        }
        block_on(writer.finish()).unwrap();
        assert_eq!(block_on(backend.size(&format!("{}/alive", directories[1]))).unwrap(), 5);
        assert_eq!(block_on(repository.remove_leftovers()), Leftovers::default());
    }
}
