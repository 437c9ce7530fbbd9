//! How to read a file, from its first bytes: its encoding, its dialect, where its table begins, and what names its columns.
//!
//! ```text
//! encoding        bytes -> encoding; asks
//! └── plausibility    which of several possible encodings the text is written in
//! dialect         text -> delimiter, quote, escape, blanks: reads the head under each candidate and takes the best, by
//! ├── records         the head as records under these marks
//! └── cell_type       the kind of value that a cell holds
//!     └── number          numbers and the units around them
//! table           records -> preamble, comments, header rows
//! ```
//!
//! Whatever the caller says (its [`Hints`]) is taken as it is; the rest is found. The same bytes always give the same
//! answer, any bytes give one, and time is linear in them.

mod cell_type;
mod dialect;
mod encoding;
mod number;
mod plausibility;
mod records;
mod table;

pub use encoding::settle_encoding;

use self::dialect::Judged;
use self::records::{Marks, line_end, skip_line_end};
use crate::reading::{Detected, Dialect, Hints, Reading};

/// Bytes of a file's head that the decision is made from.
pub const HEAD_BYTES: usize = 256 * 1024;

/// Bytes from the first non-ASCII one on that tell the encoding of a file that began as ASCII.
pub const ENCODING_WINDOW_BYTES: usize = 64 * 1024;

/// How to read the file that begins with `head`: its first [`HEAD_BYTES`], or all of it if `is_whole`.
///
/// The encoding is [`Ascii`](crate::reading::Encoding::Ascii) where no byte above 0x7F was seen; [`settle_encoding`] then
/// decides when the first one comes.
#[must_use]
pub fn detect(head: &[u8], is_whole: bool, hints: &Hints) -> Detected {
    let encoding = hints.encoding.unwrap_or_else(|| encoding::find(head, is_whole));
    let text = encoding::decode(head, encoding);
    let told = told_delimiter(&text);
    let hints = Hints {
        delimiter: hints.delimiter.or(told),
        preamble_lines: hints.preamble_lines.or(told.map(|_| 1)),
        ..*hints
    };
    let text = behind_lines(&text, hints.preamble_lines.unwrap_or(0));
    let (best, next) = dialect::find(text, is_whole, &hints);
    let frame = table::find(text, &best, &hints);
    let reading = |marks: Marks| Reading {
        encoding,
        dialect: Dialect {
            delimiter: marks.delimiter,
            quote: marks.quote,
            escape: marks.escape,
            comment: frame.comment,
            trims_blanks: marks.trims_blanks,
            preamble_lines: hints.preamble_lines.unwrap_or(frame.preamble_lines),
            header_rows: frame.header_rows,
        },
    };
    Detected {
        reading: reading(best.marks),
        runner_up: next.map(|(marks, _)| reading(marks)),
        confidence: confidence(&best, next),
    }
}

/// The delimiter that a first line `sep=;` tells, which Excel writes and obeys.
fn told_delimiter(text: &[u8]) -> Option<u8> {
    let [delimiter] = *text[..line_end(text, 0)].strip_prefix(b"sep=")? else { return None };
    delimiter.is_ascii().then_some(delimiter)
}

/// `text` without its first lines.
fn behind_lines(text: &[u8], lines: u32) -> &[u8] {
    let mut at = 0;
    for _ in 0..lines {
        match skip_line_end(text, line_end(text, at)) {
            Some(next) => at = next,
            None => return &[],
        }
    }
    &text[at..]
}

/// A number of things in a head, which holds fewer than 2³² of anything.
fn count(things: usize) -> f64 {
    f64::from(things as u32)
}

fn confidence(best: &Judged, next: Option<(Marks, f64)>) -> f64 {
    match next {
        None => 1.0,
        Some(_) if best.score <= 0.0 => 0.0,
        Some((_, score)) => (1.0 - score / best.score).clamp(0.0, 1.0),
    }
}

#[cfg(test)]
mod tests;
