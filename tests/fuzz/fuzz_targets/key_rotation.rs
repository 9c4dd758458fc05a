//! Fuzz target of the decoder `key_rotation`.

#![no_main]

mover_fuzz::fuzz_decoder!("key_rotation");
