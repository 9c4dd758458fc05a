//! What becomes of a job whose agent is not there: the table *Agent away*, as data.
//!
//! | workload | on demand | scheduled |
//! | --- | --- | --- |
//! | file server, Oracle direct | fails at once, or waits when asked to | waits until its window ends, then failed (S-012, S-130) |
//! | NAS | queued, any connected proxy of the pool takes it (S-031) | skipped; after a few skips another proxy takes it (S-031) |
//! | all others | queued until an agent or a proxy is free (S-065, S-151, S-172) | queued |
//!
//! A server has one table; a policy may replace rows of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::job::{Origin, Workload};

/// Skips of a NAS run until another proxy takes it.
const SKIPS: u32 = 3;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AwayAction {
    /// It fails now, unless who asks says that it may wait.
    FailAtOnce,
    /// It waits, and fails when its window has ended.
    WaitUntilWindowEnds,
    /// It waits in the queue.
    Queue,
    /// This run is left out; after so many in a row any other agent of the pool takes the next.
    Skip {
        /// How many in a row.
        other_agent_after: u32,
    },
}

/// What to do for one workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AwayRow {
    /// For jobs that a person or a script asked for.
    pub on_demand: AwayAction,
    /// For jobs that a calendar asked for.
    pub scheduled: AwayAction,
}

/// The table. Workloads that it does not name are queued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct AwayTable(pub BTreeMap<Workload, AwayRow>);

impl Default for AwayTable {
    fn default() -> AwayTable {
        let host = AwayRow { on_demand: AwayAction::FailAtOnce, scheduled: AwayAction::WaitUntilWindowEnds };
        let share = AwayRow { on_demand: AwayAction::Queue, scheduled: AwayAction::Skip { other_agent_after: SKIPS } };
        AwayTable(BTreeMap::from([
            (Workload::FileServer, host),
            (Workload::OracleDirect, host),
            (Workload::Nas, share),
        ]))
    }
}

impl AwayTable {
    /// The row of a workload, that of `overrides` first.
    pub fn action(&self, overrides: Option<&AwayTable>, workload: Workload, origin: Origin) -> AwayAction {
        let row = overrides.and_then(|table| table.0.get(&workload)).or_else(|| self.0.get(&workload));
        match (row, origin) {
            (None, _) => AwayAction::Queue,
            (Some(row), Origin::OnDemand) => row.on_demand,
            (Some(row), Origin::Scheduled) => row.scheduled,
        }
    }
}

/// What becomes of a job at its admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Queued in its lane.
    Queue,
    /// Queued for any agent of the pool, not for the preferred one.
    QueueForOthers,
    /// Failed.
    Fail,
    /// Skipped.
    Skip,
}

/// The decision, for a job whose agent is (not) there: `skips` runs before this one were left out.
pub fn admit(action: AwayAction, is_there: bool, wait: bool, skips: i64, has_preferred: bool) -> Admission {
    match action {
        _ if is_there => Admission::Queue,
        AwayAction::FailAtOnce if !wait => Admission::Fail,
        AwayAction::FailAtOnce | AwayAction::WaitUntilWindowEnds => Admission::Queue,
        // A preferred agent is nobody's only hope.
        AwayAction::Queue if has_preferred => Admission::QueueForOthers,
        AwayAction::Queue => Admission::Queue,
        AwayAction::Skip { other_agent_after } if skips < i64::from(other_agent_after) => Admission::Skip,
        AwayAction::Skip { .. } => Admission::QueueForOthers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn away_table_is_that_of_the_document() {
        use AwayAction::*;
        let skip = Skip { other_agent_after: SKIPS };
        let rows = [
            (Workload::FileServer, FailAtOnce, WaitUntilWindowEnds),
            (Workload::OracleDirect, FailAtOnce, WaitUntilWindowEnds),
            (Workload::Nas, Queue, skip),
            (Workload::SqlServer, Queue, Queue),
            (Workload::HyperV, Queue, Queue),
            (Workload::VirtualMachine, Queue, Queue),
            (Workload::OracleStore, Queue, Queue),
            (Workload::Database, Queue, Queue),
            (Workload::Disk, Queue, Queue),
        ];
        let table = AwayTable::default();
        for (workload, on_demand, scheduled) in rows {
            assert_eq!(table.action(None, workload, Origin::OnDemand), on_demand, "{workload:?}");
            assert_eq!(table.action(None, workload, Origin::Scheduled), scheduled, "{workload:?}");
        }
        let text = r#"{"nas":{"on_demand":"fail_at_once","scheduled":{"skip":{"other_agent_after":1}}}}"#;
        let own: AwayTable = serde_json::from_str(text).expect("a table");
        assert_eq!(table.action(Some(&own), Workload::Nas, Origin::OnDemand), FailAtOnce);
        assert_eq!(table.action(Some(&own), Workload::FileServer, Origin::OnDemand), FailAtOnce);
        assert_eq!(serde_json::to_string(&own).expect("text"), text);
        serde_json::from_str::<AwayTable>(r#"{"nas":{"on_demand":"queue","scheduled":"queue","x":1}}"#).expect_err("x");
    }
}
