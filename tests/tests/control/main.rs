//! The control plane from outside: `mover serve` as a process on 127.0.0.1, people and agents as requests.
//!
//! Who may do what, what becomes of requests that are wrong, what agents are told, what survives a kill of the server
//! and an absence of the database, and that the API is what its document says. Statuses and counts, never seconds.

mod access;
mod agent;
mod agent_faults;
mod agents;
mod browse;
mod clients;
mod console;
mod document;
mod events;
mod faults;
mod observability;
mod operator;
mod requests;
mod s_rules;
mod site;
mod start;
mod takeover;
