//! Decides what each record of a file is: part of the header, a row, or none; and keeps count.
//!
//! Behind an empty line, or a record of empty cells, the table may have ended. What follows is then held back, 64 records or
//! 64 KiB at most, until it is clear: a record as wide as the table means that the table goes on; only shorter ones up to
//! the file's end are a footer; some of another width, all of the same, are another table. A record that names the columns
//! again begins another table at once. Other tables are not stored, so that all rows of one version are of one kind.
//!
//! No checkpoint is made while records are held, so that a resumed parser holds the same ones.

use std::sync::Arc;

use crate::batch::{Batch, OpenBatch};
use crate::checkpoint::{Checkpoint, Counts};
use crate::error::{ErrorCode, ParseError};
use crate::options::{Limits, Options};
use crate::reading::{Encoding, Reading};
use crate::record::{Record, RejectReason, Rewritten, line_ends};
use crate::row_width;
use crate::scan::{Form, Span};
use crate::transcode::source_at;

/// Records held at most.
const MAX_HELD_RECORDS: usize = 64;
/// Bytes of records held at most, but for the last one.
const MAX_HELD_BYTES: usize = 64 * 1024;

/// The start of a record in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset_bytes: u64,
    pub(crate) line: u64,
}

/// A record where it stands in the file.
#[derive(Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) record: Record<'a>,
    /// The record and its line end as they stood in the file.
    pub(crate) source: &'a [u8],
    pub(crate) encoding: Encoding,
    pub(crate) place: Place,
    /// Whether a stray quote was taken as text.
    pub(crate) is_repaired: bool,
}

impl Found<'_> {
    /// An error `at` bytes into the record's text; at its beginning where the text was repaired.
    pub(crate) fn error(&self, code: ErrorCode, at: usize, limit: u32) -> ParseError {
        let at = if self.is_repaired { 0 } else { at };
        ParseError {
            code,
            line: self.place.line + line_ends(&self.record.source[..at]),
            byte_offset: self.place.offset_bytes + source_at(self.encoding, self.source, at) as u64,
            limit: u64::from(limit),
        }
    }
}

/// The table in progress, and the batch that its rows go to.
#[expect(clippy::struct_excessive_bools, reason = "two of them are options")]
pub(crate) struct Table {
    reading: Reading,
    limits: Limits,
    replaces_invalid_bytes: bool,
    keeps_ragged_rows: bool,
    columns: Arc<[String]>,
    /// The names of the header's records so far.
    header: Vec<Vec<String>>,
    header_bytes: usize,
    counts: Counts,
    /// Whether another table has begun.
    has_ended: bool,
    /// Whether the table may have ended, so that what follows is held.
    may_have_ended: bool,
    held: Vec<Held>,
    held_bytes: usize,
    batch: OpenBatch,
}

/// A record that is held back.
struct Held {
    text: Vec<u8>,
    spans: Vec<Span>,
    source: Vec<u8>,
    /// The rest of it.
    found: Found<'static>,
}

impl Held {
    fn new(found: &Found<'_>) -> Self {
        let Found { record, encoding, place, is_repaired, source } = *found;
        let record = Record { source: &[], spans: &[], ..record };
        Self {
            text: found.record.content().to_vec(),
            spans: found.record.spans.to_vec(),
            source: source.to_vec(),
            found: Found { record, source: &[], encoding, place, is_repaired },
        }
    }

    fn found(&self) -> Found<'_> {
        let record = Record { source: &self.text, spans: &self.spans, ..self.found.record };
        Found { record, source: &self.source, ..self.found }
    }
}

/// What records that were held are.
#[derive(Clone, Copy)]
enum Behind {
    /// Rows: the table goes on.
    Rows,
    /// Lines behind the table.
    Footer,
    /// Lines behind the table up to the record of this index, then another table.
    OtherTable(usize),
}

impl Table {
    pub(crate) fn new(options: &Options, reading: Reading) -> Self {
        Self {
            reading,
            limits: options.limits,
            replaces_invalid_bytes: options.replaces_invalid_bytes,
            keeps_ragged_rows: options.keeps_ragged_rows,
            columns: Arc::default(),
            header: Vec::new(),
            header_bytes: 0,
            counts: Counts::default(),
            has_ended: false,
            may_have_ended: false,
            held: Vec::new(),
            held_bytes: 0,
            batch: OpenBatch::new(&options.limits),
        }
    }

    /// The table as it was at a checkpoint.
    pub(crate) fn resume(options: &Options, reading: Reading, checkpoint: &Checkpoint, has_ended: bool) -> Self {
        let columns = Arc::clone(&checkpoint.columns);
        Self { columns, counts: checkpoint.counts, has_ended, ..Self::new(options, reading) }
    }

    /// Count of columns; `None` before they are known.
    pub(crate) fn width(&self) -> Option<usize> {
        if self.columns.is_empty() { None } else { Some(self.columns.len()) }
    }

    /// Whether another table has begun, whose records are not stored.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// The longest that the next record may be, and the error that a longer one is.
    #[inline]
    pub(crate) fn max_record(&self) -> (u32, ErrorCode) {
        let Limits { max_record_bytes, max_header_bytes, .. } = self.limits;
        let left = max_header_bytes.saturating_sub(self.header_bytes as u32);
        if self.is_before_rows() && left < max_record_bytes {
            (left, ErrorCode::HeaderTooLong)
        } else {
            (max_record_bytes, ErrorCode::RecordTooLong)
        }
    }

    /// Takes the next record.
    #[inline]
    pub(crate) fn take(&mut self, found: &Found<'_>) -> Result<(), ParseError> {
        let record = &found.record;
        let columns = self.columns.len();
        if record.is_empty_line() && columns != 1 {
            self.may_have_ended |= self.is_in_rows();
            Ok(())
        } else if self.has_ended {
            self.reject(found, RejectReason::OtherTable);
            Ok(())
        } else if self.may_have_ended {
            self.hold(found)
        } else if record.traits.line_only {
            self.set_aside(found);
            Ok(())
        } else if columns == 0 {
            self.begin(found)
        } else if self.names_columns(record) {
            self.has_ended = true;
            self.reject(found, RejectReason::OtherTable);
            Ok(())
        } else if columns > 1 && self.is_in_rows() && record.is_blank() {
            self.may_have_ended = true;
            self.hold(found)
        } else {
            self.row(found)
        }
    }

    /// Takes the end of the file, at `place`.
    pub(crate) fn finish(&mut self, place: Place) -> Result<(), ParseError> {
        self.release(self.what_was_held(true))?;
        if !self.header.is_empty() {
            self.name_columns();
        }
        if self.columns.is_empty() {
            let lines_only = self.reading.dialect.header_rows > 0 && place.line > 1;
            let code = if lines_only { ErrorCode::NoHeader } else { ErrorCode::EmptyFile };
            return Err(ParseError { code, line: place.line, byte_offset: place.offset_bytes, limit: 0 });
        }
        Ok(())
    }

    /// Whether a batch closes here, `source_bytes` of the file after it began. Depends on the file alone, not on how it was
    /// split, so that a resumed parser makes the same batches.
    #[inline]
    pub(crate) fn closes_batch(&self, source_bytes: u64) -> bool {
        self.batch.is_full(source_bytes) && !self.may_have_ended && self.header.is_empty()
    }

    /// Closes the batch; `state` is what else a checkpoint at `place` has.
    pub(crate) fn close_batch(&mut self, place: Place, state: Vec<u8>) -> Batch {
        self.batch.close(Checkpoint {
            offset_bytes: place.offset_bytes,
            line: place.line,
            counts: self.counts,
            columns: Arc::clone(&self.columns),
            state,
        })
    }

    /// Gives back the rows of a batch that have been copied elsewhere.
    pub(crate) fn reuse(&mut self, rows: Vec<u8>) {
        self.batch.reuse(rows);
    }

    /// What the encoding turned out to be, of a file that was ASCII so far.
    pub(crate) fn turn_to(&mut self, encoding: Encoding) {
        self.reading.encoding = encoding;
    }

    fn is_before_rows(&self) -> bool {
        self.columns.is_empty() && self.reading.dialect.header_rows > 0
    }

    fn is_in_rows(&self) -> bool {
        self.counts.rows_stored > 0 && !self.has_ended
    }

    /// Takes a record of the header, or the first row of a file without one.
    fn begin(&mut self, found: &Found<'_>) -> Result<(), ParseError> {
        let record = &found.record;
        let limit = self.limits.max_columns;
        if record.spans.len() > limit as usize {
            return Err(found.error(ErrorCode::TooManyColumns, 0, limit));
        }
        if self.reading.dialect.header_rows == 0 {
            self.columns = (1..=record.spans.len()).map(column_name).collect();
            return self.row(found);
        }
        match record.unreadable() {
            Some(RejectReason::NulByte) => return Err(found.error(ErrorCode::HeaderNulByte, 0, 0)),
            Some(_) if !self.replaces_invalid_bytes => return Err(found.error(ErrorCode::HeaderInvalidBytes, 0, 0)),
            _ => {}
        }
        self.check_cells(found)?;
        let mut names = Vec::with_capacity(record.spans.len());
        record.for_each_cell(|cell| names.push(String::from_utf8_lossy(cell).into_owned()));
        self.header.push(names);
        self.header_bytes += record.content_len;
        if self.header.len() == self.reading.dialect.header_rows as usize {
            self.name_columns();
        }
        Ok(())
    }

    /// Makes the column names from the header's records: the parts of a name joined by a blank, empty ones left out; of an
    /// empty name, its place. Two columns may have the same name: portals' files do.
    fn name_columns(&mut self) {
        let header = std::mem::take(&mut self.header);
        let width = header.iter().map(Vec::len).max().unwrap_or_default();
        let name = |index: usize| {
            let parts = header.iter().filter_map(|names| names.get(index)).filter(|part| !part.is_empty());
            let name = parts.map(String::as_str).collect::<Vec<_>>().join(" ");
            if name.is_empty() { column_name(index + 1) } else { name }
        };
        self.columns = (0..width).map(name).collect();
    }

    /// Whether a record begins another table by naming the columns again: as many of them as it has cells, and half of
    /// them at least, or all and more.
    #[inline]
    fn names_columns(&self, record: &Record<'_>) -> bool {
        let shared = record.spans.len().min(self.columns.len());
        let Some(first) = record.spans.first() else { return false };
        let len = (first.end - first.start) as usize;
        // Nearly every row differs here already.
        if len != self.columns[0].len() && first.form != Form::Escaped && len > 0 {
            return false;
        }
        if self.reading.dialect.header_rows != 1 || shared < 2 || shared * 2 < self.columns.len() {
            return false;
        }
        let mut index = 0;
        let mut is_equal = true;
        record.for_each_cell(|cell| {
            if let Some(name) = self.columns[..shared].get(index) {
                is_equal &= cell == name.as_bytes() || cell.is_empty() && *name == column_name(index + 1);
            }
            index += 1;
        });
        is_equal
    }

    /// Takes a record that may stand behind the table.
    fn hold(&mut self, found: &Found<'_>) -> Result<(), ParseError> {
        let record = &found.record;
        if !record.traits.line_only && !record.is_blank() {
            if self.names_columns(record) {
                self.release(match self.what_was_held(true) {
                    Behind::Rows => Behind::Rows,
                    Behind::Footer | Behind::OtherTable(_) => Behind::Footer,
                })?;
                return self.take(found);
            }
            if record.spans.len() == self.columns.len() {
                self.release(Behind::Rows)?;
                return self.row(found);
            }
        }
        self.held_bytes += record.content_len;
        self.held.push(Held::new(found));
        if self.held.len() >= MAX_HELD_RECORDS || self.held_bytes >= MAX_HELD_BYTES {
            self.release(self.what_was_held(false))?;
        }
        Ok(())
    }

    /// What the records that are held are, at the file's end or where no more can be held.
    fn what_was_held(&self, at_end: bool) -> Behind {
        let is_record = |held: &&Held| !held.found.record.traits.line_only && !held.found().record.is_blank();
        // Titles and notes before another table have one cell.
        let Some(first) = self.held.iter().position(|held| is_record(&held) && held.spans.len() > 1) else {
            let has_notes = self.held.iter().any(|held| is_record(&held));
            return if at_end && has_notes { Behind::Footer } else { Behind::Rows };
        };
        let widths: Vec<_> = self.held[first..].iter().filter(is_record).map(|held| held.spans.len()).collect();
        let is_table = widths.len() > 1 && widths.iter().all(|width| *width == widths[0]);
        if is_table {
            Behind::OtherTable(first)
        } else if at_end && widths.iter().all(|width| *width < self.columns.len()) {
            Behind::Footer
        } else {
            Behind::Rows
        }
    }

    /// Takes the records that are held for what they are.
    fn release(&mut self, behind: Behind) -> Result<(), ParseError> {
        self.may_have_ended = false;
        self.held_bytes = 0;
        for (index, held) in std::mem::take(&mut self.held).iter().enumerate() {
            let found = held.found();
            if found.record.traits.line_only {
                self.set_aside(&found);
                continue;
            }
            match behind {
                Behind::Rows => self.row(&found)?,
                Behind::OtherTable(first) if index >= first => self.reject(&found, RejectReason::OtherTable),
                Behind::Footer | Behind::OtherTable(_) => self.reject(&found, RejectReason::Footer),
            }
        }
        self.has_ended |= matches!(behind, Behind::OtherTable(_));
        Ok(())
    }

    /// Stores a row, or rejects it.
    #[inline]
    fn row(&mut self, found: &Found<'_>) -> Result<(), ParseError> {
        match self.reject_reason(&found.record) {
            None => {
                self.check_cells(found)?;
                self.store(found);
            }
            Some(RejectReason::InvalidBytes) if self.replaces_invalid_bytes => {
                self.check_cells(found)?;
                let replaced = replace_invalid(&found.record);
                let replaced = Found { record: replaced.record(), ..*found };
                if let Some(reason) = self.reject_reason(&replaced.record) {
                    self.reject(found, reason);
                } else {
                    self.store(&replaced);
                    self.counts.rows_replaced += 1;
                }
            }
            Some(reason) => self.reject(found, reason),
        }
        Ok(())
    }

    #[inline]
    fn reject_reason(&self, record: &Record<'_>) -> Option<RejectReason> {
        let (cells, columns) = (record.spans.len(), self.columns.len());
        if record.traits.text_after_quote {
            Some(RejectReason::TextAfterQuote)
        } else if cells < columns && !self.keeps_ragged_rows {
            Some(RejectReason::TooFewFields)
        } else if cells > columns && (!self.keeps_ragged_rows || cells > self.limits.max_columns as usize) {
            Some(RejectReason::TooManyFields)
        } else {
            record.unreadable().or_else(|| (!row_width::fits(record, columns)).then_some(RejectReason::RowTooWide))
        }
    }

    #[inline]
    fn store(&mut self, found: &Found<'_>) {
        self.counts.rows_stored += 1;
        self.counts.rows_ragged += u64::from(found.record.spans.len() != self.columns.len());
        self.counts.rows_repaired += u64::from(found.is_repaired);
        self.batch.store(self.counts.rows_stored, self.columns.len(), &found.record);
    }

    fn set_aside(&mut self, found: &Found<'_>) {
        let is_before = found.place.line <= u64::from(self.reading.dialect.preamble_lines);
        self.reject(found, if is_before { RejectReason::Preamble } else { RejectReason::Comment });
    }

    fn reject(&mut self, found: &Found<'_>, reason: RejectReason) {
        let count = if reason.is_row() { &mut self.counts.rows_rejected } else { &mut self.counts.lines_set_aside };
        *count += 1;
        self.batch.reject(found.place, found.source, reason);
    }

    #[inline]
    fn check_cells(&self, found: &Found<'_>) -> Result<(), ParseError> {
        let limit = self.limits.max_cell_bytes;
        match found.record.longer_cell(limit as usize) {
            Some(at) => Err(found.error(ErrorCode::CellTooLong, at, limit)),
            None => Ok(()),
        }
    }
}

/// The record with U+FFFD in place of what is no UTF-8.
fn replace_invalid(record: &Record<'_>) -> Rewritten {
    let mut replaced = Rewritten::new(record.delimiter);
    record.for_each_cell(|cell| {
        replaced.cell(|text| text.extend_from_slice(String::from_utf8_lossy(cell).as_bytes()));
    });
    replaced
}

fn column_name(number: usize) -> String {
    format!("column_{number}")
}
