//! Any bytes as evidence.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dari_fuzz::evidence::check(input));
