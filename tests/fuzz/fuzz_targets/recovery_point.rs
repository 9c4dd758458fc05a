//! Fuzz target of the decoder `recovery_point`.

#![no_main]

mover_fuzz::fuzz_decoder!("recovery_point");
