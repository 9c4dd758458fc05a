//! Checks the manifests of all recovery points: pages, order, totals, and that every chunk has a
//! place from which it can be read.
//!
//! Pages that several points share are checked once, unless something in them is hurt: then each
//! point lists its own files. Without the read key names are unknown, and places stand for paths.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hashbrown::HashSet;
use parking_lot::Mutex;

use crate::blocking::{block_on, side_by_side};
use crate::chunk_reader::PAGES_AHEAD;
use crate::error::{RepositoryError, Result};
use crate::ids::ChunkId;
use crate::log::{RecoveryPoint, SealedFileset};
use crate::manifest::{
    Child, Content, ContentReader, Piece, decode_leaf, decode_structure_page, leaf_digests_match, path_cmp, read_inner,
};
use crate::verify::{HurtFile, Phase, Verifier};

/// Pages that were found whole, by id: of a leaf both pages.
type Whole = Mutex<HashSet<(ChunkId, ChunkId)>>;

/// One fileset of one point.
struct Place<'a> {
    point: &'a RecoveryPoint,
    fileset: &'a SealedFileset,
}

/// Totals of a subtree as counted.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
struct Counted {
    entries: u64,
    files: u64,
    bytes: u64,
}

impl Verifier<'_> {
    /// Checks every fileset of every recovery point.
    pub(super) fn check_manifests(&self) {
        let points = self.history.recovery_points();
        self.found.lock().report.points = points.len() as u64;
        let places: Vec<Place<'_>> = points
            .iter()
            .flat_map(|(_, point)| point.filesets.iter().map(move |fileset| Place { point, fileset }))
            .collect();
        let whole = Whole::default();
        let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
        let total = places.len() as u64;
        self.report_progress(Phase::Manifests, 0, total);
        let work = || {
            while let Some(place) = places.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.check_manifest(place, &whole);
                self.report_progress(Phase::Manifests, done.fetch_add(1, Ordering::Relaxed) + 1, total);
            }
        };
        side_by_side(self.options.threads, work);
    }

    fn check_manifest(&self, place: &Place<'_>, whole: &Whole) {
        let root = &place.fileset.root;
        let claimed = Counted { entries: root.entries, files: root.files, bytes: root.bytes };
        self.check_inner(place, &root.structure, root.levels, b"", claimed, whole);
    }

    /// Checks an inner page and all below. True if nothing there is hurt.
    fn check_inner(
        &self,
        place: &Place<'_>,
        id: &ChunkId,
        level: u8,
        from: &[u8],
        claimed: Counted,
        whole: &Whole,
    ) -> bool {
        if whole.lock().contains(&(*id, *id)) {
            return true;
        }
        let page = match block_on(read_inner(&self.chunks, id, level)) {
            Ok(page) => page,
            Err(error) => {
                self.page_error(place, id, from, &error);
                return false;
            }
        };
        let counted = page.children.iter().fold(Counted::default(), |sum, child| Counted {
            entries: sum.entries.saturating_add(child.entries),
            files: sum.files.saturating_add(child.files),
            bytes: sum.bytes.saturating_add(child.bytes),
        });
        let mut is_whole = true;
        if counted != claimed {
            self.error(&format!("manifest page {id}"), "its totals are not those that its parent names");
            is_whole = false;
        }
        for (at, child) in page.children.iter().enumerate() {
            if at % PAGES_AHEAD == 0 {
                self.read_ahead(&page.children[at..page.children.len().min(at + PAGES_AHEAD)], level, whole);
            }
            let until = page.children.get(at + 1).map(|next| &next.separator[..]);
            is_whole &= if level == 1 {
                self.check_leaf(place, child, until, whole)
            } else {
                let claimed = Counted { entries: child.entries, files: child.files, bytes: child.bytes };
                self.check_inner(place, &child.structure, level - 1, &child.separator, claimed, whole)
            };
        }
        if is_whole {
            whole.lock().insert((*id, *id));
        }
        is_whole
    }

    /// Reads the pages that are checked next, but for those that were.
    fn read_ahead(&self, children: &[Child], level: u8, whole: &Whole) {
        let with_names = level == 1 && self.repository.secrets().can_read();
        let pages: Vec<ChunkId> = {
            let whole = whole.lock();
            let key = |child: &Child| (if level == 1 { child.names } else { child.structure }, child.structure);
            let unchecked = children.iter().filter(|child| !whole.contains(&key(child)));
            unchecked.flat_map(|child| [Some(child.structure), with_names.then_some(child.names)]).flatten().collect()
        };
        block_on(self.chunks.read_ahead(pages));
    }

    fn check_leaf(&self, place: &Place<'_>, child: &Child, until: Option<&[u8]>, whole: &Whole) -> bool {
        if whole.lock().contains(&(child.names, child.structure)) {
            return true;
        }
        let checked = if self.repository.secrets().can_read() {
            self.check_leaf_with_names(place, child, until)
        } else {
            self.check_leaf_structure(place, child)
        };
        match checked {
            Ok(true) => {
                whole.lock().insert((child.names, child.structure));
                true
            }
            Ok(false) => false,
            Err(error) => {
                self.page_error(place, &child.structure, &child.separator, &error);
                false
            }
        }
    }

    fn check_leaf_with_names(&self, place: &Place<'_>, child: &Child, until: Option<&[u8]>) -> Result<bool> {
        let structure = block_on(self.chunks.read(&child.structure))?;
        let names = block_on(self.chunks.read(&child.names))?;
        let object = format!("manifest leaf {}", child.names);
        let entries = decode_leaf(&names, &structure).map_err(RepositoryError::decoding(&object))?;
        let starts_before = entries.first().is_some_and(|first| path_cmp(&first.path, &child.separator).is_lt());
        let ends_after =
            until.is_some_and(|until| entries.last().is_some_and(|last| path_cmp(&last.path, until).is_ge()));
        if entries.len() as u64 != child.entries || starts_before || ends_after {
            return Err(RepositoryError::corrupt(object, "it is not the leaf that its parent describes"));
        }
        let match_digests = leaf_digests_match(self.repository.secrets(), &entries, &structure);
        if !match_digests.map_err(RepositoryError::decoding(&object))? {
            return Err(RepositoryError::corrupt(object, "names and structure are not of the same entries"));
        }
        let mut is_whole = true;
        for entry in &entries {
            is_whole &= self.check_content(place, &entry.path, &entry.content);
        }
        self.found.lock().report.entries += entries.len() as u64;
        Ok(is_whole)
    }

    fn check_leaf_structure(&self, place: &Place<'_>, child: &Child) -> Result<bool> {
        let structure = block_on(self.chunks.read(&child.structure))?;
        let object = format!("manifest leaf {}", child.structure);
        let contents = decode_structure_page(&structure).map_err(RepositoryError::decoding(&object))?;
        let mut is_whole = self.is_readable(&child.names)?;
        for content in &contents {
            is_whole &= self.check_content(place, &child.separator, content);
        }
        self.found.lock().report.entries += contents.len() as u64;
        Ok(is_whole)
    }

    /// True if every chunk of a content can be read; else the file is listed.
    fn check_content(&self, place: &Place<'_>, path: &[u8], content: &Content) -> bool {
        match self.find_missing(content) {
            Ok(None) => true,
            Ok(Some(id)) => {
                self.hurt_file(place.hurt(path, format!("chunk {id} has no place from which it can be read")));
                false
            }
            Err(error) => {
                self.hurt_file(place.hurt(path, error.to_string()));
                false
            }
        }
    }

    fn find_missing(&self, content: &Content) -> Result<Option<ChunkId>> {
        let mut chunks = 0;
        let mut missing = None;
        let mut pieces = ContentReader::new(self.chunks.clone(), content);
        while let Some(piece) = block_on(pieces.next())? {
            let Piece::Chunk { id, .. } = piece else { continue };
            chunks += 1;
            if missing.is_none() && !self.is_readable(&id)? {
                missing = Some(id);
            }
        }
        self.found.lock().report.chunks += chunks;
        Ok(missing)
    }

    /// True if a place of the chunk exists and was not found hurt.
    fn is_readable(&self, id: &ChunkId) -> Result<bool> {
        let locations = block_on(self.index.locations(id))?;
        let found = self.found.lock();
        Ok(locations.iter().any(|location| {
            let pack = self.index.pack(location.pack).id;
            let end = u64::from(location.frame_offset) + u64::from(location.frame_bytes);
            self.present.get(&pack).is_some_and(|bytes| end <= *bytes) && !found.hurt.contains(&(pack, location.frame))
        }))
    }

    fn page_error(&self, place: &Place<'_>, id: &ChunkId, from: &[u8], error: &RepositoryError) {
        self.error(&format!("manifest page {id}"), error.reason());
        self.hurt_file(place.hurt(from, format!("all entries from here on: a manifest page is lost: {error}")));
    }
}

impl Place<'_> {
    fn hurt(&self, path: &[u8], reason: String) -> HurtFile {
        HurtFile {
            set: self.point.set.clone(),
            point: self.point.id,
            root_path: self.fileset.root_path.clone(),
            path: path.to_vec(),
            reason,
        }
    }
}
