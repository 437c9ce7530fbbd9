//! What must hold for any input: one module a fuzz target, each with a `check` that panics where it does not.
//!
//! ```text
//! cargo +nightly fuzz run any_file --sanitizer none      one target; the parser has no unsafe code
//! cargo test -p dari_parser --test fuzz_corpus           every kept input once, with any compiler
//! ```
//!
//! `corpus/{target}/` holds the inputs that were kept: the smallest set that reaches all that was ever reached, and each
//! input that once broke something. The core's tests include these modules by path, since this package is outside the
//! workspace.

pub mod any_file;
mod case;
pub mod csv_crate;
pub mod csv_writer;
pub mod detect;
pub mod evidence;
mod output;
pub mod reference;
mod reference_reader;
