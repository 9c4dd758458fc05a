//! The names that an index is loaded from, asked for before they are needed.

use crate::backend::{Backend, IoFuture, ObjectMeta};

/// The listings of index segments and of packs, both on their way.
///
/// They may be asked for as soon as a run has registered, beside its history: what is condemned by then is in the
/// history, and counts as absent whatever a listing shows; what comes later, others have to wait with for this run.
pub struct Listings {
    /// Of `index/`.
    pub segments: IoFuture<Vec<ObjectMeta>>,
    /// Of `packs/`.
    pub packs: IoFuture<Vec<ObjectMeta>>,
}

impl Listings {
    /// Asks for them.
    pub fn ask(backend: &dyn Backend) -> Self {
        Self { segments: backend.list("index"), packs: backend.list("packs") }
    }
}

impl std::fmt::Debug for Listings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listings").finish_non_exhaustive()
    }
}
