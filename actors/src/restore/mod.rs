//! Restore: from a recovery point back to a tree of files.
//!
//! ```text
//! repository ─ planner ─▶ downloader ─▶ decompressor ─▶ writer ─▶ target
//! ```

#[cfg(any(test, feature = "simulation"))]
pub mod alone;
mod closing;
mod compare;
mod decompressor;
mod downloader;
pub mod dump;
pub mod file_target;
mod fileset_run;
mod items;
pub mod messages;
pub mod pipeline;
mod planned_file;
mod planner;
pub mod report;
mod room;
pub mod selection;
mod site;
pub mod target;
mod walk;
mod window;
mod writer;

pub use pipeline::{RestoreJob, run_restore};
pub use report::{Problem, RestoreReport, RestoreTotals, Verified};

#[cfg(test)]
mod tests;
