//! A reader of CSV that is slow and plain: the whole file at once, one byte after the other, no limit, no repair.

use dari_parser::reading::Dialect;

/// What a record turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A line before the table.
    Preamble,
    /// A line that begins with the comment byte.
    Comment,
    /// A line without any byte.
    Empty,
    /// Cells; `is_malformed` where text follows a closing quote, or a quote is never closed.
    Cells { is_malformed: bool },
}

/// One record with its line end.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) offset: usize,
    pub(crate) bytes: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) cells: Vec<Vec<u8>>,
}

impl Record {
    /// Whether a line end stands inside its quotes.
    pub(crate) fn runs_over_lines(&self) -> bool {
        line_len(&self.bytes, 0) < self.bytes.len()
    }
}

/// All of a file, in order.
pub(crate) fn records(file: &[u8], dialect: &Dialect) -> Vec<Record> {
    let mut at = if file.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let mut records = Vec::new();
    while at < file.len() {
        let record = if records.len() < dialect.preamble_lines as usize {
            line(file, at, Kind::Preamble)
        } else if dialect.comment == Some(file[at]) {
            line(file, at, Kind::Comment)
        } else if matches!(file[at], b'\r' | b'\n') {
            line(file, at, Kind::Empty)
        } else {
            cells(file, at, dialect)
        };
        at += record.bytes.len();
        records.push(record);
    }
    records
}

fn line(file: &[u8], offset: usize, kind: Kind) -> Record {
    Record { offset, bytes: file[offset..offset + line_len(file, offset)].to_vec(), kind, cells: Vec::new() }
}

/// Length of a physical line with its end.
fn line_len(file: &[u8], offset: usize) -> usize {
    let rest = &file[offset..];
    match rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        Some(end) => end + line_end_len(&rest[end..]),
        None => rest.len(),
    }
}

fn line_end_len(bytes: &[u8]) -> usize {
    match bytes {
        [b'\r', b'\n', ..] => 2,
        [b'\r' | b'\n', ..] => 1,
        _ => 0,
    }
}

fn cells(file: &[u8], offset: usize, dialect: &Dialect) -> Record {
    let is_blank = |byte: u8| dialect.trims_blanks && matches!(byte, b' ' | b'\t') && byte != dialect.delimiter;
    let ends_cell =
        |byte: Option<&u8>| byte.is_none_or(|byte| matches!(byte, b'\r' | b'\n') || *byte == dialect.delimiter);
    let (mut at, mut cells, mut is_malformed) = (offset, Vec::new(), false);
    loop {
        while file.get(at).is_some_and(|byte| is_blank(*byte)) {
            at += 1;
        }
        let mut cell = Vec::new();
        let is_quoted = dialect.quote.is_some() && file.get(at).copied() == dialect.quote;
        if is_quoted {
            let quote = file[at];
            at += 1;
            loop {
                match (file.get(at), file.get(at + 1)) {
                    (None, _) => {
                        is_malformed = true;
                        break;
                    }
                    (Some(byte), Some(next))
                        if dialect.escape == Some(*byte) && (*next == quote || *next == *byte) && *byte != quote =>
                    {
                        cell.push(*next);
                        at += 2;
                    }
                    (Some(byte), Some(next)) if *byte == quote && *next == quote => {
                        cell.push(quote);
                        at += 2;
                    }
                    (Some(byte), _) if *byte == quote => {
                        at += 1;
                        break;
                    }
                    (Some(byte), _) => {
                        cell.push(*byte);
                        at += 1;
                    }
                }
            }
            while file.get(at).is_some_and(|byte| is_blank(*byte)) {
                at += 1;
            }
            is_malformed |= !ends_cell(file.get(at));
        }
        while !ends_cell(file.get(at)) {
            cell.push(file[at]);
            at += 1;
        }
        while !is_quoted && cell.last().is_some_and(|byte| is_blank(*byte)) {
            cell.pop();
        }
        cells.push(cell);
        if file.get(at) != Some(&dialect.delimiter) {
            break;
        }
        at += 1;
    }
    let end = at + line_end_len(&file[at..]);
    Record { offset, bytes: file[offset..end].to_vec(), kind: Kind::Cells { is_malformed }, cells }
}
