//! Fuzz target of the decoder `pack_frame`.

#![no_main]

mover_fuzz::fuzz_decoder!("pack_frame");
