//! What bounds the memory of an upload, whatever the file holds.

use dari_parser::reading::{Dialect, Encoding};
use dari_parser::{ErrorCode, Options, Parser, RAW_BYTES_KEPT, REJECTED_PER_BATCH, RejectReason};

use crate::support::{read, told};

const MIB: usize = 1 << 20;

/// UTF-8 by RFC 4180.
fn plain() -> Options {
    told(Encoding::Utf8, Dialect::RFC_4180)
}

#[test]
fn an_endless_record_fails_as_soon_as_it_passes_the_limit() {
    for (begin, code, limit, place) in [
        ("", ErrorCode::HeaderTooLong, MIB / 4, (1, 0)),
        ("\"", ErrorCode::HeaderTooLong, MIB / 4, (1, 0)),
        ("a,\"b", ErrorCode::HeaderTooLong, MIB / 4, (1, 0)),
        ("a,b\n1", ErrorCode::RecordTooLong, MIB, (2, 4)),
        ("a,b\n\"", ErrorCode::RecordTooLong, MIB, (2, 4)),
        ("a,b\n1,\"", ErrorCode::RecordTooLong, MIB, (2, 4)),
    ] {
        let mut parser = Parser::new(plain(), None).unwrap();
        parser.feed(begin.as_bytes()).unwrap();
        let piece = [b'x'; 1_000];
        let error = std::iter::repeat_with(|| parser.feed(&piece)).find_map(Result::err).unwrap();
        assert_eq!((error.code, (error.line, error.byte_offset)), (code, place));
        assert_eq!(error.limit, limit as u64);
        assert!(parser.received_bytes() <= (limit + 2 * piece.len()) as u64);
    }
}

#[test]
fn an_endless_record_in_one_feed_fails_at_the_same_place() {
    let file = [b"a,b\n\"", vec![b'\n'; 40 * MIB].as_slice()].concat();
    let error = read(plain(), [file.as_slice()]).unwrap_err();
    assert_eq!((error.code, error.line, error.byte_offset), (ErrorCode::RecordTooLong, 2, 4));
}

#[test]
fn a_record_of_a_million_delimiters_is_one_rejected_row() {
    let file = ["a,b\n", &",".repeat(MIB), "\n1,2\n"].concat();
    let read = read(plain(), [file.as_bytes()]).unwrap();
    assert_eq!(read.cells(), [["1", "2"]]);
    let [rejected] = &read.batches[0].rejected[..] else { panic!("{:?}", read.rejected()) };
    assert_eq!(rejected.reason, RejectReason::TooManyFields);
    assert_eq!(rejected.byte_length, MIB as u64 + 1);
    assert_eq!(rejected.raw, vec![b','; RAW_BYTES_KEPT]);
}

#[test]
fn a_file_of_stray_quotes_is_read_line_by_line() {
    // From outside, and from inside quotes, each line leaves a quote open.
    let file = ["a,b\n", &"x\"y,\"z\n".repeat(MIB)].concat();
    let read = read(plain(), [file.as_bytes()]).unwrap();
    assert_eq!(read.counts().rows_repaired, MIB as u64);
    assert_eq!(read.counts().rows_stored, MIB as u64);
}

#[test]
fn what_is_scanned_in_vain_is_bounded() {
    let mut options = plain();
    options.limits.max_record_bytes = 100;
    // Each line leaves a quote open, and ends and begins a cell of the line before: none is read before the limit is passed.
    let file = ["a,b\n", &"x\",\"y\n".repeat(1_000)].concat();
    let error = read(options, [file.as_bytes()]).unwrap_err();
    assert_eq!(error.code, ErrorCode::RecordTooLong);
    assert!((9..20).contains(&error.line), "{error}");
}

#[test]
fn a_batch_closes_at_the_first_record_end_at_or_after_its_size() {
    let mut options = plain();
    options.limits.batch_bytes = 10;
    let file = b"a,b\n1,2\n3,4\n\"5\n\n\n\",6\n\n\n\n7,8\n9,10";
    let read = read(options, [file.as_slice()]).unwrap();
    let ends: Vec<_> = read.batches.iter().map(|batch| batch.checkpoint.offset_bytes).collect();
    // Not within empty lines, behind which the table may have ended.
    assert_eq!(ends, [12, 28, 32]);
    let lines: Vec<_> = read.batches.iter().map(|batch| batch.checkpoint.line).collect();
    assert_eq!(lines, [4, 12, 13]);
}

#[test]
fn a_batch_closes_early_where_the_rows_grow_out_of_proportion() {
    let file = ["a\n", &"\n".repeat(8 * MIB)].concat();
    let read = read(plain(), [file.as_bytes()]).unwrap();
    assert_eq!(read.batches.iter().map(|batch| batch.rows_stored).sum::<u64>(), 8 * MIB as u64);
    assert!(read.batches.len() > 4);
    for batch in &read.batches {
        assert!(batch.rows.len() + batch.postings.len() <= 17 * MIB);
    }
}

#[test]
fn a_batch_closes_early_where_nearly_all_rows_are_rejected() {
    let file = ["a,b\n", &"\0\n".repeat(3 * REJECTED_PER_BATCH)].concat();
    let read = read(plain(), [file.as_bytes()]).unwrap();
    let rejected: Vec<_> = read.batches.iter().map(|batch| batch.rejected.len()).collect();
    assert_eq!(rejected, [REJECTED_PER_BATCH, REJECTED_PER_BATCH, REJECTED_PER_BATCH, 0]);
    assert_eq!(read.batches[3].checkpoint.counts.rows_rejected, 3 * REJECTED_PER_BATCH as u64);
    assert_eq!((read.batches[0].rows.len(), read.batches[0].postings.len()), (0, 0));
}

#[test]
fn options_out_of_range_are_refused() {
    let wrong: [fn(&mut Options); 21] = [
        |options| options.hints.encoding = Some(Encoding::Ascii),
        |options| options.hints.delimiter = Some(b'\n'),
        |options| options.hints.delimiter = Some(0),
        |options| options.hints.delimiter = Some(0xa1),
        |options| options.hints.quote = Some(Some(b',')),
        |options| options.hints.quote = Some(Some(b'\r')),
        |options| options.hints.escape = Some(Some(b',')),
        |options| options.hints.escape = Some(Some(b'\n')),
        |options| options.hints.comment = Some(Some(b',')),
        |options| options.hints.comment = Some(Some(b'"')),
        |options| options.hints.comment = Some(Some(0)),
        |options| options.hints.preamble_lines = Some(u32::MAX),
        |options| options.hints.header_rows = Some(9),
        |options| options.limits.batch_bytes = 0,
        |options| options.limits.block_rows = 0,
        |options| options.limits.block_rows = 65_537,
        |options| options.limits.max_record_bytes = (1 << 28) + 1,
        |options| options.limits.max_cell_bytes = 0,
        |options| options.limits.max_header_bytes = 0,
        |options| options.limits.max_columns = 0,
        |options| options.limits.max_columns = 1_599,
    ];
    for spoil in wrong {
        let mut options = plain();
        assert_eq!(options.check(), Ok(()));
        spoil(&mut options);
        assert!(Parser::new(options, None).is_err(), "{options:?}");
    }
}

#[test]
fn a_checkpoint_that_no_parser_made_is_refused() {
    let good = read(plain(), [b"a\n1\n".as_slice()]).unwrap().batches[0].checkpoint.clone();
    assert!(Parser::new(Options::default(), Some(&good)).is_ok());
    let mut bad = vec![good.clone(), good.clone()];
    bad[0].offset_bytes += 1;
    bad[1].line = 0;
    for len in 0..good.state.len() {
        let mut cut = good.clone();
        cut.state.truncate(len);
        bad.push(cut);
    }
    for checkpoint in bad {
        assert!(Parser::new(plain(), Some(&checkpoint)).is_err(), "{checkpoint:?}");
    }
}

#[test]
fn a_state_of_any_bytes_is_refused_or_read_on_without_a_panic() {
    let good = read(Options::default(), [b"a\n1\n".as_slice()]).unwrap().batches[0].checkpoint.clone();
    assert!(good.state.len() < 1_024);
    for at in 0..good.state.len() {
        for byte in 0..=u8::MAX {
            let mut checkpoint = good.clone();
            checkpoint.state[at] = byte;
            if let Ok(mut parser) = Parser::new(plain(), Some(&checkpoint)) {
                let _ = parser.feed(b"2,\"3\n\xff\n").and_then(|_| parser.finish());
            }
        }
    }
}
