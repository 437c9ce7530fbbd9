//! Which encoding a file's bytes are in.
//!
//! Asked in this order, since each answer is surer than the next: a byte-order mark; NUL bytes where UTF-16 has them;
//! valid UTF-8, which other text is by chance only in a few characters; and then the encoding under which the text is
//! most [plausible](super::plausibility).

use std::borrow::Cow;

use encoding_rs::{EUC_KR, GB18030, SHIFT_JIS, UTF_16BE, UTF_16LE, WINDOWS_1252};

use super::plausibility::{Text, most_plausible, two_byte_utf8_is_cp949};
use crate::reading::Encoding;

/// UTF-16 without a mark: at least one character of this many is ASCII (delimiters, line ends, digits, blanks).
const UTF16_UNITS_AN_ASCII: usize = 50;
/// UTF-16: so many ASCII characters in one byte order for each one in the other.
const UTF16_ONE_SIDED: usize = 8;

/// The encoding of a file that begins with `head`, which is all of it if `is_whole`.
pub(super) fn find(head: &[u8], is_whole: bool) -> Encoding {
    if let Some((encoding, _)) = byte_order_mark(head) {
        return encoding;
    }
    if let Some(encoding) = unmarked_utf16(head) {
        return encoding;
    }
    match head.iter().position(|byte| !byte.is_ascii()) {
        None => Encoding::Ascii,
        Some(first) => settle(head, first, is_whole),
    }
}

/// The encoding of a file that was ASCII so far, from the bytes that begin with its first non-ASCII byte: up to
/// [`ENCODING_WINDOW_BYTES`](super::ENCODING_WINDOW_BYTES) of them, or all that are left (`is_whole`). Never `Ascii`,
/// and never UTF-16, which shows at a file's beginning.
#[must_use]
pub fn settle_encoding(window: &[u8], is_whole: bool) -> Encoding {
    settle(window, 0, is_whole)
}

/// `text` as UTF-8, without its byte-order mark; what does not decode becomes U+FFFD.
pub(super) fn decode(text: &[u8], encoding: Encoding) -> Cow<'_, [u8]> {
    let text = match byte_order_mark(text) {
        Some((marked, mark_bytes)) if marked == encoding => &text[mark_bytes..],
        _ => text,
    };
    let decoder = match encoding {
        Encoding::Ascii | Encoding::Utf8 => return Cow::Borrowed(text),
        Encoding::Utf16Le => UTF_16LE,
        Encoding::Utf16Be => UTF_16BE,
        Encoding::Cp949 => EUC_KR,
        Encoding::ShiftJis => SHIFT_JIS,
        Encoding::Gb18030 => GB18030,
        Encoding::Windows1252 => WINDOWS_1252,
    };
    match decoder.decode_without_bom_handling(text).0 {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

/// The encoding that a mark at the file's beginning tells, and the mark's length.
fn byte_order_mark(head: &[u8]) -> Option<(Encoding, usize)> {
    match head {
        [0xEF, 0xBB, 0xBF, ..] => Some((Encoding::Utf8, 3)),
        [0xFF, 0xFE, ..] => Some((Encoding::Utf16Le, 2)),
        [0xFE, 0xFF, ..] => Some((Encoding::Utf16Be, 2)),
        _ => None,
    }
}

/// UTF-16 without a mark. Its ASCII characters have a NUL byte, always on the same side; eight-bit text has none. (A NUL
/// byte alone tells nothing: U+B300, 대, has one on the other side.)
fn unmarked_utf16(head: &[u8]) -> Option<Encoding> {
    let (units, _) = head.as_chunks::<2>();
    let (mut first, mut second) = (0, 0);
    for unit in units {
        first += usize::from(unit[0] == 0 && is_text(unit[1]));
        second += usize::from(unit[1] == 0 && is_text(unit[0]));
    }
    let (encoding, upper, other) =
        if second >= first { (Encoding::Utf16Le, second, first) } else { (Encoding::Utf16Be, first, second) };
    let enough = upper > 0 && upper * UTF16_UNITS_AN_ASCII >= units.len() && upper >= other * UTF16_ONE_SIDED;
    (enough && is_utf16_text(units, encoding)).then_some(encoding)
}

/// Whether an ASCII byte stands in text.
fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~')
}

/// Whether the units are text: their ASCII ones are no control characters, and their surrogates come in pairs.
fn is_utf16_text(units: &[[u8; 2]], encoding: Encoding) -> bool {
    let unit = |bytes: &[u8; 2]| match encoding {
        Encoding::Utf16Be => u16::from_be_bytes(*bytes),
        _ => u16::from_le_bytes(*bytes),
    };
    let mut odd = 0_usize;
    let mut decoded = char::decode_utf16(units.iter().map(unit));
    // The last unit may be half of a pair that the head's end cuts.
    let mut last_is_odd = false;
    for next in &mut decoded {
        last_is_odd = next.map_or(true, |c| c.is_control() && !matches!(c, '\t' | '\n' | '\r'));
        odd += usize::from(last_is_odd);
    }
    (odd - usize::from(last_is_odd)) * 100 <= units.len()
}

/// `text[first]` is its first non-ASCII byte, if it has one.
fn settle(text: &[u8], first: usize, is_whole: bool) -> Encoding {
    let text = Text { bytes: text, is_whole };
    if !text.is_utf8() {
        return most_plausible(text);
    }
    if two_byte_utf8_is_cp949(Text { bytes: &text.bytes[first..], is_whole }) {
        Encoding::Cp949
    } else {
        Encoding::Utf8
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn utf16(text: &str, to_bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(to_bytes).collect()
    }

    const KOREAN: &str = "번호,이름,주소\r\n1,김민수,서울특별시 강남구 테헤란로 12\r\n2,이영희,부산광역시 해운대구\r\n";
    const JAPANESE: &str = "番号,氏名,住所\r\n1,佐藤太郎,東京都千代田区丸の内\r\n2,鈴木はなこ,大阪府大阪市北区\r\n";
    const CHINESE: &str = "编号,姓名,地址\r\n1,王小明,北京市海淀区中关村大街\r\n2,李华,上海市浦东新区世纪大道\r\n";
    const FRENCH: &str = "numéro;prénom;ville\r\n1;André;Besançon\r\n2;Zoé;Orléans – été à 20 °C\r\n";

    #[test]
    fn each_encoding_is_named() {
        let cases: [(&str, Vec<u8>, Encoding); 14] = [
            ("nothing", Vec::new(), Encoding::Ascii),
            ("ASCII", b"id,name\n1,kim\n".to_vec(), Encoding::Ascii),
            ("UTF-8", KOREAN.into(), Encoding::Utf8),
            ("a mark alone", b"\xEF\xBB\xBF".to_vec(), Encoding::Utf8),
            ("marked UTF-8 that is ASCII", b"\xEF\xBB\xBFid\n1\n".to_vec(), Encoding::Utf8),
            ("marked UTF-16LE", utf16(&format!("\u{FEFF}{KOREAN}"), u16::to_le_bytes), Encoding::Utf16Le),
            ("marked UTF-16BE", utf16(&format!("\u{FEFF}{KOREAN}"), u16::to_be_bytes), Encoding::Utf16Be),
            ("UTF-16LE", utf16(KOREAN, u16::to_le_bytes), Encoding::Utf16Le),
            ("UTF-16BE", utf16(KOREAN, u16::to_be_bytes), Encoding::Utf16Be),
            ("UTF-16LE that is ASCII", utf16("id,name\n1,kim\n", u16::to_le_bytes), Encoding::Utf16Le),
            ("CP949", EUC_KR.encode(KOREAN).0.into_owned(), Encoding::Cp949),
            ("Shift-JIS", SHIFT_JIS.encode(JAPANESE).0.into_owned(), Encoding::ShiftJis),
            ("GB18030", GB18030.encode(CHINESE).0.into_owned(), Encoding::Gb18030),
            ("Windows-1252", WINDOWS_1252.encode(FRENCH).0.into_owned(), Encoding::Windows1252),
        ];
        for (name, bytes, expected) in cases {
            assert_eq!(find(&bytes, true), expected, "{name}");
        }
    }

    #[test]
    fn one_word_is_enough_after_ascii() {
        let cases: [(&[u8], Encoding); 9] = [
            ("김민수,23\n".as_bytes(), Encoding::Utf8),
            (&EUC_KR.encode("김,1\n").0, Encoding::Cp949),
            (&EUC_KR.encode("김민수,23\n").0, Encoding::Cp949),
            (&EUC_KR.encode("㈜대한,23\n").0, Encoding::Cp949),
            (&SHIFT_JIS.encode("東京都,1\n").0, Encoding::ShiftJis),
            (&GB18030.encode("北京市,1\n").0, Encoding::Gb18030),
            (b"\xE9,Jos\xE9,3\n", Encoding::Windows1252),
            (b"\xB0C,20\n", Encoding::Windows1252),
            (b"\xA35.00,20\n", Encoding::Windows1252),
        ];
        for (window, expected) in cases {
            assert_eq!(settle_encoding(window, true), expected, "{window:02X?}");
        }
    }

    #[test]
    fn ascii_with_a_stray_nul_is_no_utf16() {
        let mut file = b"id,name\n".repeat(100);
        file[50] = 0;
        assert_eq!(find(&file, true), Encoding::Ascii);
    }

    #[test]
    fn a_damaged_file_keeps_the_encoding_that_most_of_it_is_in() {
        let mut utf8 = KOREAN.repeat(20).into_bytes();
        let mut cp949 = EUC_KR.encode(&KOREAN.repeat(20)).0.into_owned();
        utf8.extend_from_slice(b"\xB1\xE8,\n");
        cp949.extend_from_slice(b"\xFF,\n");
        assert_eq!(find(&utf8, true), Encoding::Utf8);
        assert_eq!(find(&cp949, true), Encoding::Cp949);
    }

    proptest! {
        #[test]
        fn a_head_that_ends_inside_a_character_changes_nothing(cut in 40..100_usize) {
            for (text, encoding) in [
                (KOREAN.as_bytes().to_vec(), Encoding::Utf8),
                (EUC_KR.encode(KOREAN).0.into_owned(), Encoding::Cp949),
                (SHIFT_JIS.encode(JAPANESE).0.into_owned(), Encoding::ShiftJis),
                (GB18030.encode(CHINESE).0.into_owned(), Encoding::Gb18030),
                (utf16(KOREAN, u16::to_le_bytes), Encoding::Utf16Le),
            ] {
                prop_assert_eq!(find(&text[..cut.min(text.len())], false), encoding);
            }
        }

        #[test]
        fn korean_text_is_told_in_every_encoding(words in proptest::collection::vec("[가-힣]{2,4}", 5..30)) {
            // Any syllables at all, not only frequent ones; UTF-8 needs no plausibility.
            let text = words.join(",");
            prop_assert_eq!(find(text.as_bytes(), true), Encoding::Utf8);
            prop_assert_eq!(find(&utf16(&text, u16::to_le_bytes), true), Encoding::Utf16Le);
            prop_assert_eq!(find(&utf16(&text, u16::to_be_bytes), true), Encoding::Utf16Be);
        }

        #[test]
        fn any_bytes_have_an_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..300), is_whole: bool) {
            let encoding = find(&bytes, is_whole);
            decode(&bytes, encoding);
            prop_assert_ne!(settle_encoding(&bytes, is_whole), Encoding::Ascii);
        }
    }
}
