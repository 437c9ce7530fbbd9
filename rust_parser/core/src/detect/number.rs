//! Whether a cell is a number, with the marks and units that people write around it.

/// A longer word behind a number is no unit.
const LONGEST_UNIT_CHARS: usize = 3;

/// Whether all of `text`, which is not empty, is a number: signed, grouped, with an exponent, a currency, a unit.
pub(super) fn is_number(text: &[u8]) -> bool {
    let text = match text {
        [b'(', inner @ .., b')'] => inner,
        _ => text,
    };
    let text = skip_one(text, &["+", "-", "−", "△", "▲", "▽", "▼", "±", "<", ">", "~"]);
    let (text, had_currency) = skip_currency(text);
    let text = if had_currency { skip_one(text, &["+", "-"]) } else { text };
    let Some(rest) = skip_amount(text) else { return false };
    rest.is_empty() || is_unit(rest.trim_ascii_start())
}

/// How many digits `text` begins with, full-width ones too, and what follows them.
pub(super) fn skip_digits(text: &[u8]) -> (usize, &[u8]) {
    let (mut digits, mut rest) = (0, text);
    loop {
        rest = match rest {
            [b'0'..=b'9', behind @ ..] | [0xEF, 0xBC, 0x90..=0x99, behind @ ..] => behind,
            _ => return (digits, rest),
        };
        digits += 1;
    }
}

fn skip_one<'t>(text: &'t [u8], marks: &[&str]) -> &'t [u8] {
    marks.iter().find_map(|mark| text.strip_prefix(mark.as_bytes())).unwrap_or(text)
}

fn skip_currency(text: &[u8]) -> (&[u8], bool) {
    const SIGNS: [&str; 13] = ["$", "₩", "￦", "€", "£", "¥", "￥", "US$", "USD", "KRW", "EUR", "GBP", "JPY"];
    let rest = skip_one(text, &SIGNS);
    (rest.trim_ascii_start(), rest.len() < text.len())
}

/// What follows digits, their groups, a fraction and an exponent.
fn skip_amount(text: &[u8]) -> Option<&[u8]> {
    let (mut digits, mut rest) = skip_digits(text);
    // Groups: a mark and three digits each.
    while let [b',' | b'.' | b' ' | b'\'', behind @ ..] = rest {
        let (group, behind) = skip_digits(behind);
        if group != 3 || digits == 0 {
            break;
        }
        digits += group;
        rest = behind;
    }
    if let [b'.' | b',', behind @ ..] = rest {
        let (fraction, behind) = skip_digits(behind);
        if fraction == 0 && (digits == 0 || rest[0] == b',') {
            return None;
        }
        digits += fraction;
        rest = behind;
    }
    if digits == 0 {
        return None;
    }
    if let [b'e' | b'E', behind @ ..] = rest {
        let (exponent, behind) = skip_digits(skip_one(behind, &["+", "-"]));
        if exponent > 0 {
            rest = behind;
        }
    }
    Some(rest)
}

/// `%`, `원`, `kg`, `°C`, `m²`.
fn is_unit(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let mut chars = 0;
    text.chars().all(|c| {
        chars += 1;
        chars <= LONGEST_UNIT_CHARS
            && (c.is_alphabetic() || matches!(c, '%' | '‰' | '°' | '€' | '$' | '₩' | '²' | '³' | '/' | '㎡'))
    })
}
