//! What a parser is told: what is known of the file, what becomes of its faults, and how much of it may be held at once;
//! checked when a parser is made.

use std::fmt;

use crate::reading::{Dialect, Encoding, Hints};

/// Most records that name the columns.
pub const MAX_HEADER_ROWS: u32 = 8;

/// How large the parts of a file may be. Bytes are those of the file's text in UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the file after which a batch closes at the next record end; 1 to 2^30.
    pub batch_bytes: u64,
    /// Rows that share one set of search terms; 1 to 65,536.
    pub block_rows: u32,
    /// Longest record without its line end; 1 to 2^28, so that positions inside a record fit 32 bits.
    pub max_record_bytes: u32,
    /// Longest cell without its quotes; 1 to 2^28.
    pub max_cell_bytes: u32,
    /// Longest header, all its records together; 1 to 2^28.
    pub max_header_bytes: u32,
    /// Most columns, and most cells of a row; 1 to 1,598: a PostgreSQL table has 1,600 columns at most, and row
    /// number and extra cells are two.
    pub max_columns: u32,
}

/// All that a parser is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// What is known of the file; the rest is found out.
    pub hints: Hints,
    /// Whether a row is stored with U+FFFD in place of bytes that the encoding does not have; otherwise it is rejected.
    pub replaces_invalid_bytes: bool,
    /// Whether a row with fewer or more cells than columns is stored with exactly its cells; otherwise it is rejected.
    pub keeps_ragged_rows: bool,
    /// How large the parts may be.
    pub limits: Limits,
}

impl Default for Options {
    /// Everything is found out; ragged rows are kept, invalid bytes are not; batches of 4 MiB, blocks of 128 rows, records
    /// and cells up to 1 MiB, headers up to 256 KiB, 1,500 columns.
    fn default() -> Self {
        Self {
            hints: Hints::default(),
            replaces_invalid_bytes: false,
            keeps_ragged_rows: true,
            limits: Limits {
                batch_bytes: 4 << 20,
                block_rows: 128,
                max_record_bytes: 1 << 20,
                max_cell_bytes: 1 << 20,
                max_header_bytes: 256 << 10,
                max_columns: 1_500,
            },
        }
    }
}

/// One option that is out of range, with the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidOption(pub &'static str);

impl fmt::Display for InvalidOption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

impl std::error::Error for InvalidOption {}

impl Options {
    /// Tells the first option that is out of range.
    pub fn check(&self) -> Result<(), InvalidOption> {
        let Limits { batch_bytes, block_rows, max_record_bytes, max_cell_bytes, max_header_bytes, max_columns } =
            self.limits;
        check_hints(&self.hints)?;
        first_broken(&[
            ((1..=1 << 30).contains(&batch_bytes), "batch_bytes must be 1 to 1,073,741,824"),
            ((1..=65_536).contains(&block_rows), "block_rows must be 1 to 65,536"),
            ((1..=1 << 28).contains(&max_record_bytes), "max_record_bytes must be 1 to 268,435,456"),
            ((1..=1 << 28).contains(&max_cell_bytes), "max_cell_bytes must be 1 to 268,435,456"),
            ((1..=1 << 28).contains(&max_header_bytes), "max_header_bytes must be 1 to 268,435,456"),
            ((1..=1_598).contains(&max_columns), "max_columns must be 1 to 1,598"),
        ])
    }
}

/// Tells the first hint that is out of range, or that no dialect can have beside another.
fn check_hints(hints: &Hints) -> Result<(), InvalidOption> {
    let [delimiter, quote, escape, comment] =
        [hints.delimiter, hints.quote.flatten(), hints.escape.flatten(), hints.comment.flatten()];
    let differs = |one: Option<u8>, others: &[Option<u8>]| one.is_none() || !others.contains(&one);
    first_broken(&[
        (hints.encoding != Some(Encoding::Ascii), "encoding must be one that has more than ASCII, such as utf-8"),
        (delimiter.is_none_or(is_mark), "delimiter must be one ASCII character other than CR, LF and NUL"),
        (
            quote.is_none_or(is_mark) && differs(quote, &[delimiter]),
            "quote must be empty, or one ASCII character other than CR, LF, NUL and the delimiter",
        ),
        (
            escape.is_none_or(is_escape) && differs(escape, &[delimiter]),
            "escape must be empty, or one ASCII character other than CR, LF and the delimiter",
        ),
        (
            comment.is_none_or(is_mark) && differs(comment, &[delimiter, quote]),
            "comment must be empty, or one ASCII character other than CR, LF, NUL, the delimiter and the quote",
        ),
        (
            hints.preamble_lines.is_none_or(|lines| i32::try_from(lines).is_ok()),
            "preamble_lines must be 0 to 2,147,483,647",
        ),
        (hints.header_rows.is_none_or(|rows| rows <= MAX_HEADER_ROWS), "header_rows must be 0 to 8"),
    ])
}

/// Whether a file can be read so.
pub(crate) fn is_dialect(dialect: &Dialect) -> bool {
    let Dialect { delimiter, quote, escape, comment, trims_blanks, preamble_lines, header_rows } = *dialect;
    let hints = Hints {
        encoding: None,
        delimiter: Some(delimiter),
        quote: Some(quote),
        escape: Some(escape),
        comment: Some(comment),
        trims_blanks: Some(trims_blanks),
        preamble_lines: Some(preamble_lines),
        header_rows: Some(header_rows),
    };
    check_hints(&hints).is_ok()
}

fn first_broken(rules: &[(bool, &'static str)]) -> Result<(), InvalidOption> {
    match rules.iter().find(|(holds, _)| !holds) {
        Some((_, rule)) => Err(InvalidOption(rule)),
        None => Ok(()),
    }
}

fn is_mark(byte: u8) -> bool {
    is_escape(byte) && byte != 0
}

fn is_escape(byte: u8) -> bool {
    byte.is_ascii() && !matches!(byte, b'\r' | b'\n')
}
