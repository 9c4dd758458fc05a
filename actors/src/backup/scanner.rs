//! Scanner: walks one fileset in path order and hands out what has to be read.
//!
//! It is the one place that knows the order of entries. Every entry gets a sequence number; the
//! recorder puts the manifest together by it, whatever order the shards finish in. Listings run
//! ahead of the walk on the source's threads. An entry that the parent recovery point knows under
//! an equal identity is taken over unread, under the conditions of [`Scanner::reuse`].
//!
//! Runs on shard 0, one task a fileset. Bounded by the injector (work items), the recorder's
//! mailbox and [`LISTINGS_AHEAD`]. Must never read content, and never wait for anything but the
//! source, the injector, the recorder and its own notes: the recorder never waits for the scanner.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use mover_repository::ids::UnixNanos;
use mover_repository::limits::PATH_BYTES_MAX;
use mover_repository::log::Grade;
use mover_repository::manifest::{Content, Entry, Identity, Kind, Metadata, Parent, ParentMatch};

use crate::backup::buffers::READ_BYTES;
use crate::backup::hard_links::{HardLinks, LinkOf};
use crate::backup::messages::{FileTask, LargeFile, Recorded, Work, extents_of};
use crate::backup::report::Problem;
use crate::backup::reuse::is_stored;
use crate::backup::shared::JobShared;
use crate::error::Failure;
use crate::runtime::{Address, Closed, Inbox, Injector, Runtime, Weigh};
use crate::source::{FileKind, Listed, Listing, SIZE_UNKNOWN, Source, SourceErrorKind, SourceFuture, Stat};

/// Listings requested before the walk needs them, a directory level.
const LISTINGS_AHEAD: usize = 8;
/// Files of at most this size are read whole, in batches.
pub const SMALL_FILE_BYTES_MAX: u64 = 1 << 20;
/// A batch of small files is handed out at this many files or bytes, whichever comes first.
const BATCH_FILES_MAX: usize = 256;
const BATCH_BYTES_MAX: u64 = 1 << 20;
/// Entries sent to the recorder at once.
const ENTRIES_PER_MESSAGE: usize = 128;
/// A file whose ctime is younger than this when a run starts may change again without a trace:
/// file systems stamp with the granularity of a tick, some with that of a second or two.
const SETTLED: Duration = Duration::from_secs(2);

const _: () = assert!(SMALL_FILE_BYTES_MAX as usize <= READ_BYTES);

/// What the recorder tells the scanner.
pub enum ScannerNote {
    /// So many dispatched entries have found their way into the manifest or were given up.
    Settled(u64),
    /// The entry changed while it was read, or was a link whose first name is lost: read it (again).
    Again(Box<FileTask>),
}

impl Weigh for ScannerNote {
    fn weight_bytes(&self) -> usize {
        size_of::<Self>()
    }
}

/// What a finished walk knows.
#[derive(Debug, Clone, Copy)]
pub struct Scanned {
    /// When the walk began; reuse by the next run is judged by it.
    pub started: UnixNanos,
    /// When the last entry had been read.
    pub finished: UnixNanos,
}

/// See the module.
pub struct Scanner<R: Runtime> {
    rt: R,
    job: Arc<JobShared>,
    fileset: usize,
    parent: Option<(Parent, UnixNanos)>,
    links: HardLinks,
    work: Injector<Work>,
    recorder: Address<Recorded>,
    notes: Inbox<ScannerNote>,
    next_sequence: u64,
    outstanding: u64,
    batch: Vec<FileTask>,
    batch_bytes: u64,
    entries: Vec<(u64, Entry)>,
}

/// A directory that the walk is in.
struct Level {
    path: Vec<u8>,
    children: Vec<Listed>,
    next: usize,
    ahead: VecDeque<SourceFuture<Listing>>,
    ahead_next: usize,
    more: Option<Box<dyn crate::source::ListingRest>>,
}

impl<R: Runtime> Scanner<R> {
    /// `parent` is the manifest of the same fileset in the recovery point before, with the time at
    /// which the run that wrote it began to scan.
    #[allow(clippy::too_many_arguments, reason = "called once, by the wiring, which names each")]
    pub fn new(
        rt: R,
        job: Arc<JobShared>,
        fileset: usize,
        parent: Option<(Parent, UnixNanos)>,
        links: HardLinks,
        work: Injector<Work>,
        recorder: Address<Recorded>,
        notes: Inbox<ScannerNote>,
    ) -> Self {
        Self {
            rt,
            job,
            fileset,
            parent,
            links,
            work,
            recorder,
            notes,
            next_sequence: 0,
            outstanding: 0,
            batch: vec![],
            batch_bytes: 0,
            entries: vec![],
        }
    }

    /// Walks the fileset to its end and waits until everything handed out has settled.
    pub async fn run(mut self) -> Result<Scanned, Failure> {
        let started = self.rt.unix_now();
        let walked = self.walk().await;
        // Whatever happened, the shards must learn that no more work comes.
        let settled = match walked {
            Ok(()) => self.settle().await,
            Err(failure) => Err(failure),
        };
        self.work.close();
        settled?;
        Ok(Scanned { started, finished: self.rt.unix_now() })
    }

    async fn walk(&mut self) -> Result<(), Failure> {
        let root = self.source().root(self.fileset).await?;
        let mut levels: Vec<Level> = vec![];
        if root.stat.kind == FileKind::Directory {
            let listing = self.source().list(self.fileset, b"");
            levels.extend(self.enter(vec![], &root.stat, listing).await?);
        } else {
            self.visit(vec![], root.stat).await?;
        }
        while let Some(level) = levels.last_mut() {
            if self.job.stop.is_requested() {
                break;
            }
            level.top_up(&*self.job.source, self.fileset);
            let Some(child) = level.children.get(level.next) else {
                let Some(rest) = level.more.take() else {
                    levels.pop();
                    continue;
                };
                let path = level.path.clone();
                let listing = self.rest(&path, rest).await?;
                let level = levels.last_mut().expect("only this loop pops");
                level.go_on(listing);
                continue;
            };
            let (name, stat) = (child.name.clone(), child.stat);
            level.next += 1;
            let path = join(&level.path, &name);
            if path.len() > PATH_BYTES_MAX {
                self.missing(Problem::new(path, "the path is longer than the repository can hold")).await?;
            } else if stat.kind == FileKind::Directory {
                let listing = level.listing_of(&*self.job.source, self.fileset, &path);
                levels.extend(self.enter(path, &stat, listing).await?);
            } else {
                self.visit(path, stat).await?;
            }
            self.take_notes().await?;
        }
        if self.fileset + 1 == self.source().fileset_count() {
            self.job.progress.set_scan_finished();
        }
        self.hand_out_batch().await?;
        self.send_entries().await
    }

    /// Records a directory and goes into it.
    async fn enter(
        &mut self,
        path: Vec<u8>,
        stat: &Stat,
        listing: SourceFuture<Listing>,
    ) -> Result<Option<Level>, Failure> {
        match listing.await {
            Ok(mut listing) => {
                // Without its attributes it is not what it was: an access list that is lost may open it to others.
                let is_whole = listing.attributes.is_some();
                let xattrs = listing.attributes.take().unwrap_or_default().xattrs;
                let sequence = self.sequence();
                self.job.progress.add_directories(1);
                self.record(sequence, directory_entry(path.clone(), stat, xattrs, !is_whole)).await?;
                let listing = self.take_findings(listing);
                Ok(Some(Level::new(path, listing)))
            }
            Err(error) if error.kind == SourceErrorKind::Vanished => {
                self.missing(Problem::source(&error)).await?;
                Ok(None)
            }
            Err(error) if error.kind == SourceErrorKind::Scratch => Err(error.into()),
            Err(error) => {
                self.job.report.problem(Problem::source(&error));
                let sequence = self.sequence();
                self.job.progress.add_directories(1);
                self.record(sequence, directory_entry(path, stat, vec![], true)).await?;
                Ok(None)
            }
        }
    }

    async fn rest(&mut self, path: &[u8], rest: Box<dyn crate::source::ListingRest>) -> Result<Listing, Failure> {
        match rest.next().await {
            Ok(listing) => Ok(self.take_findings(listing)),
            Err(error) if error.kind == SourceErrorKind::Scratch => Err(error.into()),
            Err(error) => {
                self.job.report.problem(Problem { path: path.to_vec(), ..Problem::source(&error) });
                Ok(Listing::default())
            }
        }
    }

    fn take_findings(&mut self, mut listing: Listing) -> Listing {
        for error in listing.errors.drain(..) {
            self.job.report.problem(Problem::source(&error));
        }
        self.job.report.excluded(std::mem::take(&mut listing.excluded));
        for note in listing.notes.drain(..) {
            self.job.report.note(note);
        }
        listing
    }

    /// Records or hands out one entry that is not a directory.
    async fn visit(&mut self, path: Vec<u8>, stat: Stat) -> Result<(), Failure> {
        if stat.kind == FileKind::Socket {
            self.job.report.socket();
            return Ok(());
        }
        let sequence = self.sequence();
        if stat.kind == FileKind::File {
            // Nobody knows how long a stream will be.
            self.job.progress.expect(1, if stat.size == SIZE_UNKNOWN { 0 } else { stat.size });
        }
        let task = FileTask { sequence, path, stat, attempt: 0, audit: None };
        if stat.links > 1 {
            match self.links.meet(&stat, sequence, &task.path)? {
                LinkOf::First => {}
                LinkOf::Other { .. } if self.job.options.dry_run => return Ok(()),
                LinkOf::Other { sequence: first_sequence, path: first } => {
                    self.outstanding += 1;
                    return self.tell(Recorded::Link { task, first_sequence, first }).await;
                }
            }
        }
        match self.reuse(&task).await? {
            Reuse::Take(entry) => {
                self.job.count_done(stat.kind, stat.size);
                self.job.progress.add_files_reused(u64::from(stat.kind == FileKind::File));
                self.record(sequence, *entry).await
            }
            Reuse::Read | Reuse::Audit(_) if self.job.options.dry_run => {
                self.job.progress.add_bytes_read(if stat.kind == FileKind::File { stat.size } else { 0 });
                self.job.count_done(stat.kind, stat.size);
                Ok(())
            }
            Reuse::Audit(content) => self.dispatch(FileTask { audit: Some(content), ..task }).await,
            Reuse::Read => self.dispatch(task).await,
        }
    }

    /// Decides whether an entry may be taken over unread. It may if its identity is equal (path,
    /// size, mtime, ctime, inode, mode), the parent read it well (not torn, no error), its ctime was
    /// settled when the parent's run began, and every chunk of it is in the index of this run.
    async fn reuse(&mut self, task: &FileTask) -> Result<Reuse, Failure> {
        // The attributes of links and nodes are as cheap to read as to look up.
        if task.stat.kind != FileKind::File {
            return Ok(Reuse::Read);
        }
        let Some((parent, parent_started)) = &mut self.parent else { return Ok(Reuse::Read) };
        let found = match parent.match_entry(&task.path, &identity(&task.stat)).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Reuse::Read),
            Err(error) => {
                // The parent is advice: without it the files are read, and what is lost is stored anew.
                self.job.report.note(format!("the last recovery point cannot be compared with: {error}"));
                self.parent = None;
                return Ok(Reuse::Read);
            }
        };
        let settled = task.stat.ctime.0 + SETTLED.as_nanos() as i128 <= parent_started.0;
        if found.grade == Grade::Torn || found.error || !settled {
            return Ok(Reuse::Read);
        }
        let ParentMatch { content, xattrs, grade, .. } = found;
        // Without the read key the attributes have to be asked for again.
        let Some(xattrs) = xattrs else { return Ok(Reuse::Read) };
        if !is_stored(&self.job.index, &self.job.chunks, &content).await? {
            return Ok(Reuse::Read);
        }
        if self.job.options.is_audited(&task.path) {
            return Ok(Reuse::Audit(content));
        }
        let meta = metadata(&task.stat, task.stat.size, xattrs);
        let (path, kind) = (task.path.clone(), Kind::File);
        Ok(Reuse::Take(Box::new(Entry { path, kind, meta, content, grade, error: false })))
    }

    /// Gives an entry to the shards to be read.
    async fn dispatch(&mut self, task: FileTask) -> Result<(), Failure> {
        self.outstanding += 1;
        self.hand_out(task).await
    }

    async fn hand_out(&mut self, task: FileTask) -> Result<(), Failure> {
        if task.stat.kind == FileKind::File && (task.stat.size > SMALL_FILE_BYTES_MAX || self.job.is_stream) {
            return self.hand_out_large(task).await;
        }
        let bytes = if task.stat.kind == FileKind::File { task.stat.size } else { 0 };
        if self.batch.len() == BATCH_FILES_MAX || self.batch_bytes + bytes > BATCH_BYTES_MAX {
            self.hand_out_batch().await?;
        }
        self.batch_bytes += bytes;
        self.batch.push(task);
        Ok(())
    }

    async fn hand_out_batch(&mut self) -> Result<(), Failure> {
        self.batch_bytes = 0;
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        self.push(Work::Batch(batch)).await
    }

    async fn hand_out_large(&mut self, task: FileTask) -> Result<(), Failure> {
        let opened = self.source().open_file(self.fileset, &task.path, &task.stat).await;
        let handle = match opened {
            Ok(handle) => handle,
            Err(error) => return self.tell(Recorded::Unread { task, error }).await,
        };
        if self.job.is_stream {
            return self.push(Work::Stream(Arc::new(LargeFile { task, handle, extents: None }))).await;
        }
        let extents = extents_of(task.stat.size);
        let file = Arc::new(LargeFile { task, handle, extents: Some(extents) });
        for number in 0..extents {
            self.push(Work::Extent { file: file.clone(), number }).await?;
        }
        Ok(())
    }

    async fn push(&mut self, work: Work) -> Result<(), Failure> {
        Ok(self.work.push(work).await?)
    }

    /// Waits until every entry handed out is in the manifest or given up.
    async fn settle(&mut self) -> Result<(), Failure> {
        while self.outstanding > 0 {
            let Some(note) = self.notes.receive().await else {
                return Err(Closed { mailbox: "scanner" }.into());
            };
            self.take_note(note).await?;
            if self.notes.depth().messages == 0 {
                self.hand_out_batch().await?;
            }
        }
        Ok(())
    }

    async fn take_notes(&mut self) -> Result<(), Failure> {
        while let Some(note) = self.notes.try_receive() {
            self.take_note(note).await?;
        }
        Ok(())
    }

    async fn take_note(&mut self, note: ScannerNote) -> Result<(), Failure> {
        match note {
            ScannerNote::Settled(entries) => {
                assert!(entries <= self.outstanding, "more entries settled than were handed out");
                self.outstanding -= entries;
                Ok(())
            }
            ScannerNote::Again(mut task) => match self.source().stat(self.fileset, &task.path).await {
                Ok(stat) => {
                    task.stat = stat;
                    self.hand_out(*task).await
                }
                Err(error) => self.tell(Recorded::Unread { task: *task, error }).await,
            },
        }
    }

    async fn record(&mut self, sequence: u64, entry: Entry) -> Result<(), Failure> {
        if self.job.options.dry_run {
            return Ok(());
        }
        self.entries.push((sequence, entry));
        if self.entries.len() == ENTRIES_PER_MESSAGE { self.send_entries().await } else { Ok(()) }
    }

    async fn send_entries(&mut self) -> Result<(), Failure> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let entries = std::mem::take(&mut self.entries);
        self.tell(Recorded::Entries(entries)).await
    }

    async fn missing(&mut self, problem: Problem) -> Result<(), Failure> {
        let sequence = self.sequence();
        self.tell(Recorded::Missing(sequence, problem)).await
    }

    async fn tell(&mut self, message: Recorded) -> Result<(), Failure> {
        Ok(self.recorder.send(message).await?)
    }

    fn sequence(&mut self) -> u64 {
        self.next_sequence += 1;
        self.next_sequence - 1
    }

    fn source(&self) -> &Arc<dyn Source> {
        &self.job.source
    }
}

enum Reuse {
    Take(Box<Entry>),
    Audit(Content),
    Read,
}

impl Level {
    fn new(path: Vec<u8>, listing: Listing) -> Self {
        let Listing { entries: children, more, .. } = listing;
        Self { path, children, next: 0, ahead: VecDeque::new(), ahead_next: 0, more }
    }

    /// Replaces children that have all been visited by the next part of the listing.
    fn go_on(&mut self, listing: Listing) {
        debug_assert!(self.ahead.is_empty());
        *self = Self::new(std::mem::take(&mut self.path), listing);
    }

    /// Requests the listings of the next child directories.
    fn top_up(&mut self, source: &dyn Source, fileset: usize) {
        while self.ahead.len() < LISTINGS_AHEAD && self.ahead_next < self.children.len() {
            let child = &self.children[self.ahead_next];
            if child.stat.kind == FileKind::Directory {
                self.ahead.push_back(source.list(fileset, &join(&self.path, &child.name)));
            }
            self.ahead_next += 1;
        }
    }

    /// The listing of the directory that is visited now: the oldest request.
    fn listing_of(&mut self, source: &dyn Source, fileset: usize, path: &[u8]) -> SourceFuture<Listing> {
        self.ahead.pop_front().unwrap_or_else(|| source.list(fileset, path))
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    if !directory.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// The part of a stat that the parent recovery point is asked with.
pub fn identity(stat: &Stat) -> Identity {
    Identity { size: stat.size, mtime: stat.mtime, ctime: stat.ctime, inode: stat.inode, mode: stat.mode }
}

/// What the manifest keeps of a stat. `size` is that of the content that was read.
pub fn metadata(stat: &Stat, size: u64, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Metadata {
    Metadata {
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        mtime: stat.mtime,
        ctime: stat.ctime,
        inode: stat.inode,
        links: stat.links,
        size,
        xattrs,
    }
}

/// The manifest's kind of an entry; none for a symbolic link without its target.
pub fn entry_kind(stat: &Stat, link_target: Option<Vec<u8>>) -> Option<Kind> {
    let (major, minor) = stat.rdev;
    Some(match stat.kind {
        FileKind::File => Kind::File,
        FileKind::Directory => Kind::Directory,
        FileKind::Symlink => Kind::Symlink { target: link_target? },
        FileKind::Fifo => Kind::Fifo,
        FileKind::CharDevice => Kind::CharDevice { major, minor },
        FileKind::BlockDevice => Kind::BlockDevice { major, minor },
        FileKind::Socket => return None,
    })
}

fn directory_entry(path: Vec<u8>, stat: &Stat, xattrs: Vec<(Vec<u8>, Vec<u8>)>, error: bool) -> Entry {
    let meta = metadata(stat, 0, xattrs);
    Entry { path, kind: Kind::Directory, meta, content: Content::Inline(vec![]), grade: Grade::Stable, error }
}
