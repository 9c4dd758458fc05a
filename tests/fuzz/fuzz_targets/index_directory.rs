//! Fuzz target of the decoder `index_directory`.

#![no_main]

mover_fuzz::fuzz_decoder!("index_directory");
