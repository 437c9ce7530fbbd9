//! A cell's text as the counters see it: its first 16 bytes as one word, and a 64-bit hash.

/// Bytes of a value that tell it from others, are kept, and are shown.
pub(super) const KEPT_BYTES: usize = 256;
/// Bytes of a value's head.
pub(super) const HEAD_BYTES: usize = 16;

/// A value, cut at [`KEPT_BYTES`] between two characters.
#[derive(Clone, Copy)]
pub(super) struct Value<'a> {
    pub(super) text: &'a [u8],
    /// The first 16 bytes, little-endian, zeros behind a shorter text.
    pub(super) head: u128,
    pub(super) hash: u64,
}

impl<'a> Value<'a> {
    /// The value `text[start..start + len]`. Bytes behind it spare the copy of a short one.
    #[inline]
    pub(super) fn at(text: &'a [u8], start: usize, len: usize) -> Self {
        let bytes = &text[start..];
        let head = match bytes.first_chunk() {
            Some(head) => u128::from_le_bytes(*head),
            None => filled_up(bytes),
        };
        if len <= HEAD_BYTES {
            let head = masked(head, len);
            return Self { text: &bytes[..len], head, hash: short_hash(head, len as u32) };
        }
        let text = &bytes[..len.min(KEPT_BYTES)];
        let text = if len > KEPT_BYTES { cut(text) } else { text };
        Self { text, head, hash: long_hash(text) }
    }

    /// The value of a whole text.
    pub(super) fn of(text: &'a [u8]) -> Self {
        Self::at(text, 0, text.len())
    }

    #[inline]
    pub(super) fn len(&self) -> u32 {
        self.text.len() as u32
    }

    /// What follows the head.
    #[inline]
    pub(super) fn tail(&self) -> &'a [u8] {
        &self.text[self.text.len().min(HEAD_BYTES)..]
    }
}

/// The first `len` bytes of a head, all from 16 on.
#[inline]
pub(super) fn masked(head: u128, len: usize) -> u128 {
    const MASKS: [u128; HEAD_BYTES + 1] = {
        let mut masks = [u128::MAX; HEAD_BYTES + 1];
        let mut len = 0;
        while len < HEAD_BYTES {
            masks[len] = (1 << (len * 8)) - 1;
            len += 1;
        }
        masks
    };
    head & MASKS[len.min(HEAD_BYTES)]
}

/// The head's first eight bytes as a number that orders texts: byte by byte, the end before everything.
#[inline]
pub(super) fn order(head: u128) -> u64 {
    (head as u64).swap_bytes()
}

/// The hash of a value that is all in its head.
#[inline]
pub(super) fn short_hash(head: u128, len: u32) -> u64 {
    finished(mixed(SEED ^ u64::from(len), head))
}

/// Odd constants with bits spread evenly (from the golden ratio, and from wyhash).
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const FACTOR: u64 = 0xa076_1d64_78bd_642f;

#[inline]
fn mixed(state: u64, piece: u128) -> u64 {
    let product = u128::from(state ^ piece as u64) * u128::from(FACTOR ^ (piece >> 64) as u64);
    product as u64 ^ (product >> 64) as u64
}

/// One product leaves the high bits of texts that differ in their last byte only too much alike.
#[inline]
fn finished(state: u64) -> u64 {
    let state = (state ^ (state >> 32)).wrapping_mul(SEED);
    state ^ (state >> 29)
}

/// The hash of a longer value, cut.
pub(super) fn long_hash(text: &[u8]) -> u64 {
    let (pieces, rest) = text.as_chunks::<HEAD_BYTES>();
    let state = pieces.iter().fold(SEED ^ text.len() as u64, |state, piece| mixed(state, u128::from_le_bytes(*piece)));
    finished(mixed(state, filled_up(rest)))
}

#[cold]
fn filled_up(rest: &[u8]) -> u128 {
    let mut piece = [0; HEAD_BYTES];
    piece[..rest.len()].copy_from_slice(rest);
    u128::from_le_bytes(piece)
}

/// A longer text's first [`KEPT_BYTES`], fewer where a character would be cut apart.
fn cut(text: &[u8]) -> &[u8] {
    let whole = text.iter().rposition(|byte| byte & 0xc0 != 0x80).unwrap_or(0);
    let character_len = match text[whole] {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    };
    if whole + character_len > text.len() { &text[..whole] } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_around_a_value_do_not_matter() {
        for len in [1, 5, 8, 15, 16, 17, 40] {
            let text: Vec<u8> = (b'A'..).take(len).collect();
            let around = [b"xx", text.as_slice(), b"yyyyyyyyyyyyyyyyyyyyyyyyy"].concat();
            let (alone, inside) = (Value::of(&text), Value::at(&around, 2, len));
            assert_eq!((alone.text, alone.hash), (inside.text, inside.hash));
            assert_eq!(alone.head, inside.head);
        }
    }

    #[test]
    fn a_long_value_is_cut_between_two_characters() {
        for (character, kept) in [("a", 256), ("é", 256), ("한", 255), ("𝄞", 256)] {
            assert_eq!(Value::of(character.repeat(300).as_bytes()).text.len(), kept);
        }
        assert_eq!(Value::of(format!("a{}", "é".repeat(300)).as_bytes()).text.len(), 255);
    }
}
