//! What a parser gives: all of it, decoded.

use dari_parser::{Batch, Options, ParseError, Parser, RejectedRow};

/// A stored row: its number, the cells of its columns (`None`: it is too short), the cells beyond them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) number: i64,
    pub(crate) cells: Vec<Option<Vec<u8>>>,
    pub(crate) extra: Vec<Vec<u8>>,
}

impl Row {
    /// Exactly the cells that it has.
    pub(crate) fn all_cells(&self) -> Vec<&[u8]> {
        let present = self.cells.iter().flatten();
        present.chain(&self.extra).map(Vec::as_slice).collect()
    }
}

/// All that a file gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) batches: Vec<Batch>,
    pub(crate) sha256: [u8; 32],
}

impl Output {
    pub(crate) fn rows(&self) -> Vec<Row> {
        self.batches.iter().flat_map(|batch| tuples(&batch.rows)).map(|fields| row(&fields)).collect()
    }

    pub(crate) fn rejected(&self) -> impl Iterator<Item = &RejectedRow> {
        self.batches.iter().flat_map(|batch| &batch.rejected)
    }

    pub(crate) fn columns(&self) -> &[String] {
        self.batches.last().map_or(&[], |batch| &batch.checkpoint.columns)
    }
}

/// Reads a file that comes in these pieces.
pub(crate) fn read<'a>(options: Options, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Output, ParseError> {
    read_on(Parser::new(options, None).expect("the options were checked"), pieces)
}

/// Reads the rest of a file.
pub(crate) fn read_on<'a>(
    mut parser: Parser,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Output, ParseError> {
    let mut batches = Vec::new();
    for piece in pieces {
        batches.extend(parser.feed(piece)?);
    }
    let finished = parser.finish()?;
    batches.extend(finished.batches);
    Ok(Output { batches, sha256: finished.sha256 })
}

/// `row_number int8`, a text a column, `extra_cells text[]`.
fn row(fields: &[Option<&[u8]>]) -> Row {
    let [Some(number), cells @ .., extra] = fields else { panic!("no row number: {fields:?}") };
    Row {
        number: i64::from_be_bytes((*number).try_into().expect("int8")),
        cells: cells.iter().map(|cell| cell.map(<[u8]>::to_vec)).collect(),
        extra: extra.map(text_array).unwrap_or_default(),
    }
}

/// PostgreSQL's binary `text[]` of one dimension without NULL.
fn text_array(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let rest = &mut bytes;
    let [dimensions, has_null, element_type] = [int4(rest), int4(rest), int4(rest)];
    assert_eq!((dimensions, has_null, element_type), (1, 0, 25), "one dimension of text without NULL");
    let (len, lower_bound) = (int4(rest), int4(rest));
    assert_eq!(lower_bound, 1);
    let texts = (0..len).map(|_| value(rest).expect("no NULL").to_vec()).collect();
    assert!(rest.is_empty(), "something follows the array");
    texts
}

/// The fields of each tuple of a whole COPY; none where it is empty.
pub(crate) fn tuples(copy: &[u8]) -> Vec<Vec<Option<&[u8]>>> {
    if copy.is_empty() {
        return Vec::new();
    }
    let mut rest = copy.strip_prefix(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0").expect("the signature of a COPY");
    let mut tuples = Vec::new();
    loop {
        let fields = i16::from_be_bytes(*take(&mut rest));
        if fields == -1 {
            assert!(rest.is_empty(), "something follows the trailer");
            return tuples;
        }
        tuples.push((0..fields).map(|_| value(&mut rest)).collect());
    }
}

fn value<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(int4(rest)).ok()?;
    let (value, tail) = rest.split_at(len);
    *rest = tail;
    Some(value)
}

fn int4(rest: &mut &[u8]) -> i32 {
    i32::from_be_bytes(*take(rest))
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> &'a [u8; N] {
    let (first, tail) = rest.split_first_chunk().expect("a COPY that is cut off");
    *rest = tail;
    first
}
