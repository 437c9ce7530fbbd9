//! What the tests share: reading a file in given pieces, and decoding what came out.

use dari_parser::reading::{Dialect, Encoding, Hints};
use dari_parser::{Batch, Counts, Options, ParseError, Parser, RejectReason};

/// A decoded row: its number and its cells.
pub(crate) type Row = (i64, Vec<Vec<u8>>);

/// All that a file gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) batches: Vec<Batch>,
    pub(crate) sha256: [u8; 32],
}

impl Read {
    pub(crate) fn columns(&self) -> Vec<String> {
        self.batches.last().unwrap().checkpoint.columns.to_vec()
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        self.batches.iter().flat_map(|batch| rows(&batch.rows)).collect()
    }

    pub(crate) fn cells(&self) -> Vec<Vec<String>> {
        self.rows()
            .into_iter()
            .map(|(_, cells)| cells.into_iter().map(|cell| String::from_utf8(cell).unwrap()).collect())
            .collect()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.batches.last().unwrap().checkpoint.counts
    }

    /// The search index, tuple by tuple.
    pub(crate) fn postings(&self) -> Vec<(i32, i64, &[u8])> {
        self.batches.iter().flat_map(|batch| tuples(&batch.postings)).map(|fields| posting(&fields)).collect()
    }

    pub(crate) fn rejected(&self) -> Vec<(u64, u64, u64, RejectReason)> {
        let rejected = self.batches.iter().flat_map(|batch| &batch.rejected);
        rejected.map(|row| (row.line, row.byte_offset, row.byte_length, row.reason)).collect()
    }
}

/// Options that leave nothing to be found out.
pub(crate) fn told(encoding: Encoding, dialect: Dialect) -> Options {
    let hints = Hints {
        encoding: Some(encoding),
        delimiter: Some(dialect.delimiter),
        quote: Some(dialect.quote),
        escape: Some(dialect.escape),
        comment: Some(dialect.comment),
        trims_blanks: Some(dialect.trims_blanks),
        preamble_lines: Some(dialect.preamble_lines),
        header_rows: Some(dialect.header_rows),
    };
    Options { hints, ..Options::default() }
}

/// Reads a file that comes in these pieces.
pub(crate) fn read<'a>(options: Options, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Read, ParseError> {
    read_on(Parser::new(options, None).unwrap(), pieces)
}

/// Reads the rest of a file.
pub(crate) fn read_on<'a>(mut parser: Parser, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Read, ParseError> {
    let mut batches = Vec::new();
    for piece in pieces {
        batches.extend(parser.feed(piece)?);
    }
    let finished = parser.finish()?;
    batches.extend(finished.batches);
    Ok(Read { batches, sha256: finished.sha256 })
}

fn rows(copy: &[u8]) -> Vec<Row> {
    tuples(copy).into_iter().map(|fields| row(&fields)).collect()
}

/// The cells that a row has: no missing ones, then those of the array.
fn row(fields: &[Option<&[u8]>]) -> Row {
    let [Some(number), cells @ .., extra] = fields else { panic!("{fields:?}") };
    let missing = cells.iter().rev().take_while(|cell| cell.is_none()).count();
    assert!(missing == 0 || extra.is_none(), "extra cells behind missing ones");
    let present = cells[..cells.len() - missing].iter();
    let mut texts: Vec<_> = present.map(|cell| cell.expect("a cell is missing between others").to_vec()).collect();
    if let Some(mut array) = *extra {
        let [dimensions, nulls, text, len, first] = [(); 5].map(|()| i32::from_be_bytes(*take(&mut array)));
        assert_eq!((dimensions, nulls, text, first), (1, 0, 25, 1));
        assert!(len > 0);
        texts.extend((0..len).map(|_| field(&mut array).unwrap().to_vec()));
        assert!(array.is_empty());
    }
    (i64::from_be_bytes((*number).try_into().unwrap()), texts)
}

fn posting<'a>(fields: &[Option<&'a [u8]>]) -> (i32, i64, &'a [u8]) {
    let [Some(bucket), Some(first), Some(postings)] = fields else { panic!("{fields:?}") };
    (i32::from_be_bytes((*bucket).try_into().unwrap()), i64::from_be_bytes((*first).try_into().unwrap()), postings)
}

/// The fields of each tuple of a whole COPY; none where it is empty.
fn tuples(copy: &[u8]) -> Vec<Vec<Option<&[u8]>>> {
    if copy.is_empty() {
        return Vec::new();
    }
    let mut rest = copy.strip_prefix(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0").unwrap();
    let mut tuples = Vec::new();
    loop {
        let fields = i16::from_be_bytes(*take(&mut rest));
        if fields == -1 {
            assert_eq!(rest, b"", "something follows the trailer");
            return tuples;
        }
        tuples.push((0..fields).map(|_| field(&mut rest)).collect());
    }
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = i32::from_be_bytes(*take(rest));
    if len == -1 {
        return None;
    }
    let (value, tail) = rest.split_at(usize::try_from(len).unwrap());
    *rest = tail;
    Some(value)
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> &'a [u8; N] {
    let (first, tail) = rest.split_first_chunk().unwrap();
    *rest = tail;
    first
}
