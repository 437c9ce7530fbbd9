//! The table of terms, and the property that the fast lexer finds the same.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Text, and its terms in order.
const CASES: &[(&str, &[&str])] = &[
    ("", &[]),
    (" -- . ,", &[]),
    // Words
    ("Hello, World", &["hello", "world"]),
    ("don't", &["don", "t"]),
    ("a a A", &["a"]),
    ("Straße CAFÉ", &["straße", "café"]),
    ("ИВАН", &["иван"]),
    ("İstanbul", &["i\u{307}stanbul"]),
    ("हिन्दी", &["हिन्दी"]),
    ("s24 10kg", &["s24", "10kg"]),
    // Numbers
    ("1,234.5", &["1234.5"]),
    ("1234.5", &["1234.5"]),
    ("1,234,567", &["1234567"]),
    ("₩1,234,500원", &["1234500", "원"]),
    ("-12.50%", &["12.50"]),
    ("1,2,3", &["1", "2", "3"]),
    ("12,34", &["12", "34"]),
    ("1234,567", &["1234", "567"]),
    ("1.5,200", &["1.5", "200"]),
    ("3.", &["3"]),
    (".5", &["5"]),
    // Dates and codes: whole, then in parts
    ("2013-01-31", &["2013-01-31", "2013", "01", "31"]),
    ("2013.01.31", &["2013.01.31", "2013", "01", "31"]),
    ("12:30", &["12:30", "12", "30"]),
    ("2013-01-31T12:30:45Z", &["2013-01-31", "2013", "01", "31", "12:30:45", "12", "30", "45"]),
    (
        "2013-01-31T12:30:45.5+09:00",
        &["2013-01-31", "2013", "01", "31", "12:30:45.5", "12", "30", "45", "5", "09:00", "09", "00"],
    ),
    ("AB-1234/x", &["ab-1234/x", "ab", "1234", "x"]),
    ("snake_case", &["snake_case", "snake", "case"]),
    ("kim@example.com", &["kim@example.com", "kim", "example", "com"]),
    ("https://example.com/a?b=1", &["https", "example.com/a", "example", "com", "a", "b", "1"]),
    ("v2.5.1", &["v2.5.1", "v2", "5", "1"]),
    ("-a-", &["a"]),
    ("a--b", &["a", "b"]),
    ("end.,next", &["end", "next"]),
    ("10:30,11:40", &["10:30", "10", "30", "11:40", "11", "40"]),
    // Hangul, ideographs, kana
    ("서울", &["서울"]),
    ("한국어", &["한국", "국어"]),
    ("원", &["원"]),
    ("대한민국 만세", &["대한", "한민", "민국", "만세"]),
    ("서울2024", &["서울", "2024"]),
    ("3월", &["3", "월"]),
    ("갤럭시S24", &["갤럭", "럭시", "s24"]),
    ("ABC-가나다-12", &["abc", "가나", "나다", "12"]),
    ("서울·부산", &["서울", "부산"]),
    ("東京都", &["東京", "京都"]),
    ("ひらがな", &["ひら", "らが", "がな"]),
    ("データ", &["デー", "ータ"]),
    ("𠀀𠀁", &["𠀀𠀁"]),
    // Folding
    ("ＡＢＣ１２", &["abc12"]),
    ("㈜다리", &["주", "다리"]),
    ("ｱｲ", &["アイ"]),
    ("ﬁle", &["file"]),
    ("㎡", &["m2"]),
    ("\u{1112}\u{1161}\u{11ab}\u{1100}\u{116e}\u{11a8}", &["한국"]),
    ("か\u{3099}く", &["がく"]),
];

#[test]
fn each_text_gives_its_terms_in_order() {
    for (text, expected) in CASES {
        assert_eq!(lexemes(text), *expected, "{text:?}");
    }
}

#[test]
fn a_long_word_is_cut_and_a_long_code_is_kept_in_parts() {
    let word = "x".repeat(100);
    assert_eq!(lexemes(&word), ["x".repeat(64)]);
    let accents = "é".repeat(40);
    assert_eq!(lexemes(&accents), ["é".repeat(32)]);
    let odd = format!("a{}", "é".repeat(40));
    assert_eq!(lexemes(&odd), [format!("a{}", "é".repeat(31))]);
    let code = ["part"; 20].join("-");
    assert_eq!(lexemes(&code), ["part"]);
    let fits = format!("{}-{}", "a".repeat(31), "b".repeat(32));
    assert_eq!(lexemes(&fits)[0], fits);
}

#[test]
fn a_grouped_number_matches_the_plain_one() {
    assert_eq!(lexeme_hashes("1,234.5"), lexeme_hashes("1234.5"));
}

#[test]
fn matches_are_told_for_each_text_and_each_query_term() {
    let query = lexeme_hashes("서울 2024 park");
    let found = count_matches(&query, ["서울특별시 2024-01-01", "Park, 부산", "", "cafés PARK 서울"]);
    assert_eq!(found, [[true, true, false], [false, false, true], [false; 3], [true, false, true]]);
    assert_eq!(count_matches(&[], ["a"]), [[]; 1]);
}

/// The terms as a set of hashes, by the definition.
fn defined(texts: &[String]) -> BTreeSet<i32> {
    texts.iter().flat_map(|text| lexeme_hashes(text)).collect()
}

fn collected(texts: &[String], mut add: impl FnMut(&mut fast::Lexer, &str, &mut dyn FnMut(i32))) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut lexer = fast::Lexer::default();
    for text in texts {
        add(&mut lexer, text, &mut |hash| {
            found.insert(hash);
        });
    }
    lexer.flush(&mut |text: &[u8], start: usize, end: usize| {
        found.insert(hash(text, start, end - start));
    });
    found
}

fn fast_terms(texts: &[String]) -> BTreeSet<i32> {
    collected(texts, |lexer, text, add| {
        lexer.cell(text.as_bytes(), &mut |text: &[u8], start: usize, end: usize| add(hash(text, start, end - start)));
    })
}

#[test]
fn the_fast_lexer_agrees_on_every_case_at_every_place_in_a_block() {
    for (text, _) in CASES {
        for before in 0..130 {
            let texts =
                [format!("{}{text}", " ".repeat(before)), format!("{}{text}", "y".repeat(before)), (*text).to_owned()];
            assert_eq!(fast_terms(&texts), defined(&texts), "{texts:?}");
        }
    }
}

/// Text in which everything that the cutter tells apart is frequent.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z]{1,9}",
        4 => "[0-9]{1,4}",
        4 => "[-_/.:@, ]{1,2}",
        3 => "[가-힣]{1,4}",
        1 => "[一-鿿ぁ-ゖァ-ヺーｱ-ﾝ々]{1,3}",
        1 => "[“”·※①㈜㎡éЖа́İßกा]{1,2}",
        1 => "[A-Za-z0-9]{60,70}",
        1 => "2013-01-31T12:30",
        1 => "\\PC",
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn the_fast_lexer_finds_the_terms_that_the_definition_finds(texts in proptest::collection::vec(text(), 0..6)) {
        prop_assert_eq!(fast_terms(&texts), defined(&texts));
    }

    #[test]
    fn folding_is_idempotent_so_a_term_finds_itself(text in text()) {
        for term in lexemes(&text) {
            prop_assert!(lexemes(&term).contains(&term), "{:?} of {:?}", term, text);
        }
    }
}
