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
    fn gather(&mut self, text: &[u8], cells: impl Iterator<Item = Cell>) {
        let mut len = 0;
        let mut longest = 0;
        for cell in cells.take(BLOCK_CELLS) {
            let head = text[cell.start as usize..].first_chunk().map_or(0, |head| u128::from_le_bytes(*head));
            let head = masked(head, cell.len as usize);
            self.heads[len] = head;
            self.hashes[len] = short_hash(head, cell.len);
            self.cells[len] = cell;
            let is_kept = cell.len.wrapping_sub(1) < KEPT_BYTES as u32;
            longest = longest.max(if is_kept { cell.len } else { 0 });
            len += usize::from(is_kept);
        }
        self.len = len;
        self.has_long = longest as usize > HEAD_BYTES;
        if self.has_long {
            for (cell, hash) in self.cells[..len].iter().zip(&mut self.hashes) {
                if cell.len as usize > HEAD_BYTES {
                    *hash = long_hash(cell.text(text));
                }
            }
        }
    }

    #[inline]
    fn value<'a>(&self, text: &'a [u8], at: usize) -> Value<'a> {
        Value { text: self.cells[at].text(text), head: self.heads[at], hash: self.hashes[at] }
    }

    /// Keeps those values for which `keep` says so; it gets their position.
    #[inline]
    fn retain(&mut self, mut keep: impl FnMut(&Self, usize) -> bool) {
        let mut kept = 0;
        for at in 0..self.len {
            let keeps = keep(self, at);
            self.heads[kept] = self.heads[at];
            self.hashes[kept] = self.hashes[at];
            self.cells[kept] = self.cells[at];
            kept += usize::from(keeps);
        }
        self.len = kept;
    }
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
    short: ShortNumbers,
}

const NO_ORDERS: (u64, u64) = (u64::MAX, 0);
const HIGH_BITS: u128 = u128::MAX / 0xff << 7;

impl Column {
    /// One with so many rows in its table of values.
    pub(super) fn new(precision: u32, table_rows: usize) -> Self {
        Self {
            facts: Facts::new(precision),
            frequent: Frequent::new(table_rows),
            orders: NO_ORDERS,
            short: ShortNumbers::default(),
        }
    }

    /// Tells that the row whose cell, empty, comes next is too short to have one.
    pub(super) fn miss(&mut self) {
        self.facts.missing += 1;
    }

    /// Adds cells of `text`, which goes on for [`HEAD_BYTES`] behind the last one. The block is for any use.
    pub(super) fn add(&mut self, text: &[u8], cells: impl ExactSizeIterator<Item = Cell> + Clone, block: &mut Block) {
        let mut rest = cells;
        while rest.len() > 0 {
            let now = rest.clone().take(BLOCK_CELLS);
            self.facts.cells += now.len() as u64;
            let (mut empty, mut bytes, mut longest) = (0, 0, 0);
            for cell in now.clone() {
                empty += u32::from(cell.len == 0);
                bytes += u64::from(cell.len);
                longest = longest.max(cell.len);
            }
            self.facts.empty += u64::from(empty);
            self.facts.bytes += bytes;
            block.gather(text, now.clone());
            self.count_block(text, block);
            if longest as usize > KEPT_BYTES {
                self.add_cut(text, now);
            }
            rest.nth(BLOCK_CELLS - 1);
        }
    }

    /// Takes what is known, and is empty then.
    pub(super) fn take(&mut self) -> Facts {
        let (facts, short) = (&mut self.facts, &mut self.short);
        self.frequent.each_row(|text, count| add_times(facts, short, text, count));
        self.short.settle(facts);
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
                let is_value = !fits::may_be_null_like(block.heads[at] as u8) || {
                    let is_null_like = fits::is_null_like(block.cells[at].text(text));
                    self.facts.null_like += u64::from(is_null_like);
                    !is_null_like
                };
                is_value
            });
        } else {
            block.retain(|block, at| {
                let is_short = self.see_short(block.heads[at], block.cells[at].len, 1).is_some();
                if !is_short {
                    let value = block.value(text, at);
                    if self.see(&value, value.text, 1) {
                        self.frequent.count_others(&[value.hash]);
                    }
                }
                is_short
            });
        }
        if block.len > 0 {
            self.see_texts(text, block);
            self.frequent.count_others(&block.hashes[..block.len]);
        }
        if self.frequent.has_useless_table() {
            let (facts, short) = (&mut self.facts, &mut self.short);
            self.frequent.give_up_table(|text, count| add_times(facts, short, text, count));
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
        if self.facts.fits != Fits::NONE && self.see_short(value.head, cell.len() as u32, times).is_none() {
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

    /// Takes in a number that stands `times` times, in a column that may be of numbers; `None` where it is not short, or
    /// might be a day.
    #[inline]
    fn see_short(&mut self, head: u128, len: u32, times: u64) -> Option<()> {
        if len as usize > HEAD_BYTES || !self.facts.fits.is_number() || self.facts.fits.has(Fits::COMPACT) {
            return None;
        }
        let short = number::read_short(head, len)?;
        self.short.add(short, times, &mut self.facts)?;
        let fits = if short.scale == 0 { Fits::PLAIN_INTEGER } else { Fits::PLAIN_DECIMAL };
        self.facts.fits = self.facts.fits.and(fits);
        Some(())
    }
}

/// Makes up for a value of the table that stands `times` times: its sum, or that there was none.
fn add_times(facts: &mut Facts, short: &mut ShortNumbers, text: &[u8], times: u64) {
    if fits::is_null_like(text) {
        facts.null_like += times;
    } else if facts.fits.is_number() {
        let value = Value::of(text);
        let read = if text.len() <= HEAD_BYTES { number::read_short(value.head, value.len()) } else { None };
        if read.and_then(|read| short.add(read, times, facts)).is_none()
            && let Some((_, number)) = number::read(text)
        {
            facts.numbers.add(number, times);
        }
    }
}

/// Characters of UTF-8: all bytes but those that continue one.
fn count_chars(text: &[u8]) -> u64 {
    text.iter().map(|byte| u64::from(byte & 0xc0 != 0x80)).sum()
}

/// Bounds and sum of short numbers in 64 bits, all with the same scale.
struct ShortNumbers {
    scale: u32,
    whole_digits: u32,
    min: i64,
    max: i64,
    sum: i128,
}

impl Default for ShortNumbers {
    fn default() -> Self {
        Self { scale: 0, whole_digits: 0, min: i64::MAX, max: i64::MIN, sum: 0 }
    }
}

impl ShortNumbers {
    /// Adds a number that stands `times` times; `None` where it does not fit beside the others.
    #[inline]
    fn add(&mut self, short: Short, times: u64, facts: &mut Facts) -> Option<()> {
        if short.scale > self.scale {
            self.settle(facts);
            self.scale = short.scale;
        }
        let number = short.mantissa.checked_mul(POWERS[(self.scale - short.scale) as usize & 15])?;
        let lone_zero =
            u32::from(short.whole_digits == 1 && number.unsigned_abs() < POWERS[self.scale as usize & 15] as u64);
        self.whole_digits = self.whole_digits.max(short.whole_digits - lone_zero);
        self.min = self.min.min(number);
        self.max = self.max.max(number);
        self.sum += i128::from(number) * i128::from(times);
        Some(())
    }

    /// Hands over what it has, and is empty then.
    #[cold]
    fn settle(&mut self, facts: &mut Facts) {
        if self.min <= self.max {
            let decimal = |number: i64| Decimal { mantissa: number.into(), scale: self.scale };
            facts.numbers.see_bounds(self.whole_digits, self.scale, (decimal(self.min), decimal(self.max)));
            facts.numbers.add_exact(Decimal { mantissa: self.sum, scale: self.scale });
        }
        *self = Self::default();
    }
}
