//! What is known of the values of a column: facts that can be joined in any order and grouping.

use std::collections::BTreeMap;

use super::distinct::Distinct;
use super::fits::Fits;
use super::frequent::Bounded;
use super::number::{Decimal, Number};

/// All that is known of one column. A *value* is a cell that is neither empty nor null-like.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Facts {
    /// Cells, the missing ones not counted.
    pub(super) cells: u64,
    pub(super) missing: u64,
    pub(super) empty: u64,
    pub(super) null_like: u64,
    /// Bytes of all cells.
    pub(super) bytes: u64,
    pub(super) fits: Fits,
    /// Characters of the shortest and the longest value.
    pub(super) shortest: u64,
    pub(super) longest: u64,
    /// Smallest and largest value by its bytes, cut; empty without a value.
    pub(super) min: Vec<u8>,
    pub(super) max: Vec<u8>,
    pub(super) numbers: Numbers,
    pub(super) distinct: Distinct,
    pub(super) top: Top,
}

impl Facts {
    pub(super) fn new(precision: u32) -> Self {
        Self {
            cells: 0,
            missing: 0,
            empty: 0,
            null_like: 0,
            bytes: 0,
            fits: Fits::ALL,
            shortest: u64::MAX,
            longest: 0,
            min: Vec::new(),
            max: Vec::new(),
            numbers: Numbers::default(),
            distinct: Distinct::new(precision),
            top: Top::default(),
        }
    }

    /// Cells that are neither empty nor null-like.
    pub(super) fn values(&self) -> u64 {
        self.cells.saturating_sub(self.empty).saturating_sub(self.null_like)
    }

    /// Takes in what is known of other rows.
    pub(super) fn merge(&mut self, other: Self) {
        self.cells = self.cells.saturating_add(other.cells);
        self.missing = self.missing.saturating_add(other.missing);
        self.empty = self.empty.saturating_add(other.empty);
        self.null_like = self.null_like.saturating_add(other.null_like);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.fits = self.fits.and(other.fits);
        self.shortest = self.shortest.min(other.shortest);
        self.longest = self.longest.max(other.longest);
        if self.min.is_empty() || !other.min.is_empty() && other.min < self.min {
            self.min = other.min;
        }
        if other.max > self.max {
            self.max = other.max;
        }
        self.numbers.merge(&other.numbers);
        self.distinct.merge(&other.distinct);
        self.top.merge(other.top);
    }
}

/// Bounds and sum of those values that are numbers. They mean something only where all values are.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Numbers {
    /// Most digits before the point, a lone zero not counted, and behind it.
    pub(super) whole_digits: u32,
    pub(super) scale: u32,
    /// Smallest and largest number without an exponent.
    pub(super) bounds: Option<(Decimal, Decimal)>,
    /// Sum of the numbers without an exponent; `None` when 128 bits could not hold it, and `float_sum` has it.
    pub(super) sum: Option<Decimal>,
    /// The same of the numbers with an exponent; infinite in the other direction where there is none.
    pub(super) float_bounds: (f64, f64),
    pub(super) float_sum: f64,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            whole_digits: 0,
            scale: 0,
            bounds: None,
            sum: Some(Decimal::ZERO),
            float_bounds: (f64::INFINITY, f64::NEG_INFINITY),
            float_sum: 0.0,
        }
    }
}

impl Numbers {
    /// Whether some number has an exponent.
    pub(super) fn has_floats(&self) -> bool {
        self.float_bounds.0 <= self.float_bounds.1
    }

    /// Takes in the bounds and digits of one number.
    pub(super) fn see(&mut self, number: Number) {
        match number {
            Number::Exact(decimal) => {
                let digits = decimal.mantissa.unsigned_abs().checked_ilog10().map_or(0, |digits| digits + 1);
                self.see_bounds(digits.saturating_sub(decimal.scale), decimal.scale, (decimal, decimal));
            }
            Number::Float(number) => {
                self.float_bounds = (self.float_bounds.0.min(number), self.float_bounds.1.max(number));
            }
        }
    }

    /// Takes in digits and bounds of several numbers without exponents.
    pub(super) fn see_bounds(&mut self, whole_digits: u32, scale: u32, (low, high): (Decimal, Decimal)) {
        self.whole_digits = self.whole_digits.max(whole_digits);
        self.scale = self.scale.max(scale);
        self.bounds = Some(match self.bounds {
            None => (low, high),
            Some((min, max)) => {
                (if low.order(min).is_lt() { low } else { min }, if high.order(max).is_gt() { high } else { max })
            }
        });
    }

    /// Adds a number that stands `times` times.
    pub(super) fn add(&mut self, number: Number, times: u64) {
        match number {
            Number::Exact(decimal) => match decimal.times(times) {
                Some(product) => self.add_exact(product),
                None => self.lose_exact_sum(decimal.to_f64() * times as f64),
            },
            Number::Float(number) => self.float_sum += number * times as f64,
        }
    }

    pub(super) fn add_exact(&mut self, decimal: Decimal) {
        match self.sum.map(|sum| sum.plus(decimal)) {
            Some(Some(sum)) => self.sum = Some(sum),
            _ => self.lose_exact_sum(decimal.to_f64()),
        }
    }

    fn lose_exact_sum(&mut self, more: f64) {
        self.float_sum += self.sum.take().map_or(0.0, Decimal::to_f64) + more;
    }

    fn merge(&mut self, other: &Self) {
        if let Some(bounds) = other.bounds {
            self.see_bounds(other.whole_digits, other.scale, bounds);
        }
        match other.sum {
            Some(sum) => self.add_exact(sum),
            None => self.lose_exact_sum(0.0),
        }
        self.float_sum += other.float_sum;
        self.float_bounds =
            (self.float_bounds.0.min(other.float_bounds.0), self.float_bounds.1.max(other.float_bounds.1));
    }
}

/// Values that are known to be frequent, and how often any other one can be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Top {
    /// By falling count, then by rising error and text.
    pub(super) values: Vec<Bounded>,
    /// How often a value that is not among them stands at most; 0: there is none.
    pub(super) others: u64,
}

/// Values kept; more than are told, so that a value that is frequent in the whole is kept where it is not.
pub(super) const KEPT_VALUES: usize = 64;
/// Those beyond the told ones are kept only within this many bytes.
const KEPT_VALUES_BYTES: usize = 1_024;
/// Most values that a profile tells.
pub(super) const TOLD_VALUES: usize = 16;

impl Top {
    /// The best of these; any other value stands at most `others` times.
    pub(super) fn of(mut values: Vec<Bounded>, others: u64) -> Self {
        values.sort_unstable_by(|one, other| {
            other.count.cmp(&one.count).then(one.error.cmp(&other.error)).then_with(|| one.text.cmp(&other.text))
        });
        let mut bytes = 0;
        let kept = values.iter().enumerate().take_while(|(number, value)| {
            bytes += value.text.len();
            *number < TOLD_VALUES || *number < KEPT_VALUES && bytes <= KEPT_VALUES_BYTES
        });
        let kept = kept.count();
        let others = values.get(kept).map_or(others, |dropped| others.max(dropped.count));
        values.truncate(kept);
        Self { values, others }
    }

    /// Whether all values are known and counted exactly.
    pub(super) fn is_whole(&self) -> bool {
        self.others == 0 && self.values.iter().all(|value| value.error == 0)
    }

    fn merge(&mut self, other: Self) {
        // What a side does not list stands there at most as often as its others do.
        let (here, there) = (self.others, other.others);
        let mut joined: BTreeMap<Vec<u8>, [(u64, u64); 2]> = BTreeMap::new();
        for (side, values) in [std::mem::take(&mut self.values), other.values].into_iter().enumerate() {
            for Bounded { text, count, error } in values {
                joined.entry(text).or_insert([(here, here), (there, there)])[side] = (count, error);
            }
        }
        let joined = joined.into_iter().map(|(text, [here, there])| Bounded {
            text,
            count: here.0.saturating_add(there.0),
            error: here.1.saturating_add(there.1),
        });
        *self = Self::of(joined.collect(), here.saturating_add(there));
    }
}
