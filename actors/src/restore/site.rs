//! Where the pieces of a restore come together: the target, the counts, and what to do when a file is complete.
//!
//! Shared by the planner and the writers of all shards of one restore. Must never give a file that lost a piece its
//! final name, and never go on when the target is full, read-only or broken. Every file ends here, once: restored,
//! listed as a problem, or counted as unfinished. Any thread.

use std::sync::Arc;

use bytes::Bytes;
use mover_repository::backend::Backend;

use crate::error::Failure;
use crate::progress::Progress;
use crate::restore::planned_file::{Lost, PlannedFile};
use crate::restore::report::{Tally, add};
use crate::restore::target::{AttributeProblem, SmallFile, Target, TargetError, TargetErrorKind};
use crate::runtime::KillSwitch;

/// An object that every repository has: if it can be read, the repository is there.
const WITNESS: &str = mover_repository::config::CONFIG_NAME;

/// What the actors of one restore share.
pub struct Site {
    /// Where files go.
    pub target: Arc<dyn Target>,
    /// Where they come from.
    pub backend: Arc<dyn Backend>,
    /// What was done.
    pub tally: Arc<Tally>,
    /// What was done, for those who watch.
    pub progress: Arc<Progress>,
    /// Stops the restore with its first cause.
    pub kill: KillSwitch,
}

impl Site {
    /// After a read failed with `cause`: the failure that ends the restore if the repository itself does not answer
    /// any more. Packs that are lost while the repository is there cost only the files that need them.
    pub async fn repository_gone(&self, cause: &str) -> Option<Failure> {
        let away = self.backend.size(WITNESS).await.err()?;
        let place = self.backend.describe();
        Some(
            Failure::repository("read from", place, format!("{cause}; the repository does not answer: {away}"))
                .with_retryable(true)
                .with_guidance(
                    "bring the repository back and run the same restore again with --overwrite if-changed; \
                     what is complete is kept",
                )
                .with_source(away),
        )
    }

    /// Writes files whose pieces are all there (or that have none), in one batch.
    pub async fn write_whole(&self, files: Vec<Arc<PlannedFile>>) {
        let mut batch = Vec::with_capacity(files.len());
        let mut written = Vec::with_capacity(files.len());
        for file in files {
            let parts = file.take_gathered();
            if file.lost().is_some() {
                self.conclude_lost(&file);
                continue;
            }
            let bytes: u64 = parts.iter().map(|(_, bytes)| bytes.len() as u64).sum();
            batch.push(SmallFile { path: file.path.clone(), meta: file.meta.clone(), size: file.size, parts });
            written.push((file, bytes));
        }
        if batch.is_empty() {
            return;
        }
        match self.target.write_files(batch).await {
            Ok(results) => {
                assert_eq!(results.len(), written.len(), "one result a file");
                for ((file, bytes), result) in written.iter().zip(results) {
                    self.wrote(*bytes);
                    self.conclude(file, result);
                }
            }
            Err(error) => written.iter().for_each(|(file, _)| self.conclude(file, Err(error.clone()))),
        }
    }

    /// Writes pieces of an open file, and completes it if they were the last.
    pub async fn write_pieces(&self, file: &Arc<PlannedFile>, pieces: u64, writes: Vec<(u64, Bytes)>) {
        let open = file.open_file().filter(|_| file.lost().is_none());
        if let Some(open) = open
            && !writes.is_empty()
        {
            let bytes: u64 = writes.iter().map(|(_, bytes)| bytes.len() as u64).sum();
            match open.write_at(writes).await {
                Ok(()) => self.wrote(bytes),
                Err(error) => {
                    self.stop_if_fatal(&error);
                    file.lose(Lost::Cause(error.to_string()));
                }
            }
        }
        if file.settle(pieces) {
            self.complete_open(file).await;
        }
    }

    /// All pieces of a file that is written in pieces were delivered.
    pub async fn complete_open(&self, file: &Arc<PlannedFile>) {
        if file.lost().is_some() {
            return self.conclude_lost(file);
        }
        let Some(open) = file.open_file() else {
            return self.conclude(file, Err(internal(file, "it was never opened")));
        };
        let result = open.finish(file.meta.clone()).await;
        self.conclude(file, result);
    }

    fn wrote(&self, bytes: u64) {
        add(&self.tally.bytes_written, bytes);
        self.progress.add_bytes_stored(bytes);
    }

    fn conclude(&self, file: &PlannedFile, result: Result<Vec<AttributeProblem>, TargetError>) {
        match result {
            Ok(problems) => {
                self.tally.attributes(problems);
                add(&self.tally.files, 1);
                add(&self.tally.bytes, file.size);
                self.progress.add_files(1);
                self.progress.add_bytes(file.size);
            }
            Err(error) => {
                self.stop_if_fatal(&error);
                file.lose(Lost::Cause(format!("cannot {}: {}", error.operation, error.cause)));
                self.conclude_lost(file);
            }
        }
    }

    /// Lists an entry that is not restored.
    pub fn problem(&self, path: &[u8], cause: impl Into<String>) {
        self.tally.problem(path, cause);
        self.progress.add_problems(1);
    }

    /// Lists an entry that the target refused, or ends the restore if it refuses everything.
    ///
    /// # Errors
    /// The failure that ends the restore.
    pub fn refused(&self, path: &[u8], error: &TargetError) -> Result<(), Failure> {
        if error.fatal() {
            return Err(target_failure(error));
        }
        self.problem(path, format!("cannot {}: {}", error.operation, error.cause));
        Ok(())
    }

    /// Lists a file that is given up.
    pub fn conclude_lost(&self, file: &PlannedFile) {
        if file.has_links {
            self.tally.lose_first(&file.path);
        }
        match file.lost() {
            Some(Lost::Cause(cause)) => self.problem(&file.path, cause.clone()),
            Some(Lost::Stopped) | None => {
                self.tally.stopped_early();
                add(&self.tally.unfinished, 1);
            }
        }
    }

    /// Stops the restore if nothing further can succeed on the target.
    pub fn stop_if_fatal(&self, error: &TargetError) {
        if error.fatal() {
            self.kill.kill(target_failure(error));
        }
    }
}

fn internal(file: &PlannedFile, cause: &str) -> TargetError {
    TargetError { path: file.path.clone(), operation: "restore", kind: TargetErrorKind::Internal, cause: cause.into() }
}

/// A target error that ends the restore.
pub fn target_failure(error: &TargetError) -> Failure {
    let path = String::from_utf8_lossy(&error.path).into_owned();
    let failure =
        Failure::source(format!("{} in the target", error.operation), path, &error.cause).with_source(error.clone());
    match error.kind {
        TargetErrorKind::Full => failure.with_guidance("make room in the target and run the same restore again with --overwrite if-changed; what is complete is kept"),
        TargetErrorKind::ReadOnly => failure.with_guidance("remount the target writable, or name another one"),
        TargetErrorKind::Io => failure.with_guidance("the target's disk reported an error: check it before trusting it with data"),
        _ => failure,
    }
}
