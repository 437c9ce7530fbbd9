//! Any bytes, in any pieces, with any hints and limits, resumed at any checkpoint: nothing panics, all give the same, and
//! every byte of the file is counted once.

use dari_parser::Parser;
use sha2::{Digest, Sha256};

use super::case::Case;
use super::output::{Output, read, read_on};

/// Resumes tried for an input: all of a short file, some of a long one.
const MOST_RESUMES: usize = 6;

/// See the module.
pub fn check(input: &[u8]) {
    let Some(case) = Case::of(input) else { return };
    let whole = read(case.options, [case.file]);
    assert_eq!(read(case.options, case.pieces()), whole, "another split gives another result");
    let Ok(whole) = whole else { return };
    check_counts(&case, &whole);
    check_rows(&case, &whole);
    let step = whole.batches.len() / MOST_RESUMES + 1;
    for at in (0..whole.batches.len() - 1).step_by(step) {
        check_resume(&case, &whole, at);
    }
}

/// The batches follow each other from the first byte to the last; their counts add up; rejected bytes are the file's.
fn check_counts(case: &Case<'_>, whole: &Output) {
    let (mut offset, mut line, mut stored, mut rejected, mut aside) = (0, 1, 0, 0, 0);
    for batch in &whole.batches {
        let checkpoint = &batch.checkpoint;
        assert!(checkpoint.offset_bytes >= offset && checkpoint.line >= line, "a batch goes back");
        (offset, line) = (checkpoint.offset_bytes, checkpoint.line);
        stored += batch.rows_stored;
        rejected += batch.rejected.iter().filter(|row| row.reason.is_row()).count() as u64;
        aside += batch.rejected.iter().filter(|row| !row.reason.is_row()).count() as u64;
        let counts = checkpoint.counts;
        assert_eq!((counts.rows_stored, counts.rows_rejected, counts.lines_set_aside), (stored, rejected, aside));
    }
    assert_eq!(offset, case.file.len() as u64, "the last checkpoint is not the file's end");
    assert_eq!(whole.sha256, <[u8; 32]>::from(Sha256::digest(case.file)));
    let mut next = 0;
    for row in whole.rejected() {
        assert!(row.byte_offset >= next, "a byte is rejected twice, or out of order");
        next = row.byte_offset + row.byte_length;
        let source = &case.file[row.byte_offset as usize..next as usize];
        assert!(source.starts_with(&row.raw) && row.raw.len() == source.len().min(dari_parser::RAW_BYTES_KEPT));
    }
}

/// Rows have their numbers in order, texts that PostgreSQL can hold, and are counted as ragged where they are.
fn check_rows(case: &Case<'_>, whole: &Output) {
    let (rows, columns) = (whole.rows(), whole.columns().len());
    let mut ragged = 0;
    for (row, number) in rows.iter().zip(1..) {
        assert_eq!(row.number, number);
        assert_eq!(row.cells.len(), columns);
        let cells = row.all_cells();
        assert!(cells.iter().all(|cell| std::str::from_utf8(cell).is_ok_and(|text| !text.contains('\0'))));
        let missing = row.cells.iter().skip_while(|cell| cell.is_some());
        assert!(missing.clone().all(Option::is_none), "a cell is missing before one that is there");
        assert!(row.extra.is_empty() || cells.len() > columns);
        ragged += u64::from(cells.len() != columns);
    }
    let counts = whole.batches.last().map_or_else(Default::default, |batch| batch.checkpoint.counts);
    assert_eq!((rows.len() as u64, ragged), (counts.rows_stored, counts.rows_ragged));
    assert!(case.options.keeps_ragged_rows || ragged == 0);
    assert!(case.options.replaces_invalid_bytes || counts.rows_replaced == 0);
    assert!(counts.rows_repaired <= counts.rows_stored);
}

/// A parser that begins at the checkpoint of batch `at` gives the batches behind it.
fn check_resume(case: &Case<'_>, whole: &Output, at: usize) {
    let checkpoint = &whole.batches[at].checkpoint;
    let parser = Parser::new(case.options, Some(checkpoint)).expect("a checkpoint of a parser");
    let rest = read_on(parser, [&case.file[checkpoint.offset_bytes as usize..]]).expect("the whole file was read");
    assert_eq!(rest.batches, whole.batches[at + 1..], "resumed at byte {}", checkpoint.offset_bytes);
    assert_eq!(rest.sha256, whole.sha256);
}
