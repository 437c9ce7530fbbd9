//! One column of the open batch: cells in, [`Facts`] out.
//!
//! Cells are taken in blocks, and each step runs over the whole block before the next one, so that its few instructions
//! overlap from cell to cell. First every value is looked up in the table of frequent ones: a value that is there costs its
//! hash, a comparison and a count, since all else that is told of a value does not depend on how often it stands; the sum
//! alone is made up when the table is read out. What is left is new: numbers are read, heads compared, hashes counted.

use super::facts::{Facts, Top};
use super::fits::{self, Fits};
use super::frequent::{Counted, Frequent};
use super::number::{self, Decimal, POWERS, Short};
use super::value::{HEAD_BYTES, KEPT_BYTES, Value, long_hash, masked, order, short_hash};

/// Where a cell lies in the collected text.
#[derive(Clone, Copy)]
pub(super) struct Cell {
    pub(super) start: u32,
    pub(super) len: u32,
}

/// Cells of a block.
const BLOCK_CELLS: usize = 256;

/// Values of a block, one array a property.
pub(super) struct Block {
    heads: [u128; BLOCK_CELLS],
    hashes: [u64; BLOCK_CELLS],
    cells: [Cell; BLOCK_CELLS],
    len: usize,
    has_long: bool,
}

impl Block {
    pub(super) fn new() -> Self {
        Self {
            heads: [0; BLOCK_CELLS],
            hashes: [0; BLOCK_CELLS],
            cells: [Cell { start: 0, len: 0 }; BLOCK_CELLS],
            len: 0,
            has_long: false,
        }
    }

    /// Takes the cells that hold values of at most [`KEPT_BYTES`], which lie in `text` with [`HEAD_BYTES`] behind them.
    #[inline]
    fn gather(&mut self, text: &[u8], cells: impl Iterator<Item = Cell>) -> Gathered {
        let mut len = 0;
        let mut gathered = Gathered { cells: 0, bytes: 0, longest: 0 };
        for cell in cells.take(BLOCK_CELLS) {
            let head = text[cell.start as usize..].first_chunk().map_or(0, |head| u128::from_le_bytes(*head));
            let head = masked(head, cell.len as usize);
            self.heads[len] = head;
            self.hashes[len] = short_hash(head, cell.len);
            self.cells[len] = cell;
            len += usize::from(cell.len.wrapping_sub(1) < KEPT_BYTES as u32);
            gathered.cells += 1;
            gathered.bytes += u64::from(cell.len);
            gathered.longest = gathered.longest.max(cell.len);
        }
        self.len = len;
        self.has_long = gathered.longest as usize > HEAD_BYTES;
        if self.has_long {
            for (cell, hash) in self.cells[..len].iter().zip(&mut self.hashes) {
                if cell.len as usize > HEAD_BYTES {
                    *hash = long_hash(cell.text(text));
                }
            }
        }
        gathered
    }

    #[inline]
    fn value<'a>(&self, text: &'a [u8], at: usize) -> Value<'a> {
        Value { text: self.cells[at].text(text), head: self.heads[at], hash: self.hashes[at] }
    }

    /// Keeps the values for which `keeps` says so.
    #[inline]
    fn retain(&mut self, mut keeps: impl FnMut(&Self, usize) -> bool) {
        let mut kept = [0; BLOCK_CELLS];
        let mut len = 0;
        for at in 0..self.len {
            kept[len] = at as u8;
            len += usize::from(keeps(self, at));
        }
        if len < self.len {
            for (to, from) in kept[..len].iter().enumerate() {
                let from = usize::from(*from);
                self.heads[to] = self.heads[from];
                self.hashes[to] = self.hashes[from];
                self.cells[to] = self.cells[from];
            }
            self.len = len;
        }
    }
}

/// What was seen of the cells of a block.
struct Gathered {
    cells: u64,
    bytes: u64,
    longest: u32,
}

impl Cell {
    #[inline]
    fn text(self, text: &[u8]) -> &[u8] {
        &text[self.start as usize..][..self.len as usize]
    }
}

/// The open column.
pub(super) struct Column {
    facts: Facts,
    frequent: Frequent,
    /// Orders of the smallest and the largest value.
    orders: (u64, u64),
}

const NO_ORDERS: (u64, u64) = (u64::MAX, 0);
const HIGH_BITS: u128 = (u128::MAX / 0xff) << 7;

impl Column {
    /// One with so many rows in its table of values.
    pub(super) fn new(precision: u32, table_rows: usize) -> Self {
        Self { facts: Facts::new(precision), frequent: Frequent::new(table_rows), orders: NO_ORDERS }
    }

    /// Tells that the row whose cell, empty, comes next is too short to have one.
    pub(super) fn miss(&mut self) {
        self.facts.missing += 1;
    }

    /// Adds cells of `text`, which goes on for [`HEAD_BYTES`] behind the last one. The block is for any use.
    pub(super) fn add(&mut self, text: &[u8], cells: impl ExactSizeIterator<Item = Cell> + Clone, block: &mut Block) {
        let mut rest = cells;
        while rest.len() > 0 {
            let gathered = block.gather(text, rest.clone());
            self.facts.cells += gathered.cells;
            self.facts.bytes += gathered.bytes;
            self.facts.empty += gathered.cells - block.len as u64;
            self.count_block(text, block);
            if gathered.longest as usize > KEPT_BYTES {
                self.add_cut(text, rest.clone().take(BLOCK_CELLS));
            }
            rest.nth(BLOCK_CELLS - 1);
        }
    }

    /// Takes what is known, and is empty then.
    pub(super) fn take(&mut self) -> Facts {
        let facts = &mut self.facts;
        self.frequent.each_row(|text, count| add_times(facts, text, count));
        // The cells that stood for missing ones were empty.
        facts.cells -= facts.missing;
        facts.empty -= facts.missing;
        let (mut values, others) = self.frequent.take();
        values.retain(|value| !fits::is_null_like(&value.text));
        facts.top = Top::of(values, others);
        self.orders = NO_ORDERS;
        let next = Facts::new(facts.distinct.precision());
        std::mem::replace(facts, next)
    }

    fn count_block(&mut self, text: &[u8], block: &mut Block) {
        if self.frequent.has_table() {
            block.retain(|block, at| {
                if self.frequent.count_short(block.heads[at], block.cells[at].len, block.hashes[at]) {
                    return false;
                }
                let value = block.value(text, at);
                match self.frequent.look_up(&value) {
                    Counted::Again => false,
                    Counted::Entered => {
                        self.see(&value, value.text, 0);
                        false
                    }
                    Counted::Other => true,
                }
            });
        }
        if block.len == 0 {
            return;
        }
        if self.facts.fits == Fits::NONE {
            block.retain(|block, at| {
                let may_be_null_like = fits::may_be_null_like(block.heads[at] as u8);
                let is_null_like = may_be_null_like && fits::is_null_like(block.cells[at].text(text));
                self.facts.null_like += u64::from(is_null_like);
                !is_null_like
            });
        } else {
            // A day that is an integer too would be missed.
            let may_be_short = self.facts.fits.is_number() && !self.facts.fits.has(Fits::COMPACT);
            let mut short = ShortNumbers::new(self.facts.numbers.scale);
            block.retain(|block, at| {
                if may_be_short && short.read(block.heads[at], block.cells[at].len) {
                    return true;
                }
                let value = block.value(text, at);
                if self.see(&value, value.text, 1) {
                    self.frequent.count_others(&[value.hash]);
                }
                false
            });
            short.settle(&mut self.facts);
        }
        if block.len > 0 {
            self.see_texts(text, block);
            self.frequent.count_others(&block.hashes[..block.len]);
        }
        if self.frequent.has_useless_table() {
            let facts = &mut self.facts;
            self.frequent.give_up_table(|text, count| add_times(facts, text, count));
        }
        self.frequent.notice_frequent();
    }

    /// Takes in what is told of all values of a block as text.
    fn see_texts(&mut self, text: &[u8], block: &Block) {
        let (heads, hashes, cells) = (&block.heads[..block.len], &block.hashes[..block.len], &block.cells[..block.len]);
        for hash in hashes {
            self.facts.distinct.insert(*hash);
        }
        let (mut min, mut max, mut all) = (u64::MAX, 0, 0);
        for head in heads {
            let order = order(*head);
            min = min.min(order);
            max = max.max(order);
            all |= *head;
        }
        if min <= self.orders.0 || max >= self.orders.1 {
            for at in 0..block.len {
                self.see_order(order(heads[at]), cells[at].text(text));
            }
        }
        if block.has_long || all & HIGH_BITS != 0 {
            for cell in cells {
                self.see_chars(count_chars(cell.text(text)));
            }
        } else {
            let (mut shortest, mut longest) = (u32::MAX, 0);
            for cell in cells {
                shortest = shortest.min(cell.len);
                longest = longest.max(cell.len);
            }
            self.see_chars(shortest.into());
            self.see_chars(longest.into());
        }
    }

    /// Takes in the cells that are longer than what is kept of them.
    #[cold]
    fn add_cut(&mut self, text: &[u8], cells: impl Iterator<Item = Cell>) {
        for cell in cells.filter(|cell| cell.len as usize > KEPT_BYTES) {
            self.facts.empty -= 1;
            let value = Value::at(text, cell.start as usize, cell.len as usize);
            if !self.frequent.has_table() || self.frequent.look_up(&value) == Counted::Other {
                self.frequent.count_others(&[value.hash]);
            }
            self.see(&value, cell.text(text), 1);
        }
    }

    /// Takes in one value that stands `times` times; `cell` is it uncut. Whether it is a value, and not null-like.
    #[inline(never)]
    fn see(&mut self, value: &Value<'_>, cell: &[u8], times: u64) -> bool {
        if fits::is_null_like(cell) {
            self.facts.null_like += times;
            return false;
        }
        self.facts.distinct.insert(value.hash);
        self.see_order(order(value.head), value.text);
        self.see_chars(count_chars(cell));
        if self.facts.fits != Fits::NONE {
            // Nothing but text is longer than what is kept.
            let (fits, number) = if cell.len() > KEPT_BYTES { (Fits::NONE, None) } else { fits::read(cell) };
            self.facts.fits = self.facts.fits.and(fits);
            if let Some(number) = number {
                self.facts.numbers.see(number);
                self.facts.numbers.add(number, times);
            }
        }
        true
    }

    #[inline]
    fn see_order(&mut self, order: u64, text: &[u8]) {
        if order < self.orders.0 || order == self.orders.0 && text < self.facts.min.as_slice() {
            self.orders.0 = order;
            text.clone_into(&mut self.facts.min);
        }
        if order > self.orders.1 || order == self.orders.1 && text > self.facts.max.as_slice() {
            self.orders.1 = order;
            text.clone_into(&mut self.facts.max);
        }
    }

    #[inline]
    fn see_chars(&mut self, chars: u64) {
        self.facts.shortest = self.facts.shortest.min(chars);
        self.facts.longest = self.facts.longest.max(chars);
    }
}

/// Makes up for a value of the table that stands `times` times: its sum, or that there was none.
fn add_times(facts: &mut Facts, text: &[u8], times: u64) {
    if fits::is_null_like(text) {
        facts.null_like += times;
    } else if facts.fits.is_number()
        && let Some((_, number)) = number::read(text)
    {
        facts.numbers.add(number, times);
    }
}

/// Characters of UTF-8: all bytes but those that continue one.
fn count_chars(text: &[u8]) -> u64 {
    text.iter().map(|byte| u64::from(byte & 0xc0 != 0x80)).sum()
}

/// Bounds and sum of the short numbers of a block, all as integers of the same scale.
struct ShortNumbers {
    scale: u32,
    /// All their own scales, or-ed: 0 where none has a point.
    points: u32,
    min: i64,
    max: i64,
    sum: i64,
}

/// Digits that a short number may have with the scale of all: 256 of them cannot pass 64 bits.
const SHORT_DIGITS: u32 = 16;

impl ShortNumbers {
    /// Begins with the scale of those that came before.
    fn new(scale: u32) -> Self {
        Self { scale: scale.min(SHORT_DIGITS - 1), points: 0, min: i64::MAX, max: i64::MIN, sum: 0 }
    }

    /// Takes in a value that is a short number and fits beside the others; false where it does not.
    #[inline]
    fn read(&mut self, head: u128, len: u32) -> bool {
        if len as usize > HEAD_BYTES {
            return false;
        }
        let Some(short) = number::read_short(head, len) else { return false };
        let mut number = short.mantissa;
        if short.scale != self.scale && !self.rescale(&short, &mut number) {
            return false;
        }
        self.min = self.min.min(number);
        self.max = self.max.max(number);
        self.sum += number;
        self.points |= short.scale;
        true
    }

    /// Brings a number to the scale of the others; false where it does not fit. One with more digits behind the point
    /// waits for the next block, which begins with its scale.
    fn rescale(&mut self, short: &Short, number: &mut i64) -> bool {
        let fits = short.scale < self.scale && short.whole_digits + self.scale <= SHORT_DIGITS;
        if fits {
            *number *= POWERS[(self.scale - short.scale) as usize];
        }
        fits
    }

    /// Hands over what it has.
    fn settle(self, facts: &mut Facts) {
        if self.min <= self.max {
            let decimal = |number: i64| Decimal { mantissa: number.into(), scale: self.scale };
            let digits = self.min.unsigned_abs().max(self.max.unsigned_abs()).checked_ilog10().map_or(0, |log| log + 1);
            let bounds = (decimal(self.min), decimal(self.max));
            facts.numbers.see_bounds(digits.saturating_sub(self.scale), self.scale, bounds);
            facts.numbers.add_exact(decimal(self.sum));
            facts.fits = facts.fits.and(if self.points > 0 { Fits::PLAIN_DECIMAL } else { Fits::PLAIN_INTEGER });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::distinct::Distinct;
    use super::super::facts::Numbers;
    use super::*;

    /// What a column tells, by the definition of each fact.
    fn defined(cells: &[String]) -> Facts {
        let mut facts = Facts::new(11);
        facts.cells = cells.len() as u64;
        facts.empty = cells.iter().filter(|cell| cell.is_empty()).count() as u64;
        facts.null_like = cells.iter().filter(|cell| fits::NULL_LIKE.contains(&cell.as_str())).count() as u64;
        facts.bytes = cells.iter().map(|cell| cell.len() as u64).sum();
        let values = || cells.iter().filter(|cell| !cell.is_empty() && !fits::NULL_LIKE.contains(&cell.as_str()));
        for value in values() {
            let chars = value.chars().count() as u64;
            (facts.shortest, facts.longest) = (facts.shortest.min(chars), facts.longest.max(chars));
            let (fits, number) = fits::read(value.as_bytes());
            facts.fits = facts.fits.and(fits);
            if let Some(number) = number {
                facts.numbers.see(number);
                facts.numbers.add(number, 1);
            }
            facts.distinct.insert(Value::of(value.as_bytes()).hash);
        }
        facts.min = values().map(|value| Value::of(value.as_bytes()).text.to_vec()).min().unwrap_or_default();
        facts.max = values().map(|value| Value::of(value.as_bytes()).text.to_vec()).max().unwrap_or_default();
        facts
    }

    fn gathered(column: &mut Column, cells: &[String], pieces: usize) -> Facts {
        for piece in cells.chunks(cells.len().div_ceil(pieces).max(1)) {
            let mut text = piece.concat().into_bytes();
            text.extend([0; HEAD_BYTES]);
            let mut start = 0;
            let places = piece.iter().map(|cell| {
                start += cell.len() as u32;
                Cell { start: start - cell.len() as u32, len: cell.len() as u32 }
            });
            column.add(&text, places.collect::<Vec<_>>().into_iter(), &mut Block::new());
        }
        column.take()
    }

    /// A column of one kind of cells, with some of another kind among them.
    fn cells() -> impl Strategy<Value = Vec<String>> {
        let kind = || {
            prop_oneof![
                Just("-?[1-9][0-9]{0,11}"),
                Just("-?[0-9]{1,3}\\.[0-9]{1,4}"),
                Just("[0-9]{1,18}(\\.[0-9]{1,18})?"),
                Just("[1-9]{1,3}(,[0-9]{3}){0,3}"),
                Just("[1-9]e-?[0-9]"),
                Just("20[012][0-9]-0[1-9]-[12][0-9]"),
                Just("(19|20)[0-9]{2}(0[1-9]|10)(1[0-9]|20)"),
                Just("(true|FALSE|예|NULL|-|없음|)"),
                Just("[가-나a-b]{1,9}"),
                Just("value of some length [a-z]{2}"),
                Just("[xy]{250,260}"),
                Just("\\PC{1,20}"),
            ]
        };
        let column = |(many, few): (&'static str, &'static str)| {
            let cell = || prop_oneof![40 => many, 1 => few];
            prop_oneof![proptest::collection::vec(cell(), 0..40), proptest::collection::vec(cell(), 900..1_400)]
        };
        prop_oneof![3 => kind().prop_map(|kind| (kind, kind)), 2 => (kind(), kind())].prop_flat_map(column)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_column_tells_what_the_definition_tells(cells in cells(), pieces in 1..4_usize, rows in prop_oneof![Just(32), Just(1_024)]) {
            let mut column = Column::new(11, rows);
            for _ in 0..2 {
                let mut facts = gathered(&mut column, &cells, pieces);
                let mut defined = defined(&cells);
                let mut counts: HashMap<&[u8], u64> = HashMap::new();
                for cell in &cells {
                    *counts.entry(Value::of(cell.as_bytes()).text).or_default() += 1;
                }
                for top in std::mem::take(&mut facts.top).values {
                    let exact = counts[top.text.as_slice()];
                    prop_assert!((top.count - top.error..=top.count).contains(&exact), "{:?}: {}", top, exact);
                }
                if !defined.fits.is_number() {
                    // What the numbers among other values are is never told.
                    facts.numbers = Numbers::default();
                    defined.numbers = Numbers::default();
                }
                let close = (facts.numbers.float_sum - defined.numbers.float_sum).abs() <= 1e-6 * cells.len() as f64;
                prop_assert!(close, "{} {}", facts.numbers.float_sum, defined.numbers.float_sum);
                facts.numbers.float_sum = defined.numbers.float_sum;
                let sums = (facts.numbers.sum.take(), defined.numbers.sum.take());
                prop_assert!(sums.0.zip(sums.1).is_none_or(|(one, other)| one.order(other).is_eq()), "{:?}", sums);
                let bounds = (facts.numbers.bounds.take(), defined.numbers.bounds.take());
                let equal = |one: (Decimal, Decimal), other: (Decimal, Decimal)| {
                    one.0.order(other.0).is_eq() && one.1.order(other.1).is_eq()
                };
                prop_assert!(bounds.0.zip(bounds.1).is_none_or(|(one, other)| equal(one, other)), "{:?}", bounds);
                prop_assert_eq!(facts, defined);
            }
        }
    }

    #[test]
    fn cells_that_rows_are_too_short_for_are_missing_and_not_empty() {
        let mut column = Column::new(11, 32);
        column.miss();
        let facts = gathered(&mut column, &[String::new(), String::new(), "a".to_owned()], 1);
        assert_eq!((facts.cells, facts.missing, facts.empty), (2, 1, 1));
        assert_eq!(facts.distinct, {
            let mut distinct = Distinct::new(11);
            distinct.insert(Value::of(b"a").hash);
            distinct
        });
    }
}
