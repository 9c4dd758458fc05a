//! Data at rest: the repository of `mover`.
//!
//! Knows bytes and objects: format, crypto, index, backends, lifecycle. Never executors, sources,
//! HTTP servers or the command line. `FORMAT.md` specifies every byte written here.

pub mod backend;
pub mod codec;
pub mod crypto;
pub mod error;
pub mod ids;
pub mod io;
pub mod limits;
pub mod manifest;

pub use error::{RepositoryError, Result};
