//! Data in motion: the backup and restore pipelines, sources, targets and the two runtimes.
//!
//! Knows the repository. Never HTTP, SQL or the command line. Only `runtime/` names the executor; everything
//! else is written against [`runtime::Runtime`], so the seeded simulator runs the same source lines.

pub mod backup;
mod beneath;
pub mod bottleneck;
pub mod error;
pub mod progress;
pub mod restore;
pub mod runtime;
pub mod scratch;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
pub mod source;
pub mod spill;

pub use error::{ActorError, Failure, Side};
