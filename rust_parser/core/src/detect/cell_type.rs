//! What kind of value a cell holds, as far as its text tells.
//!
//! A dialect that cuts a file in the wrong places leaves pieces that are no value of any kind: `00"`, `5;3`, `'Men's`. So
//! the share of cells that are some kind is half of how a dialect is judged; the other half is how even its rows are.

use super::number::{is_number, skip_digits};

/// A longer text is prose, whatever it is made of.
const LONGEST_LOOKED_AT_BYTES: usize = 256;

/// The kind of one cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum CellType {
    /// Nothing but blanks.
    #[default]
    Empty,
    /// A mark for a value that is not there: `-`, `N/A`, `null`.
    Missing,
    /// `12`, `-1,234.5`, `1e9`, `△3`, `(5)`, `12.5%`, `$74.69`, `1,000원`, `35kg`.
    Number,
    /// A date, a time, or both; a month, a quarter.
    Time,
    /// `true`, `N`, `예`.
    Boolean,
    /// A web or mail address.
    Address,
    /// One word with digits or signs in it: `MG-8769`, `010-1234-5678`, `A12`.
    Code,
    /// One word.
    Word,
    /// Words and what stands between words.
    Text,
    /// None of these.
    Other,
}

impl CellType {
    /// How much a cell of this kind speaks for the dialect that cut it out, from 0 to 1.
    pub(super) fn weight(self) -> f64 {
        match self {
            Self::Number | Self::Time | Self::Boolean | Self::Address => 1.0,
            Self::Code => 0.95,
            Self::Missing | Self::Word => 0.9,
            Self::Text => 0.85,
            Self::Empty => 0.7,
            Self::Other => 0.1,
        }
    }

    /// Whether a column of such cells tells its header by that alone: no column is named `74.69`.
    pub(super) fn is_typed(self) -> bool {
        matches!(self, Self::Number | Self::Time | Self::Boolean | Self::Address | Self::Code)
    }

    /// Whether there is a value.
    pub(super) fn is_present(self) -> bool {
        !matches!(self, Self::Empty | Self::Missing)
    }
}

/// The kind of a cell from its text in UTF-8, without quotes. Blanks around it count for nothing.
pub(super) fn cell_type(text: &[u8]) -> CellType {
    let text = trim(text);
    match text {
        [] => return CellType::Empty,
        text if text.len() > LONGEST_LOOKED_AT_BYTES => return prose(text),
        _ => {}
    }
    if is_missing(text) {
        return CellType::Missing;
    }
    if is_boolean(text) {
        return CellType::Boolean;
    }
    if is_time(text) {
        return CellType::Time;
    }
    if is_number(text) {
        return CellType::Number;
    }
    if is_address(text) {
        return CellType::Address;
    }
    prose(text)
}

/// `text` without blanks around it; no-break and ideographic ones too.
pub(super) fn trim(mut text: &[u8]) -> &[u8] {
    loop {
        let rest = text.trim_ascii();
        let rest = strip(rest, "\u{A0}");
        let rest = strip(rest, "\u{3000}");
        if rest.len() == text.len() {
            return text;
        }
        text = rest;
    }
}

fn strip<'t>(text: &'t [u8], blank: &str) -> &'t [u8] {
    let text = text.strip_prefix(blank.as_bytes()).unwrap_or(text);
    text.strip_suffix(blank.as_bytes()).unwrap_or(text)
}

fn is_missing(text: &[u8]) -> bool {
    const MARKS: [&str; 14] =
        ["-", "--", "---", ".", "..", "...", "…", "?", "N/A", "NA", "#N/A", "NaN", "null", "none"];
    MARKS.iter().any(|mark| text.eq_ignore_ascii_case(mark.as_bytes())) || matches!(text, b"\\N" | b"*" | b"(null)")
}

fn is_boolean(text: &[u8]) -> bool {
    const MARKS: [&str; 12] = ["true", "false", "yes", "no", "y", "n", "t", "f", "예", "아니오", "유", "무"];
    MARKS.iter().any(|mark| text.eq_ignore_ascii_case(mark.as_bytes()))
}

fn is_address(text: &[u8]) -> bool {
    if text.iter().any(|byte| matches!(byte, b' ' | b'"' | b'<' | b'>')) {
        return false;
    }
    if let Some(at) = memchr::memmem::find(text, b"://") {
        return at > 1 && text[..at].iter().all(u8::is_ascii_alphabetic) && at + 3 < text.len();
    }
    if text.starts_with(b"www.") {
        return true;
    }
    match memchr::memchr(b'@', text) {
        Some(at) => at > 0 && text[at + 1..].contains(&b'.') && !text[at + 1..].contains(&b'@'),
        None => false,
    }
}

/// A date, a time of day, or a date and then a time.
fn is_time(text: &[u8]) -> bool {
    let starts = text[0].is_ascii_alphanumeric() || text.starts_with("오".as_bytes());
    if !starts {
        return false;
    }
    let Some(rest) = skip_date(text) else { return skip_time_of_day(text).is_some_and(<[u8]>::is_empty) };
    let rest = rest.strip_prefix(b"T").unwrap_or_else(|| rest.trim_ascii_start());
    rest.is_empty() || skip_time_of_day(rest).is_some_and(<[u8]>::is_empty)
}

/// What follows a date at the beginning of `text`.
fn skip_date(text: &[u8]) -> Option<&[u8]> {
    skip_korean_date(text).or_else(|| skip_numeric_date(text)).or_else(|| skip_named_date(text))
}

/// `2020년`, `2020년 1월 2일`, `1월 2일`.
fn skip_korean_date(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text;
    let mut parts = 0;
    for (unit, most_digits) in [("년", 4), ("월", 2), ("일", 2)] {
        let (digits, behind) = skip_digits(rest);
        if (1..=most_digits).contains(&digits)
            && let Some(behind) = behind.trim_ascii_start().strip_prefix(unit.as_bytes())
        {
            rest = behind.trim_ascii_start();
            parts += 1;
        }
    }
    (parts > 0).then_some(rest)
}

/// `2020-01-02`, `2020. 1. 2.`, `28/01/2018`, `1.2.20`, `2020-01`.
fn skip_numeric_date(text: &[u8]) -> Option<&[u8]> {
    let (first, rest) = skip_digits(text);
    let (&mark, rest) = rest.split_first()?;
    if !matches!(mark, b'-' | b'/' | b'.') {
        return None;
    }
    let (second, rest) = skip_digits(rest.trim_ascii_start());
    if !matches!(second, 1 | 2) {
        return None;
    }
    let third = rest.strip_prefix(&[mark]).map(|rest| skip_digits(rest.trim_ascii_start()));
    match (first, third) {
        (4, Some((1 | 2, rest))) => Some(rest.strip_prefix(b".").unwrap_or(rest)),
        (1 | 2, Some((2 | 4, rest))) => Some(rest),
        // A year and a month; with a dot it is a number.
        (4, None) if mark != b'.' && second == 2 => Some(rest),
        _ => None,
    }
}

/// `3-Jan-2020`, `Jan 3, 2020`, `03 January 20`, `Jan-20`, `2020Q1`, `Q1 2020`.
fn skip_named_date(text: &[u8]) -> Option<&[u8]> {
    const MONTHS: [&[u8]; 12] =
        [b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"];
    let skip_marks =
        |text: &'_ [u8]| text.iter().take_while(|byte| matches!(byte, b' ' | b'-' | b'/' | b'.' | b',')).count();
    let mut rest = text;
    let (mut named, mut numbers) = (false, 0);
    while !rest.is_empty() && numbers + usize::from(named) < 3 {
        let (digits, behind) = skip_digits(rest);
        if digits > 0 {
            if !matches!(digits, 1 | 2 | 4) {
                return None;
            }
            numbers += 1;
            rest = behind;
        } else {
            let letters = rest.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
            let word = rest[..letters].to_ascii_lowercase();
            let is_month = letters >= 3 && MONTHS.iter().any(|month| word.starts_with(month)) && letters <= 9;
            let is_quarter =
                letters == 1 && word == b"q" && rest.get(1).is_some_and(|byte| matches!(byte, b'1'..=b'4'));
            if named || !(is_month || is_quarter) {
                return None;
            }
            named = true;
            rest = &rest[letters..];
        }
        let marks = skip_marks(rest);
        if marks > 2 {
            return None;
        }
        if numbers + usize::from(named) == 3 {
            break;
        }
        rest = &rest[marks..];
    }
    (named && numbers > 0).then_some(rest)
}

/// `00:15`, `9:05:30.5`, `10:00 PM`, `12:00Z`, `12:00:00+09:00`, `오전 9시 30분`.
fn skip_time_of_day(text: &[u8]) -> Option<&[u8]> {
    let text =
        ["오전", "오후"].iter().find_map(|half| text.strip_prefix(half.as_bytes())).unwrap_or(text).trim_ascii_start();
    let (hours, rest) = skip_digits(text);
    if !matches!(hours, 1 | 2) {
        return None;
    }
    if let Some(rest) = rest.strip_prefix("시".as_bytes()) {
        let (minutes, behind) = skip_digits(rest.trim_ascii_start());
        let behind = behind.strip_prefix("분".as_bytes()).filter(|_| minutes > 0);
        return Some(behind.unwrap_or(rest));
    }
    let mut rest = rest;
    for part in 0..2 {
        let Some(behind) = rest.strip_prefix(b":") else {
            if part == 0 {
                return None;
            }
            break;
        };
        let (digits, behind) = skip_digits(behind);
        if digits != 2 {
            return None;
        }
        rest = behind;
    }
    if let Some(fraction) = rest.strip_prefix(b".") {
        rest = skip_digits(fraction).1;
    }
    Some(skip_zone(rest))
}

/// `Z`, ` PM`, `+09:00`, ` UTC`.
fn skip_zone(text: &[u8]) -> &[u8] {
    let zone = text.trim_ascii_start();
    if zone.len() <= 3 && zone.iter().all(u8::is_ascii_alphabetic) {
        return b"";
    }
    match zone {
        [b'+' | b'-', rest @ ..]
            if rest.len() <= 5 && rest.iter().all(|byte| byte.is_ascii_digit() || *byte == b':') =>
        {
            b""
        }
        _ => text,
    }
}

/// Words, or what no wording explains.
fn prose(text: &[u8]) -> CellType {
    let looked_at = &text[..text.len().min(LONGEST_LOOKED_AT_BYTES)];
    let mut has_blank = false;
    let mut has_letter = false;
    let mut has_digit = false;
    let mut has_sign = false;
    for (at, &byte) in looked_at.iter().enumerate() {
        match byte {
            b' ' | b'\n' | b'\r' => has_blank = true,
            b'a'..=b'z' | b'A'..=b'Z' | 0x80.. => has_letter = true,
            b'0'..=b'9' => has_digit = true,
            // Separators of lists stand before a blank, a comma between groups of digits too.
            b',' | b';' => {
                let next = text.get(at + 1).copied();
                let is_group =
                    byte == b',' && at > 0 && text[at - 1].is_ascii_digit() && skip_digits(&text[at + 1..]).0 == 3;
                if !is_group && next.is_some_and(|byte| !matches!(byte, b' ' | b'\n' | b'\r' | b')')) {
                    return CellType::Other;
                }
                has_sign = true;
            }
            b'|' | b'^' | b'\t' | 0..0x20 | 0x7F => return CellType::Other,
            _ => has_sign = true,
        }
    }
    if looked_at.len() == text.len() && has_torn_quotes(text) {
        return CellType::Other;
    }
    match (has_letter, has_digit || has_sign, has_blank) {
        (true, _, true) => CellType::Text,
        (true, true, false) if has_digit => CellType::Code,
        (true, _, false) => CellType::Word,
        (false, _, _) if has_digit && !has_blank => CellType::Code,
        // A unit: `(%)`.
        _ if matches!(text, [b'(', .., b')'] | [b'[', .., b']']) => CellType::Word,
        _ => CellType::Other,
    }
}

/// Quotes that a wrong dialect leaves: around the cell, or a single one at one of its ends.
fn has_torn_quotes(text: &[u8]) -> bool {
    let (first, last) = (text[0], text[text.len() - 1]);
    let count = memchr::memchr_iter(b'"', text).count();
    if first == b'"'
        || (last == b'"' && count % 2 == 1 && !text[..text.len() - 1].ends_with(b"\"") && !ends_in_inches(text))
    {
        return true;
    }
    first == b'\'' && (last == b'\'' || !text.contains(&b' '))
}

/// `24"`, `5' 11"`.
fn ends_in_inches(text: &[u8]) -> bool {
    text.len() >= 2 && text[text.len() - 2].is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::{CellType::*, *};

    #[test]
    fn kinds_of_cells() {
        let cases = [
            (Empty, ["", " ", "\u{3000}", "\t", "\u{A0} "].as_slice()),
            (Missing, &["-", "N/A", "null", "…", "\\N"]),
            (Number, &["0", "-1", "+1.5", "1,234,567", "1.234,5", "1 234", "1e-9", ".5", "△1,200", "(5)", "12.5%"]),
            (Number, &["$74.69", "₩1,000", "1,000원", "€ 5", "5 €", "35명", "10kg", "USD 5", "３５", "3,5", "20 °C"]),
            (
                Time,
                &[
                    "2020-01-02",
                    "2020.1.2",
                    "2020. 1. 2.",
                    "28/01/2018",
                    "1/2/20",
                    "2020-01",
                    "3-Jan-2020",
                    "Jan 3, 2020",
                ],
            ),
            (
                Time,
                &[
                    "00:15",
                    "9:05:30.5",
                    "10:00 PM",
                    "2020-01-02T03:04:05Z",
                    "2020-01-02 03:04",
                    "2020-01-02 03:04:05+09:00",
                ],
            ),
            (
                Time,
                &[
                    "2020년 1월 2일",
                    "2020년",
                    "1월",
                    "오전 9시 30분",
                    "오후 3:05",
                    "2020-Q1",
                    "Q1 2020",
                    "31-May-19 10:00",
                ],
            ),
            (Boolean, &["true", "FALSE", "Y", "예"]),
            (Address, &["https://www.example.com/a?b=1", "www.example.com", "kim@example.co.kr"]),
            (Code, &["MG-8769", "010-1234-5678", "A12", "1-2-3-4", "서울2024", "AB_12/3"]),
            (Word, &["Kim", "서울", "ProductType", "first_name", "(명)", "(%)", "O'Neill"]),
            (
                Text,
                &[
                    "Men's Boots",
                    "Boots, leather",
                    "서울특별시 강남구",
                    "Table, Round 48\"",
                    "a \"b\" c",
                    "Jan and others",
                ],
            ),
            (Other, &["a;b", "a,b", "a|b", "5^3", "\"abc", "abc def\"", "'abc'", "5;3", "!", "\u{1}"]),
        ];
        for (expected, texts) in cases {
            for text in texts {
                assert_eq!(cell_type(text.as_bytes()), expected, "{text:?}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_have_a_kind(text in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            cell_type(&text);
        }
    }
}
