//! What a restore will need, looked up before its first byte: room in the target, and the figures of a dry run.
//!
//! The sums in the manifest roots are enough where they fit; else, and for parts of a point, the entries are walked,
//! so that holes cost nothing and what the overwrite rule keeps is not counted. Limits: one batch of entries and one
//! page of a chunk list. On shard 0.

use std::sync::Arc;

use mover_repository::chunk_reader::ChunkReader;
use mover_repository::log::RecoveryPoint;
use mover_repository::manifest::{Content, ContentReader, Entry, Kind, Piece};

use crate::error::Failure;
use crate::restore::items::next_items;
use crate::restore::report::RestoreTotals;
use crate::restore::selection::{Scope, target_root};
use crate::restore::target::{Overwrite, Space, Target};
use crate::restore::walk::Walk;

/// What files are rounded up to.
const BLOCK_BYTES: u64 = 4 << 10;

/// What is needed in the target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Need {
    /// Bytes on the device.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl Need {
    /// True if it fits.
    pub fn fits(&self, space: &Space) -> bool {
        self.bytes <= space.bytes && self.inodes <= space.inodes
    }

    /// The refusal, with figures.
    pub fn refusal(&self, target: &dyn Target, space: &Space) -> Failure {
        let cause = format!(
            "the restore needs {} and {} inodes, the target has {} and {} inodes free",
            size_text(self.bytes),
            self.inodes,
            size_text(space.bytes),
            space.inodes
        );
        Failure::source("check the room in", target.describe(), cause)
            .with_guidance("make room, choose another --target, or restore less with --path; nothing was written")
    }
}

/// A size as people read it.
fn size_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{size:.1} {}", UNITS[unit]) }
}

/// More than everything in the point can need, without looking at an entry.
pub fn upper_bound(point: &RecoveryPoint) -> Need {
    let mut need = Need::default();
    for fileset in &point.filesets {
        let (entries, bytes) = (fileset.root.entries, fileset.root.bytes);
        need.bytes = need.bytes.saturating_add(bytes).saturating_add(entries.saturating_mul(BLOCK_BYTES));
        need.inodes = need.inodes.saturating_add(entries);
    }
    need
}

/// Walks what is selected and sums up what will be restored.
///
/// # Errors
/// The repository's or the target's.
pub async fn survey(
    point: &RecoveryPoint,
    scopes: &[Scope],
    chunks: &Arc<ChunkReader>,
    target: &dyn Target,
    overwrite: Overwrite,
) -> Result<(Need, RestoreTotals), Failure> {
    let mut need = Need::default();
    let mut totals = RestoreTotals::default();
    for (fileset, scope) in point.filesets.iter().zip(scopes) {
        let Some(root) = target_root(&fileset.root_path) else { continue };
        let mut walk = Walk::new(chunks, &fileset.root, scope);
        loop {
            // The restore itself lists what cannot be read.
            let next = next_items(&mut walk, &root, target, overwrite).await?;
            if next.is_end() {
                break;
            }
            for item in &next.items {
                if item.kept {
                    totals.skipped += 1;
                    continue;
                }
                let data_bytes = count(&item.entry, item.on_the_way, &mut totals, chunks).await?;
                let replaced_bytes = item.existing.map_or(0, |existing| existing.size);
                need.bytes += data_bytes.next_multiple_of(BLOCK_BYTES).saturating_sub(replaced_bytes);
                need.inodes += u64::from(!matches!(item.entry.kind, Kind::HardLink { .. }));
            }
        }
    }
    Ok((need, totals))
}

/// Counts one entry; returns the bytes that will be written for it.
async fn count(
    entry: &Entry,
    on_the_way: bool,
    totals: &mut RestoreTotals,
    chunks: &Arc<ChunkReader>,
) -> Result<u64, Failure> {
    match entry.kind {
        Kind::Directory => totals.directories += u64::from(!on_the_way),
        Kind::Symlink { .. } => totals.symlinks += 1,
        Kind::Fifo | Kind::CharDevice { .. } | Kind::BlockDevice { .. } => totals.nodes += 1,
        Kind::HardLink { .. } => totals.hard_links += 1,
        Kind::File => {
            totals.files += 1;
            totals.bytes += entry.meta.size;
            let data_bytes = data_bytes(&entry.content, chunks).await?;
            totals.bytes_written += data_bytes;
            return Ok(data_bytes);
        }
    }
    Ok(0)
}

async fn data_bytes(content: &Content, chunks: &Arc<ChunkReader>) -> Result<u64, Failure> {
    let chunk_bytes = |piece: &Piece| match piece {
        Piece::Chunk { bytes, .. } => u64::from(*bytes),
        Piece::Hole { .. } => 0,
    };
    if let Content::Inline(pieces) = content {
        return Ok(pieces.iter().map(chunk_bytes).sum());
    }
    let mut reader = ContentReader::new(chunks.clone(), content);
    let mut sum = 0;
    // A damaged list is the restore's to tell; here it only ends the sum.
    while let Ok(Some(piece)) = reader.next().await {
        sum += chunk_bytes(&piece);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_as_people_read_them() {
        assert_eq!(size_text(0), "0 B");
        assert_eq!(size_text(1023), "1023 B");
        assert_eq!(size_text(1536), "1.5 KiB");
        assert_eq!(size_text(3 << 30), "3.0 GiB");
    }

    #[test]
    fn bytes_and_inodes_must_both_fit() {
        let space = Space { bytes: 100, inodes: 10 };
        assert!(Need { bytes: 100, inodes: 10 }.fits(&space));
        assert!(!Need { bytes: 101, inodes: 1 }.fits(&space));
        assert!(!Need { bytes: 1, inodes: 11 }.fits(&space));
    }
}
