//! Fuzz target of the decoder `log_sealed`.

#![no_main]

mover_fuzz::fuzz_decoder!("log_sealed");
