//! Repositories in object storage, through the released binary and where that is finer through the backend itself:
//! round trips on two servers, what goes wrong at a server or on the way, bad input, and how many requests all costs.
//!
//! Servers listen on 127.0.0.1 in this process. Counts of requests and bytes, never seconds, but for a wait that a store
//! asked for.

mod bad_input;
mod bandwidth;
mod fixture;
mod identity;
mod lies;
mod outage;
mod promises;
mod requests;
mod round_trip;
mod trouble;
mod vendors;
