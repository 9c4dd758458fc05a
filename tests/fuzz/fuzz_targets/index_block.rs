//! Fuzz target of the decoder `index_block`.

#![no_main]

mover_fuzz::fuzz_decoder!("index_block");
