//! The selected entries of one fileset in path order, streamed from its manifest.
//!
//! With parts selected, the directories on the way to each part come before it, so that they can be made; a page a
//! level is read to find them. Limits: the reader's two leaves and the list of parts. On the planner's shard.

use std::collections::VecDeque;
use std::sync::Arc;

use mover_repository::Result;
use mover_repository::chunk_reader::ChunkReader;
use mover_repository::manifest::{Entry, ManifestReader, ManifestRoot, is_within};

use crate::restore::selection::{Scope, ancestors};

/// One step of a walk.
#[derive(Debug)]
pub struct Step {
    /// The entry.
    pub entry: Entry,
    /// It is only on the way to what was selected.
    pub on_the_way: bool,
    /// Steps before this one: every walk over the same scope counts alike, unless a page cannot be read.
    pub number: u64,
}

/// Walks one fileset.
pub struct Walk {
    reader: ManifestReader,
    finder: ManifestReader,
    parts: Option<VecDeque<Vec<u8>>>,
    /// The part that is being walked, and the one before it.
    current: Option<Vec<u8>>,
    previous: Vec<u8>,
    on_the_way: VecDeque<Vec<u8>>,
    any_before: bool,
    steps: u64,
}

impl Walk {
    /// A walk over `scope` of the manifest with this root.
    pub fn new(chunks: &Arc<ChunkReader>, root: &ManifestRoot, scope: &Scope) -> Self {
        let parts = match scope {
            Scope::All => None,
            Scope::Parts(parts) => Some(parts.iter().cloned().collect()),
        };
        Walk {
            reader: ManifestReader::new(chunks.clone(), *root),
            finder: ManifestReader::new(chunks.clone(), *root),
            parts,
            current: None,
            previous: Vec::new(),
            on_the_way: VecDeque::new(),
            any_before: false,
            steps: 0,
        }
    }

    fn step(&mut self, entry: Entry, on_the_way: bool) -> Step {
        let number = self.steps;
        self.steps += 1;
        Step { entry, on_the_way, number }
    }

    /// The next entry, `None` at the end.
    ///
    /// # Errors
    /// As the manifest's reader.
    pub async fn next(&mut self) -> Result<Option<Step>> {
        if self.parts.is_none() {
            let entry = self.reader.next().await?;
            return Ok(entry.map(|entry| self.step(entry, false)));
        }
        loop {
            while let Some(path) = self.on_the_way.pop_front() {
                if let Some(entry) = self.finder.find(&path).await? {
                    return Ok(Some(self.step(entry, true)));
                }
            }
            if let Some(part) = &self.current {
                match self.reader.next().await? {
                    Some(entry) if is_within(&entry.path, part) => return Ok(Some(self.step(entry, false))),
                    _ => self.previous = self.current.take().unwrap_or_default(),
                }
            }
            let Some(part) = self.parts.as_mut().and_then(VecDeque::pop_front) else { return Ok(None) };
            self.reader.seek(&part).await?;
            let any_before = std::mem::replace(&mut self.any_before, true);
            let is_new = |path: &&[u8]| !any_before || !is_within(&self.previous, path);
            self.on_the_way = ancestors(&part).into_iter().filter(is_new).map(<[u8]>::to_vec).collect();
            self.current = Some(part);
        }
    }
}
