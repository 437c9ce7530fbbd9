//! The terms of [`super::terms`], unordered, from text that needs no Unicode tables: what fills the index.
//!
//! Cells are collected, lower-cased and separated by NUL, until some 16 KiB are there, so that short cells cost no more
//! than long ones. Then masks of 64 bytes at a time tell where words begin and end: with one bit a byte for letters and
//! digits, and one for joiners that have a word on both sides, the ends of runs are the bits where a mask differs from
//! itself shifted by one.

use wide::u8x16;

use super::{Sink, chunk, fold, fold::three_bytes, is_simple, terms};

/// Collects text and cuts it in bulk. Every text it was given has reached the sink after [`Lexer::flush`].
#[derive(Default)]
pub(crate) struct Lexer {
    text: Vec<u8>,
    non_ascii: bool,
}

/// Collected bytes at which the text is cut; with the tables of a block it stays in the first-level cache.
const FLUSH_BYTES: usize = 16 * 1024;
const PADDING_BYTES: usize = 2 * Block::BYTES;

impl Lexer {
    /// Adds a cell, any UTF-8.
    pub(crate) fn cell(&mut self, cell: &[u8], sink: &mut impl Sink) {
        if is_simple(cell) {
            self.simple(cell, 0);
        } else {
            // Not UTF-8 is not simple, and is rejected long before: nothing to index.
            let folded = fold(std::str::from_utf8(cell).unwrap_or_default());
            if is_simple(folded.as_bytes()) {
                self.simple(folded.as_bytes(), 0);
            } else {
                terms(&folded, sink);
            }
        }
        self.flush_if_full(sink);
    }

    /// Adds the cells of a whole record as it stands in the file, [`is_simple`], each `separator` between two of them.
    pub(crate) fn cells(&mut self, record: &[u8], separator: u8, sink: &mut impl Sink) {
        self.simple(record, separator);
        self.flush_if_full(sink);
    }

    /// The same, with the positions of the separators, since some stand inside quotes.
    pub(crate) fn cells_at(&mut self, record: &[u8], separators: impl Iterator<Item = usize>, sink: &mut impl Sink) {
        let start = self.text.len();
        self.simple(record, 0);
        for at in separators {
            self.text[start + at] = 0;
        }
        self.flush_if_full(sink);
    }

    /// Cuts all that was collected.
    pub(crate) fn flush(&mut self, sink: &mut impl Sink) {
        // Words of the next block are looked at, and hashes read 16 bytes at a time: so many zeros need no special case.
        let len = self.text.len();
        self.text.resize(len + PADDING_BYTES, 0);
        words(&self.text, len, sink);
        if self.non_ascii {
            bigrams(&self.text, sink);
        }
        self.text.clear();
        self.non_ascii = false;
    }

    fn flush_if_full(&mut self, sink: &mut impl Sink) {
        if self.text.len() >= FLUSH_BYTES {
            self.flush(sink);
        }
    }

    /// Copies text in lower case, `separator` as NUL, and a NUL behind.
    #[inline]
    fn simple(&mut self, text: &[u8], separator: u8) {
        let lower = |byte: &u8| {
            let lower = if byte.is_ascii_uppercase() { byte | 0x20 } else { *byte };
            if *byte == separator { 0 } else { lower }
        };
        self.text.extend(text.iter().map(lower));
        self.text.push(0);
        self.non_ascii |= !text.is_ascii();
    }
}

/// Masks of 64 bytes of lower-cased text, one bit a byte.
#[derive(Clone, Copy, Default)]
struct Block {
    letters: u64,
    digits: u64,
    joiners: u64,
}

impl Block {
    const BYTES: usize = 64;

    /// Masks of the 64 bytes at `base`, none where there are not so many.
    #[inline]
    fn at(text: &[u8], base: usize) -> Self {
        let mut block = Self::default();
        let Some(bytes) = text[base..].first_chunk::<{ Self::BYTES }>() else { return block };
        let (vectors, _) = bytes.as_chunks::<16>();
        for (index, vector) in vectors.iter().enumerate() {
            let vector = u8x16::from(*vector);
            let within = |first: u8, last: u8| {
                let distance = vector - u8x16::splat(first);
                distance.min(u8x16::splat(last - first)).simd_eq(distance)
            };
            let equal = |byte: u8| vector.simd_eq(u8x16::splat(byte));
            let mask = |matches: u8x16| u64::from(matches.to_bitmask()) << (index * 16);
            block.letters |= mask(within(b'a', b'z'));
            block.digits |= mask(within(b'0', b'9'));
            // , - . / stand side by side.
            block.joiners |= mask(within(b',', b'/') | equal(b':') | equal(b'@') | equal(b'_'));
        }
        block
    }

    #[inline]
    fn words(&self) -> u64 {
        self.letters | self.digits
    }
}

/// Words, numbers and codes of the first `len` bytes of lower-cased text that goes on with [`PADDING_BYTES`] zeros. Bytes
/// that are not ASCII separate.
fn words(text: &[u8], len: usize, sink: &mut impl Sink) {
    let mut next = Block::at(text, 0);
    // Of the block before: whether its last byte is of a word, and of a run.
    let (mut after_word, mut in_run) = (0, 0);
    // Where the run in progress began, and whether it has joiners in earlier blocks.
    let (mut start, mut joined_before) = (0, false);
    for base in (0..=len).step_by(Block::BYTES) {
        let block = next;
        let words = block.words();
        next = Block::at(text, base + Block::BYTES);
        let joiners = block.joiners & (words << 1 | after_word) & (words >> 1 | next.words() << 63);
        let runs = words | joiners;
        // Bits at which a run begins, or has just ended.
        let mut edges = runs ^ (runs << 1 | in_run);
        if in_run == 1 && edges != 0 {
            let end = take_lowest(&mut edges);
            if joined_before || joiners & below(end) != 0 {
                chunk::terms(text, start, base + end as usize, sink);
            } else {
                chunk::word(text, start, base + end as usize, sink);
            }
            in_run = 0;
        }
        joined_before = in_run == 1 && (joined_before || joiners != 0);
        while edges != 0 {
            let begin = take_lowest(&mut edges);
            start = base + begin as usize;
            if edges == 0 {
                joined_before = joiners & !below(begin) != 0;
                break;
            }
            let end = take_lowest(&mut edges);
            let run = below(end) & !below(begin);
            if joiners & run == 0 {
                sink.term(text, start, base + end as usize);
            } else {
                joined_run(text, base, run, joiners & run, block.letters & run, sink);
            }
        }
        after_word = words >> 63;
        in_run = runs >> 63;
    }
}

/// What [`chunk::terms`] does, for a run inside one block, whose masks tell most of it.
#[inline]
fn joined_run(text: &[u8], base: usize, run: u64, mut joiners: u64, letters: u64, sink: &mut impl Sink) {
    let (start, end) = (base + run.trailing_zeros() as usize, base + Block::BYTES - run.leading_zeros() as usize);
    let first = base + joiners.trailing_zeros() as usize;
    let decimal = letters == 0 && joiners.is_power_of_two() && text[first] == b'.';
    if decimal {
        return sink.term(text, start, end);
    }
    if text[start..end].contains(&b',') || chunk::is_time_stamp(&text[start..end]) {
        return chunk::terms(text, start, end, sink);
    }
    sink.term(text, start, end);
    let mut part = start;
    while joiners != 0 {
        let at = base + take_lowest(&mut joiners) as usize;
        sink.term(text, part, at);
        part = at + 1;
    }
    sink.term(text, part, end);
}

#[inline]
fn below(bit: u32) -> u64 {
    !(!0 << bit)
}

#[inline]
fn take_lowest(bits: &mut u64) -> u32 {
    let bit = bits.trailing_zeros();
    *bits &= *bits - 1;
    bit
}

/// Bigrams of the CJK letters in [`is_simple`] text, which takes three bytes for each.
fn bigrams(text: &[u8], sink: &mut impl Sink) {
    let mut at = 0;
    let mut run = 0;
    while let Some([first, second, third]) = text[at..].first_chunk() {
        if run == 0 && text[at..].first_chunk::<8>().is_some_and(|word| word.is_ascii()) {
            at += 8;
            continue;
        }
        if !first.is_ascii() && fold::is_simple_letter(three_bytes(*first, *second, *third)) {
            run += 1;
            at += 3;
            if run > 1 {
                sink.term(text, at - 6, at);
            }
        } else {
            if run == 1 {
                sink.term(text, at - 3, at);
            }
            run = 0;
            at += 1;
        }
    }
}
