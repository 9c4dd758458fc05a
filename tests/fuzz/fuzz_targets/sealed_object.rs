//! Fuzz target of the decoder `sealed_object`.

#![no_main]

mover_fuzz::fuzz_decoder!("sealed_object");
