//! Fuzz target of the decoder `key_slot`.

#![no_main]

mover_fuzz::fuzz_decoder!("key_slot");
