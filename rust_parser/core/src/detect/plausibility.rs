//! How plausible a text is under each encoding of eight-bit text.
//!
//! Nearly all bytes above 0x7F decode under several encodings. What they decode to tells them apart: written Korean keeps
//! to a few hundred of 11,172 syllables, written Chinese and Japanese to their frequent ideographs and kana, while bytes
//! of another encoding come out as letters that nobody writes. Each candidate walks the same bytes and adds up a weight a
//! character; the largest sum wins. Weights are in units of evidence, 2 for "as expected" and −8 for "cannot be"; they
//! are right up to a factor of two, and the tests hold with any factor of that size.

use std::sync::LazyLock;

use encoding_rs::{EUC_KR, GB18030, SHIFT_JIS};

use crate::reading::Encoding;

const EXPECTED: i64 = 20;
const LIKELY: i64 = 12;
const POSSIBLE: i64 = 3;
const ODD: i64 = -5;
const UNLIKELY: i64 = -15;
const RARE: i64 = -30;
const IMPOSSIBLE: i64 = -80;

/// UTF-8 starts ahead of CP949 by this where a text is valid in both.
const UTF8_AHEAD: i64 = 30;

/// Syllables that make up about four fifths of Korean text, names, addresses and table headings.
const FREQUENT_SYLLABLES: &str = "가각간갈감갑강개객거건걸검게겨격결경계고곡골공과관광교구국군권귀규균그극근글금급기긴길김\
    까께꼬끝나난날남내너년념노녹논농누는능니다단달담당대더덕데도독동되된될두드득든들등따때또라락란람래략량러럭런레려력련렬령례로록론료\
    루류률르른를름리린림립마막만말망매맥머먼메며면명모목몰무묵문물미민밀및바박반발방배백번벌범법벽변별병보복본봉부북분불브비빈빌사산살삼상\
    새색생서석선설섬성세센소속손송수숙순술숭스습승시식신실심십싸쌍쓰씨아악안알암압앙애액야약양어억언얼엄업없에엔여역연열염엽영예오옥온올와\
    완왕외요욕용우욱운울웅원월위유육윤율으은을음응의이익인일임입있자작잔잘잠장재저적전절점접정제조족존종좌주죽준중증지직진질집째차착찬찰참창\
    채책처척천철첨청체초촌총최추축춘출충취측층치칙친침카코크타탁탄태택터테토통투트특파판팔패퍼페편평포표품풍프피필하학한할함합항해핵행향허헌\
    험혁현협형혜호혹홍화확환활황회획효후훈휘휴흥희히힘";

/// Ideographs that make up more than half of Chinese text, names, addresses and table headings.
const FREQUENT_HANZI: &str = "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行\
    所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性\
    知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教\
    原东声提立及比员解水名真论处走义各入几口认条平系气题活更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克\
    许统区保至队形社便空决治展马科司五基书非则白界达光放强即权思王设式色路记南品住告类求据程北边死张该交规万取拉格术领共确传师观清今切院识带导\
    争运省县镇村街号编姓址名称单额价货库期龄职李刘陈杨赵黄周吴";

/// Ideographs that are frequent in Japanese text, names, addresses and table headings.
const FREQUENT_KANJI: &str = "日本一国人年大十二中出三時行見月分後前生五間上東四今金九入学高円子外八六下来気小七山話女北午百書先名川千水\
    半男西電校語土木車何南万毎白天母火右左友父市区町村県都府道社会事業所部長者員新地方法定数合計番号住株式京阪田藤佐鈴島村岡原井松林清中氏\
    支店品目単価額税込売買在庫種類量期日付曜始終了開設備考区分率指標";

/// Bytes to be judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'t> {
    pub(super) bytes: &'t [u8],
    /// Whether the text ends where the bytes do; else they may end inside a character.
    pub(super) is_whole: bool,
}

impl Text<'_> {
    /// Whether all of it is UTF-8.
    pub(super) fn is_utf8(self) -> bool {
        match std::str::from_utf8(self.bytes) {
            Ok(_) => true,
            Err(error) => !self.is_whole && error.error_len().is_none(),
        }
    }
}

/// The encoding under which a text that is not UTF-8 throughout is most plausible. Of equals, the first named here.
pub(super) fn most_plausible(text: Text<'_>) -> Encoding {
    let candidates: [(Encoding, Walk); 4] = [
        (Encoding::Cp949, cp949),
        (Encoding::Utf8, utf8),
        (Encoding::Gb18030, gb18030),
        (Encoding::ShiftJis, shift_jis),
    ];
    let mut best = (Encoding::Windows1252, windows_1252(text.bytes));
    for (encoding, character) in candidates.into_iter().rev() {
        let weight = add_up(text, character);
        if weight >= best.1 {
            best = (encoding, weight);
        }
    }
    best.0
}

/// Whether `text`, which is UTF-8, is rather CP949 whose few characters happen to be two-byte sequences of UTF-8, as
/// `처` (C3 B3) is `ó`.
pub(super) fn two_byte_utf8_is_cp949(text: Text<'_>) -> bool {
    if text.bytes.iter().any(|&byte| byte >= 0xE0) {
        return false;
    }
    UTF8_AHEAD + two_byte_utf8(text.bytes) < add_up(text, cp949)
}

/// The next character of a text, which begins with a non-ASCII byte.
struct Character {
    bytes: usize,
    weight: i64,
}

/// Takes the next character off a text.
type Walk = fn(&[u8]) -> Character;

impl Character {
    fn of(bytes: usize, weight: i64) -> Self {
        Self { bytes, weight }
    }
}

/// The weights of all non-ASCII characters.
fn add_up(text: Text<'_>, character: Walk) -> i64 {
    let mut rest = text.bytes;
    let mut sum = 0;
    while let Some(next) = rest.iter().position(|byte| !byte.is_ascii()) {
        rest = &rest[next..];
        let character = character(rest);
        if character.bytes > rest.len() {
            // A character whose end is not here: no fault if the text goes on.
            return if text.is_whole { sum + IMPOSSIBLE } else { sum };
        }
        sum += character.weight;
        rest = &rest[character.bytes..];
    }
    sum
}

/// Two-byte characters as sets of bits, 65,536 of them.
struct Pairs(Box<[u64; 1024]>);

impl Pairs {
    fn encoded(text: &str, encoding: &'static encoding_rs::Encoding) -> Self {
        let mut set = Box::new([0; 1024]);
        for pair in encoding.encode(text).0.as_chunks::<2>().0 {
            let index = usize::from(u16::from_be_bytes(*pair));
            set[index / 64] |= 1 << (index % 64);
        }
        Self(set)
    }

    fn holds(&self, lead: u8, trail: u8) -> bool {
        let index = usize::from(u16::from_be_bytes([lead, trail]));
        self.0[index / 64] >> (index % 64) & 1 == 1
    }
}

/// Its first 2,350 syllables, symbols and ideographs stand where KS X 1001 has them (both bytes above 0xA0), the rest of the
/// 11,172 syllables around them.
fn cp949(text: &[u8]) -> Character {
    static FREQUENT: LazyLock<Pairs> = LazyLock::new(|| Pairs::encoded(FREQUENT_SYLLABLES, EUC_KR));
    let lead = text[0];
    let Some(&trail) = text.get(1) else { return Character::of(2, 0) };
    let weight = match (lead, trail) {
        (0xB0..=0xC8, 0xA1..=0xFE) if FREQUENT.holds(lead, trail) => EXPECTED,
        (0xB0..=0xC8 | 0xA1..=0xAC, 0xA1..=0xFE) => POSSIBLE,
        (0xCA..=0xFD, 0xA1..=0xFE) => UNLIKELY,
        (0x81..=0xC6, 0x41..=0x5A | 0x61..=0x7A | 0x81..=0xFE) => RARE,
        _ => return Character::of(1, IMPOSSIBLE),
    };
    Character::of(2, weight)
}

/// GB 2312 (both bytes above 0xA0) with its two levels of ideographs, GBK around it, four-byte characters beside it.
fn gb18030(text: &[u8]) -> Character {
    static FREQUENT: LazyLock<Pairs> = LazyLock::new(|| Pairs::encoded(FREQUENT_HANZI, GB18030));
    let lead = text[0];
    let Some(&trail) = text.get(1) else { return Character::of(2, 0) };
    let weight = match (lead, trail) {
        (0xB0..=0xD7, 0xA1..=0xFE) if FREQUENT.holds(lead, trail) => EXPECTED,
        (0xB0..=0xD7 | 0xA1..=0xA3, 0xA1..=0xFE) => POSSIBLE,
        (0xA4..=0xA9, 0xA1..=0xFE) => ODD,
        (0xD8..=0xF7, 0xA1..=0xFE) => UNLIKELY,
        (0x81..=0xFE, 0x30..=0x39) => {
            let is_valid = matches!(text.get(2..4), Some([0x81..=0xFE, 0x30..=0x39]));
            return if is_valid { Character::of(4, RARE) } else { Character::of(1, IMPOSSIBLE) };
        }
        (0x81..=0xFE, 0x40..=0x7E | 0x80..=0xFE) => RARE,
        _ => return Character::of(1, IMPOSSIBLE),
    };
    Character::of(2, weight)
}

/// Kana, two levels of ideographs, and half-width katakana of one byte, which tables hold but text does not.
fn shift_jis(text: &[u8]) -> Character {
    static FREQUENT: LazyLock<Pairs> = LazyLock::new(|| Pairs::encoded(FREQUENT_KANJI, SHIFT_JIS));
    let lead = text[0];
    if matches!(lead, 0xA1..=0xDF) {
        return Character::of(1, ODD);
    }
    let Some(&trail) = text.get(1) else { return Character::of(2, 0) };
    if !matches!(trail, 0x40..=0x7E | 0x80..=0xFC) {
        return Character::of(1, IMPOSSIBLE);
    }
    let weight = match (lead, trail) {
        (0x82, 0x9F..=0xF1) | (0x83, 0x40..=0x96) => LIKELY,
        (0x88..=0x97, _) if FREQUENT.holds(lead, trail) => EXPECTED,
        (0x81..=0x83 | 0x88..=0x97, _) => POSSIBLE,
        (0x84 | 0x87, _) => ODD,
        (0x98..=0x9F | 0xE0..=0xEA, _) => UNLIKELY,
        (0xED | 0xEE | 0xF0..=0xFC, _) => RARE,
        _ => return Character::of(1, IMPOSSIBLE),
    };
    Character::of(2, weight)
}

/// For text that has some bytes which are not UTF-8.
fn utf8(text: &[u8]) -> Character {
    let bytes = match text[0] {
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => return Character::of(1, IMPOSSIBLE),
    };
    let present = &text[..bytes.min(text.len())];
    match std::str::from_utf8(present) {
        // Three valid bytes in a row are much rarer by chance than two.
        Ok(_) => Character::of(bytes, if bytes == 2 { EXPECTED } else { 3 * EXPECTED }),
        Err(error) if error.error_len().is_none() => Character::of(bytes, 0),
        Err(_) => Character::of(1, IMPOSSIBLE),
    }
}

/// Western text has single accented letters among plain ones, and single signs; other text has runs of high bytes.
fn windows_1252(text: &[u8]) -> i64 {
    let mut sum = 0;
    let mut at = 0;
    while let Some(next) = text[at..].iter().position(|byte| !byte.is_ascii()) {
        let start = at + next;
        let length = text[start..].iter().position(u8::is_ascii).unwrap_or(text.len() - start);
        let run = &text[start..start + length];
        at = start + length;
        let beside_letter = text[..start].last().is_some_and(u8::is_ascii_alphabetic)
            || text.get(at).is_some_and(u8::is_ascii_alphabetic);
        let weight = match (length, beside_letter) {
            (1, true) => EXPECTED,
            (1, false) => LIKELY,
            (2, true) => POSSIBLE,
            (2, false) => 0,
            _ => -EXPECTED,
        };
        let undefined = run.iter().filter(|byte| matches!(byte, 0x81 | 0x8D | 0x8F | 0x90 | 0x9D)).count() as i64;
        sum += weight * length as i64 + undefined * IMPOSSIBLE;
    }
    sum
}

/// For text that is valid UTF-8 without sequences of three bytes.
fn two_byte_utf8(text: &[u8]) -> i64 {
    let mut sum = 0;
    let mut at = 0;
    while let Some(next) = text[at..].iter().position(|byte| !byte.is_ascii()) {
        let start = at + next;
        at = (start + 2).min(text.len());
        let beside_letter = text[..start].last().is_some_and(u8::is_ascii_alphabetic)
            || text.get(at).is_some_and(u8::is_ascii_alphabetic);
        sum += match text[start] {
            0xC3..=0xC9 if !beside_letter => ODD,
            _ => EXPECTED,
        };
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frequent_characters_exist_in_their_encodings() {
        for (text, encoding) in [(FREQUENT_SYLLABLES, EUC_KR), (FREQUENT_HANZI, GB18030), (FREQUENT_KANJI, SHIFT_JIS)] {
            let (bytes, _, has_unmappable) = encoding.encode(text);
            assert!(!has_unmappable);
            assert_eq!(bytes.len(), 2 * text.chars().count(), "two bytes each");
        }
    }

    #[test]
    fn a_syllable_that_is_also_latin_is_told_by_its_neighbours() {
        let is_cp949 = |bytes: &[u8]| two_byte_utf8_is_cp949(Text { bytes, is_whole: true });
        assert!(is_cp949(&EUC_KR.encode("처,처,처,처").0));
        assert!(!is_cp949("José,Ramón,Peñalosa".as_bytes()));
        assert!(!is_cp949("Привет".as_bytes()));
        assert!(!is_cp949("20 °C · 5 µm".as_bytes()));
    }
}
