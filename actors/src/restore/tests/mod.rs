//! Tests of the restore pipeline: real shards and real directories, repositories built by hand.

mod content;
mod cramped;
mod damage;
mod fixture;
mod links;
mod memory_target;
mod rules;
mod shape;
mod simulated;
mod watched;
