//! NFKC and lower case, and the texts that need no table for it.

use unicode_normalization::UnicodeNormalization;

/// Folds a text: NFKC (full-width letters, ligatures, ㈜, jamo), lower case, and NFKC again, since lower case may decompose.
pub(crate) fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    text.nfkc().flat_map(char::to_lowercase).nfkc().collect()
}

/// Whether lower-casing the ASCII letters folds this text wholly, and its only other letters are CJK.
///
/// True for ASCII, Hangul syllables, the common ideographs, kana and some punctuation between them: characters that NFKC
/// leaves as they are, that compose with none of each other, and that have no case. `text` must be UTF-8; bytes that are
/// not are never simple, or harmless.
pub(crate) fn is_simple(text: &[u8]) -> bool {
    let mut rest = text;
    loop {
        match rest {
            [] => return true,
            [first, tail @ ..] if first.is_ascii() => {
                rest = match rest.split_first_chunk::<8>() {
                    Some((word, tail)) if word.is_ascii() => tail,
                    _ => tail,
                }
            }
            [first, second, third, tail @ ..] if is_simple_code(three_bytes(*first, *second, *third)) => rest = tail,
            [0xc2, 0xb7, tail @ ..] => rest = tail, // U+00B7, the middle dot of Korean lists
            _ => return false,
        }
    }
}

/// Code point of a three-byte UTF-8 sequence; 0 where the first byte begins none.
#[inline]
pub(crate) fn three_bytes(first: u8, second: u8, third: u8) -> u32 {
    if first & 0xf0 == 0xe0 {
        u32::from(first & 0x0f) << 12 | u32::from(second & 0x3f) << 6 | u32::from(third & 0x3f)
    } else {
        0
    }
}

#[inline]
fn is_simple_code(code: u32) -> bool {
    is_simple_letter(code) || is_simple_punctuation(code)
}

/// Letters of [`is_simple`] text beside ASCII; all of them are CJK letters.
#[inline]
pub(crate) fn is_simple_letter(code: u32) -> bool {
    // Hangul alone first: one comparison for nearly all of Korean text.
    matches!(code, 0xac00..=0xd7a3)
        || matches!(code, 0x4e00..=0x9fff | 0x3041..=0x3096 | 0x30a1..=0x30fa | 0x30fc | 0x3005)
}

#[inline]
fn is_simple_punctuation(code: u32) -> bool {
    // Dashes and curly quotes, bullet, ※, arrows, squares, triangles, circles, and 、 to 】.
    matches!(code, 0x2012..=0x2015 | 0x2018..=0x201f | 0x2022 | 0x203b | 0x2190..=0x2199 | 0x25a0..=0x25cf
        | 0x3001..=0x3003 | 0x3008..=0x3011)
}

#[cfg(test)]
mod tests {
    use unicode_normalization::{IsNormalized, is_nfkc_quick};

    use super::*;
    use crate::lexeme::{Class, is_cjk_letter};

    #[test]
    fn simple_characters_fold_to_themselves_and_are_cjk_letters_or_separators() {
        for character in ('\u{80}'..=char::MAX).filter(|c| is_simple(c.to_string().as_bytes())) {
            assert_eq!(is_nfkc_quick(std::iter::once(character)), IsNormalized::Yes, "{character:?}");
            assert!(character.to_lowercase().eq(std::iter::once(character)), "{character:?}");
            let letter = is_simple_letter(u32::from(character));
            assert_eq!(letter, is_cjk_letter(character), "{character:?}");
            assert!(letter || Class::of(character) == Class::Other, "{character:?}");
        }
    }

    #[test]
    fn other_scripts_are_not_simple() {
        for text in ["é", "ｱ", "Ａ", "㈜", "ё", "ก", "1½", "\u{1112}\u{1161}", "가\u{11a8}", "か\u{3099}", "😀"]
        {
            assert!(!is_simple(text.as_bytes()), "{text}");
        }
    }
}
