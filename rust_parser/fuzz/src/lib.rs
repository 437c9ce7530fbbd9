//! What must hold for any input: one module a fuzz target, each with a `check` that panics where it does not.
//!
//! ```text
//! cargo +nightly fuzz run --fuzz-dir rust_parser/fuzz --sanitizer none any_file -- -dict=rust_parser/fuzz/csv.dict
//! cargo test -p dari_parser --test fuzz_corpus
//! ```
//!
//! The first looks for inputs that break a target (the parser has no unsafe code, so no sanitizer is needed); the second
//! runs each input of `corpus/{target}/` once, with any compiler. There is a part of what reached something new, cut down
//! by libFuzzer's merge to some hundred bytes each, and every input that once broke something (`crash-…`). The core's
//! tests include these modules by path, since this package is outside the workspace.

pub mod any_file;
mod case;
pub mod csv_crate;
pub mod csv_writer;
pub mod detect;
pub mod evidence;
mod output;
pub mod reference;
mod reference_reader;
