//! Which agent gets which job: pure functions over what was read from the database.
//!
//! [`lane`] names who *can* do a job, [`away`] is the table of what becomes of one whose agent is not there, [`choice`]
//! gives jobs to agents that wait. The order of jobs is made elsewhere: priority, then fair share ([`crate::job`]).
//! Nothing here reads a clock or a database.

pub mod away;
pub mod choice;
pub mod lane;
pub mod slots;
pub mod version;
