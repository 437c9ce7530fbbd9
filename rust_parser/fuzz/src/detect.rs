//! What is found out about any bytes: always something, always the same, and never against what was told.

use dari_parser::detect::{detect, settle_encoding};
use dari_parser::reading::{Detected, Encoding, Hints};

use super::case::hints;

/// See the module.
pub fn check(input: &[u8]) {
    let Some((&[told, marks, more, place], head)) = input.split_first_chunk() else { return };
    let is_whole = marks & 1 == 0;
    let hints = hints(told, marks >> 1, more, place);
    let found = detect(head, is_whole, &hints);
    assert_eq!(detect(head, is_whole, &hints), found, "not the same twice");
    check_detected(&found, head, &hints);
    assert_ne!(settle_encoding(head, is_whole), Encoding::Ascii);
}

fn check_detected(found: &Detected, head: &[u8], hints: &Hints) {
    assert!((0.0..=1.0).contains(&found.confidence), "{}", found.confidence);
    assert!(found.runner_up.is_none_or(|other| other != found.reading), "the next best is the best");
    for reading in [Some(found.reading), found.runner_up].into_iter().flatten() {
        let dialect = reading.dialect;
        assert!(reading.encoding != Encoding::Ascii || head.is_ascii(), "ASCII has no byte above 0x7F");
        assert!(hints.encoding.is_none_or(|encoding| encoding == reading.encoding));
        assert!(hints.delimiter.is_none_or(|delimiter| delimiter == dialect.delimiter));
        assert!(hints.quote.is_none_or(|quote| quote == dialect.quote));
        assert!(hints.escape.is_none_or(|escape| escape == dialect.escape));
        assert!(hints.comment.is_none_or(|comment| comment == dialect.comment));
        assert!(hints.trims_blanks.is_none_or(|trims| trims == dialect.trims_blanks));
        assert!(hints.preamble_lines.is_none_or(|lines| lines == dialect.preamble_lines));
        assert!(hints.header_rows.is_none_or(|rows| rows == dialect.header_rows));
    }
}
