//! The commands that talk to a control plane: `mover job|agent|policy|point|token …`, clients of its HTTP API.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`args`] | what is typed |
//! | [`trust`] | TLS: by which authority a server is known; used by the agent too |
//! | [`api`] | one request and its answer or problem; pages; where server and token come from |
//! | [`job`], [`agent`], [`policy`], [`point`], [`token`] | one noun each |
//!
//! They print tables, or with `--json` what the server said, one object a line. Must never print a token but the one that
//! was asked for, nor show words of a server unescaped on a terminal.

pub mod agent;
pub mod api;
pub mod args;
pub mod job;
pub mod point;
pub mod policy;
pub mod token;
pub mod trust;
