//! Rows from PostgreSQL back to CSV: RFC 4180 with LF.
//!
//! What is read from it again is the same, cell for cell: a cell is quoted where it holds a delimiter, quote, CR or LF, where
//! it begins or ends with a blank, and where it begins with a byte-order mark; an empty cell alone in its row is `""`.

use std::fmt;

use memchr::{memchr, memchr3};

use crate::copy_binary;

/// Bytes that are no COPY of row number, cells and extra cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidRows;

impl fmt::Display for InvalidRows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the rows cannot be read: they are no binary COPY of row number, cells and extra cells")
    }
}

impl std::error::Error for InvalidRows {}

/// Writes records.
#[derive(Clone, Copy, Debug, Default)]
pub struct CsvWriter {
    /// Whether `'` is put before cells that a spreadsheet would take for a formula: those that begin with `=`, `+`, `-`,
    /// `@`, tab or CR, and are no number.
    pub escapes_formulas: bool,
}

impl CsvWriter {
    /// The first record.
    #[must_use]
    pub fn header<'a>(self, columns: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
        let mut csv = Vec::new();
        self.record(columns.into_iter().map(str::as_bytes), &mut csv);
        csv
    }

    /// The records of a whole `COPY … (FORMAT binary)` of row number (`int8`), cells (`text`) and extra cells (`text[]`).
    /// NULL cells are not written where no other cell follows; otherwise as empty ones.
    pub fn rows(self, copy: &[u8]) -> Result<Vec<u8>, InvalidRows> {
        let mut csv = Vec::with_capacity(copy.len());
        let mut rest = copy.strip_prefix(copy_binary::HEADER).ok_or(InvalidRows)?;
        let mut cells = Vec::new();
        loop {
            let fields = i16::from_be_bytes(*take(&mut rest)?);
            if fields == -1 {
                return if rest.is_empty() { Ok(csv) } else { Err(InvalidRows) };
            }
            if fields < 2 || field(&mut rest)?.is_none_or(|number| number.len() != size_of::<i64>()) {
                return Err(InvalidRows);
            }
            cells.clear();
            for _ in 2..fields {
                cells.push(field(&mut rest)?);
            }
            let extra = field(&mut rest)?;
            if extra.is_none() {
                let written = cells.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
                cells.truncate(written);
            }
            if let Some(array) = extra {
                extra_cells(array, &mut cells)?;
            }
            self.record(cells.iter().map(|cell| cell.unwrap_or_default()), &mut csv);
        }
    }

    fn record<'a>(self, cells: impl Iterator<Item = &'a [u8]>, csv: &mut Vec<u8>) {
        let start = csv.len();
        for (index, cell) in cells.enumerate() {
            if index > 0 {
                csv.push(b',');
            }
            self.cell(cell, csv);
        }
        if csv.len() == start {
            csv.extend_from_slice(b"\"\"");
        }
        csv.push(b'\n');
    }

    #[inline]
    fn cell(self, cell: &[u8], csv: &mut Vec<u8>) {
        let is_escaped = self.escapes_formulas && is_formula(cell);
        if !needs_quotes(cell) {
            if is_escaped {
                csv.push(b'\'');
            }
            csv.extend_from_slice(cell);
            return;
        }
        csv.push(b'"');
        if is_escaped {
            csv.push(b'\'');
        }
        let mut rest = cell;
        while let Some(quote) = memchr(b'"', rest) {
            csv.extend_from_slice(&rest[..=quote]);
            csv.push(b'"');
            rest = &rest[quote + 1..];
        }
        csv.extend_from_slice(rest);
        csv.push(b'"');
    }
}

#[inline]
fn needs_quotes(cell: &[u8]) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    memchr3(b',', b'"', b'\n', cell).is_some()
        || memchr(b'\r', cell).is_some()
        || is_blank(cell.first())
        || is_blank(cell.last())
        || cell.starts_with(b"\xef\xbb\xbf")
}

fn is_formula(cell: &[u8]) -> bool {
    match cell.first() {
        Some(b'=' | b'@' | b'\t' | b'\r') => true,
        Some(b'+' | b'-') => !is_number(&cell[1..]),
        _ => false,
    }
}

/// Digits with grouping commas, a fraction, an exponent, a percent sign.
fn is_number(text: &[u8]) -> bool {
    let text = text.strip_suffix(b"%").unwrap_or(text);
    let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let (whole, fraction) = match memchr(b'.', mantissa) {
        Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
        None => (mantissa, &[][..]),
    };
    let are_digits = |digits: &[u8]| digits.iter().all(u8::is_ascii_digit);
    let is_exponent = |text: &[u8]| {
        let digits = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
        !digits.is_empty() && are_digits(digits)
    };
    let mut groups = whole.split(|byte| *byte == b',');
    let is_whole = groups.next().is_some_and(are_digits) && groups.all(|group| group.len() == 3 && are_digits(group));
    is_whole
        && are_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && !whole.starts_with(b",")
        && exponent.is_none_or(is_exponent)
}

/// Appends the elements of a `text[]` of one dimension.
fn extra_cells<'a>(array: &'a [u8], cells: &mut Vec<Option<&'a [u8]>>) -> Result<(), InvalidRows> {
    let mut rest = array;
    let dimensions = i32::from_be_bytes(*take(&mut rest)?);
    let _has_nulls: &[u8; 4] = take(&mut rest)?;
    let _element_type: &[u8; 4] = take(&mut rest)?;
    if dimensions == 1 {
        let count = i32::from_be_bytes(*take(&mut rest)?);
        let _first_index: &[u8; 4] = take(&mut rest)?;
        for _ in 0..count {
            cells.push(field(&mut rest)?);
        }
    }
    if rest.is_empty() && matches!(dimensions, 0 | 1) { Ok(()) } else { Err(InvalidRows) }
}

/// A length and as many bytes; `None` for NULL.
#[inline]
fn field<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, InvalidRows> {
    let len = i32::from_be_bytes(*take(rest)?);
    if len == -1 {
        return Ok(None);
    }
    let len = usize::try_from(len).map_err(|_| InvalidRows)?;
    let (value, tail) = rest.split_at_checked(len).ok_or(InvalidRows)?;
    *rest = tail;
    Ok(Some(value))
}

#[inline]
fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], InvalidRows> {
    let (first, tail) = rest.split_first_chunk().ok_or(InvalidRows)?;
    *rest = tail;
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy_binary::CopyBinary;

    /// Cells and extra cells; `None` is NULL.
    type Row = (&'static [Option<&'static str>], &'static [&'static str]);

    fn copy(rows: &[Row]) -> Vec<u8> {
        let mut copy = CopyBinary::default();
        for (cells, extra) in rows {
            copy.begin_tuple(cells.len() as u16 + 2, 10_000);
            copy.int8(1);
            for cell in *cells {
                match cell {
                    Some(text) => copy.text(text.as_bytes(), 0, text.len()),
                    None => copy.null(),
                }
            }
            if extra.is_empty() { copy.null() } else { copy.text_array(extra) }
        }
        copy.finish()
    }

    #[rustfmt::skip]
    const CASES: &[(Row, &str)] = &[
        ((&[Some("a"), Some("b")], &[]), "a,b\n"),
        ((&[Some("a,b"), Some("\"c\"")], &[]), "\"a,b\",\"\"\"c\"\"\"\n"),
        ((&[Some("a\r"), Some("b\n"), Some("\\.")], &[]), "\"a\r\",\"b\n\",\\.\n"),
        ((&[Some(" a"), Some("b\t"), Some("c d")], &[]), "\" a\",\"b\t\",c d\n"),
        ((&[Some("\u{feff}a")], &[]), "\"\u{feff}a\"\n"),
        ((&[Some("")], &[]), "\"\"\n"),
        ((&[Some(""), None, None], &[]), "\"\"\n"),
        ((&[Some(""), Some("")], &[]), ",\n"),
        ((&[Some("a"), None, None], &[]), "a\n"),
        ((&[Some("a"), Some("")], &["", "c,d"]), "a,,,\"c,d\"\n"),
    ];

    #[test]
    fn each_row_is_written_as_the_table_says() {
        for (row, expected) in CASES {
            let csv = CsvWriter::default().rows(&copy(&[*row])).unwrap();
            assert_eq!(String::from_utf8(csv).unwrap(), *expected);
        }
    }

    #[test]
    fn formulas_are_escaped_and_numbers_are_not() {
        let writer = CsvWriter { escapes_formulas: true };
        for (cell, expected) in [
            ("=1+1", "'=1+1\n"),
            ("@a", "'@a\n"),
            ("\ta", "\"'\ta\"\n"),
            ("\ra", "\"'\ra\"\n"),
            ("-a", "'-a\n"),
            ("+1+1", "'+1+1\n"),
            ("-", "'-\n"),
            ("-1,5", "\"'-1,5\"\n"),
            ("-1", "-1\n"),
            ("+1,234.50", "\"+1,234.50\"\n"),
            ("-.5e-3", "-.5e-3\n"),
            ("-3%", "-3%\n"),
            ("a=1", "a=1\n"),
        ] {
            assert_eq!(String::from_utf8(writer.header([cell])).unwrap(), expected);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let whole = copy(&[(&[Some("a"), None], &["b"])]);
        assert!(CsvWriter::default().rows(&whole).is_ok());
        for end in 0..whole.len() {
            assert_eq!(CsvWriter::default().rows(&whole[..end]), Err(InvalidRows), "{end}");
        }
        assert_eq!(CsvWriter::default().rows(&[&whole[..], b"x"].concat()), Err(InvalidRows));
    }
}
