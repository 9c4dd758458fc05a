//! Fuzz target of the decoder `config`.

#![no_main]

mover_fuzz::fuzz_decoder!("config");
