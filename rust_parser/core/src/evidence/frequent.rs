//! How often values stand in one batch of a column: exact while they are few, bounded when they are many.
//!
//! The first different values go into a *table* that counts them exactly. When it is full, the others share *counters* by
//! their hash; a counter bounds how often each of its values stood. A table that hardly any value comes back to is given
//! up: its counts go to the counters too. When a counter then rises far more than chance explains, a value has become
//! frequent, and a new table begins; what a value's counter had by then is how far its count may be wrong.

use super::value::{HEAD_BYTES, Value};

/// What became of a value that was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// In the table, again: [`Frequent::each_row`] will tell how often.
    Again,
    /// In the table, for the first time.
    Entered,
    /// Not in the table; to be given to [`Frequent::count_other`].
    Other,
}

/// A value with bounds of its count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bounded {
    pub(super) text: Vec<u8>,
    /// How often it stands at most.
    pub(super) count: u64,
    /// How far `count` may be too high.
    pub(super) error: u64,
}

/// Counts of one column and batch.
pub(super) struct Frequent {
    /// A power of two of rows, at most half of them in use.
    table: Vec<Row>,
    /// Texts of the table's values behind their heads.
    tails: Vec<u8>,
    rows_used: usize,
    max_rows_used: usize,
    state: State,
    /// Values since the table was full that it held, and that it did not; behind a table given up: of its whole time.
    found: u64,
    others: u64,
    /// By the hash, all of the same weight; empty until there is another value.
    counters: Vec<u32>,
    /// Others, and the largest counter, when the counters were looked at last.
    others_before: u64,
    most_before: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// New values enter the table.
    Open,
    /// The table is full.
    Full,
    /// The table is empty and does not count.
    GivenUp,
}

#[derive(Clone, Copy, Default)]
struct Row {
    head: u128,
    len: u32,
    /// 0: free.
    count: u32,
    /// Where its text behind the head begins.
    tail: u32,
    /// How often it may have stood before it entered.
    error: u32,
}

const FIRST_ROWS: usize = 32;
/// Others after which a full table must have shown its use, and after which the counters are looked at.
const TRIAL_OTHERS: u64 = 1_024;
const LOOK_OTHERS: u64 = 4_096;
/// A table is of use where it holds one of so many values; a value that is as frequent is noticed without one.
const USEFUL_SHARE: u64 = 16;
/// Tails of a table may take so much a row.
const TAIL_BYTES_PER_ROW: usize = 64;

impl Frequent {
    /// One with a table of up to `rows` rows (a power of two from 32), half of which can be used.
    pub(super) fn new(rows: usize) -> Self {
        Self {
            table: vec![Row::default(); FIRST_ROWS.min(rows)],
            tails: Vec::new(),
            rows_used: 0,
            max_rows_used: rows / 2,
            state: State::Open,
            found: 0,
            others: 0,
            counters: Vec::new(),
            others_before: 0,
            most_before: 0,
        }
    }

    /// Whether values are looked up at all.
    #[inline]
    pub(super) fn has_table(&self) -> bool {
        self.state != State::GivenUp
    }

    /// Counts a value that is all in its head, if it is in the table at the first look: most are that ever are.
    #[inline]
    pub(super) fn count_short(&mut self, head: u128, len: u32, hash: u64) -> bool {
        let at = hash as usize & (self.table.len() - 1);
        let row = &mut self.table[at];
        // A free row has no length, and no value has none.
        let is_here = row.head == head && row.len == len && len as usize <= HEAD_BYTES;
        if is_here {
            row.count += 1;
            self.found += 1;
        }
        is_here
    }

    /// Looks a value up, and counts it where it is in the table or enters it.
    #[inline]
    pub(super) fn look_up(&mut self, value: &Value<'_>) -> Counted {
        let at = self.find(value);
        let row = &mut self.table[at];
        if row.count > 0 {
            row.count += 1;
            self.found += 1;
            return Counted::Again;
        }
        if self.state == State::Open {
            self.enter(at, value);
            return Counted::Entered;
        }
        Counted::Other
    }

    /// Counts values that are not in the table, by their hashes.
    #[inline]
    pub(super) fn count_others(&mut self, hashes: &[u64]) {
        if self.counters.is_empty() {
            self.counters.resize(self.max_rows_used, 0);
        }
        self.others += hashes.len() as u64;
        let mask = self.counters.len() - 1;
        for hash in hashes {
            self.counters[counter(*hash) & mask] += 1;
        }
    }

    /// Whether the table is of no use any more; then it is to be given up.
    #[inline]
    pub(super) fn has_useless_table(&self) -> bool {
        self.state == State::Full && self.others >= TRIAL_OTHERS && self.found * (USEFUL_SHARE - 1) < self.others
    }

    /// Hands out the table's values with their counts, and gives it up.
    pub(super) fn give_up_table(&mut self, take: impl FnMut(&[u8], u64)) {
        self.each_row(take);
        let mask = self.counters.len() - 1;
        let mut text = Vec::new();
        for row in self.table.iter().filter(|row| row.count > 0) {
            row_text(row, &self.tails, &mut text);
            self.counters[counter(Value::of(&text).hash) & mask] += row.count;
        }
        self.clear_table();
        self.state = State::GivenUp;
        (self.others_before, self.most_before) = (self.others, self.most_others());
    }

    /// Begins a new table when a value among the others has become frequent.
    #[inline]
    pub(super) fn notice_frequent(&mut self) {
        if self.state == State::GivenUp && self.others - self.others_before >= LOOK_OTHERS {
            let (most, more) = (self.most_others(), self.others - self.others_before);
            if u64::from(most - self.most_before) > more / USEFUL_SHARE {
                self.state = State::Open;
                self.others = 0;
            }
            (self.others_before, self.most_before) = (self.others, most);
        }
    }

    /// Gives each value of the table with its count.
    pub(super) fn each_row(&self, mut take: impl FnMut(&[u8], u64)) {
        let mut text = Vec::new();
        for row in self.table.iter().filter(|row| row.count > 0) {
            row_text(row, &self.tails, &mut text);
            take(&text, row.count.into());
        }
    }

    /// Takes the table's values with their bounds, in no order, and how often any other value stands at most; is empty then.
    pub(super) fn take(&mut self) -> (Vec<Bounded>, u64) {
        let mut all = Vec::with_capacity(self.rows_used);
        let mut text = Vec::new();
        for row in self.table.iter().filter(|row| row.count > 0) {
            row_text(row, &self.tails, &mut text);
            let (count, error) = (u64::from(row.count), u64::from(row.error));
            all.push(Bounded { text: text.clone(), count: count + error, error });
        }
        let others = self.most_others().into();
        self.counters.clear();
        self.clear_table();
        self.state = State::Open;
        self.others = 0;
        (all, others)
    }

    fn most_others(&self) -> u32 {
        self.counters.iter().copied().max().unwrap_or(0)
    }

    fn clear_table(&mut self) {
        self.table.truncate(FIRST_ROWS);
        self.table.fill(Row::default());
        self.tails.clear();
        (self.rows_used, self.found) = (0, 0);
    }

    /// The row of a value, or the free one where it belongs.
    #[inline]
    fn find(&self, value: &Value<'_>) -> usize {
        let mask = self.table.len() - 1;
        let mut at = value.hash as usize & mask;
        loop {
            let row = &self.table[at];
            let same = row.head == value.head && row.len == value.len();
            if same && (value.text.len() <= HEAD_BYTES || self.has_tail(row, value)) || row.count == 0 {
                return at;
            }
            at = (at + 1) & mask;
        }
    }

    #[inline]
    fn has_tail(&self, row: &Row, value: &Value<'_>) -> bool {
        let tail = value.tail();
        self.tails[row.tail as usize..][..tail.len()] == *tail
    }

    #[cold]
    fn enter(&mut self, at: usize, value: &Value<'_>) {
        let tail = self.tails.len() as u32;
        self.tails.extend_from_slice(value.tail());
        let mask = self.counters.len().saturating_sub(1);
        let error = self.counters.get(counter(value.hash) & mask).copied().unwrap_or(0);
        self.table[at] = Row { head: value.head, len: value.len(), count: 1, tail, error };
        self.rows_used += 1;
        if self.rows_used == self.max_rows_used || self.tails.len() >= self.max_rows_used * TAIL_BYTES_PER_ROW {
            self.state = State::Full;
            (self.found, self.others) = (0, 0);
        } else if self.rows_used * 2 > self.table.len() {
            self.grow();
        }
    }

    fn grow(&mut self) {
        let rows = vec![Row::default(); self.table.len() * 2];
        let mask = rows.len() - 1;
        let mut text = Vec::new();
        for row in std::mem::replace(&mut self.table, rows).iter().filter(|row| row.count > 0) {
            row_text(row, &self.tails, &mut text);
            let mut at = Value::of(&text).hash as usize & mask;
            while self.table[at].count > 0 {
                at = (at + 1) & mask;
            }
            self.table[at] = *row;
        }
    }
}

/// The bits of a hash that name its counter: others than those that name its row.
#[inline]
fn counter(hash: u64) -> usize {
    (hash >> 32) as usize
}

fn row_text(row: &Row, tails: &[u8], text: &mut Vec<u8>) {
    let len = row.len as usize;
    text.clear();
    text.extend_from_slice(&row.head.to_le_bytes()[..len.min(HEAD_BYTES)]);
    text.extend_from_slice(&tails[row.tail as usize..][..len.saturating_sub(HEAD_BYTES)]);
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_count_lies_within_its_bounds(
            texts in proptest::collection::vec((0..2_000_u32, 1..60_usize, 1..4_u32), 0..3_000),
            long in any::<bool>(),
            repeats in prop_oneof![Just(1_u32), Just(20)],
        ) {
            let mut frequent = Frequent::new(64);
            let mut counts: HashMap<Vec<u8>, u64> = HashMap::new();
            let mut drained: HashMap<Vec<u8>, u64> = HashMap::new();
            let mut others = 0_u64;
            for (number, modulus, times) in texts {
                let prefix = if long { "a value that is longer than sixteen bytes " } else { "" };
                let text = format!("{prefix}{}", number % modulus as u32).into_bytes();
                for _ in 0..times * repeats {
                    *counts.entry(text.clone()).or_default() += 1;
                    others += u64::from(count(&mut frequent, &text, &mut drained));
                }
            }
            frequent.each_row(|text, count| *drained.entry(text.to_vec()).or_default() += count);
            prop_assert_eq!(others + drained.values().sum::<u64>(), counts.values().sum::<u64>());
            let (bounded, others) = frequent.take();
            for Bounded { text, count, error } in &bounded {
                let exact = counts.remove(text).unwrap_or(0);
                prop_assert!((count - error..=*count).contains(&exact), "{exact} not in {count} - {error}");
            }
            prop_assert!(counts.values().all(|count| *count <= others));
            prop_assert_eq!(frequent.take(), (Vec::new(), 0));
        }
    }

    /// Counts one value as a column does; whether it is one of the others.
    fn count(frequent: &mut Frequent, text: &[u8], drained: &mut HashMap<Vec<u8>, u64>) -> bool {
        let value = Value::of(text);
        let is_other = !frequent.has_table() || frequent.look_up(&value) == Counted::Other;
        if is_other {
            frequent.count_others(&[value.hash]);
        }
        if frequent.has_useless_table() {
            frequent.give_up_table(|text, count| *drained.entry(text.to_vec()).or_default() += count);
        }
        frequent.notice_frequent();
        is_other
    }

    #[test]
    fn a_frequent_value_is_known_however_many_others_there_are_and_however_late_it_comes() {
        for (first, exact) in [(0, 25_000), (50_000, 12_500)] {
            let mut frequent = Frequent::new(1_024);
            for number in 0..100_000 {
                let often = number >= first && number % 4 == 0;
                let text = if often { "often".to_owned() } else { number.to_string() };
                count(&mut frequent, text.as_bytes(), &mut HashMap::new());
            }
            let (bounded, others) = frequent.take();
            let often = bounded.iter().find(|bounded| bounded.text == b"often").unwrap();
            assert!((often.count - often.error..=often.count).contains(&exact), "{often:?}");
            assert!(often.error < 3_000, "{often:?}");
            assert!(others < 3_000, "{others}");
        }
    }
}
