//! The state between two records, as plain values that fit a database row.

use std::fmt;
use std::sync::Arc;

/// Where a parser can go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Bytes of the file that are consumed: the start of the next record.
    pub offset_bytes: u64,
    /// Line of the next record, from 1.
    pub line: u64,
    /// Rows stored so far; the next one gets this number plus one.
    pub rows_stored: u64,
    /// Records rejected so far.
    pub rows_rejected: u64,
    /// Column names; empty until the first record was read.
    pub columns: Arc<[String]>,
    /// SHA-256 over the consumed bytes as a state that can go on; opaque, 112 bytes.
    pub sha256_state: Vec<u8>,
}

/// A checkpoint that no parser made: its digest state is broken or belongs to another offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidCheckpoint;

impl fmt::Display for InvalidCheckpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the checkpoint's sha256_state does not belong to its offset_bytes")
    }
}

impl std::error::Error for InvalidCheckpoint {}
