//! The open batch, and what it becomes when it closes.

use crate::blocks::Blocks;
use crate::checkpoint::Checkpoint;
use crate::copy_binary::CopyBinary;
use crate::evidence::Evidence;
use crate::options::Limits;
use crate::record::{Record, RejectReason};
use crate::scan::Form;
use crate::table::Place;

/// Bytes of a rejected record that are kept.
pub const RAW_BYTES_KEPT: usize = 4_096;

/// Rejected rows after which a batch closes before `batch_bytes`: two bytes can make a rejected row, and four million
/// objects would break every promise about memory.
pub const REJECTED_PER_BATCH: usize = 8_192;

/// Encoded bytes, as a multiple of `batch_bytes`, at which a batch closes early. Real files grow by 1.2 to 3; a file of
/// empty lines in one column grows by 18.
const MAX_GROWTH: u64 = 4;
/// Below this the rule above does not apply: a small batch is mostly frame.
const SMALL_BYTES: u64 = 64 * 1024;

/// Some whole records, encoded for PostgreSQL, and the state after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// `COPY … (FORMAT binary)` of the row number (`int8`), one `text` a column and the cells beyond the columns (`text[]`);
    /// empty where no row is stored. Cells that a row is too short to have are NULL, and so is an array without a cell.
    pub rows: Vec<u8>,
    /// `COPY … (FORMAT binary)` of the search index of these rows: bucket (`int4`), number of the batch's first row (`int8`),
    /// postings (`bytea`, see [`crate::best_blocks`]); empty where the rows hold no search term.
    pub postings: Vec<u8>,
    /// What is in the columns of these rows, for [`crate::merge_evidence`] and [`crate::profile`]; empty where no row is
    /// stored.
    pub evidence: Vec<u8>,
    /// Rows in `rows`.
    pub rows_stored: u64,
    /// Records and lines that are not stored, in the order of the file.
    pub rejected: Vec<RejectedRow>,
    /// What a resumed parser starts from.
    pub checkpoint: Checkpoint,
}

/// A record or line that is not stored as a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRow {
    /// Line of the file at which the record begins, from 1.
    pub line: u64,
    /// Byte of the file at which the record begins, from 0.
    pub byte_offset: u64,
    /// Length of the record in the file, its line end included.
    pub byte_length: u64,
    /// Why it is none.
    pub reason: RejectReason,
    /// Its first bytes as they came, at most [`RAW_BYTES_KEPT`].
    pub raw: Vec<u8>,
}

/// Takes rows until it is closed.
pub(crate) struct OpenBatch {
    source_bytes: u64,
    max_encoded_bytes: u64,
    rows: CopyBinary,
    blocks: Blocks,
    evidence: Evidence,
    rows_stored: u64,
    rejected: Vec<RejectedRow>,
    /// Buffer of an earlier batch's rows, to be written over.
    spare: Vec<u8>,
    /// Text of an escaped cell; kept for its capacity.
    unescaped: Vec<u8>,
}

impl OpenBatch {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            source_bytes: limits.batch_bytes,
            max_encoded_bytes: (limits.batch_bytes * MAX_GROWTH).max(SMALL_BYTES),
            rows: CopyBinary::default(),
            blocks: Blocks::new(limits.block_rows),
            evidence: Evidence::default(),
            rows_stored: 0,
            rejected: Vec::new(),
            spare: Vec::new(),
            unescaped: Vec::new(),
        }
    }

    /// Encodes one row of a table with `columns` columns, and adds its search terms and its evidence.
    #[inline]
    pub(crate) fn store(&mut self, row_number: u64, columns: usize, record: &Record<'_>) {
        let (cells, extra_cells) = record.spans.split_at(record.spans.len().min(columns));
        // No cell is longer unescaped than it stands in the record; an array takes 20 bytes, and 4 a cell.
        self.rows.begin_tuple(columns as u16 + 2, 8 + record.content_len + 20 + 4 * extra_cells.len());
        self.rows.int8(row_number as i64);
        for span in cells {
            if span.form == Form::Escaped {
                record.unescape_into(span, &mut self.unescaped);
                self.rows.text(&self.unescaped, 0, self.unescaped.len());
            } else {
                self.rows.text(record.source, span.start as usize, span.end as usize);
            }
        }
        for _ in cells.len()..columns {
            self.rows.null();
        }
        if extra_cells.is_empty() {
            self.rows.null();
        } else {
            self.rows.text_array(&record.texts(extra_cells));
        }
        self.blocks.add(row_number, record);
        self.evidence.row(columns, record);
        self.rows_stored += 1;
    }

    pub(crate) fn reject(&mut self, place: Place, source: &[u8], reason: RejectReason) {
        self.rejected.push(RejectedRow {
            line: place.line,
            byte_offset: place.offset_bytes,
            byte_length: source.len() as u64,
            reason,
            raw: source[..source.len().min(RAW_BYTES_KEPT)].to_vec(),
        });
    }

    /// Whether it is large enough to close, `source_bytes` of the file after it began.
    #[inline]
    pub(crate) fn is_full(&self, source_bytes: u64) -> bool {
        source_bytes >= self.source_bytes
            || (self.rows.len() + self.blocks.len()) as u64 >= self.max_encoded_bytes
            || self.rejected.len() >= REJECTED_PER_BATCH
    }

    /// Takes the buffer of rows that have been copied elsewhere.
    pub(crate) fn reuse(&mut self, rows: Vec<u8>) {
        if rows.capacity() > self.spare.capacity() {
            self.spare = rows;
        }
    }

    /// Closes it, and is ready for the next one.
    pub(crate) fn close(&mut self, checkpoint: Checkpoint) -> Batch {
        let mut buffer = std::mem::take(&mut self.spare);
        // The next batch is about as large; a sixteenth more spares it from moving.
        buffer.reserve((self.rows.len() + self.rows.len() / 16).saturating_sub(buffer.len()));
        let next = CopyBinary::over(buffer);
        Batch {
            rows: std::mem::replace(&mut self.rows, next).finish(),
            postings: self.blocks.take(),
            evidence: self.evidence.take(),
            rows_stored: std::mem::take(&mut self.rows_stored),
            rejected: std::mem::take(&mut self.rejected),
            checkpoint,
        }
    }
}
