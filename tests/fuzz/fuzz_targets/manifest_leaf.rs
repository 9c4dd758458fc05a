//! Fuzz target of the decoder `manifest_leaf`.

#![no_main]

mover_fuzz::fuzz_decoder!("manifest_leaf");
