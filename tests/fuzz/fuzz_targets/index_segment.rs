//! Fuzz target of the decoder `index_segment`.

#![no_main]

mover_fuzz::fuzz_decoder!("index_segment");
