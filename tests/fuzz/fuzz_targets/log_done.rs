//! Fuzz target of the decoder `log_done`.

#![no_main]

mover_fuzz::fuzz_decoder!("log_done");
