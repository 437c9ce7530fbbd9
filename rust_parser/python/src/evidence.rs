//! Evidence and profiles for Python.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// What is in a column.
#[pyclass(frozen, module = "dari._native")]
pub(crate) struct ColumnProfile(dari_parser::ColumnProfile);

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

    /// Whether the order of day and month is a guess.
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

    /// Distinct values, estimated.
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

    /// Value, count at most, and how far that may be too high.
    #[getter]
    fn top_values(&self) -> Vec<(&str, u64, u64)> {
        self.0.top_values.iter().map(|top| (top.value.as_str(), top.count, top.error)).collect()
    }
}

/// The evidence of all these rows together.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "owned, since the interpreter is released")]
pub(crate) fn merge_evidence(py: Python<'_>, parts: Vec<Vec<u8>>) -> PyResult<Bound<'_, PyBytes>> {
    let merged =
        py.detach(|| dari_parser::merge_evidence(parts.iter().map(Vec::as_slice))).map_err(invalid_evidence)?;
    Ok(PyBytes::new(py, &merged))
}

/// The columns in order.
#[pyfunction]
pub(crate) fn profile(evidence: &[u8]) -> PyResult<Vec<ColumnProfile>> {
    let profile = dari_parser::profile(evidence).map_err(invalid_evidence)?;
    Ok(profile.columns.into_iter().map(ColumnProfile).collect())
}

fn invalid_evidence(error: dari_parser::InvalidEvidence) -> PyErr {
    PyValueError::new_err(error.to_string())
}
