//! What the tests share: reading a file in given pieces, and decoding what came out.

use dari_parser::{Batch, Options, ParseError, Parser, RejectReason};

/// A decoded row: its number and its cells.
pub(crate) type Row = (i64, Vec<Vec<u8>>);

/// A decoded block: first row number, row count, hashes.
pub(crate) type Block = (i64, i32, Vec<i32>);

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

    pub(crate) fn blocks(&self) -> Vec<Block> {
        self.batches.iter().flat_map(|batch| blocks(&batch.blocks)).collect()
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

fn blocks(copy: &[u8]) -> Vec<Block> {
    let decode = |fields: Vec<&[u8]>| {
        let array = fields[2];
        let hashes = if array[..4] == [0; 4] {
            assert_eq!(array, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 23]);
            Vec::new()
        } else {
            assert_eq!(array[..12], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 23]);
            assert_eq!(array[16..20], [0, 0, 0, 1]);
            let elements = array[20..].chunks(8);
            assert_eq!(elements.len() as u32, u32::from_be_bytes(array[12..16].try_into().unwrap()));
            elements
                .map(|element| {
                    assert_eq!(element[..4], [0, 0, 0, 4]);
                    i32::from_be_bytes(element[4..].try_into().unwrap())
                })
                .collect()
        };
        (i64::from_be_bytes(fields[0].try_into().unwrap()), i32::from_be_bytes(fields[1].try_into().unwrap()), hashes)
    };
    tuples(copy).into_iter().map(decode).collect()
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
