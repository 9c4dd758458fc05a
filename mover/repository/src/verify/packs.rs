//! Checks packs: each table against the index, then, if asked, each frame and chunk.
//!
//! Threads take packs from one list; each reads ahead in its own.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::backend::ObjectMeta;
use crate::blocking::{block_on, side_by_side};
use crate::error::{RepositoryError, Result};
use crate::ids::LogNumber;
use crate::limits::PACK_FRAMES_MAX;
use crate::pack::{
    Begun, FrameInfo, FrameRuns, PackContents, PackOpener, parse_pack_name, read_contents_and_on, read_contents_of,
};
use crate::verify::plan::{Plan, Reading};
use crate::verify::proof::Proofs;
use crate::verify::span::ListedPack;
use crate::verify::{Data, Phase, Verifier};

impl Verifier<'_> {
    /// Checks the listed packs, and that every pack which the index names is among them.
    pub(super) fn check_packs(&self, listed: Vec<ObjectMeta>) {
        for pack in self.index.packs() {
            // A prune that ended between its deletes and their record is no damage.
            if !self.present.contains_key(&pack.id) && !self.condemned.contains(&pack.id) {
                self.error(&pack.object_name(), "the pack is missing, but the index names it");
                self.hurt_pack(pack.id);
            }
        }
        let max_age = if let Data::Due { max_age, .. } = self.options.data { max_age } else { Duration::ZERO };
        let mut proofs = Proofs::of(&self.history, self.options.now, max_age);
        let plan = Plan::new(self.options.data, self.parse_names(listed), &proofs);
        self.check_planned(&plan);
        if self.options.data != Data::None {
            self.sum_up(&plan, &mut proofs);
        }
    }

    fn parse_names(&self, listed: Vec<ObjectMeta>) -> Vec<ListedPack> {
        let mut packs = Vec::with_capacity(listed.len());
        for object in listed {
            match parse_pack_name(&object.name) {
                Some((writer, id)) => packs.push(ListedPack { name: object.name, bytes: object.bytes, id, writer }),
                None => self.error(&object.name, "its name is not that of a pack"),
            }
        }
        packs
    }

    fn check_planned(&self, plan: &Plan) {
        let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
        let total = plan.packs.len() as u64;
        let phase = if self.options.data == Data::None { Phase::Contents } else { Phase::Data };
        self.report_progress(phase, 0, total);
        let work = || {
            while !self.is_stopped()
                && let Some((at, pack, with_data)) = plan.get(next.fetch_add(1, Ordering::Relaxed))
            {
                plan.set(at, self.check_pack(pack, with_data));
                self.report_progress(phase, done.fetch_add(1, Ordering::Relaxed) + 1, total);
            }
        };
        side_by_side(self.options.threads, work);
    }

    /// What this run proved, for the log, and what is proven with it.
    fn sum_up(&self, plan: &Plan, proofs: &mut Proofs) {
        let this = LogNumber(self.history.highest().0 + 1);
        let seen = self.history.seen(this);
        let verification = plan.verification(self.options.now, |writer| seen.covers(writer));
        let is_due_asked = matches!(self.options.data, Data::Due { .. });
        let status = is_due_asked.then(|| {
            proofs.add(this, seen.clone(), &verification);
            proofs.status(&plan.packs, |writer| seen.covers(writer))
        });
        let mut found = self.found.lock();
        found.report.proof = status;
        found.report.verification = Some(verification);
    }

    fn check_pack(&self, pack: &ListedPack, with_data: bool) -> Reading {
        let (repository, name) = (self.repository, &pack.name);
        let read = match with_data {
            true => block_on(read_contents_and_on(repository, name, pack.bytes)),
            false => block_on(read_contents_of(repository, name, pack.bytes)).map(|contents| (contents, None)),
        };
        let (contents, begun) = match read {
            Ok(read) => read,
            Err(error) => {
                self.error(&pack.name, error.reason());
                return Reading::Hurt;
            }
        };
        self.found.lock().report.packs += 1;
        self.check_index(&contents);
        if !with_data {
            return Reading::None;
        }
        let reading = self.check_data(&contents, &pack.name, begun);
        let mut found = self.found.lock();
        found.report.packs_read += 1;
        found.report.bytes_read += contents.bytes;
        reading
    }

    /// Every chunk of the pack is in the index, at the place where the table has it.
    fn check_index(&self, contents: &PackContents) {
        let indexed = self.index.find_pack(&contents.id).filter(|_| !self.without_segment.contains(&contents.id));
        let Some(pack) = indexed else {
            let is_absent =
                self.condemned.contains(&contents.id) || self.known_hurt.contains(&contents.id, PACK_FRAMES_MAX);
            if self.is_committed(contents.writer) && !is_absent {
                self.error(&contents.info().object_name(), "no index segment names the pack; run `mover repair index`");
            } else {
                self.found.lock().report.packs_unindexed += 1;
            }
            return;
        };
        for frame in &contents.frames {
            if self.known_hurt.contains(&contents.id, frame.number) {
                continue;
            }
            let mut offset = 0;
            for (id, bytes) in &frame.chunks {
                let is_there = block_on(self.index.locations(id)).is_ok_and(|found| {
                    found.iter().any(|location| {
                        location.pack == pack
                            && location.frame == frame.number
                            && u64::from(location.frame_offset) == frame.offset
                            && location.frame_bytes == frame.sealed_bytes
                            && location.chunk_offset == offset
                            && location.chunk_bytes == *bytes
                    })
                });
                if !is_there {
                    let name = contents.info().object_name();
                    self.error(&name, format!("the index lacks chunk {id} of frame {}", frame.number));
                }
                offset += bytes;
            }
        }
    }

    fn check_data(&self, contents: &PackContents, name: &str, begun: Option<Begun>) -> Reading {
        let opener = match PackOpener::new(self.repository.secrets(), &contents.info()) {
            Ok(opener) => Some(opener),
            Err(RepositoryError::NoReadKey { .. }) => None,
            Err(error) => {
                self.error(name, error.reason());
                contents.frames.iter().for_each(|frame| self.hurt_frame(contents.id, frame.number));
                return Reading::Hurt;
            }
        };
        let frames: Vec<&FrameInfo> = contents.frames.iter().collect();
        let (mut marked, mut hurt) = (0, 0);
        for run in FrameRuns::new(self.repository.backend().as_ref(), name, &frames).going_on(begun) {
            if self.is_stopped() {
                return if hurt == 0 { Reading::None } else { Reading::Hurt };
            }
            for frame in run.frames {
                if self.known_hurt.contains(&contents.id, frame.number) {
                    self.found.lock().report.frames_marked += 1;
                    marked += 1;
                    continue;
                }
                let checked = run.sealed(frame).and_then(|sealed| self.check_frame(opener.as_ref(), frame, sealed));
                if let Err(error) = checked {
                    self.error(&format!("{name} frame {}", frame.number), error.reason());
                    self.hurt_frame(contents.id, frame.number);
                    hurt += 1;
                }
            }
            self.bytes.fetch_add(run.span_bytes(), Ordering::Relaxed);
        }
        match (hurt, marked, opener) {
            (0, 0, Some(_)) => Reading::Proven,
            (0, 0, None) => Reading::None,
            (0, ..) => Reading::Marked,
            _ => Reading::Hurt,
        }
    }

    fn check_frame(&self, opener: Option<&PackOpener>, frame: &FrameInfo, sealed: Bytes) -> Result<()> {
        let Some(opener) = opener else {
            if *blake3::hash(&sealed).as_bytes() != frame.blake3 {
                return Err(RepositoryError::corrupt("frame", "its bytes are not those that were stored"));
            }
            self.found.lock().report.frames_unopened += 1;
            return Ok(());
        };
        // The seal and the chunks' ids say all that the hash of the sealed bytes could, and more.
        let plain = opener.open_frame_bytes(frame.number, sealed)?;
        let mut at = 0usize;
        for (id, bytes) in &frame.chunks {
            let chunk = plain.get(at..at.saturating_add(*bytes as usize));
            let Some(chunk) = chunk else {
                return Err(RepositoryError::corrupt("frame", "it is shorter than its chunks"));
            };
            if self.repository.secrets().chunk_id(chunk) != *id {
                return Err(RepositoryError::corrupt("frame", format!("chunk {id} has other bytes")));
            }
            at += chunk.len();
        }
        match at == plain.len() {
            true => Ok(()),
            false => Err(RepositoryError::corrupt("frame", "it is longer than its chunks")),
        }
    }
}

/// Whether a pack is in the share that is read this time.
pub(super) fn is_sampled(data: Data, salt: &[u8; 32], name: &str) -> bool {
    match data {
        Data::None => false,
        // Which of all are due was chosen from them together.
        Data::All | Data::Due { .. } => true,
        Data::Percent(percent) => {
            let hash = blake3::keyed_hash(salt, name.as_bytes());
            let draw = u32::from_le_bytes(hash.as_bytes()[..4].try_into().expect("four bytes"));
            u64::from(draw) * 100 < u64::from(percent.min(100)) << 32
        }
    }
}
