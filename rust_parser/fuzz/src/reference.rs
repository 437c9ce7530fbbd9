//! Any bytes with a dialect that is told, beside a reader that is slow and plain: both see the same records and cells.
//!
//! Known differences, all on purpose:
//!
//! | where | the plain reader | dari |
//! |---|---|---|
//! | text behind a closing quote, or a quote never closed | cells as they come | repairs the line, rejects it, or ends: the comparison ends there |
//! | a record over several lines that has not the table's width | one record | its first line alone may have: the comparison ends there |
//! | a line without any byte | an empty record | a row in a table of one column, otherwise nothing, before the table too |
//! | lines behind the table, another table | records | set aside as footer, rejected as other table |
//! | NUL, bytes that are no UTF-8, rows too wide | cells | rejected with their reason |

use std::collections::BTreeMap;

use dari_parser::reading::{Dialect, Encoding, Hints};
use dari_parser::{ErrorCode, ParseError, RejectReason, RejectedRow};

use super::case::Case;
use super::output::{Output, read};
use super::reference_reader::{Kind, Record, records};

/// See the module.
pub fn check(input: &[u8]) {
    let Some(mut case) = Case::of(input) else { return };
    let dialect = dialect(&case.options.hints);
    case.options.hints = told(&dialect);
    case.options.replaces_invalid_bytes = false;
    let limits = dari_parser::Options::default().limits;
    case.options.limits = dari_parser::Limits { batch_bytes: case.options.limits.batch_bytes, ..limits };
    if case.options.check().is_err() {
        return;
    }
    let records = records(case.file, &dialect);
    match read(case.options, case.pieces()) {
        Ok(output) => compare(&output, &records, &dialect, case.options.keeps_ragged_rows),
        Err(error) => check_error(error, &records, &dialect),
    }
}

/// What a case leaves open is as RFC 4180 has it.
fn dialect(hints: &Hints) -> Dialect {
    Dialect {
        delimiter: hints.delimiter.unwrap_or(b','),
        quote: hints.quote.unwrap_or(Some(b'"')),
        escape: hints.escape.flatten(),
        comment: hints.comment.flatten(),
        trims_blanks: hints.trims_blanks.unwrap_or(false),
        preamble_lines: hints.preamble_lines.unwrap_or(0),
        header_rows: hints.header_rows.unwrap_or(1),
    }
}

fn told(dialect: &Dialect) -> Hints {
    Hints {
        encoding: Some(Encoding::Utf8),
        delimiter: Some(dialect.delimiter),
        quote: Some(dialect.quote),
        escape: Some(dialect.escape),
        comment: Some(dialect.comment),
        trims_blanks: Some(dialect.trims_blanks),
        preamble_lines: Some(dialect.preamble_lines),
        header_rows: Some(dialect.header_rows),
    }
}

/// Every record is the next stored row, or is listed at its place with a reason that fits it.
fn compare(output: &Output, records: &[Record], dialect: &Dialect, keeps_ragged_rows: bool) {
    let columns = output.columns().len();
    let rows = output.rows();
    let mut stored = rows.iter();
    let mut rejected: BTreeMap<u64, &RejectedRow> = output.rejected().map(|row| (row.byte_offset, row)).collect();
    let mut headers_left = dialect.header_rows;
    // Before the first record there is no column yet, and an empty line is nothing.
    let mut is_in_table = false;
    for record in records {
        if is_past_comparison(record, columns) {
            return;
        }
        if matches!(record.kind, Kind::Cells { .. }) {
            is_in_table = headers_left <= 1;
            if headers_left > 0 {
                headers_left -= 1;
                continue;
            }
        }
        if let Some(row) = rejected.remove(&(record.offset as u64)) {
            assert_eq!(row.byte_length, record.bytes.len() as u64, "another end of {record:?}");
            assert!(fits(row.reason, record, columns, keeps_ragged_rows), "{:?} does not fit {record:?}", row.reason);
            continue;
        }
        match record.kind {
            Kind::Cells { .. } => {
                let row = stored.next().unwrap_or_else(|| panic!("{record:?} is lost"));
                assert_eq!(row.all_cells(), record.cells, "at byte {}", record.offset);
            }
            Kind::Empty if columns == 1 && is_in_table => {
                let row = stored.next().unwrap_or_else(|| panic!("{record:?} is lost"));
                assert_eq!(row.all_cells(), [b"".as_slice()]);
            }
            Kind::Empty => {}
            Kind::Preamble if matches!(record.bytes[0], b'\r' | b'\n') => {}
            Kind::Preamble | Kind::Comment => panic!("{record:?} is not listed"),
        }
    }
    assert_eq!(stored.next(), None, "a row that is in no record");
    assert!(rejected.is_empty(), "{rejected:?} is in no record");
}

fn is_past_comparison(record: &Record, columns: usize) -> bool {
    match record.kind {
        Kind::Cells { is_malformed } => is_malformed || (record.runs_over_lines() && record.cells.len() != columns),
        _ => false,
    }
}

/// Whether a record may be listed with this reason.
fn fits(reason: RejectReason, record: &Record, columns: usize, keeps_ragged_rows: bool) -> bool {
    let width = record.cells.len();
    match reason {
        RejectReason::Preamble => record.kind == Kind::Preamble,
        RejectReason::Comment => record.kind == Kind::Comment,
        RejectReason::Footer => !matches!(record.kind, Kind::Preamble | Kind::Comment),
        // A comment too: the other table is not read, so nobody knows what is one.
        RejectReason::OtherTable => record.kind != Kind::Preamble,
        RejectReason::TextAfterQuote => record.kind == Kind::Cells { is_malformed: true },
        RejectReason::TooFewFields => !keeps_ragged_rows && width < columns,
        RejectReason::TooManyFields => (!keeps_ragged_rows && width > columns) || width > 1_500,
        RejectReason::NulByte => record.bytes.contains(&0),
        RejectReason::InvalidBytes => std::str::from_utf8(&record.bytes).is_err(),
        RejectReason::RowTooWide => record.cells.iter().map(|cell| cell.len().min(18) + 1).sum::<usize>() > 7_000,
    }
}

/// A file ends with an error only for what the plain reader sees too.
fn check_error(error: ParseError, records: &[Record], dialect: &Dialect) {
    let is_cells = |record: &&Record| matches!(record.kind, Kind::Cells { .. });
    let headers: Vec<&Record> = records.iter().filter(is_cells).take(dialect.header_rows as usize).collect();
    let may_be_read_again =
        |record: &Record| record.kind == Kind::Cells { is_malformed: true } || record.runs_over_lines();
    let explained = match error.code {
        // Any of the records, since behind one that is read again all is different.
        ErrorCode::UnclosedQuote => records.iter().any(may_be_read_again),
        ErrorCode::EmptyFile => !records.iter().any(|record| is_cells(&record)),
        ErrorCode::NoHeader => headers.len() < dialect.header_rows as usize,
        ErrorCode::HeaderInvalidBytes => headers.iter().any(|header| std::str::from_utf8(&header.bytes).is_err()),
        ErrorCode::HeaderNulByte => headers.iter().any(|header| header.bytes.contains(&0)),
        ErrorCode::TooManyColumns => records.iter().any(|record| record.cells.len() > 1_500),
        ErrorCode::RecordTooLong | ErrorCode::CellTooLong | ErrorCode::HeaderTooLong => false,
    };
    assert!(explained, "{error}");
}
