//! Gathers the search terms of each block of rows.

use crate::lexeme::fast::Lexer;
use crate::lexeme::{hash, is_joiner, is_simple};
use crate::postings::Postings;
use crate::record::Record;

/// The block in progress, and the postings since the batch began.
pub(crate) struct Blocks {
    block_rows: u32,
    /// Number of the batch's first row.
    first_row_number: u64,
    rows: u64,
    lexer: Lexer,
    postings: Postings,
}

impl Blocks {
    pub(crate) fn new(block_rows: u32) -> Self {
        Self { block_rows, first_row_number: 0, rows: 0, lexer: Lexer::default(), postings: Postings::default() }
    }

    /// Bytes that the postings so far will take, about.
    pub(crate) fn len(&self) -> usize {
        self.postings.len()
    }

    /// Adds one row.
    #[inline]
    pub(crate) fn add(&mut self, row_number: u64, record: &Record<'_>) {
        if self.rows == 0 {
            self.first_row_number = row_number;
        }
        let postings = &mut self.postings;
        let mut sink = |text: &[u8], start: usize, end: usize| postings.add(hash(text, start, end - start));
        let content = record.content();
        let simple = !record.traits.non_ascii || is_simple(content);
        let quote_separates = record.quote.is_none_or(|quote| !is_joiner(quote) && !quote.is_ascii_alphanumeric());
        if simple && !record.traits.quoted {
            self.lexer.cells(content, record.delimiter, &mut sink);
        } else if simple && quote_separates && record.is_contiguous {
            self.lexer.cells_at(content, record.delimiters(), &mut sink);
        } else {
            record.for_each_cell(|cell| self.lexer.cell(cell, &mut sink));
        }
        self.rows += 1;
        if self.rows.is_multiple_of(u64::from(self.block_rows)) {
            self.close();
        }
    }

    /// Takes the postings of all blocks, the one in progress included, as a whole COPY.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        if !self.rows.is_multiple_of(u64::from(self.block_rows)) {
            self.close();
        }
        self.postings.take(self.first_row_number, self.block_rows, std::mem::take(&mut self.rows))
    }

    fn close(&mut self) {
        let postings = &mut self.postings;
        self.lexer.flush(&mut |text: &[u8], start: usize, end: usize| postings.add(hash(text, start, end - start)));
        postings.end_block();
    }
}
