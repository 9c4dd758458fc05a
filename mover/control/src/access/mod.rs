//! Who may do what: roles, secrets that are stored as hashes, and the audit log.
//!
//! | role | may |
//! | --- | --- |
//! | viewer | read everything but secrets |
//! | operator | and start, cancel, restore; enable and disable policies; drain agents |
//! | admin | and change policies, tokens, enrolments; revoke agents |
//! | agent | only its own work: nothing of the above, and no token; it has a certificate |

pub mod audit;
pub mod idempotency;
pub mod secret;
pub mod tokens;
pub mod vault;

#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks.
    Viewer,
    /// Runs jobs.
    Operator,
    /// Everything.
    Admin,
    /// Does the work.
    Agent,
}

impl Role {
    /// Whether who has this role may do what `needed` may.
    pub fn covers(self, needed: Role) -> bool {
        if self == Role::Agent || needed == Role::Agent {
            return self == needed;
        }
        self >= needed
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
            Role::Agent => "agent",
        })
    }
}

#[cfg(test)]
mod role_tests {
    use super::Role::{Admin, Agent, Operator, Viewer};

    #[test]
    fn roles_cover_those_below_and_agents_stand_apart() {
        let allowed = [(Viewer, Viewer), (Operator, Viewer), (Operator, Operator), (Admin, Viewer), (Admin, Operator)];
        for role in [Viewer, Operator, Admin, Agent] {
            for needed in [Viewer, Operator, Admin, Agent] {
                assert_eq!(role.covers(needed), role == needed || allowed.contains(&(role, needed)), "{role} {needed}");
            }
        }
    }
}
