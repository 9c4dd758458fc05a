//! Rebuilds the index from the tables of contents of all packs.
//!
//! Writes new segments, removes nothing: the new ones name the old ones as replaced, and readers skip
//! these. A pack whose table cannot be read keeps what the old segments say of it only if the old
//! segments stay in use, so then nothing is replaced. Blocks; never call it on an executor thread.

use std::collections::BTreeSet;

use crate::blocking::block_on;
use crate::error::{RepositoryError, Result};
use crate::ids::ObjectId;
use crate::index::{SegmentBuilder, Unreadable, named_packs, parse_segment_name};
use crate::limits::SEGMENT_BYTES_MAX;
use crate::pack::{parse_pack_name, read_contents};
use crate::repository::Repository;

/// Length at which a new segment is written; bounds the memory taken.
const SEGMENT_BYTES_TARGET: usize = 16 << 20;
const _: () = assert!(SEGMENT_BYTES_TARGET * 2 < SEGMENT_BYTES_MAX);

/// What was done, or with `dry_run` what would be.
#[derive(Debug, Clone, Default)]
pub struct RepairReport {
    /// Nothing was written.
    pub dry_run: bool,
    /// Packs whose tables were read.
    pub packs: u64,
    /// Chunks in them.
    pub chunks: u64,
    /// Segments written.
    pub written: Vec<ObjectId>,
    /// Segments that count no more.
    pub replaced: Vec<ObjectId>,
    /// Packs whose tables cannot be read; if there are any, no segment is replaced.
    pub unreadable: Vec<Unreadable>,
}

/// Rebuilds the index. `progress` is told packs done and packs in all.
///
/// # Errors
/// If the store cannot be listed or written.
pub fn repair_index(repository: &Repository, dry_run: bool, progress: &dyn Fn(u64, u64)) -> Result<RepairReport> {
    let backend = repository.backend();
    let old: Vec<ObjectId> =
        block_on(backend.list("index"))?.iter().filter_map(|object| parse_segment_name(&object.name)).collect();
    let mut names: BTreeSet<String> = block_on(backend.list("packs"))?.into_iter().map(|object| object.name).collect();
    // A listing may be behind: what it misses and the old segments name must not be lost with these.
    let mut missed = block_on(named_packs(repository, |name| !names.contains(name)))?;
    names.append(&mut missed);
    // Names of packs must not outlive a crash less than a segment that names them. Who finished a pack may have been
    // killed before it synced the name.
    names.iter().for_each(|name| backend.adopt(name));
    block_on(backend.barrier())?;
    let mut report = RepairReport { dry_run, ..RepairReport::default() };
    let mut builder = SegmentBuilder::new(repository);
    let total = names.len() as u64;
    for (done, name) in names.iter().enumerate() {
        progress(done as u64, total);
        if parse_pack_name(name).is_none() {
            continue;
        }
        match block_on(read_contents(repository, name)) {
            Ok(contents) => {
                report.packs += 1;
                report.chunks += contents.chunk_count() as u64;
                if !dry_run {
                    builder.add(&contents);
                }
            }
            // A prune beside this has deleted it.
            Err(RepositoryError::MissingObject { .. }) => {}
            Err(cause) => report.unreadable.push(Unreadable { object: name.clone(), cause }),
        }
        if builder.bytes() >= SEGMENT_BYTES_TARGET {
            let full = std::mem::replace(&mut builder, SegmentBuilder::new(repository));
            report.written.extend(block_on(full.write())?);
        }
    }
    progress(total, total);
    if report.unreadable.is_empty() {
        report.replaced = old;
    }
    if !dry_run {
        // The last segment replaces the old ones: all others are durable by then.
        let last = builder.replacing(0, report.replaced.clone());
        report.written.extend(block_on(last.write())?);
    }
    Ok(report)
}
