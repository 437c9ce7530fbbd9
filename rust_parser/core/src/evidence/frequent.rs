//! How often values stand in one batch of a column: exact while they are few, bounded when they are many.
//!
//! The first different values go into a *table* that counts them exactly. When it is full, or is of no use because hardly
//! any value comes again, the others share *places* by their hash. A place keeps one value by the rule of Misra and Gries
//! ("Finding repeated elements", 1982), taken for each place alone: another value takes one off its count, and its place
//! when nothing is left. What was taken off, `lost`, bounds both how much the place's value may have stood more often, and
//! how often any value may have stood that has neither row nor place.

use super::value::{HEAD_BYTES, KEPT_BYTES, Value};

/// What became of a value that was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// In the table, again: [`Frequent::drain_table`] will tell how often.
    InTable,
    /// In the table, for the first time.
    NewInTable,
    /// In a place that it holds already.
    Again,
    /// In a place, or nowhere.
    Unknown,
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
    /// A power of two of rows, at most half of them in use; empty when it was given up.
    table: Vec<Row>,
    /// Texts of the table's values behind their heads.
    tails: Vec<u8>,
    rows_used: usize,
    max_rows_used: usize,
    state: State,
    /// Cells since the table was full that it did not hold, and those that it held.
    missed: u32,
    found: u32,
    places: Vec<Place>,
    /// Texts of the places' values behind their heads, [`TAIL_BYTES`] a place; empty until there is one.
    place_tails: Vec<u8>,
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
    tail: u32,
}

#[derive(Clone, Copy, Default)]
struct Place {
    head: u128,
    len: u32,
    /// 0: free.
    count: u32,
    lost: u32,
}

const TAIL_BYTES: usize = KEPT_BYTES - HEAD_BYTES;
const FIRST_ROWS: usize = 32;
/// Cells not in a full table after which it must have shown its use.
const TRIAL_MISSES: u32 = 1_024;
/// The table is given up where it held less than one of so many cells.
const USEFUL_SHARE: u64 = 4;
/// Tails of a table may take so much a row.
const TAIL_BYTES_PER_ROW: usize = 64;

impl Frequent {
    /// One that keeps a table of up to `rows` rows (a power of two from 32), half of which can be used, and half as many
    /// places.
    pub(super) fn new(rows: usize) -> Self {
        Self {
            table: vec![Row::default(); FIRST_ROWS.min(rows)],
            tails: Vec::new(),
            rows_used: 0,
            max_rows_used: rows / 2,
            state: State::Open,
            missed: 0,
            found: 0,
            places: Vec::new(),
            place_tails: Vec::new(),
        }
    }

    /// Counts one value.
    #[inline]
    pub(super) fn count(&mut self, value: &Value<'_>) -> Counted {
        if self.state != State::GivenUp {
            let at = self.find(value);
            let row = &mut self.table[at];
            if row.count > 0 {
                row.count += 1;
                self.found += 1;
                return Counted::InTable;
            }
            if self.state == State::Open {
                return self.enter(at, value);
            }
            self.missed += 1;
        }
        self.count_in_place(value, 1)
    }

    /// Whether the table is of no use any more; then it must be drained.
    #[inline]
    pub(super) fn wants_drain(&self) -> bool {
        self.state == State::Full && self.missed >= TRIAL_MISSES && self.is_useless()
    }

    /// Hands out the table's values with their counts and gives the table up; what the places can keep, they keep.
    pub(super) fn give_up_table(&mut self, take: impl FnMut(&[u8], u64)) {
        self.each_row(take);
        let (table, tails) = (std::mem::take(&mut self.table), std::mem::take(&mut self.tails));
        let mut text = Vec::new();
        for row in table.iter().filter(|row| row.count > 0) {
            row_text(row, &tails, &mut text);
            self.count_in_place(&Value::of(&text), row.count);
        }
        self.table = table;
        self.tails = tails;
        self.clear_table();
        self.state = State::GivenUp;
    }

    /// Gives each value of the table with its count.
    pub(super) fn each_row(&self, mut take: impl FnMut(&[u8], u64)) {
        let mut text = Vec::new();
        for row in self.table.iter().filter(|row| row.count > 0) {
            row_text(row, &self.tails, &mut text);
            take(&text, row.count.into());
        }
    }

    /// Takes all values with their bounds, in no order, and how often any other value stands at most; is empty then.
    pub(super) fn take(&mut self) -> (Vec<Bounded>, u64) {
        let mut all = Vec::new();
        self.each_row(|text, count| all.push(Bounded { text: text.to_vec(), count, error: 0 }));
        for (number, place) in self.places.iter().enumerate().filter(|(_, place)| place.count > 0) {
            let mut text = place.head.to_le_bytes()[..HEAD_BYTES.min(place.len as usize)].to_vec();
            if place.len as usize > HEAD_BYTES {
                let tail = number * TAIL_BYTES;
                text.extend_from_slice(&self.place_tails[tail..tail + place.len as usize - HEAD_BYTES]);
            }
            let (count, lost) = (u64::from(place.count), u64::from(place.lost));
            all.push(Bounded { text, count: count + lost, error: lost });
        }
        let others = self.places.iter().map(|place| u64::from(place.lost)).max().unwrap_or(0);
        self.places.clear();
        self.clear_table();
        self.state = State::Open;
        (all, others)
    }

    fn clear_table(&mut self) {
        self.table.fill(Row::default());
        self.tails.clear();
        (self.rows_used, self.missed, self.found) = (0, 0, 0);
    }

    /// Whether too few of the cells since the trial began were in the table.
    fn is_useless(&self) -> bool {
        u64::from(self.found) * (USEFUL_SHARE - 1) < u64::from(self.missed)
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
    fn enter(&mut self, at: usize, value: &Value<'_>) -> Counted {
        let tail = self.tails.len() as u32;
        self.tails.extend_from_slice(value.tail());
        self.table[at] = Row { head: value.head, len: value.len(), count: 1, tail };
        self.rows_used += 1;
        if self.rows_used * 2 == self.table.len() || self.tails.len() >= self.max_rows_used * TAIL_BYTES_PER_ROW {
            if self.rows_used >= self.max_rows_used || self.tails.len() >= self.max_rows_used * TAIL_BYTES_PER_ROW {
                self.state = State::Full;
                (self.missed, self.found) = (0, 0);
            } else {
                self.grow();
            }
        }
        Counted::NewInTable
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

    /// Counts a value `times` times among those that share places.
    #[inline]
    fn count_in_place(&mut self, value: &Value<'_>, times: u32) -> Counted {
        if self.places.is_empty() {
            self.places.resize(self.max_rows_used, Place::default());
        }
        // Other bits than those that name its row.
        let number = (value.hash >> 32) as usize & (self.places.len() - 1);
        let place = &mut self.places[number];
        if place.head == value.head && place.len == value.len() {
            if value.text.len() <= HEAD_BYTES || has_place_tail(&self.place_tails, number, value) {
                place.count += times;
                return Counted::Again;
            }
        }
        if place.count <= times {
            place.lost += place.count.min(times);
            // Of a value that stands more often than what was taken off, the rest counts; of one that stands just as
            // often, its last sight does, so that a run of different values always finds the same branch.
            let count = (times - place.count).max(1);
            *place = Place { head: value.head, len: value.len(), count, lost: place.lost };
            if value.text.len() > HEAD_BYTES {
                self.keep_tail(number, value);
            }
        } else {
            place.count -= times;
            place.lost += times;
        }
        Counted::Unknown
    }

    fn keep_tail(&mut self, number: usize, value: &Value<'_>) {
        if self.place_tails.is_empty() {
            self.place_tails.resize(self.max_rows_used * TAIL_BYTES, 0);
        }
        let tail = value.tail();
        self.place_tails[number * TAIL_BYTES..][..tail.len()].copy_from_slice(tail);
    }
}

fn has_place_tail(tails: &[u8], number: usize, value: &Value<'_>) -> bool {
    let tail = value.tail();
    tails[number * TAIL_BYTES..][..tail.len()] == *tail
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
        ) {
            let mut frequent = Frequent::new(64);
            let mut counts: HashMap<Vec<u8>, u64> = HashMap::new();
            let mut drained: HashMap<Vec<u8>, u64> = HashMap::new();
            let mut direct = 0_u64;
            for (number, modulus, times) in texts {
                let prefix = if long { "a value that is longer than sixteen bytes " } else { "" };
                let text = format!("{prefix}{}", number % modulus as u32).into_bytes();
                for _ in 0..times {
                    *counts.entry(text.clone()).or_default() += 1;
                    if !matches!(frequent.count(&Value::of(&text)), Counted::InTable | Counted::NewInTable) {
                        direct += 1;
                    }
                    if frequent.wants_drain() {
                        frequent.give_up_table(|text, count| *drained.entry(text.to_vec()).or_default() += count);
                    }
                }
            }
            frequent.each_row(|text, count| *drained.entry(text.to_vec()).or_default() += count);
            prop_assert_eq!(direct + drained.values().sum::<u64>(), counts.values().sum::<u64>());
            let (bounded, others) = frequent.take();
            for Bounded { text, count, error } in &bounded {
                let exact = counts.remove(text).unwrap_or(0);
                prop_assert!((count - error..=*count).contains(&exact), "{exact} not in {count} - {error}");
            }
            prop_assert!(counts.values().all(|count| *count <= others));
            prop_assert_eq!(frequent.take(), (Vec::new(), 0));
        }
    }

    #[test]
    fn a_frequent_value_is_known_however_many_others_there_are() {
        let mut frequent = Frequent::new(1_024);
        for number in 0..100_000 {
            let text = if number % 4 == 0 { "often".to_owned() } else { number.to_string() };
            frequent.count(&Value::of(text.as_bytes()));
            if frequent.wants_drain() {
                frequent.give_up_table(|_, _| {});
            }
        }
        let (bounded, others) = frequent.take();
        let often = bounded.iter().find(|bounded| bounded.text == b"often").unwrap();
        assert!(often.count >= 25_000 && often.count - often.error <= 25_000 && often.error < 1_000, "{often:?}");
        assert!(others < 1_000, "{others}");
    }
}
