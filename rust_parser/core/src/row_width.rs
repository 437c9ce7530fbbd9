//! Whether a row fits into PostgreSQL, which keeps a row in one page and moves only longer cells out of it.
//!
//! `heap_toast_insert_or_update` (PostgreSQL 15 to 18) compresses or moves out the largest values until the row fits, but no
//! value of 24 bytes or less, its header included; what is left beyond 8,160 bytes is "row is too big", which would end the
//! whole COPY. Here a row is measured as it is when all that can go has gone.

use crate::record::Record;

/// `MaxHeapTupleSize` of 8 KiB pages.
const MAX_ROW_BYTES: usize = 8_160;
/// `SizeofHeapTupleHeader`; a bitmap of NULLs follows, then both are filled up to a multiple of 8.
const HEADER_BYTES: usize = 23;
/// Length above which a value can be moved out: with the header of 1 byte it has more than 24 then.
const MAX_INLINE_BYTES: usize = 23;
/// `TOAST_POINTER_SIZE`: what is left in the row of a value that was moved out.
const POINTER_BYTES: usize = 18;
/// Length from which a value is compressed.
const MIN_COMPRESSED_BYTES: usize = 32;
/// A compressed value of 24 bytes or less is not moved out, and begins at a multiple of 4. So does an array.
const COMPRESSED_BYTES: usize = 24 + 3;
/// Different bytes a value can have at most if it is to be compressed to that: its header has 8 bytes, and each different
/// byte stands there once.
const MAX_DIFFERENT_BYTES: u32 = 16;

/// Whether a row of a table with so many columns, and a column each of row number and extra cells, can be stored for sure.
#[inline]
pub(crate) fn fits(record: &Record<'_>, columns: usize) -> bool {
    let (bitmap, extra_cells) =
        if record.spans.len() <= columns { ((columns + 2).div_ceil(8), 0) } else { (0, COMPRESSED_BYTES) };
    let frame = (HEADER_BYTES + bitmap).next_multiple_of(8) + size_of::<i64>() + extra_cells;
    // A cell takes no more than a byte and its text; most rows need no closer look.
    frame + columns + record.content_len <= MAX_ROW_BYTES || frame + measure(record, columns) <= MAX_ROW_BYTES
}

fn measure(record: &Record<'_>, columns: usize) -> usize {
    let (mut cells, mut size) = (0, 0);
    record.for_each_cell(|cell| {
        size += if cells < columns { inline_bytes(cell) } else { 0 };
        cells += 1;
    });
    size
}

/// Bytes that a cell takes in the row at most when all that can go has gone.
fn inline_bytes(cell: &[u8]) -> usize {
    if cell.len() <= MAX_INLINE_BYTES {
        1 + cell.len()
    } else if cell.len() < MIN_COMPRESSED_BYTES || different_bytes(cell) > MAX_DIFFERENT_BYTES {
        POINTER_BYTES
    } else {
        COMPRESSED_BYTES
    }
}

fn different_bytes(cell: &[u8]) -> u32 {
    let mut seen = [0_u128; 2];
    for byte in cell {
        seen[usize::from(byte >> 7)] |= 1 << (byte & 0x7f);
    }
    seen[0].count_ones() + seen[1].count_ones()
}
