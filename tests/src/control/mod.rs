//! A control plane for tests: `mover serve` as a process, a client of its API, an agent made of requests, PostgreSQL.
//!
//! Everything is on 127.0.0.1, on ports that the system chose, and killed and removed when it is dropped.

pub mod agent;
pub mod client;
pub mod postgres;
pub mod serve;

pub use agent::TestAgent;
pub use client::{Answer, Client};
pub use postgres::Postgres;
pub use serve::Serve;
