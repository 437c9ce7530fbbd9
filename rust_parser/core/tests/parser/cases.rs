//! One table of files and what they give. Each is read whole, byte by byte, in every two pieces, and from the checkpoint of
//! every batch where each record is a batch; all must give the same. Where our rules are csv's, csv is asked too.
use dari_parser::reading::{Dialect, Encoding};
use dari_parser::{ErrorCode, Options, ParseError, Parser, RejectReason};

use crate::support::{Read, read, read_on, told};

struct Case {
    name: &'static str,
    input: &'static [u8],
    encoding: Encoding,
    dialect: Dialect,
    replaces_invalid_bytes: bool,
    rejects_ragged_rows: bool,
    /// Limits on records, cells and columns.
    limits: (u32, u32, u32),
    expected: Expected,
    /// Stored rows that are ragged, repaired, replaced.
    counts: (u64, u64, u64),
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

const RFC: Dialect = Dialect::RFC_4180;
const NO_HEADER: Dialect = Dialect { header_rows: 0, ..RFC };
const NO_QUOTE: Dialect = Dialect { quote: None, ..RFC };
const ESCAPED: Dialect = Dialect { escape: Some(b'\\'), ..RFC };
const TRIMMED: Dialect = Dialect { trims_blanks: true, ..RFC };
const COMMENTED: Dialect = Dialect { comment: Some(b'#'), ..RFC };
const CASE: Case = Case {
    name: "",
    input: b"",
    encoding: Encoding::Utf8,
    dialect: RFC,
    replaces_invalid_bytes: false,
    rejects_ragged_rows: false,
    limits: (1_000, 1_000, 100),
    expected: Expected::Error(ErrorCode::EmptyFile, 1, 0),
    counts: (0, 0, 0),
    like_csv: true,
};
/// What csv does not know.
const OWN: Case = Case { like_csv: false, ..CASE };

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
const ABC: &[&str] = &["a", "b", "c"];

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
    Case { name: "a line of a blank is a record", input: b"a,b\n \n", expected: rows(AB, &[&[" "]]), counts: (1, 0, 0), ..CASE },
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
    Case { name: "half a BOM; csv takes any bytes", input: b"\xef\xbb", expected: Expected::Error(Code::HeaderInvalidBytes, 1, 0), ..OWN },
    // Header
    Case { name: "no header", input: b"1,2\n3,4", dialect: NO_HEADER, expected: rows(&["column_1", "column_2"], &[&["1", "2"], &["3", "4"]]), ..CASE },
    Case { name: "no header and a first row with too many bytes wrong", input: b"\xff,2\n3,4", dialect: NO_HEADER,
        expected: with_rejected(&["column_1", "column_2"], &[&["3", "4"]], &[(1, 0, 4, Reason::InvalidBytes)]), ..CASE },
    Case { name: "names that are missing; csv leaves them empty", input: b"a,,\n1,2,3\n", like_csv: false, expected: rows(&["a", "column_2", "column_3"], &[&["1", "2", "3"]]), ..CASE },
    Case { name: "names differ by case", input: b"a,A\n1,2\n", expected: rows(&["a", "A"], &[&["1", "2"]]), ..CASE },
    Case { name: "same names", input: b"\na,b,a\n1,2,3\n", expected: rows(&["a", "b", "a"], &[&["1", "2", "3"]]), ..CASE },
    Case { name: "a name like that of a place; csv leaves it empty", input: b"column_2,\n1,2\n", like_csv: false, expected: rows(&["column_2", "column_2"], &[&["1", "2"]]), ..CASE },
    Case { name: "header with bad bytes; csv takes them", input: b"a,\xff\n", like_csv: false, expected: Expected::Error(Code::HeaderInvalidBytes, 1, 0), ..CASE },
    Case { name: "header with NUL; csv takes it", input: b"a,\0\n", like_csv: false, expected: Expected::Error(Code::HeaderNulByte, 1, 0), ..CASE },
    Case { name: "a header with stray quotes", input: b"\"a\"x,b\n1,2\n", expected: rows(&["\"a\"x", "b"], &[&["1", "2"]]), ..OWN },
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
    Case { name: "too few and too many", input: b"a,b\n1\n1,2,3\n4,5\n,,,,\n", counts: (3, 0, 0),
        expected: rows(AB, &[&["1"], &["1", "2", "3"], &["4", "5"], &["", "", "", "", ""]]), ..CASE },
    Case { name: "too few and too many, not wanted", input: b"a,b\n1\n1,2,3\n4,5\n,,,,,,,,,\n", rejects_ragged_rows: true,
        expected: with_rejected(AB, &[&["4", "5"]], &[(2, 4, 2, Reason::TooFewFields), (3, 6, 6, Reason::TooManyFields), (5, 16, 10, Reason::TooManyFields)]), ..CASE },
    Case { name: "more cells than a table may have", input: b"a,b\n1,2,3\n1,2,3,4\n", limits: (99, 99, 3), counts: (1, 0, 0),
        expected: with_rejected(AB, &[&["1", "2", "3"]], &[(3, 10, 8, Reason::TooManyFields)]), ..CASE },
    Case { name: "bad bytes", input: b"a,b\nx,\xff\n\xed\xa0\x80,y\n\xb0\xa1,z\r\n1,2\n",
        expected: with_rejected(AB, &[&["1", "2"]], &[(2, 4, 4, Reason::InvalidBytes), (3, 8, 6, Reason::InvalidBytes), (4, 14, 6, Reason::InvalidBytes)]), ..CASE },
    Case { name: "half a letter before a delimiter", input: b"a,b\n\xec\x84,\x9c\n", expected: with_rejected(AB, &[], &[(2, 4, 5, Reason::InvalidBytes)]), ..CASE },
    Case { name: "NUL", input: b"a,b\n1,\0\n\"\0\",2\n3,4\n", expected: with_rejected(AB, &[&["3", "4"]], &[(2, 4, 4, Reason::NulByte), (3, 8, 6, Reason::NulByte)]), ..CASE },
    Case { name: "text after a quote is text with its quotes", input: b"a,b\n\"1\"x,2\n\"1\" ,2\n\"1\"\"x\"y\",3\n4,5\n", counts: (0, 3, 0),
        expected: rows(AB, &[&["\"1\"x", "2"], &["\"1\" ", "2"], &["1\"x\"y", "3"], &["4", "5"]]), ..OWN },
    Case { name: "text after a quote and another width", input: b"a,b\n\"1\"x\n\"1\"x,2,3\n4,5\n",
        expected: with_rejected(AB, &[&["4", "5"]], &[(2, 4, 5, Reason::TextAfterQuote), (3, 9, 9, Reason::TextAfterQuote)]), ..OWN },
    Case { name: "lines count inside quotes", input: b"a,b\n\"1\n\r\n\r\",2\n3\n", rejects_ragged_rows: true,
        expected: with_rejected(AB, &[&["1\n\r\n\r", "2"]], &[(6, 14, 2, Reason::TooFewFields)]), ..CASE },
    Case { name: "lines count in rejected rows", input: b"a,b\n\"\n\"\n3\n", rejects_ragged_rows: true,
        expected: with_rejected(AB, &[], &[(2, 4, 4, Reason::TooFewFields), (4, 8, 2, Reason::TooFewFields)]), ..CASE },
    // Errors
    Case { name: "a quote that is never closed; csv closes it", input: b"a,b\n1,2\n\"3\n4\n5,6\n", like_csv: false, expected: Expected::Error(Code::UnclosedQuote, 3, 8), ..CASE },
    Case { name: "a later cell never closed; csv closes it", input: b"a,b\n\"1\n\",\"\"\"\n", like_csv: false, expected: Expected::Error(Code::UnclosedQuote, 3, 9), ..CASE },
    Case { name: "a header never closed", input: b"\"a,b\n1,2\n", expected: rows(&["\"a", "b"], &[&["1", "2"]]), ..OWN },
    Case { name: "a quote never closed in one column", input: b"a\n\"1\n2\n", expected: rows(&["a"], &[&["\"1"], &["2"]]), counts: (0, 1, 0), ..OWN },
    Case { name: "a quote never closed, but the line has all cells", input: b"a,b\n1,\"2\n3,4\n5,6", counts: (0, 1, 0),
        expected: rows(AB, &[&["1", "\"2"], &["3", "4"], &["5", "6"]]), ..OWN },
    Case { name: "a stray quote that closes lines later", input: b"a,b\n1,\"2\n3,4\n5,\"6\"\n7,8\n", counts: (0, 1, 0),
        expected: rows(AB, &[&["1", "\"2"], &["3", "4"], &["5", "6"], &["7", "8"]]), ..OWN },
    Case { name: "a stray quote that a quoted cell closes", input: b"a,b\n1,\"\n2,\",x\"\n", counts: (0, 1, 0),
        expected: rows(AB, &[&["1", "\""], &["2", ",x"]]), ..OWN },
    Case { name: "a wide row with line ends in quotes", input: b"a,b\n1,\"2\n\",3\n\"4\n,5\"\n", counts: (2, 0, 0), expected: rows(AB, &[&["1", "2\n", "3"], &["4\n,5"]]), ..CASE },
    Case { name: "a stray quote before a quoted cell", input: b"a,b,c\n\"1,\"x, y\",3\n\"\"Great, fine\",2,3\n", counts: (0, 2, 0),
        expected: rows(ABC, &[&["\"1", "x, y", "3"], &["\"Great, fine", "2", "3"]]), ..OWN },
    Case { name: "a stray quote over the limit of a record", input: b"a,b\n1,\"2\n3,4\n5,6\n7,8\n9,10\n", limits: (9, 9, 9), counts: (0, 1, 0),
        expected: rows(AB, &[&["1", "\"2"], &["3", "4"], &["5", "6"], &["7", "8"], &["9", "10"]]), ..OWN },
    Case { name: "a stray quote on the last line", input: b"a,b\n1,2\n3,\"", expected: rows(AB, &[&["1", "2"], &["3", "\""]]), counts: (0, 1, 0), ..OWN },
    Case { name: "a record over the limit without a quote", input: b"a,b\n1,2\n1,23456789\n3,4\n", limits: (9, 9, 9), expected: Expected::Error(Code::RecordTooLong, 3, 8), ..OWN },
    Case { name: "a record at the limit", input: b"a,b\n123,56\r\n123,56", limits: (6, 6, 9), expected: rows(AB, &[&["123", "56"], &["123", "56"]]), ..CASE },
    Case { name: "a record over the limit", input: b"a,b\n1,2\n123,567\n", limits: (6, 6, 9), like_csv: false, expected: Expected::Error(Code::RecordTooLong, 3, 8), ..CASE },
    Case { name: "a record over the limit at the end", input: b"a,b\n123,567", limits: (6, 6, 9), like_csv: false, expected: Expected::Error(Code::RecordTooLong, 2, 4), ..CASE },
    Case { name: "a quote never closed over the limit", input: b"a,b\n\"1\n2\n3\n4\n", limits: (6, 6, 9), like_csv: false, expected: Expected::Error(Code::RecordTooLong, 2, 4), ..CASE },
    Case { name: "a cell at the limit", input: b"a,b\n123,\"\"\"56\"\n", limits: (99, 3, 9), expected: rows(AB, &[&["123", "\"56"]]), ..CASE },
    Case { name: "a cell over the limit", input: b"a,b\n\"1\n3\",\"\"\"567\"\n", limits: (99, 3, 9), like_csv: false, expected: Expected::Error(Code::CellTooLong, 3, 10), ..CASE },
    Case { name: "a name over the limit", input: b"a,bcde\n", limits: (99, 3, 9), like_csv: false, expected: Expected::Error(Code::CellTooLong, 1, 2), ..CASE },
    Case { name: "columns at the limit", input: b"a,b\n1,2\n", limits: (99, 99, 2), expected: rows(AB, &[&["1", "2"]]), ..CASE },
    Case { name: "columns over the limit", input: b"a,b,c\n", limits: (99, 99, 2), like_csv: false, expected: Expected::Error(Code::TooManyColumns, 1, 0), ..CASE },
    Case { name: "columns over the limit, no header", input: b"\n1,2,3\n", dialect: NO_HEADER, limits: (99, 99, 2), expected: Expected::Error(Code::TooManyColumns, 2, 1), ..OWN },
    // Escape bytes
    Case { name: "an escape byte counts before a quote and itself", input: b"a,b\n\"1\\\",\",2\n\"\\\\\",\"\\'\\\n\"\n\"3\"\"\",4\n", dialect: ESCAPED,
        expected: rows(AB, &[&["1\",", "2"], &["\\", "\\'\\\n"], &["3\"", "4"]]), ..OWN },
    Case { name: "an escape byte outside quotes is text", input: b"a,b\n\\,\\\"\n", dialect: ESCAPED, expected: rows(AB, &[&["\\", "\\\""]]), ..OWN },
    Case { name: "an escape byte at the end", input: b"a,b\n1,\"2\\", dialect: ESCAPED, expected: rows(AB, &[&["1", "\"2\\"]]), counts: (0, 1, 0), ..OWN },
    Case { name: "NUL as escape byte", input: b"a,b\n\"1\0\"\",2\n3\0,4\n", dialect: Dialect { escape: Some(0), ..RFC },
        expected: with_rejected(AB, &[&["1\"", "2"]], &[(3, 12, 5, Reason::NulByte)]), ..OWN },
    // Blanks
    Case { name: "blanks around cells", input: b" a , \"b\" \n 1 ,\t\" 2,\" \t\n  ,3 4\n", dialect: TRIMMED, expected: rows(AB, &[&["1", " 2,"], &["", "3 4"]]), ..OWN },
    Case { name: "blanks around a quoted cell over many blocks", dialect: TRIMMED,
        input: b"a,b\n                                                                      \"1,\"                                                                      ,2\n",
        expected: rows(AB, &[&["1,", "2"]]), ..OWN },
    Case { name: "a quote behind text and blanks is text", input: b"a,b\nx \"1\",  2\"\n", dialect: TRIMMED, expected: rows(AB, &[&["x \"1\"", "2\""]]), ..OWN },
    Case { name: "a quote behind a closing quote and blanks", input: b"a,b\n\"1\" \"x\", 2\n", dialect: TRIMMED, expected: rows(AB, &[&["1\" \"x", "2"]]), counts: (0, 1, 0), ..OWN },
    Case { name: "a tab as delimiter is no blank", input: b"a\tb\n1\t \"2\"\n", dialect: Dialect { delimiter: b'\t', ..TRIMMED }, expected: rows(AB, &[&["1", "2"]]), ..OWN },
    // Comments, preamble, header
    Case { name: "comments", input: b"#x\na,b\n# \"\n1,#2\n#\n", dialect: COMMENTED,
        expected: with_rejected(AB, &[&["1", "#2"]], &[(1, 0, 3, Reason::Comment), (3, 7, 4, Reason::Comment), (5, 16, 2, Reason::Comment)]), ..OWN },
    Case { name: "preamble", input: b"a \"title\r\n\r\n\"x,,,\na,b\n1,2\n", dialect: Dialect { preamble_lines: 3, ..RFC },
        expected: with_rejected(AB, &[&["1", "2"]], &[(1, 0, 10, Reason::Preamble), (3, 12, 6, Reason::Preamble)]), ..OWN },
    Case { name: "preamble only", input: b"x\ny\n", dialect: Dialect { preamble_lines: 3, ..RFC }, expected: Expected::Error(Code::NoHeader, 3, 4), ..OWN },
    Case { name: "three header rows", input: b"a,b\n\nA,,x\n,2\n3,4,5\n", dialect: Dialect { header_rows: 3, ..RFC },
        expected: rows(&["a A", "b 2", "x"], &[&["3", "4", "5"]]), ..OWN },
    Case { name: "fewer header rows than told", input: b"a,b\n", dialect: Dialect { header_rows: 3, ..RFC }, expected: rows(AB, &[]), ..OWN },
    // Around the table
    Case { name: "a footer", input: b"a,b,c\n1,2,3\n\nSource: x\nmade, today\n",
        expected: with_rejected(ABC, &[&["1", "2", "3"]], &[(4, 13, 10, Reason::Footer), (5, 23, 12, Reason::Footer)]), ..OWN },
    Case { name: "a footer behind a row of empty cells", input: b"a,b,c\n1,2,3\n,,\nSource: x\n",
        expected: with_rejected(ABC, &[&["1", "2", "3"]], &[(3, 12, 3, Reason::Footer), (4, 15, 10, Reason::Footer)]), ..OWN },
    Case { name: "rows of empty cells at the end are rows", input: b"a,b\n1,2\n,\n,\n", expected: rows(AB, &[&["1", "2"], &["", ""], &["", ""]]), ..CASE },
    Case { name: "a sum behind an empty line is a row", input: b"a,b,c\n1,2,3\n\nTotal,2,3\n", expected: rows(ABC, &[&["1", "2", "3"], &["Total", "2", "3"]]), ..CASE },
    Case { name: "no footer: the table goes on", input: b"a,b,c\n1,2,3\n\nx\n,,\n4,5,6\n", counts: (1, 0, 0),
        expected: rows(ABC, &[&["1", "2", "3"], &["x"], &["", "", ""], &["4", "5", "6"]]), ..CASE },
    Case { name: "the header again begins another table", input: b"a,b,c\n1,2,3\na,b\n4,5\n\n6,\"7\"\n",
        expected: with_rejected(ABC, &[&["1", "2", "3"]], &[(3, 12, 4, Reason::OtherTable), (4, 16, 4, Reason::OtherTable), (6, 21, 6, Reason::OtherTable)]), ..OWN },
    Case { name: "another table with a title", input: b"a,b,c\n1,2,3\n\nx\nd,e\n4,5\n6,7\n",
        expected: with_rejected(ABC, &[&["1", "2", "3"]],
            &[(4, 13, 2, Reason::Footer), (5, 15, 4, Reason::OtherTable), (6, 19, 4, Reason::OtherTable), (7, 23, 4, Reason::OtherTable)]), ..OWN },
    Case { name: "a comment behind the table", input: b"a,b,c\n1,2,3\n\n#x\ny\n", dialect: COMMENTED,
        expected: with_rejected(ABC, &[&["1", "2", "3"]], &[(4, 13, 3, Reason::Comment), (5, 16, 2, Reason::Footer)]), ..OWN },
    // Encodings
    Case { name: "CP949", input: b"\xc0\xcc,a\r\n\"\xc7\xd1\n\xb1\xdb\",\x8c\x63\n1,2", encoding: Encoding::Cp949, expected: rows(&["이", "a"], &[&["한\n글", "똠"], &["1", "2"]]), ..OWN },
    Case { name: "CP949 with bytes that it does not have", input: b"a,b\n\xc7,1\n2,\xff\n\xc7\xd1,3\n\xc7", encoding: Encoding::Cp949, counts: (0, 0, 0),
        expected: with_rejected(AB, &[&["한", "3"]], &[(2, 4, 4, Reason::InvalidBytes), (3, 8, 4, Reason::InvalidBytes), (5, 17, 1, Reason::InvalidBytes)]), ..OWN },
    Case { name: "CP949 with bytes that are replaced", input: b"a,b\n\xc7,1\n2,\xff\n\xc7\xd1,3\n", encoding: Encoding::Cp949, replaces_invalid_bytes: true, counts: (0, 0, 2),
        expected: rows(AB, &[&["\u{fffd}", "1"], &["2", "\u{fffd}"], &["한", "3"]]), ..OWN },
    Case { name: "UTF-8 with bytes that are replaced", input: b"a,b\n\xec\x84,\"x\"\"\xff\n\"\n", replaces_invalid_bytes: true, counts: (0, 0, 1),
        expected: rows(AB, &[&["\u{fffd}", "x\"\u{fffd}\n"]]), ..OWN },
    Case { name: "a header with bytes that are replaced", input: b"a,\xff\n1,2\n", replaces_invalid_bytes: true, expected: rows(&["a", "\u{fffd}"], &[&["1", "2"]]), ..OWN },
    Case { name: "UTF-16 little-endian", input: b"\xff\xfea\0,\0\x0a\xae\r\0\n\0\"\0\n\0\"\0,\0\x0a\x0d\n\0", encoding: Encoding::Utf16Le,
        expected: rows(&["a", "\u{ae0a}"], &[&["\n", "\u{0d0a}"]]), ..OWN },
    Case { name: "UTF-16 big-endian, halves of a pair, half a unit", input: b"\0a\0,\0b\0\n\xd8\x3d\xde\0\0,\0x\0\r\xd8\x3d\0,\0y\0\n\xde\0\0,\0z\0\n\0", encoding: Encoding::Utf16Be,
        expected: with_rejected(AB, &[&["😀", "x"]], &[(3, 18, 8, Reason::InvalidBytes), (4, 26, 8, Reason::InvalidBytes), (5, 34, 1, Reason::InvalidBytes)]), ..OWN },
    Case { name: "Shift-JIS with a bar as second byte", input: b"a|b\n\x83\x7c|\x83\x5c\n\xb1|1\n", encoding: Encoding::ShiftJis, dialect: Dialect { delimiter: b'|', ..RFC },
        expected: rows(AB, &[&["ポ", "ソ"], &["ｱ", "1"]]), ..OWN },
    Case { name: "Shift-JIS with a backslash as second byte", input: b"a,b\n\"\x83\x5c\",1\n", encoding: Encoding::ShiftJis, dialect: ESCAPED, expected: rows(AB, &[&["ソ", "1"]]), ..OWN },
    Case { name: "GB18030", input: b"\x84\x31\x95\x33a,b\n\xd6\xd0\x81\x30\x81\x30,\x90\x30\x81\x30\n", encoding: Encoding::Gb18030, expected: rows(AB, &[&["中\u{80}", "\u{10000}"]]), ..OWN },
    Case { name: "Windows-1252", input: b"caf\xe9,\x80\n\x93x\x94,2\n", encoding: Encoding::Windows1252, expected: rows(&["café", "€"], &[&["“x”", "2"]]), ..OWN },
    Case { name: "a cell over the limit in CP949", input: b"a,b\n\"\xc7\xd1\n\xb1\xdb\",\xc7\xd1\xb1\xdb\xc7\xd1\n", encoding: Encoding::Cp949, limits: (99, 8, 9), expected: Expected::Error(Code::CellTooLong, 3, 12), ..OWN },
];

impl Case {
    fn options(&self) -> Options {
        let mut options = told(self.encoding, self.dialect);
        options.replaces_invalid_bytes = self.replaces_invalid_bytes;
        options.keeps_ragged_rows = !self.rejects_ragged_rows;
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
                let counts = read.counts();
                assert_eq!(
                    (counts.rows_ragged, counts.rows_repaired, counts.rows_replaced),
                    self.counts,
                    "{name}, {way}"
                );
                assert_eq!(counts.rows_stored, rows.len() as u64, "{name}, {way}");
                let rejected_rows = rejected.iter().filter(|(_, _, _, reason)| reason.is_row()).count();
                assert_eq!(counts.rows_rejected, rejected_rows as u64, "{name}, {way}");
                assert_eq!(counts.lines_set_aside, (rejected.len() - rejected_rows) as u64, "{name}, {way}");
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
        if case.dialect.header_rows > 0 {
            assert_eq!(
                records.remove(0).iter().collect::<Vec<_>>(),
                columns.iter().map(|name| name.as_bytes()).collect::<Vec<_>>(),
                "{}",
                case.name
            );
        }
        let is_row = |record: &csv::ByteRecord| {
            (!case.rejects_ragged_rows || record.len() == columns.len())
                && record.len() <= case.limits.2 as usize
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
