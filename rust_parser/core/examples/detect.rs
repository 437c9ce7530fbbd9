//! How files would be read: `cargo run --release --example detect -- PATH…` prints one JSON object a file.
//!
//! Besides the decision each object has the microseconds that it took.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::time::Instant;

use dari_parser::detect::{ENCODING_WINDOW_BYTES, HEAD_BYTES, detect, settle_encoding};
use dari_parser::reading::{Encoding, Hints, Reading};

fn main() {
    for path in std::env::args().skip(1) {
        let mut head = Vec::new();
        File::open(&path).unwrap().take(HEAD_BYTES as u64 + 1).read_to_end(&mut head).unwrap();
        let is_whole = head.len() <= HEAD_BYTES;
        head.truncate(HEAD_BYTES);
        let begin = Instant::now();
        let mut detected = detect(&head, is_whole, &Hints::default());
        let micros = begin.elapsed().as_micros();
        if detected.reading.encoding == Encoding::Ascii {
            detected.reading.encoding = settled(&path);
        }
        let runner_up = detected.runner_up.map_or("null".to_owned(), |reading| json(&reading));
        println!(
            "{{\"path\":{},\"reading\":{},\"runner_up\":{runner_up},\"confidence\":{:.4},\"micros\":{micros}}}",
            string(&path),
            json(&detected.reading),
            detected.confidence,
        );
    }
}

/// The encoding of a file whose head is ASCII, from its first other byte on.
fn settled(path: &str) -> Encoding {
    let file = std::fs::read(path).unwrap();
    let Some(first) = file.iter().position(|byte| !byte.is_ascii()) else { return Encoding::Ascii };
    let window = &file[first..];
    settle_encoding(&window[..window.len().min(ENCODING_WINDOW_BYTES)], window.len() <= ENCODING_WINDOW_BYTES)
}

fn json(reading: &Reading) -> String {
    let mark = |mark: Option<u8>| mark.map_or("null".to_owned(), |mark| string(&char::from(mark).to_string()));
    let dialect = &reading.dialect;
    format!(
        "{{\"encoding\":\"{}\",\"delimiter\":{},\"quote\":{},\"escape\":{},\"comment\":{},\"trims_blanks\":{},\
         \"preamble_lines\":{},\"header_rows\":{}}}",
        reading.encoding.as_str(),
        mark(Some(dialect.delimiter)),
        mark(dialect.quote),
        mark(dialect.escape),
        mark(dialect.comment),
        dialect.trims_blanks,
        dialect.preamble_lines,
        dialect.header_rows,
    )
}

/// A JSON string.
fn string(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => write!(out, "\\u{:04x}", c as u32).unwrap(),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
