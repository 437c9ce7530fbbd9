//! Evidence joined, and read as a profile.

use super::encoding::{self, InvalidEvidence};
use super::facts::{Facts, Numbers, TOLD_VALUES};
use super::fits::ColumnType;
use super::number::Decimal;

/// What is in the rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// Rows.
    pub rows: u64,
    /// Cells beyond the last column.
    pub extra_cells: u64,
    /// The columns, in order.
    pub columns: Vec<ColumnProfile>,
}

/// What is in a column. A *value* is a cell that is neither empty nor null-like.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent observations")]
pub struct ColumnProfile {
    /// The narrowest type that every value fits.
    pub column_type: ColumnType,
    /// How the values of a date, time or timestamp are written, such as `YYYY-MM-DD`; `YYYYMMDD` for integers that are all
    /// days of 1900 to 2099 too; empty for others.
    pub format: String,
    /// Digits of an integer or decimal in all: the most before the point, and [`Self::scale`]; 0 for others.
    pub precision: u32,
    /// The most digits behind the point of a decimal; 0 for others.
    pub scale: u32,
    /// Whether a month-first date is as well a day-first date in every value: the order is a guess.
    pub ambiguous_day_order: bool,
    /// Whether numbers have grouping commas.
    pub grouped: bool,
    /// Cells, the missing ones not counted.
    pub cells: u64,
    /// Rows too short to have this cell.
    pub missing: u64,
    /// Cells without text.
    pub empty: u64,
    /// Cells that say that there is no value; see [`super::NULL_LIKE`].
    pub null_like: u64,
    /// Bytes of all cells.
    pub bytes: u64,
    /// Distinct values; exact where at most 64 short ones were in all, estimated otherwise: with a standard error of 2.3 %
    /// up to 64 columns, 3.3 % up to 200, 4.6 % above.
    pub distinct: u64,
    /// Whether `distinct` is exact.
    pub distinct_is_exact: bool,
    /// Smallest value: by number for numeric types, with the column's scale; otherwise by bytes, cut at 256.
    pub min: String,
    /// Largest value; as `min`.
    pub max: String,
    /// Sum of a numeric column; empty for others.
    pub sum: String,
    /// Whether `sum` is exact: no number has an exponent, and 128 bits held it.
    pub sum_is_exact: bool,
    /// Mean of a numeric column.
    pub mean: Option<f64>,
    /// Characters of the shortest value; 0 without one.
    pub shortest_chars: u64,
    /// Characters of the longest value.
    pub longest_chars: u64,
    /// The most frequent values, most frequent first, at most 16, and only such as surely stand there.
    pub top_values: Vec<TopValue>,
}

/// How often a value stands in a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopValue {
    /// The value, cut at 256 bytes.
    pub value: String,
    /// How often it stands, at most.
    pub count: u64,
    /// How far `count` may be too high.
    pub error: u64,
}

/// Joins the evidence of different rows of one table; the result is evidence again.
///
/// In any order and grouping the counts, bounds, lengths, types and exact sums are the same; distinct values too, and
/// bounds of the frequent values hold. A part with fewer columns is taken as one whose rows miss the others.
pub fn merge_evidence<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, InvalidEvidence> {
    let mut parts = parts.into_iter().filter(|part| !part.is_empty());
    let Some(first) = parts.next() else { return Ok(Vec::new()) };
    let mut all = encoding::read(first)?;
    for part in parts {
        let mut part = encoding::read(part)?;
        let columns = all.columns.len().max(part.columns.len());
        widen(&mut all.columns, columns, all.rows);
        widen(&mut part.columns, columns, part.rows);
        for (facts, more) in all.columns.iter_mut().zip(part.columns) {
            facts.merge(more);
        }
        all.rows = all.rows.saturating_add(part.rows);
        all.extra_cells = all.extra_cells.saturating_add(part.extra_cells);
    }
    Ok(encoding::write(all.rows, all.extra_cells, all.columns.into_iter()))
}

fn widen(columns: &mut Vec<Facts>, count: usize, rows: u64) {
    let precision = columns.first().map_or(11, |facts| facts.distinct.precision());
    columns.resize_with(count, || Facts { missing: rows, ..Facts::new(precision) });
}

/// Reads evidence; without any, a profile without rows and columns.
pub fn profile(evidence: &[u8]) -> Result<Profile, InvalidEvidence> {
    if evidence.is_empty() {
        return Ok(Profile::default());
    }
    let all = encoding::read(evidence)?;
    Ok(Profile { rows: all.rows, extra_cells: all.extra_cells, columns: all.columns.iter().map(column).collect() })
}

fn column(facts: &Facts) -> ColumnProfile {
    let values = facts.values();
    let column_type = if values == 0 { ColumnType::Empty } else { ColumnType::of(facts.fits) };
    let is_exact_number = matches!(column_type, ColumnType::Integer | ColumnType::Decimal);
    let is_number = is_exact_number || column_type == ColumnType::Float;
    let is_day = matches!(column_type, ColumnType::Date | ColumnType::Timestamp);
    let numbers = &facts.numbers;
    let (min, max) = if is_number { number_bounds(numbers) } else { (text(&facts.min), text(&facts.max)) };
    let top = &facts.top;
    let told = top.values.iter().filter(|value| value.count > value.error).take(TOLD_VALUES);
    ColumnProfile {
        column_type,
        format: facts.fits.format(column_type),
        precision: if is_exact_number { (numbers.whole_digits + numbers.scale).max(1) } else { 0 },
        scale: if is_exact_number { numbers.scale } else { 0 },
        ambiguous_day_order: is_day && facts.fits.has_ambiguous_days(),
        grouped: is_exact_number && facts.fits.is_grouped(),
        cells: facts.cells,
        missing: facts.missing,
        empty: facts.empty,
        null_like: facts.null_like,
        bytes: facts.bytes,
        distinct: if top.is_whole() { top.values.len() as u64 } else { facts.distinct.estimate().min(values) },
        distinct_is_exact: top.is_whole(),
        min,
        max,
        sum: if is_number { sum(numbers) } else { String::new() },
        sum_is_exact: is_number && numbers.sum.is_some() && !numbers.has_floats(),
        mean: is_number.then(|| mean(numbers, values)),
        shortest_chars: if values == 0 { 0 } else { facts.shortest },
        longest_chars: facts.longest,
        top_values: told.map(|v| TopValue { value: text(&v.text), count: v.count, error: v.error }).collect(),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Smallest and largest number.
fn number_bounds(numbers: &Numbers) -> (String, String) {
    let exact = numbers.bounds;
    if numbers.has_floats() {
        let (low, high) = exact.map_or((f64::INFINITY, f64::NEG_INFINITY), |(min, max)| (min.to_f64(), max.to_f64()));
        let (min, max) = (numbers.float_bounds.0.min(low), numbers.float_bounds.1.max(high));
        return (min.to_string(), max.to_string());
    }
    let written = |decimal: Decimal| decimal.with_scale(numbers.scale).unwrap_or(decimal).to_string();
    exact.map_or_else(Default::default, |(min, max)| (written(min), written(max)))
}

fn sum(numbers: &Numbers) -> String {
    match numbers.sum {
        Some(sum) if !numbers.has_floats() => sum.with_scale(numbers.scale).unwrap_or(sum).to_string(),
        _ => float_sum(numbers).to_string(),
    }
}

fn float_sum(numbers: &Numbers) -> f64 {
    numbers.float_sum + numbers.sum.map_or(0.0, Decimal::to_f64)
}

fn mean(numbers: &Numbers, values: u64) -> f64 {
    float_sum(numbers) / values as f64
}
