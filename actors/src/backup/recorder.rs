//! Recorder: puts what the shards found, in whatever order, into a manifest in path order.
//!
//! Entries come with the scanner's sequence number. The next one in order goes into the manifest
//! at once; one that is early waits in a sorted queue that spills to sealed scratch storage, so
//! the wait is bounded by disk and not by memory. Manifest pages are chunks like any other.
//!
//! It also judges: a file whose stat after the read differs from the one before is read again,
//! [`ATTEMPTS_MAX`] times in all, and recorded as torn if it never stood still. What cannot be read
//! is listed and the job goes on. If the first name of a hard-linked file is lost, the next name
//! takes its place.
//!
//! One a fileset, on shard 0. Must never wait for the scanner or for a deduplicator, which both
//! wait for it; it waits for the compressor of its shard alone.

use std::collections::HashMap;
use std::sync::Arc;

use mover_repository::log::Grade;
use mover_repository::manifest::{Content, Entry, Kind, ManifestBuilder, ManifestRoot, Page, Piece};
use parking_lot::Mutex;

use crate::backup::assembly::{Assembled, Assembly, piece_bytes};
use crate::backup::early::{Early, Pending};
use crate::backup::messages::{AfterRead, FileTask, NewChunks, PartOf, PartRecord, Recorded};
use crate::backup::report::Problem;
use crate::backup::scanner::{ScannerNote, entry_kind, metadata};
use crate::backup::shared::JobShared;
use crate::error::Failure;
use crate::runtime::{Actor, Address};
use crate::source::{FileKind, SourceError, SourceErrorKind};

/// A file that changes is read so often before it is recorded as torn.
pub const ATTEMPTS_MAX: u8 = 3;

/// Where the finished manifest is left for the pipeline.
pub type ManifestSlot = Arc<Mutex<Option<ManifestRoot>>>;

/// See the module.
pub struct Recorder {
    job: Arc<JobShared>,
    builder: Option<ManifestBuilder>,
    next_sequence: u64,
    early: Early,
    assemblies: HashMap<u64, Assembly>,
    /// First names that could not be read, by sequence, with the name that stands in for each.
    lost_firsts: HashMap<u64, Option<Vec<u8>>>,
    /// Links that are read in place of a lost first name: their sequence to its.
    promoted: HashMap<u64, u64>,
    settled: u64,
    compressor: Address<NewChunks>,
    scanner: Address<ScannerNote>,
    result: ManifestSlot,
}

impl Recorder {
    /// A recorder whose pages go to `compressor` and whose manifest root goes to `result`.
    pub fn new(
        job: Arc<JobShared>,
        early: Early,
        compressor: Address<NewChunks>,
        scanner: Address<ScannerNote>,
        result: ManifestSlot,
    ) -> Self {
        let builder = Some(ManifestBuilder::new(&job.repository));
        Self {
            job,
            builder,
            next_sequence: 0,
            early,
            assemblies: HashMap::new(),
            lost_firsts: HashMap::new(),
            promoted: HashMap::new(),
            settled: 0,
            compressor,
            scanner,
            result,
        }
    }

    /// Takes in what belongs at `sequence`, and everything that waited for it.
    async fn arrive(&mut self, sequence: u64, pending: Pending) -> Result<(), Failure> {
        assert!(sequence >= self.next_sequence, "two entries with one sequence");
        if sequence > self.next_sequence {
            return self.early.push(sequence, pending);
        }
        let mut ready = Some(pending);
        while let Some(pending) = ready {
            if !self.emit(pending).await? {
                return Ok(());
            }
            self.next_sequence += 1;
            ready = self.early.pop_if(self.next_sequence)?;
        }
        Ok(())
    }

    /// Puts one entry into the manifest. False if it has to be read first.
    async fn emit(&mut self, pending: Pending) -> Result<bool, Failure> {
        match pending {
            Pending::Missing => Ok(true),
            Pending::Entry(entry) => {
                self.push(*entry).await?;
                Ok(true)
            }
            Pending::Link { task, first_sequence, first } => {
                let first = match self.lost_firsts.get(&first_sequence) {
                    None => first,
                    Some(Some(stand_in)) => stand_in.clone(),
                    Some(None) => {
                        self.promoted.insert(task.sequence, first_sequence);
                        self.tell_scanner(ScannerNote::Again(task)).await?;
                        return Ok(false);
                    }
                };
                let meta = metadata(&task.stat, 0, vec![]);
                let kind = Kind::HardLink { first };
                let content = Content::Inline(vec![]);
                let entry = Entry { path: task.path, kind, meta, content, grade: Grade::Stable, error: false };
                self.push(entry).await?;
                self.settled += 1;
                Ok(true)
            }
        }
    }

    async fn push(&mut self, entry: Entry) -> Result<(), Failure> {
        self.job.report.entry(&entry);
        let mut pages = vec![];
        let builder = self.builder.as_mut().expect("the manifest is open until the inbox closes");
        builder.push(entry, &mut pages)?;
        self.store(pages).await
    }

    /// Sends the pages that the repository lacks to the compressor.
    async fn store(&mut self, pages: Vec<Page>) -> Result<(), Failure> {
        for page in pages {
            self.job.store_page(page, &self.compressor).await?;
        }
        Ok(())
    }

    async fn part(&mut self, part: PartRecord) -> Result<(), Failure> {
        let PartRecord { of, pieces, outcome } = part;
        match of {
            PartOf::Whole(task) => {
                let bytes = pieces.iter().map(piece_bytes).sum();
                let content = self.content_of(pieces).await?;
                self.read_done(task, content, bytes, outcome).await
            }
            PartOf::Extent { file, number, last } => {
                let sequence = file.task.sequence;
                let repository = &self.job.repository;
                let assembly = self.assemblies.entry(sequence).or_insert_with(|| Assembly::new(repository, file));
                let mut pages = vec![];
                assembly.add(number, last, pieces, outcome, &mut pages);
                let is_complete = assembly.is_complete();
                self.store(pages).await?;
                if !is_complete {
                    return Ok(());
                }
                let assembly = self.assemblies.remove(&sequence).expect("it was just added to");
                let mut pages = vec![];
                let Assembled { task, content, bytes, outcome } = assembly.finish(&mut pages);
                self.store(pages).await?;
                self.read_done(task, content, bytes, outcome).await
            }
        }
    }

    /// The content of a small file: always short enough to stay in its entry, unless holes and
    /// chunks alternate a lot.
    async fn content_of(&mut self, pieces: Vec<Piece>) -> Result<Content, Failure> {
        if pieces.len() <= mover_repository::limits::INLINE_PIECES_MAX {
            return Ok(Content::Inline(pieces));
        }
        let mut builder = mover_repository::manifest::ContentBuilder::new(&self.job.repository);
        let mut pages = vec![];
        builder.push_extent(pieces, &mut pages);
        let content = builder.finish(&mut pages);
        self.store(pages).await?;
        Ok(content)
    }

    /// Judges a read that has come to its end.
    async fn read_done(
        &mut self,
        mut task: FileTask,
        content: Content,
        bytes: u64,
        outcome: Result<AfterRead, SourceError>,
    ) -> Result<(), Failure> {
        let may_retry = task.attempt + 1 < ATTEMPTS_MAX && !self.job.stop.is_requested();
        let after = match outcome {
            Ok(after) => after,
            // A stream has nothing else to offer: a point without it would pass for a good one.
            Err(error) if self.job.is_stream && !self.job.stop.is_requested() => {
                let guidance = "no recovery point was made; run the command again with a producer that ends well";
                return Err(Failure::from(error).with_guidance(guidance));
            }
            Err(error) if error.kind == SourceErrorKind::Changed && may_retry => return self.again(task).await,
            Err(error) => return self.unread(task, &error).await,
        };
        let is_file = task.stat.kind == FileKind::File;
        let stood_still = self.job.is_stream
            || (!after.moved && task.stat.unchanged(&after.stat) && (!is_file || bytes == after.stat.size));
        if !stood_still && may_retry {
            return self.again(task).await;
        }
        let grade = if stood_still { Grade::Stable } else { Grade::Torn };
        if grade == Grade::Torn {
            self.job.report.torn(&task.path);
        }
        let attributes = after.attributes.unwrap_or_default();
        let Some(kind) = entry_kind(&after.stat, attributes.link_target) else {
            return self
                .unread(
                    task,
                    &SourceError {
                        path: vec![],
                        operation: "read",
                        kind: SourceErrorKind::Changed,
                        cause: "it became another kind of entry".into(),
                    },
                )
                .await;
        };
        if let Some(known) = task.audit.take()
            && known != content
        {
            self.job.report.problem(Problem::new(
                task.path.clone(),
                "its content differs from the last recovery point although size, times and inode are the same; \
                 the new content was stored",
            ));
        }
        let meta = metadata(&after.stat, bytes, attributes.xattrs);
        self.job.count_done(after.stat.kind, bytes);
        if let Some(first_sequence) = self.promoted.remove(&task.sequence) {
            self.lost_firsts.insert(first_sequence, Some(task.path.clone()));
        }
        self.settled += 1;
        let entry = Entry { path: task.path, kind, meta, content, grade, error: false };
        self.arrive(task.sequence, Pending::Entry(Box::new(entry))).await
    }

    async fn again(&mut self, mut task: FileTask) -> Result<(), Failure> {
        task.attempt += 1;
        self.tell_scanner(ScannerNote::Again(Box::new(task))).await
    }

    /// Lists an entry that could not be read. One that is gone leaves no entry; any other is
    /// recorded with its attributes as far as they are known, and with its error.
    async fn unread(&mut self, task: FileTask, error: &SourceError) -> Result<(), Failure> {
        self.settled += 1;
        if !self.job.stop.is_requested() {
            self.job.report.unread(Problem { path: task.path.clone(), ..Problem::source(error) });
        }
        if task.stat.links > 1 && !self.promoted.contains_key(&task.sequence) {
            self.lost_firsts.insert(task.sequence, None);
        }
        self.promoted.remove(&task.sequence);
        let kind = entry_kind(&task.stat, None).filter(|_| error.kind != SourceErrorKind::Vanished);
        let Some(kind) = kind else { return self.arrive(task.sequence, Pending::Missing).await };
        let meta = metadata(&task.stat, 0, vec![]);
        let content = Content::Inline(vec![]);
        let entry = Entry { path: task.path, kind, meta, content, grade: Grade::Torn, error: true };
        self.arrive(task.sequence, Pending::Entry(Box::new(entry))).await
    }

    /// The scanner's mailbox has no bound of its own: there are no more notes than entries in
    /// flight, and those are bounded by the injector. So this never waits.
    async fn tell_scanner(&mut self, note: ScannerNote) -> Result<(), Failure> {
        Ok(self.scanner.send(note).await?)
    }
}

impl Actor for Recorder {
    type Message = Recorded;
    const NAME: &'static str = "recorder";

    async fn handle(&mut self, message: Recorded) -> Result<(), Failure> {
        match message {
            Recorded::Entries(entries) => {
                for (sequence, entry) in entries {
                    self.arrive(sequence, Pending::Entry(Box::new(entry))).await?;
                }
            }
            Recorded::Link { task, first_sequence, first } => {
                let sequence = task.sequence;
                self.arrive(sequence, Pending::Link { task: Box::new(task), first_sequence, first }).await?;
            }
            Recorded::Parts(parts) => {
                for part in parts {
                    self.part(part).await?;
                }
            }
            Recorded::Unread { task, error } => self.unread(task, &error).await?,
            Recorded::Missing(sequence, problem) => {
                self.job.report.unread(problem);
                self.arrive(sequence, Pending::Missing).await?;
            }
        }
        match std::mem::take(&mut self.settled) {
            0 => Ok(()),
            settled => self.tell_scanner(ScannerNote::Settled(settled)).await,
        }
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        assert!(self.early.is_empty() && self.assemblies.is_empty(), "an entry never came");
        let mut pages = vec![];
        let root = self.builder.take().expect("finish is called once").finish(&mut pages)?;
        self.store(pages).await?;
        *self.result.lock() = Some(root);
        Ok(())
    }
}
