//! Backup: from a source to a recovery point.
//!
//! Read in this order: [`run`] (the job), [`pipeline`] (the wiring), then the actors along the
//! data path: [`scanner`], [`chunker`], [`deduplicator`], [`compressor`], [`uploader`], and the
//! [`recorder`] beside them. [`messages`] is what they say to each other.

#[cfg(any(test, feature = "simulation"))]
pub mod alone;
mod assembly;
mod buffers;
mod chunker;
mod claims;
mod compressor;
mod cut;
mod deduplicator;
mod early;
mod hard_links;
mod ledger;
mod level;
mod messages;
mod pipeline;
mod probe;
mod recorder;
mod report;
mod reuse;
mod run;
mod scanner;
mod shared;
mod uploader;

pub use compressor::VerifyBeforeUpload;
pub use cut::{ChunkSizes, Cutter};
pub use report::{LevelUse, Lists, Problem};
pub use run::{BackupJob, BackupReport, run_backup};
pub use shared::{BackupOptions, CommitGate, GateAnswer};
