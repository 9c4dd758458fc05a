//! Data in motion: the backup and restore pipelines, sources, targets and the two runtimes.
//!
//! Knows the repository. Never HTTP, SQL or the command line.

mod beneath;
pub mod restore;
pub mod scratch;
pub mod source;
pub mod spill;
