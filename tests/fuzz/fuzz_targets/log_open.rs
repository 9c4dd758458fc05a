//! Fuzz target of the decoder `log_open`.

#![no_main]

mover_fuzz::fuzz_decoder!("log_open");
