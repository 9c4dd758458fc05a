//! Fuzz target of the decoder `client_memory`.

#![no_main]

mover_fuzz::fuzz_decoder!("client_memory");
