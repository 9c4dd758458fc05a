//! Checks records that say again what others say: the newest checkpoint of the log, and what a running backup left of
//! each fileset against the recovery point it became.
//!
//! A restore does not need them; but what is in the repository and not as it was written is told.

use crate::blocking::block_on;
use crate::error::RepositoryError;
use crate::io::in_parallel;
use crate::log::{LogEntry, Outcome, SealedFileset, check_newest, read_sealed_fileset, sealed_name};
use crate::verify::Verifier;

/// Records read at a time: enough to hide the round trips of an object store.
const RECORDS_IN_FLIGHT: usize = 16;

impl Verifier<'_> {
    /// Checks `log/<n>/sum/<k>` of the newest checkpoint.
    pub(super) fn check_checkpoint(&self) {
        if let Err(error) = block_on(check_newest(self.repository, &self.history)) {
            let object = error.object().unwrap_or_default();
            self.error(&object, format!("{}; the records that it sums up are read instead", error.reason()));
        }
    }

    /// Checks `log/<n>/sealed/<k>` of every number that has a recovery point.
    pub(super) fn check_sealed_records(&self) {
        for entry in self.history.entries() {
            let Some(Outcome::RecoveryPoint(point)) = entry.outcome() else { continue };
            let checks = (0u32..).zip(&point.filesets).map(|(k, fileset)| self.check_sealed_record(entry, k, fileset));
            block_on(in_parallel(RECORDS_IN_FLIGHT, checks));
        }
    }

    async fn check_sealed_record(&self, entry: &LogEntry, k: u32, fileset: &SealedFileset) {
        let wrong = match read_sealed_fileset(self.repository, entry, k).await {
            Ok(Some(sealed)) if sealed == *fileset => return,
            Ok(Some(_)) => "it is not the fileset that the recovery point holds".to_owned(),
            Ok(None) => RepositoryError::MissingObject { object: String::new() }.reason(),
            Err(error) => error.reason(),
        };
        self.error(&sealed_name(entry.number, k), format!("{wrong}; no restore needs this record"));
    }
}
