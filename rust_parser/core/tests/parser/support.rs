//! What the tests share: reading a file in given pieces, and decoding what came out.

use dari_parser::{Batch, Options, ParseError, Parser, RejectReason};

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

    /// The search index, tuple by tuple.
    pub(crate) fn postings(&self) -> Vec<(i32, i64, &[u8])> {
        self.batches.iter().flat_map(|batch| tuples(&batch.postings)).map(|fields| posting(&fields)).collect()
    }

    pub(crate) fn rejected(&self) -> Vec<(u64, u64, u64, RejectReason)> {
        let rejected = self.batches.iter().flat_map(|batch| &batch.rejected);
        rejected.map(|row| (row.line, row.byte_offset, row.byte_length, row.reason)).collect()
    }
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
    let decode = |fields: Vec<&[u8]>| {
        (i64::from_be_bytes(fields[0].try_into().unwrap()), fields[1..].iter().map(|field| field.to_vec()).collect())
    };
    tuples(copy).into_iter().map(decode).collect()
}

fn posting<'a>(fields: &[&'a [u8]]) -> (i32, i64, &'a [u8]) {
    let bucket = i32::from_be_bytes(fields[0].try_into().unwrap());
    (bucket, i64::from_be_bytes(fields[1].try_into().unwrap()), fields[2])
}

/// The fields of each tuple of a whole COPY; none where it is empty.
fn tuples(copy: &[u8]) -> Vec<Vec<&[u8]>> {
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
        let mut field = || {
            let len = i32::from_be_bytes(*take(&mut rest));
            let (value, tail) = rest.split_at(usize::try_from(len).expect("a NULL was written"));
            rest = tail;
            value
        };
        tuples.push((0..fields).map(|_| field()).collect());
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> &'a [u8; N] {
    let (first, tail) = rest.split_first_chunk().unwrap();
    *rest = tail;
    first
}
