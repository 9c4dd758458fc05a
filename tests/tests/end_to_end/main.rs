//! What the binary does for a person, from `init` to a restored tree, each test through the released binary.
//!
//! Runs on temporary directories only; counts come from `--json` summaries and from `strace`, never from clocks.

mod commands;
mod copy;
mod fidelity;
mod filters;
mod hard_links;
mod incremental;
mod lifecycle;
mod restore_rules;
mod streams;
