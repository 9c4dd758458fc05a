//! What earlier verifications proved, and what is due to be proven again.
//!
//! Clocks only ever make more packs due: a proof from the future counts for nothing, and a proof is no younger than
//! one that came later. Memory: the outcomes of the verifications, and 32 bytes a pack while ages are looked up.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::span::ListedPack;
use crate::ids::{LogNumber, PackId, UnixNanos};
use crate::log::{History, Outcome, ProvenSpan, Seen, Verification};

/// What is proven of a repository, and how much is due.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProofStatus {
    /// Packs of the repository, and their bytes.
    pub packs: u64,
    /// See [`ProofStatus::packs`].
    pub bytes: u64,
    /// Bytes of those that were proven within the age asked for.
    pub proven_bytes: u64,
    /// Packs that are due, and their bytes.
    pub due_packs: u64,
    /// See [`ProofStatus::due_packs`].
    pub due_bytes: u64,
    /// Packs without any proof that counts.
    pub never_packs: u64,
    /// Packs that are due whatever was read, because the run that wrote them has no outcome; so nobody can say that
    /// there are no more of it.
    pub undecided_packs: u64,
    /// When the pack was proven whose last proof is the oldest; none if no pack has a proof.
    pub oldest: Option<UnixNanos>,
}

/// One verification that counts.
struct Proof {
    /// When it began; none if its clock was wrong.
    at: Option<UnixNanos>,
    seen: Seen,
    spans: Vec<ProvenSpan>,
}

impl Proof {
    fn contains(&self, pack: &ListedPack) -> bool {
        self.seen.covers(pack.writer) && self.spans.iter().any(|span| span.contains(&pack.id, pack.writer))
    }
}

/// A span that does not reach over the end of all ids, for a walk through packs in the order of ids.
struct Stretch<'a> {
    from: PackId,
    until: PackId,
    at: UnixNanos,
    span: &'a ProvenSpan,
    seen: &'a Seen,
}

impl Stretch<'_> {
    fn contains(&self, pack: &ListedPack) -> bool {
        pack.id <= self.until && self.span.contains(&pack.id, pack.writer) && self.seen.covers(pack.writer)
    }
}

/// All that earlier verifications left.
pub(super) struct Proofs {
    proofs: Vec<Proof>,
    hurt: Vec<(PackId, LogNumber)>,
    now: UnixNanos,
    max_age: Duration,
    /// Where the last verification stopped.
    pub next: Option<PackId>,
}

impl Proofs {
    /// What counts at a moment, if a proof is worth nothing after `max_age`.
    pub(super) fn of(history: &History, now: UnixNanos, max_age: Duration) -> Self {
        let mut proofs = Self { proofs: Vec::new(), hurt: Vec::new(), now, max_age, next: None };
        for entry in history.entries() {
            let (Some(Outcome::Verified(verification)), Some(done)) = (entry.outcome(), &entry.done) else { continue };
            proofs.add(entry.number, done.seen.clone(), verification);
        }
        proofs.correct_clocks();
        proofs
    }

    pub(super) fn add(&mut self, number: LogNumber, seen: Seen, verification: &Verification) {
        let at = Some(verification.began).filter(|began| *began <= self.now);
        self.proofs.push(Proof { at, seen, spans: verification.proven.clone() });
        self.hurt.extend(verification.hurt.iter().map(|pack| (*pack, number)));
        self.next = Some(verification.next);
    }

    /// A clock that was ahead dated a proof into a future that has come since; a later verification, as the log
    /// counts, tells that it is older. If it was the later clock that was behind, that costs reading.
    fn correct_clocks(&mut self) {
        let mut earliest = self.now;
        for proof in self.proofs.iter_mut().rev() {
            if let Some(at) = &mut proof.at {
                *at = (*at).min(earliest);
                earliest = *at;
            }
        }
    }

    /// When each pack was proven last. The packs come in the order of ids, from wherever around their circle.
    fn newest(&self, packs: &[ListedPack]) -> Vec<Option<UnixNanos>> {
        let mut stretches = Vec::new();
        for proof in &self.proofs {
            let Some(at) = proof.at else { continue };
            for span in &proof.spans {
                let stretch = |from, until| Stretch { from, until, at, span, seen: &proof.seen };
                if span.from <= span.until {
                    stretches.push(stretch(span.from, span.until));
                } else {
                    stretches.push(stretch(span.from, PackId([0xff; 32])));
                    stretches.push(stretch(PackId([0; 32]), span.until));
                }
            }
        }
        stretches.sort_by_key(|stretch| stretch.from);
        let mut newest = Vec::with_capacity(packs.len());
        for rising in packs.chunk_by(|a, b| a.id <= b.id) {
            find_newest(&stretches, rising, &mut newest);
        }
        newest
    }

    /// Packs that were found hurt, and not proven by who had seen that.
    pub(super) fn standing_hurt(&self, packs: &[ListedPack]) -> HashSet<PackId> {
        let mut named: HashMap<PackId, Vec<LogNumber>> = HashMap::new();
        for (pack, number) in &self.hurt {
            named.entry(*pack).or_default().push(*number);
        }
        let mut standing = HashSet::new();
        for pack in packs {
            let Some(numbers) = named.get(&pack.id) else { continue };
            let proofs: Vec<&Proof> = self.proofs.iter().filter(|proof| proof.contains(pack)).collect();
            if numbers.iter().any(|number| !proofs.iter().any(|proof| proof.seen.covers(*number))) {
                standing.insert(pack.id);
            }
        }
        standing
    }

    /// Whether each pack is due.
    pub(super) fn due(&self, packs: &[ListedPack], hurt: &HashSet<PackId>) -> Vec<bool> {
        let newest = self.newest(packs);
        packs.iter().zip(newest).map(|(pack, at)| !self.is_fresh(at) || hurt.contains(&pack.id)).collect()
    }

    fn is_fresh(&self, at: Option<UnixNanos>) -> bool {
        at.is_some_and(|at| self.now.0.saturating_sub(at.0) < nanos(self.max_age))
    }

    /// Sums up.
    pub(super) fn status(&self, packs: &[ListedPack], is_decided: impl Fn(LogNumber) -> bool) -> ProofStatus {
        let mut status = ProofStatus::default();
        let hurt = self.standing_hurt(packs);
        for (pack, at) in packs.iter().zip(self.newest(packs)) {
            status.packs += 1;
            status.bytes += pack.bytes;
            if self.is_fresh(at) && !hurt.contains(&pack.id) {
                status.proven_bytes += pack.bytes;
            } else {
                status.due_packs += 1;
                status.due_bytes += pack.bytes;
            }
            status.never_packs += u64::from(at.is_none());
            status.undecided_packs += u64::from(!is_decided(pack.writer));
            if let Some(at) = at {
                status.oldest = Some(status.oldest.map_or(at, |oldest| oldest.min(at)));
            }
        }
        status
    }
}

/// Goes through packs of rising ids and stretches that begin in the same order.
fn find_newest(stretches: &[Stretch<'_>], packs: &[ListedPack], newest: &mut Vec<Option<UnixNanos>>) {
    let mut waiting = stretches.iter().peekable();
    // The newest first: mostly that is the one asked for.
    let mut open: Vec<&Stretch<'_>> = Vec::new();
    for pack in packs {
        let mut has_begun = false;
        while let Some(stretch) = waiting.next_if(|stretch| stretch.from <= pack.id) {
            let at = open.partition_point(|other| other.at >= stretch.at);
            open.insert(at, stretch);
            has_begun = true;
        }
        if has_begun {
            open.retain(|stretch| pack.id <= stretch.until);
        }
        newest.push(open.iter().find(|stretch| stretch.contains(pack)).map(|stretch| stretch.at));
    }
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}
