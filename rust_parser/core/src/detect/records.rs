//! A head of a file as records, under marks that are being tried.
//!
//! Reads as the parser does: a cell that begins with the quote is quoted; a record whose quoting is malformed (text after a
//! closing quote, or a quote that is never closed) ends with its first line, in which a quote closes a cell only before a
//! delimiter or the line's end, and the others are text. It differs in that it stops early, and in that it does not know yet
//! how many columns there are.

use std::ops::Range;

use memchr::{memchr2, memchr3};

/// Enough records to judge a dialect by.
const MOST_RECORDS: usize = 1_000;
/// Enough cells, in all and in one record, which ends the sample there; bounds the time that many small cells take.
const MOST_CELLS: usize = 20_000;
/// A search for a closing quote goes through so many times the head, all searches together, before it is given up: text in
/// which many quotes open and none closes would take quadratic time.
const MOST_SEARCHED_HEADS: usize = 4;

/// What separates cells and what quotes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) delimiter: u8,
    pub(super) quote: Option<u8>,
    pub(super) escape: Option<u8>,
    pub(super) trims_blanks: bool,
}

/// One record: a range of cells, and where it begins.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) cells: Range<usize>,
    /// Physical lines before it in the head.
    pub(super) line: u32,
    /// Position of its first byte.
    pub(super) start: usize,
}

impl Record {
    /// How many cells it has.
    pub(super) fn width(&self) -> usize {
        self.cells.len()
    }
}

/// The records of a head, as many as are needed. Lines without a byte are none.
#[derive(Debug, Default)]
pub(super) struct Sample {
    /// Where the text of each cell lies, without quotes.
    pub(super) cells: Vec<Range<usize>>,
    pub(super) records: Vec<Record>,
    /// Cells that were properly quoted.
    pub(super) quoted_cells: usize,
    /// Records with a quoted cell in them, malformed ones too.
    pub(super) quoted_records: usize,
    /// Records that had to be read anew because of a quote in the wrong place.
    pub(super) malformed_records: usize,
}

/// Reads `text`, which the file ends with if `is_whole`; else its last record, which may go on, is left out.
pub(super) fn read(text: &[u8], marks: Marks, is_whole: bool) -> Sample {
    let mut reader = Reader { text, marks, searched: 0, out: Sample::default() };
    let (mut at, mut line) = (0, 0);
    while at < text.len() && reader.out.records.len() < MOST_RECORDS && reader.out.cells.len() < MOST_CELLS {
        if let Some(next) = skip_line_end(text, at) {
            (at, line) = (next, line + 1);
            continue;
        }
        let first_cell = reader.out.cells.len();
        let end = reader.read_record(at);
        let is_cut = end >= text.len() && !is_whole && !reader.out.records.is_empty();
        if is_cut {
            reader.out.cells.truncate(first_cell);
            break;
        }
        reader.out.records.push(Record { cells: first_cell..reader.out.cells.len(), line, start: at });
        line += lines_between(&text[at..end]);
        at = end;
        if let Some(next) = skip_line_end(text, at) {
            (at, line) = (next, line + 1);
        }
    }
    reader.out
}

/// The position behind the line end at `at`, if there is one: LF, CR or CRLF.
pub(super) fn skip_line_end(text: &[u8], at: usize) -> Option<usize> {
    match text.get(at) {
        Some(b'\n') => Some(at + 1),
        Some(b'\r') => Some(at + 1 + usize::from(text.get(at + 1) == Some(&b'\n'))),
        _ => None,
    }
}

/// The position of the first line end at or after `at`, or the text's end.
pub(super) fn line_end(text: &[u8], at: usize) -> usize {
    memchr2(b'\n', b'\r', &text[at..]).map_or(text.len(), |found| at + found)
}

fn lines_between(text: &[u8]) -> u32 {
    let mut lines = 0;
    let mut at = line_end(text, 0);
    while let Some(next) = skip_line_end(text, at) {
        lines += 1;
        at = line_end(text, next);
    }
    lines
}

/// A quote in the wrong place.
struct Malformed;

struct Reader<'t> {
    text: &'t [u8],
    marks: Marks,
    /// Bytes gone through in search of closing quotes.
    searched: usize,
    out: Sample,
}

impl Reader<'_> {
    /// Appends the cells of the record at `start`; the position of its line end.
    fn read_record(&mut self, start: usize) -> usize {
        let (cells, quoted) = (self.out.cells.len(), self.out.quoted_cells);
        if let Ok(end) = self.read_well_formed(start) {
            self.out.quoted_records += usize::from(self.out.quoted_cells > quoted);
            return end;
        }
        self.out.cells.truncate(cells);
        self.out.quoted_cells = quoted;
        self.out.quoted_records += 1;
        self.out.malformed_records += 1;
        self.read_line_alone(start)
    }

    fn read_well_formed(&mut self, start: usize) -> Result<usize, Malformed> {
        let most_cells = self.out.cells.len() + MOST_CELLS;
        let mut at = start;
        loop {
            let begin = self.skip_blanks(at);
            if self.is_quote(begin) {
                let close = self.find_closing_quote(begin + 1)?;
                self.out.cells.push(begin + 1..close);
                self.out.quoted_cells += 1;
                at = self.skip_blanks(close + 1);
                if at < self.text.len() && !self.is_end_of_cell(at) {
                    return Err(Malformed);
                }
            } else {
                let end = self.end_of_plain_cell(at);
                self.out.cells.push(at..end);
                at = end;
            }
            if self.text.get(at) != Some(&self.marks.delimiter) {
                return Ok(at);
            }
            if self.out.cells.len() >= most_cells {
                return Ok(self.text.len());
            }
            at += 1;
        }
    }

    /// The position of the quote that closes a cell whose text begins at `start`.
    fn find_closing_quote(&mut self, start: usize) -> Result<usize, Malformed> {
        let Some(quote) = self.marks.quote else { return Err(Malformed) };
        let mut at = start;
        while self.searched <= MOST_SEARCHED_HEADS * self.text.len() {
            let found = memchr2(quote, self.marks.escape.unwrap_or(quote), &self.text[at..]);
            self.searched += found.unwrap_or(self.text.len() - at) + 1;
            let Some(found) = found else { return Err(Malformed) };
            at += found;
            if self.text[at] != quote || self.is_quote(at + 1) {
                // Escaped or doubled.
                at = (at + 2).min(self.text.len());
            } else {
                return Ok(at);
            }
        }
        Err(Malformed)
    }

    /// Appends the cells of the line at `start`, in which quotes may stand anywhere; the position of its end.
    fn read_line_alone(&mut self, start: usize) -> usize {
        let line_end = line_end(self.text, start);
        let most_cells = self.out.cells.len() + MOST_CELLS;
        let mut at = start;
        loop {
            let begin = self.skip_blanks(at);
            let close =
                if begin < line_end && self.is_quote(begin) { self.close_in_line(begin, line_end) } else { None };
            if let Some(close) = close {
                self.out.cells.push(begin + 1..close);
                at = self.skip_blanks(close + 1).min(line_end);
            } else {
                let end = self.end_of_plain_cell(at);
                self.out.cells.push(at..end);
                at = end;
            }
            if at >= line_end || self.text[at] != self.marks.delimiter || self.out.cells.len() >= most_cells {
                return line_end;
            }
            at += 1;
        }
    }

    /// The position of the quote that closes the cell which `open` opens: the first one before a delimiter or the line's end.
    /// None if another cell's opening quote comes first, or no quote at all: then `open` is text.
    ///
    /// Linear in all: a search that finds nothing has seen that no other cell of the line can be quoted either.
    fn close_in_line(&self, open: usize, line_end: usize) -> Option<usize> {
        let quote = self.marks.quote?;
        let mut at = open + 1;
        while let Some(found) = memchr2(quote, self.marks.escape.unwrap_or(quote), &self.text[at..line_end]) {
            at += found;
            if self.text[at] != quote {
                at = (at + 2).min(line_end);
                continue;
            }
            let behind = self.skip_blanks(at + 1);
            if behind >= line_end || self.text[behind] == self.marks.delimiter {
                return Some(at);
            }
            if self.text[at - 1] == self.marks.delimiter && at > open + 1 {
                return None;
            }
            at += 1;
        }
        None
    }

    fn end_of_plain_cell(&self, at: usize) -> usize {
        memchr3(self.marks.delimiter, b'\n', b'\r', &self.text[at..]).map_or(self.text.len(), |found| at + found)
    }

    fn skip_blanks(&self, at: usize) -> usize {
        if !self.marks.trims_blanks {
            return at;
        }
        let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t') && *byte != self.marks.delimiter;
        at + self.text[at..].iter().take_while(|byte| is_blank(byte)).count()
    }

    fn is_quote(&self, at: usize) -> bool {
        self.marks.quote.is_some_and(|quote| self.text.get(at) == Some(&quote))
    }

    fn is_end_of_cell(&self, at: usize) -> bool {
        matches!(self.text[at], b'\n' | b'\r') || self.text[at] == self.marks.delimiter
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COMMA: Marks = Marks { delimiter: b',', quote: Some(b'"'), escape: None, trims_blanks: false };

    fn cells(text: &str, marks: Marks) -> Vec<Vec<&str>> {
        let read = read(text.as_bytes(), marks, true);
        let of = |record: &Record| read.cells[record.cells.clone()].iter().map(|cell| &text[cell.clone()]).collect();
        read.records.iter().map(of).collect()
    }

    #[test]
    fn records_are_read_as_the_parser_reads_them() {
        let escaped = Marks { escape: Some(b'\\'), ..COMMA };
        let trimmed = Marks { trims_blanks: true, ..COMMA };
        let cases: [(&str, Marks, &str, &[&[&str]]); 16] = [
            ("plain", COMMA, "a,b\r\nc,\rd\n", &[&["a", "b"], &["c", ""], &["d"]]),
            ("empty lines are none", COMMA, "\n\na\r\n\r\n", &[&["a"]]),
            ("quoted", COMMA, "\"a,b\",\"c\nd\"\ne,f", &[&["a,b", "c\nd"], &["e", "f"]]),
            ("doubled", COMMA, "\"a\"\"b\",c", &[&["a\"\"b", "c"]]),
            ("a quote inside is text", COMMA, "5\",a\"b\"", &[&["5\"", "a\"b\""]]),
            ("escaped", escaped, r#""a\"b\\",c"#, &[&[r#"a\"b\\"#, "c"]]),
            ("trimmed", trimmed, "a, \"b,c\" ,d", &[&["a", "b,c", "d"]]),
            ("text after a quote", COMMA, "\"a\"b,c\nd,e", &[&["\"a\"b", "c"], &["d", "e"]]),
            ("an inner quote that is not doubled", COMMA, "\"a 10\" b\",c\nd", &[&["a 10\" b", "c"], &["d"]]),
            ("an extra quote before a quoted cell", COMMA, "\"\"a, b\",c\nd", &[&["\"a, b", "c"], &["d"]]),
            ("an extra quote before a plain cell", COMMA, "\"a,b,\"c, d\",e\nf", &[&["\"a", "b", "c, d", "e"], &["f"]]),
            ("an extra quote at the line's end", COMMA, "a,\"\nb,\"c, d\"\n", &[&["a", "\""], &["b", "c, d"]]),
            ("a quote that is never closed", COMMA, "a,\"b\nc,d\n", &[&["a", "\"b"], &["c", "d"]]),
            ("a quote that is no escape", COMMA, "\"48\"\",\"x y\"z\",e\nf", &[&["48\"", "x y\"z", "e"], &["f"]]),
            ("no quotes", Marks { quote: None, ..COMMA }, "\"a,b\"", &[&["\"a", "b\""]]),
            ("nothing", COMMA, "", &[]),
        ];
        for (name, marks, text, expected) in cases {
            assert_eq!(cells(text, marks), expected, "{name}");
        }
    }

    #[test]
    fn a_record_knows_its_line() {
        let text = b"# a\r\n\r\n\"b\nc\",d\re\n";
        let lines = |text| read(text, COMMA, true).records.iter().map(|record| record.line).collect::<Vec<_>>();
        assert_eq!(lines(text.as_slice()), [0, 2, 4]);
    }

    #[test]
    fn a_record_that_the_head_cuts_is_left_out() {
        assert_eq!(read(b"a,b\nc", COMMA, false).records.len(), 1);
        assert_eq!(read(b"a,b\nc", COMMA, true).records.len(), 2);
        assert_eq!(read(b"a,b", COMMA, false).records.len(), 1, "the only one stays");
    }

    #[test]
    fn quotes_that_never_close_take_linear_time() {
        let escaped = Marks { escape: Some(b'\\'), ..COMMA };
        let mut reader =
            Reader { text: &b"\"a\\\"\n".repeat(20_000), marks: escaped, searched: 0, out: Sample::default() };
        let mut at = 0;
        while at < reader.text.len() {
            at = skip_line_end(reader.text, reader.read_record(at)).unwrap();
        }
        assert!(reader.searched <= (MOST_SEARCHED_HEADS + 1) * reader.text.len() + reader.text.len());
    }

    proptest! {
        #[test]
        fn every_byte_is_in_one_record(text in "[a,\"\\\\ \r\n]{0,60}", escape: bool, trims_blanks: bool) {
            let marks = Marks { escape: escape.then_some(b'\\'), trims_blanks, ..COMMA };
            let read = read(text.as_bytes(), marks, true);
            let mut end = 0;
            for record in &read.records {
                prop_assert!(record.width() > 0);
                for cell in &read.cells[record.cells.clone()] {
                    prop_assert!(end <= cell.start && cell.start <= cell.end && cell.end <= text.len());
                    end = cell.end;
                }
            }
        }
    }
}
