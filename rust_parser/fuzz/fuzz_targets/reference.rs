//! Any bytes beside a reader that is slow and plain.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dari_fuzz::reference::check(input));
