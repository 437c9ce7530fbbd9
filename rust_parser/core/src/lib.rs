//! Turns the bytes of a CSV file into batches that PostgreSQL loads as they are.
//!
//! Bytes in, batches out: no I/O, no threads, no globals, no Python. The caller pushes any split of the file into
//! [`Parser::feed`] and takes back each [`Batch`] as it closes: the rows in `COPY … (FORMAT binary)`, the search index of
//! these rows, the rejected rows, and the [`Checkpoint`] from which another parser can go on.
//!
//! How a byte travels, each step one module, imports running downwards only:
//!
//! ```text
//! parser      keeps the head until it tells how the file is read, and tells an encoding that shows late
//! ├── detect      the head of a file -> encoding, marks, preamble, header
//! └── reader      text -> records in order; malformed ones are read again; owns counters, digest, checkpoints
//!     ├── table       what each record is: header, row, or none; where the table ends
//!     │   ├── row_width   whether PostgreSQL can store a row
//!     │   └── batch       the open batch: rows, blocks, evidence and rejected rows until it closes
//!     │       ├── blocks       search terms of up to `block_rows` rows
//!     │       │   ├── lexeme       text -> terms -> 32-bit hashes
//!     │       │   └── postings     term -> blocks, cut into buckets; also how a search reads them
//!     │       ├── evidence     what is in each column, from every cell
//!     │       └── copy_binary  PostgreSQL's binary COPY encoding
//!     ├── repair      a line with stray quotes -> cells
//!     ├── scan        text -> ends of cells and records, 64 bytes at a time
//!     └── source      the file's own bytes behind the text: places and digest
//!         ├── transcode   other encodings -> UTF-8 and back to places in the source
//!         └── digest      SHA-256 that can be saved and resumed
//! checkpoint  the state between two records
//! record      a record's bytes and spans -> cells
//! options     what a parser is told, checked once
//! reading     encoding and dialect: as a caller says them, as they are found
//! csv_writer  rows from PostgreSQL -> CSV
//! steps       some of these steps without the others, for the bench
//! error       what ends a file, with line and byte
//! ```
//!
//! Only `scan` and `repair` know where cells end and only `record` knows what their bytes mean.
//!
//! # What is read
//!
//! RFC 4180, and what files in the wild make of it:
//!
//! - UTF-8, UTF-16, CP949, Shift-JIS, GB18030, Windows-1252; all but the first are turned into UTF-8 in front, and every
//!   place that is told is one in the file as it came. Bytes that the encoding does not have never end a cell; their row is
//!   rejected, or stored with U+FFFD.
//! - A record ends at LF, CRLF or a lone CR, mixed as they come. The last one needs no end.
//! - A byte-order mark at byte 0 is skipped. It counts in offsets and in the digest.
//! - A cell is quoted if its first byte is the quote. A quote inside an unquoted cell is text.
//! - A line without any byte is no record, unless the file has exactly one column: there it is a row with one empty cell,
//!   since nothing else could be written for that row. Before the first record it is skipped always.
//! - Empty cells are empty text, never NULL. No cell is trimmed, unless the reading says so.
//! - A row with fewer or more cells than columns is stored with exactly its cells, or rejected by option.
//! - A line with stray quotes is read again with these as text (`repair`), if it then has as many cells as columns.
//! - Lines before the table, comments, and short lines behind it are set aside; another table behind it is rejected.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod batch;
mod blocks;
mod checkpoint;
mod copy_binary;
mod csv_writer;
pub mod detect;
mod digest;
mod error;
mod evidence;
mod lexeme;
mod options;
mod parser;
mod postings;
mod reader;
pub mod reading;
mod record;
mod repair;
mod row_width;
mod scan;
mod source;
#[doc(hidden)]
pub mod steps;
mod table;
mod transcode;

pub use batch::{Batch, RAW_BYTES_KEPT, REJECTED_PER_BATCH, RejectedRow};
pub use checkpoint::{Checkpoint, Counts, InvalidCheckpoint};
pub use csv_writer::{CsvWriter, InvalidRows};
pub use error::{ErrorCode, ParseError};
pub use evidence::{ColumnProfile, ColumnType, InvalidEvidence, NULL_LIKE, Profile, TopValue, merge_evidence, profile};
pub use lexeme::{MAX_TERM_BYTES, count_matches, lexeme_hashes, lexemes};
pub use options::{InvalidOption, Limits, MAX_HEADER_ROWS, Options};
pub use parser::{InvalidStart, Parser};
pub use postings::{Block, InvalidPostings, Tuple, best_blocks, bucket, count_blocks, read_copy};
pub use reader::Finished;
pub use record::RejectReason;
