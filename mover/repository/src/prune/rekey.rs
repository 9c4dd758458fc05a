//! Stores anew, under the newest generation of keys, what older packs hold and recovery points need.
//!
//! As a prune does with half-dead packs: frames are opened and sealed again as they were compressed, the new packs are
//! durable and indexed, and only then the old ones are condemned. They go with the next prune. Whoever held the older
//! keys reads old packs until then, and what he has copied for ever. Stops at a budget; what is left is told, and the
//! next run goes on with it, since condemned packs count no more. Blocks.

use std::path::PathBuf;
use std::time::Duration;

use super::{PACKS_A_RECORD, Packs, Plan, PruneOptions, PruneReport, Pruner, Sources, registered};
use crate::error::{RepositoryError, Result};
use crate::log::{History, OpenRecord, Outcome, Role};
use crate::pack::{PackClass, PackInfo};
use crate::repository::Repository;

/// How to rekey.
#[derive(Debug, Clone)]
pub struct RekeyOptions {
    /// At most so many live bytes are copied, before compression.
    pub move_bytes_max: u64,
    /// Memory in bytes, for index, ids and pages.
    pub memory_bytes: usize,
    /// Threads that read, check and copy packs.
    pub threads: usize,
    /// Directory for temporary files.
    pub scratch: PathBuf,
}

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct RekeyReport {
    /// The newest generation.
    pub generation: u32,
    /// Packs of older generations that are to go now: what points need of them was stored anew.
    pub moved: Packs,
    /// Packs that were written for that.
    pub written: Packs,
    /// Packs of older generations that are left, those of running backups included.
    pub left: Packs,
    /// Packs that had to stay because something in them is not as it was stored, and what.
    pub damaged: Vec<(String, String)>,
}

/// Rekeys. `who` signs the registration.
///
/// # Errors
/// As [`super::prune`].
pub fn rekey(repository: &Repository, who: &OpenRecord, options: &RekeyOptions) -> Result<RekeyReport> {
    let secrets = repository.secrets();
    if !secrets.is_admin() || !secrets.can_read() {
        return Err(RepositoryError::NotSupported { what: "rekeying without an admin key that can read".into() });
    }
    let prune_options = PruneOptions {
        dry_run: false,
        unused_percent_max: 100,
        move_bytes_max: options.move_bytes_max,
        fence_after: Duration::MAX,
        wait: Duration::ZERO,
        memory_bytes: options.memory_bytes,
        threads: options.threads,
        scratch: options.scratch.clone(),
    };
    let mut pruner = Pruner { repository, options: &prune_options, report: PruneReport::default() };
    let who = OpenRecord { role: Role::Admin, ..who.clone() };
    let generation = secrets.structure_generation();
    registered(repository, &who, |registration| {
        let history = registration.history();
        let mut plan = pruner.plan_rekey(history)?;
        pruner.check_other_copies(&mut plan)?;
        pruner.copy(&mut plan, registration.number())?;
        let packs: Vec<_> = plan.dead.iter().chain(&plan.half_dead).map(|at| plan.condemned(*at)).collect();
        let mut report = RekeyReport {
            generation,
            written: pruner.report.written,
            damaged: std::mem::take(&mut pruner.report.damaged),
            ..RekeyReport::default()
        };
        packs.iter().for_each(|pack| report.moved.add(pack.bytes));
        let is_moved = |at: &usize| plan.dead.contains(at) || plan.half_dead.contains(at);
        let left = old_packs(&plan.sources, generation).filter(|at| !is_moved(at));
        left.for_each(|at| report.left.add(plan.sources.packs[at].bytes));
        let outcome = match packs.is_empty() {
            true => Outcome::Ended { reason: "nothing to rekey".into() },
            false => Outcome::Condemned { packs, reason: format!("rekey: stored anew under generation {generation}") },
        };
        Ok((report, outcome))
    })
}

/// Packs that are there, not condemned, and sealed under an older generation.
fn old_packs(sources: &Sources, generation: u32) -> impl Iterator<Item = usize> {
    sources.good().filter(move |at| is_old(&sources.packs[*at], generation))
}

/// The table of contents of every pack is sealed under the structure secret, the frames of a data pack follow from
/// the read key: an older one of either is enough.
fn is_old(info: &PackInfo, generation: u32) -> bool {
    info.generation < generation || (info.class == PackClass::Data && info.key_block.generation() < generation)
}

impl Pruner<'_> {
    /// Old packs, until the budget is spent: those with nothing live in them at no cost. The oldest first, so that one
    /// run goes on where another one ended.
    fn plan_rekey(&mut self, history: &History) -> Result<Plan> {
        let live = self.mark(history)?;
        let sources = Sources::open(self.repository, history, &Default::default())?;
        let survey = sources.survey(&live)?;
        let is_decided = |at: &usize| history.is_decided(sources.packs[*at].writer);
        let generation = self.repository.secrets().structure_generation();
        let mut old: Vec<usize> = old_packs(&sources, generation).filter(is_decided).collect();
        old.sort_by_key(|at| (sources.packs[*at].writer, sources.packs[*at].id));
        let (mut dead, mut chosen) = (Vec::new(), Vec::new());
        let mut budget = self.options.move_bytes_max;
        for at in old {
            let tally = survey.tallies[at];
            // Another copy of what is redundant is read, which costs as much as to copy it.
            let cost = tally.live + tally.redundant;
            if dead.len() + chosen.len() == PACKS_A_RECORD {
                break;
            }
            match cost {
                0 => dead.push(at),
                _ if tally.hurt == 0 && cost <= budget => {
                    budget -= cost;
                    chosen.push(at);
                }
                _ => {}
            }
        }
        Ok(Plan { sources, live, survey, dead, half_dead: chosen })
    }
}
