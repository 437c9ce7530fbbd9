//! Tables written by the book, RFC 4180, read as the csv crate reads them.
//!
//! The input is a table: bytes become cells, and choose which cells are quoted and how records end. So each input is a
//! file that both must read, and read alike.

use dari_parser::Options;
use dari_parser::reading::{Dialect, Encoding, Hints};

use super::output::read;

/// Ends a cell.
const NEXT_CELL: u8 = 0xff;
/// What a low byte writes into a cell; a higher one writes an ASCII character.
const PIECES: [&str; 16] =
    [",", "\"", "\r", "\n", "\r\n", " ", "\t", "한국", "é", "😀", ";", "'", "#", "\\", "=1+1", "\u{2028}"];
const LINE_ENDS: [&str; 3] = ["\n", "\r\n", "\r"];

/// See the module.
pub fn check(input: &[u8]) {
    let Some((&[columns, style], text)) = input.split_first_chunk() else { return };
    let table = table(text, usize::from(columns % 6) + 1);
    let file = written(&table, style);
    let expected: Vec<Vec<Vec<u8>>> = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_reader(file.as_bytes())
        .into_byte_records()
        .map(|record| record.expect("uniform widths").iter().map(<[u8]>::to_vec).collect())
        .collect();
    assert_eq!(expected.len(), table.len(), "the csv crate reads what was written");
    let output = read(options(), [file.as_bytes()]).expect("a file by the book");
    let rows = output.rows();
    let cells: Vec<Vec<&[u8]>> = rows.iter().map(super::output::Row::all_cells).collect();
    assert_eq!(cells, expected);
    assert_eq!(output.rejected().count(), 0);
}

/// RFC 4180 without a header; nothing is left to be found out.
fn options() -> Options {
    let Dialect { delimiter, quote, escape, comment, trims_blanks, preamble_lines, header_rows } = Dialect {
        delimiter: b',',
        quote: Some(b'"'),
        escape: None,
        comment: None,
        trims_blanks: false,
        preamble_lines: 0,
        header_rows: 0,
    };
    let hints = Hints {
        encoding: Some(Encoding::Utf8),
        delimiter: Some(delimiter),
        quote: Some(quote),
        escape: Some(escape),
        comment: Some(comment),
        trims_blanks: Some(trims_blanks),
        preamble_lines: Some(preamble_lines),
        header_rows: Some(header_rows),
    };
    Options { hints, ..Options::default() }
}

/// At least one row; the last one is filled up with empty cells.
fn table(text: &[u8], columns: usize) -> Vec<Vec<String>> {
    let mut cells: Vec<String> = text.split(|byte| *byte == NEXT_CELL).map(cell).collect();
    cells.resize(cells.len().next_multiple_of(columns), String::new());
    cells.chunks(columns).map(<[String]>::to_vec).collect()
}

fn cell(bytes: &[u8]) -> String {
    let piece = |byte: &u8| match PIECES.get(usize::from(*byte)) {
        Some(piece) => (*piece).to_owned(),
        None => char::from(b' ' + byte % 95).to_string(),
    };
    bytes.iter().map(piece).collect()
}

/// `style` chooses the line ends, whether cells are quoted that need not be, and whether the last record has an end.
fn written(table: &[Vec<String>], style: u8) -> String {
    let mut file = String::new();
    for (number, row) in table.iter().enumerate() {
        let line_end = LINE_ENDS[(usize::from(style & 3) + if style & 4 != 0 { number } else { 0 }) % 3];
        let cells: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(place, cell)| quoted(cell, style & 8 != 0 && (number + place) % 3 == 0, row.len() == 1))
            .collect();
        file += &cells.join(",");
        if number + 1 < table.len() || style & 16 == 0 {
            file += line_end;
        }
    }
    file
}

fn quoted(cell: &str, always: bool, is_alone: bool) -> String {
    // A line without any byte is a row to dari, in a file of one column, and nothing to the csv crate.
    if always || (is_alone && cell.is_empty()) || cell.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}
