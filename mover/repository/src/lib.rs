//! Data at rest: the repository of `mover`.
//!
//! Knows bytes and objects: format, crypto, index, backends, lifecycle. Never executors, sources,
//! HTTP servers or the command line. `FORMAT.md` specifies every byte written here.

pub mod backend;
#[cfg(feature = "network")]
pub mod bandwidth;
mod blocking;
pub mod chunk_reader;
pub mod codec;
pub mod config;
pub mod copy;
pub mod crypto;
pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod heartbeat;
pub mod ids;
pub mod index;
pub mod io;
pub mod key_admin;
pub mod key_text;
pub mod keys;
pub mod leftovers;
pub mod limits;
pub mod log;
mod lru;
pub mod manifest;
pub mod pack;
mod packer;
pub mod protection;
pub mod prune;
pub mod repair;
pub mod repository;
pub mod retention;
pub mod rotation;
pub mod verify;

pub use error::{RepositoryError, Result};
pub use repository::{InitOptions, KeyRights, OpenOptions, Repository};

#[cfg(test)]
mod decoder_tests;
#[cfg(test)]
mod format_tests;
#[cfg(test)]
pub(crate) mod testing;
