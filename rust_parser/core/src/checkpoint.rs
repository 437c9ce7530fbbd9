//! The state between two records, as plain values that fit a database row.

use std::fmt;
use std::sync::Arc;

use crate::digest::{Digest, STATE_BYTES};
use crate::options::is_dialect;
use crate::reading::{Detected, Dialect, Encoding, Reading};

/// Where a parser can go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Bytes of the file that are consumed: the start of the next record.
    pub offset_bytes: u64,
    /// Line of the next record, from 1.
    pub line: u64,
    /// What was counted so far; the next row gets `rows_stored` plus one as its number.
    pub counts: Counts,
    /// Column names; empty until the header, or the first record of a file without one, was read.
    pub columns: Arc<[String]>,
    /// The rest of the state: how the file is read, SHA-256 of the consumed bytes, what is known of the table's end;
    /// opaque, below 1 KiB.
    pub state: Vec<u8>,
}

/// What a file held so far. Rows read are `rows_stored` and `rows_rejected`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows stored.
    pub rows_stored: u64,
    /// Rows that are not stored.
    pub rows_rejected: u64,
    /// Lines that are no rows: preamble, comments, footer.
    pub lines_set_aside: u64,
    /// Stored rows with fewer or more cells than columns.
    pub rows_ragged: u64,
    /// Stored rows with a stray quote that was taken as text.
    pub rows_repaired: u64,
    /// Stored rows with U+FFFD in place of invalid bytes.
    pub rows_replaced: u64,
}

/// A checkpoint that no parser made: its state is broken or belongs to another offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidCheckpoint;

impl fmt::Display for InvalidCheckpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the checkpoint's state does not belong to its offset_bytes")
    }
}

impl std::error::Error for InvalidCheckpoint {}

/// What [`Checkpoint::state`] holds.
pub(crate) struct State {
    pub(crate) digest: Digest,
    pub(crate) detected: Detected,
    /// Bytes that were scanned and then, behind a repaired row, scanned again.
    pub(crate) scanned_again_bytes: u64,
    /// Whether another table has begun behind the first one.
    pub(crate) table_has_ended: bool,
}

/// First byte of a state; another layout gets another one.
const LAYOUT: u8 = 1;

impl State {
    /// Layout, digest, `scanned_again_bytes`, `table_has_ended`, confidence, and the reading with its runner-up.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut state = vec![LAYOUT];
        state.extend_from_slice(&self.digest.state());
        state.extend_from_slice(&self.scanned_again_bytes.to_le_bytes());
        state.push(u8::from(self.table_has_ended));
        state.extend_from_slice(&self.detected.confidence.to_le_bytes());
        encode_reading(&self.detected.reading, &mut state);
        if let Some(runner_up) = &self.detected.runner_up {
            encode_reading(runner_up, &mut state);
        }
        state
    }

    /// What `encode` made, checked: broken bytes are an error.
    pub(crate) fn decode(state: &[u8], offset_bytes: u64) -> Result<Self, InvalidCheckpoint> {
        let mut rest = state;
        let [LAYOUT] = *take(&mut rest)? else { return Err(InvalidCheckpoint) };
        let digest = Digest::resume(take::<STATE_BYTES>(&mut rest)?, offset_bytes)?;
        let scanned_again_bytes = u64::from_le_bytes(*take(&mut rest)?);
        let table_has_ended = decode_bool(&mut rest)?;
        let confidence = f64::from_le_bytes(*take(&mut rest)?);
        if !(0.0..=1.0).contains(&confidence) {
            return Err(InvalidCheckpoint);
        }
        let reading = decode_reading(&mut rest)?;
        let runner_up = if rest.is_empty() { None } else { Some(decode_reading(&mut rest)?) };
        if !rest.is_empty() {
            return Err(InvalidCheckpoint);
        }
        let detected = Detected { reading, runner_up, confidence };
        Ok(Self { digest, detected, scanned_again_bytes, table_has_ended })
    }
}

fn encode_reading(reading: &Reading, state: &mut Vec<u8>) {
    let Reading { encoding, dialect } = reading;
    let place = Encoding::ALL.iter().position(|one| one == encoding).unwrap_or_default();
    state.extend_from_slice(&[place as u8, dialect.delimiter]);
    for mark in [dialect.quote, dialect.escape, dialect.comment] {
        // No mark is above 0x7F.
        state.push(mark.unwrap_or(u8::MAX));
    }
    state.push(u8::from(dialect.trims_blanks));
    state.extend_from_slice(&dialect.preamble_lines.to_le_bytes());
    state.extend_from_slice(&dialect.header_rows.to_le_bytes());
}

fn decode_reading(rest: &mut &[u8]) -> Result<Reading, InvalidCheckpoint> {
    let [place, delimiter, quote, escape, comment] = *take(rest)?;
    let mark = |byte: u8| (byte != u8::MAX).then_some(byte);
    let dialect = Dialect {
        delimiter,
        quote: mark(quote),
        escape: mark(escape),
        comment: mark(comment),
        trims_blanks: decode_bool(rest)?,
        preamble_lines: u32::from_le_bytes(*take(rest)?),
        header_rows: u32::from_le_bytes(*take(rest)?),
    };
    let encoding = *Encoding::ALL.get(usize::from(place)).ok_or(InvalidCheckpoint)?;
    if is_dialect(&dialect) { Ok(Reading { encoding, dialect }) } else { Err(InvalidCheckpoint) }
}

fn decode_bool(rest: &mut &[u8]) -> Result<bool, InvalidCheckpoint> {
    match *take(rest)? {
        [0] => Ok(false),
        [1] => Ok(true),
        _ => Err(InvalidCheckpoint),
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], InvalidCheckpoint> {
    let (first, tail) = rest.split_first_chunk().ok_or(InvalidCheckpoint)?;
    *rest = tail;
    Ok(first)
}
