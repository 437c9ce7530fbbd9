//! One column of the open batch: cells in, [`Facts`] out.
//!
//! A value that comes again costs its hash, a comparison and a count. All else that is told of a value does not depend on
//! how often it stands, the sum aside, so it is done when the value is first seen; the sum is made up when the table of
//! counts is read out. Where values do not come again, a column of numbers reads most of them by [`number::read_short`].

use super::facts::{Facts, Top};
use super::fits::{self, Fits};
use super::frequent::{Counted, Frequent};
use super::number::{self, Decimal, POWERS, Short};
use super::value::{HEAD_BYTES, KEPT_BYTES, Value};

/// Where a cell lies in the collected text.
#[derive(Clone, Copy)]
pub(super) struct Cell {
    pub(super) start: u32,
    pub(super) len: u32,
}

impl Cell {
    /// A cell that its row is too short to have.
    pub(super) const MISSING: Self = Self { start: u32::MAX, len: 0 };
}

/// The open column.
pub(super) struct Column {
    facts: Facts,
    frequent: Frequent,
    /// Heads of the smallest and the largest value, as numbers.
    orders: (u128, u128),
    short: ShortNumbers,
}

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

    /// Adds cells of `text`.
    pub(super) fn add(&mut self, text: &[u8], cells: impl Iterator<Item = Cell>) {
        for cell in cells {
            if cell.len == 0 {
                if cell.start == Cell::MISSING.start {
                    self.facts.missing += 1;
                } else {
                    self.facts.empty += 1;
                }
                continue;
            }
            self.facts.cells += 1;
            self.facts.bytes += u64::from(cell.len);
            let (start, len) = (cell.start as usize, cell.len as usize);
            let value = Value::at(text, start, len);
            match self.frequent.count(&value) {
                Counted::InTable if len <= KEPT_BYTES => {}
                Counted::InTable | Counted::NewInTable => self.see_in_table(&value, &text[start..start + len]),
                Counted::Again if len <= KEPT_BYTES && !self.facts.fits.is_number() => self.see_again(&value),
                Counted::Again | Counted::Unknown => self.see(&value, &text[start..start + len]),
            }
        }
        if self.frequent.wants_drain() {
            let (facts, short) = (&mut self.facts, &mut self.short);
            self.frequent.give_up_table(|text, count| add_times(facts, short, text, count));
        }
    }

    /// Takes what is known, and is empty then.
    pub(super) fn take(&mut self) -> Facts {
        let (facts, short) = (&mut self.facts, &mut self.short);
        self.frequent.each_row(|text, count| add_times(facts, short, text, count));
        self.short.settle(&mut self.facts);
        let (mut values, others) = self.frequent.take();
        values.retain(|value| !fits::is_null_like(&value.text));
        self.facts.top = Top::of(values, others);
        self.facts.cells += self.facts.empty;
        self.orders = NO_ORDERS;
        let next = Facts::new(self.facts.distinct.precision());
        std::mem::replace(&mut self.facts, next)
    }

    /// Takes in a value whose count the table knows; `cell` is the value uncut.
    #[cold]
    fn see_in_table(&mut self, value: &Value<'_>, cell: &[u8]) {
        if !fits::is_null_like(value.text) {
            self.see_text(value, cell);
            if self.facts.fits != Fits::NONE && self.see_short(value, 0).is_none() {
                self.see_slowly(cell, 0);
            }
        }
    }

    /// Takes in one more value.
    #[inline]
    fn see(&mut self, value: &Value<'_>, cell: &[u8]) {
        if self.facts.fits == Fits::NONE {
            if fits::is_null_like(value.text) {
                self.facts.null_like += 1;
            } else {
                self.see_text(value, cell);
            }
        } else if self.see_short(value, 1).is_some() {
            self.see_text(value, cell);
        } else if fits::is_null_like(value.text) {
            self.facts.null_like += 1;
        } else {
            self.see_text(value, cell);
            self.see_slowly(cell, 1);
        }
    }

    /// Takes in a value of which only the count is new.
    #[inline]
    fn see_again(&mut self, value: &Value<'_>) {
        self.facts.null_like += u64::from(fits::is_null_like(value.text));
    }

    /// Takes in what is told of a value as text.
    #[inline]
    fn see_text(&mut self, value: &Value<'_>, cell: &[u8]) {
        self.facts.distinct.insert(value.hash);
        let chars = if value.text.len() <= HEAD_BYTES && value.head & HIGH_BITS == 0 {
            cell.len() as u64
        } else {
            count_chars(cell)
        };
        self.facts.shortest = self.facts.shortest.min(chars);
        self.facts.longest = self.facts.longest.max(chars);
        let order = value.order();
        if order <= self.orders.0 || order >= self.orders.1 {
            self.see_order(value, order);
        }
    }

    fn see_order(&mut self, value: &Value<'_>, order: u128) {
        if order < self.orders.0 || order == self.orders.0 && value.text < self.facts.min.as_slice() {
            self.orders.0 = order;
            value.text.clone_into(&mut self.facts.min);
        }
        if order > self.orders.1 || order == self.orders.1 && value.text > self.facts.max.as_slice() {
            self.orders.1 = order;
            value.text.clone_into(&mut self.facts.max);
        }
    }

    /// Takes in a number that stands `times` times, in a column that may be of numbers; `None` where it is not short, or
    /// might be a day.
    #[inline]
    fn see_short(&mut self, value: &Value<'_>, times: u64) -> Option<()> {
        if value.text.len() > HEAD_BYTES || !self.facts.fits.is_number() || self.facts.fits.has(Fits::COMPACT) {
            return None;
        }
        let short = number::read_short(value.head, value.len())?;
        self.short.add(short, times, &mut self.facts)?;
        self.facts.fits = self.facts.fits.and(short_fits(short));
        Some(())
    }

    #[inline(never)]
    fn see_slowly(&mut self, cell: &[u8], times: u64) {
        // Nothing but text is longer than what is kept.
        let (fits, number) = if cell.len() > KEPT_BYTES { (Fits::NONE, None) } else { fits::read(cell) };
        self.facts.fits = self.facts.fits.and(fits);
        if let Some(number) = number {
            self.facts.numbers.see(number);
            self.facts.numbers.add(number, times);
        }
    }
}

const NO_ORDERS: (u128, u128) = (u128::MAX, 0);
const HIGH_BITS: u128 = 0x8080_8080_8080_8080_8080_8080_8080_8080;

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

#[inline]
fn short_fits(short: Short) -> Fits {
    if short.scale == 0 { Fits::PLAIN_INTEGER } else { Fits::PLAIN_DECIMAL }
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
