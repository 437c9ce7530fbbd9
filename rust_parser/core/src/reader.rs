//! Finds the records of a file whose reading is known, reads malformed ones again, and hands them on in order.
//!
//! A record is malformed where text follows a closing quote, where a quote is still open at the file's end or beyond the
//! limit of a record, and where it has not as many cells as there are columns, but one that runs over a line end up to a
//! quote behind a delimiter, as if that opened the next cell. Then its first line
//! alone is read again ([`crate::repair`]); if that gives the cells that are wanted, it is the record, and the scan goes on
//! behind it. What was scanned in vain is bounded: no more bytes than the file has so far, and eight records of the greatest
//! length; after that, malformed records are not read again.

use memchr::{memchr2, memchr2_iter};

use crate::batch::Batch;
use crate::checkpoint::{Checkpoint, InvalidCheckpoint, State};
use crate::digest::Digest;
use crate::error::{ErrorCode, ParseError};
use crate::options::Options;
use crate::reading::{Detected, Encoding};
use crate::record::{Record, line_ends};
use crate::repair::reread;
use crate::scan::{Form, Scanner, Span};
use crate::source::Source;
use crate::table::{Found, Place, Table};

/// Bytes are taken in pieces of this size: their text stays in the processor's cache, and an endless record is noticed early.
const PIECE_BYTES: usize = 128 * 1024;

/// Records of the greatest length that may be scanned in vain at the beginning of a file.
const RECORDS_SCANNED_AGAIN: u64 = 8;

/// What is left when the file has ended.
#[derive(Debug)]
pub struct Finished {
    /// The last batches; at least one.
    pub batches: Vec<Batch>,
    /// SHA-256 of the whole file.
    pub sha256: [u8; 32],
    /// How the file was read.
    pub detected: Detected,
}

/// Reads the bytes behind the byte-order mark.
pub(crate) struct Reader {
    detected: Detected,
    max_record_bytes: u32,
    scanner: Scanner,
    /// The record in progress and what has come behind it, as text.
    text: Vec<u8>,
    /// Bytes of `text` that the scanner has taken in.
    scanned: usize,
    source: Source,
    place: Place,
    table: Table,
    scanned_again_bytes: u64,
    batch_start: u64,
    closed: Vec<Batch>,
}

/// A line, or a record, from the beginning of the text that is not taken.
#[derive(Clone, Copy)]
struct Extent {
    /// Length of the text without its line end.
    content_len: usize,
    /// Length with it.
    len: usize,
    /// Bytes of the text that are CR or LF, its line end included; `None`: the file ends here, without one.
    line_ends: Option<usize>,
    /// Lines that end inside.
    inner_lines: u64,
}

/// What became of a window.
#[derive(PartialEq, Eq)]
enum Progress {
    /// All of it is taken in.
    Done,
    /// The scan goes on behind a line that was read again.
    Again,
}

impl Reader {
    /// At the beginning of a file, of which `digest` has taken the byte-order mark.
    pub(crate) fn new(options: &Options, detected: Detected, digest: Digest, offset_bytes: u64) -> Self {
        let reading = detected.reading;
        let mut reader = Self {
            detected,
            max_record_bytes: options.limits.max_record_bytes,
            scanner: Scanner::new(reading.dialect, options.limits.max_columns as usize + 1),
            text: Vec::new(),
            scanned: 0,
            source: Source::new(reading.encoding, digest),
            place: Place { offset_bytes, line: 1 },
            table: Table::new(options, reading),
            scanned_again_bytes: 0,
            batch_start: 0,
            closed: Vec::new(),
        };
        reader.begin_record();
        reader
    }

    /// At a checkpoint.
    pub(crate) fn resume(options: &Options, checkpoint: &Checkpoint) -> Result<Self, InvalidCheckpoint> {
        let state = State::decode(&checkpoint.state, checkpoint.offset_bytes)?;
        if checkpoint.line == 0 || checkpoint.columns.len() > options.limits.max_columns as usize {
            return Err(InvalidCheckpoint);
        }
        let mut reader = Self::new(options, state.detected, state.digest, checkpoint.offset_bytes);
        reader.place.line = checkpoint.line;
        reader.table = Table::resume(options, state.detected.reading, checkpoint, state.table_has_ended);
        reader.scanned_again_bytes = state.scanned_again_bytes;
        reader.batch_start = checkpoint.offset_bytes;
        reader.begin_record();
        Ok(reader)
    }

    pub(crate) fn detected(&self) -> &Detected {
        &self.detected
    }

    /// Takes the next bytes of the file.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), ParseError> {
        for piece in bytes.chunks(PIECE_BYTES) {
            self.append(piece, false);
            self.read(false)?;
        }
        Ok(())
    }

    /// What the encoding turned out to be, of a file that was ASCII so far.
    pub(crate) fn turn_to(&mut self, encoding: Encoding) {
        self.source.turn_to(encoding, &self.text);
        self.detected.reading.encoding = encoding;
        self.table.turn_to(encoding);
    }

    /// The batches that were closed since the last call.
    pub(crate) fn closed(&mut self) -> Vec<Batch> {
        std::mem::take(&mut self.closed)
    }

    /// See [`crate::Parser::reuse`].
    pub(crate) fn reuse(&mut self, rows: Vec<u8>) {
        self.table.reuse(rows);
    }

    /// Takes the end of the file.
    pub(crate) fn finish(mut self) -> Result<Finished, ParseError> {
        self.append(&[], true);
        self.read(true)?;
        self.table.finish(self.place)?;
        self.close_batch(&[]);
        let sha256 = self.source.digest(&[]).clone().finish();
        Ok(Finished { batches: self.closed, sha256, detected: self.detected })
    }

    fn append(&mut self, bytes: &[u8], is_end: bool) {
        self.source.append(bytes, is_end, &mut self.text);
    }

    /// Takes the records that are whole; at the file's end, the last one too.
    fn read(&mut self, is_end: bool) -> Result<(), ParseError> {
        let mut text = std::mem::take(&mut self.text);
        let mut start = 0;
        while self.read_window(&text, &mut start, is_end)? == Progress::Again {}
        self.source.drop_taken(&text);
        text.drain(..start);
        self.scanned = text.len();
        self.text = text;
        Ok(())
    }

    /// `start` is where the record in progress begins.
    fn read_window(&mut self, text: &[u8], start: &mut usize, is_end: bool) -> Result<Progress, ParseError> {
        let base = self.scanned;
        let mut window = self.scanner.window(&text[base..], base - *start);
        while let Some(end) = self.scanner.next_record(&mut window) {
            let next = base + end.next;
            let record = self.extent(&text[*start..], end.content_len as usize, next - *start);
            *start += self.take_record(text, *start, record)?;
            self.begin_record();
            if *start < next {
                self.scanned = *start;
                return Ok(Progress::Again);
            }
        }
        self.scanned = text.len();
        let taken = self.take_rest(text, *start, is_end)?;
        if taken == 0 {
            return Ok(Progress::Done);
        }
        *start += taken;
        self.begin_record();
        self.scanned = *start;
        Ok(Progress::Again)
    }

    /// Looks for the next record, or line of the preamble.
    #[inline]
    fn begin_record(&mut self) {
        if self.place.line <= u64::from(self.detected.reading.dialect.preamble_lines) {
            self.scanner.begin_line();
        } else {
            self.scanner.begin_record();
        }
    }

    /// Takes what the window's end has left, where that cannot wait; returns how much.
    fn take_rest(&mut self, text: &[u8], start: usize, is_end: bool) -> Result<usize, ParseError> {
        let rest = &text[start..];
        let (limit, code) = self.table.max_record();
        if self.scanner.content_len(rest.len()) > limit as usize {
            return self.take_endless(text, start, is_end, (code, 0, limit));
        }
        if !is_end {
            return Ok(0);
        }
        match self.scanner.finish(rest.len() as u32) {
            Ok(None) => Ok(0),
            Ok(Some(content_len)) => {
                let mut record = self.extent(rest, content_len as usize, rest.len());
                if record.len == record.content_len {
                    record.line_ends = None;
                }
                self.take_record(text, start, record)
            }
            Err(quote) => self.take_endless(text, start, is_end, (ErrorCode::UnclosedQuote, quote.at as usize, 0)),
        }
    }

    #[inline]
    fn extent(&self, rest: &[u8], content_len: usize, len: usize) -> Extent {
        let mut record = Extent { content_len, len, line_ends: Some(len - content_len), inner_lines: 0 };
        if self.scanner.traits().line_ends {
            let content = &rest[..content_len];
            record.inner_lines = line_ends(content);
            record.line_ends = Some(len - content_len + memchr2_iter(b'\r', b'\n', content).count());
        }
        record
    }

    /// Takes the record that was found, or of a malformed one its first line; returns how much.
    #[inline]
    fn take_record(&mut self, text: &[u8], start: usize, record: Extent) -> Result<usize, ParseError> {
        let (limit, code) = self.table.max_record();
        if record.content_len > limit as usize {
            return self.take_endless(text, start, record.line_ends.is_none(), (code, 0, limit));
        }
        let dialect = self.detected.reading.dialect;
        if dialect.trims_blanks {
            self.scanner.trim(&text[start..], &dialect);
        }
        if self.is_malformed(&text[start..]) {
            let line = first_line(&text[start..start + record.len], record);
            if self.take_line_again(text, start, line, (record.len - line.len) as u64)? {
                return Ok(line.len);
            }
        }
        let traits = self.scanner.traits();
        let found = Found {
            record: Record {
                source: &text[start..],
                content_len: record.content_len,
                spans: self.scanner.spans(),
                traits,
                delimiter: dialect.delimiter,
                quote: dialect.quote,
                escape: dialect.escape,
                is_contiguous: !dialect.trims_blanks && !traits.escapes,
            },
            source: self.source.record(text, record.len, record.line_ends),
            encoding: self.detected.reading.encoding,
            place: self.place,
            is_repaired: false,
        };
        let source_len = found.source.len();
        self.table.take(&found)?;
        self.pass(text, source_len, 1 + record.inner_lines);
        Ok(record.len)
    }

    #[inline]
    fn is_malformed(&self, record: &[u8]) -> bool {
        let traits = self.scanner.traits();
        (traits.text_after_quote || traits.line_ends && self.is_torn(record)) && !self.table.has_ended()
    }

    /// Whether the width is wrong and some quoted cell looks as if it ended with the next cell's quote.
    fn is_torn(&self, record: &[u8]) -> bool {
        let delimiter = self.detected.reading.dialect.delimiter;
        let looks_wrong = |span: &Span| {
            let cell = &record[span.start as usize..span.end as usize];
            span.form != Form::Plain && cell.last() == Some(&delimiter) && memchr2(b'\r', b'\n', cell).is_some()
        };
        let spans = self.scanner.spans();
        self.table.width().is_some_and(|width| width != spans.len()) && spans.iter().any(looks_wrong)
    }

    /// Takes the first line of a record that passes a limit or is never closed; otherwise it is an error: code, place in
    /// the record, limit.
    fn take_endless(
        &mut self,
        text: &[u8],
        start: usize,
        is_end: bool,
        (code, at, limit): (ErrorCode, usize, u32),
    ) -> Result<usize, ParseError> {
        let rest = &text[start..];
        let whole = Extent { content_len: rest.len(), len: rest.len(), line_ends: None, inner_lines: 0 };
        let line = first_line(rest, whole);
        if line.len == rest.len() && rest.ends_with(b"\r") && !is_end {
            // Perhaps a CRLF.
            return Ok(0);
        }
        let max_record = self.table.max_record().0 as usize;
        // How much of a record beyond the limit was scanned depends on how the file was split.
        let wasted = if limit > 0 { max_record } else { rest.len() - line.len };
        let is_line = line.content_len <= max_record && (line.line_ends.is_some() || is_end);
        if is_line && self.take_line_again(text, start, line, wasted as u64)? {
            return Ok(line.len);
        }
        let source = self.source.record(text, rest.len(), None);
        Err(self.found(Record::unread(rest), source).error(code, at, limit))
    }

    /// Takes a line as one record with stray quotes as text, if it has the cells that are wanted, and the bytes that were
    /// scanned in vain are not too many.
    fn take_line_again(&mut self, text: &[u8], start: usize, line: Extent, wasted: u64) -> Result<bool, ParseError> {
        let most = self.place.offset_bytes + RECORDS_SCANNED_AGAIN * u64::from(self.max_record_bytes);
        if self.scanned_again_bytes + wasted > most {
            return Ok(false);
        }
        let content = &text[start..start + line.content_len];
        let Some(cells) = reread(content, &self.detected.reading.dialect, self.table.width()) else { return Ok(false) };
        let source = self.source.record(text, line.len, line.line_ends);
        let found = Found { is_repaired: true, ..self.found(cells.record(), source) };
        let source_len = source.len();
        self.table.take(&found)?;
        self.scanned_again_bytes += wasted;
        self.pass(text, source_len, 1);
        Ok(true)
    }

    fn found<'a>(&self, record: Record<'a>, source: &'a [u8]) -> Found<'a> {
        Found { record, source, encoding: self.detected.reading.encoding, place: self.place, is_repaired: false }
    }

    /// Goes on behind a record.
    #[inline]
    fn pass(&mut self, text: &[u8], source_len: usize, lines: u64) {
        self.source.take(source_len);
        self.place.offset_bytes += source_len as u64;
        self.place.line += lines;
        if self.table.closes_batch(self.place.offset_bytes - self.batch_start) {
            self.close_batch(text);
        }
    }

    fn close_batch(&mut self, text: &[u8]) {
        let state = State {
            digest: self.source.digest(text).clone(),
            detected: self.detected,
            scanned_again_bytes: self.scanned_again_bytes,
            table_has_ended: self.table.has_ended(),
        };
        self.batch_start = self.place.offset_bytes;
        let batch = self.table.close_batch(self.place, state.encode());
        self.closed.push(batch);
    }
}

/// The first line of a record.
fn first_line(text: &[u8], record: Extent) -> Extent {
    match memchr2(b'\r', b'\n', text) {
        None => Extent { inner_lines: 0, ..record },
        Some(content_len) => {
            let line_ends = if text[content_len..].starts_with(b"\r\n") { 2 } else { 1 };
            Extent { content_len, len: content_len + line_ends, line_ends: Some(line_ends), inner_lines: 0 }
        }
    }
}
