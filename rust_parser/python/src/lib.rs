//! Module `dari._native`: registers the parser for Python and converts its values. What it does is in `dari_parser`; what
//! Python sees is in `python/dari/_native.pyi`, which a test compares with this file.
//!
//! The interpreter is released while bytes are parsed. A batch crosses as `bytes`; no row or cell becomes an object.

mod evidence;

use std::sync::Arc;

use dari_parser::reading::{self, Encoding, Hints};
use dari_parser::{Counts, InvalidStart, Limits, Options};
use pyo3::create_exception;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

create_exception!(
    dari._native,
    ParseError,
    PyValueError,
    "The file cannot be read on: `args` are code, line, byte offset, and the limit passed or 0."
);

fn parse_error(error: dari_parser::ParseError) -> PyErr {
    ParseError::new_err((error.code.as_str(), error.line, error.byte_offset, error.limit))
}

/// A record or line that is not stored as a row.
#[pyclass(frozen, module = "dari._native")]
struct RejectedRow(dari_parser::RejectedRow);

#[pymethods]
impl RejectedRow {
    /// Line of the file at which the record begins, from 1.
    #[getter]
    fn line(&self) -> u64 {
        self.0.line
    }

    /// Byte of the file at which the record begins, from 0.
    #[getter]
    fn byte_offset(&self) -> u64 {
        self.0.byte_offset
    }

    /// Length of the record in the file, its line end included.
    #[getter]
    fn byte_length(&self) -> u64 {
        self.0.byte_length
    }

    /// Why it is no row.
    #[getter]
    fn reason(&self) -> &'static str {
        self.0.reason.as_str()
    }

    /// The record's first bytes as they came.
    #[getter]
    fn raw(&self) -> &[u8] {
        &self.0.raw
    }
}

/// How a file is read.
#[pyclass(frozen, module = "dari._native")]
struct Reading(reading::Reading);

#[pymethods]
impl Reading {
    /// What the bytes mean.
    #[getter]
    fn encoding(&self) -> &'static str {
        self.0.encoding.as_str()
    }

    /// Between two cells.
    #[getter]
    fn delimiter(&self) -> char {
        char::from(self.0.dialect.delimiter)
    }

    /// Around a cell; empty for none.
    #[getter]
    fn quote(&self) -> String {
        mark_text(self.0.dialect.quote)
    }

    /// Before a quote that is text; empty for none.
    #[getter]
    fn escape(&self) -> String {
        mark_text(self.0.dialect.escape)
    }

    /// Before a line that is no record; empty for none.
    #[getter]
    fn comment(&self) -> String {
        mark_text(self.0.dialect.comment)
    }

    /// Whether blanks around a cell are no part of it.
    #[getter]
    fn trims_blanks(&self) -> bool {
        self.0.dialect.trims_blanks
    }

    /// Lines before the table.
    #[getter]
    fn preamble_lines(&self) -> u32 {
        self.0.dialect.preamble_lines
    }

    /// Records that name the columns.
    #[getter]
    fn header_rows(&self) -> u32 {
        self.0.dialect.header_rows
    }
}

/// What was found out about a file, or told.
#[pyclass(frozen, module = "dari._native")]
struct Detected(reading::Detected);

#[pymethods]
impl Detected {
    /// How the file is read.
    #[getter]
    fn reading(&self) -> Reading {
        Reading(self.0.reading)
    }

    /// The next best way.
    #[getter]
    fn runner_up(&self) -> Option<Reading> {
        self.0.runner_up.map(Reading)
    }

    /// How far the first is ahead of the second: 0 to 1.
    #[getter]
    fn confidence(&self) -> f64 {
        self.0.confidence
    }
}

/// Where a parser can go on: the state between two records.
#[pyclass(frozen, module = "dari._native")]
struct Checkpoint(dari_parser::Checkpoint);

#[pymethods]
impl Checkpoint {
    #[new]
    #[expect(clippy::too_many_arguments, reason = "plain values, as a database row has them")]
    fn new(
        offset_bytes: u64,
        line: u64,
        rows_stored: u64,
        rows_rejected: u64,
        lines_set_aside: u64,
        rows_ragged: u64,
        rows_repaired: u64,
        rows_replaced: u64,
        columns: Vec<String>,
        state: Vec<u8>,
    ) -> Self {
        let counts = Counts { rows_stored, rows_rejected, lines_set_aside, rows_ragged, rows_repaired, rows_replaced };
        Self(dari_parser::Checkpoint { offset_bytes, line, counts, columns: Arc::from(columns), state })
    }

    /// Bytes of the file that are consumed: the start of the next record.
    #[getter]
    fn offset_bytes(&self) -> u64 {
        self.0.offset_bytes
    }

    /// Line number of the next record, from 1.
    #[getter]
    fn line(&self) -> u64 {
        self.0.line
    }

    /// Rows stored so far.
    #[getter]
    fn rows_stored(&self) -> u64 {
        self.0.counts.rows_stored
    }

    /// Rows rejected so far.
    #[getter]
    fn rows_rejected(&self) -> u64 {
        self.0.counts.rows_rejected
    }

    /// Lines that are no rows.
    #[getter]
    fn lines_set_aside(&self) -> u64 {
        self.0.counts.lines_set_aside
    }

    /// Stored rows with fewer or more cells than columns.
    #[getter]
    fn rows_ragged(&self) -> u64 {
        self.0.counts.rows_ragged
    }

    /// Stored rows with a stray quote that was taken as text.
    #[getter]
    fn rows_repaired(&self) -> u64 {
        self.0.counts.rows_repaired
    }

    /// Stored rows with U+FFFD in place of invalid bytes.
    #[getter]
    fn rows_replaced(&self) -> u64 {
        self.0.counts.rows_replaced
    }

    /// Column names; empty until the first record was read.
    #[getter]
    fn columns(&self) -> Vec<&str> {
        self.0.columns.iter().map(String::as_str).collect()
    }

    /// The rest of the parser's state.
    #[getter]
    fn state(&self) -> &[u8] {
        &self.0.state
    }
}

/// Some whole records, encoded for PostgreSQL, and the checkpoint after them.
#[pyclass(frozen, module = "dari._native")]
struct Batch {
    rows: Py<PyBytes>,
    postings: Py<PyBytes>,
    evidence: Py<PyBytes>,
    rows_stored: u64,
    rejected: Vec<Py<RejectedRow>>,
    checkpoint: Py<Checkpoint>,
}

impl Batch {
    /// Copies the encoded rows into Python's memory; Rust's can be used again.
    fn from_core(py: Python<'_>, batch: dari_parser::Batch) -> PyResult<(Self, Vec<u8>)> {
        let rejected = batch.rejected.into_iter().map(|row| Py::new(py, RejectedRow(row)));
        let converted = Self {
            rows: PyBytes::new(py, &batch.rows).unbind(),
            postings: PyBytes::new(py, &batch.postings).unbind(),
            evidence: PyBytes::new(py, &batch.evidence).unbind(),
            rows_stored: batch.rows_stored,
            rejected: rejected.collect::<PyResult<_>>()?,
            checkpoint: Py::new(py, Checkpoint(batch.checkpoint))?,
        };
        Ok((converted, batch.rows))
    }
}

#[pymethods]
impl Batch {
    /// `COPY … (FORMAT binary)` of the rows.
    #[getter]
    fn rows(&self, py: Python<'_>) -> Py<PyBytes> {
        self.rows.clone_ref(py)
    }

    /// `COPY … (FORMAT binary)` of the rows' search index.
    #[getter]
    fn postings(&self, py: Python<'_>) -> Py<PyBytes> {
        self.postings.clone_ref(py)
    }

    /// What is in the columns of the rows.
    #[getter]
    fn evidence(&self, py: Python<'_>) -> Py<PyBytes> {
        self.evidence.clone_ref(py)
    }

    /// Rows in `rows`.
    #[getter]
    fn rows_stored(&self) -> u64 {
        self.rows_stored
    }

    /// Records and lines that are not stored.
    #[getter]
    fn rejected(&self, py: Python<'_>) -> Vec<Py<RejectedRow>> {
        self.rejected.iter().map(|row| row.clone_ref(py)).collect()
    }

    /// The state after this batch.
    #[getter]
    fn checkpoint(&self, py: Python<'_>) -> Py<Checkpoint> {
        self.checkpoint.clone_ref(py)
    }
}

/// What a `Parser` is. Work takes the parser out of it and puts it back when all went well: an error, or a panic in the
/// parser, leaves `Failed` behind by itself.
enum State {
    Reading(Box<dari_parser::Parser>),
    Finished { sha256: [u8; 32] },
    Failed,
}

/// Turns the bytes of a CSV file into batches.
#[pyclass(module = "dari._native")]
struct Parser {
    state: State,
    received_bytes: u64,
    detected: Option<reading::Detected>,
}

#[pymethods]
impl Parser {
    #[new]
    #[pyo3(signature = (
        *,
        encoding = None,
        delimiter = None,
        quote = None,
        escape = None,
        comment = None,
        trims_blanks = None,
        preamble_lines = None,
        header_rows = None,
        replaces_invalid_bytes = false,
        keeps_ragged_rows = true,
        batch_bytes = 4_194_304,
        block_rows = 128,
        max_record_bytes = 1_048_576,
        max_cell_bytes = 1_048_576,
        max_header_bytes = 262_144,
        max_columns = 1_500,
        resume = None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "the options, by name")]
    fn new(
        encoding: Option<&str>,
        delimiter: Option<&str>,
        quote: Option<&str>,
        escape: Option<&str>,
        comment: Option<&str>,
        trims_blanks: Option<bool>,
        preamble_lines: Option<i64>,
        header_rows: Option<i64>,
        replaces_invalid_bytes: bool,
        keeps_ragged_rows: bool,
        batch_bytes: i64,
        block_rows: i64,
        max_record_bytes: i64,
        max_cell_bytes: i64,
        max_header_bytes: i64,
        max_columns: i64,
        resume: Option<&Bound<'_, Checkpoint>>,
    ) -> PyResult<Self> {
        let optional = |text: &str| if text.is_empty() { None } else { Some(mark(text)) };
        let count = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
        let limit = |limit: i64| u32::try_from(limit).unwrap_or_default();
        let options = Options {
            hints: Hints {
                encoding: encoding.map(named_encoding).transpose()?,
                delimiter: delimiter.map(mark),
                quote: quote.map(optional),
                escape: escape.map(optional),
                comment: comment.map(optional),
                trims_blanks,
                preamble_lines: preamble_lines.map(count),
                header_rows: header_rows.map(count),
            },
            replaces_invalid_bytes,
            keeps_ragged_rows,
            limits: Limits {
                batch_bytes: u64::try_from(batch_bytes).unwrap_or_default(),
                block_rows: limit(block_rows),
                max_record_bytes: limit(max_record_bytes),
                max_cell_bytes: limit(max_cell_bytes),
                max_header_bytes: limit(max_header_bytes),
                max_columns: limit(max_columns),
            },
        };
        let parser = dari_parser::Parser::new(options, resume.map(|checkpoint| &checkpoint.get().0))
            .map_err(|error: InvalidStart| PyValueError::new_err(error.to_string()))?;
        let (received_bytes, detected) = (parser.received_bytes(), parser.detected());
        Ok(Self { state: State::Reading(Box::new(parser)), received_bytes, detected })
    }

    /// Takes the next bytes of the file; returns the batches that they close.
    fn feed(&mut self, py: Python<'_>, data: &[u8]) -> PyResult<Vec<Batch>> {
        let mut parser = self.take()?;
        let closed = py.detach(|| parser.feed(data)).map_err(parse_error)?;
        let mut batches = Vec::with_capacity(closed.len());
        for batch in closed {
            let (batch, rows) = Batch::from_core(py, batch)?;
            batches.push(batch);
            parser.reuse(rows);
        }
        self.received_bytes = parser.received_bytes();
        self.detected = parser.detected();
        self.state = State::Reading(parser);
        Ok(batches)
    }

    /// Takes the end of the file; returns the rest, at least one batch.
    fn finish(&mut self, py: Python<'_>) -> PyResult<Vec<Batch>> {
        let parser = self.take()?;
        let finished = py.detach(|| parser.finish()).map_err(parse_error)?;
        let batches = finished.batches.into_iter().map(|batch| Ok(Batch::from_core(py, batch)?.0));
        let batches = batches.collect::<PyResult<_>>()?;
        self.state = State::Finished { sha256: finished.sha256 };
        self.detected = Some(finished.detected);
        Ok(batches)
    }

    /// Digest of the whole file; only after `finish`.
    fn sha256(&self) -> PyResult<[u8; 32]> {
        match self.state {
            State::Finished { sha256 } => Ok(sha256),
            State::Reading(_) => Err(PyRuntimeError::new_err("the digest is known only after finish")),
            State::Failed => Err(failed()),
        }
    }

    /// Offset of the next byte that `feed` expects, counted in the file.
    #[getter]
    fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// How the file is read; `None` until enough of it has come.
    #[getter]
    fn detected(&self) -> Option<Detected> {
        self.detected.map(Detected)
    }
}

impl Parser {
    /// Takes the parser out, and so leaves `Failed` until it is put back.
    fn take(&mut self) -> PyResult<Box<dari_parser::Parser>> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Reading(parser) => Ok(parser),
            State::Failed => Err(failed()),
            finished @ State::Finished { .. } => {
                self.state = finished;
                Err(PyRuntimeError::new_err("the file has ended; nothing can follow finish"))
            }
        }
    }
}

fn failed() -> PyErr {
    PyRuntimeError::new_err("this parser has failed; go on with a new one from the last checkpoint")
}

/// The one byte of a mark; LF, which no dialect allows, for anything else.
fn mark(text: &str) -> u8 {
    match text.as_bytes() {
        [byte] => *byte,
        _ => b'\n',
    }
}

fn mark_text(mark: Option<u8>) -> String {
    mark.map(char::from).into_iter().collect()
}

fn named_encoding(name: &str) -> PyResult<Encoding> {
    let found = Encoding::ALL.into_iter().find(|encoding| encoding.as_str() == name);
    found.ok_or_else(|| PyValueError::new_err("encoding must be the name of one that is known, such as utf-8"))
}

/// The search terms of a text, in order of first appearance, each once.
#[pyfunction]
fn lexemes(text: &str) -> Vec<String> {
    dari_parser::lexemes(text)
}

/// 32-bit signed hashes of `lexemes(text)`, in the same order.
#[pyfunction]
fn lexeme_hashes(text: &str) -> Vec<i32> {
    dari_parser::lexeme_hashes(text)
}

/// For each text, which of the query's lexemes it holds.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "owned, since the interpreter is released")]
fn count_matches(py: Python<'_>, query_hashes: Vec<i32>, texts: Vec<String>) -> Vec<Vec<bool>> {
    py.detach(|| dari_parser::count_matches(&query_hashes, texts.iter().map(String::as_str)))
}

/// The bucket of each lexeme's postings.
#[pyfunction]
fn lexeme_buckets(hashes: Vec<i32>) -> Vec<i32> {
    hashes.into_iter().map(dari_parser::bucket).collect()
}

/// In how many blocks of rows each lexeme stands.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "owned, since the interpreter is released")]
fn count_blocks(py: Python<'_>, hashes: Vec<i32>, postings: &[u8]) -> PyResult<Vec<u64>> {
    py.detach(|| dari_parser::count_blocks(&hashes, &dari_parser::read_copy(postings)?)).map_err(invalid_postings)
}

/// The blocks in which the heaviest lexemes meet.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "owned, since the interpreter is released")]
fn best_blocks(
    py: Python<'_>,
    hashes: Vec<i32>,
    weights: Vec<f64>,
    postings: &[u8],
    max_blocks: usize,
) -> PyResult<Vec<(i64, u32)>> {
    if hashes.len() != weights.len() {
        return Err(PyValueError::new_err("every lexeme needs a weight"));
    }
    py.detach(|| dari_parser::best_blocks(&hashes, &weights, &dari_parser::read_copy(postings)?, max_blocks))
        .map_err(invalid_postings)
}

fn invalid_postings(error: dari_parser::InvalidPostings) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// Turns rows from PostgreSQL into CSV.
#[pyclass(frozen, module = "dari._native")]
struct CsvWriter(dari_parser::CsvWriter);

#[pymethods]
impl CsvWriter {
    #[new]
    #[pyo3(signature = (*, escape_formulas = false))]
    fn new(escape_formulas: bool) -> Self {
        Self(dari_parser::CsvWriter { escapes_formulas: escape_formulas })
    }

    /// The first record.
    #[expect(clippy::needless_pass_by_value, reason = "made from Python's strings")]
    fn header<'py>(&self, py: Python<'py>, columns: Vec<String>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.header(columns.iter().map(String::as_str)))
    }

    /// The records of one whole COPY.
    fn rows<'py>(&self, py: Python<'py>, copy: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let csv = py.detach(|| self.0.rows(copy)).map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(PyBytes::new(py, &csv))
    }
}

/// The Rust parser.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::evidence::{ColumnProfile, merge_evidence, profile};
    #[pymodule_export]
    use super::{
        Batch, Checkpoint, CsvWriter, Detected, ParseError, Parser, Reading, RejectedRow, best_blocks, count_blocks,
        count_matches, lexeme_buckets, lexeme_hashes, lexemes,
    };
}
