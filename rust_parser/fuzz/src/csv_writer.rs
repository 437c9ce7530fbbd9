//! Any bytes as a COPY: refused, or written. And rows that were read and written: the csv crate reads the same cells.

use dari_parser::CsvWriter;

use super::case::Case;
use super::output::{Output, Row, read};

/// See the module. The first byte chooses.
pub fn check(input: &[u8]) {
    match input.split_first() {
        Some((0, copy)) => check_any_bytes(copy),
        Some((_, file)) => check_written(file),
        None => {}
    }
}

/// What is behind the signature may be anything; with it, the way in is short.
fn check_any_bytes(copy: &[u8]) {
    let writer = CsvWriter { escapes_formulas: true };
    let _ = writer.rows(copy);
    let _ = writer.rows(&[b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0", copy].concat());
}

fn check_written(input: &[u8]) {
    let Some(case) = Case::of(input) else { return };
    let Ok(output) = read(case.options, [case.file]) else { return };
    let rows = output.rows();
    let written = written(&output, CsvWriter { escapes_formulas: false });
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(written.as_slice());
    let header: Vec<Vec<u8>> = reader.byte_headers().expect("it is in memory").iter().map(<[u8]>::to_vec).collect();
    assert_eq!(header, output.columns().iter().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>());
    let records: Vec<Vec<Vec<u8>>> = reader
        .into_byte_records()
        .map(|record| record.expect("it is in memory").iter().map(<[u8]>::to_vec).collect())
        .collect();
    assert_eq!(records, rows.iter().map(Row::all_cells).collect::<Vec<_>>());
    check_escaped(&rows, &self::written(&output, CsvWriter { escapes_formulas: true }));
}

fn written(output: &Output, writer: CsvWriter) -> Vec<u8> {
    let mut csv = writer.header(output.columns().iter().map(String::as_str));
    for batch in output.batches.iter().filter(|batch| !batch.rows.is_empty()) {
        csv.extend(writer.rows(&batch.rows).expect("a COPY of rows"));
    }
    csv
}

/// No cell begins a formula, and without the mark in front each is what it was.
fn check_escaped(rows: &[Row], written: &[u8]) {
    let reader = csv::ReaderBuilder::new().flexible(true).from_reader(written);
    for (record, row) in reader.into_byte_records().zip(rows) {
        let record = record.expect("it is in memory");
        for (escaped, cell) in record.iter().zip(row.all_cells()) {
            assert!(escaped == cell || escaped.strip_prefix(b"'") == Some(cell));
            let begins_formula = matches!(escaped.first(), Some(b'=' | b'@' | b'\t' | b'\r'));
            assert!(!begins_formula, "{}", String::from_utf8_lossy(escaped));
        }
    }
}
