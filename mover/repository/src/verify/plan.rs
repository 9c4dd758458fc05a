//! Which packs a verification reads, in which order, and what it leaves for the next one.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU8, Ordering};

use super::Data;
use super::packs::is_sampled;
use super::proof::Proofs;
use super::span::{ListedPack, spans_of};
use crate::crypto::random_array;
use crate::ids::{LogNumber, PackId, UnixNanos};
use crate::limits::VERIFIED_HURT_MAX;
use crate::log::Verification;

/// What came of reading the data of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Reading {
    /// It was not read, or not to its end.
    None,
    /// All of it is as it was written.
    Proven,
    /// Damage is marked in it, and the rest is whole: so it stays until nothing needs it any more.
    Marked,
    /// Something in it is not as it was written.
    Hurt,
}

/// Packs in the order of ids around their circle, from where the last verification stopped.
pub(super) struct Plan {
    pub packs: Vec<ListedPack>,
    /// Whether the data of each is to be read.
    is_read: Vec<bool>,
    /// The order in which they are checked: what was found hurt comes first.
    order: Vec<usize>,
    /// Where the next verification begins, if this one comes to its end.
    next: PackId,
    readings: Vec<AtomicU8>,
}

impl Plan {
    pub(super) fn new(data: Data, mut packs: Vec<ListedPack>, proofs: &Proofs) -> Self {
        packs.sort_by_key(|pack| (pack.id, pack.writer));
        let start = proofs.next.unwrap_or(PackId([0; 32]));
        let before_start = packs.partition_point(|pack| pack.id < start);
        packs.rotate_left(before_start);
        let hurt = proofs.standing_hurt(&packs);
        let mut order: Vec<usize> = (0..packs.len()).collect();
        order.sort_by_key(|at| !hurt.contains(&packs[*at].id));
        let salt = random_array();
        let (is_read, next) = match data {
            Data::Due { budget_bytes, .. } => choose_due(&packs, &order, proofs, &hurt, budget_bytes, start),
            _ => (packs.iter().map(|pack| is_sampled(data, &salt, &pack.name)).collect(), start),
        };
        let readings = packs.iter().map(|_| AtomicU8::new(Reading::None as u8)).collect();
        Self { packs, is_read, order, next, readings }
    }

    /// The pack to be checked at a place in the order, and whether its data is to be read.
    pub(super) fn get(&self, place: usize) -> Option<(usize, &ListedPack, bool)> {
        let at = *self.order.get(place)?;
        Some((at, &self.packs[at], self.is_read[at]))
    }

    pub(super) fn set(&self, at: usize, reading: Reading) {
        self.readings[at].store(reading as u8, Ordering::Relaxed);
    }

    fn is(&self, at: usize, reading: Reading) -> bool {
        self.readings[at].load(Ordering::Relaxed) == reading as u8
    }

    /// What is to be remembered. Packs of undecided writers are in no span.
    pub(super) fn verification(&self, began: UnixNanos, is_decided: impl Fn(LogNumber) -> bool) -> Verification {
        let packs = self.packs.iter().enumerate();
        let proven = spans_of(
            packs
                .clone()
                .filter(|(_, pack)| is_decided(pack.writer))
                .map(|(at, pack)| (pack, self.is(at, Reading::Proven))),
        );
        let hurt = packs.clone().filter(|(at, _)| self.is(*at, Reading::Hurt));
        let hurt = hurt.map(|(_, pack)| pack.id).take(VERIFIED_HURT_MAX).collect();
        let first_unread = packs.clone().find(|(at, _)| self.is_read[*at] && self.is(*at, Reading::None));
        Verification { began, next: first_unread.map_or(self.next, |(_, pack)| pack.id), proven, hurt }
    }
}

/// Takes what is due, in order, until the budget is used up; a pack larger than all of it is passed over. Gives what
/// was taken, and where the first one is that did not fit.
fn choose_due(
    packs: &[ListedPack],
    order: &[usize],
    proofs: &Proofs,
    hurt: &HashSet<PackId>,
    budget_bytes: u64,
    start: PackId,
) -> (Vec<bool>, PackId) {
    let due = proofs.due(packs, hurt);
    let mut is_read = vec![false; packs.len()];
    let mut left_bytes = budget_bytes;
    for at in order.iter().copied().filter(|at| due[*at] && packs[*at].bytes <= budget_bytes) {
        match left_bytes.checked_sub(packs[at].bytes) {
            Some(rest) => left_bytes = rest,
            None => return (is_read, if hurt.contains(&packs[at].id) { start } else { packs[at].id }),
        }
        is_read[at] = true;
    }
    (is_read, start)
}
