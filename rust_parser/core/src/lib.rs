//! Turns the bytes of a CSV file into batches that PostgreSQL loads as they are.
//!
//! Bytes in, batches out: no I/O, no threads, no globals, no Python. The caller pushes any split of the file into
//! [`Parser::feed`] and takes back each [`Batch`] as it closes: the rows in `COPY … (FORMAT binary)`, the search index of
//! these rows, the rejected rows, and the [`Checkpoint`] from which another parser can go on.
//!
//! How a byte travels, each step one module, imports running downwards only:
//!
//! ```text
//! parser      ties the steps together; owns the record in progress, the counters and the digest
//! ├── batch        the open batch: rows, blocks and rejected rows until it closes
//! │   ├── blocks       search terms of up to `block_rows` rows
//! │   │   ├── lexeme       text -> terms -> 32-bit hashes
//! │   │   └── postings     term -> blocks, cut into buckets; also how a search reads them
//! │   ├── evidence     what is in each column, from every cell
//! │   └── copy_binary  PostgreSQL's binary COPY encoding
//! ├── record      a record's bytes and spans -> cells; why a record is rejected
//! ├── scan        bytes -> ends of cells and records, 64 at a time
//! ├── digest      SHA-256 that can be saved and resumed
//! ├── checkpoint  the state between two records
//! └── options     dialect and limits, checked once
//! steps        some of these steps without the others, for the bench
//! error        what ends a file, with line and byte
//! ```
//!
//! Only `scan` knows where cells end and only `record` knows what their bytes mean. An encoding in which no trail byte
//! is a delimiter, quote or line end (CP949, GB18030) needs another `record`, not another `scan`.
//!
//! # What is read
//!
//! RFC 4180 in UTF-8, more tolerant where files in the wild are:
//!
//! - A record ends at LF, CRLF or a lone CR, mixed as they come. The last one needs no end.
//! - A byte-order mark at byte 0 is skipped. It counts in offsets and in the digest.
//! - A cell is quoted if its first byte is the quote. A quote inside an unquoted cell is text.
//! - A line without any byte is no record, unless the file has exactly one column: there it is a row with one empty cell,
//!   since nothing else could be written for that row. Before the first record it is skipped always.
//! - Empty cells are empty text, never NULL. No cell is trimmed.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod batch;
mod blocks;
mod checkpoint;
mod copy_binary;
mod digest;
mod error;
mod evidence;
mod lexeme;
mod options;
mod parser;
mod postings;
mod record;
mod scan;
#[doc(hidden)]
pub mod steps;

pub use batch::{Batch, RAW_BYTES_KEPT, REJECTED_PER_BATCH, RejectedRow};
pub use checkpoint::{Checkpoint, InvalidCheckpoint};
pub use error::{ErrorCode, ParseError};
pub use evidence::{ColumnProfile, ColumnType, InvalidEvidence, NULL_LIKE, Profile, TopValue, merge_evidence, profile};
pub use lexeme::{MAX_TERM_BYTES, count_matches, lexeme_hashes, lexemes};
pub use options::{Dialect, InvalidOption, Limits, Options};
pub use parser::{Finished, InvalidStart, Parser};
pub use postings::{Block, InvalidPostings, Tuple, best_blocks, bucket, count_blocks, read_copy};
pub use record::RejectReason;
