//! Ties the steps together: feeds in, batches out.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use crate::batch::{Batch, OpenBatch};
use crate::checkpoint::{Checkpoint, InvalidCheckpoint};
use crate::digest::Digest;
use crate::error::{ErrorCode, ParseError};
use crate::options::{InvalidOption, Options};
use crate::record::{Record, RejectReason, line_ends};
use crate::scan::Scanner;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A feed is taken in pieces of this size, so that positions in a window fit 32 bits and an endless record is noticed early.
const WINDOW_BYTES: usize = 16 << 20;

/// Reads one CSV file, pushed to it in any split.
///
/// After an error from [`Parser::feed`] it must be dropped; the upload goes on with another from the last checkpoint.
pub struct Parser {
    options: Options,
    scanner: Scanner,
    /// Bytes of the record in progress that came with earlier feeds. At most `max_record_bytes` and a line end.
    carry: Vec<u8>,
    /// Bytes of a byte-order mark seen at the start of the file; as long as the file may still begin with one.
    byte_order_mark: Option<usize>,
    digest: Digest,
    received_bytes: u64,
    position: Position,
    columns: Arc<[String]>,
    batch: OpenBatch,
    batch_start: u64,
    closed: Vec<Batch>,
}

/// The place of the next record, and the counts before it.
struct Position {
    offset_bytes: u64,
    line: u64,
    rows_stored: u64,
    rows_rejected: u64,
}

/// What is left when the file has ended.
#[derive(Debug)]
pub struct Finished {
    /// The last batches; at least one.
    pub batches: Vec<Batch>,
    /// SHA-256 of the whole file.
    pub sha256: [u8; 32],
}

/// Why no parser could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidStart {
    /// An option is out of range.
    Option(InvalidOption),
    /// The checkpoint is none.
    Checkpoint(InvalidCheckpoint),
}

impl fmt::Display for InvalidStart {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(error) => error.fmt(formatter),
            Self::Checkpoint(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for InvalidStart {}

impl Parser {
    /// A parser at the start of a file, or at `resume`; then the file is fed from `resume.offset_bytes` on, and the options
    /// must be those of the parser that made the checkpoint.
    pub fn new(options: Options, resume: Option<&Checkpoint>) -> Result<Self, InvalidStart> {
        options.check().map_err(InvalidStart::Option)?;
        let mut parser = Self {
            options,
            scanner: Scanner::new(options.dialect, options.limits.max_columns as usize + 1),
            carry: Vec::new(),
            byte_order_mark: Some(0),
            digest: Digest::new(),
            received_bytes: 0,
            position: Position { offset_bytes: 0, line: 1, rows_stored: 0, rows_rejected: 0 },
            columns: Arc::default(),
            batch: OpenBatch::new(&options.limits),
            batch_start: 0,
            closed: Vec::new(),
        };
        if let Some(checkpoint) = resume {
            parser.go_to(checkpoint).map_err(InvalidStart::Checkpoint)?;
        }
        Ok(parser)
    }

    /// Offset of the next byte that is expected, counted in the file.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Takes the next bytes of the file and returns the batches that they close, in order.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Batch>, ParseError> {
        let mut rest = bytes;
        if let Some(seen) = self.byte_order_mark {
            rest = self.skip_byte_order_mark(seen, bytes)?;
        }
        for window in rest.chunks(WINDOW_BYTES) {
            self.read(window)?;
        }
        Ok(std::mem::take(&mut self.closed))
    }

    /// Gives back the rows of a batch that have been copied elsewhere, so that their memory serves a later batch.
    pub fn reuse(&mut self, rows: Vec<u8>) {
        self.batch.reuse(rows);
    }

    /// Takes the end of the file.
    pub fn finish(mut self) -> Result<Finished, ParseError> {
        if let Some(seen @ 1..) = self.byte_order_mark.take() {
            self.read(&BYTE_ORDER_MARK[..seen])?;
        }
        let carry = std::mem::take(&mut self.carry);
        match self.scanner.finish(carry.len() as u32) {
            Ok(None) => {}
            Ok(Some(content_len)) => self.take_record(&carry, content_len as usize, carry.len())?,
            Err(quote) => return Err(self.error_inside(ErrorCode::UnclosedQuote, &carry, quote.at as usize, 0)),
        }
        if self.columns.is_empty() {
            let lines_only = self.options.dialect.has_header && self.position.line > 1;
            return Err(self.error(if lines_only { ErrorCode::NoHeader } else { ErrorCode::EmptyFile }, 0));
        }
        self.close_batch();
        Ok(Finished { batches: self.closed, sha256: self.digest.finish() })
    }

    fn go_to(&mut self, checkpoint: &Checkpoint) -> Result<(), InvalidCheckpoint> {
        self.digest = Digest::resume(&checkpoint.sha256_state, checkpoint.offset_bytes)?;
        if checkpoint.line == 0 || checkpoint.columns.len() > self.options.limits.max_columns as usize {
            return Err(InvalidCheckpoint);
        }
        self.position = Position {
            offset_bytes: checkpoint.offset_bytes,
            line: checkpoint.line,
            rows_stored: checkpoint.rows_stored,
            rows_rejected: checkpoint.rows_rejected,
        };
        if checkpoint.offset_bytes > 0 {
            self.byte_order_mark = None;
        }
        self.received_bytes = checkpoint.offset_bytes;
        self.batch_start = checkpoint.offset_bytes;
        self.columns = Arc::clone(&checkpoint.columns);
        Ok(())
    }

    /// Takes bytes while the file may begin with a byte-order mark, of which `seen` bytes came before; returns the rest.
    fn skip_byte_order_mark<'a>(&mut self, seen: usize, bytes: &'a [u8]) -> Result<&'a [u8], ParseError> {
        let expected = &BYTE_ORDER_MARK[seen..];
        let matching = expected.iter().zip(bytes).take_while(|(expected, byte)| expected == byte).count();
        if matching == bytes.len() && matching < expected.len() {
            self.byte_order_mark = Some(seen + matching);
            return Ok(&[]);
        }
        self.byte_order_mark = None;
        if matching < expected.len() {
            self.read(&BYTE_ORDER_MARK[..seen])?;
            return Ok(bytes);
        }
        self.digest.update(BYTE_ORDER_MARK);
        self.received_bytes += BYTE_ORDER_MARK.len() as u64;
        self.position.offset_bytes += BYTE_ORDER_MARK.len() as u64;
        Ok(&bytes[matching..])
    }

    /// Takes the records that end in this window, and keeps the beginning of the next one.
    fn read(&mut self, bytes: &[u8]) -> Result<(), ParseError> {
        self.received_bytes += bytes.len() as u64;
        let mut window = self.scanner.window(bytes, self.carry.len());
        let (mut start, mut digested) = (0, 0);
        while let Some(end) = self.scanner.next_record(&mut window) {
            let content_len = end.content_len as usize;
            if self.carry.is_empty() {
                self.take_record(&bytes[start..], content_len, end.next - start)?;
            } else {
                self.check_record_len(content_len)?;
                let mut record = std::mem::take(&mut self.carry);
                record.extend_from_slice(&bytes[..end.next]);
                self.take_record(&record, content_len, record.len())?;
                record.clear();
                self.carry = record;
            }
            self.scanner.begin_record();
            start = end.next;
            if self.batch.is_full(self.position.offset_bytes - self.batch_start) {
                self.digest.update(&bytes[digested..start]);
                digested = start;
                self.close_batch();
            }
        }
        self.digest.update(&bytes[digested..]);
        let rest = &bytes[start..];
        self.check_record_len(self.scanner.content_len(self.carry.len() + rest.len()))?;
        self.carry.extend_from_slice(rest);
        Ok(())
    }

    /// Takes the whole record of `len` bytes at the start of `source`.
    #[inline]
    fn take_record(&mut self, source: &[u8], content_len: usize, len: usize) -> Result<(), ParseError> {
        self.check_record_len(content_len)?;
        let record = Record {
            source,
            content_len,
            len,
            spans: self.scanner.spans(),
            traits: self.scanner.traits(),
            delimiter: self.options.dialect.delimiter,
            quote: self.options.dialect.quote,
        };
        let Position { line, offset_bytes, .. } = self.position;
        if record.is_empty_line() && self.columns.len() != 1 {
            // No record.
        } else if self.columns.is_empty() && self.options.dialect.has_header {
            self.columns = self.header(&record)?;
        } else {
            if self.columns.is_empty() {
                self.check_columns(record.spans.len())?;
                self.columns = (1..=record.spans.len()).map(column_name).collect();
            }
            if let Some(reason) = record.reject_reason(self.columns.len()) {
                self.batch.reject(line, offset_bytes, &record, reason);
                self.position.rows_rejected += 1;
            } else {
                self.check_cells(&record)?;
                self.position.rows_stored += 1;
                self.batch.store(self.position.rows_stored, self.columns.len(), &record);
            }
        }
        self.position.line += 1 + record.inner_lines();
        self.position.offset_bytes += len as u64;
        Ok(())
    }

    /// Column names from the first record; an empty name becomes that of its place.
    fn header(&self, record: &Record<'_>) -> Result<Arc<[String]>, ParseError> {
        self.check_columns(record.spans.len())?;
        if let Some(reason) = record.unreadable() {
            let code = match reason {
                RejectReason::NulByte => ErrorCode::HeaderNulByte,
                RejectReason::InvalidUtf8 => ErrorCode::HeaderInvalidUtf8,
                _ => ErrorCode::HeaderTextAfterQuote,
            };
            return Err(self.error(code, 0));
        }
        self.check_cells(record)?;
        let mut names = Vec::with_capacity(record.spans.len());
        record.for_each_cell(|cell| {
            let name = String::from_utf8_lossy(cell).into_owned();
            names.push(if name.is_empty() { column_name(names.len() + 1) } else { name });
        });
        let mut seen = HashSet::new();
        if names.iter().all(|name| seen.insert(name.as_str())) {
            Ok(names.into())
        } else {
            Err(self.error(ErrorCode::DuplicateColumn, 0))
        }
    }

    fn close_batch(&mut self) {
        let checkpoint = Checkpoint {
            offset_bytes: self.position.offset_bytes,
            line: self.position.line,
            rows_stored: self.position.rows_stored,
            rows_rejected: self.position.rows_rejected,
            columns: Arc::clone(&self.columns),
            sha256_state: self.digest.state(),
        };
        self.batch_start = checkpoint.offset_bytes;
        let batch = self.batch.close(checkpoint);
        self.closed.push(batch);
    }

    #[inline]
    fn check_record_len(&self, content_len: usize) -> Result<(), ParseError> {
        let limit = self.options.limits.max_record_bytes;
        if content_len > limit as usize { Err(self.error(ErrorCode::RecordTooLong, limit)) } else { Ok(()) }
    }

    fn check_columns(&self, columns: usize) -> Result<(), ParseError> {
        let limit = self.options.limits.max_columns;
        if columns > limit as usize { Err(self.error(ErrorCode::TooManyColumns, limit)) } else { Ok(()) }
    }

    #[inline]
    fn check_cells(&self, record: &Record<'_>) -> Result<(), ParseError> {
        let limit = self.options.limits.max_cell_bytes;
        match record.longer_cell(limit as usize) {
            Some(at) => Err(self.error_inside(ErrorCode::CellTooLong, record.content(), at, limit)),
            None => Ok(()),
        }
    }

    /// An error at the start of the record in progress.
    fn error(&self, code: ErrorCode, limit: u32) -> ParseError {
        let Position { line, offset_bytes, .. } = self.position;
        ParseError { code, line, byte_offset: offset_bytes, limit: u64::from(limit) }
    }

    /// An error `at` bytes into the record in progress.
    fn error_inside(&self, code: ErrorCode, record: &[u8], at: usize, limit: u32) -> ParseError {
        let Position { line, offset_bytes, .. } = self.position;
        ParseError {
            code,
            line: line + line_ends(&record[..at]),
            byte_offset: offset_bytes + at as u64,
            limit: u64::from(limit),
        }
    }
}

fn column_name(number: usize) -> String {
    format!("column_{number}")
}
