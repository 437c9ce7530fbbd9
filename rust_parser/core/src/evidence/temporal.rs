//! Dates, times and timestamps: which of the usual ways to write them a text fits.
//!
//! Only days of the calendar from year 1 to 9999 and times before 24:00 count, with seconds of at most six decimals, so
//! that PostgreSQL can hold every one of them exactly. Years have four digits, days and months one or two.

use super::fits::Fits;

/// Readings of a text that is a date, a time, or both; none where it is neither.
pub(super) fn read(text: &[u8]) -> Fits {
    if let Some((form, rest)) = date(text) {
        return match rest.split_first() {
            None => Fits::DATE.or(form).or(Fits::TIME_FORMS).or(Fits::ZONES),
            Some((b' ', clock)) => stamp(form, clock),
            Some((b'T', clock)) if form == Fits::YEAR_DASH => stamp(form, clock),
            Some(_) => Fits::NONE,
        };
    }
    match time(text) {
        Some((form, b"")) => Fits::TIME.or(form).or(Fits::DATE_FORMS).or(Fits::ZONES),
        _ => Fits::NONE,
    }
}

fn stamp(date_form: Fits, clock: &[u8]) -> Fits {
    let Some((form, rest)) = time(clock) else { return Fits::NONE };
    let zone = if rest.is_empty() {
        Fits::UNZONED
    } else if form.has(Fits::HOURS_24) && is_zone(rest) {
        Fits::ZONED
    } else {
        return Fits::NONE;
    };
    Fits::TIMESTAMP.or(date_form).or(form).or(zone)
}

/// [`Fits::COMPACT`] for an integer of eight digits that is a day of 1900 to 2099.
pub(super) fn compact(text: &[u8]) -> Fits {
    if text.len() != 8 || !text.iter().all(u8::is_ascii_digit) {
        return Fits::NONE;
    }
    let (year, month, day) = (value(&text[..4]), value(&text[4..6]), value(&text[6..]));
    if (1900..2100).contains(&year) && is_day(year, month, day) {
        Fits::DATE.or(Fits::COMPACT).or(Fits::TIME_FORMS).or(Fits::ZONES)
    } else {
        Fits::NONE
    }
}

/// The forms of the date at the start of a text, and the text behind it.
fn date(text: &[u8]) -> Option<(Fits, &[u8])> {
    let (first, rest) = digits(text, 4)?;
    if let Some(rest) = rest.strip_prefix("년".as_bytes()) {
        return korean_words(first, rest);
    }
    let (separator, rest) = rest.split_first()?;
    let forms = match separator {
        b'-' => [Fits::YEAR_DASH, Fits::MONTH_DASH, Fits::DAY_DASH],
        b'/' => [Fits::YEAR_SLASH, Fits::MONTH_SLASH, Fits::DAY_SLASH],
        b'.' => [Fits::YEAR_DOT.or(Fits::KOREAN_DOTS), Fits::MONTH_DOT, Fits::DAY_DOT],
        _ => return None,
    };
    if *separator == b'.' && first.len() == 4 && rest.first() == Some(&b' ') {
        return korean_dots(first, &rest[1..]);
    }
    let (second, rest) = digits(rest, 2)?;
    let (third, rest) = digits(rest.strip_prefix(&[*separator])?, 4)?;
    if first.len() == 4 && third.len() <= 2 {
        if !is_day(value(first), value(second), value(third)) {
            return None;
        }
        return match rest.strip_prefix(b".") {
            Some(rest) if *separator == b'.' => Some((Fits::KOREAN_DOTS, rest)),
            _ => Some((forms[0], rest)),
        };
    }
    if first.len() > 2 || third.len() != 4 {
        return None;
    }
    let (one, other, year) = (value(first), value(second), value(third));
    let month_first = if is_day(year, one, other) { forms[1] } else { Fits::NONE };
    let day_first = if is_day(year, other, one) { forms[2] } else { Fits::NONE };
    let form = month_first.or(day_first);
    (form != Fits::NONE).then_some((form, rest))
}

/// `3. 1.` behind the year; the last dot may be missing.
fn korean_dots<'a>(year: &[u8], rest: &'a [u8]) -> Option<(Fits, &'a [u8])> {
    let (month, rest) = digits(rest, 2)?;
    let rest = rest.strip_prefix(b".")?;
    let (day, rest) = digits(rest.strip_prefix(b" ").unwrap_or(rest), 2)?;
    let rest = rest.strip_prefix(b".").unwrap_or(rest);
    is_day(value(year), value(month), value(day)).then_some((Fits::KOREAN_DOTS, rest))
}

/// ` 3월 1일` behind the year; the blanks may be missing.
fn korean_words<'a>(year: &[u8], rest: &'a [u8]) -> Option<(Fits, &'a [u8])> {
    let (month, rest) = digits(rest.strip_prefix(b" ").unwrap_or(rest), 2)?;
    let rest = rest.strip_prefix("월".as_bytes())?;
    let (day, rest) = digits(rest.strip_prefix(b" ").unwrap_or(rest), 2)?;
    let rest = rest.strip_prefix("일".as_bytes())?;
    (year.len() == 4 && is_day(value(year), value(month), value(day))).then_some((Fits::KOREAN_WORDS, rest))
}

/// The form of the time at the start of a text, and the text behind it.
fn time(text: &[u8]) -> Option<(Fits, &[u8])> {
    let korean = text.strip_prefix("오전 ".as_bytes()).or_else(|| text.strip_prefix("오후 ".as_bytes()));
    let (hour, rest) = digits(korean.unwrap_or(text), 2)?;
    let (minute, mut rest) = digits(rest.strip_prefix(b":")?, 2)?;
    let mut seconds = Fits::WITHOUT_SECONDS;
    if let Some(behind) = rest.strip_prefix(b":") {
        let (second, behind) = digits(behind, 2)?;
        if second.len() != 2 || value(second) > 59 {
            return None;
        }
        seconds = Fits::NONE;
        rest = behind;
        if let Some(behind) = rest.strip_prefix(b".") {
            (_, rest) = digits(behind, 6)?;
        }
    }
    if minute.len() != 2 || value(minute) > 59 {
        return None;
    }
    let half = rest.strip_prefix(b" ").unwrap_or(rest);
    let (form, rest) = match half.split_at_checked(2) {
        _ if korean.is_some() => (Fits::HOURS_12_KOREAN, rest),
        Some((mark, behind)) if mark.eq_ignore_ascii_case(b"am") || mark.eq_ignore_ascii_case(b"pm") => {
            (Fits::HOURS_12, behind)
        }
        _ => (Fits::HOURS_24, rest),
    };
    let hours = if form == Fits::HOURS_24 { 0..=23 } else { 1..=12 };
    hours.contains(&value(hour)).then_some((form.or(seconds), rest))
}

/// `Z`, `+09`, `+0900` or `+09:00`, up to 14:59.
fn is_zone(text: &[u8]) -> bool {
    let Some((b'+' | b'-', offset)) = text.split_first() else { return text == b"Z" };
    let Some((hours, rest)) = offset.split_at_checked(2) else { return false };
    let minutes = rest.strip_prefix(b":").unwrap_or(rest);
    let is_number = |part: &[u8], limit: u32| part.iter().all(u8::is_ascii_digit) && value(part) < limit;
    is_number(hours, 15) && (rest.is_empty() || minutes.len() == 2 && is_number(minutes, 60))
}

/// Up to `most` digits at the start of a text, at least one and no more behind them, and the rest.
fn digits(text: &[u8], most: usize) -> Option<(&[u8], &[u8])> {
    let count = text.iter().take(most + 1).take_while(|byte| byte.is_ascii_digit()).count();
    if (1..=most).contains(&count) { Some(text.split_at(count)) } else { None }
}

/// The number of at most eight digits.
fn value(digits: &[u8]) -> u32 {
    digits.iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0'))
}

fn is_day(year: u32, month: u32, day: u32) -> bool {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u32::from(leap),
        _ => 0,
    };
    year > 0 && (1..=days).contains(&day)
}
