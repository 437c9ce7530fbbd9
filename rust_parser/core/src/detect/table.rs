//! Where the table begins, and how many of its rows are its header.
//!
//! The rows below tell what a column holds; a row that does not hold it names it. Above the header stand lines that are no
//! rows: titles, units, dates, separators, with other widths or hardly a filled cell.

use std::collections::HashSet;

use super::cell_type::{CellType, trim};
use super::count;
use super::dialect::{Judged, is_comment};
use super::records::Record;
use crate::reading::Hints;

/// Rows that are looked at to know a column.
const ROWS_OF_EVIDENCE: usize = 200;
/// The most header rows that a reading can have.
const MOST_HEADER_ROWS: usize = 8;
/// Share of a column's values that must be of one kind for the column to be of that kind.
const DOMINANT: f64 = 0.7;
/// A name is shorter.
const LONG_NAME_BYTES: usize = 60;
/// Of the rows behind the table's first, so many are looked at to know that it is one.
const ROWS_BEHIND: usize = 3;

/// Evidence above which a row names the columns for certain: half a word above a column of numbers.
const SURE: f64 = 0.5;

/// Evidence of a value that is no word but of another kind than those below: a year above numbers, if it is not alone.
const ABOVE_NUMBERS: f64 = 0.3;
/// The most that words above columns of words speak for a header.
const MOST_FROM_WORDS: f64 = 0.8;

/// Words that head columns and hardly ever stand in them.
const HEADINGS: &str = "id no no. name date time code type title description address email phone url price amount quantity \
    qty count category status year month city country comment comments 순번 연번 번호 이름 성명 명칭 코드 구분 종류 주소 전화번호 날짜 \
    일자 비고 내용 단위";

/// What stands around the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) comment: Option<u8>,
    pub(super) preamble_lines: u32,
    pub(super) header_rows: u32,
}

/// The frame of the table in `text`, read as `judged` has it. What is hinted is as hinted; a hinted preamble is not in
/// `text`.
pub(super) fn find(text: &[u8], judged: &Judged, hints: &Hints) -> Frame {
    let comment = hints.comment.unwrap_or_else(|| comment_mark(text, judged));
    let is_row = |record: &&Record| comment.is_none_or(|mark| text[record.start] != mark);
    let rows: Vec<&Record> = judged.sample.records.iter().filter(is_row).collect();
    let table = Table { text, judged, rows };
    let start = if hints.preamble_lines.is_some() { 0 } else { table.start() };
    Frame {
        comment,
        preamble_lines: table.rows.get(start).map_or(0, |row| row.line),
        header_rows: hints.header_rows.unwrap_or_else(|| table.header_rows(start) as u32),
    }
}

/// `#` if lines begin with it that are no rows: most are not as wide as rows, and none is in the place of the header.
fn comment_mark(text: &[u8], judged: &Judged) -> Option<u8> {
    let records = &judged.sample.records;
    let marked: Vec<&Record> = records.iter().filter(|record| is_comment(text, record)).collect();
    let as_wide = marked.iter().filter(|record| record.width() == judged.columns).count();
    let are_notes =
        as_wide == 0 || 2 * as_wide <= marked.len() && marked.iter().all(|note| text[note.start..].starts_with(b"# "));
    (judged.columns > 1 && !marked.is_empty() && are_notes).then_some(b'#')
}

struct Table<'t> {
    text: &'t [u8],
    judged: &'t Judged,
    /// Without comments.
    rows: Vec<&'t Record>,
}

/// What the rows below say about a column.
struct Column<'t> {
    /// The kind of most of its values; `Empty` if it has none, `Text` if words of any kind.
    kind: CellType,
    /// Some of its values.
    values: HashSet<&'t [u8]>,
    mean_bytes: f64,
    /// All of its numbers are years.
    has_years: bool,
}

impl<'t> Table<'t> {
    fn kinds(&self, row: usize) -> &'t [CellType] {
        self.judged.kinds_of(self.rows[row])
    }

    fn value(&self, row: usize, column: usize) -> &'t [u8] {
        let cell = self.judged.sample.cells[self.rows[row].cells.clone()][column].clone();
        trim(&self.text[cell])
    }

    /// How many cells of a row hold something.
    fn filled(&self, row: usize) -> usize {
        self.kinds(row).iter().filter(|kind| **kind != CellType::Empty).count()
    }

    /// Whether a row is too empty to be part of the table when it stands above it.
    fn is_sparse(&self, row: usize) -> bool {
        let filled = self.filled(row);
        match self.judged.columns {
            2 if filled == 0 || self.rows[row].width() == 1 => true,
            // One of two cells: `,price` above prices is a header, `,(KRW)` above a header is not.
            2 if filled == 1 && row < MOST_HEADER_ROWS => {
                row + 1 < self.rows.len() && self.filled(row + 1) == 0 || self.is_surely_header(row + 1)
            }
            columns => columns > 2 && filled <= 1,
        }
    }

    /// The row that the table begins with.
    fn start(&self) -> usize {
        let Some(mut start) = (0..self.rows.len()).find(|&row| self.is_followed_by_rows(row)) else { return 0 };
        // An empty line ends a preamble, if what follows it is a header.
        let ends_preamble = |row: &usize| self.has_empty_line_behind(*row) && self.is_surely_header(row + 1);
        if let Some(last) = (start..self.rows.len().min(start + MOST_HEADER_ROWS)).find(ends_preamble) {
            start = last + 1;
        }
        // Rows above it that have another width only because a delimiter is missing or too many.
        let columns = self.columns_below(start, start);
        while start > 0 && !self.has_empty_line_behind(start - 1) && self.is_odd_row(start - 1, &columns) {
            start -= 1;
        }
        start
    }

    /// Whether a row is as wide as the table, and most of those behind it about as wide.
    fn is_followed_by_rows(&self, row: usize) -> bool {
        if self.rows[row].width() != self.judged.columns || self.is_sparse(row) {
            return false;
        }
        let behind = (row + 1..self.rows.len()).take(ROWS_BEHIND);
        let nearly = |row: &usize| self.rows[*row].width().abs_diff(self.judged.columns) <= 1;
        let count = behind.len();
        2 * behind.filter(nearly).count() >= count
    }

    fn has_empty_line_behind(&self, row: usize) -> bool {
        let Some(next) = self.rows.get(row + 1) else { return false };
        let between = &self.text[self.rows[row].start..next.start];
        between.ends_with(b"\r\n\r\n") || between.ends_with(b"\n\n") || between.ends_with(b"\r\r")
    }

    fn is_surely_header(&self, row: usize) -> bool {
        row < self.rows.len() && self.header_evidence(row, &self.columns_below(row + 1, row)) > SURE
    }

    /// Whether a row above the first one that fits is a row of the table or its header all the same.
    fn is_odd_row(&self, row: usize, columns: &[Column<'_>]) -> bool {
        let (width, filled) = (self.rows[row].width(), self.filled(row));
        if filled == 0 || width < 2 || 3 * width.abs_diff(columns.len()) > columns.len().max(3) {
            return false;
        }
        let kinds = self.kinds(row);
        let matches =
            kinds.iter().zip(columns).filter(|(kind, column)| kind.is_typed() && **kind == column.kind).count();
        let is_value = |kind: &CellType| matches!(kind, CellType::Number | CellType::Time | CellType::Address);
        let could_be_names = width != columns.len() && filled + 1 >= width && !kinds.iter().any(is_value);
        2 * matches >= filled || could_be_names && self.header_evidence(row, columns) > 0.0
    }

    /// How many rows from `start` on name the columns.
    fn header_rows(&self, start: usize) -> usize {
        let is_header = |row: usize| {
            let columns = self.columns_below(row + 1, row);
            let is_complete = self.rows[row].width() + 1 >= columns.len();
            let is_first = row == start && self.header_evidence(row, &columns) > 0.0;
            is_first || is_complete && self.is_clearly_header(row, &columns)
        };
        let end = self.rows.len().min(start + MOST_HEADER_ROWS);
        let mut rows = 0;
        while start + rows < end
            && (is_header(start + rows) || rows > 0 && self.is_same(start + rows, start + rows - 1))
        {
            rows += 1;
        }
        // Years over names, as in `2019,2019` over `men,women`, look like values.
        if rows == 0 && start + 1 < end && self.is_above_names(start) && is_header(start + 1) { 2 } else { rows }
    }

    /// Whether a row holds nothing but words and years.
    fn is_above_names(&self, row: usize) -> bool {
        let is_name = |(column, kind): (usize, &CellType)| match kind {
            CellType::Empty | CellType::Word | CellType::Text => true,
            _ => is_year(self.value(row, column)),
        };
        self.kinds(row).iter().enumerate().all(is_name)
    }

    fn is_same(&self, a: usize, b: usize) -> bool {
        let width = self.rows[a].width();
        width == self.rows[b].width() && (0..width).all(|column| self.value(a, column) == self.value(b, column))
    }

    /// A second header row: words, or nothing, in every column that holds values of another kind.
    fn is_clearly_header(&self, row: usize, columns: &[Column<'_>]) -> bool {
        let typed = columns.iter().filter(|column| column.kind.is_typed()).count();
        let kinds = columns.iter().zip(self.kinds(row)).filter(|(column, _)| column.kind.is_typed());
        let mut words = 0;
        for (_, kind) in kinds {
            match kind {
                CellType::Word | CellType::Text => words += 1,
                CellType::Empty => {}
                _ => return false,
            }
        }
        words > 0 && 2 * words >= typed
    }

    /// What the rows from `first` on say about each column; rows that only repeat the row `name` say nothing.
    fn columns_below(&self, first: usize, name: usize) -> Vec<Column<'t>> {
        let columns = self.judged.columns;
        // A single cell is repeated by chance, unless the copies stand one below the other.
        let repeats = |row: usize| {
            let is_near = row < name + MOST_HEADER_ROWS && (name..row).all(|above| self.is_same(above, name));
            self.is_same(row, name) && (columns > 1 || is_near)
        };
        let is_evidence = |row: &usize| self.rows[*row].width() == columns && !repeats(*row);
        let rows: Vec<usize> = (first..self.rows.len()).filter(is_evidence).take(ROWS_OF_EVIDENCE).collect();
        (0..columns).map(|column| self.column(column, &rows)).collect()
    }

    fn column(&self, column: usize, rows: &[usize]) -> Column<'t> {
        let mut counts = [(CellType::Empty, 0_u32); 10];
        let mut values = HashSet::new();
        let (mut present, mut bytes, mut years) = (0_u32, 0, 0);
        for &row in rows {
            let kind = self.kinds(row)[column];
            if !kind.is_present() {
                continue;
            }
            let value = self.value(row, column);
            counts[kind as usize] = (kind, counts[kind as usize].1 + 1);
            present += 1;
            bytes += value.len();
            years += u32::from(is_year(value));
            values.insert(value);
        }
        let (most, times) = counts.into_iter().max_by_key(|(_, times)| *times).unwrap_or_default();
        let kind = match most {
            _ if present == 0 => CellType::Empty,
            kind if f64::from(times) >= DOMINANT * f64::from(present) => kind,
            _ => CellType::Text,
        };
        Column {
            kind,
            values,
            mean_bytes: count(bytes) / f64::from(present.max(1)),
            has_years: present > 0 && years == present,
        }
    }

    /// For (above 0) or against a row's being the header of the rows below it. However many words it has: one value above
    /// values of its kind outweighs them, since words may stand above words in any row.
    fn header_evidence(&self, row: usize, columns: &[Column<'_>]) -> f64 {
        let mut seen = HashSet::new();
        let (mut evidence, mut words) = (0.0, 0.0);
        let names_years =
            self.kinds(row).iter().enumerate().filter(|(at, _)| is_year(self.value(row, *at))).count() > 1;
        for (column, below) in columns.iter().enumerate().take(self.rows[row].width()) {
            let (kind, value) = (self.kinds(row)[column], self.value(row, column));
            if !value.is_empty() && !seen.insert(value) {
                evidence -= 0.5;
            }
            let name = if names_years && is_year(value) && !below.has_years {
                ABOVE_NUMBERS
            } else {
                name_evidence(kind, value, below)
            };
            if below.kind.is_typed() || !(0.0..1.0).contains(&name) { evidence += name } else { words += name }
        }
        evidence + f64::min(words, MOST_FROM_WORDS)
    }
}

/// For or against a cell's being the name of the column below it.
fn name_evidence(kind: CellType, name: &[u8], column: &Column<'_>) -> f64 {
    use CellType::{Address, Boolean, Empty, Missing, Number, Text, Time, Word};
    if is_heading(name) {
        return 1.0;
    }
    match (kind, column.kind) {
        (Empty, _) => 0.0,
        (Missing, _) => -0.3,
        (kind, below) if below.is_typed() && kind == below => -1.0,
        (Word | Text, below) if below.is_typed() => 1.0,
        (kind, below) if below.is_typed() && kind.is_typed() => ABOVE_NUMBERS,
        (_, below) if below.is_typed() => 0.5,
        (Number | Time | Address | Boolean, _) => -0.7,
        _ if column.values.contains(name) => -1.0,
        _ if name.len() > LONG_NAME_BYTES => -0.5,
        _ if column.mean_bytes > 3.0 * count(name.len()) => 0.4,
        _ => 0.1,
    }
}

fn is_heading(name: &[u8]) -> bool {
    HEADINGS.split(' ').any(|heading| name.eq_ignore_ascii_case(heading.as_bytes()))
}

fn is_year(value: &[u8]) -> bool {
    matches!(value, [b'1', b'9', _, _] | [b'2', b'0', _, _]) && value.iter().all(u8::is_ascii_digit)
}
