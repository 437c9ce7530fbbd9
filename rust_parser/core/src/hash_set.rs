//! A set of hashes that gives its values back in order without sorting them.
//!
//! The place of a value is its highest bits, and a taken place sends it on to the next one. Values therefore stand in the
//! table almost in order: one pass collects them, and an insertion sort that moves each by a few places finishes.
//!
//! Anybody can write a file whose terms share their highest bits. A value that finds no place within [`MAX_STEPS`] goes to
//! a list that is sorted in the ordinary way, so such a file costs n log n and not n².

/// Values of 32 bits in ascending order, `i32::MIN` excluded.
pub(crate) struct HashSet {
    /// A power of two of places, and [`MAX_STEPS`] more behind, so that no search wraps around. `EMPTY`: free.
    table: Vec<u32>,
    /// Right shift that leaves the number of the place.
    shift: u32,
    len: usize,
    /// The table grows beyond this.
    max_len: usize,
    /// Values without a place, with repetitions.
    crowded_out: Vec<u32>,
}

/// `i32::MIN` with its sign turned; [`crate::lexeme::hash`] never gives that.
const EMPTY: u32 = 0;
const MAX_STEPS: usize = 64;
const MIN_PLACES_LOG2: u32 = 8;

impl Default for HashSet {
    fn default() -> Self {
        Self::with_places(MIN_PLACES_LOG2)
    }
}

impl HashSet {
    fn with_places(log2: u32) -> Self {
        Self {
            table: vec![EMPTY; (1 << log2) + MAX_STEPS],
            shift: 32 - log2,
            len: 0,
            max_len: 1 << (log2 - 1),
            crowded_out: Vec::new(),
        }
    }

    #[inline]
    pub(crate) fn insert(&mut self, hash: i32) {
        let value = turn_sign(hash);
        let first = (value >> self.shift) as usize;
        let place = &mut self.table[first];
        if takes(*place, value) {
            self.len += usize::from(*place == EMPTY);
            *place = value;
        } else {
            self.insert_behind(first, value);
        }
        if self.len > self.max_len {
            self.grow();
        }
    }

    fn insert_behind(&mut self, first: usize, value: u32) {
        for place in &mut self.table[first + 1..first + MAX_STEPS] {
            if takes(*place, value) {
                self.len += usize::from(*place == EMPTY);
                *place = value;
                return;
            }
        }
        self.crowded_out.push(value);
    }

    /// Empties the set into `values`, ascending.
    pub(crate) fn drain_into(&mut self, values: &mut Vec<i32>) {
        // One more than there are: the pass below writes each place, and goes on only behind a value.
        values.clear();
        values.resize(self.len + 1, 0);
        let mut count = 0;
        for place in &mut self.table {
            values[count] = turn_sign_back(*place);
            count += usize::from(*place != EMPTY);
            *place = EMPTY;
        }
        values.truncate(count);
        insertion_sort(values);
        if !self.crowded_out.is_empty() {
            values.extend(self.crowded_out.drain(..).map(turn_sign_back));
            values.sort_unstable();
            values.dedup();
        }
        self.len = 0;
        self.shrink_for(count);
    }

    fn places(&self) -> usize {
        self.table.len() - MAX_STEPS
    }

    #[cold]
    fn grow(&mut self) {
        let mut larger = Self::with_places(33 - self.shift);
        for value in self.table.iter().chain(&self.crowded_out).filter(|value| **value != EMPTY) {
            larger.insert(turn_sign_back(*value));
        }
        *self = larger;
    }

    /// Makes room for a next set of about `count`: a pass over a far larger table would cost more than growing.
    fn shrink_for(&mut self, count: usize) {
        let log2 = (count * 2 + 1).next_power_of_two().trailing_zeros().max(MIN_PLACES_LOG2);
        if 1 << (log2 + 1) < self.places() {
            *self = Self::with_places(log2);
        }
    }
}

/// Whether a place is free or holds the value already. One branch: which of the two it is cannot be predicted.
#[inline]
#[expect(clippy::needless_bitwise_bool, reason = "a second branch is what this avoids")]
fn takes(place: u32, value: u32) -> bool {
    (place == EMPTY) | (place == value)
}

/// Keeps the order of signed values in unsigned ones.
#[inline]
pub(crate) fn turn_sign(hash: i32) -> u32 {
    hash as u32 ^ 1 << 31
}

#[inline]
pub(crate) fn turn_sign_back(value: u32) -> i32 {
    (value ^ 1 << 31) as i32
}

/// Sorts values of which each stands at most [`MAX_STEPS`] places from its own.
fn insertion_sort(values: &mut [i32]) {
    for at in 1..values.len() {
        let value = values[at];
        let mut to = at;
        while to > 0 && values[to - 1] > value {
            values[to] = values[to - 1];
            to -= 1;
        }
        values[to] = value;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn drained(set: &mut HashSet) -> Vec<i32> {
        let mut values = vec![7; 3];
        set.drain_into(&mut values);
        values
    }

    #[test]
    fn a_million_values_with_the_same_high_bits_come_back_in_order_and_in_time() {
        let mut set = HashSet::default();
        for value in (0..1_000_000).rev() {
            set.insert(value);
            set.insert(value);
        }
        assert_eq!(drained(&mut set), (0..1_000_000).collect::<Vec<_>>());
        assert_eq!(drained(&mut set), Vec::<i32>::new());
    }

    #[test]
    fn the_ends_of_the_range_are_kept() {
        let mut set = HashSet::default();
        let values = [i32::MIN + 1, -1, 0, 1, i32::MAX - 1, i32::MAX];
        for value in values {
            set.insert(value);
        }
        assert_eq!(drained(&mut set), values);
    }

    proptest! {
        #[test]
        fn values_come_back_sorted_and_once(rounds in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![i32::MIN + 1..=i32::MAX, -40..40_i32, i32::MAX - 90..=i32::MAX], 0..2_000), 1..4)) {
            let mut set = HashSet::default();
            for values in rounds {
                for value in &values {
                    set.insert(*value);
                }
                prop_assert_eq!(drained(&mut set), values.into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>());
            }
        }
    }
}
