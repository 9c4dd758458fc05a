//! The planner: turns a fileset of a recovery point into reads, a window at a time.
//!
//! Streams the manifest in path order, makes directories, starts entries without content, and fills a window with the
//! chunks of many files; the window becomes a few large reads, pushed where any shard takes them. Two windows may be
//! under way, three from a far store, so the pipe does not drain between them; a file may be longer than a window.
//! Directories get their attributes, and files their further names, when every file of the fileset is in place.
//!
//! Lives on shard 0. Limits: the plan's memory ([`PlanLimits`]), [`IN_PIECES_MAX`] open files a window. Must never give
//! a file to the writers before it is open, nor start fileset *n+1* before fileset *n* is complete.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_lite::future::poll_once;
use mover_repository::chunk_reader::ChunkReader;
use mover_repository::index::Index;
use mover_repository::io::Pool;
use mover_repository::log::RecoveryPoint;
use mover_repository::manifest::Kind;

use crate::error::Failure;
use crate::restore::closing::{Closing, ClosingList, MEMORY_BYTES_MAX};
use crate::restore::fileset_run::{Carry, FilesetRun, Planned};
use crate::restore::items::{Item, looks_restored, node_kind, target_meta};
use crate::restore::messages::{ReadSpan, RestoreFileset};
use crate::restore::planned_file::{Lost, Pending, PlannedFile};
use crate::restore::report::add;
use crate::restore::selection::{Scope, parent_of, target_root};
use crate::restore::site::{Site, target_failure};
use crate::restore::target::{AttributeProblem, Overwrite, TargetError};
use crate::restore::window::{Window, into_spans};
use crate::runtime::{Actor, Budget, Injector, LocalBoxFuture, Pace, Permit, Runtime, StopSignal};
use crate::scratch::Scratch;

/// Files of one window that may be written in pieces, each open until it is complete.
pub const IN_PIECES_MAX: usize = 200;
/// Plain bytes of one window of a restore from a far store; its plan has its own bound.
const WINDOW_CONTENT_BYTES_FAR: u64 = 4 << 30;
/// Files without content in one call of the target.
const EMPTY_FILES_MAX: usize = 256;
/// Calls of the target in flight for entries without content.
const CALLS_MAX: usize = 32;
/// CPU work of one entry in the currency of [`Pace`].
const ENTRY_PACE_BYTES: usize = 4 << 10;

/// How large a window may become.
#[derive(Debug, Clone, Copy)]
pub struct PlanLimits {
    /// Memory of the plan of one window.
    pub plan_bytes: usize,
    /// Plain bytes of one window.
    pub content_bytes: u64,
    /// Memory of one read and what it turns into.
    pub range_cost_bytes: usize,
}

impl PlanLimits {
    /// Those of window `number` of a near store. The first windows are small, so that the first bytes flow while the
    /// next window is planned.
    fn of_near(self, number: u32) -> PlanLimits {
        let divisor = 16 >> number.min(4);
        let content_bytes = (self.content_bytes / divisor).max(1);
        PlanLimits { plan_bytes: self.plan_bytes / divisor as usize, content_bytes, ..self }
    }

    /// Those of each window of a far store: small windows that each want a part of a pack cost a request each. Three
    /// are under way: two that share a link end at nearly the same time, and it would rest for a round trip until the
    /// next one's requests are answered.
    fn of_far(self) -> PlanLimits {
        PlanLimits { plan_bytes: self.plan_bytes * 2 / 3, content_bytes: WINDOW_CONTENT_BYTES_FAR, ..self }
    }

    /// Memory of the plans under way.
    fn under_way(self) -> Budget {
        Budget::new(2 * self.plan_bytes)
    }
}

/// What a planner works with.
pub struct PlannerParts {
    /// What is restored.
    pub point: RecoveryPoint,
    /// What of each fileset.
    pub scopes: Vec<Scope>,
    /// Which existing entries stay.
    pub overwrite: Overwrite,
    /// Reads manifests.
    pub chunks: Arc<ChunkReader>,
    /// Knows where chunks are.
    pub index: Arc<Index>,
    /// The target and the counts.
    pub site: Arc<Site>,
    /// Where reads go.
    pub spans: Injector<ReadSpan>,
    /// Ends the restore early.
    pub stop: StopSignal,
    /// Sizes.
    pub limits: PlanLimits,
    /// For what waits until the end of a fileset.
    pub scratch: Arc<dyn Scratch>,
    /// Where temporary files are written.
    pub pool: Arc<Pool>,
}

/// The first actor of a restore.
pub struct Planner<R> {
    runtime: R,
    parts: PlannerParts,
    plan_budget: Budget,
    open_files: Budget,
    pending: Pending,
    calls: VecDeque<LocalBoxFuture<()>>,
    windows: u32,
    pace: Pace,
}

impl<R: Runtime> Planner<R> {
    /// A planner on the shard of `runtime`.
    pub fn new(runtime: R, parts: PlannerParts) -> Self {
        let plan_budget = parts.limits.under_way();
        Planner {
            runtime,
            parts,
            plan_budget,
            open_files: Budget::new(2 * IN_PIECES_MAX),
            pending: Pending::default(),
            calls: VecDeque::new(),
            windows: 0,
            pace: Pace::new(),
        }
    }

    /// Starts a call that nobody waits for before the window ends.
    async fn start(&mut self, call: impl Future<Output = ()> + 'static) {
        let mut call: LocalBoxFuture<()> = Box::pin(call);
        if poll_once(&mut call).await.is_some() {
            return;
        }
        self.calls.push_back(call);
        if self.calls.len() > CALLS_MAX
            && let Some(oldest) = self.calls.pop_front()
        {
            oldest.await;
        }
    }

    async fn finish_calls(&mut self) {
        while let Some(call) = self.calls.pop_front() {
            call.await;
        }
    }

    /// Plans one window and sends it off. False at the end of the fileset.
    async fn window(&mut self, run: &mut FilesetRun) -> Result<bool, Failure> {
        let limits = match self.parts.site.backend.link() {
            Some(_) => self.parts.limits.of_far(),
            None => self.parts.limits.of_near(self.windows),
        };
        self.windows += 1;
        let permit = Arc::new(self.plan_budget.acquire(limits.plan_bytes).await);
        let mut window = Window::default();
        let mut carried: Vec<Arc<PlannedFile>> = Vec::new();
        if let Some(carry) = run.carry.take() {
            window.add_file(carry.file.clone(), false);
            carried.extend(self.plan_pieces(run, &mut window, &limits, carry).await?);
        }
        let mut more = true;
        while more && run.carry.is_none() && !is_full(&window, &limits) {
            if self.parts.stop.is_requested() {
                self.parts.site.tally.stopped_early();
                run.items.clear();
                more = false;
            } else if let Some(item) = run.items.pop_front() {
                self.pace.work(&self.runtime, ENTRY_PACE_BYTES).await;
                self.plan_item(run, &mut window, &limits, &permit, item).await?;
            } else {
                more = run.read_on(&self.parts.site, self.parts.overwrite).await?;
            }
        }
        self.write_empty(run).await;
        self.send_off(window, &limits, &permit).await?;
        if self.parts.stop.is_requested()
            && let Some(carry) = run.carry.take()
        {
            carry.file.lose(Lost::Stopped);
            carried.push(carry.file);
        }
        for file in carried {
            if file.settle(1) {
                self.parts.site.complete_open(&file).await;
            }
        }
        self.finish_calls().await;
        Ok(more || run.carry.is_some())
    }

    async fn plan_item(
        &mut self,
        run: &mut FilesetRun,
        window: &mut Window,
        limits: &PlanLimits,
        permit: &Arc<Permit>,
        mut item: Item,
    ) -> Result<(), Failure> {
        let site = self.parts.site.clone();
        if item.entry.kind == Kind::Directory {
            add(&site.tally.directories, u64::from(!item.on_the_way));
            if item.entry.error && !item.on_the_way {
                site.problem(
                    &item.path,
                    "it could not be read when it was backed up: the recovery point has nothing of what lay in it",
                );
            }
            if !item.kept {
                let meta = target_meta(&mut item.entry);
                run.closing.push(Closing::Directory { path: item.path, meta }).await?;
            }
            return Ok(());
        }
        if item.kept {
            add(&site.tally.skipped, 1);
            if let Err(cause) = run.keep(&item).await {
                site.problem(&item.path, cause);
            }
            return Ok(());
        }
        if let Kind::HardLink { first } = &item.entry.kind {
            match run.first_name(first, &item.entry.path).await {
                Ok(Planned::Link(first)) => {
                    run.closing.push(Closing::Link { first, path: item.path }).await?;
                    return Ok(());
                }
                Ok(Planned::InsteadOfFirst(first)) => {
                    if self.parts.overwrite == Overwrite::IfChanged
                        && item.existing.is_some_and(|existing| looks_restored(&existing, &first))
                    {
                        add(&site.tally.skipped, 1);
                        return Ok(());
                    }
                    item.entry = first;
                }
                Err(cause) => {
                    site.problem(&item.path, cause);
                    return Ok(());
                }
            }
        }
        if item.entry.error {
            site.problem(
                &item.path,
                "it could not be read when it was backed up: the recovery point has no content of it",
            );
            lose_links(&site, &item);
            return Ok(());
        }
        match item.entry.kind {
            Kind::File => self.plan_file(run, window, limits, permit, item).await,
            _ => self.start_other(item).await,
        }
    }

    /// Makes a link or node, beside the planning.
    async fn start_other(&mut self, mut item: Item) -> Result<(), Failure> {
        let site = self.parts.site.clone();
        let meta = target_meta(&mut item.entry);
        let (counter, call) = match (&item.entry.kind, node_kind(&item.entry.kind)) {
            (Kind::Symlink { target }, _) => (true, site.target.symlink(&item.path, target, meta)),
            (_, Some(kind)) => (false, site.target.make_node(&item.path, kind, meta)),
            _ => {
                return Err(Failure::internal(
                    "plan",
                    String::from_utf8_lossy(&item.path),
                    "an entry of no known kind",
                ));
            }
        };
        self.start(async move {
            let result: Result<Vec<AttributeProblem>, TargetError> = call.await;
            match result {
                Ok(problems) => {
                    add(if counter { &site.tally.symlinks } else { &site.tally.nodes }, 1);
                    site.tally.attributes(problems);
                }
                Err(error) => {
                    site.stop_if_fatal(&error);
                    site.problem(&item.path, format!("cannot {}: {}", error.operation, error.cause));
                    lose_links(&site, &item);
                }
            }
        })
        .await;
        Ok(())
    }

    async fn plan_file(
        &mut self,
        run: &mut FilesetRun,
        window: &mut Window,
        limits: &PlanLimits,
        permit: &Arc<Permit>,
        mut item: Item,
    ) -> Result<(), Failure> {
        let (pieces, size) = match run.content_of(&item.entry).await {
            Ok(content) => content,
            Err(error) => {
                let cause = format!("the list of its chunks cannot be read: {error}");
                if let Some(gone) = self.parts.site.repository_gone(&cause).await {
                    return Err(gone);
                }
                self.parts.site.problem(&item.path, cause);
                lose_links(&self.parts.site, &item);
                return Ok(());
            }
        };
        let has_links = item.entry.meta.links > 1;
        let meta = target_meta(&mut item.entry);
        let plan = Some(permit.clone());
        let file = PlannedFile::new(item.path, meta, size, has_links, self.pending.token(), plan);
        let file = Arc::new(file);
        window.add_file(file.clone(), true);
        let carry = Carry { file, pieces, offset: 0, has_token: false };
        let ended = self.plan_pieces(run, window, limits, carry).await?;
        assert!(ended.is_none(), "a file that never left its window holds no token");
        Ok(())
    }

    /// Adds pieces of the last file of the window until the file ends or the window is full. Returns the file if it
    /// ended and came from an earlier window: its token is still to be settled.
    async fn plan_pieces(
        &mut self,
        run: &mut FilesetRun,
        window: &mut Window,
        limits: &PlanLimits,
        mut carry: Carry,
    ) -> Result<Option<Arc<PlannedFile>>, Failure> {
        loop {
            match carry.next_place(&self.parts.index).await {
                Ok(Some((chunk, location, offset))) => window.add_place(chunk, location, offset),
                Ok(None) => break,
                Err(cause) => {
                    if let Some(gone) = self.parts.site.repository_gone(&cause).await {
                        return Err(gone);
                    }
                    carry.file.lose(Lost::Cause(cause));
                    break;
                }
            }
            if window.last_pieces().is_multiple_of(256) {
                self.runtime.yield_now().await;
            }
            if is_full(window, limits) && carry.has_more() {
                window.set_last_complete(false);
                if !carry.has_token {
                    carry.file.expect(1);
                    carry.has_token = true;
                }
                run.carry = Some(carry);
                return Ok(None);
            }
        }
        let Carry { file, has_token, .. } = carry;
        if window.last_pieces() == 0 {
            window.remove_last_file();
            if !has_token && file.lost().is_some() {
                self.parts.site.conclude_lost(&file);
            } else if !has_token {
                run.empty.push(file.clone());
                if run.empty.len() >= EMPTY_FILES_MAX {
                    self.write_empty(run).await;
                }
            }
        }
        Ok(has_token.then_some(file))
    }

    /// Writes the files that have no bytes to be read: empty ones, and holes from end to end.
    async fn write_empty(&mut self, run: &mut FilesetRun) {
        if run.empty.is_empty() {
            return;
        }
        let files = std::mem::take(&mut run.empty);
        let site = self.parts.site.clone();
        self.start(async move { site.write_whole(files).await }).await;
    }

    /// Opens the files that are written in pieces, then hands the reads to the shards.
    async fn send_off(&mut self, window: Window, limits: &PlanLimits, permit: &Arc<Permit>) -> Result<(), Failure> {
        if window.is_empty() {
            return Ok(());
        }
        let index = self.parts.index.clone();
        let planned = window.plan(limits.range_cost_bytes, permit, |pack| index.pack(pack));
        let mut opening = Vec::with_capacity(planned.to_open.len());
        for file in planned.to_open {
            let slot = self.open_files.acquire(1).await;
            let mut open = self.parts.site.target.create_file(&file.path, file.size);
            let opened = poll_once(&mut open).await;
            opening.push((file, slot, open, opened));
        }
        for (file, slot, open, opened) in opening {
            let opened = match opened {
                Some(opened) => opened,
                None => open.await,
            };
            match opened {
                Ok(open) => file.opened(open, slot),
                Err(error) if error.fatal() => return Err(target_failure(&error)),
                Err(error) => file.lose(Lost::Cause(format!("cannot {}: {}", error.operation, error.cause))),
            }
        }
        let is_far = self.parts.site.backend.link().is_some();
        for span in into_spans(planned.ranges, is_far) {
            self.parts.spans.push(span).await?;
        }
        Ok(())
    }
}

fn is_full(window: &Window, limits: &PlanLimits) -> bool {
    window.plan_bytes() >= limits.plan_bytes
        || window.content_bytes() >= limits.content_bytes
        || window.in_pieces_max() >= IN_PIECES_MAX
}

fn lose_links(site: &Site, item: &Item) {
    if item.entry.meta.links > 1 {
        site.tally.lose_first(&item.path);
    }
}

impl<R: Runtime> Actor for Planner<R> {
    type Message = RestoreFileset;
    const NAME: &'static str = "planner";

    async fn handle(&mut self, fileset: RestoreFileset) -> Result<(), Failure> {
        let parts = &self.parts;
        let scope = parts.scopes[fileset.number].clone();
        if scope == Scope::Parts(Vec::new()) {
            return Ok(());
        }
        if parts.stop.is_requested() {
            parts.site.tally.stopped_early();
            return Ok(());
        }
        let sealed = &parts.point.filesets[fileset.number];
        let root = target_root(&sealed.root_path).ok_or_else(|| {
            let root_path = String::from_utf8_lossy(&sealed.root_path).into_owned();
            Failure::repository("restore fileset", root_path, "its root is not a path inside a target")
        })?;
        parts.site.target.make_parents(parent_of(&root)).await.map_err(|error| target_failure(&error))?;
        let closing = ClosingList::new(parts.scratch.clone(), parts.pool.clone(), MEMORY_BYTES_MAX);
        let mut run = FilesetRun::new(&parts.chunks, &sealed.root, scope, root, closing);
        while self.window(&mut run).await? {}
        self.pending.none().await;
        self.parts.site.tally.leave_out(fileset.number, run.left_out);
        run.closing.close(&self.parts.site, self.parts.overwrite).await
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        self.parts.spans.close();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PlanLimits = PlanLimits { plan_bytes: 8 << 20, content_bytes: 1 << 30, range_cost_bytes: 1 << 20 };

    /// With two windows a link of 300 ms rested for a round trip at the end of both: 0.89 of it was used instead of 0.91.
    #[test]
    fn three_windows_of_a_far_store_are_under_way_and_two_of_a_near_one() {
        let budget = LIMITS.under_way();
        let far: Vec<_> = std::iter::from_fn(|| budget.try_acquire(LIMITS.of_far().plan_bytes)).collect();
        assert_eq!(far.len(), 3);
        drop(far);
        let near: Vec<_> = std::iter::from_fn(|| budget.try_acquire(LIMITS.of_near(9).plan_bytes)).collect();
        assert_eq!(near.len(), 2);
    }

    #[test]
    fn windows_of_a_near_store_begin_small() {
        let content = |number| LIMITS.of_near(number).content_bytes;
        assert_eq!([content(0), content(1), content(4), content(9)], [1 << 26, 1 << 27, 1 << 30, 1 << 30]);
    }
}
