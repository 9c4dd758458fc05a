//! Restore: from a recovery point back to a tree of files.

pub mod file_target;
pub mod target;
