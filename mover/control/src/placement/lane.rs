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
use crate::job::Place;

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

/// Who can do what stands in this lane: the contrary of [`host`] and [`pool`].
pub fn place(lane: &str, pool_name: &str, preferred: Option<AgentId>) -> Place {
    if let Some(agent) = lane.strip_prefix("host:") {
        return Place::Host { agent: AgentId::from(agent) };
    }
    let reach = lane.strip_prefix("pool:").and_then(|rest| rest.strip_prefix(pool_name)?.strip_prefix('/'));
    Place::Pool { pool: pool_name.to_owned(), reach: reach.map(str::to_owned), preferred }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lane_tells_its_place() {
        let agent = AgentId::from("a");
        assert_eq!(place(&host(&agent), "main", None), Place::Host { agent: agent.clone() });
        for reach in [None, Some("nas/one".to_owned())] {
            let told = place(&pool("main", reach.as_deref()), "main", Some(agent.clone()));
            assert_eq!(told, Place::Pool { pool: "main".to_owned(), reach, preferred: Some(agent.clone()) });
        }
    }
}
