//! What a restore will need, looked up before its first byte: room on every file system that it writes to, and the
//! figures of a dry run.
//!
//! The sums in the manifest roots are enough where they fit; else, and for parts of a point, the entries are walked, so
//! that holes cost nothing, what the overwrite rule keeps is not counted, and what is replaced gives its room back once
//! its replacement is written. A fileset needs its room where its root is or would be made; a directory that exists on
//! another file system needs it there. Limits: one batch of entries, one page of a chunk list, and a stack as deep as
//! the tree. On shard 0.

use std::collections::BTreeMap;
use std::sync::Arc;

use mover_repository::chunk_reader::ChunkReader;
use mover_repository::log::RecoveryPoint;
use mover_repository::manifest::{Content, ContentReader, Entry, Kind, Piece, is_within};

use crate::error::Failure;
use crate::restore::items::{Item, judge, next_items};
use crate::restore::report::RestoreTotals;
use crate::restore::selection::{Scope, target_root};
use crate::restore::site::target_failure;
use crate::restore::target::{Existing, Overwrite, Space, Target};
use crate::restore::walk::Walk;
use crate::source::FileKind;

/// What files are rounded up to.
const BLOCK_BYTES: u64 = 4 << 10;

/// What is needed on one file system: the most that is taken at any time, if entries are written in path order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Need {
    bytes: u64,
    inodes: u64,
    /// What is taken now, less what was given back.
    bytes_now: i128,
    inodes_now: i128,
}

impl Need {
    /// Something is written.
    fn take(&mut self, bytes: u64, inodes: u64) {
        self.bytes_now += i128::from(bytes);
        self.inodes_now += i128::from(inodes);
        self.bytes = self.bytes.max(u64::try_from(self.bytes_now).unwrap_or(0));
        self.inodes = self.inodes.max(u64::try_from(self.inodes_now).unwrap_or(0));
    }

    /// What was replaced is gone. A file with other names stays, and so does a directory.
    fn give_back(&mut self, replaced: &Existing) {
        if replaced.links <= 1 && replaced.kind != FileKind::Directory {
            self.bytes_now -= i128::from(replaced.allocated_bytes);
            self.inodes_now -= 1;
        }
    }

    fn fits(&self, space: &Space) -> bool {
        self.bytes <= space.bytes && self.inodes <= space.inodes
    }
}

/// One file system.
#[derive(Debug, Clone)]
struct Place {
    /// A path on it, below the target.
    path: Vec<u8>,
    space: Space,
    need: Need,
}

/// What is needed and what there is, on every file system.
#[derive(Debug, Clone)]
pub struct Room {
    by_device: BTreeMap<u64, Place>,
    /// The device of each fileset.
    devices: Vec<u64>,
}

impl Room {
    /// Looks where the filesets of a point land. Nothing is needed yet.
    ///
    /// # Errors
    /// The target's.
    pub async fn look(point: &RecoveryPoint, target: &dyn Target) -> Result<Room, Failure> {
        let roots: Vec<Vec<u8>> =
            point.filesets.iter().map(|fileset| target_root(&fileset.root_path).unwrap_or_default()).collect();
        let spaces = target.free_space(roots.clone()).await.map_err(|error| target_failure(&error))?;
        let devices = spaces.iter().map(|space| space.device).collect();
        let mut by_device = BTreeMap::new();
        for (path, space) in roots.into_iter().zip(spaces) {
            by_device.entry(space.device).or_insert(Place { path, space, need: Need::default() });
        }
        Ok(Room { by_device, devices })
    }

    /// True if more than everything in the point can need would fit, without looking at an entry.
    pub fn fits_all_of(&self, point: &RecoveryPoint) -> bool {
        let mut room = self.clone();
        for (fileset, device) in point.filesets.iter().zip(&self.devices) {
            let (entries, bytes) = (fileset.root.entries, fileset.root.bytes);
            let bytes = bytes.saturating_add(entries.saturating_mul(BLOCK_BYTES));
            room.place(*device).need.take(bytes, entries);
        }
        room.fits()
    }

    /// True if what is needed fits everywhere.
    pub fn fits(&self) -> bool {
        self.by_device.values().all(|place| place.need.fits(&place.space))
    }

    /// Bytes that may be written, on all file systems together.
    pub fn free_bytes(&self) -> u64 {
        self.by_device.values().fold(0, |sum, place| sum.saturating_add(place.space.bytes))
    }

    fn place(&mut self, device: u64) -> &mut Place {
        self.by_device.get_mut(&device).expect("every device in use was looked at")
    }

    /// The refusal, with the figures of the first file system that is too small.
    pub fn refusal(&self, target: &dyn Target) -> Failure {
        let short = self.by_device.values().find(|place| !place.need.fits(&place.space));
        let Some(Place { path, space, need }) = short else {
            return Failure::internal("check the room in", target.describe(), "there is enough of it");
        };
        let cause = format!(
            "the restore needs {} and {} inodes, the target has {} and {} inodes free",
            size_text(need.bytes),
            need.inodes,
            size_text(space.bytes),
            space.inodes
        );
        let place = format!("{}/{}", target.describe().trim_end_matches('/'), String::from_utf8_lossy(path));
        Failure::source("check the room in", place, cause).with_guidance(
            "make room, choose another --target, restore less with --path, or leave what is there and equal alone with \
             --overwrite if-changed; nothing was written",
        )
    }

    /// Walks what is selected, and sums up what will be restored and the room that it needs.
    ///
    /// # Errors
    /// The repository's or the target's.
    pub async fn survey(
        &mut self,
        point: &RecoveryPoint,
        scopes: &[Scope],
        chunks: &Arc<ChunkReader>,
        target: &dyn Target,
        overwrite: Overwrite,
    ) -> Result<RestoreTotals, Failure> {
        let mut totals = RestoreTotals::default();
        for (number, (fileset, scope)) in point.filesets.iter().zip(scopes).enumerate() {
            let Some(root) = target_root(&fileset.root_path) else { continue };
            let mut walk = Walk::new(chunks, &fileset.root, scope);
            // Existing directories from the root of the fileset down to where the walk is.
            let mut above: Vec<(Vec<u8>, u64)> = Vec::new();
            loop {
                // The restore itself lists what cannot be read.
                let mut next = next_items(&mut walk, &root).await;
                if next.is_end() {
                    break;
                }
                judge(next.items.iter_mut(), target, overwrite).await?;
                for item in &next.items {
                    while above.last().is_some_and(|(directory, _)| !is_within(&item.path, directory)) {
                        above.pop();
                    }
                    self.enter(item, &mut above, target).await?;
                    let device = above.last().map_or(self.devices[number], |(_, device)| *device);
                    if item.kept {
                        totals.skipped += 1;
                        continue;
                    }
                    let data_bytes = count(&item.entry, item.on_the_way, &mut totals, chunks).await?;
                    self.need(device, item, data_bytes);
                }
            }
        }
        Ok(totals)
    }

    /// Notes the device of a directory that exists.
    async fn enter(
        &mut self,
        item: &Item,
        above: &mut Vec<(Vec<u8>, u64)>,
        target: &dyn Target,
    ) -> Result<(), Failure> {
        let Some(existing) = item.existing.filter(|existing| existing.kind == FileKind::Directory) else {
            return Ok(());
        };
        if item.entry.kind != Kind::Directory {
            return Ok(());
        }
        above.push((item.path.clone(), existing.device));
        if !self.by_device.contains_key(&existing.device) {
            let path = item.path.clone();
            let spaces = target.free_space(vec![path.clone()]).await.map_err(|error| target_failure(&error))?;
            for space in spaces {
                let place = Place { path: path.clone(), space, need: Need::default() };
                self.by_device.insert(existing.device, place);
            }
        }
        Ok(())
    }

    fn need(&mut self, device: u64, item: &Item, data_bytes: u64) {
        let need = &mut self.place(device).need;
        let replaced = item.existing.as_ref();
        let is_there = |existing: &Existing| item.entry.kind == Kind::Directory && existing.kind == FileKind::Directory;
        let is_new = !matches!(item.entry.kind, Kind::HardLink { .. }) && !replaced.is_some_and(is_there);
        need.take(data_bytes.next_multiple_of(BLOCK_BYTES), u64::from(is_new));
        if let Some(replaced) = replaced {
            need.give_back(replaced);
        }
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
        let space = Space { device: 1, bytes: 100, inodes: 10 };
        let fits = |bytes, inodes| {
            let mut need = Need::default();
            need.take(bytes, inodes);
            need.fits(&space)
        };
        assert!(fits(100, 10));
        assert!(!fits(101, 1));
        assert!(!fits(1, 11));
    }

    #[test]
    fn what_is_replaced_is_there_until_its_replacement_is_written() {
        let old = Existing {
            kind: FileKind::File,
            size: 1 << 40,
            allocated_bytes: 60,
            mtime: mover_repository::ids::UnixNanos(0),
            device: 1,
            inode: 1,
            links: 1,
        };
        let mut need = Need::default();
        for _ in 0..10 {
            need.take(60, 1);
            need.give_back(&old);
        }
        assert_eq!((need.bytes, need.inodes), (60, 1));
        // What has another name is not given back.
        need.take(60, 1);
        need.give_back(&Existing { links: 2, ..old });
        need.take(60, 1);
        assert_eq!((need.bytes, need.inodes), (120, 2));
    }
}
