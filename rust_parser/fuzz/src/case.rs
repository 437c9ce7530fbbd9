//! An input as a parser meets it: options, the file, and the pieces in which it comes.
//!
//! The first bytes of an input choose, the others are the file. A place in a table is chosen by the rest of a division, so
//! that no input is refused.

use dari_parser::Options;
use dari_parser::reading::{Encoding, Hints};

const CHOOSING_BYTES: usize = 8;
const DELIMITERS: [u8; 6] = [b',', b';', b'\t', b'|', b' ', b':'];
const QUOTES: [Option<u8>; 4] = [Some(b'"'), Some(b'\''), None, Some(b'"')];
const ESCAPES: [Option<u8>; 4] = [None, Some(b'\\'), Some(0), None];
const COMMENTS: [Option<u8>; 4] = [None, Some(b'#'), Some(b'%'), None];

/// What an input means.
pub(crate) struct Case<'a> {
    pub(crate) options: Options,
    pub(crate) file: &'a [u8],
    split: [u8; 2],
}

impl<'a> Case<'a> {
    /// `None` for an input that is too short to choose.
    pub(crate) fn of(input: &'a [u8]) -> Option<Self> {
        let (chosen, file) = input.split_first_chunk::<CHOOSING_BYTES>()?;
        let [told, marks, more, place, batch, limits, split @ ..] = *chosen;
        let mut options = Options { hints: hints(told, marks, more, place), ..Options::default() };
        options.replaces_invalid_bytes = more & 0x20 != 0;
        options.keeps_ragged_rows = more & 0x40 == 0;
        options.limits.batch_bytes = u64::from(batch) + 1;
        options.limits.block_rows = u32::from(limits & 3) + 1;
        if limits & 0x80 != 0 {
            options.limits.max_record_bytes = 8 << (limits >> 2 & 7);
            options.limits.max_cell_bytes = 4 << (limits >> 2 & 7);
            options.limits.max_header_bytes = 16 << (limits >> 2 & 7);
            options.limits.max_columns = u32::from(limits >> 5 & 3) + 2;
        }
        (!contradicts(&options.hints)).then_some(Self { options, file, split })
    }

    /// The file in pieces: whole, byte by byte, or in lengths that look random.
    pub(crate) fn pieces(&self) -> Vec<&'a [u8]> {
        let mut state = u32::from(u16::from_le_bytes(self.split));
        let longest = match self.split[0] {
            0 => return vec![self.file],
            1 => 1,
            other => usize::from(other),
        };
        let (mut rest, mut pieces) = (self.file, Vec::new());
        while !rest.is_empty() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (piece, tail) = rest.split_at(((state as usize >> 16) % longest + 1).min(rest.len()));
            pieces.push(piece);
            rest = tail;
        }
        pieces
    }
}

/// Each bit of `told` says whether one thing is told.
pub(crate) fn hints(told: u8, marks: u8, more: u8, place: u8) -> Hints {
    let given = |bit: u8| told >> bit & 1 == 1;
    Hints {
        delimiter: given(0).then_some(DELIMITERS[usize::from(marks & 7) % DELIMITERS.len()]),
        quote: given(1).then_some(QUOTES[usize::from(marks >> 3 & 3)]),
        header_rows: given(2).then_some(u32::from(marks >> 5)),
        escape: given(3).then_some(ESCAPES[usize::from(more & 3)]),
        comment: given(4).then_some(COMMENTS[usize::from(more >> 2 & 3)]),
        trims_blanks: given(5).then_some(more & 0x10 != 0),
        preamble_lines: given(6).then_some(u32::from(place >> 4 & 3)),
        // `Ascii` is no hint.
        encoding: given(7).then_some(Encoding::ALL[usize::from(place & 0xf) % (Encoding::ALL.len() - 1) + 1]),
    }
}

/// Whether a mark is told for two things at once, which a parser refuses to be made with.
fn contradicts(hints: &Hints) -> bool {
    Options { hints: *hints, ..Options::default() }.check().is_err()
}
