//! How a file is written, and how much of it may be held at once; checked when they are made.

use std::fmt;

/// The marks between cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// Between two cells; one ASCII byte.
    pub delimiter: u8,
    /// Around a cell that holds delimiters or line ends; `None` for files without quoting.
    pub quote: Option<u8>,
    /// Whether the first record names the columns. Without it they are `column_1`, `column_2`, …
    pub has_header: bool,
}

/// How large the parts of a file may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Source bytes after which a batch closes at the next record end; 1 to 2^30.
    pub batch_bytes: u64,
    /// Rows that share one set of search terms; 1 to 65,536.
    pub block_rows: u32,
    /// Longest record without its line end; 1 to 2^28, so that positions inside a record fit 32 bits.
    pub max_record_bytes: u32,
    /// Longest cell without its quotes; 1 to 2^28.
    pub max_cell_bytes: u32,
    /// Most columns; 1 to 1,599: a PostgreSQL table has 1,600 at most, and the row number is one.
    pub max_columns: u32,
}

/// All that a parser is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The marks between cells.
    pub dialect: Dialect,
    /// How large the parts may be.
    pub limits: Limits,
}

impl Default for Options {
    /// RFC 4180 with a header; batches of 4 MiB, blocks of 128 rows, records and cells up to 1 MiB, 1,500 columns.
    fn default() -> Self {
        Self {
            dialect: Dialect { delimiter: b',', quote: Some(b'"'), has_header: true },
            limits: Limits {
                batch_bytes: 4 << 20,
                block_rows: 128,
                max_record_bytes: 1 << 20,
                max_cell_bytes: 1 << 20,
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
        let Limits { batch_bytes, block_rows, max_record_bytes, max_cell_bytes, max_columns } = self.limits;
        let rules = [
            (is_mark(self.dialect.delimiter), "delimiter must be one ASCII character other than CR, LF and NUL"),
            (
                self.dialect.quote.is_none_or(|quote| is_mark(quote) && quote != self.dialect.delimiter),
                "quote must be empty, or one ASCII character other than CR, LF, NUL and the delimiter",
            ),
            ((1..=1 << 30).contains(&batch_bytes), "batch_bytes must be 1 to 1,073,741,824"),
            ((1..=65_536).contains(&block_rows), "block_rows must be 1 to 65,536"),
            ((1..=1 << 28).contains(&max_record_bytes), "max_record_bytes must be 1 to 268,435,456"),
            ((1..=1 << 28).contains(&max_cell_bytes), "max_cell_bytes must be 1 to 268,435,456"),
            ((1..=1_599).contains(&max_columns), "max_columns must be 1 to 1,599"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(InvalidOption(rule)),
            None => Ok(()),
        }
    }
}

fn is_mark(byte: u8) -> bool {
    byte.is_ascii() && !matches!(byte, b'\r' | b'\n' | 0)
}
