//! Fuzz target of the decoder `log_checkpoint`.

#![no_main]

mover_fuzz::fuzz_decoder!("log_checkpoint");
