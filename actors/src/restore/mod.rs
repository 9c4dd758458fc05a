//! Restore: from a recovery point back to a tree of files.

pub mod target;
