//! Search terms of some rows together: one sorted set of hashes a block.
//!
//! An index entry a row costs several times the row's own load; one for 128 rows finds them as well, since the
//! rows of a block that was found are read and scored exactly.

use crate::copy_binary::CopyBinary;
use crate::hash_set::HashSet;
use crate::lexeme::fast::Lexer;
use crate::lexeme::{hash, is_joiner, is_simple};
use crate::record::Record;

/// The block in progress, and those of the batch that are closed.
pub(crate) struct Blocks {
    block_rows: u32,
    first_row_number: u64,
    rows: u32,
    lexer: Lexer,
    lexemes: HashSet,
    sorted: Vec<i32>,
    closed: CopyBinary,
}

impl Blocks {
    pub(crate) fn new(block_rows: u32) -> Self {
        Self {
            block_rows,
            first_row_number: 0,
            rows: 0,
            lexer: Lexer::default(),
            lexemes: HashSet::default(),
            sorted: Vec::new(),
            closed: CopyBinary::default(),
        }
    }

    /// Bytes of the closed blocks.
    pub(crate) fn len(&self) -> usize {
        self.closed.len()
    }

    /// Adds one row.
    #[inline]
    pub(crate) fn add(&mut self, row_number: u64, record: &Record<'_>) {
        if self.rows == 0 {
            self.first_row_number = row_number;
        }
        let lexemes = &mut self.lexemes;
        let mut sink = |text: &[u8], start: usize, end: usize| lexemes.insert(hash(text, start, end - start));
        let content = record.content();
        let simple = !record.traits.non_ascii || is_simple(content);
        let quote_separates = record.quote.is_none_or(|quote| !is_joiner(quote) && !quote.is_ascii_alphanumeric());
        if simple && !record.traits.quoted {
            self.lexer.cells(content, record.delimiter, &mut sink);
        } else if simple && quote_separates {
            self.lexer.cells_at(content, record.delimiters(), &mut sink);
        } else {
            record.for_each_cell(|cell| self.lexer.cell(cell, &mut sink));
        }
        self.rows += 1;
        if self.rows == self.block_rows {
            self.close();
        }
    }

    /// Takes all blocks, the one in progress included.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        if self.rows > 0 {
            self.close();
        }
        let next = CopyBinary::over(Vec::with_capacity(self.closed.len()));
        std::mem::replace(&mut self.closed, next).finish()
    }

    fn close(&mut self) {
        let lexemes = &mut self.lexemes;
        self.lexer.flush(&mut |text: &[u8], start: usize, end: usize| lexemes.insert(hash(text, start, end - start)));
        lexemes.drain_into(&mut self.sorted);
        self.closed.begin_tuple(3, 8 + 4 + CopyBinary::int4_array_bytes(self.sorted.len()));
        self.closed.int8(self.first_row_number as i64);
        self.closed.int4(self.rows as i32);
        self.closed.int4_array(&self.sorted);
        self.rows = 0;
    }
}
