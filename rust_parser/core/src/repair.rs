//! Reads a line again whose quotes make no sense: stray ones become text.
//!
//! A cell that begins with a quote is quoted where its text, doubled quotes and escape bytes respected, ends with a quote
//! before a delimiter or the line's end. Failing that, the first quote that stands before a delimiter or the line's end
//! closes it, and those between are text; unless a place between looks like the beginning of another quoted cell. Otherwise
//! its quote is text too, and the cell ends at the next delimiter. Where this does not give as many cells as there are
//! columns, the same is tried with the first quote that opened a cell as text, then with the second, and so on.
//!
//! Each try walks the line once: places further on are looked for from where they were found last.

use memchr::{memchr, memchr_iter};

use crate::reading::Dialect;
use crate::record::{Rewritten, unescape};

/// Quotes that are tried as text, one after the other.
const MAX_TRIES: usize = 16;

/// The cells of a line without its end; `None` where no try gives `columns` of them. `None` as `columns`: any number will do.
pub(crate) fn reread(line: &[u8], dialect: &Dialect, columns: Option<usize>) -> Option<Rewritten> {
    let quote = dialect.quote?;
    for taken_as_text in 0..=MAX_TRIES {
        let mut line = Line { bytes: line, dialect, quote, opened: 0, taken_as_text, close: 0, open: 0 };
        let cells = line.split();
        if columns.is_none_or(|columns| cells.cells() == columns) {
            return Some(cells);
        }
        if taken_as_text > line.opened {
            break;
        }
    }
    None
}

struct Line<'a> {
    bytes: &'a [u8],
    dialect: &'a Dialect,
    quote: u8,
    /// Cells so far that began with a quote.
    opened: usize,
    /// Which of these, from 1, is text; 0 for none.
    taken_as_text: usize,
    /// A place at or before the next quote that can close a cell.
    close: usize,
    /// A place at or before the next quote that looks like the beginning of a quoted cell.
    open: usize,
}

impl Line<'_> {
    fn split(&mut self) -> Rewritten {
        let mut cells = Rewritten::new(self.dialect.delimiter);
        let mut at = 0;
        loop {
            let start = self.skip_blanks(at);
            let close = if self.bytes.get(start) == Some(&self.quote) { self.close_of(start) } else { None };
            let end = if let Some(close) = close {
                let raw = &self.bytes[start + 1..close];
                cells.cell(|text| unescape(raw, self.quote, self.dialect.escape, text));
                self.skip_blanks(close + 1)
            } else {
                let end = memchr(self.dialect.delimiter, &self.bytes[at..]).map_or(self.bytes.len(), |len| at + len);
                let text = self.dialect.trimmed(&self.bytes[at..end]);
                cells.cell(|cell| cell.extend_from_slice(text));
                end
            };
            if end >= self.bytes.len() {
                return cells;
            }
            at = end + 1;
        }
    }

    /// The quote that closes the cell whose first quote is at `start`; `None` where that one is text.
    fn close_of(&mut self, start: usize) -> Option<usize> {
        self.opened += 1;
        if self.opened == self.taken_as_text {
            return None;
        }
        self.well_formed_close(start).or_else(|| {
            let close = self.next_close(start + 1)?;
            let open = self.next_open(start + 1);
            open.is_none_or(|open| open >= close).then_some(close)
        })
    }

    fn well_formed_close(&self, start: usize) -> Option<usize> {
        let mut at = start + 1;
        while let Some(byte) = self.bytes.get(at) {
            if Some(*byte) == self.dialect.escape {
                at += 2;
            } else if *byte != self.quote {
                at += 1;
            } else if self.bytes.get(at + 1) == Some(&self.quote) {
                at += 2;
            } else {
                return self.is_before_end(at + 1).then_some(at);
            }
        }
        None
    }

    /// The first quote at or after `from` that stands before a delimiter or the line's end.
    fn next_close(&mut self, from: usize) -> Option<usize> {
        let from = self.close.max(from);
        let close = self.quotes(from).find(|quote| self.is_before_end(quote + 1));
        self.close = close.unwrap_or(self.bytes.len());
        close
    }

    /// The first quote at or after `from` that stands behind a delimiter.
    fn next_open(&mut self, from: usize) -> Option<usize> {
        let from = self.open.max(from);
        let open = self.quotes(from).find(|quote| {
            let before = self.bytes[..*quote].iter().rev().find(|byte| !self.is_blank(**byte));
            before == Some(&self.dialect.delimiter)
        });
        self.open = open.unwrap_or(self.bytes.len());
        open
    }

    fn quotes(&self, from: usize) -> impl Iterator<Item = usize> {
        memchr_iter(self.quote, self.bytes.get(from..).unwrap_or_default()).map(move |at| from + at)
    }

    /// Whether a delimiter or the line's end is at `at`, behind blanks that are none of a cell's text.
    fn is_before_end(&self, at: usize) -> bool {
        self.bytes.get(self.skip_blanks(at)).is_none_or(|byte| *byte == self.dialect.delimiter)
    }

    fn skip_blanks(&self, at: usize) -> usize {
        let rest = self.bytes.get(at..).unwrap_or_default();
        at + rest.iter().take_while(|byte| self.is_blank(**byte)).count()
    }

    fn is_blank(&self, byte: u8) -> bool {
        self.dialect.trims_blanks && self.dialect.is_blank(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Dialect = Dialect::RFC_4180;
    const TRIMMED: Dialect = Dialect { trims_blanks: true, ..PLAIN };
    const ESCAPED: Dialect = Dialect { escape: Some(b'\\'), ..PLAIN };

    /// Line, dialect, columns, cells.
    type Case = (&'static str, Dialect, usize, Option<&'static [&'static str]>);

    #[rustfmt::skip]
    const CASES: &[Case] = &[
        (r#""28/01/2018,00:00,"x, y",1"#, PLAIN, 4, Some(&["\"28/01/2018", "00:00", "x, y", "1"])),
        (r#"1,""Great grip, ok",2"#, PLAIN, 3, Some(&["1", "\"Great grip, ok", "2"])),
        (r#"1,"x, y",""#, PLAIN, 3, Some(&["1", "x, y", "\""])),
        (r#"1,"Boots, 10" lined",2"#, PLAIN, 3, Some(&["1", "Boots, 10\" lined", "2"])),
        (r#"1,"Round 48"",2"#, PLAIN, 3, Some(&["1", "Round 48\"", "2"])),
        (r#"1,"Round, 48"","x""#, PLAIN, 3, Some(&["1", "Round, 48\"", "x"])),
        (r#""a"b,"c""d",e"#, PLAIN, 3, Some(&["\"a\"b", "c\"d", "e"])),
        (r#"x,"a" b,c" d"#, PLAIN, 3, Some(&["x", "\"a\" b", "c\" d"])),
        (r#"x,"a,b"#, PLAIN, 3, Some(&["x", "\"a", "b"])),
        // The first quote closes well before the end, but then there are too few cells.
        (r#""a,b",c""#, PLAIN, 3, Some(&["\"a", "b\"", "c\""])),
        (r#"1, "x, y" , "z"w"#, TRIMMED, 3, Some(&["1", "x, y", "\"z\"w"])),
        (r#""8\' \" x","b"c"#, ESCAPED, 2, Some(&["8\\' \" x", "\"b\"c"])),
        (r#""a"b,c"#, PLAIN, 3, None),
        ("", PLAIN, 2, None),
    ];

    #[test]
    fn each_line_gives_what_the_table_says() {
        for (line, dialect, columns, expected) in CASES {
            let cells = reread(line.as_bytes(), dialect, Some(*columns)).map(|found| {
                let mut cells = Vec::new();
                found.record().for_each_cell(|cell| cells.push(String::from_utf8(cell.to_vec()).unwrap()));
                cells
            });
            let expected = expected.map(|cells| cells.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(cells, expected, "{line}");
        }
    }

    #[test]
    fn a_line_of_quotes_only_is_read_in_time() {
        for piece in ["\"", "\"x,", ",\"", "\"\",", "\"\"\",", "\" ,", "x\",\"\""] {
            let line = piece.repeat(200_000);
            for dialect in [PLAIN, TRIMMED, ESCAPED] {
                assert!(reread(line.as_bytes(), &dialect, Some(1_000_000)).is_none());
            }
        }
    }
}
