//! Module `dari._native`: registers the parser for Python and converts its values. What it does is in `dari_parser`; what
//! Python sees is in `python/dari/_native.pyi`, which a test compares with this file.
//!
//! The interpreter is released while bytes are parsed. A batch crosses as `bytes`; no row or cell becomes an object.

use std::sync::Arc;

use dari_parser::{Dialect, InvalidStart, Limits, Options};
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

/// A record that cannot be stored.
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

/// Where a parser can go on: the state between two records.
#[pyclass(frozen, module = "dari._native")]
struct Checkpoint(dari_parser::Checkpoint);

#[pymethods]
impl Checkpoint {
    #[new]
    fn new(
        offset_bytes: u64,
        line: u64,
        rows_stored: u64,
        rows_rejected: u64,
        columns: Vec<String>,
        sha256_state: Vec<u8>,
    ) -> Self {
        let columns = Arc::from(columns);
        Self(dari_parser::Checkpoint { offset_bytes, line, rows_stored, rows_rejected, columns, sha256_state })
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
        self.0.rows_stored
    }

    /// Records rejected so far.
    #[getter]
    fn rows_rejected(&self) -> u64 {
        self.0.rows_rejected
    }

    /// Column names; empty until the first record was read.
    #[getter]
    fn columns(&self) -> Vec<&str> {
        self.0.columns.iter().map(String::as_str).collect()
    }

    /// SHA-256 of the consumed bytes as a state that can go on.
    #[getter]
    fn sha256_state(&self) -> &[u8] {
        &self.0.sha256_state
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

    /// Records that are no rows.
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
}

#[pymethods]
impl Parser {
    #[new]
    #[pyo3(signature = (
        *,
        delimiter = ",",
        quote = "\"",
        has_header = true,
        batch_bytes = 4_194_304,
        block_rows = 128,
        max_record_bytes = 1_048_576,
        max_cell_bytes = 1_048_576,
        max_columns = 1_500,
        resume = None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "the options, by name")]
    fn new(
        delimiter: &str,
        quote: &str,
        has_header: bool,
        batch_bytes: i64,
        block_rows: i64,
        max_record_bytes: i64,
        max_cell_bytes: i64,
        max_columns: i64,
        resume: Option<&Bound<'_, Checkpoint>>,
    ) -> PyResult<Self> {
        let options = Options {
            dialect: Dialect {
                delimiter: mark(delimiter),
                quote: if quote.is_empty() { None } else { Some(mark(quote)) },
                has_header,
            },
            limits: Limits {
                batch_bytes: u64::try_from(batch_bytes).unwrap_or_default(),
                block_rows: u32::try_from(block_rows).unwrap_or_default(),
                max_record_bytes: u32::try_from(max_record_bytes).unwrap_or_default(),
                max_cell_bytes: u32::try_from(max_cell_bytes).unwrap_or_default(),
                max_columns: u32::try_from(max_columns).unwrap_or_default(),
            },
        };
        let parser = dari_parser::Parser::new(options, resume.map(|checkpoint| &checkpoint.get().0))
            .map_err(|error: InvalidStart| PyValueError::new_err(error.to_string()))?;
        Ok(Self { received_bytes: parser.received_bytes(), state: State::Reading(Box::new(parser)) })
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

/// The one byte of a delimiter or quote; NUL, which no dialect allows, for anything else.
fn mark(text: &str) -> u8 {
    match text.as_bytes() {
        [byte] => *byte,
        _ => 0,
    }
}

/// What is in a column.
#[pyclass(frozen, module = "dari._native")]
struct ColumnProfile(dari_parser::ColumnProfile);

#[pymethods]
impl ColumnProfile {
    /// The type that fits every value.
    #[getter]
    fn r#type(&self) -> &'static str {
        self.0.column_type.as_str()
    }

    /// How dates and times are written.
    #[getter]
    fn format(&self) -> &str {
        &self.0.format
    }

    /// Digits in all.
    #[getter]
    fn precision(&self) -> u32 {
        self.0.precision
    }

    /// Digits behind the point.
    #[getter]
    fn scale(&self) -> u32 {
        self.0.scale
    }

    /// Whether month-first and day-first both fit every date.
    #[getter]
    fn ambiguous_day_order(&self) -> bool {
        self.0.ambiguous_day_order
    }

    /// Whether numbers have grouping commas.
    #[getter]
    fn grouped(&self) -> bool {
        self.0.grouped
    }

    /// Cells, the missing ones not counted.
    #[getter]
    fn cell_count(&self) -> u64 {
        self.0.cells
    }

    /// Rows too short to have this cell.
    #[getter]
    fn missing_count(&self) -> u64 {
        self.0.missing
    }

    /// Cells without text.
    #[getter]
    fn empty_count(&self) -> u64 {
        self.0.empty
    }

    /// Cells that say that there is no value.
    #[getter]
    fn null_like_count(&self) -> u64 {
        self.0.null_like
    }

    /// Bytes of all cells.
    #[getter]
    fn total_bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Distinct values.
    #[getter]
    fn distinct_estimate(&self) -> u64 {
        self.0.distinct
    }

    /// Whether that is no estimate.
    #[getter]
    fn distinct_is_exact(&self) -> bool {
        self.0.distinct_is_exact
    }

    /// Smallest value.
    #[getter]
    fn min(&self) -> &str {
        &self.0.min
    }

    /// Largest value.
    #[getter]
    fn max(&self) -> &str {
        &self.0.max
    }

    /// Sum of a numeric column.
    #[getter]
    fn sum(&self) -> &str {
        &self.0.sum
    }

    /// Whether no rounding is in it.
    #[getter]
    fn sum_is_exact(&self) -> bool {
        self.0.sum_is_exact
    }

    /// Mean of a numeric column.
    #[getter]
    fn mean(&self) -> Option<f64> {
        self.0.mean
    }

    /// Characters of the shortest value.
    #[getter]
    fn shortest_chars(&self) -> u64 {
        self.0.shortest_chars
    }

    /// Characters of the longest value.
    #[getter]
    fn longest_chars(&self) -> u64 {
        self.0.longest_chars
    }

    /// The most frequent values.
    #[getter]
    fn top_values(&self) -> Vec<(&str, u64, u64)> {
        self.0.top_values.iter().map(|top| (top.value.as_str(), top.count, top.error)).collect()
    }
}

/// The evidence of all these rows together.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "a list is taken whole")]
fn merge_evidence<'py>(py: Python<'py>, parts: Vec<Bound<'py, PyBytes>>) -> PyResult<Bound<'py, PyBytes>> {
    let parts: Vec<&[u8]> = parts.iter().map(PyBytesMethods::as_bytes).collect();
    let merged = py.detach(|| dari_parser::merge_evidence(parts)).map_err(invalid_evidence)?;
    Ok(PyBytes::new(py, &merged))
}

/// The columns in order.
#[pyfunction]
fn profile(py: Python<'_>, evidence: &[u8]) -> PyResult<Vec<ColumnProfile>> {
    let profile = py.detach(|| dari_parser::profile(evidence)).map_err(invalid_evidence)?;
    Ok(profile.columns.into_iter().map(ColumnProfile).collect())
}

fn invalid_evidence(error: dari_parser::InvalidEvidence) -> PyErr {
    PyValueError::new_err(error.to_string())
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

/// The Rust parser.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::{
        Batch, Checkpoint, ColumnProfile, ParseError, Parser, RejectedRow, best_blocks, count_blocks, count_matches,
        lexeme_buckets, lexeme_hashes, lexemes, merge_evidence, profile,
    };
}
