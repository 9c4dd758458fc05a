//! Fuzz target of the decoder `index_packs`.

#![no_main]

mover_fuzz::fuzz_decoder!("index_packs");
