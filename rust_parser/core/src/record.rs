//! One record as cells: what their bytes mean, and why it may not be stored.

use memchr::{memchr, memchr2};

use crate::scan::{Form, Span, Traits};

/// Why a record or line is not stored as a row. Where several hold, the first of this order is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// A line before the table. No row.
    Preamble,
    /// A comment. No row.
    Comment,
    /// A line behind the table. No row.
    Footer,
    /// A record of another table, which begins behind the first one.
    OtherTable,
    /// Text follows a closing quote: `"a"b`. Where the cells of such a record end is a guess.
    TextAfterQuote,
    /// Fewer cells than columns, where ragged rows are not kept.
    TooFewFields,
    /// More cells than columns, where ragged rows are not kept; or more than a table may have.
    TooManyFields,
    /// A NUL byte, which PostgreSQL cannot keep in text.
    NulByte,
    /// Bytes that the encoding does not have.
    InvalidBytes,
    /// More than fits into a row of PostgreSQL, even with every longer cell out of line.
    RowTooWide,
}

impl RejectReason {
    /// The name that callers compare with.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preamble => "preamble",
            Self::Comment => "comment",
            Self::Footer => "footer",
            Self::OtherTable => "other_table",
            Self::TextAfterQuote => "text_after_quote",
            Self::TooFewFields => "too_few_fields",
            Self::TooManyFields => "too_many_fields",
            Self::NulByte => "nul_byte",
            Self::InvalidBytes => "invalid_bytes",
            Self::RowTooWide => "row_too_wide",
        }
    }

    /// Whether it is a row that was read; otherwise a line that was set aside.
    #[must_use]
    pub fn is_row(self) -> bool {
        !matches!(self, Self::Preamble | Self::Comment | Self::Footer)
    }
}

/// A whole record where it stands.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a> {
    /// The record and what follows it in the same buffer.
    pub(crate) source: &'a [u8],
    /// Length without its line end.
    pub(crate) content_len: usize,
    /// Its cells; as many as it has, which may be fewer or more than the columns.
    pub(crate) spans: &'a [Span],
    pub(crate) traits: Traits,
    pub(crate) delimiter: u8,
    pub(crate) quote: Option<u8>,
    pub(crate) escape: Option<u8>,
    /// Whether delimiters are the only bytes between its cells and their quotes.
    pub(crate) is_contiguous: bool,
}

impl<'a> Record<'a> {
    /// Text whose cells are not known.
    pub(crate) fn unread(source: &'a [u8]) -> Self {
        let (spans, traits) = (&[][..], Traits::default());
        let (content_len, delimiter, quote, escape) = (source.len(), 0, None, None);
        Self { source, content_len, spans, traits, delimiter, quote, escape, is_contiguous: false }
    }

    /// Its bytes without the line end.
    pub(crate) fn content(&self) -> &'a [u8] {
        &self.source[..self.content_len]
    }

    /// Whether it is a line without any byte.
    pub(crate) fn is_empty_line(&self) -> bool {
        self.content_len == 0
    }

    /// Whether all its cells are empty.
    pub(crate) fn is_blank(&self) -> bool {
        self.spans.iter().all(|span| span.start == span.end)
    }

    /// Why its bytes cannot be stored, however many cells it has.
    #[inline]
    pub(crate) fn unreadable(&self) -> Option<RejectReason> {
        if self.traits.text_after_quote {
            Some(RejectReason::TextAfterQuote)
        } else if self.traits.nul && self.has_nul() {
            Some(RejectReason::NulByte)
        } else if self.traits.non_ascii && simdutf8::basic::from_utf8(self.content()).is_err() {
            // All separators are ASCII: the record is UTF-8 where each of its cells is.
            Some(RejectReason::InvalidBytes)
        } else {
            None
        }
    }

    /// Whether its text holds NUL; as an escape byte that is no text.
    fn has_nul(&self) -> bool {
        let mut has_nul = false;
        self.for_each_cell(|cell| has_nul |= memchr(0, cell).is_some());
        has_nul
    }

    /// Where the first cell (its quote, if it has one) longer than `max_bytes` begins.
    #[inline]
    pub(crate) fn longer_cell(&self, max_bytes: usize) -> Option<usize> {
        if self.content_len <= max_bytes {
            return None;
        }
        let too_long = self.spans.iter().find(|span| {
            (span.end - span.start) as usize > max_bytes
                && (span.form != Form::Escaped || {
                    let mut text = Vec::new();
                    self.unescape_into(span, &mut text);
                    text.len() > max_bytes
                })
        });
        too_long.map(|span| span.start as usize - usize::from(span.form != Form::Plain))
    }

    /// Positions of the delimiters between its cells, if it is contiguous.
    pub(crate) fn delimiters(&self) -> impl Iterator<Item = usize> + 'a {
        self.spans.iter().skip(1).map(|span| span.start as usize - usize::from(span.form != Form::Plain) - 1)
    }

    /// Gives each cell's text.
    pub(crate) fn for_each_cell(&self, mut take: impl FnMut(&[u8])) {
        let mut unescaped = Vec::new();
        for span in self.spans {
            if span.form == Form::Escaped {
                self.unescape_into(span, &mut unescaped);
                take(&unescaped);
            } else {
                take(self.raw(span));
            }
        }
    }

    /// The texts of some of its cells.
    pub(crate) fn texts(&self, spans: &[Span]) -> Vec<Vec<u8>> {
        let mut texts = Vec::with_capacity(spans.len());
        Record { spans, ..*self }.for_each_cell(|cell| texts.push(cell.to_vec()));
        texts
    }

    /// A cell's text, with doubled quotes made single and without escape bytes, in place of what `text` held.
    pub(crate) fn unescape_into(&self, span: &Span, text: &mut Vec<u8>) {
        text.clear();
        if let Some(quote) = self.quote {
            unescape(self.raw(span), quote, self.escape, text);
        }
    }

    fn raw(&self, span: &Span) -> &'a [u8] {
        &self.source[span.start as usize..span.end as usize]
    }
}

/// A record that stands in no file: one that was repaired.
pub(crate) struct Rewritten {
    text: Vec<u8>,
    spans: Vec<Span>,
    delimiter: u8,
}

impl Rewritten {
    pub(crate) fn new(delimiter: u8) -> Self {
        Self { text: Vec::new(), spans: Vec::new(), delimiter }
    }

    pub(crate) fn cells(&self) -> usize {
        self.spans.len()
    }

    /// Adds a cell, whose text `write` appends.
    pub(crate) fn cell(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.spans.is_empty() {
            self.text.push(self.delimiter);
        }
        let start = self.text.len() as u32;
        write(&mut self.text);
        self.spans.push(Span { start, end: self.text.len() as u32, form: Form::Plain });
    }

    pub(crate) fn record(&self) -> Record<'_> {
        // Quoted: a cell may hold the delimiter.
        let traits =
            Traits { quoted: true, non_ascii: !self.text.is_ascii(), nul: self.text.contains(&0), ..Traits::default() };
        Record {
            source: &self.text,
            content_len: self.text.len(),
            spans: &self.spans,
            traits,
            delimiter: self.delimiter,
            quote: None,
            escape: None,
            is_contiguous: true,
        }
    }
}

/// Appends the text between two quotes: doubled quotes are made single, an escape byte counts before a quote and before
/// itself; before anything else it is text.
pub(crate) fn unescape(raw: &[u8], quote: u8, escape: Option<u8>, text: &mut Vec<u8>) {
    let mut rest = raw;
    while let Some(at) = memchr2(quote, escape.unwrap_or(quote), rest) {
        let next = rest.get(at + 1);
        let is_pair = next == Some(&quote) || next.is_some() && next == escape.as_ref() && rest[at] != quote;
        let kept = if is_pair { at + 1 } else { at };
        text.extend_from_slice(&rest[..at]);
        text.push(rest[kept]);
        rest = &rest[kept + 1..];
    }
    text.extend_from_slice(rest);
}

/// Count of LF, CRLF and lone CR.
pub(crate) fn line_ends(bytes: &[u8]) -> u64 {
    let mut count = 0;
    let mut after_cr = false;
    for byte in bytes {
        count += u64::from(*byte == b'\r' || *byte == b'\n' && !after_cr);
        after_cr = *byte == b'\r';
    }
    count
}
