//! Fuzz target of the decoder `key_secrets`.

#![no_main]

mover_fuzz::fuzz_decoder!("key_secrets");
