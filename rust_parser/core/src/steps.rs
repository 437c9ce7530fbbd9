//! Some steps of the parser without the others: what `examples/parse_bench.rs` measures, and no part of the interface.
//!
//! A whole parser cannot leave steps out, and a bench outside the crate cannot reach them.

use crate::blocks::Blocks;
use crate::copy_binary::CopyBinary;
use crate::evidence::Evidence;
use crate::options::Options;
use crate::reading::Dialect;
use crate::record::Record;
use crate::scan::{Form, Scanner};

/// What is done with each record beside finding its cells.
#[derive(Clone, Copy, Default)]
pub struct Steps {
    /// Check the text and gather the evidence of every cell.
    pub evidence: bool,
    /// Encode the row for COPY.
    pub copy: bool,
    /// Index its search terms.
    pub terms: bool,
}

/// Reads a file of RFC 4180 in UTF-8 whose rows all have the header's cells, as the parser does by default; returns the
/// number of its rows and the bytes of what the steps made.
#[must_use]
pub fn run(file: &[u8], feed_bytes: usize, steps: Steps) -> (u64, usize) {
    let (options, dialect) = (Options::default(), Dialect::RFC_4180);
    let mut scanner = Scanner::new(dialect, options.limits.max_columns as usize + 1);
    let mut made = Made::new(steps, options.limits.block_rows);
    let mut carry: Vec<u8> = Vec::new();
    for bytes in file.chunks(feed_bytes) {
        let mut window = scanner.window(bytes, carry.len());
        let mut start = 0;
        while let Some(end) = scanner.next_record(&mut window) {
            let (source, len) = if carry.is_empty() {
                (&bytes[start..], end.next - start)
            } else {
                carry.extend_from_slice(&bytes[..end.next]);
                (carry.as_slice(), carry.len())
            };
            let record = Record {
                source,
                content_len: end.content_len as usize,
                spans: scanner.spans(),
                traits: scanner.traits(),
                delimiter: dialect.delimiter,
                quote: dialect.quote,
                escape: dialect.escape,
                is_contiguous: true,
            };
            made.row(&record, len, options.limits.batch_bytes);
            scanner.begin_record();
            carry.clear();
            start = end.next;
        }
        carry.extend_from_slice(&bytes[start..]);
    }
    made.close();
    (made.rows, made.bytes)
}

/// What the steps have made.
struct Made {
    steps: Steps,
    columns: usize,
    rows: u64,
    batch_bytes: u64,
    bytes: usize,
    evidence: Evidence,
    copy: CopyBinary,
    blocks: Blocks,
    unescaped: Vec<u8>,
}

impl Made {
    fn new(steps: Steps, block_rows: u32) -> Self {
        Self {
            steps,
            columns: 0,
            rows: 0,
            batch_bytes: 0,
            bytes: 0,
            evidence: Evidence::default(),
            copy: CopyBinary::default(),
            blocks: Blocks::new(block_rows),
            unescaped: Vec::new(),
        }
    }

    fn row(&mut self, record: &Record<'_>, len: usize, batch_bytes: u64) {
        if self.columns == 0 {
            self.columns = record.spans.len();
            return;
        }
        self.rows += 1;
        self.batch_bytes += len as u64;
        if self.steps.evidence {
            assert!(record.unreadable().is_none());
            self.evidence.row(self.columns, record);
        }
        if self.steps.copy {
            self.copy.begin_tuple(record.spans.len() as u16 + 2, 8 + record.content_len);
            self.copy.int8(self.rows as i64);
            for span in record.spans {
                if span.form == Form::Escaped {
                    record.unescape_into(span, &mut self.unescaped);
                    self.copy.text(&self.unescaped, 0, self.unescaped.len());
                } else {
                    self.copy.text(record.source, span.start as usize, span.end as usize);
                }
            }
            self.copy.null();
        }
        if self.steps.terms {
            self.blocks.add(self.rows, record);
        }
        if self.batch_bytes >= batch_bytes {
            self.close();
        }
    }

    fn close(&mut self) {
        self.batch_bytes = 0;
        self.bytes += self.evidence.take().len() + self.blocks.take().len();
        let rows = std::mem::take(&mut self.copy).finish();
        self.bytes += rows.len();
        self.copy = CopyBinary::over(rows);
    }
}
