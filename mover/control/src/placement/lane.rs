//! Lanes: who can do a job, as one word that is in the index of the queue.
//!
//! An agent asks for work in its own lanes only, so work that it cannot reach costs it nothing, however much there is.
//!
//! | lane | who |
//! | --- | --- |
//! | `host:AGENT` | that agent: a host's own files wait for that host |
//! | `pool:POOL` | every agent of the pool |
//! | `pool:POOL/REACH` | agents of the pool that said that they reach REACH (a filer, a database, a disk array) |

use crate::ids::AgentId;

/// The lane of one host.
pub fn host(agent: &AgentId) -> String {
    format!("host:{agent}")
}

/// The lane of a pool, or of those in it that reach something.
pub fn pool(pool: &str, reach: Option<&str>) -> String {
    match reach {
        Some(reach) => format!("pool:{pool}/{reach}"),
        None => format!("pool:{pool}"),
    }
}

/// All lanes of an agent.
pub fn of_agent(agent: &AgentId, pool_name: &str, reaches: &[String]) -> Vec<String> {
    let mut lanes = vec![host(agent), pool(pool_name, None)];
    lanes.extend(reaches.iter().map(|reach| pool(pool_name, Some(reach))));
    lanes.sort_unstable();
    lanes.dedup();
    lanes
}
