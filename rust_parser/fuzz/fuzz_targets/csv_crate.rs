//! RFC 4180 tables beside the csv crate.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dari_fuzz::csv_crate::check(input));
