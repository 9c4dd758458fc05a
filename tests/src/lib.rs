//! Helpers of the end-to-end, damage, crash and tidy suites.
//!
//! What a suite says about `mover` it says through the released binary: these helpers start it, build the trees it
//! has to carry, and compare the outcome by tools that are not ours (`rsync`, `getfattr`, `getfacl`, `find`,
//! `filefrag`). Nothing here may call into the libraries under test, and nothing may assert seconds.
//! Everything runs on plain test threads.

pub mod azurite;
pub mod cache;
pub mod cgroup;
pub mod compare;
pub mod control;
pub mod damage;
pub mod mounts;
pub mod mover;
pub mod nasty;
pub mod random;
pub mod s3;
pub mod skip;
pub mod strace;
pub mod summary;
pub mod tree;

pub use compare::{Difference, assert_same_tree, differences};
pub use mover::{Mover, Repo, Run, exit};
pub use summary::Summary;
