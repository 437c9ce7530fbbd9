//! Any bytes, options, split and resume.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dari_fuzz::any_file::check(input));
