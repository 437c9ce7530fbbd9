//! What is in the columns of a file, from every cell: counts, bounds, sums, distinct values, frequent values, and the
//! narrowest type that every value fits.
//!
//! Each batch carries the evidence of its own rows; [`merge_evidence`] joins any of them in any grouping, and [`profile`]
//! reads the result. So an interrupted upload loses none, and nothing is concluded from a sample. A *value* is a cell that
//! is neither empty nor [null-like](NULL_LIKE); one longer than 256 bytes is told from others by its first 256.
//!
//! ```text
//! mod        rows -> chunks of cells -> columns; the evidence of a batch
//! ├── column     cells of one column -> facts
//! │   ├── frequent   how often each value stands: exact, then bounded
//! │   ├── fits       what a value can be read as; the type of a column
//! │   │   ├── number     decimals, exact
//! │   │   └── temporal   dates and times
//! │   └── value      a cell's text as counters see it
//! ├── facts      what is known of a column, and how it is joined
//! │   └── distinct   HyperLogLog
//! ├── encoding   facts <-> bytes
//! └── profile    facts -> what people read
//! ```
//!
//! Rows are collected until some 32 KiB of text are there, and then taken column by column: the state of one column stays
//! in the first-level cache, and the branches of its kind of value are predicted.

#![expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]

mod column;
mod distinct;
mod encoding;
mod facts;
mod fits;
mod frequent;
mod number;
mod profile;
mod temporal;
mod value;

use crate::record::Record;
use crate::scan::Form;

use column::{Block, Cell, Column};
pub use encoding::InvalidEvidence;
pub use fits::{ColumnType, NULL_LIKE};
pub use profile::{ColumnProfile, Profile, TopValue, merge_evidence, profile};

/// The evidence of the rows of one batch, while they come.
#[derive(Default)]
pub(crate) struct Evidence {
    rows: u64,
    /// Cells beyond the last column.
    extra_cells: u64,
    columns: Vec<Column>,
    /// The cells of the rows that are not counted yet, one row after the other, and the text in which they lie.
    cells: Vec<Cell>,
    text: Vec<u8>,
    /// Text of an escaped cell; kept for its capacity.
    unescaped: Vec<u8>,
}

/// Collected bytes, and cells, at which the columns take them.
const CHUNK_BYTES: usize = 128 * 1024;
const CHUNK_CELLS: usize = 32 * 1024;
/// Bytes of all tables of values together; how many rows each has depends on the number of columns.
const TABLES_BYTES: usize = 512 * 1024;
const ROW_BYTES: usize = 32;
/// Rows of a table: at least, at most.
const TABLE_ROWS: (usize, usize) = (32, 1_024);

impl Evidence {
    /// Adds a row of a table with `columns` columns, the same for all rows.
    #[inline]
    pub(crate) fn row(&mut self, columns: usize, record: &Record<'_>) {
        if self.columns.len() != columns {
            self.begin(columns);
        }
        let base = self.text.len() as u32;
        self.text.extend_from_slice(record.content());
        let own = &record.spans[..record.spans.len().min(columns)];
        self.extra_cells += (record.spans.len() - own.len()) as u64;
        if record.traits.quoted {
            for span in own {
                let (start, len) = (base + span.start, span.end - span.start);
                let cell = if span.form == Form::Escaped { self.unescape(record, span) } else { Cell { start, len } };
                self.cells.push(cell);
            }
        } else {
            self.cells.extend(own.iter().map(|span| Cell { start: base + span.start, len: span.end - span.start }));
        }
        for column in &mut self.columns[own.len()..] {
            column.miss();
            self.cells.push(Cell { start: 0, len: 0 });
        }
        self.rows += 1;
        if self.text.len() >= CHUNK_BYTES || self.cells.len() >= CHUNK_CELLS {
            self.count_chunk();
        }
    }

    /// Takes the evidence of all rows since the last call, for [`merge_evidence`] and [`profile`]; empty without a row.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.count_chunk();
        if self.rows == 0 {
            return Vec::new();
        }
        let facts = self.columns.iter_mut().map(Column::take);
        encoding::write(std::mem::take(&mut self.rows), std::mem::take(&mut self.extra_cells), facts)
    }

    #[cold]
    fn begin(&mut self, columns: usize) {
        let precision = match columns {
            0..=64 => 11,
            65..=200 => 10,
            _ => 9,
        };
        let rows = TABLES_BYTES / ROW_BYTES / columns.max(1);
        let rows = (rows + 1).next_power_of_two() / 2;
        let rows = rows.clamp(TABLE_ROWS.0, TABLE_ROWS.1);
        self.columns = (0..columns).map(|_| Column::new(precision, rows)).collect();
    }

    #[cold]
    fn unescape(&mut self, record: &Record<'_>, span: &crate::scan::Span) -> Cell {
        record.unescape_into(span, &mut self.unescaped);
        let cell = Cell { start: self.text.len() as u32, len: self.unescaped.len() as u32 };
        self.text.extend_from_slice(&self.unescaped);
        cell
    }

    fn count_chunk(&mut self) {
        // Heads are read as whole words.
        self.text.resize(self.text.len() + value::HEAD_BYTES, 0);
        let columns = self.columns.len().max(1);
        let mut block = Block::new();
        for (number, column) in self.columns.iter_mut().enumerate() {
            column.add(&self.text, self.cells.chunks_exact(columns).map(|row| row[number]), &mut block);
        }
        self.text.clear();
        self.cells.clear();
    }
}
