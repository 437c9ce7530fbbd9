//! Any bytes as a COPY; and what was read, written and read again.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dari_fuzz::csv_writer::check(input));
