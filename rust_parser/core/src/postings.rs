//! The search index of a batch: for every term, in which blocks of rows it stands.
//!
//! A *block* is a run of `block_rows` rows; a reader finds blocks by their terms, and scores their rows exactly. A batch
//! sorts its pairs of term and block and cuts them into *buckets* by the highest bits of the hash: one tuple a bucket,
//! so that PostgreSQL indexes a few thousand small values a batch, and a term is found by reading one tuple of each batch.
//! An inverted index over the same sets in PostgreSQL (GIN) costs several times the load of the rows themselves, since
//! most terms of real files stand in one row only.
//!
//! A tuple is `(bucket int4, first_row_number int8, postings bytea)`. The value, all numbers LEB128:
//!
//! ```text
//! block_rows, rows of the batch, then for each term in ascending order:
//!     low bits of its hash minus those of the term before (the first minus 0)
//!     number of blocks
//!     first block, then each next block minus the one before, minus 1
//! ```

use crate::copy_binary::{CopyBinary, HEADER};

/// Bits of a hash that name its bucket. 4,096 buckets: about 40 terms each for a batch of 4 MiB.
const BUCKET_BITS: u32 = 12;
const LOW_BITS: u32 = 32 - BUCKET_BITS;
const LOW_MASK: u32 = (1 << LOW_BITS) - 1;

/// The bucket in which a term's postings stand.
#[must_use]
pub fn bucket(hash: i32) -> i32 {
    (turn_sign(hash) >> LOW_BITS) as i32
}

/// Keeps the order of signed values in unsigned ones.
#[inline]
fn turn_sign(hash: i32) -> u32 {
    hash as u32 ^ 1 << 31
}

#[inline]
fn turn_sign_back(value: u32) -> i32 {
    (value ^ 1 << 31) as i32
}

/// Pairs of term and block of one batch.
///
/// Most repetitions of a term in its block are noticed by looking at the term that had the same place among the recent
/// ones; the others leave equal pairs, which stand side by side when all are sorted, and are dropped there.
pub(crate) struct Postings {
    /// Hash with its sign turned in the high half, number of the block within the batch in the low half. Beyond `len` it
    /// holds anything.
    pairs: Vec<u64>,
    len: usize,
    /// Number of the block in progress.
    block: u32,
    /// By the lowest bits, the last hash of the block in progress that had them.
    recent: Box<[u32; RECENT]>,
    /// The pairs in order, each once; kept for its memory.
    sorted: Vec<u64>,
    value: Vec<u8>,
}

/// 16 KiB: half a first-level cache. A block of 128 rows has some hundred to some thousand terms.
const RECENT: usize = 4_096;
/// No hash: [`crate::lexeme::hash`] never gives `i32::MIN`.
const NO_HASH: u32 = 0;
/// Bits of a hash that one pass of the sort looks at; three passes.
const DIGIT_BITS: u32 = 11;
/// Step by which room for pairs is made.
const ROOM_PAIRS: usize = 8_192;

impl Default for Postings {
    fn default() -> Self {
        Self {
            pairs: Vec::new(),
            len: 0,
            block: 0,
            recent: Box::new([NO_HASH; RECENT]),
            sorted: Vec::new(),
            value: Vec::new(),
        }
    }
}

impl Postings {
    /// Adds a term of the block in progress.
    #[inline]
    pub(crate) fn add(&mut self, hash: i32) {
        if self.len == self.pairs.len() {
            self.make_room();
        }
        let value = turn_sign(hash);
        let recent = &mut self.recent[value as usize % RECENT];
        // Whether it is new cannot be predicted: the pair is written always, and kept only then.
        self.pairs[self.len] = u64::from(value) << 32 | u64::from(self.block);
        self.len += usize::from(*recent != value);
        *recent = value;
    }

    /// Ends the block in progress.
    pub(crate) fn end_block(&mut self) {
        self.block += 1;
        self.recent.fill(NO_HASH);
    }

    /// Bytes that the encoded postings will take, about.
    pub(crate) fn len(&self) -> usize {
        self.len * 6
    }

    /// Takes all postings of the ended blocks as a whole COPY; empty where there are none.
    pub(crate) fn take(&mut self, first_row_number: u64, block_rows: u32, rows: u64) -> Vec<u8> {
        self.sort();
        let mut copy = CopyBinary::default();
        for pairs in self.sorted.chunk_by(|one, next| one >> (32 + LOW_BITS) == next >> (32 + LOW_BITS)) {
            self.value.clear();
            write_number(&mut self.value, u64::from(block_rows));
            write_number(&mut self.value, rows);
            write_bucket(&mut self.value, pairs);
            copy.begin_tuple(3, 4 + 8 + self.value.len());
            copy.int4((pairs[0] >> (32 + LOW_BITS)) as i32);
            copy.int8(first_row_number as i64);
            copy.text(&self.value, 0, self.value.len());
        }
        (self.len, self.block) = (0, 0);
        copy.finish()
    }

    /// Moves the pairs into `sorted`, each once.
    ///
    /// They come in the order of their blocks, and a radix sort from the lowest digit of the hash keeps that.
    fn sort(&mut self) {
        self.pairs.truncate(self.len);
        self.sorted.resize(self.len, 0);
        for shift in [32, 32 + DIGIT_BITS, 32 + 2 * DIGIT_BITS] {
            let digit = |pair: u64| (pair >> shift) as usize % (1 << DIGIT_BITS);
            let mut places = [0; 1 << DIGIT_BITS];
            for pair in &self.pairs {
                places[digit(*pair)] += 1;
            }
            let mut next = 0;
            for place in &mut places {
                next += std::mem::replace(place, next);
            }
            for pair in &self.pairs {
                let place = &mut places[digit(*pair)];
                self.sorted[*place] = *pair;
                *place += 1;
            }
            std::mem::swap(&mut self.pairs, &mut self.sorted);
        }
        std::mem::swap(&mut self.pairs, &mut self.sorted);
        self.sorted.dedup();
    }

    #[cold]
    fn make_room(&mut self) {
        self.pairs.resize(self.len + ROOM_PAIRS.max(self.len / 2), 0);
    }
}

fn write_bucket(value: &mut Vec<u8>, pairs: &[u64]) {
    let mut term_before = 0;
    for blocks in pairs.chunk_by(|one, next| one >> 32 == next >> 32) {
        let term = (blocks[0] >> 32) as u32 & LOW_MASK;
        write_number(value, u64::from(term - term_before));
        write_number(value, blocks.len() as u64);
        let mut next_block = 0;
        for pair in blocks {
            let block = pair & u64::from(u32::MAX);
            write_number(value, block - next_block);
            next_block = block + 1;
        }
        term_before = term;
    }
}

fn write_number(value: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        value.push(number as u8 | 0x80);
        number >>= 7;
    }
    value.push(number as u8);
}

/// Postings that cannot be read: not what [`crate::Parser`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPostings;

impl std::fmt::Display for InvalidPostings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the search index cannot be read; it was not written by this parser")
    }
}

impl std::error::Error for InvalidPostings {}

/// A run of rows: its first row's number, and how many rows it has.
pub type Block = (i64, u32);

/// Bucket, number of the batch's first row, postings.
pub type Tuple<'a> = (i32, i64, &'a [u8]);

/// The tuples in what PostgreSQL gives for `COPY (SELECT bucket, first_row_number, postings …) TO … (FORMAT binary)`.
pub fn read_copy(copy: &[u8]) -> Result<Vec<Tuple<'_>>, InvalidPostings> {
    let mut rest = copy.strip_prefix(HEADER).ok_or(InvalidPostings)?;
    let mut tuples = Vec::new();
    loop {
        match i16::from_be_bytes(take(&mut rest)?) {
            -1 => return Ok(tuples),
            3 => {}
            _ => return Err(InvalidPostings),
        }
        let bucket = i32::from_be_bytes(field(&mut rest)?.try_into().map_err(|_| InvalidPostings)?);
        let first_row_number = i64::from_be_bytes(field(&mut rest)?.try_into().map_err(|_| InvalidPostings)?);
        tuples.push((bucket, first_row_number, field(&mut rest)?));
    }
}

fn field<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], InvalidPostings> {
    let length = u32::from_be_bytes(take(rest)?) as usize;
    let (value, behind) = rest.split_at_checked(length).ok_or(InvalidPostings)?;
    *rest = behind;
    Ok(value)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], InvalidPostings> {
    let (value, behind) = rest.split_first_chunk().ok_or(InvalidPostings)?;
    *rest = behind;
    Ok(*value)
}

/// In how many blocks each of the terms stands. `tuples` are those of the terms' buckets.
pub fn count_blocks(terms: &[i32], tuples: &[Tuple<'_>]) -> Result<Vec<u64>, InvalidPostings> {
    let mut counts = vec![0; terms.len()];
    for_each_posting(terms, tuples, |term, _, _| counts[term] += 1)?;
    Ok(counts)
}

/// The blocks in which the heaviest terms meet, best first, of equal ones the earlier.
pub fn best_blocks(
    terms: &[i32],
    weights: &[f64],
    tuples: &[Tuple<'_>],
    max_blocks: usize,
) -> Result<Vec<Block>, InvalidPostings> {
    let mut scores: std::collections::HashMap<i64, (u32, f64)> = std::collections::HashMap::new();
    for_each_posting(terms, tuples, |term, first_row_number, rows| {
        scores.entry(first_row_number).or_insert((rows, 0.0)).1 += weights[term];
    })?;
    let mut best: Vec<_> = scores.into_iter().map(|(first, (rows, score))| (first, rows, score)).collect();
    best.sort_unstable_by(|one, other| other.2.total_cmp(&one.2).then(one.0.cmp(&other.0)));
    Ok(best.into_iter().take(max_blocks).map(|(first, rows, _)| (first, rows)).collect())
}

/// Calls `found` with the number of the term, the first row of the block, and the block's rows.
fn for_each_posting(
    terms: &[i32],
    tuples: &[Tuple<'_>],
    mut found: impl FnMut(usize, i64, u32),
) -> Result<(), InvalidPostings> {
    for (tuple_bucket, first_row_number, value) in tuples {
        // Few terms share a bucket: the list is short, and mostly one.
        let wanted: Vec<_> = (0..terms.len()).filter(|term| bucket(terms[*term]) == *tuple_bucket).collect();
        let mut rest = *value;
        let block_rows = read_number(&mut rest)?;
        let rows = read_number(&mut rest)?;
        let mut low = 0;
        while !rest.is_empty() {
            low += read_number(&mut rest)?;
            let hash = turn_sign_back((*tuple_bucket as u32) << LOW_BITS | low as u32 & LOW_MASK);
            let term = wanted.iter().copied().find(|term| terms[*term] == hash);
            let blocks = read_number(&mut rest)?;
            let mut next_block = 0;
            for _ in 0..blocks {
                let block = next_block + read_number(&mut rest)?;
                next_block = block + 1;
                let rows_before =
                    block.checked_mul(block_rows).filter(|before| *before < rows).ok_or(InvalidPostings)?;
                if let Some(term) = term {
                    found(term, first_row_number + rows_before as i64, block_rows.min(rows - rows_before) as u32);
                }
            }
        }
    }
    Ok(())
}

fn read_number(rest: &mut &[u8]) -> Result<u64, InvalidPostings> {
    let mut number = 0;
    for shift in (0..35).step_by(7) {
        let (byte, behind) = rest.split_first().ok_or(InvalidPostings)?;
        *rest = behind;
        number |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Ok(number);
        }
    }
    Err(InvalidPostings)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    type Kept = (i32, i64, Vec<u8>);

    /// The tuples of a COPY that this module wrote.
    fn tuples(copy: &[u8]) -> Vec<Kept> {
        if copy.is_empty() {
            return Vec::new();
        }
        read_copy(copy).unwrap().into_iter().map(|(bucket, first, value)| (bucket, first, value.to_vec())).collect()
    }

    fn borrowed(tuples: &[Kept]) -> Vec<Tuple<'_>> {
        tuples.iter().map(|(bucket, first, value)| (*bucket, *first, value.as_slice())).collect()
    }

    fn add(postings: &mut Postings, hashes: impl IntoIterator<Item = i32>) {
        hashes.into_iter().for_each(|hash| postings.add(hash));
        postings.end_block();
    }

    #[test]
    fn the_best_block_is_where_the_heaviest_terms_meet_and_the_last_one_is_short() {
        let mut postings = Postings::default();
        add(&mut postings, [1, 2]);
        add(&mut postings, [2, 3]);
        let copy = postings.take(101, 10, 13);
        let tuples = tuples(&copy);
        assert_eq!(count_blocks(&[1, 2, 3, 4], &borrowed(&tuples)), Ok(vec![1, 2, 1, 0]));
        let best = best_blocks(&[2, 3], &[1.0, 5.0], &borrowed(&tuples), 2);
        assert_eq!(best, Ok(vec![(111, 3), (101, 10)]));
        assert_eq!(best_blocks(&[2], &[1.0], &borrowed(&tuples), 1), Ok(vec![(101, 10)]));
    }

    #[test]
    fn without_a_term_there_is_no_copy() {
        let mut postings = Postings::default();
        add(&mut postings, []);
        assert_eq!(postings.take(1, 128, 1), b"");
    }

    proptest! {
        #[test]
        fn every_posting_is_found_and_no_other(
            blocks in proptest::collection::vec(proptest::collection::btree_set(
                // The last ones have one place among the recent terms.
                prop_oneof![i32::MIN + 1..=i32::MAX, -9..9_i32, (0..9_i32).prop_map(|n| n * 4_096)], 0..40), 1..20),
            block_rows in 1..300_u32,
            rows_of_last in 1..300_u32,
            batches in 1..4_i64,
        ) {
            let rows = u64::from(block_rows) * (blocks.len() as u64 - 1) + u64::from(rows_of_last.min(block_rows));
            let mut all = Vec::new();
            let mut expected: BTreeMap<i32, BTreeSet<Block>> = BTreeMap::new();
            for batch in 0..batches {
                let first = batch * rows as i64 + 1;
                let mut postings = Postings::default();
                for (number, hashes) in blocks.iter().enumerate() {
                    // Twice, in another order: a term counts once for its block.
                    add(&mut postings, hashes.iter().rev().chain(hashes).copied());
                    let before = number as i64 * i64::from(block_rows);
                    let count = u64::from(block_rows).min(rows - before as u64) as u32;
                    for hash in hashes {
                        expected.entry(*hash).or_default().insert((first + before, count));
                    }
                }
                all.extend(tuples(&postings.take(first as u64, block_rows, rows)));
            }
            let terms: Vec<_> = expected.keys().copied().chain([77_777]).collect();
            let counts = count_blocks(&terms, &borrowed(&all)).unwrap();
            for (term, count) in terms.iter().zip(counts) {
                prop_assert_eq!(expected.get(term).map_or(0, BTreeSet::len) as u64, count);
                let found = best_blocks(&[*term], &[1.0], &borrowed(&all), usize::MAX).unwrap();
                prop_assert_eq!(found, expected.get(term).into_iter().flatten().copied().collect::<Vec<_>>());
            }
        }

        #[test]
        fn bytes_that_are_no_postings_are_refused_or_read_and_never_panic(
            value in proptest::collection::vec(any::<u8>(), 0..60), bucket in 0..4_096_i32,
        ) {
            let _ = read_copy(&[HEADER.as_slice(), &value].concat());
            let _ = best_blocks(&[1, i32::MAX], &[1.0, 1.0], &[(bucket, 1, &value)], 5);
        }
    }
}
