//! Which marks separate a file's cells: every candidate reads the head, and the best reading wins.
//!
//! A reading is good if its rows are even, if its cells are values of some kind, each column of one, and if its quotes stand
//! where quotes belong. The score is the product of these, as in van den Burg, Nazábal and Sutton, "Wrangling messy CSV
//! files by detecting row and type patterns" (2019), with three differences: one odd row costs its share and not half of
//! the score; columns count too; and a table of one column is a candidate like the others, since a column of sentences
//! must not be cut at its commas.

use std::ops::Range;

use memchr::{memchr, memchr_iter};

use super::cell_type::{CellType, cell_type};
use super::count;
use super::records::{Marks, Record, Sample, read};
use crate::reading::Hints;

/// Candidates in the order in which they are preferred where nothing else tells, and how much their bytes speak for them:
/// blanks, colons and hyphens stand inside values too.
const DELIMITERS: [(u8, f64); 10] = [
    (b',', 1.0),
    (b';', 1.0),
    (b'\t', 1.0),
    (b'|', 1.0),
    (0x01, 1.0),
    (0x1F, 1.0),
    (b'~', 0.9),
    (b'^', 0.9),
    (b':', 0.6),
    (b' ', 0.7),
];
/// The delimiter of a table of one column with commas in it: the unit separator, which text does not hold.
const NOWHERE: u8 = 0x1F;
/// Blanks between words only, without a column of another kind, are rather the blanks of prose.
const BLANKS_IN_PROSE: f64 = 0.4;
/// A comma and a blank between words, not the same number in each line, is rather the comma of prose: `Kim, Minsu` below
/// `name`. So little less that a table of three columns with one odd row still wins.
const LISTS_IN_PROSE: f64 = 0.66;
/// Blanks that stand beside quotes, and quotes nowhere else, are marks.
const BLANKS_BESIDE_QUOTES: f64 = 0.85;
/// Quotes are text only if no other reading is much good.
const NO_QUOTES: f64 = 0.9;
/// `1,234` where every cell but the first of its row has three digits is rather one number than two.
const GROUPED_DIGITS: f64 = 0.6;
/// Share of delimiters with a blank behind from which on blanks are tried as no part of cells.
const BLANKS_WORTH_TRYING: f64 = 0.3;
/// Share of cells that begin with a blank from which on blanks belong to the delimiter.
const BLANKS_ARE_MARKS: f64 = 0.9;
/// Share of the most frequent width's rows from which on another width is as good.
const ABOUT_AS_FREQUENT: f64 = 0.7;
/// Small enough to decide between equals only.
const NUDGE: f64 = 0.01;
/// A row above or below the table is that much of an uneven row.
const OUTSIDE: f64 = 0.3;
/// A row that is one cell too wide or too narrow is that much of a row.
const NEARLY_A_ROW: f64 = 0.3;

/// A reading of the head and how good it is.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) marks: Marks,
    /// 0 to 1; only comparable within one file.
    pub(super) score: f64,
    pub(super) sample: Sample,
    /// The kind of each cell of `sample`.
    pub(super) types: Vec<CellType>,
    /// How many cells most rows have; 0 without rows.
    pub(super) columns: usize,
}

/// The best reading of `text` that agrees with the hints, and the next best.
pub(super) fn find(text: &[u8], is_whole: bool, hints: &Hints) -> (Judged, Option<(Marks, f64)>) {
    let mut candidates = candidates(text, hints).into_iter();
    let first = candidates.next().unwrap_or(DEFAULT);
    let mut best = judge(text, first, is_whole);
    let mut next: Option<(Marks, f64)> = None;
    for marks in candidates {
        let judged = judge(text, marks, is_whole);
        let beaten = if judged.score > best.score {
            let beaten = (best.marks, best.score);
            best = judged;
            beaten
        } else {
            (judged.marks, judged.score)
        };
        if next.is_none_or(|(_, score)| beaten.1 > score) {
            next = Some(beaten);
        }
    }
    (best, next)
}

/// What a file is read with that tells nothing.
const DEFAULT: Marks = Marks { delimiter: b',', quote: Some(b'"'), escape: None, trims_blanks: false };

/// What may be tried: marks that the text holds, those first that are preferred among equals.
fn candidates(text: &[u8], hints: &Hints) -> Vec<Marks> {
    let holds = |mark: u8| memchr(mark, text).is_some();
    // What separates nothing reads a table of one column.
    let absent = if holds(b',') { NOWHERE } else { b',' };
    // Where the text holds that mark too, it is among the others already.
    let absent = Some(absent).filter(|&mark| !holds(mark));
    let held = DELIMITERS.iter().map(|(mark, _)| *mark).filter(|&mark| holds(mark)).chain(absent);
    let delimiters: Vec<u8> = hints.delimiter.map_or_else(|| held.collect(), |delimiter| vec![delimiter]);
    let single = holds(b'\'').then_some(Some(b'\''));
    let none = holds(b'"').then_some(None);
    let tried = [Some(Some(b'"')), single, none].into_iter().flatten();
    let quotes: Vec<Option<u8>> = hints.quote.map_or_else(|| tried.collect(), |quote| vec![quote]);
    let mut all = Vec::new();
    for delimiter in delimiters {
        let blanks = match hints.trims_blanks {
            Some(trims) => vec![trims],
            None if has_blanks_behind(text, delimiter) => vec![false, true],
            None => vec![false],
        };
        for quote in quotes.iter().map(|quote| quote.filter(|&quote| quote != delimiter)) {
            let escapes = match (hints.escape, quote) {
                (Some(escape), _) => vec![escape],
                (None, Some(quote)) if memchr::memmem::find(text, &[b'\\', quote]).is_some() => vec![None, Some(b'\\')],
                _ => vec![None],
            };
            for escape in escapes {
                all.extend(blanks.iter().map(|&trims_blanks| Marks { delimiter, quote, escape, trims_blanks }));
            }
        }
    }
    all
}

fn has_blanks_behind(text: &[u8], delimiter: u8) -> bool {
    if matches!(delimiter, b' ' | b'\t') {
        return false;
    }
    let (mut all, mut before_blank) = (0.0, 0.0);
    for at in memchr_iter(delimiter, text) {
        all += 1.0;
        before_blank += f64::from(text.get(at + 1) == Some(&b' '));
    }
    before_blank > 0.0 && before_blank >= BLANKS_WORTH_TRYING * all
}

fn judge(text: &[u8], marks: Marks, is_whole: bool) -> Judged {
    let sample = read(text, marks, is_whole);
    let types: Vec<CellType> = sample.cells.iter().map(|cell| cell_type(&text[cell.clone()])).collect();
    let columns = usual_width(text, &sample.records);
    let mut judged = Judged { marks, score: 0.0, sample, types, columns };
    if columns > 0 {
        let has_blanks = judged.has_blanks_everywhere(text);
        judged.score = judged.evenness(text).powi(2)
            * judged.kinds()
            * judged.quoting()
            * width_weight(columns)
            * judged.mark_weight(text, has_blanks)
            // Of readings that are else the same, the one that trims blanks just where all cells have them.
            * if marks.trims_blanks == has_blanks { 1.0 } else { 1.0 - NUDGE };
    }
    judged
}

/// The width that most rows have; of widths that are about as frequent the first one, since a second table follows the
/// first. Narrow rows count for less, so that a long preamble does not outweigh a short table.
fn usual_width(text: &[u8], records: &[Record]) -> usize {
    let rows: Vec<usize> = records.iter().filter(|record| !is_comment(text, record)).map(Record::width).collect();
    let mut counts = vec![0_u32; rows.iter().max().map_or(0, |widest| widest + 1)];
    for &width in &rows {
        counts[width] += 1;
    }
    let weight = |width: usize| f64::from(counts[width]) * if width == 1 { 0.1 } else { 1.0 - 1.0 / count(width) };
    let most = rows.iter().map(|&width| weight(width)).fold(0.0, f64::max);
    rows.into_iter().find(|&width| weight(width) >= ABOUT_AS_FREQUENT * most).unwrap_or(0)
}

/// Whether a record may be a comment, which says nothing about the table.
pub(super) fn is_comment(text: &[u8], record: &Record) -> bool {
    text[record.start] == b'#'
}

/// More columns are less likely by chance.
fn width_weight(columns: usize) -> f64 {
    count(columns) / (count(columns) + 1.0)
}

impl Judged {
    /// The kinds of a record's cells.
    pub(super) fn kinds_of(&self, record: &Record) -> &[CellType] {
        &self.types[record.cells.clone()]
    }

    /// The share of rows that are as wide as most. Those above the first and below the last such row may be a preamble, a
    /// footer, another table: they count for less.
    fn evenness(&self, text: &[u8]) -> f64 {
        let records = &self.sample.records;
        let fits = |record: &Record| record.width() == self.columns;
        let (Some(first), Some(last)) = (records.iter().position(fits), records.iter().rposition(fits)) else {
            return 0.0;
        };
        let (mut rows, mut even) = (0.0, 0.0);
        for (at, record) in records.iter().enumerate() {
            let difference = record.width().abs_diff(self.columns);
            if difference > 0 && is_comment(text, record) {
                continue;
            }
            rows += if (first..=last).contains(&at) { 1.0 } else { OUTSIDE };
            even += match difference {
                0 => 1.0,
                1 if self.columns > 2 && (first..=last).contains(&at) => NEARLY_A_ROW,
                _ => 0.0,
            };
        }
        even / rows
    }

    /// How far cells are values, and columns of one kind.
    fn kinds(&self) -> f64 {
        let values = self.types.iter().map(|kind| kind.weight()).sum::<f64>() / count(self.types.len());
        let (mut present, mut alike) = (0.0, 0.0);
        for column in 0..self.columns {
            let mut counts = [0_u32; 10];
            let rows = self.sample.records.iter().filter(|record| record.width() == self.columns);
            for kind in rows.map(|record| self.kinds_of(record)[column]).filter(|kind| kind.is_present()) {
                counts[kind as usize] += 1;
            }
            present += f64::from(counts.iter().sum::<u32>());
            alike += f64::from(counts.into_iter().max().unwrap_or(0));
        }
        let alike = if present > 0.0 { alike / present } else { 1.0 };
        values * f64::midpoint(1.0, alike)
    }

    /// How far quotes stand where quotes belong.
    fn quoting(&self) -> f64 {
        let sample = &self.sample;
        match sample.quoted_records {
            _ if self.marks.quote.is_none() => NO_QUOTES,
            0 => 1.0,
            quoted => 1.0 - count(sample.malformed_records) / count(quoted) / 2.0,
        }
    }

    /// How much the delimiter itself speaks for a table.
    fn mark_weight(&self, text: &[u8], has_blanks: bool) -> f64 {
        let weight =
            DELIMITERS.iter().find(|(mark, _)| *mark == self.marks.delimiter).map_or(1.0, |(_, weight)| *weight);
        match self.marks.delimiter {
            _ if self.columns == 1 => 1.0,
            b' ' if self.is_prose() => BLANKS_IN_PROSE,
            b' ' if self.sample.quoted_cells > 0 && self.sample.malformed_records == 0 => BLANKS_BESIDE_QUOTES,
            b',' if self.is_grouped_digits(text) => GROUPED_DIGITS,
            _ if has_blanks && self.has_words_only() && !self.is_even() => LISTS_IN_PROSE,
            _ => weight,
        }
    }

    /// Whether all cells are words and none is quoted.
    fn is_prose(&self) -> bool {
        self.sample.quoted_cells == 0 && self.has_words_only()
    }

    fn has_words_only(&self) -> bool {
        !self.types.iter().any(|kind| matches!(kind, CellType::Number | CellType::Time))
    }

    fn is_even(&self) -> bool {
        self.sample.records.iter().all(|record| record.width() == self.columns)
    }

    /// Whether all cells but the first of a row are three digits.
    fn is_grouped_digits(&self, text: &[u8]) -> bool {
        let is_group = |cell: &Range<usize>| cell.len() == 3 && text[cell.clone()].iter().all(u8::is_ascii_digit);
        let wide: Vec<&Record> = self.sample.records.iter().filter(|record| record.width() > 1).collect();
        !wide.is_empty() && wide.iter().all(|record| self.sample.cells[record.cells.clone()][1..].iter().all(is_group))
    }

    /// Whether nearly all cells but the first of a row have a blank in front.
    fn has_blanks_everywhere(&self, text: &[u8]) -> bool {
        let (mut cells, mut blank) = (0.0, 0.0);
        for record in &self.sample.records {
            for cell in &self.sample.cells[record.cells.clone()][1..] {
                // A quote stands between the blank and the cell's text.
                let is_plain = !self.marks.trims_blanks || self.marks.quote != Some(text[cell.start - 1]);
                let first = if is_plain { text.get(cell.start) } else { text.get(cell.start - 2) };
                cells += f64::from(!cell.is_empty());
                blank += f64::from(!cell.is_empty() && first == Some(&b' '));
            }
        }
        cells > 0.0 && blank >= BLANKS_ARE_MARKS * cells
    }
}
