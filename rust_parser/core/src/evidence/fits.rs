//! What a value can be read as: one bit for each reading, and the type that the bits of a whole column tell.
//!
//! A value has the bits of all readings that it fits; a column has those that all of its values have. So a column's bits
//! are the same whatever the order and the grouping in which its values were seen, and every value fits the type told.
//! A date and time is read by its parts, so its date forms, time forms and zones are bits of their own.

use super::number::{self, Number};
use super::temporal;

/// Bits of readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fits(pub(super) u64);

impl Fits {
    pub(super) const INTEGER: Self = Self(1 << 0);
    pub(super) const DECIMAL: Self = Self(1 << 1);
    pub(super) const FLOAT: Self = Self(1 << 2);
    /// The same two with grouping commas, or without where there is nothing to group.
    pub(super) const GROUPED_INTEGER: Self = Self(1 << 3);
    pub(super) const GROUPED_DECIMAL: Self = Self(1 << 4);
    pub(super) const TRUE_FALSE: Self = Self(1 << 5);
    pub(super) const YES_NO: Self = Self(1 << 6);
    pub(super) const Y_N: Self = Self(1 << 7);
    pub(super) const T_F: Self = Self(1 << 8);
    pub(super) const YES_NO_KOREAN: Self = Self(1 << 9);
    pub(super) const DATE: Self = Self(1 << 10);
    pub(super) const TIME: Self = Self(1 << 11);
    pub(super) const TIMESTAMP: Self = Self(1 << 12);
    /// Date forms; year first, with each separator.
    pub(super) const YEAR_DASH: Self = Self(1 << 13);
    pub(super) const YEAR_SLASH: Self = Self(1 << 14);
    pub(super) const YEAR_DOT: Self = Self(1 << 15);
    /// `2024. 3. 1.`, with or without the blanks and the last dot.
    pub(super) const KOREAN_DOTS: Self = Self(1 << 16);
    /// `2024년 3월 1일`.
    pub(super) const KOREAN_WORDS: Self = Self(1 << 17);
    /// `20240301`, which is an integer too.
    pub(super) const COMPACT: Self = Self(1 << 18);
    pub(super) const MONTH_DASH: Self = Self(1 << 19);
    pub(super) const MONTH_SLASH: Self = Self(1 << 20);
    pub(super) const MONTH_DOT: Self = Self(1 << 21);
    pub(super) const DAY_DASH: Self = Self(1 << 22);
    pub(super) const DAY_SLASH: Self = Self(1 << 23);
    pub(super) const DAY_DOT: Self = Self(1 << 24);
    /// Time forms.
    pub(super) const HOURS_24: Self = Self(1 << 25);
    /// `3:05 PM`.
    pub(super) const HOURS_12: Self = Self(1 << 26);
    /// `오후 3:05`.
    pub(super) const HOURS_12_KOREAN: Self = Self(1 << 27);
    pub(super) const WITHOUT_SECONDS: Self = Self(1 << 28);
    pub(super) const UNZONED: Self = Self(1 << 29);
    pub(super) const ZONED: Self = Self(1 << 30);
    pub(super) const NONE: Self = Self(0);
    pub(super) const ALL: Self = Self((1 << 31) - 1);
    pub(super) const TIME_FORMS: Self =
        Self(Self::HOURS_24.0 | Self::HOURS_12.0 | Self::HOURS_12_KOREAN.0 | Self::WITHOUT_SECONDS.0);
    pub(super) const ZONES: Self = Self(Self::UNZONED.0 | Self::ZONED.0);
    pub(super) const DATE_FORMS: Self = Self((1 << 25) - (1 << 13));
    const BOOLEANS: Self = Self((1 << 10) - (1 << 5));
    /// What an integer without commas fits, [`Fits::COMPACT`] aside.
    pub(super) const PLAIN_INTEGER: Self = Self((1 << 5) - 1);
    /// What a number with a point and without commas fits.
    pub(super) const PLAIN_DECIMAL: Self = Self(Self::DECIMAL.0 | Self::FLOAT.0 | Self::GROUPED_DECIMAL.0);

    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether it has one of these bits.
    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether all values are numbers.
    pub(super) const fn is_number(self) -> bool {
        self.has(Self::PLAIN_INTEGER)
    }
}

/// The narrowest type that every value of a column fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// No value to tell by.
    Empty,
    /// Whole numbers of 64 bits, without leading zeros.
    Integer,
    /// Numbers of up to 38 digits, without leading zeros.
    Decimal,
    /// Numbers some of which have an exponent.
    Float,
    /// Words of one of these pairs, in any case: true/false, yes/no, y/n, t/f, 예/아니오.
    Boolean,
    /// Days.
    Date,
    /// Times of day.
    Time,
    /// Days with times.
    Timestamp,
    /// Anything.
    Text,
}

impl ColumnType {
    /// The name that callers compare with.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Integer => "integer",
            Self::Decimal => "decimal",
            Self::Float => "float",
            Self::Boolean => "boolean",
            Self::Date => "date",
            Self::Time => "time",
            Self::Timestamp => "timestamp",
            Self::Text => "text",
        }
    }

    /// The type of a column that has values.
    pub(super) fn of(fits: Fits) -> Self {
        let (date, time) = (fits.has(Fits::DATE_FORMS), fits.has(Fits::TIME_CLOCKS));
        if fits.has(Fits::BOOLEANS) {
            Self::Boolean
        } else if fits.has(Fits::INTEGER) {
            Self::Integer
        } else if fits.has(Fits::DECIMAL) {
            Self::Decimal
        } else if fits.has(Fits::FLOAT) {
            Self::Float
        } else if fits.has(Fits::GROUPED_INTEGER) {
            Self::Integer
        } else if fits.has(Fits::GROUPED_DECIMAL) {
            Self::Decimal
        } else if fits.has(Fits::DATE) && date {
            Self::Date
        } else if fits.has(Fits::TIME) && time {
            Self::Time
        } else if fits.has(Fits::TIMESTAMP) && date && time && fits.has(Fits::ZONES) {
            Self::Timestamp
        } else {
            Self::Text
        }
    }
}

impl Fits {
    const TIME_CLOCKS: Self = Self(Self::HOURS_24.0 | Self::HOURS_12.0 | Self::HOURS_12_KOREAN.0);

    /// Whether its numbers have grouping commas.
    pub(super) fn is_grouped(self) -> bool {
        !self.has(Self(0b111)) && self.has(Self(0b11000))
    }

    /// Whether month-first and day-first both fit every date.
    pub(super) fn has_ambiguous_days(self) -> bool {
        let month_first = self.0 >> 19 & 0b111;
        let day_first = self.0 >> 22 & 0b111;
        month_first & day_first != 0
    }

    /// How the values of a date, time or timestamp are written; `YYYYMMDD` for integers that are all days too.
    pub(super) fn format(self, column_type: ColumnType) -> String {
        match column_type {
            ColumnType::Date => self.date_format().to_owned(),
            ColumnType::Time => self.time_format().to_owned(),
            ColumnType::Timestamp => {
                let zone = if self.has(Self::UNZONED) { "" } else { "±HH:MM" };
                format!("{} {}{zone}", self.date_format(), self.time_format())
            }
            ColumnType::Integer if self.has(Self::COMPACT) => self.date_format().to_owned(),
            _ => String::new(),
        }
    }

    fn date_format(self) -> &'static str {
        const FORMATS: &[(Fits, &str)] = &[
            (Fits::YEAR_DASH, "YYYY-MM-DD"),
            (Fits::YEAR_SLASH, "YYYY/MM/DD"),
            (Fits::YEAR_DOT, "YYYY.MM.DD"),
            (Fits::KOREAN_DOTS, "YYYY. M. D."),
            (Fits::KOREAN_WORDS, "YYYY년 M월 D일"),
            (Fits::COMPACT, "YYYYMMDD"),
            (Fits::MONTH_DASH, "MM-DD-YYYY"),
            (Fits::MONTH_SLASH, "MM/DD/YYYY"),
            (Fits::MONTH_DOT, "MM.DD.YYYY"),
            (Fits::DAY_DASH, "DD-MM-YYYY"),
            (Fits::DAY_SLASH, "DD/MM/YYYY"),
            (Fits::DAY_DOT, "DD.MM.YYYY"),
        ];
        self.first_of(FORMATS)
    }

    fn time_format(self) -> &'static str {
        if self.has(Self::WITHOUT_SECONDS) {
            self.first_of(&[
                (Self::HOURS_24, "HH:MM"),
                (Self::HOURS_12, "h:MM AM"),
                (Self::HOURS_12_KOREAN, "오전 h:MM"),
            ])
        } else {
            self.first_of(&[
                (Self::HOURS_24, "HH:MM:SS"),
                (Self::HOURS_12, "h:MM:SS AM"),
                (Self::HOURS_12_KOREAN, "오전 h:MM:SS"),
            ])
        }
    }

    fn first_of(self, names: &[(Self, &'static str)]) -> &'static str {
        names.iter().find(|(form, _)| self.has(*form)).map_or("", |(_, name)| name)
    }
}

/// A value's readings, and its number where it is one.
pub(super) fn read(text: &[u8]) -> (Fits, Option<Number>) {
    match text.first() {
        Some(b'0'..=b'9' | b'-' | b'.') => match number::read(text) {
            Some((fits, number)) => (fits.or(temporal::compact(text)), Some(number)),
            None => (temporal::read(text), None),
        },
        Some(0xec) => (boolean(text).or(temporal::read(text)), None),
        _ => (boolean(text), None),
    }
}

fn boolean(text: &[u8]) -> Fits {
    const WORDS: &[(&str, Fits)] = &[
        ("true", Fits::TRUE_FALSE),
        ("false", Fits::TRUE_FALSE),
        ("yes", Fits::YES_NO),
        ("no", Fits::YES_NO),
        ("y", Fits::Y_N),
        ("n", Fits::Y_N),
        ("t", Fits::T_F),
        ("f", Fits::T_F),
        ("예", Fits::YES_NO_KOREAN),
        ("아니오", Fits::YES_NO_KOREAN),
    ];
    if text.len() > "아니오".len() {
        return Fits::NONE;
    }
    WORDS.iter().find(|(word, _)| text.eq_ignore_ascii_case(word.as_bytes())).map_or(Fits::NONE, |(_, fits)| *fits)
}

/// Texts that say that there is no value, exactly as they stand here.
pub const NULL_LIKE: &[&str] = &[
    "NULL",
    "Null",
    "null",
    "NA",
    "N/A",
    "n/a",
    "#N/A",
    "NaN",
    "nan",
    "None",
    "none",
    "NONE",
    "NIL",
    "nil",
    "-",
    "\\N",
    "없음",
    "해당없음",
    "해당 없음",
];

/// Whether a text says that there is no value.
#[inline]
pub(super) fn is_null_like(text: &[u8]) -> bool {
    // Most texts are told by their first byte or length.
    text.first().is_some_and(|first| may_be_null_like(*first))
        && matches!(text.len(), 1..=4 | 6 | 12 | 13)
        && NULL_LIKE.iter().any(|word| word.as_bytes() == text)
}

/// Whether a text that begins with this byte may say that there is no value.
#[inline]
pub(super) fn may_be_null_like(first: u8) -> bool {
    matches!(first, b'N' | b'n' | b'-' | b'#' | b'\\' | 0xec | 0xed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn type_of(values: &[&str]) -> (ColumnType, String) {
        let fits = values.iter().fold(Fits::ALL, |fits, value| fits.and(read(value.as_bytes()).0));
        let column_type = ColumnType::of(fits);
        (column_type, fits.format(column_type))
    }

    #[test]
    fn a_column_has_the_narrowest_type_that_each_value_fits() {
        use ColumnType::{Boolean, Date, Decimal, Float, Integer, Text, Time, Timestamp};
        let cases: &[(&[&str], ColumnType, &str)] = &[
            (&["1", "-20", "0", "9223372036854775807"], Integer, ""),
            (&["9223372036854775808"], Decimal, ""),
            (&["007"], Text, ""),
            (&["1", "07"], Text, ""),
            (&["+5"], Text, ""),
            (&["1.50", "-0.25", ".5", "3"], Decimal, ""),
            (&["5."], Text, ""),
            (&["00.5"], Text, ""),
            (&["99999999999999999999999999999999999999"], Decimal, ""),
            (&["999999999999999999999999999999999999999"], Text, ""),
            (&["1e5", "2.5E-3", "7"], Float, ""),
            (&["1e999"], Text, ""),
            (&["1e-999"], Text, ""),
            (&["0e-999", "-0.0E5"], Float, ""),
            (&["1,234,567", "12", "999"], Integer, ""),
            (&["1,234.50", "0.5"], Decimal, ""),
            (&["1,23"], Text, ""),
            (&["1,2345"], Text, ""),
            (&["1,234", "1e5"], Text, ""),
            (&["true", "FALSE"], Boolean, ""),
            (&["Y", "n"], Boolean, ""),
            (&["예", "아니오"], Boolean, ""),
            (&["yes", "true"], Text, ""),
            (&["0", "1"], Integer, ""),
            (&["2024-03-01", "2024-2-29"], Date, "YYYY-MM-DD"),
            (&["2023-02-29"], Text, ""),
            (&["2024/03/01"], Date, "YYYY/MM/DD"),
            (&["2024.03.01", "2024.12.31"], Date, "YYYY.MM.DD"),
            (&["2024. 3. 1.", "2024.03.01"], Date, "YYYY. M. D."),
            (&["2024. 3. 1"], Date, "YYYY. M. D."),
            (&["2024년 3월 1일", "2024년 12월 31일", "2024년12월31일"], Date, "YYYY년 M월 D일"),
            (&["20240301", "19991231"], Integer, "YYYYMMDD"),
            (&["20240301", "20241301"], Integer, ""),
            (&["03/01/2024", "12/31/2024"], Date, "MM/DD/YYYY"),
            (&["01/03/2024", "31/12/2024"], Date, "DD/MM/YYYY"),
            (&["31.12.2024"], Date, "DD.MM.YYYY"),
            (&["03/13/2024", "13/03/2024"], Text, ""),
            (&["2024-03-01", "2024/03/01"], Text, ""),
            (&["12:30", "7:05"], Time, "HH:MM"),
            (&["12:30", "07:05:10.25"], Time, "HH:MM:SS"),
            (&["24:00"], Text, ""),
            (&["3:05 PM", "12:00 am"], Time, "h:MM AM"),
            (&["오전 3:05", "오후 12:00"], Time, "오전 h:MM"),
            (&["오후 13:05"], Text, ""),
            (&["2024-03-01 12:30:00", "2024-03-01T12:30:00.123"], Timestamp, "YYYY-MM-DD HH:MM:SS"),
            (&["2024-03-01T12:30:00Z", "2024-03-01T12:30:00+09:00"], Timestamp, "YYYY-MM-DD HH:MM:SS±HH:MM"),
            (&["2024-03-01T12:30:00Z", "2024-03-01T12:30:00"], Text, ""),
            (&["2024. 3. 1. 오후 3:05"], Timestamp, "YYYY. M. D. 오전 h:MM"),
            (&["3/1/2024 3:05 PM", "12/31/2024 11:59 AM"], Timestamp, "MM/DD/YYYY h:MM AM"),
            (&["2024-03-01", "2024-03-01 12:30"], Text, ""),
            (&["서울", "1"], Text, ""),
            (&["1", "2024-03-01"], Text, ""),
        ];
        for (values, column_type, format) in cases {
            assert_eq!(type_of(values), (*column_type, (*format).to_owned()), "{values:?}");
        }
    }

    #[test]
    fn days_are_ambiguous_where_month_first_and_day_first_fit_every_value() {
        let fits = |values: &[&str]| values.iter().fold(Fits::ALL, |fits, value| fits.and(read(value.as_bytes()).0));
        assert!(fits(&["03/01/2024", "12/12/2024"]).has_ambiguous_days());
        assert!(!fits(&["03/01/2024", "03/13/2024"]).has_ambiguous_days());
        assert!(!fits(&["2024-03-01"]).has_ambiguous_days());
    }

    #[test]
    fn null_like_texts_are_those_of_the_list() {
        assert!(NULL_LIKE.iter().all(|word| is_null_like(word.as_bytes())));
        // By this the typed view tells them from numbers, dates and times.
        assert!(!NULL_LIKE.iter().any(|word| word.contains(|character: char| character.is_ascii_digit())));
        for word in ["", "N", "no", "--", "0", "nUll", "해당", "#N/A!"] {
            assert!(!is_null_like(word.as_bytes()), "{word}");
        }
    }
}
