//! Copies a point into a repository with the same id secret: its pages are chunks like all others, and stay the same bytes.
//!
//! The structure pages are read to walk down, and once more with all else that TO lacks. Pages that an earlier point of
//! the run has visited are passed over with all that lies below.

use hashbrown::HashSet;

use super::window::Window;
use super::{Job, Trouble};
use crate::error::RepositoryError;
use crate::ids::ChunkId;
use crate::log::RecoveryPoint;
use crate::prune::Marker;

/// Copies every chunk and page of `point` that TO lacks.
pub(super) fn copy(
    job: &Job<'_>,
    window: &mut Window<'_>,
    point: &RecoveryPoint,
    visited: &mut HashSet<ChunkId>,
) -> Result<(), Trouble> {
    let mut trouble = None;
    let mut marker = Marker::after(&job.from_chunks, std::mem::take(visited), |id| {
        window.want(id);
        let copied = if window.is_full() { window.copy() } else { Ok(()) };
        copied.map_err(|met| {
            trouble = Some(met);
            // Ends the walk; nobody hears of it.
            RepositoryError::NotSupported { what: "going on".into() }
        })
    });
    let marked = marker.point(point);
    *visited = marker.into_visited();
    match (trouble, marked) {
        (Some(trouble), _) => Err(trouble),
        (None, Err(error)) => Err(Trouble::Point(error)),
        (None, Ok(())) => window.copy(),
    }
}
