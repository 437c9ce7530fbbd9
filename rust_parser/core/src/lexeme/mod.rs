//! Text -> search terms -> 32-bit hashes. The index and the query go through the same functions, so what they disagree on
//! cannot be found: a change here needs every index built anew.
//!
//! The text is folded (NFKC, lower case), then cut:
//!
//! | in the text | terms |
//! |---|---|
//! | a run of letters and digits | itself: `Seoul2024` → `seoul2024` |
//! | a run of Hangul, ideographs or kana | its overlapping bigrams: `한국어` → `한국` `국어`; a single letter alone as itself |
//! | words joined by one of `- _ / . : @` | whole and in parts: `AB-12/x` → `ab-12/x` `ab` `12` `x` |
//! | a number | itself without grouping commas: `1,234.50` → `1234.50` |
//! | an ISO 8601 time stamp | its date and its time, each whole and in parts |
//!
//! A script border separates: `서울2024` → `서울` `2024`. Grouping commas count as such where every group has three digits;
//! any other comma separates. A word is cut after [`MAX_TERM_BYTES`]; a longer joined term is kept in parts only.
//!
//! [`terms`] is this definition, one character at a time. [`fast`] is what fills the index: the same terms from text that
//! needs no Unicode tables, with SIMD; a property test holds the two together.

mod chunk;
pub(crate) mod fast;
mod fold;
mod hash;

use std::collections::HashSet;

use unicode_normalization::char::is_combining_mark;

pub use chunk::MAX_TERM_BYTES;
pub(crate) use chunk::is_joiner;
pub(crate) use fold::{fold, is_simple};
pub(crate) use hash::hash;

/// Takes terms as they are found.
///
/// The term is `text[start..end]`. It comes with the text behind it so that a hash can be computed in whole words.
pub(crate) trait Sink {
    /// Takes one term; repeated where it stands repeatedly.
    fn term(&mut self, text: &[u8], start: usize, end: usize);
}

impl<F: FnMut(&[u8], usize, usize)> Sink for F {
    #[inline]
    fn term(&mut self, text: &[u8], start: usize, end: usize) {
        self(text, start, end);
    }
}

/// The search terms of a text, in order of first appearance, each once.
#[must_use]
pub fn lexemes(text: &str) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    terms(&fold(text), &mut |text: &[u8], start: usize, end: usize| {
        let term = String::from_utf8_lossy(&text[start..end]).into_owned();
        if seen.insert(term.clone()) {
            found.push(term);
        }
    });
    found
}

/// Hashes of [`lexemes`], in the same order: what the index holds.
#[must_use]
pub fn lexeme_hashes(text: &str) -> Vec<i32> {
    lexemes(text).iter().map(|term| hash(term.as_bytes(), 0, term.len())).collect()
}

/// For each text, which of the query's lexemes it holds, in the query's order.
pub fn count_matches<'a>(query: &[i32], texts: impl IntoIterator<Item = &'a str>) -> Vec<Vec<bool>> {
    let mut sorted: Vec<(i32, usize)> = query.iter().copied().zip(0..).collect();
    sorted.sort_unstable();
    let mut lexer = fast::Lexer::default();
    let matches_of = |text: &str| {
        let mut held = vec![false; query.len()];
        let mut mark = |text: &[u8], start: usize, end: usize| {
            let found = hash(text, start, end - start);
            let first = sorted.partition_point(|(hash, _)| *hash < found);
            for (_, index) in sorted[first..].iter().take_while(|(hash, _)| *hash == found) {
                held[*index] = true;
            }
        };
        lexer.cell(text.as_bytes(), &mut mark);
        lexer.flush(&mut mark);
        held
    };
    texts.into_iter().map(matches_of).collect()
}

/// Cuts folded text into terms: the definition.
pub(crate) fn terms(folded: &str, sink: &mut impl Sink) {
    let text = folded.as_bytes();
    let mut characters = folded.char_indices().peekable();
    // Where the run in progress began, and for a CJK run where its last letter began.
    let mut word: Option<usize> = None;
    let mut letters: Option<(usize, usize)> = None;
    while let Some((at, character)) = characters.next() {
        let class = Class::of(character);
        if class != Class::Letter {
            end_letters(text, letters.take(), at, sink);
        }
        let joins = class == Class::Word
            || word.is_some() && class == Class::Mark
            || word.is_some()
                && class == Class::Joiner
                && characters.peek().is_some_and(|(_, next)| Class::of(*next) == Class::Word);
        match (joins, word) {
            (true, None) => word = Some(at),
            (false, Some(start)) => {
                chunk::terms(text, start, at, sink);
                word = None;
            }
            _ => {}
        }
        if class == Class::Letter {
            if let Some((_, last)) = letters {
                sink.term(text, last, at + character.len_utf8());
            }
            letters = Some((letters.map_or(at, |(first, _)| first), at));
        }
    }
    end_letters(text, letters, text.len(), sink);
    if let Some(start) = word {
        chunk::terms(text, start, text.len(), sink);
    }
}

/// Emits a run of one single letter as itself; a longer one has given its bigrams already.
fn end_letters(text: &[u8], letters: Option<(usize, usize)>, end: usize, sink: &mut impl Sink) {
    if let Some((first, last)) = letters
        && first == last
    {
        sink.term(text, first, end);
    }
}

/// What a character of folded text is to the cutter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// A letter or digit of a script that writes words apart.
    Word,
    /// A letter of a script that does not, or whose words carry their particles: Hangul, ideographs, kana.
    Letter,
    /// An accent or vowel sign that belongs to the letter before.
    Mark,
    /// Joins two words to one code.
    Joiner,
    Other,
}

impl Class {
    fn of(character: char) -> Self {
        if is_cjk_letter(character) {
            Self::Letter
        } else if character.is_alphanumeric() {
            Self::Word
        } else if character.is_ascii() && is_joiner(character as u8) {
            Self::Joiner
        } else if is_combining_mark(character) {
            Self::Mark
        } else {
            Self::Other
        }
    }
}

/// Letters that are indexed as bigrams.
fn is_cjk_letter(character: char) -> bool {
    matches!(character,
        '\u{1100}'..='\u{11ff}'     // Hangul jamo that compose to no syllable
        | '\u{3005}'..='\u{3007}'   // 々 〆 〇
        | '\u{3041}'..='\u{3096}'   // hiragana
        | '\u{309d}'..='\u{309f}'
        | '\u{30a1}'..='\u{30fa}'   // katakana
        | '\u{30fc}'..='\u{30ff}'
        | '\u{31f0}'..='\u{31ff}'
        | '\u{3400}'..='\u{4dbf}'   // ideographs
        | '\u{4e00}'..='\u{9fff}'
        | '\u{a960}'..='\u{a97c}'   // old jamo
        | '\u{ac00}'..='\u{d7a3}'   // Hangul syllables
        | '\u{d7b0}'..='\u{d7fb}'
        | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{3fffd}')
}

#[cfg(test)]
mod tests;
