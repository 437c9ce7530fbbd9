//! What ends a file: the code, the place, and the limit that was passed.

use std::fmt;

/// Why a file cannot be read on. Bad rows are no errors: they are [`crate::RejectedRow`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// A record has more than `max_record_bytes`, its line end not counted; often a quote that is never closed.
    RecordTooLong,
    /// A cell has more than `max_cell_bytes`, its quotes not counted.
    CellTooLong,
    /// The header has more than `max_header_bytes`; often a quote that is never closed.
    HeaderTooLong,
    /// The header, or the first record of a file without one, has more than `max_columns` cells.
    TooManyColumns,
    /// The file ends inside a quoted cell; the place is that of the opening quote.
    UnclosedQuote,
    /// The file has no record, and was to have no header.
    EmptyFile,
    /// The file has lines, all of them empty, and was to have a header.
    NoHeader,
    /// The header holds bytes that the encoding does not have.
    HeaderInvalidBytes,
    /// The header holds a NUL byte, which PostgreSQL cannot keep.
    HeaderNulByte,
}

impl ErrorCode {
    /// The name that callers compare with.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RecordTooLong => "record_too_long",
            Self::CellTooLong => "cell_too_long",
            Self::HeaderTooLong => "header_too_long",
            Self::TooManyColumns => "too_many_columns",
            Self::UnclosedQuote => "unclosed_quote",
            Self::EmptyFile => "empty_file",
            Self::NoHeader => "no_header",
            Self::HeaderInvalidBytes => "header_invalid_bytes",
            Self::HeaderNulByte => "header_nul_byte",
        }
    }
}

/// The end of an upload: code and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// What is wrong.
    pub code: ErrorCode,
    /// Line of the file, from 1, at which the record (for a cell: the cell, for a quote: the quote) begins.
    pub line: u64,
    /// Byte of the file, from 0, of the same place.
    pub byte_offset: u64,
    /// The limit that was passed, or 0.
    pub limit: u64,
}

impl fmt::Display for ParseError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} at line {}, byte {}", self.code.as_str(), self.line, self.byte_offset)?;
        if self.limit > 0 { write!(formatter, " (limit {})", self.limit) } else { Ok(()) }
    }
}

impl std::error::Error for ParseError {}
