//! What is found out about any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dari_fuzz::detect::check(input));
