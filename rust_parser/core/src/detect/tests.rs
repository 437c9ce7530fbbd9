//! Whole decisions: texts as they come, and what holds for all of them.

use proptest::prelude::*;

use super::*;

/// Comma, quote, a header, nothing else.
const RFC_4180: Dialect = Dialect {
    delimiter: b',',
    quote: Some(b'"'),
    escape: None,
    comment: None,
    trims_blanks: false,
    preamble_lines: 0,
    header_rows: 1,
};

fn dialect(text: &str) -> Dialect {
    detect(text.as_bytes(), true, &Hints::default()).reading.dialect
}

fn check(cases: &[(&str, &str, Dialect)]) {
    let wrong: Vec<_> = cases
        .iter()
        .filter(|(_, text, expected)| dialect(text) != *expected)
        .map(|(name, text, expected)| format!("{name}: {:?}\nnot {expected:?}", dialect(text)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn marks_are_found() {
    let with = |delimiter: u8| Dialect { delimiter, ..RFC_4180 };
    check(&[
        ("RFC 4180", "id,name\r\n1,\"Kim, M.\"\r\n2,\"Lee \"\"J\"\"\"\r\n", RFC_4180),
        ("quoted everywhere", "\"id\",\"name\"\n\"1\",\"Kim\"\n\"2\",\"Lee\"\n", RFC_4180),
        ("line ends in cells", "id,text\n1,\"a\nb, c\n\nd\"\n2,\"e\"\n", RFC_4180),
        ("semicolons, decimal commas", "a;b;c\n1,5;2,25;3\n4,5;5,75;6\n", with(b';')),
        ("semicolons, quoted", "\"a\";\"b\"\n\"x;y\";\"1,2\"\n\"z\";\"3,4\"\n", with(b';')),
        ("tabs, commas in text", "id\ttext\n1\tred, green\n2\tblue\n", with(b'\t')),
        ("bars", "id|name|city\n1|Kim|Seoul, Korea\n2|Lee|Busan\n", with(b'|')),
        ("blanks", "x y z\n1.5 2.5 3.5\n4.5 5.5 6.5\n", with(b' ')),
        ("carets", "a^b^c\n1,5^x y^2\n2,5^z^3\n", with(b'^')),
        ("lists inside cells", "id,tags,n\n1,a;b;c,2\n2,d;e;f,3\n", RFC_4180),
        ("times inside cells", "day,at\n2020-01-01,10:20\n2020-01-02,11:30\n", RFC_4180),
        ("told in the first line", "sep=;\na;b\n1,5;2\n", Dialect { preamble_lines: 1, ..with(b';') }),
        ("inches", "id,size\n1,5\" pipe\n2,6\" pipe\n3,7\"\n", RFC_4180),
        (
            "apostrophes as quotes",
            "id,text\n1,'red, green'\n2,'men's, kids'\n3,'blue'\n",
            Dialect { quote: Some(b'\''), ..RFC_4180 },
        ),
        ("apostrophes as text", "id,text\n1,'tis\n2,men's\n3,kids'\n", RFC_4180),
        (
            "escaped quotes",
            "id,json\n1,\"{\\\"a\\\": 1, \\\"b\\\": 2}\"\n2,\"{\\\"a\\\": 3}\"\n",
            Dialect { escape: Some(b'\\'), ..RFC_4180 },
        ),
        (
            "doubled quotes and backslashes",
            "id,json\n1,\"{\"\"a\"\": \"\"\\n\"\", \"\"b\"\": 2}\"\n2,\"{}\"\n",
            RFC_4180,
        ),
        ("folders", "id,folder\n1,\"C:\\data\\\"\n2,\"D:\\new\\\"\n", RFC_4180),
        (
            "blanks behind commas",
            "id, name, at\n1, \"Kim, M.\", 10:20\n2, Lee, 11:30\n",
            Dialect { trims_blanks: true, ..RFC_4180 },
        ),
        ("a blank in a cell", "id,name\n1, Kim\n2,Lee\n3,Park\n", RFC_4180),
        ("one extra quote", "id,name,n\n1,\"Kim,5\n2,Lee,6\n3,\"Park, J.\",7\n", RFC_4180),
    ]);
}

#[test]
fn one_column_stays_one_column() {
    let nowhere = Dialect { delimiter: 0x1F, ..RFC_4180 };
    check(&[
        ("words", "name\nKim\nLee\nPark\n", RFC_4180),
        ("numbers", "n\n1\n2\n3\n", RFC_4180),
        ("points of time", "at\n2020-01-01 00:00:00\n2020-01-02 00:00:00\n", RFC_4180),
        ("times of day", "at\n10:20:30\n10:20:31\n", RFC_4180),
        ("names of two words", "name\nAnn Lee\nBo Kim\nCy Park\n", RFC_4180),
        ("addresses of three words", "주소\n서울특별시 강남구 역삼동\n부산광역시 해운대구 우동\n", RFC_4180),
        ("quoted sentences", "text\n\"red, green\"\n\"blue, and red, and green\"\nwhite\n", RFC_4180),
        (
            "sentences",
            "text\nIt rained, and then it did not.\nNo comma here.\nOne, two, three, go.\nDry, at last.\nWarm, too, and dry.\n",
            nowhere,
        ),
        ("family name first", "name\nKim, Minsu\nLee, Jiho\nPark, Seoyeon\n", nowhere),
        ("grouped digits", "amount\n1,234\n5,678\n9,012\n", nowhere),
        ("links", "url\nhttps://a.example/x,y\nhttps://b.example/\nhttps://c.example/z\n", nowhere),
    ]);
}

#[test]
fn headers_are_found() {
    let rows = |header_rows: u32| Dialect { header_rows, ..RFC_4180 };
    check(&[
        ("nothing", "", rows(0)),
        ("empty lines", "\n\n", rows(0)),
        ("a header alone", "id,name,price\n", rows(1)),
        ("one row alone", "1,Kim,3.5\n", rows(0)),
        ("one row below", "id,name\n1,Kim\n", rows(1)),
        ("numbers", "1,2\n3,4\n", rows(0)),
        ("words and numbers", "Kim,23\nLee,31\nPark,19\n", rows(0)),
        ("words only", "시도,시군구,담당\n서울,강남구,총무과\n부산,중구,세무과\n서울,중구,민원실\n", rows(1)),
        (
            "words only, no header",
            "서울,강남구,총무과\n서울,중구,민원실\n부산,강남구,총무과\n부산,중구,민원실\n",
            rows(0),
        ),
        ("one column, no header", "서울\n부산\n서울\n대구\n서울\n", rows(0)),
        ("one column, the same twice", "note\nnote\na\nb\nc\n", rows(2)),
        ("a number that looks like a year", "2000,Kim\n1,Lee\n2,Park\n", rows(0)),
        ("years", "지역,2019,2020,2021\n서울,10,20,30\n부산,11,21,31\n", rows(1)),
        ("an index without a name", ",a,b\n0,1,x\n1,2,y\n", rows(1)),
        ("a column without a value", "id,note\n1,\n2,\n", rows(1)),
        ("numbered names", "x1,x2,x3\n0.5,1.5,2.5\n0.1,0.2,0.3\n", rows(1)),
        ("the same twice", "a,b\na,b\n1,2\n3,4\n", rows(2)),
        ("units", "지역,인구,면적\n,(명),(㎢)\n서울,100,5.5\n부산,50,7.5\n", rows(2)),
        ("names over names", "구분,인구,,면적\n,남,여,\n서울,1,2,3.5\n부산,4,5,6.5\n", rows(2)),
        (
            "years over names",
            "\"지역\",\"2019\",\"2019\"\n\"지역\",\"남자\",\"여자\"\n\"서울\",\"5\",\"6\"\n\"부산\",\"7\",\"8\"\n",
            rows(2),
        ),
        ("values that are not there", "id,n,m\n1,-,-\n2,N/A,5\n3,4,6\n", rows(1)),
        ("a header that lacks a delimiter", "idname,n,at\n1,Kim,5,10:20\n2,Lee,6,11:20\n3,Park,7,12:20\n", rows(1)),
        ("a header that is one short", "a,b\nx,1,2\ny,3,4\nz,5,6\n", rows(1)),
    ]);
}

#[test]
fn what_stands_above_is_no_row() {
    let lines = |preamble_lines: u32| Dialect { preamble_lines, ..RFC_4180 };
    let table = "시도,인구,비율\n서울,9500,18.5\n부산,3300,6.4\n대구,2400,4.6\n";
    let two_columns = "시도,인구\n서울,9500\n부산,3300\n대구,2400\n";
    let cases = [
        ("a title", format!("인구 현황\n{table}"), lines(1)),
        ("a title and an empty line", format!("인구 현황\n\n{table}"), lines(2)),
        ("a unit", format!("(단위: 명)\n{table}"), lines(1)),
        ("a unit in the last cell", format!(",,(단위: 명)\n{table}"), lines(1)),
        ("separated like rows", format!("PREAMBLE,,\n,,\n{table}"), lines(2)),
        ("properties", format!("기관,통계청\n작성,2020-01-02\n\n{table}"), lines(3)),
        ("prose with commas", format!("출처: 통계청, 행정안전부, 그 밖의 기관, 2020\n{table}"), lines(1)),
        ("above two columns", format!("인구 현황\n(단위: 명)\n{two_columns}"), lines(2)),
        ("two cells above two columns", format!("작성: 통계청, 2020\n\n{two_columns}"), lines(2)),
        ("a unit above two columns", format!(",(단위: 명)\n{two_columns}"), lines(1)),
        ("a line end inside quotes", format!("\"인구\n현황\"\n{table}"), lines(2)),
        (
            "comments",
            format!("# made by us\n# 2020, by hand\n{table}# end\n"),
            Dialect { comment: Some(b'#'), ..lines(2) },
        ),
        (
            "a comment further down",
            format!("{table}# checked\n광주,1400,2.8\n"),
            Dialect { comment: Some(b'#'), ..lines(0) },
        ),
        ("a header with a hash", "#id,name,n\n1,Kim,5\n2,Lee,6\n".into(), lines(0)),
        ("hashes in rows", "tag,n,m\n#a,1,2\n#b,3,4\n".into(), lines(0)),
        ("a row with one value", "a,b,c\n,,5\n1,2,3\n4,5,6\n".into(), lines(0)),
        ("a row with one value, no header", ",,5\n1,2,3\n4,5,6\n".into(), Dialect { header_rows: 0, ..lines(0) }),
        ("a short row, no header", "1,2\n3,4,5\n6,7,8\n".into(), Dialect { header_rows: 0, ..lines(0) }),
    ];
    check(&cases.iter().map(|(name, text, expected)| (*name, text.as_str(), *expected)).collect::<Vec<_>>());
}

#[test]
fn what_is_hinted_is_taken() {
    let text = b"title\na;b\n1;2\n";
    let hints = Hints {
        delimiter: Some(b','),
        quote: Some(None),
        escape: Some(Some(b'\\')),
        comment: Some(Some(b'%')),
        trims_blanks: Some(true),
        preamble_lines: Some(1),
        header_rows: Some(2),
        encoding: Some(crate::reading::Encoding::Windows1252),
    };
    let expected = Dialect {
        delimiter: b',',
        quote: None,
        escape: Some(b'\\'),
        comment: Some(b'%'),
        trims_blanks: true,
        preamble_lines: 1,
        header_rows: 2,
    };
    let detected = detect(text, true, &hints);
    assert_eq!(detected.reading, Reading { encoding: crate::reading::Encoding::Windows1252, dialect: expected });
    assert_eq!((detected.runner_up, detected.confidence), (None, 1.0));
}

#[test]
fn a_hint_changes_what_is_found_beside_it() {
    let text = "1,5;2,5\n3,5;4,5\n";
    let hints = Hints { delimiter: Some(b','), ..Hints::default() };
    assert_eq!(dialect(text).delimiter, b';');
    assert_eq!(detect(text.as_bytes(), true, &hints).reading.dialect.delimiter, b',');
}

#[test]
fn a_clear_file_is_surer_than_an_ambiguous_one() {
    let confidence = |text: &str| detect(text.as_bytes(), true, &Hints::default()).confidence;
    assert!(confidence("id,name,at\n1,Kim,10:20\n2,Lee,11:20\n") > confidence("a;b,c\nd;e,f\n"));
}

/// Text in which all that means something is frequent.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => Just(b",".as_slice()),
        2 => Just(b";".as_slice()),
        2 => Just(b"\t".as_slice()),
        2 => Just(b" ".as_slice()),
        4 => Just(b"\n".as_slice()),
        1 => Just(b"\r".as_slice()),
        3 => Just(b"\"".as_slice()),
        2 => Just(b"'".as_slice()),
        2 => Just(b"\\".as_slice()),
        1 => Just(b"#".as_slice()),
        3 => Just(b"12".as_slice()),
        3 => Just(b"word".as_slice()),
        2 => Just("한글".as_bytes()),
        1 => Just(b"2020-01-02".as_slice()),
        1 => Just(b"\xB1\xE8".as_slice()),
        1 => Just(b"\0".as_slice()),
        1 => Just(b"\xFF\xFE".as_slice()),
        1 => Just(b"sep=,\n".as_slice()),
    ];
    proptest::collection::vec(piece, 0..80).prop_map(|pieces| pieces.concat())
}

/// A table of at least two columns whose cells are as the generators of companies' files make them.
fn table() -> impl Strategy<Value = Vec<Vec<String>>> {
    let columns = proptest::collection::vec(0..4_usize, 1..6);
    (columns, 3..20_usize).prop_flat_map(|(columns, rows)| {
        let row: Vec<BoxedStrategy<String>> = std::iter::once("[1-9][0-9]{0,4}".boxed())
            .chain(columns.into_iter().map(|kind| match kind {
                0 => "-?[0-9]{1,3}\\.[0-9]{2}".boxed(),
                1 => "20[012][0-9]-0[1-9]-[12][0-9]".boxed(),
                2 => "[A-Z][a-z]{2,8}(, [A-Z][a-z]{2,8}| \"[a-z]{3}\")?".boxed(),
                _ => "[가-힣]{2,5}( [가-힣]{2,4})?(\n[가-힣]{2})?".boxed(),
            }))
            .collect();
        proptest::collection::vec(row, rows)
    })
}

fn rfc_4180(rows: &[Vec<String>]) -> String {
    let cell = |cell: &String| match cell {
        cell if cell.contains(['"', ',', '\n']) => format!("\"{}\"", cell.replace('"', "\"\"")),
        cell => cell.clone(),
    };
    rows.iter().map(|row| row.iter().map(cell).collect::<Vec<_>>().join(",") + "\r\n").collect()
}

proptest! {
    #[test]
    fn any_bytes_are_decided_the_same_each_time(text in text(), is_whole: bool) {
        let detected = detect(&text, is_whole, &Hints::default());
        prop_assert_eq!(detected, detect(&text, is_whole, &Hints::default()));
        prop_assert!((0.0..=1.0).contains(&detected.confidence));
        prop_assert_ne!(detected.runner_up, Some(detected.reading));
        prop_assert!(detected.reading.dialect.header_rows <= 8);
        prop_assert_ne!(detected.reading.dialect.quote, Some(detected.reading.dialect.delimiter));
    }

    #[test]
    fn a_clean_table_is_never_misread(table in table(), has_header: bool) {
        let mut rows = table;
        if has_header {
            rows.insert(0, (0..rows[0].len()).map(|column| format!("name {column}")).collect());
        }
        let found = detect(rfc_4180(&rows).as_bytes(), true, &Hints::default()).reading.dialect;
        prop_assert_eq!(found, Dialect { header_rows: u32::from(has_header), ..RFC_4180 });
    }
}
