//! Entries of a fileset as the target sees them: where each one lands, and whether the overwrite rule keeps what is
//! there. Used by the plan, the survey before it and the comparison after it.
//!
//! Limits: [`ITEMS_MAX`] entries at a time, one look-up in the target for all of them. On the planner's shard. Must never
//! judge what cannot be looked at: where a directory has to be opened first, the look-up comes after that.

use mover_repository::RepositoryError;
use mover_repository::manifest::{Entry, Kind};

use crate::error::Failure;
use crate::restore::selection::target_path;
use crate::restore::site::target_failure;
use crate::restore::target::{Existing, NodeKind, Overwrite, Target, TargetMeta};
use crate::restore::walk::{Step, Walk};
use crate::source::FileKind;

/// Entries that are looked at together.
pub const ITEMS_MAX: usize = 256;

/// Damaged pages that are passed over before the caller hears of them.
const DAMAGE_MAX: usize = 16;

/// One entry on its way to the target.
#[derive(Debug)]
pub struct Item {
    /// As recorded.
    pub entry: Entry,
    /// Where it lands.
    pub path: Vec<u8>,
    /// It is only a directory on the way to what was selected.
    pub on_the_way: bool,
    /// Its number in the walk.
    pub number: u64,
    /// What is there, as far as the rule had to know.
    pub existing: Option<Existing>,
    /// The rule keeps what is there.
    pub kept: bool,
}

/// Attributes of an entry in the words of the target.
pub fn target_meta(entry: &mut Entry) -> TargetMeta {
    let meta = &mut entry.meta;
    let xattrs = std::mem::take(&mut meta.xattrs);
    TargetMeta { mode: meta.mode, uid: meta.uid, gid: meta.gid, mtime: meta.mtime, xattrs }
}

/// The node that an entry describes, if it describes one.
pub fn node_kind(kind: &Kind) -> Option<NodeKind> {
    match *kind {
        Kind::Fifo => Some(NodeKind::Fifo),
        Kind::CharDevice { major, minor } => Some(NodeKind::CharDevice { major, minor }),
        Kind::BlockDevice { major, minor } => Some(NodeKind::BlockDevice { major, minor }),
        _ => None,
    }
}

/// True if the rule leaves alone what exists where `entry` would land. Of a directory where a directory goes, only the
/// attributes are at stake, so it is never kept.
fn keeps(rule: Overwrite, existing: &Existing, entry: &Entry) -> bool {
    if entry.kind == Kind::Directory && existing.kind == FileKind::Directory {
        return false;
    }
    match rule {
        Overwrite::Always => false,
        Overwrite::Never => true,
        Overwrite::IfNewer => existing.mtime >= entry.meta.mtime,
        Overwrite::IfChanged => looks_restored(existing, entry),
    }
}

/// True if what exists has the kind, size and time that a restore of `entry` leaves. A hard link is not judged by
/// these: whether it is one is seen when links are made.
pub fn looks_restored(existing: &Existing, entry: &Entry) -> bool {
    let expected = match &entry.kind {
        Kind::File => FileKind::File,
        Kind::Symlink { .. } => FileKind::Symlink,
        Kind::Fifo => FileKind::Fifo,
        Kind::CharDevice { .. } => FileKind::CharDevice,
        Kind::BlockDevice { .. } => FileKind::BlockDevice,
        Kind::Directory | Kind::HardLink { .. } => return false,
    };
    let same_size = entry.kind != Kind::File || existing.size == entry.meta.size;
    existing.kind == expected && same_size && existing.mtime == entry.meta.mtime
}

/// What comes next in a fileset.
#[derive(Debug, Default)]
pub struct Items {
    /// Entries in path order; none at the end.
    pub items: Vec<Item>,
    /// Pages of the manifest that could not be read on the way: what they name is passed over.
    pub damage: Vec<RepositoryError>,
}

impl Items {
    /// True at the end of the fileset.
    pub fn is_end(&self) -> bool {
        self.items.is_empty() && self.damage.is_empty()
    }
}

/// The next entries, at most [`ITEMS_MAX`], not looked up in the target.
pub async fn next_items(walk: &mut Walk, root: &[u8]) -> Items {
    let mut items = Vec::with_capacity(ITEMS_MAX);
    let mut damage = Vec::new();
    while items.len() < ITEMS_MAX && damage.len() < DAMAGE_MAX {
        match walk.next().await {
            Ok(Some(step)) => {
                let path = target_path(root, &step.entry.path);
                let Step { entry, on_the_way, number } = step;
                items.push(Item { entry, path, on_the_way, number, existing: None, kept: false });
            }
            Ok(None) => break,
            // The reader goes on with the page after the one that it could not read.
            Err(error) => damage.push(error),
        }
    }
    Items { items, damage }
}

/// Looks up what the target has under these entries, and whether the rule keeps it.
///
/// # Errors
/// The target's.
pub async fn judge(
    items: impl Iterator<Item = &mut Item>,
    target: &dyn Target,
    rule: Overwrite,
) -> Result<(), Failure> {
    let mut judged: Vec<&mut Item> = items.collect();
    if judged.is_empty() {
        return Ok(());
    }
    let paths = judged.iter().map(|item| item.path.clone()).collect();
    let existing = target.existing(paths).await.map_err(|error| target_failure(&error))?;
    for (item, existing) in judged.iter_mut().zip(existing) {
        // What cannot be looked at cannot be replaced either: the write will say why.
        item.existing = existing.unwrap_or(None);
        item.kept = item.existing.is_some_and(|existing| keeps(rule, &existing, &item.entry));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mover_repository::ids::UnixNanos;
    use mover_repository::log::Grade;
    use mover_repository::manifest::{Content, Metadata};

    #[test]
    fn each_overwrite_rule_keeps_what_it_says() {
        let meta = Metadata { size: 10, mtime: UnixNanos(100), ..Metadata::default() };
        let entry = Entry {
            path: b"f".to_vec(),
            kind: Kind::File,
            meta,
            content: Content::EMPTY,
            grade: Grade::Stable,
            error: false,
        };
        let existing = |size, mtime, kind| Existing {
            kind,
            size,
            allocated_bytes: 0,
            mtime: UnixNanos(mtime),
            device: 1,
            inode: 1,
            links: 1,
        };
        let same = existing(10, 100, FileKind::File);
        let longer = existing(11, 100, FileKind::File);
        let newer = existing(10, 101, FileKind::File);
        let older = existing(10, 99, FileKind::File);
        let link = existing(10, 100, FileKind::Symlink);
        let kept = |rule| [same, longer, newer, older, link].map(|existing| keeps(rule, &existing, &entry));
        assert_eq!(kept(Overwrite::Always), [false; 5]);
        assert_eq!(kept(Overwrite::Never), [true; 5]);
        assert_eq!(kept(Overwrite::IfChanged), [true, false, false, false, false]);
        assert_eq!(kept(Overwrite::IfNewer), [true, true, true, false, true]);
    }
}
