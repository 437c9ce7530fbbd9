//! What holds for every file.

use std::collections::{BTreeMap, BTreeSet};

use dari_parser::reading::{Dialect, Encoding, Hints};
use dari_parser::{CsvWriter, Options, Parser, RejectReason, best_blocks, count_blocks, lexeme_hashes};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use crate::support::{read, read_on, told};

/// Options with small numbers, so that everything has a border within a short file.
fn limited(hints: impl Strategy<Value = Options>) -> impl Strategy<Value = Options> {
    let limits =
        (1..80_u64, 1..5_u32, prop_oneof![1 => 1..40_u32, 3 => Just(1_000)], prop_oneof![Just(3), Just(1_500)]);
    (hints, any::<[bool; 2]>(), limits).prop_map(
        |(mut options, [replaces, keeps], (batch_bytes, block_rows, max_record_bytes, max_columns))| {
            options.replaces_invalid_bytes = replaces;
            options.keeps_ragged_rows = keeps;
            options.limits.batch_bytes = batch_bytes;
            options.limits.block_rows = block_rows;
            options.limits.max_record_bytes = max_record_bytes;
            options.limits.max_columns = max_columns;
            options
        },
    )
}

/// UTF-8 by RFC 4180, or nearly so.
fn plain() -> impl Strategy<Value = Options> {
    let marks = (prop_oneof![9 => Just(b','), 1 => Just(b';')], prop_oneof![9 => Just(Some(b'"')), 1 => Just(None)]);
    limited((marks, 0..2_u32).prop_map(|((delimiter, quote), header_rows)| {
        told(Encoding::Utf8, Dialect { delimiter, quote, header_rows, ..Dialect::RFC_4180 })
    }))
}

/// Any reading, told or found out.
fn options() -> impl Strategy<Value = Options> {
    let mark = |byte: u8| prop_oneof![2 => Just(None), 1 => Just(Some(byte))];
    let marks = (prop_oneof![Just(b','), Just(b';'), Just(b'|')], prop_oneof![3 => Just(Some(b'"')), 1 => Just(None)]);
    let places = (0..3_u32, 0..4_u32);
    let encoding = proptest::sample::select(&Encoding::ALL[1..]);
    let told = (marks, mark(b'\\'), mark(b'#'), any::<bool>(), places, encoding).prop_map(
        |((delimiter, quote), escape, comment, trims_blanks, (preamble_lines, header_rows), encoding)| {
            let dialect = Dialect { delimiter, quote, escape, comment, trims_blanks, preamble_lines, header_rows };
            told(encoding, dialect)
        },
    );
    let untold = any::<bool>().prop_map(|is_utf8| {
        let hints = Hints { encoding: is_utf8.then_some(Encoding::Utf8), ..Hints::default() };
        Options { hints, ..Options::default() }
    });
    limited(prop_oneof![3 => plain_hints(), 3 => told, 1 => untold])
}

fn plain_hints() -> impl Strategy<Value = Options> {
    Just(told(Encoding::Utf8, Dialect::RFC_4180))
}

/// A file in which every byte that means something is frequent.
fn file() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => Just(b",".as_slice()),
        4 => Just(b"\n".as_slice()),
        2 => Just(b"\r".as_slice()),
        2 => Just(b"\r\n".as_slice()),
        4 => Just(b"\"".as_slice()),
        2 => Just(b"\"\"".as_slice()),
        2 => Just(b",\"".as_slice()),
        2 => Just(b"\",".as_slice()),
        4 => Just(b"a".as_slice()),
        2 => Just(b"word 1,234.5 AB-12/x".as_slice()),
        2 => Just("한국어".as_bytes()),
        1 => Just("é㈜".as_bytes()),
        1 => Just(b";".as_slice()),
        1 => Just(b"\0".as_slice()),
        1 => Just(b"\xff".as_slice()),
        1 => Just(b"\xef\xbb\xbf".as_slice()),
        1 => Just(b"\xc7\xd1\xb1\xdb".as_slice()),
        1 => Just(b"\x83\x5c".as_slice()),
        1 => Just(b"\x83\x7c".as_slice()),
        1 => Just(b"\x81\x30\x81\x30".as_slice()),
        1 => Just(b"\xd8".as_slice()),
        1 => Just(b"\\".as_slice()),
        1 => Just(b"\\\"".as_slice()),
        1 => Just(b"|".as_slice()),
        1 => Just(b"\n#".as_slice()),
        2 => Just(b" ".as_slice()),
        1 => Just(b"\n\n".as_slice()),
        2 => Just(b"a,b,c\n".as_slice()),
        1 => Just(b"seventy bytes that reach from one block of masks into the next one, x".as_slice()),
    ];
    proptest::collection::vec(piece, 0..120).prop_map(|pieces| pieces.concat())
}

/// A table of `columns` columns.
fn table() -> impl Strategy<Value = Vec<Vec<String>>> {
    let cell = prop_oneof![
        4 => "[a-z0-9 ]{0,12}",
        2 => "[가-힣 ]{0,8}",
        2 => "[\",\r\n a]{0,6}",
        1 => "\\PC{0,10}",
        1 => "[a-z]{10,90}",
    ];
    (2..6_usize).prop_flat_map(move |columns| {
        proptest::collection::vec(proptest::collection::vec(cell.clone(), columns), 1..30)
    })
}

fn split<'a>(file: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(file.len() + 1)).collect();
    places.sort_unstable();
    let mut pieces = Vec::new();
    let mut start = 0;
    for place in places {
        pieces.push(&file[start..place]);
        start = place;
    }
    pieces.push(&file[start..]);
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn the_same_file_in_any_pieces_gives_the_same(
        options in options(), file in file(), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..9)
    ) {
        prop_assert_eq!(read(options, split(&file, &cuts)), read(options, [file.as_slice()]));
    }

    #[test]
    fn a_parser_resumed_at_any_checkpoint_gives_what_is_left(options in options(), file in file()) {
        if let Ok(whole) = read(options, [file.as_slice()]) {
            let digest: [u8; 32] = Sha256::digest(&file).into();
            prop_assert_eq!(whole.sha256, digest);
            for (index, batch) in whole.batches.iter().enumerate().rev().skip(1) {
                let rest = &file[batch.checkpoint.offset_bytes as usize..];
                let resumed = read_on(Parser::new(options, Some(&batch.checkpoint)).unwrap(), [rest]).unwrap();
                prop_assert_eq!(&resumed.batches, &whole.batches[index + 1..]);
                prop_assert_eq!(resumed.sha256, whole.sha256);
            }
        }
    }

    #[test]
    fn every_byte_belongs_to_one_batch_and_every_record_is_counted(options in options(), file in file()) {
        if let Ok(read) = read(options, [file.as_slice()]) {
            let (mut offset, mut stored, mut rejected) = (0, 0, 0);
            for batch in &read.batches {
                prop_assert!(batch.checkpoint.offset_bytes >= offset);
                offset = batch.checkpoint.offset_bytes;
                stored += batch.rows_stored;
                rejected += batch.rejected.len() as u64;
                let counts = batch.checkpoint.counts;
                prop_assert_eq!((counts.rows_stored, counts.rows_rejected + counts.lines_set_aside), (stored, rejected));
            }
            prop_assert_eq!(offset, file.len() as u64);
            prop_assert_eq!(read.rows().len() as u64, stored);
            let mut end = 0;
            for row in read.batches.iter().flat_map(|batch| &batch.rejected) {
                prop_assert!(row.byte_offset >= end, "in the order of the file, each byte once");
                end = row.byte_offset + row.byte_length;
                prop_assert_eq!(&row.raw, &file[row.byte_offset as usize..end as usize]);
            }
        }
    }

    #[test]
    fn every_cell_is_text_that_postgresql_takes(options in options(), file in file()) {
        if let Ok(read) = read(options, [file.as_slice()]) {
            for cell in read.cells().iter().flatten() {
                prop_assert!(!cell.contains('\0'));
            }
        }
    }

    #[test]
    fn what_is_written_is_read_again_cell_for_cell(options in options(), file in file()) {
        if let Ok(whole) = read(options, [file.as_slice()]) {
            let columns = whole.columns();
            let writer = CsvWriter::default();
            let mut csv = writer.header(columns.iter().map(String::as_str));
            for batch in whole.batches.iter().filter(|batch| !batch.rows.is_empty()) {
                csv.extend(writer.rows(&batch.rows).unwrap());
            }
            let again = read(told(Encoding::Utf8, Dialect { header_rows: 0, ..Dialect::RFC_4180 }), [csv.as_slice()]).unwrap();
            let mut expected = vec![columns];
            expected.extend(whole.cells());
            // A row of one cell is as well a footer, and a line of it a row with a stray quote.
            let counts = again.counts();
            prop_assume!(counts.rows_rejected + counts.lines_set_aside + counts.rows_repaired == 0);
            prop_assert_eq!(again.cells(), expected);
        }
    }

    #[test]
    fn the_postings_of_a_term_are_the_blocks_of_its_rows(options in options(), file in file()) {
        if let Ok(read) = read(options, [file.as_slice()]) {
            let block_rows = i64::from(options.limits.block_rows);
            let mut expected: BTreeMap<i32, BTreeSet<i64>> = BTreeMap::new();
            let mut rows = read.rows().into_iter();
            for batch in &read.batches {
                let mut first = None;
                for (number, cells) in rows.by_ref().take(batch.rows_stored as usize) {
                    let first = *first.get_or_insert(number);
                    let block = first + (number - first) / block_rows * block_rows;
                    for hash in cells.iter().flat_map(|cell| lexeme_hashes(std::str::from_utf8(cell).unwrap())) {
                        expected.entry(hash).or_default().insert(block);
                    }
                }
            }
            let tuples = read.postings();
            for (hash, blocks) in &expected {
                let found = best_blocks(&[*hash], &[1.0], &tuples, usize::MAX).unwrap();
                let found: BTreeSet<_> = found.into_iter().map(|(first, _)| first).collect();
                prop_assert_eq!(&found, blocks);
            }
            let all: Vec<_> = expected.keys().copied().collect();
            let counts = count_blocks(&all, &tuples).unwrap();
            prop_assert_eq!(counts.iter().sum::<u64>(), expected.values().map(|blocks| blocks.len() as u64).sum());
        }
    }

    /// Known differences, and no others: csv has no errors, joins text after a quote to the cell, knows no stray quotes,
    /// footers or other tables, and skips empty lines in one column too.
    #[test]
    fn csv_finds_the_same_records(mut options in plain(), file in file()) {
        options.hints.header_rows = Some(0);
        options.replaces_invalid_bytes = false;
        let Ok(read) = read(options, [file.as_slice()]) else { return Ok(()) };
        let columns = read.columns().len();
        let max_columns = options.limits.max_columns as usize;
        let rejected = read.rejected();
        let is_own = |reason: RejectReason| {
            matches!(reason, RejectReason::TextAfterQuote | RejectReason::Footer | RejectReason::OtherTable)
        };
        // A line that was read again may be rejected for its bytes.
        let mut rejected_rows = read.batches.iter().flat_map(|batch| &batch.rejected);
        let has_own = rejected_rows.any(|row| is_own(row.reason) || row.raw.contains(&b'"'));
        if columns == 1 || has_own || read.counts().rows_repaired > 0 {
            return Ok(());
        }
        let mut reader = csv::ReaderBuilder::new();
        reader.flexible(true).has_headers(false).delimiter(options.hints.delimiter.unwrap());
        reader.quoting(options.hints.quote.flatten().is_some());
        let records: Vec<_> = reader.from_reader(file.as_slice()).into_byte_records().map(Result::unwrap).collect();
        let (rows, others): (Vec<_>, Vec<_>) = records.iter().partition(|record| {
            let fits = if options.keeps_ragged_rows { record.len() <= max_columns.max(columns) } else { record.len() == columns };
            fits && record.iter().all(|cell| !cell.contains(&0) && std::str::from_utf8(cell).is_ok())
        });
        prop_assert_eq!(others.len(), rejected.len());
        let expected: Vec<Vec<Vec<u8>>> = rows.iter().map(|row| row.iter().map(<[u8]>::to_vec).collect()).collect();
        prop_assert_eq!(read.rows().into_iter().map(|(_, cells)| cells).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_table_that_csv_writes_comes_back_exactly(mut options in plain(), table in table(), crlf in any::<bool>()) {
        options.hints = told(Encoding::Utf8, Dialect { header_rows: 0, ..Dialect::RFC_4180 }).hints;
        options.limits.max_record_bytes = 1 << 20;
        options.limits.max_columns = 100;
        let mut writer = csv::WriterBuilder::new();
        if crlf {
            writer.terminator(csv::Terminator::CRLF);
        }
        let mut writer = writer.from_writer(Vec::new());
        for row in &table {
            writer.write_record(row).unwrap();
        }
        let read = read(options, [writer.into_inner().unwrap().as_slice()]).unwrap();
        // A table whose first cell begins with a byte-order mark reads without it, like any file.
        prop_assume!(!table[0][0].starts_with('\u{feff}'));
        prop_assert_eq!(read.cells(), table);
    }
}
