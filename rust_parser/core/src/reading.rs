//! How a file is read: its encoding and its dialect; what a caller has said about them, and what the file's head tells.

/// What the bytes of a file mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// No byte above 0x7F was seen so far: all encodings below but UTF-16 agree. Decided when the first one comes.
    Ascii,
    /// UTF-8.
    Utf8,
    /// UTF-16, little-endian.
    Utf16Le,
    /// UTF-16, big-endian.
    Utf16Be,
    /// CP949, the superset of EUC-KR that Windows writes in Korea (WHATWG `euc-kr`).
    Cp949,
    /// Shift-JIS as Windows writes it (WHATWG `shift_jis`, CP932).
    ShiftJis,
    /// GB18030, the superset of GBK and GB 2312.
    Gb18030,
    /// Windows-1252, the superset of Latin-1's letters: what is left for one byte a character.
    Windows1252,
}

impl Encoding {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Ascii,
        Self::Utf8,
        Self::Utf16Le,
        Self::Utf16Be,
        Self::Cp949,
        Self::ShiftJis,
        Self::Gb18030,
        Self::Windows1252,
    ];

    /// The name that callers compare with.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ascii => "ascii",
            Self::Utf8 => "utf-8",
            Self::Utf16Le => "utf-16le",
            Self::Utf16Be => "utf-16be",
            Self::Cp949 => "cp949",
            Self::ShiftJis => "shift_jis",
            Self::Gb18030 => "gb18030",
            Self::Windows1252 => "windows-1252",
        }
    }
}

/// The marks between cells, and the lines around the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// Between two cells; one ASCII byte.
    pub delimiter: u8,
    /// Around a cell that holds delimiters or line ends; `None` for files without quoting.
    pub quote: Option<u8>,
    /// Inside a quoted cell, makes a quote behind it text: `\"`, and itself; before other bytes it is text. `None`: a quote
    /// inside a quoted cell is doubled, which is read with an escape byte too.
    pub escape: Option<u8>,
    /// A line that begins with this byte is no record.
    pub comment: Option<u8>,
    /// Whether blanks around a cell, outside its quotes, are no part of it: `a, "b"`.
    pub trims_blanks: bool,
    /// Lines before the header (or the first row) that belong to no table; line ends inside quotes count.
    pub preamble_lines: u32,
    /// Records that name the columns, 0 to 8. Without them they are `column_1`, `column_2`, …
    pub header_rows: u32,
}

impl Dialect {
    /// Commas, doubled quotes, one header: <https://www.rfc-editor.org/rfc/rfc4180>.
    pub const RFC_4180: Self = Self {
        delimiter: b',',
        quote: Some(b'"'),
        escape: None,
        comment: None,
        trims_blanks: false,
        preamble_lines: 0,
        header_rows: 1,
    };

    /// Whether a byte around a cell is no part of it, where blanks are trimmed.
    pub(crate) fn is_blank(&self, byte: u8) -> bool {
        matches!(byte, b' ' | b'\t') && byte != self.delimiter
    }

    /// A cell without the blanks around it, if they are no part of it.
    pub(crate) fn trimmed<'a>(&self, cell: &'a [u8]) -> &'a [u8] {
        if !self.trims_blanks {
            return cell;
        }
        let is_text = |byte: &u8| !self.is_blank(*byte);
        let start = cell.iter().position(is_text).unwrap_or(cell.len());
        let end = cell.iter().rposition(is_text).map_or(start, |last| last + 1);
        &cell[start..end]
    }
}

/// Encoding and dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What the bytes mean.
    pub encoding: Encoding,
    /// Where cells and records end.
    pub dialect: Dialect,
}

/// What a caller has said; what it has not is found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// The encoding; never `Ascii`.
    pub encoding: Option<Encoding>,
    /// The delimiter.
    pub delimiter: Option<u8>,
    /// The quote; `Some(None)`: there is none.
    pub quote: Option<Option<u8>>,
    /// The escape byte; `Some(None)`: quotes are doubled.
    pub escape: Option<Option<u8>>,
    /// The comment byte; `Some(None)`: no line is a comment.
    pub comment: Option<Option<u8>>,
    /// Whether blanks around cells are no part of them.
    pub trims_blanks: Option<bool>,
    /// Lines before the table.
    pub preamble_lines: Option<u32>,
    /// Records that name the columns.
    pub header_rows: Option<u32>,
}

/// What was found out, and how sure that is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detected {
    /// The best reading that agrees with the hints.
    pub reading: Reading,
    /// The next best, `None` where only one was possible.
    pub runner_up: Option<Reading>,
    /// How far the best is ahead of the next one: 0 (as good) to 1 (no other).
    pub confidence: f64,
}
