//! Fuzz target of the decoder `pack_contents`.

#![no_main]

mover_fuzz::fuzz_decoder!("pack_contents");
