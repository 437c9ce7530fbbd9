//! One record as cells: what their bytes mean, and why it may not be stored.

use memchr::memchr;

use crate::scan::{Form, Span, Traits};

/// Why a record is no row. Where several hold, the first of this order is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// Text follows a closing quote: `"a"b`. Where the cells of such a record end is a guess.
    TextAfterQuote,
    /// Fewer cells than columns.
    TooFewFields,
    /// More cells than columns.
    TooManyFields,
    /// A NUL byte, which PostgreSQL cannot keep in text.
    NulByte,
    /// Bytes that are not UTF-8.
    InvalidUtf8,
}

impl RejectReason {
    /// The name that callers compare with.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TextAfterQuote => "text_after_quote",
            Self::TooFewFields => "too_few_fields",
            Self::TooManyFields => "too_many_fields",
            Self::NulByte => "nul_byte",
            Self::InvalidUtf8 => "invalid_utf8",
        }
    }
}

/// A whole record where it stands.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a> {
    /// The record and what follows it in the same buffer.
    pub(crate) source: &'a [u8],
    /// Length without its line end.
    pub(crate) content_len: usize,
    /// Length with its line end.
    pub(crate) len: usize,
    pub(crate) spans: &'a [Span],
    pub(crate) traits: Traits,
    pub(crate) delimiter: u8,
    pub(crate) quote: Option<u8>,
}

impl<'a> Record<'a> {
    /// Its bytes without the line end.
    pub(crate) fn content(&self) -> &'a [u8] {
        &self.source[..self.content_len]
    }

    /// Whether it is a line without any byte.
    pub(crate) fn is_empty_line(&self) -> bool {
        self.content_len == 0
    }

    /// Line ends that it holds, its own not counted.
    pub(crate) fn inner_lines(&self) -> u64 {
        if self.traits.line_ends { line_ends(self.content()) } else { 0 }
    }

    /// Why its bytes cannot be stored, however many cells it has.
    pub(crate) fn unreadable(&self) -> Option<RejectReason> {
        if self.traits.text_after_quote {
            Some(RejectReason::TextAfterQuote)
        } else if self.traits.nul {
            Some(RejectReason::NulByte)
        } else if self.traits.non_ascii && simdutf8::basic::from_utf8(self.content()).is_err() {
            // All separators are ASCII: the record is UTF-8 where each of its cells is.
            Some(RejectReason::InvalidUtf8)
        } else {
            None
        }
    }

    /// Why it is no row of `columns` columns.
    pub(crate) fn reject_reason(&self, columns: usize) -> Option<RejectReason> {
        if self.spans.len() == columns || self.traits.text_after_quote {
            self.unreadable()
        } else if self.spans.len() < columns {
            Some(RejectReason::TooFewFields)
        } else {
            Some(RejectReason::TooManyFields)
        }
    }

    /// The first cell that is longer than `max_bytes`, as its position in the record.
    pub(crate) fn longer_cell(&self, max_bytes: usize) -> Option<usize> {
        if self.content_len <= max_bytes {
            return None;
        }
        let too_long = self.spans.iter().find(|span| {
            let doubled = if span.form == Form::Escaped { doubled_quotes(self.raw(span), self.quote) } else { 0 };
            (span.end - span.start) as usize - doubled > max_bytes
        });
        too_long.map(|span| span.start as usize - usize::from(span.form != Form::Plain))
    }

    /// Positions of the delimiters between its cells.
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

    /// A cell's text with doubled quotes made single, in place of what `text` held.
    pub(crate) fn unescape_into(&self, span: &Span, text: &mut Vec<u8>) {
        text.clear();
        let mut rest = self.raw(span);
        while let Some(quote) = self.quote.and_then(|quote| memchr(quote, rest)) {
            text.extend_from_slice(&rest[..=quote]);
            rest = &rest[quote + 2..];
        }
        text.extend_from_slice(rest);
    }

    fn raw(&self, span: &Span) -> &'a [u8] {
        &self.source[span.start as usize..span.end as usize]
    }
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

fn doubled_quotes(raw: &[u8], quote: Option<u8>) -> usize {
    raw.iter().filter(|byte| Some(**byte) == quote).count() / 2
}
