//! Puts what was proven into few spans of pack ids and writers, none of which holds a pack that was not.
//!
//! A run reads what is due: a stretch of ids that was not read for long, and all over the ids the packs of writers that
//! came since. Both are few spans, however many packs they are. Memory: a few spans while they grow, those that ended,
//! and the numbers of the writers of what was left out.

use std::collections::BTreeSet;

use crate::ids::{LogNumber, PackId};
use crate::limits::VERIFIED_SPANS_MAX;
use crate::log::ProvenSpan;

/// A pack as the store lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListedPack {
    pub name: String,
    pub bytes: u64,
    pub id: PackId,
    pub writer: LogNumber,
}

/// Spans that grow at a time: more classes of writers than these are not told apart.
const GROWING_MAX: usize = 16;

/// A span that may reach farther, to packs that come later and to other writers.
struct Growing {
    span: ProvenSpan,
    bytes: u64,
    /// The nearest writers on both sides of which a pack within reach was left out; neither is part of the span.
    left_out_below: Option<LogNumber>,
    left_out_above: Option<LogNumber>,
}

impl Growing {
    fn new(pack: &ListedPack, left_out: &BTreeSet<LogNumber>) -> Self {
        let span = ProvenSpan { from: pack.id, until: pack.id, first_writer: pack.writer, last_writer: pack.writer };
        // What was left out so far tells where the packs that are due end, and the span would have to end soon.
        let left_out_below = left_out.range(..pack.writer).next_back().copied();
        let left_out_above = left_out.range(LogNumber(pack.writer.0.saturating_add(1))..).next().copied();
        Self { span, bytes: pack.bytes, left_out_below, left_out_above }
    }

    fn admits(&self, writer: LogNumber) -> bool {
        self.left_out_below.is_none_or(|below| below < writer) && self.left_out_above.is_none_or(|above| writer < above)
    }

    fn add(&mut self, pack: &ListedPack) {
        self.span.until = pack.id;
        self.span.first_writer = self.span.first_writer.min(pack.writer);
        self.span.last_writer = self.span.last_writer.max(pack.writer);
        self.bytes = self.bytes.saturating_add(pack.bytes);
    }

    /// False if the span can reach no farther than to the pack before this one.
    fn leave_out(&mut self, writer: LogNumber) -> bool {
        if writer < self.span.first_writer {
            self.left_out_below = self.left_out_below.max(Some(writer));
            return true;
        }
        if writer > self.span.last_writer {
            self.left_out_above = Some(self.left_out_above.map_or(writer, |above| above.min(writer)));
            return true;
        }
        false
    }
}

/// The spans of the packs that were proven, which come in the order of ids around their circle. If there would be too
/// many, those of most bytes: the rest has to be proven again.
pub(super) fn spans_of<'p>(packs: impl Iterator<Item = (&'p ListedPack, bool)>) -> Vec<ProvenSpan> {
    let mut left_out = BTreeSet::new();
    let (mut growing, mut ended) = (Vec::<Growing>::new(), Vec::new());
    for (pack, is_proven) in packs {
        if !is_proven {
            left_out.insert(pack.writer);
            ended.extend(growing.extract_if(.., |span| !span.leave_out(pack.writer)));
            continue;
        }
        match growing.iter_mut().find(|span| span.admits(pack.writer)) {
            Some(span) => span.add(pack),
            None => {
                if growing.len() == GROWING_MAX {
                    ended.push(growing.remove(0));
                }
                growing.push(Growing::new(pack, &left_out));
            }
        }
        // Else a repository of very many scattered spans would hold them all before most are dropped.
        if ended.len() >= 4 * VERIFIED_SPANS_MAX {
            keep_largest(&mut ended);
        }
    }
    ended.append(&mut growing);
    keep_largest(&mut ended);
    ended.into_iter().map(|span| span.span).collect()
}

fn keep_largest(spans: &mut Vec<Growing>) {
    spans.sort_by_key(|span| std::cmp::Reverse(span.bytes));
    spans.truncate(VERIFIED_SPANS_MAX);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pack(id: u8, writer: u64) -> ListedPack {
        ListedPack { name: String::new(), bytes: 1, id: PackId([id; 32]), writer: LogNumber(writer) }
    }

    fn contains(spans: &[ProvenSpan], pack: &ListedPack) -> bool {
        spans.iter().any(|span| span.contains(&pack.id, pack.writer))
    }

    /// A month after everything was read in one night, that and what came the day before is due, and what came between
    /// is not: all are mixed in the order of ids.
    #[test]
    fn what_is_due_in_any_mixture_of_three_ages_is_few_spans() {
        let packs: Vec<ListedPack> = (0..=255).map(|id| pack(id, u64::from(id) * 7919 % 90 + 1)).collect();
        let is_due = |pack: &ListedPack| !(31..=60).contains(&pack.writer.0);
        let spans = spans_of(packs.iter().map(|pack| (pack, is_due(pack))));
        assert!(spans.len() <= 12, "{} spans", spans.len());
        assert!(packs.iter().all(|pack| contains(&spans, pack) == is_due(pack)));
    }

    #[test]
    fn of_too_many_spans_the_largest_are_kept() {
        let listed = |at: u16, writer| ListedPack {
            id: PackId(std::array::from_fn(|byte| if byte < 2 { at.to_be_bytes()[byte] } else { 0 })),
            bytes: u64::from(at),
            ..pack(0, writer)
        };
        let packs: Vec<ListedPack> = (0..4000).map(|at| listed(at, 5)).collect();
        let spans = spans_of(packs.iter().zip([true, false].into_iter().cycle()));
        assert_eq!(spans.len(), VERIFIED_SPANS_MAX);
        assert!(contains(&spans, &packs[3998]) && !contains(&spans, &packs[2]) && !contains(&spans, &packs[3999]));
    }

    proptest! {
        #[test]
        fn spans_hold_what_was_proven_and_nothing_else(
            found in prop::collection::vec((1u64..12, any::<bool>()), 0..200),
            start in 0usize..200,
        ) {
            let mut packs: Vec<(ListedPack, bool)> =
                (0u8..).zip(found).map(|(id, (writer, is_proven))| (pack(id, writer), is_proven)).collect();
            let start = start.min(packs.len());
            packs.rotate_left(start);
            let spans = spans_of(packs.iter().map(|(pack, is_proven)| (pack, *is_proven)));
            for (pack, is_proven) in &packs {
                prop_assert_eq!(contains(&spans, pack), *is_proven, "{:?}", pack);
            }
        }
    }
}
