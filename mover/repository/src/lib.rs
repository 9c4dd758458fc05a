//! Data at rest: the repository of `mover`.
//!
//! Knows bytes and objects: format, crypto, index, backends, lifecycle. Never executors, sources,
//! HTTP servers or the command line. `FORMAT.md` specifies every byte written here.

pub mod codec;
pub mod ids;
pub mod limits;
pub mod manifest;
