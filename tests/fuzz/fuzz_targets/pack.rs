//! Fuzz target of the decoder `pack`.

#![no_main]

mover_fuzz::fuzz_decoder!("pack");
