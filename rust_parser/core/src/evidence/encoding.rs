//! Evidence as bytes: versioned, the same for the same rows, and read with every number checked.
//!
//! All numbers are LEB128, signed ones after zigzag, texts and lists behind their length. The registers of a column stand
//! as pairs of distance and rank, or all of them in 6 bits each, whichever is shorter.

use std::fmt;

use super::distinct::{Distinct, PRECISIONS};
use super::facts::{Facts, KEPT_VALUES, Numbers, Top};
use super::fits::Fits;
use super::frequent::Bounded;
use super::number::{Decimal, MAX_DIGITS};
use super::value::KEPT_BYTES;

/// To be counted up with every change of the layout or of what a number means.
const VERSION: u8 = 1;
/// A PostgreSQL table has no more.
const MAX_COLUMNS: u64 = 1_600;

/// Bytes that are no evidence: not what [`crate::Parser`] or [`super::merge_evidence`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidEvidence;

impl fmt::Display for InvalidEvidence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the evidence cannot be read; it was not written by this parser")
    }
}

impl std::error::Error for InvalidEvidence {}

/// The evidence of some rows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Decoded {
    pub(super) rows: u64,
    pub(super) extra_cells: u64,
    pub(super) columns: Vec<Facts>,
}

/// Encodes the evidence of `rows` rows.
pub(super) fn write(rows: u64, extra_cells: u64, columns: impl ExactSizeIterator<Item = Facts>) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    write_all(&mut bytes, &[rows, extra_cells, columns.len() as u64]);
    for facts in columns {
        write_facts(&mut bytes, &facts);
    }
    bytes
}

/// Decodes what [`write`] gave.
pub(super) fn read(bytes: &[u8]) -> Result<Decoded, InvalidEvidence> {
    let Some((&VERSION, rest)) = bytes.split_first() else { return Err(InvalidEvidence) };
    let mut reader = Reader { rest };
    let (rows, extra_cells) = (reader.number()?, reader.number()?);
    let count = reader.below(MAX_COLUMNS + 1)?;
    let columns = (0..count).map(|_| read_facts(&mut reader)).collect::<Result<_, _>>()?;
    if reader.rest.is_empty() { Ok(Decoded { rows, extra_cells, columns }) } else { Err(InvalidEvidence) }
}

fn write_facts(bytes: &mut Vec<u8>, facts: &Facts) {
    let Facts { cells, missing, empty, null_like, bytes: cell_bytes, fits, shortest, longest, .. } = facts;
    write_all(bytes, &[*cells, *missing, *empty, *null_like, *cell_bytes, fits.0]);
    write_all(bytes, &[(*shortest).min(*longest), *longest]);
    write_text(bytes, &facts.min);
    write_text(bytes, &facts.max);
    // Of a column that has other values than numbers, the numbers among them tell nothing.
    if fits.is_number() && facts.values() > 0 {
        write_numbers(bytes, &facts.numbers);
    }
    write_distinct(bytes, &facts.distinct);
    write_all(bytes, &[facts.top.others, facts.top.values.len() as u64]);
    for value in &facts.top.values {
        write_text(bytes, &value.text);
        write_all(bytes, &[value.count, value.error]);
    }
}

fn read_facts(reader: &mut Reader<'_>) -> Result<Facts, InvalidEvidence> {
    let (cells, missing, empty, null_like) = (reader.number()?, reader.number()?, reader.number()?, reader.number()?);
    if empty.checked_add(null_like).is_none_or(|without_value| without_value > cells) {
        return Err(InvalidEvidence);
    }
    let mut facts = Facts { cells, missing, empty, null_like, ..Facts::new(*PRECISIONS.start()) };
    facts.bytes = reader.number()?;
    facts.fits = Fits(reader.number()?).and(Fits::ALL);
    let has_values = facts.values() > 0;
    (facts.shortest, facts.longest) = (reader.number()?, reader.number()?);
    if !has_values {
        facts.shortest = u64::MAX;
    }
    (facts.min, facts.max) = (reader.text()?.to_vec(), reader.text()?.to_vec());
    if facts.fits.is_number() && has_values {
        facts.numbers = read_numbers(reader)?;
    }
    facts.distinct = read_distinct(reader)?;
    let others = reader.number()?;
    let values = (0..reader.below(KEPT_VALUES as u64 + 1)?).map(|_| {
        let (text, count, error) = (reader.text()?.to_vec(), reader.number()?, reader.number()?);
        if error <= count { Ok(Bounded { text, count, error }) } else { Err(InvalidEvidence) }
    });
    facts.top = Top { values: values.collect::<Result<_, _>>()?, others };
    Ok(facts)
}

fn write_numbers(bytes: &mut Vec<u8>, numbers: &Numbers) {
    write_all(bytes, &[numbers.whole_digits.into(), numbers.scale.into()]);
    let (min, max) = numbers.bounds.map_or((None, None), |(min, max)| (Some(min), Some(max)));
    for decimal in [min, max, numbers.sum] {
        write_decimal(bytes, decimal);
    }
    for float in [numbers.float_bounds.0, numbers.float_bounds.1, numbers.float_sum] {
        bytes.extend_from_slice(&float.to_le_bytes());
    }
}

fn read_numbers(reader: &mut Reader<'_>) -> Result<Numbers, InvalidEvidence> {
    let digits = u64::from(MAX_DIGITS) + 1;
    let (whole_digits, scale) = (reader.below(digits)? as u32, reader.below(digits)? as u32);
    let (min, max, sum) = (read_decimal(reader)?, read_decimal(reader)?, read_decimal(reader)?);
    let (low, high, float_sum) = (reader.float()?, reader.float()?, reader.float()?);
    Ok(Numbers { whole_digits, scale, bounds: min.zip(max), sum, float_bounds: (low, high), float_sum })
}

/// Scale plus one, and mantissa; a lone zero for none.
fn write_decimal(bytes: &mut Vec<u8>, decimal: Option<Decimal>) {
    match decimal {
        None => bytes.push(0),
        Some(Decimal { mantissa, scale }) => {
            bytes.push(scale as u8 + 1);
            write_number(bytes, (mantissa << 1 ^ mantissa >> 127) as u128);
        }
    }
}

fn read_decimal(reader: &mut Reader<'_>) -> Result<Option<Decimal>, InvalidEvidence> {
    match reader.byte()? {
        0 => Ok(None),
        scale if u32::from(scale) <= MAX_DIGITS + 1 => {
            let zigzag = reader.long_number()?;
            let mantissa = (zigzag >> 1) as i128 ^ -((zigzag & 1) as i128);
            Ok(Some(Decimal { mantissa, scale: u32::from(scale) - 1 }))
        }
        _ => Err(InvalidEvidence),
    }
}

/// The bit 0x80 beside the precision: registers follow as pairs.
const PAIRS: u8 = 0x80;
const RANK_BITS: usize = 6;

fn write_distinct(bytes: &mut Vec<u8>, distinct: &Distinct) {
    let registers = distinct.registers();
    let precision = distinct.precision() as u8;
    let used = registers.iter().filter(|rank| **rank > 0).count();
    let dense_len = registers.len() * RANK_BITS / 8;
    if used * 2 > dense_len {
        bytes.push(precision);
        // Four ranks are three bytes.
        let (quads, _) = registers.as_chunks::<4>();
        bytes.extend(
            quads
                .iter()
                .flat_map(|[one, two, three, four]| [one | two << 6, two >> 2 | three << 4, three >> 4 | four << 2]),
        );
        return;
    }
    bytes.push(precision | PAIRS);
    write_number(bytes, used as u128);
    let mut next = 0;
    for (number, rank) in registers.iter().enumerate().filter(|(_, rank)| **rank > 0) {
        write_number(bytes, (number - next) as u128);
        bytes.push(*rank);
        next = number + 1;
    }
}

fn read_distinct(reader: &mut Reader<'_>) -> Result<Distinct, InvalidEvidence> {
    let head = reader.byte()?;
    let precision = u32::from(head & !PAIRS);
    if !PRECISIONS.contains(&precision) {
        return Err(InvalidEvidence);
    }
    let mut distinct = Distinct::new(precision);
    let mut raise = |number: usize, rank: u8| {
        if number < 1 << precision && rank <= Distinct::max_rank(precision) {
            distinct.raise(number, rank);
            Ok(())
        } else {
            Err(InvalidEvidence)
        }
    };
    if head & PAIRS == 0 {
        let (triples, _) = reader.take((1 << precision) * RANK_BITS / 8)?.as_chunks::<3>();
        for (quad, [one, two, three]) in triples.iter().enumerate() {
            let ranks = [one & 63, one >> 6 | (two & 15) << 2, two >> 4 | (three & 3) << 4, three >> 2];
            for (number, rank) in ranks.into_iter().enumerate() {
                raise(quad * 4 + number, rank)?;
            }
        }
        return Ok(distinct);
    }
    let mut next = 0;
    for _ in 0..reader.below((1 << precision) + 1)? {
        let number = next + reader.below(1 << precision)? as usize;
        raise(number, reader.byte()?)?;
        next = number + 1;
    }
    Ok(distinct)
}

fn write_all(bytes: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        write_number(bytes, (*number).into());
    }
}

fn write_text(bytes: &mut Vec<u8>, text: &[u8]) {
    write_number(bytes, text.len() as u128);
    bytes.extend_from_slice(text);
}

fn write_number(bytes: &mut Vec<u8>, mut number: u128) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], InvalidEvidence> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(InvalidEvidence)?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, InvalidEvidence> {
        Ok(self.take(1)?[0])
    }

    fn float(&mut self) -> Result<f64, InvalidEvidence> {
        let bytes = self.take(8)?.try_into().map_err(|_| InvalidEvidence)?;
        Some(f64::from_le_bytes(bytes)).filter(|float| !float.is_nan()).ok_or(InvalidEvidence)
    }

    fn long_number(&mut self) -> Result<u128, InvalidEvidence> {
        let mut number = 0;
        for shift in (0..128).step_by(7) {
            let byte = self.byte()?;
            number |= u128::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(InvalidEvidence)
    }

    fn number(&mut self) -> Result<u64, InvalidEvidence> {
        self.long_number()?.try_into().map_err(|_| InvalidEvidence)
    }

    fn below(&mut self, end: u64) -> Result<u64, InvalidEvidence> {
        Some(self.number()?).filter(|number| *number < end).ok_or(InvalidEvidence)
    }

    fn text(&mut self) -> Result<&'a [u8], InvalidEvidence> {
        let len = self.below(KEPT_BYTES as u64 + 1)?;
        let text = self.take(len as usize)?;
        if simdutf8::basic::from_utf8(text).is_ok() { Ok(text) } else { Err(InvalidEvidence) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Facts with something in each field.
    fn some_facts() -> Facts {
        let mut facts =
            Facts { cells: 3, bytes: 5, shortest: 1, longest: 3, fits: Fits::PLAIN_DECIMAL, ..Facts::new(9) };
        (facts.min, facts.max) = (b"-1".to_vec(), b"2.5".to_vec());
        let decimal = |mantissa| Decimal { mantissa, scale: 1 };
        facts.numbers.see_bounds(1, 1, (decimal(-10), decimal(25)));
        facts.numbers.add_exact(decimal(15));
        facts.distinct.raise(7, 3);
        let value = Bounded { text: b"2.5".to_vec(), count: 2, error: 1 };
        facts.top = Top { values: vec![value], others: 1 };
        facts
    }

    proptest! {
        #[test]
        fn bytes_that_are_no_evidence_are_refused_or_read_and_never_panic(
            noise in proptest::collection::vec(any::<u8>(), 0..400),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut written = write(3, 1, vec![Facts { cells: 3, ..Facts::new(11) }, some_facts()].into_iter());
            prop_assert!(read(&written).is_ok());
            for (at, byte) in damage {
                let at = at.index(written.len());
                written[at] = byte;
            }
            let cut = cut.index(written.len() + 1);
            for bytes in [&[&[VERSION], noise.as_slice()].concat(), &written, &written[..cut]] {
                if read(bytes).is_ok() {
                    prop_assert!(super::super::profile(bytes).is_ok());
                    let merged = super::super::merge_evidence([bytes, bytes]).unwrap();
                    prop_assert!(merged.is_empty() || super::super::profile(&merged).is_ok());
                }
            }
        }

        #[test]
        fn registers_are_read_as_they_were_written(precision in PRECISIONS, ranks in proptest::collection::btree_map(0..512_usize, 1..=54_u8, 0..512)) {
            let mut distinct = Distinct::new(precision);
            for (number, rank) in &ranks {
                distinct.raise(*number, *rank);
            }
            let mut bytes = Vec::new();
            write_distinct(&mut bytes, &distinct);
            prop_assert!(bytes.len() <= (1 << precision) * RANK_BITS / 8 + 1 + 2);
            let mut reader = Reader { rest: &bytes };
            prop_assert_eq!(read_distinct(&mut reader), Ok(distinct));
            prop_assert!(reader.rest.is_empty());
        }

        #[test]
        fn decimals_are_read_as_they_were_written(mantissa in any::<i128>(), scale in 0..=MAX_DIGITS) {
            let decimal = Some(Decimal { mantissa, scale });
            let mut bytes = Vec::new();
            write_decimal(&mut bytes, decimal);
            prop_assert_eq!(read_decimal(&mut Reader { rest: &bytes }), Ok(decimal));
        }
    }

    #[test]
    fn no_number_of_columns_takes_memory_before_the_columns_are_there() {
        let mut bytes = vec![VERSION];
        write_all(&mut bytes, &[1, 0, MAX_COLUMNS + 1]);
        assert_eq!(read(&bytes), Err(InvalidEvidence));
    }
}
