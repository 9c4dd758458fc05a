//! Fuzz target of the decoder `manifest_inner`.

#![no_main]

mover_fuzz::fuzz_decoder!("manifest_inner");
