//! Jobs to agents that wait: the first job first, to the agent that suits it best.
//!
//! Among agents with a free slot that serve the lane of the job, one that has the index of the repository in memory is
//! preferred, then the least loaded, then the one whose name comes first (so the result depends on nothing else).
//! Affinity wins over load only while the difference is below [`AFFINITY`]: an index is loaded in seconds, a long queue
//! behind one agent lasts.

use std::collections::HashSet;

use crate::ids::AgentId;

/// How much more loaded, as a share of its slots, an agent with the index in memory may be.
const AFFINITY: f64 = 0.5;

/// An agent that waits for work.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Who.
    pub agent: AgentId,
    /// Jobs that it runs.
    pub running: u32,
    /// Jobs that it can run.
    pub slots: u32,
    /// How many it takes now.
    pub free: u32,
    /// Its lanes.
    pub lanes: HashSet<String>,
    /// Repositories whose index it has in memory.
    pub resident: HashSet<String>,
}

impl Candidate {
    fn load(&self) -> f64 {
        f64::from(self.running) / f64::from(self.slots.max(1))
    }
}

/// The agent for a job of this lane and repository: its place in `candidates`, which is charged with the job.
pub fn choose(candidates: &mut [Candidate], lane: &str, repository: &str) -> Option<usize> {
    let cost = |candidate: &Candidate| {
        let bonus = if candidate.resident.contains(repository) { AFFINITY } else { 0.0 };
        candidate.load() - bonus
    };
    let fitting = candidates.iter().enumerate().filter(|(_, agent)| agent.free > 0 && agent.lanes.contains(lane));
    let best = fitting.min_by(|(_, a), (_, b)| cost(a).total_cmp(&cost(b)).then_with(|| a.agent.cmp(&b.agent)))?.0;
    candidates[best].running += 1;
    candidates[best].free -= 1;
    Some(best)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(number: usize, running: u32, slots: u32, lanes: &[&str], resident: &[&str]) -> Candidate {
        let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let (lanes, resident) = (set(lanes), set(resident));
        let free = slots.saturating_sub(running);
        Candidate { agent: format!("{number:03}").as_str().into(), running, slots, free, lanes, resident }
    }

    #[test]
    fn s151_least_loaded_gets_the_job_and_a_resident_index_counts() {
        let mut agents =
            [candidate(0, 2, 4, &["a"], &[]), candidate(1, 1, 4, &["a"], &[]), candidate(2, 0, 4, &["b"], &[])];
        assert_eq!(choose(&mut agents, "a", "r"), Some(1));
        agents[0].resident.insert("r".to_owned());
        assert_eq!(choose(&mut agents, "a", "r"), Some(0), "3 of 4 with the index before 2 of 4 without");
        // Full: nobody.
        assert_eq!(choose(&mut [candidate(0, 4, 4, &["a"], &["r"])], "a", "r"), None);
        assert_eq!(choose(&mut [], "a", "r"), None);
    }

    proptest! {
        /// Never more than the slots, never outside the lanes, never a less loaded one passed over for nothing.
        #[test]
        fn choice_respects_slots_lanes_and_load(
            sizes in proptest::collection::vec((0_u32..6, 1_u32..6, 0_usize..4), 1..12),
            jobs in proptest::collection::vec((0_usize..3, 0_usize..2), 1..60),
        ) {
            let lanes = [&["a"][..], &["b"], &["a", "b"], &["a", "b", "c"]];
            let mut agents: Vec<Candidate> = sizes
                .iter()
                .enumerate()
                .map(|(number, (running, slots, kind))| candidate(number, *running, *slots, lanes[*kind], &[]))
                .collect();
            for (lane, repository) in jobs {
                let (lane, repository) = (["a", "b", "c"][lane], ["r", "s"][repository]);
                let before = agents.clone();
                let fits = |agent: &Candidate| agent.free > 0 && agent.lanes.contains(lane);
                match choose(&mut agents, lane, repository) {
                    None => prop_assert!(!before.iter().any(fits)),
                    Some(chosen) => {
                        prop_assert!(fits(&before[chosen]));
                        prop_assert!(agents[chosen].running <= agents[chosen].slots);
                        let least = before.iter().filter(|agent| fits(agent)).map(Candidate::load).fold(f64::MAX, f64::min);
                        prop_assert!(before[chosen].load() <= least);
                    }
                }
            }
        }
    }
}
