//! Uploader: writes packs.
//!
//! Each open pack has a task of its own that gathers frames into writes of about a mebibyte and
//! hands them to the backend; when the pack ends, the same task waits until its bytes are durable
//! and tells the ledger. So the next pack fills while earlier ones are being synced.
//!
//! Lives on one shard. Bounded by each pack's mailbox, by [`PACKS_IN_FLIGHT_MAX`], and in the bytes that wait for a
//! sync by the ledger. Must never
//! tell the ledger of a pack whose `finish` has not been acknowledged.

use std::sync::Arc;

use bytes::Bytes;
use mover_repository::pack::{PackClass, PackContents};

use crate::backup::ledger::Ledger;
use crate::backup::messages::PackPart;
use crate::backup::shared::JobShared;
use crate::error::Failure;
use crate::runtime::mutant::{Mutant, mutant};
use crate::runtime::{
    Actor, ActorStats, Address, Budget, Inbox, Permit, Runtime, TaskHandle, Weigh, mailbox, spawn_supervised,
};

/// Bytes that one write hands to the backend, once so many wait.
const WRITE_BYTES: usize = 1 << 20;
/// Frames and bytes that may wait for one pack; the bytes hold budget permits as well.
const PACK_MAILBOX_MESSAGES: usize = 256;
const PACK_MAILBOX_BYTES: usize = 4 << 20;
/// Packs a shard that are written or synced at the same time, the two open ones among them.
const PACKS_IN_FLIGHT_MAX: usize = 6;

/// See the module.
pub struct Uploader<R: Runtime> {
    rt: R,
    job: Arc<JobShared>,
    ledger: Arc<Ledger>,
    slots: Budget,
    open: [Option<Address<PackInput>>; 2],
    tasks: Vec<TaskHandle>,
}

/// What the task of one pack is sent.
enum PackInput {
    Bytes(Bytes, Option<Permit>),
    End(Bytes, PackContents, Permit),
}

impl Weigh for PackInput {
    fn weight_bytes(&self) -> usize {
        match self {
            PackInput::Bytes(bytes, _) | PackInput::End(bytes, ..) => bytes.len(),
        }
    }
}

impl<R: Runtime> Uploader<R> {
    /// An uploader that reports durable packs to `ledger`.
    pub fn new(rt: &R, job: Arc<JobShared>, ledger: Arc<Ledger>) -> Self {
        let slots = Budget::new(PACKS_IN_FLIGHT_MAX);
        Self { rt: rt.clone(), job, ledger, slots, open: [None, None], tasks: vec![] }
    }

    async fn begin(&mut self, class: PackClass, name: String, header: Bytes) -> Result<(), Failure> {
        let slot = self.slots.acquire(1).await;
        let (address, inbox) = mailbox("pack", PACK_MAILBOX_MESSAGES, PACK_MAILBOX_BYTES);
        let pack = PackTask { job: self.job.clone(), ledger: self.ledger.clone(), name, inbox, _slot: slot };
        self.tasks.retain(|task| !task.is_finished());
        let stats = ActorStats::new("pack", self.rt.shard());
        self.tasks.push(spawn_supervised(&self.rt, "pack", &self.job.kill, &stats, pack.run()));
        assert!(self.open[class as usize].is_none(), "a pack begins before the one before it ended");
        self.send(&address, PackInput::Bytes(header, None)).await?;
        self.open[class as usize] = Some(address);
        Ok(())
    }

    fn address(&self, class: PackClass) -> &Address<PackInput> {
        self.open[class as usize].as_ref().expect("a frame follows the beginning of its pack")
    }

    async fn send(&self, address: &Address<PackInput>, input: PackInput) -> Result<(), Failure> {
        Ok(address.send(input).await?)
    }
}

impl<R: Runtime> Actor for Uploader<R> {
    type Message = PackPart;
    const NAME: &'static str = "uploader";

    async fn handle(&mut self, part: PackPart) -> Result<(), Failure> {
        match part {
            PackPart::Open { class, name, header } => self.begin(class, name, header).await,
            PackPart::Frame { class, bytes, permit } => {
                self.send(self.address(class), PackInput::Bytes(bytes, Some(permit))).await
            }
            PackPart::Close { class, tail, contents } => {
                let room = self.ledger.unsynced(contents.bytes).await;
                self.send(self.address(class), PackInput::End(tail, contents, room)).await?;
                self.open[class as usize] = None;
                Ok(())
            }
        }
    }

    /// The compressor is done: every pack has its end; wait until each is durable.
    async fn finish(&mut self) -> Result<(), Failure> {
        assert!(self.open.iter().all(Option::is_none), "the compressor ended with a pack open");
        if mutant(Mutant::PublishBeforeAck) {
            std::mem::take(&mut self.tasks).into_iter().for_each(std::mem::forget);
        }
        for task in self.tasks.drain(..) {
            task.await;
        }
        Ok(())
    }
}

/// Writes one pack.
struct PackTask {
    job: Arc<JobShared>,
    ledger: Arc<Ledger>,
    name: String,
    inbox: Inbox<PackInput>,
    _slot: Permit,
}

impl PackTask {
    async fn run(mut self) -> Result<(), Failure> {
        let mut writer = self.job.repository.backend().stream(&self.name);
        let mut end = None;
        while end.is_none() {
            let Some((parts, permits)) = self.gather(&mut end).await else {
                // The job is being stopped: the unfinished pack is dropped, its temporary with it.
                return Ok(());
            };
            writer.append(parts).await?;
            drop(permits);
        }
        writer.finish().await?;
        let (contents, room) = end.expect("the loop ends with the contents");
        drop(room);
        self.ledger.written(contents).await
    }

    /// The next parts to write: at least one, up to [`WRITE_BYTES`] if they are there already.
    async fn gather(&mut self, end: &mut Option<(PackContents, Permit)>) -> Option<(Vec<Bytes>, Vec<Permit>)> {
        let mut input = self.inbox.receive().await?;
        let (mut parts, mut permits, mut bytes) = (vec![], vec![], 0);
        loop {
            match input {
                PackInput::Bytes(part, permit) => {
                    bytes += part.len();
                    parts.push(part);
                    permits.extend(permit);
                }
                PackInput::End(tail, contents, room) => {
                    parts.push(tail);
                    *end = Some((contents, room));
                    return Some((parts, permits));
                }
            }
            if bytes >= WRITE_BYTES {
                return Some((parts, permits));
            }
            match self.inbox.try_receive() {
                Some(next) => input = next,
                None => return Some((parts, permits)),
            }
        }
    }
}
