//! A run of words and single joiners -> its terms.

use super::Sink;

/// Longest term, in bytes of folded UTF-8. A longer word is cut there, between two characters; a longer joined term is
/// kept in parts only. Ids, URLs' parts and hashes (SHA-256 in hex has 64) fit; blobs do not flood the index.
pub const MAX_TERM_BYTES: usize = 64;

/// Whether a byte joins two words: one of `- _ / . : @`, or the comma, which [`terms`] takes apart.
#[inline]
pub(crate) fn is_joiner(byte: u8) -> bool {
    matches!(byte, b'-' | b'_' | b'/' | b'.' | b':' | b'@' | b',')
}

/// The terms of `text[start..end]`, which begins and ends with a word and has no two joiners side by side.
pub(crate) fn terms(text: &[u8], start: usize, end: usize, sink: &mut impl Sink) {
    let chunk = &text[start..end];
    if !chunk.contains(&b',') {
        return code(text, start, end, sink);
    }
    if is_grouped_number(chunk) {
        let (plain, len) = without_commas(chunk);
        return sink.term(&plain, 0, len);
    }
    let mut piece = start;
    for at in start..end {
        if text[at] == b',' {
            code(text, piece, at, sink);
            piece = at + 1;
        }
    }
    code(text, piece, end, sink);
}

/// A run without commas: a word, a decimal number, a time stamp, or a code whole and in parts.
fn code(text: &[u8], start: usize, end: usize, sink: &mut impl Sink) {
    let Some(first) = next_joiner(text, start, end) else { return word(text, start, end, sink) };
    if text[first] == b'.' && is_digits(&text[start..first]) && is_digits(&text[first + 1..end]) {
        return word(text, start, end, sink);
    }
    if is_time_stamp(&text[start..end]) {
        code(text, start, start + DATE_LEN, sink);
        let zulu = usize::from(text[end - 1] == b'z' && text[end - 2].is_ascii_digit());
        return code(text, start + DATE_LEN + 1, end - zulu, sink);
    }
    if end - start <= MAX_TERM_BYTES {
        sink.term(text, start, end);
    }
    let mut part = start;
    let mut joiner = Some(first);
    while let Some(at) = joiner {
        word(text, part, at, sink);
        part = at + 1;
        joiner = next_joiner(text, part, end);
    }
    word(text, part, end, sink);
}

/// One word, cut between two characters where it is too long.
#[inline]
pub(crate) fn word(text: &[u8], start: usize, end: usize, sink: &mut impl Sink) {
    let mut cut = end;
    if end - start > MAX_TERM_BYTES {
        cut = start + MAX_TERM_BYTES;
        while is_continuation(text[cut]) {
            cut -= 1;
        }
    }
    sink.term(text, start, cut);
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

fn next_joiner(text: &[u8], start: usize, end: usize) -> Option<usize> {
    text[start..end].iter().position(|byte| is_joiner(*byte)).map(|at| start + at)
}

fn is_digits(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_digit)
}

/// `1,234` or `12,345,678.9`; short enough to be a term.
fn is_grouped_number(chunk: &[u8]) -> bool {
    let dot = chunk.iter().position(|byte| *byte == b'.').unwrap_or(chunk.len());
    let (whole, fraction) = chunk.split_at(dot);
    let mut groups = whole.split(|byte| *byte == b',');
    let first = groups.next().unwrap_or_default();
    chunk.len() <= MAX_TERM_BYTES
        && (1..=3).contains(&first.len())
        && is_digits(first)
        && groups.all(|group| group.len() == 3 && is_digits(group))
        && is_digits(fraction.get(1..).unwrap_or_default())
}

fn without_commas(number: &[u8]) -> ([u8; MAX_TERM_BYTES], usize) {
    let mut plain = [0; MAX_TERM_BYTES];
    let mut len = 0;
    for byte in number.iter().filter(|byte| **byte != b',') {
        plain[len] = *byte;
        len += 1;
    }
    (plain, len)
}

const DATE_LEN: usize = "2024-01-31".len();

/// `2024-01-31t09` and more; the text is lower-cased already.
pub(crate) fn is_time_stamp(chunk: &[u8]) -> bool {
    chunk.len() >= DATE_LEN + 3
        && chunk[4] == b'-'
        && chunk[7] == b'-'
        && chunk[10] == b't'
        && is_digits(&chunk[..4])
        && is_digits(&chunk[5..7])
        && is_digits(&chunk[8..10])
        && is_digits(&chunk[11..13])
}
