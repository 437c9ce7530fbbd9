//! Numbers in text, exact: decimals of up to 38 digits, their sums and their order.

use std::cmp::Ordering;

use super::fits::Fits;

/// Digits of the largest power of ten below 2^127.
pub(super) const MAX_DIGITS: u32 = 38;

/// A number as it stands in a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    /// Without an exponent.
    Exact(Decimal),
    /// With one; finite.
    Float(f64),
}

/// `mantissa` / 10^`scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    pub(super) mantissa: i128,
    /// 0 to 38.
    pub(super) scale: u32,
}

impl Decimal {
    pub(super) const ZERO: Self = Self { mantissa: 0, scale: 0 };

    /// The same number with more digits behind the point, where there is room for them.
    pub(super) fn with_scale(self, scale: u32) -> Option<Self> {
        if scale == self.scale {
            return Some(self);
        }
        let factor = 10_i128.checked_pow(scale.checked_sub(self.scale)?)?;
        Some(Self { mantissa: self.mantissa.checked_mul(factor)?, scale })
    }

    /// The sum, where 128 bits can hold it.
    pub(super) fn plus(self, other: Self) -> Option<Self> {
        let scale = self.scale.max(other.scale);
        let (one, other) = (self.with_scale(scale)?, other.with_scale(scale)?);
        Some(Self { mantissa: one.mantissa.checked_add(other.mantissa)?, scale })
    }

    /// The product, where 128 bits can hold it.
    pub(super) fn times(self, count: u64) -> Option<Self> {
        Some(Self { mantissa: self.mantissa.checked_mul(i128::from(count))?, scale: self.scale })
    }

    /// By number: 1.0 equals 1.
    pub(super) fn order(self, other: Self) -> Ordering {
        let scale = self.scale.max(other.scale);
        match (self.with_scale(scale), other.with_scale(scale)) {
            (Some(one), Some(other)) => one.mantissa.cmp(&other.mantissa),
            // The one that does not fit is the larger by amount; only one can be multiplied.
            (None, _) => self.mantissa.cmp(&0),
            (_, None) => 0.cmp(&other.mantissa),
        }
    }

    /// The nearest `f64`.
    pub(super) fn to_f64(self) -> f64 {
        // The standard library rounds a decimal text correctly; a division would round twice.
        self.to_string().parse().unwrap_or(f64::NAN)
    }
}

impl std::fmt::Display for Decimal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.mantissa < 0 { "-" } else { "" };
        let digits = format!("{:0>width$}", self.mantissa.unsigned_abs(), width = self.scale as usize + 1);
        let (whole, fraction) = digits.split_at(digits.len() - self.scale as usize);
        if fraction.is_empty() {
            write!(formatter, "{sign}{whole}")
        } else {
            write!(formatter, "{sign}{whole}.{fraction}")
        }
    }
}

/// Reads a whole text as a number: an optional minus, digits without leading zeros, perhaps in groups of three between
/// commas, perhaps a point with digits, perhaps an exponent (then without commas). `.5` is one, `5.` and `+5` are not.
pub(super) fn read(text: &[u8]) -> Option<(Fits, Number)> {
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let whole_len = unsigned.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b',')).unwrap_or(unsigned.len());
    let (whole, rest) = unsigned.split_at(whole_len);
    let (fraction, rest) = match rest.split_first() {
        Some((b'.', behind)) => {
            let len = behind.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(behind.len());
            if len == 0 {
                return None;
            }
            behind.split_at(len)
        }
        _ => (&[][..], rest),
    };
    let grouped = whole.contains(&b',');
    if grouped && !has_groups_of_three(whole) || whole.len() > 1 && whole[0] == b'0' {
        return None;
    }
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    if !rest.is_empty() {
        return if grouped { None } else { float(text, rest) };
    }
    let digits = || whole.iter().chain(fraction).filter(|byte| **byte != b',');
    if digits().count() > MAX_DIGITS as usize {
        return None;
    }
    let amount = digits().fold(0, |amount, digit| amount * 10 + i128::from(digit - b'0'));
    let mantissa = if unsigned.len() < text.len() { -amount } else { amount };
    let decimal = Decimal { mantissa, scale: fraction.len() as u32 };
    let is_integer = fraction.is_empty() && i64::try_from(mantissa).is_ok();
    let fits = match (is_integer, grouped) {
        (true, false) => Fits::PLAIN_INTEGER,
        (false, false) => Fits::PLAIN_DECIMAL,
        (true, true) => Fits::GROUPED_INTEGER.or(Fits::GROUPED_DECIMAL),
        (false, true) => Fits::GROUPED_DECIMAL,
    };
    Some((fits, Number::Exact(decimal)))
}

/// A number that ends in `exponent`, finite as `f64`.
fn float(text: &[u8], exponent: &[u8]) -> Option<(Fits, Number)> {
    let (b'e' | b'E', power) = exponent.split_first()? else { return None };
    let digits = power.strip_prefix(b"-").or_else(|| power.strip_prefix(b"+")).unwrap_or(power);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(text).ok()?.parse::<f64>().ok().filter(|number| number.is_finite())?;
    Some((Fits::FLOAT, Number::Float(number)))
}

fn has_groups_of_three(whole: &[u8]) -> bool {
    let mut groups = whole.split(|byte| *byte == b',');
    let first = groups.next().map_or(0, <[u8]>::len);
    (1..=3).contains(&first) && groups.all(|group| group.len() == 3)
}

/// A short number as the hot loop reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Short {
    pub(super) mantissa: i64,
    pub(super) scale: u32,
    /// Digits before the point.
    pub(super) whole_digits: u32,
}

/// Reads a text of 1 to 16 bytes, the first in the lowest byte of `bytes` and zeros behind, as a number without commas
/// and exponent; `None` for what is none, and where [`read`] must decide.
#[inline]
pub(super) fn read_short(bytes: u128, len: u32) -> Option<Short> {
    if len <= 8 { read_8(bytes as u64, len) } else { read_16(bytes, len) }
}

/// Defines [`read_short`] for words of one size.
///
/// The minus is shifted out, the point is found and closed, and the digits are moved to the end of the word; then all of
/// them are checked and multiplied at once.
macro_rules! define_read {
    ($name:ident, $word:ty, $value:expr) => {
        #[inline]
        fn $name(bytes: $word, len: u32) -> Option<Short> {
            const ONES: $word = <$word>::MAX / 0xff;
            const HIGHS: $word = ONES << 7;
            let negative = u32::from(bytes as u8 == b'-');
            let mut digits = bytes >> (negative * 8);
            let mut count = len - negative;
            let mut scale = 0;
            // The lowest set bit is exact: a borrow travels upwards only.
            let differs = digits ^ (ONES * b'.' as $word);
            let points = differs.wrapping_sub(ONES) & !differs & HIGHS;
            if points != 0 {
                let bit = points & points.wrapping_neg();
                // All bits of the digits in front of the point.
                let front = (bit >> 7) - 1;
                count -= 1;
                scale = count - bit.trailing_zeros() / 8;
                digits = digits & front | digits >> 8 & !front;
                if scale == 0 {
                    return None;
                }
            }
            if count == 0 {
                return None;
            }
            let whole_digits = count - scale;
            if whole_digits > 1 && digits as u8 == b'0' {
                return None;
            }
            let room = <$word>::BITS - count * 8;
            // Behind the digits stand zeros: they move out. What moves in is the value of a missing digit.
            let values = (digits << room) ^ (ONES * b'0' as $word << room);
            if (values.wrapping_add(ONES * 0x76) | values) & HIGHS != 0 {
                return None;
            }
            let amount: u64 = $value(values);
            let mantissa = (amount as i64 ^ -i64::from(negative)) + i64::from(negative);
            Some(Short { mantissa, scale, whole_digits })
        }
    };
}

define_read!(read_8, u64, eight_digits);
define_read!(read_16, u128, |values: u128| {
    eight_digits(values as u64) * 100_000_000 + eight_digits((values >> 64) as u64)
});

/// The number of eight digits 0 to 9, the highest in the lowest byte: pairs, then fours, then all.
#[inline]
fn eight_digits(values: u64) -> u64 {
    let pairs = values.wrapping_mul(10).wrapping_add(values >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_ffff_0000_ffff;
    fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xffff_ffff
}

/// 10^0 to 10^16.
pub(super) const POWERS: [i64; 17] = {
    let mut powers = [1; 17];
    let mut at = 1;
    while at < powers.len() {
        powers[at] = powers[at - 1] * 10;
        at += 1;
    }
    powers
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn short(text: &str) -> Option<Short> {
        let mut bytes = [0; 16];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        read_short(u128::from_le_bytes(bytes), text.len() as u32)
    }

    proptest! {
        #[test]
        fn a_short_number_is_read_as_the_definition_reads_it(
            text in prop_oneof!["-?[0-9]{1,15}", "-?[0-9]{0,7}\\.[0-9]{1,7}", "[-0-9.,e ]{1,16}", "[ -~]{1,16}"],
        ) {
            match (short(&text), read(text.as_bytes())) {
                (Some(short), Some((_, Number::Exact(decimal)))) => {
                    prop_assert_eq!(i128::from(short.mantissa), decimal.mantissa);
                    prop_assert_eq!(short.scale, decimal.scale);
                    let whole = text.trim_start_matches('-').split('.').next().unwrap_or_default();
                    prop_assert_eq!(short.whole_digits as usize, whole.len());
                }
                (None, None | Some((_, Number::Float(_)))) => {}
                (None, Some(_)) => prop_assert!(text.contains(','), "{}", text),
                (found, defined) => prop_assert!(false, "{:?} {:?} {:?}", text, found, defined),
            }
        }

        #[test]
        fn decimals_are_ordered_and_added_as_numbers(one in -999_999_i64..999_999, scale in 0..6_u32, other in -999_999_i64..999_999, other_scale in 0..6_u32) {
            let decimal = Decimal { mantissa: one.into(), scale };
            let second = Decimal { mantissa: other.into(), scale: other_scale };
            let in_millionths = |number: i64, scale: u32| i128::from(number) * 10_i128.pow(6 - scale);
            let (left, right) = (in_millionths(one, scale), in_millionths(other, other_scale));
            prop_assert_eq!(decimal.order(second), left.cmp(&right));
            let sum = decimal.plus(second).unwrap().with_scale(6).unwrap();
            prop_assert_eq!(sum.mantissa, left + right);
            prop_assert_eq!(decimal.to_f64().to_bits(), (decimal.mantissa as f64 / 10_f64.powi(scale as i32)).to_bits());
        }
    }

    #[test]
    fn decimals_are_written_with_their_scale() {
        for (mantissa, scale, text) in [(0, 0, "0"), (5, 2, "0.05"), (-150, 2, "-1.50"), (-12, 0, "-12")] {
            assert_eq!(Decimal { mantissa, scale }.to_string(), text);
        }
    }
}
