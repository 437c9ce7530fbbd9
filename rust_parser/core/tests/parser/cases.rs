//! One table of files and what they give. Each is read whole, byte by byte, in every two pieces, and from the checkpoint of
//! every batch where each record is a batch; all must give the same. Where our rules are csv's, csv is asked too.
use dari_parser::{Dialect, ErrorCode, Options, ParseError, Parser, RejectReason};

use crate::support::{Read, read, read_on};

struct Case {
    name: &'static str,
    input: &'static [u8],
    dialect: Dialect,
    /// Limits on records, cells and columns.
    limits: (u32, u32, u32),
    expected: Expected,
    /// Whether the csv crate reads the same. Where not, the name says why.
    like_csv: bool,
}

enum Expected {
    Rows {
        columns: &'static [&'static str],
        rows: &'static [&'static [&'static str]],
        rejected: &'static [Rejected],
    },
    /// Code, line, byte.
    Error(ErrorCode, u64, u64),
}

/// Line, byte, length, reason.
type Rejected = (u64, u64, u64, RejectReason);

const RFC: Dialect = Dialect { delimiter: b',', quote: Some(b'"'), has_header: true };
const NO_HEADER: Dialect = Dialect { has_header: false, ..RFC };
const NO_QUOTE: Dialect = Dialect { quote: None, ..RFC };
const CASE: Case = Case {
    name: "",
    input: b"",
    dialect: RFC,
    limits: (1_000, 1_000, 100),
    expected: Expected::Error(ErrorCode::EmptyFile, 1, 0),
    like_csv: true,
};

const fn rows(columns: &'static [&'static str], rows: &'static [&'static [&'static str]]) -> Expected {
    Expected::Rows { columns, rows, rejected: &[] }
}

const fn with_rejected(
    columns: &'static [&'static str],
    rows: &'static [&'static [&'static str]],
    rejected: &'static [Rejected],
) -> Expected {
    Expected::Rows { columns, rows, rejected }
}

use ErrorCode as Code;
use RejectReason as Reason;

const AB: &[&str] = &["a", "b"];

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Line ends
    Case { name: "LF", input: b"a,b\n1,2\n3,4\n", expected: rows(AB, &[&["1", "2"], &["3", "4"]]), ..CASE },
    Case { name: "CRLF", input: b"a,b\r\n1,2\r\n3,4\r\n", expected: rows(AB, &[&["1", "2"], &["3", "4"]]), ..CASE },
    Case { name: "lone CR", input: b"a,b\r1,2\r3,4\r", expected: rows(AB, &[&["1", "2"], &["3", "4"]]), ..CASE },
    Case { name: "mixed", input: b"a,b\r1,2\n3,4\r\n5,6", expected: rows(AB, &[&["1", "2"], &["3", "4"], &["5", "6"]]), ..CASE },
    Case { name: "no end at the end", input: b"a,b\n1,2", expected: rows(AB, &[&["1", "2"]]), ..CASE },
    Case { name: "CR at the end", input: b"a,b\n1,2\r", expected: rows(AB, &[&["1", "2"]]), ..CASE },
    Case { name: "empty last cell at the end", input: b"a,b\n1,", expected: rows(AB, &[&["1", ""]]), ..CASE },
    Case { name: "header only", input: b"a,b", expected: rows(AB, &[]), ..CASE },
    Case { name: "LF CR is two ends", input: b"a,b\n\r1,2", expected: rows(AB, &[&["1", "2"]]), ..CASE },
    Case { name: "backslash dot alone", input: b"a\n\\.\nb\n", expected: rows(&["a"], &[&["\\."], &["b"]]), ..CASE },
    // Empty lines
    Case { name: "empty lines between", input: b"\n\r\na,b\n\n1,2\r\n\r\n\r3,4\n\n", expected: rows(AB, &[&["1", "2"], &["3", "4"]]), ..CASE },
    Case { name: "empty lines in one column are rows; csv skips them", input: b"\na\n1\n\n\r\n2\n", like_csv: false,
        expected: rows(&["a"], &[&["1"], &[""], &[""], &["2"]]), ..CASE },
    Case { name: "a line of a blank is a record", input: b"a,b\n \n", expected: with_rejected(AB, &[], &[(2, 4, 2, Reason::TooFewFields)]), ..CASE },
    Case { name: "quoted nothing is a record", input: b"a\n\"\"\n", expected: rows(&["a"], &[&[""]]), ..CASE },
    // Cells
    Case { name: "empty cells", input: b"a,b,c\n,,\n\"\",,\"\"\n", expected: rows(&["a", "b", "c"], &[&["", "", ""], &["", "", ""]]), ..CASE },
    Case { name: "blanks are kept", input: b" a ,b\n 1 ,\t2 \n", expected: rows(&[" a ", "b"], &[&[" 1 ", "\t2 "]]), ..CASE },
    Case { name: "formulas are kept", input: b"a,b\n=1+1,@x\n-1,+1\n", expected: rows(AB, &[&["=1+1", "@x"], &["-1", "+1"]]), ..CASE },
    Case { name: "quotes", input: b"\"a\",\"b\"\n\"1\",2\n3,\"4\"", expected: rows(AB, &[&["1", "2"], &["3", "4"]]), ..CASE },
    Case { name: "delimiter and line ends in quotes", input: b"a,b\n\"1,\n,\r\n\r\",2\n\"\n\",\"\r\"\n",
        expected: rows(AB, &[&["1,\n,\r\n\r", "2"], &["\n", "\r"]]), ..CASE },
    Case { name: "doubled quotes", input: b"a,b\n\"\"\"\",\"x\"\"y\"\n\"\"\"x\"\"\",\"\"\"\"\"\"", expected: rows(AB, &[&["\"", "x\"y"], &["\"x\"", "\"\""]]), ..CASE },
    Case { name: "a quote inside an unquoted cell is text", input: b"a,b\nx\"y,z\"\n 1\"\",\"2\"\n", expected: rows(AB, &[&["x\"y", "z\""], &[" 1\"\"", "2"]]), ..CASE },
    Case { name: "UTF-8", input: "이름,값\n서울,é😀\n".as_bytes(), expected: rows(&["이름", "값"], &[&["서울", "é😀"]]), ..CASE },
    Case { name: "cells of 15 to 17 bytes", input: b"a,b,c\n123456789012345,1234567890123456,12345678901234567\n",
        expected: rows(&["a", "b", "c"], &[&["123456789012345", "1234567890123456", "12345678901234567"]]), ..CASE },
    Case { name: "a row longer than a block", input: b"a,b\n1234567890123456789012345678901234567890,\"1234567890\n12345\"\"67890123456789012345678901234567890\"\nx,y",
        expected: rows(AB, &[&["1234567890123456789012345678901234567890", "1234567890\n12345\"67890123456789012345678901234567890"], &["x", "y"]]), ..CASE },
    // Byte-order mark
    Case { name: "BOM", input: b"\xef\xbb\xbfa,b\n1,2\n", expected: rows(AB, &[&["1", "2"]]), ..CASE },
    Case { name: "BOM before a quote", input: b"\xef\xbb\xbf\"a\",b\n1,2\n", expected: rows(AB, &[&["1", "2"]]), ..CASE },
    Case { name: "BOM once", input: b"\xef\xbb\xbf\xef\xbb\xbfa,b\n1,2\n", expected: rows(&["\u{feff}a", "b"], &[&["1", "2"]]), ..CASE },
    Case { name: "a letter that begins like a BOM", input: "\u{fefe}a,b\n1,2\n".as_bytes(), expected: rows(&["\u{fefe}a", "b"], &[&["1", "2"]]), ..CASE },
    Case { name: "BOM alone; csv has no errors for empty files", input: b"\xef\xbb\xbf", like_csv: false, expected: Expected::Error(Code::EmptyFile, 1, 3), ..CASE },
    Case { name: "half a BOM; csv takes any bytes", input: b"\xef\xbb", like_csv: false, expected: Expected::Error(Code::HeaderInvalidUtf8, 1, 0), ..CASE },
    // Header
    Case { name: "no header", input: b"1,2\n3,4", dialect: NO_HEADER, expected: rows(&["column_1", "column_2"], &[&["1", "2"], &["3", "4"]]), ..CASE },
    Case { name: "no header and a first row with too many bytes wrong", input: b"\xff,2\n3,4", dialect: NO_HEADER,
        expected: with_rejected(&["column_1", "column_2"], &[&["3", "4"]], &[(1, 0, 4, Reason::InvalidUtf8)]), ..CASE },
    Case { name: "names that are missing; csv leaves them empty", input: b"a,,\n1,2,3\n", like_csv: false, expected: rows(&["a", "column_2", "column_3"], &[&["1", "2", "3"]]), ..CASE },
    Case { name: "names differ by case", input: b"a,A\n1,2\n", expected: rows(&["a", "A"], &[&["1", "2"]]), ..CASE },
    Case { name: "same names; csv takes them", input: b"\na,b,a\n", like_csv: false, expected: Expected::Error(Code::DuplicateColumn, 2, 1), ..CASE },
    Case { name: "a name like that of a place; csv takes it", input: b"column_2,\n", like_csv: false, expected: Expected::Error(Code::DuplicateColumn, 1, 0), ..CASE },
    Case { name: "header with bad bytes; csv takes them", input: b"a,\xff\n", like_csv: false, expected: Expected::Error(Code::HeaderInvalidUtf8, 1, 0), ..CASE },
    Case { name: "header with NUL; csv takes it", input: b"a,\0\n", like_csv: false, expected: Expected::Error(Code::HeaderNulByte, 1, 0), ..CASE },
    Case { name: "header with text after a quote; csv joins it", input: b"\"a\"x,b\n", like_csv: false, expected: Expected::Error(Code::HeaderTextAfterQuote, 1, 0), ..CASE },
    Case { name: "nothing; csv has no errors for empty files", input: b"", like_csv: false, expected: Expected::Error(Code::EmptyFile, 1, 0), ..CASE },
    Case { name: "empty lines only; csv has no errors for empty files", input: b"\n\r\n\r", like_csv: false, expected: Expected::Error(Code::NoHeader, 4, 4), ..CASE },
    Case { name: "empty lines only, no header", input: b"\n\n", dialect: NO_HEADER, like_csv: false, expected: Expected::Error(Code::EmptyFile, 3, 2), ..CASE },
    // Dialects
    Case { name: "semicolons", input: b"a;b\n1,5;\"2;\"\n", dialect: Dialect { delimiter: b';', ..RFC }, expected: rows(AB, &[&["1,5", "2;"]]), ..CASE },
    Case { name: "tabs and single quotes", input: b"a\tb\n'1\t'\t\"\n", dialect: Dialect { delimiter: b'\t', quote: Some(b'\''), ..RFC }, expected: rows(AB, &[&["1\t", "\""]]), ..CASE },
    Case { name: "no quoting", input: b"a,b\n\"1,2\"\n", dialect: NO_QUOTE, expected: rows(AB, &[&["\"1", "2\""]]), ..CASE },
    Case { name: "a blank as delimiter", input: b"a b\n1 2\n", dialect: Dialect { delimiter: b' ', ..RFC }, expected: rows(AB, &[&["1", "2"]]), ..CASE },
    Case { name: "a joiner as quote", input: b"a,b\n-x--1-,-2,-\n", dialect: Dialect { quote: Some(b'-'), ..RFC }, expected: rows(AB, &[&["x-1", "2,"]]), ..CASE },
    // Rejected rows
    Case { name: "too few and too many", input: b"a,b\n1\n1,2,3\n4,5\n,,,,,,,,,\n",
        expected: with_rejected(AB, &[&["4", "5"]], &[(2, 4, 2, Reason::TooFewFields), (3, 6, 6, Reason::TooManyFields), (5, 16, 10, Reason::TooManyFields)]), ..CASE },
    Case { name: "bad bytes", input: b"a,b\nx,\xff\n\xed\xa0\x80,y\n\xb0\xa1,z\r\n1,2\n",
        expected: with_rejected(AB, &[&["1", "2"]], &[(2, 4, 4, Reason::InvalidUtf8), (3, 8, 6, Reason::InvalidUtf8), (4, 14, 6, Reason::InvalidUtf8)]), ..CASE },
    Case { name: "half a letter before a delimiter", input: b"a,b\n\xec\x84,\x9c\n", expected: with_rejected(AB, &[], &[(2, 4, 5, Reason::InvalidUtf8)]), ..CASE },
    Case { name: "NUL", input: b"a,b\n1,\0\n\"\0\",2\n3,4\n", expected: with_rejected(AB, &[&["3", "4"]], &[(2, 4, 4, Reason::NulByte), (3, 8, 6, Reason::NulByte)]), ..CASE },
    Case { name: "text after a quote; csv joins it", input: b"a,b\n\"1\"x,2\n\"1\" ,2\n\"1\"\"x\"y\",3\n4,5\n", like_csv: false,
        expected: with_rejected(AB, &[&["4", "5"]], &[(2, 4, 7, Reason::TextAfterQuote), (3, 11, 7, Reason::TextAfterQuote), (4, 18, 11, Reason::TextAfterQuote)]), ..CASE },
    Case { name: "lines count inside quotes", input: b"a,b\n\"1\n\r\n\r\",2\n3\n",
        expected: with_rejected(AB, &[&["1\n\r\n\r", "2"]], &[(6, 14, 2, Reason::TooFewFields)]), ..CASE },
    Case { name: "lines count in rejected rows", input: b"a,b\n\"\n\"\n3\n", expected: with_rejected(AB, &[], &[(2, 4, 4, Reason::TooFewFields), (4, 8, 2, Reason::TooFewFields)]), ..CASE },
    // Errors
    Case { name: "a quote that is never closed; csv closes it", input: b"a,b\n1,2\n\"3\n4\n5,6\n", like_csv: false, expected: Expected::Error(Code::UnclosedQuote, 3, 8), ..CASE },
    Case { name: "a later cell never closed; csv closes it", input: b"a,b\n\"1\n\",\"\"\"\n", like_csv: false, expected: Expected::Error(Code::UnclosedQuote, 3, 9), ..CASE },
    Case { name: "a header never closed; csv closes it", input: b"\"a", like_csv: false, expected: Expected::Error(Code::UnclosedQuote, 1, 0), ..CASE },
    Case { name: "a record at the limit", input: b"a,b\n123,56\r\n123,56", limits: (6, 6, 9), expected: rows(AB, &[&["123", "56"], &["123", "56"]]), ..CASE },
    Case { name: "a record over the limit", input: b"a,b\n1,2\n123,567\n", limits: (6, 6, 9), like_csv: false, expected: Expected::Error(Code::RecordTooLong, 3, 8), ..CASE },
    Case { name: "a record over the limit at the end", input: b"a,b\n123,567", limits: (6, 6, 9), like_csv: false, expected: Expected::Error(Code::RecordTooLong, 2, 4), ..CASE },
    Case { name: "a quote never closed over the limit", input: b"a,b\n\"1\n2\n3\n4\n", limits: (6, 6, 9), like_csv: false, expected: Expected::Error(Code::RecordTooLong, 2, 4), ..CASE },
    Case { name: "a cell at the limit", input: b"a,b\n123,\"\"\"56\"\n", limits: (99, 3, 9), expected: rows(AB, &[&["123", "\"56"]]), ..CASE },
    Case { name: "a cell over the limit", input: b"a,b\n\"1\n3\",\"\"\"567\"\n", limits: (99, 3, 9), like_csv: false, expected: Expected::Error(Code::CellTooLong, 3, 10), ..CASE },
    Case { name: "a name over the limit", input: b"a,bcde\n", limits: (99, 3, 9), like_csv: false, expected: Expected::Error(Code::CellTooLong, 1, 2), ..CASE },
    Case { name: "columns at the limit", input: b"a,b\n1,2\n", limits: (99, 99, 2), expected: rows(AB, &[&["1", "2"]]), ..CASE },
    Case { name: "columns over the limit", input: b"a,b,c\n", limits: (99, 99, 2), like_csv: false, expected: Expected::Error(Code::TooManyColumns, 1, 0), ..CASE },
    Case { name: "columns over the limit, no header", input: b"\n1,2,3\n", dialect: NO_HEADER, limits: (99, 99, 2), like_csv: false, expected: Expected::Error(Code::TooManyColumns, 2, 1) },
];

impl Case {
    fn options(&self) -> Options {
        let mut options = Options { dialect: self.dialect, ..Options::default() };
        (options.limits.max_record_bytes, options.limits.max_cell_bytes, options.limits.max_columns) = self.limits;
        options
    }

    fn check(&self, way: &str, result: &Result<Read, ParseError>) {
        let name = self.name;
        match (&self.expected, result) {
            (Expected::Rows { columns, rows, rejected }, Ok(read)) => {
                assert_eq!(read.columns(), *columns, "{name}, {way}");
                assert_eq!(read.cells(), *rows, "{name}, {way}");
                assert_eq!(read.rejected(), *rejected, "{name}, {way}");
                let numbers: Vec<i64> = read.rows().iter().map(|(number, _)| *number).collect();
                assert_eq!(numbers, (1..=rows.len() as i64).collect::<Vec<_>>(), "{name}, {way}");
            }
            (Expected::Error(code, line, byte_offset), Err(error)) => {
                assert_eq!((error.code, error.line, error.byte_offset), (*code, *line, *byte_offset), "{name}, {way}");
            }
            (_, result) => panic!("{name}, {way}: {result:?}"),
        }
    }
}

#[test]
fn each_case_gives_what_the_table_says() {
    for case in CASES {
        case.check("whole", &read(case.options(), [case.input]));
    }
}

#[test]
fn each_case_gives_the_same_byte_by_byte() {
    for case in CASES {
        case.check("byte by byte", &read(case.options(), case.input.chunks(1)));
    }
}

#[test]
fn each_case_gives_the_same_in_every_two_pieces() {
    for case in CASES {
        let whole = read(case.options(), [case.input]);
        for at in 0..=case.input.len() {
            let (first, second) = case.input.split_at(at);
            assert_eq!(read(case.options(), [first, second]), whole, "{}, split at {at}", case.name);
        }
    }
}

#[test]
fn each_case_goes_on_from_every_record() {
    for case in CASES {
        let mut options = case.options();
        options.limits.batch_bytes = 1;
        let mut parser = Parser::new(options, None).unwrap();
        // What was closed before an error counts here: it is what an upload would go on from.
        let mut batches = Vec::new();
        let mut error = None;
        for byte in case.input.chunks(1) {
            match parser.feed(byte) {
                Ok(closed) => batches.extend(closed),
                Err(found) => {
                    error = Some(found);
                    break;
                }
            }
        }
        let whole = match error {
            Some(error) => Err(error),
            None => parser.finish().map(|finished| {
                batches.extend(finished.batches);
                Read { batches: batches.clone(), sha256: finished.sha256 }
            }),
        };
        case.check("a batch a record", &whole);
        for (index, batch) in batches.iter().enumerate() {
            let offset = batch.checkpoint.offset_bytes as usize;
            if batch.checkpoint.columns.is_empty() && offset == case.input.len()
                || index + 1 == batches.len() && whole.is_ok()
            {
                continue;
            }
            let rest = read_on(Parser::new(options, Some(&batch.checkpoint)).unwrap(), [&case.input[offset..]]);
            match (&whole, &rest) {
                (Ok(whole), Ok(rest)) => {
                    assert_eq!(rest.sha256, whole.sha256, "{}, from {offset}", case.name);
                    assert_eq!(rest.batches, whole.batches[index + 1..], "{}, from {offset}", case.name);
                }
                (Err(whole), Err(rest)) => assert_eq!(rest, whole, "{}, from {offset}", case.name),
                _ => panic!("{}, from {offset}: {rest:?}", case.name),
            }
        }
    }
}

#[test]
fn csv_reads_the_same() {
    for case in CASES.iter().filter(|case| case.like_csv) {
        let mut reader = csv::ReaderBuilder::new();
        reader.flexible(true).delimiter(case.dialect.delimiter).has_headers(false);
        match case.dialect.quote {
            Some(quote) => reader.quote(quote),
            None => reader.quoting(false),
        };
        let mut records: Vec<_> = reader.from_reader(case.input).into_byte_records().map(Result::unwrap).collect();
        let Expected::Rows { columns, rows, rejected } = &case.expected else {
            panic!("{}: csv knows no errors", case.name)
        };
        if case.dialect.has_header {
            assert_eq!(
                records.remove(0).iter().collect::<Vec<_>>(),
                columns.iter().map(|name| name.as_bytes()).collect::<Vec<_>>(),
                "{}",
                case.name
            );
        }
        let is_row = |record: &csv::ByteRecord| {
            record.len() == columns.len()
                && record.iter().all(|cell| !cell.contains(&0) && std::str::from_utf8(cell).is_ok())
        };
        assert_eq!(records.iter().filter(|record| !is_row(record)).count(), rejected.len(), "{}", case.name);
        let cells: Vec<Vec<&[u8]>> =
            records.iter().filter(|record| is_row(record)).map(|record| record.iter().collect()).collect();
        let expected: Vec<Vec<&[u8]>> =
            rows.iter().map(|row| row.iter().map(|cell| cell.as_bytes()).collect()).collect();
        assert_eq!(cells, expected, "{}", case.name);
    }
}
