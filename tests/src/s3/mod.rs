//! Object stores for tests and benchmarks: real S3 servers, their faults, and a slow, far or broken link to them.
//!
//! - [`S3Server`] runs in this process: real signatures, optional TLS with a private CA, every request recorded, and
//!   [`Faults`] that can be changed while it runs. It also speaks the [`Dialect`] of Google.
//! - [`SeaweedFs`] is a second server of other people, a process with object lock and versions.
//! - [`Link`] is a TCP proxy with a delay, a rate and a switch, in front of any address.
//!
//! A store in a test must be allowed to fail in every way but one: it must never keep or serve wrong bytes unless a
//! test asked for it. Nothing here knows `mover`.

mod faults;
mod google;
mod link;
mod record;
mod seaweed;
mod server;
mod service;
mod store;
mod tls;

pub use faults::{Answer, Fault, Faults, Rule, RuleId};
pub use link::Link;
pub use record::{Kind, Request, Requests};
pub use seaweed::SeaweedFs;
pub use server::{S3Options, S3Server};
pub use service::Dialect;

#[cfg(test)]
mod link_tests;
#[cfg(test)]
mod tests;
