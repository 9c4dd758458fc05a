//! Fuzz target of the decoder `manifest_list`.

#![no_main]

mover_fuzz::fuzz_decoder!("manifest_list");
