//! Term -> 32 bits, the same on every machine and in every release: the hashes lie in people's databases.

/// Odd constants with bits spread evenly (from the golden ratio and from wyhash).
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const FACTOR: u64 = 0xa076_1d64_78bd_642f;

/// The hash of `text[start..start + len]`.
///
/// Pieces of two 64-bit words, little-endian, the last one filled with zeros; each is mixed in by a 128-bit product folded
/// to 64 bits. The length is in the seed. Never `i32::MIN`: that is no term in [`crate::postings`].
///
/// Nearly all terms are one piece, and then no branch depends on the length: a wrongly predicted one costs more than all
/// the rest.
#[inline]
pub(crate) fn hash(text: &[u8], start: usize, len: usize) -> i32 {
    let mut state = SEED ^ (len as u64);
    let mut at = start;
    let mut left = len;
    while left > PIECE_BYTES {
        state = mix(state, piece_at(text, at));
        at += PIECE_BYTES;
        left -= PIECE_BYTES;
    }
    let (low, high) = piece_at(text, at);
    state = mix(state, (low & first_bytes(left), high & first_bytes(left.saturating_sub(8))));
    let hash = (state ^ (state >> 32)) as i32;
    if hash == i32::MIN { 1 } else { hash }
}

const PIECE_BYTES: usize = 16;

#[inline]
fn mix(state: u64, (low, high): (u64, u64)) -> u64 {
    let product = u128::from(state ^ low) * u128::from(FACTOR ^ high);
    product as u64 ^ (product >> 64) as u64
}

#[inline]
fn piece_at(text: &[u8], at: usize) -> (u64, u64) {
    let piece = match text[at..].first_chunk() {
        Some(piece) => *piece,
        None => filled_up(&text[at..]),
    };
    let piece = u128::from_le_bytes(piece);
    (piece as u64, (piece >> 64) as u64)
}

#[cold]
fn filled_up(rest: &[u8]) -> [u8; PIECE_BYTES] {
    let mut piece = [0; PIECE_BYTES];
    piece[..rest.len()].copy_from_slice(rest);
    piece
}

/// A mask of the first `count` bytes of a word, all of them from 8 on.
#[inline]
fn first_bytes(count: usize) -> u64 {
    // Two shifts, since one by 64 is none.
    let bits = 4 * count.min(8) as u32;
    !((!0 << bits) << bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_every_release_before() {
        for (term, expected) in HASHES {
            assert_eq!(hash(term.as_bytes(), 0, term.len()), *expected, "{term}");
        }
    }

    #[test]
    fn bytes_around_the_term_do_not_matter() {
        let text = b"xxseoul-2024-01yyyyyyyyyyyy";
        assert_eq!(hash(text, 2, 13), hash(b"seoul-2024-01", 0, 13));
        assert_eq!(hash(text, 2, 5), hash(b"seoul", 0, 5));
    }

    #[test]
    fn a_million_short_numbers_collide_as_rarely_as_chance() {
        let mut hashes: Vec<i32> =
            (0..1_000_000).map(|number: u32| number.to_string()).map(|t| hash(t.as_bytes(), 0, t.len())).collect();
        hashes.sort_unstable();
        hashes.dedup();
        // Expected for random values: 10^12 / 2^33 = 116.
        assert!((1_000_000 - 160..=1_000_000 - 70).contains(&hashes.len()), "{}", hashes.len());
    }

    /// Never to be changed: an index in somebody's database holds them.
    const HASHES: &[(&str, i32)] = &[
        ("a", 249_192_597),
        ("seoul", 143_377_300),
        ("2024", -629_073_932),
        ("1234.5", 487_559_178),
        ("ab-1234/x", 1_871_936_654),
        ("kim@example.com", -1_656_210_600),
        ("sixteenxletters1", 1_411_622_196),
        ("seventeenletters1", 2_011_586_927),
        ("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 1_095_469_130),
        ("서울", -516_501_525),
        ("원", 345_377_015),
        ("アイ", 359_367_446),
    ];
}
