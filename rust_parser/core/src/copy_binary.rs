//! PostgreSQL's `COPY … (FORMAT binary)`: signature, tuples, trailer, all integers big-endian.
//!
//! <https://www.postgresql.org/docs/current/sql-copy.html>, "Binary Format".

/// Signature, flags (no OIDs) and length of the header extension (none).
pub(crate) const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// The field count that ends the data.
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// `text` in pg_type: the element type of a `text[]`.
const TEXT_OID: u32 = 25;

/// A whole COPY under construction; without a tuple it is empty.
///
/// The buffer is filled ahead of the data, so that short cells are copied as whole words over its end and a
/// tuple is checked against the capacity once.
#[derive(Default)]
pub(crate) struct CopyBinary {
    buffer: Vec<u8>,
    len: usize,
}

/// Step by which the buffer is filled with zeros.
const FILL_BYTES: usize = 64 * 1024;
/// Cells up to this length are copied as one word of this length where the source has the bytes.
const WORD_BYTES: usize = 16;

impl CopyBinary {
    /// One that is written over what `buffer` held: fresh memory costs more than the encoding.
    pub(crate) fn over(buffer: Vec<u8>) -> Self {
        Self { buffer, len: 0 }
    }

    /// Bytes of the COPY so far, without its trailer.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Begins a tuple of `fields` fields that will take at most `bytes` in all their values.
    #[inline]
    pub(crate) fn begin_tuple(&mut self, fields: u16, bytes: usize) {
        let needed = self.len + HEADER.len() + 2 + 4 * usize::from(fields) + bytes + WORD_BYTES;
        if needed > self.buffer.len() {
            self.buffer.resize(needed.next_multiple_of(FILL_BYTES), 0);
        }
        if self.len == 0 {
            self.put(HEADER);
        }
        self.put(&fields.to_be_bytes());
    }

    #[inline]
    pub(crate) fn int8(&mut self, value: i64) {
        self.put(&8_u32.to_be_bytes());
        self.put(&value.to_be_bytes());
    }

    #[inline]
    pub(crate) fn int4(&mut self, value: i32) {
        self.put(&4_u32.to_be_bytes());
        self.put(&value.to_be_bytes());
    }

    /// The text, or bytes, `source[start..end]`; what follows it in `source` may be copied with it and is overwritten.
    #[inline]
    pub(crate) fn text(&mut self, source: &[u8], start: usize, end: usize) {
        let len = end - start;
        self.put(&(len as u32).to_be_bytes());
        match source[start..].first_chunk::<WORD_BYTES>() {
            Some(word) if len <= WORD_BYTES => self.buffer[self.len..self.len + WORD_BYTES].copy_from_slice(word),
            _ => self.buffer[self.len..self.len + len].copy_from_slice(&source[start..end]),
        }
        self.len += len;
    }

    /// No value.
    #[inline]
    pub(crate) fn null(&mut self) {
        self.put(&(-1_i32).to_be_bytes());
    }

    /// The texts as one `text[]`, counted from 1. Takes 20 bytes and 4 a text beside them.
    pub(crate) fn text_array(&mut self, texts: &[impl AsRef<[u8]>]) {
        let bytes: usize = texts.iter().map(|text| text.as_ref().len()).sum();
        self.put(&((20 + 4 * texts.len() + bytes) as u32).to_be_bytes());
        // One dimension, no NULL.
        self.put(&1_u32.to_be_bytes());
        self.put(&0_u32.to_be_bytes());
        self.put(&TEXT_OID.to_be_bytes());
        self.put(&(texts.len() as u32).to_be_bytes());
        self.put(&1_u32.to_be_bytes());
        for text in texts {
            let text = text.as_ref();
            self.text(text, 0, text.len());
        }
    }

    /// The whole COPY; empty where no tuple was begun.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        if self.len == 0 {
            return Vec::new();
        }
        self.put(&TRAILER);
        self.buffer.truncate(self.len);
        self.buffer
    }

    #[inline]
    fn put<const N: usize>(&mut self, bytes: &[u8; N]) {
        self.buffer[self.len..self.len + N].copy_from_slice(bytes);
        self.len += N;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_encoded_as_postgresql_sends_it() {
        let mut copy = CopyBinary::default();
        copy.begin_tuple(3, 8 + 2);
        copy.int8(1);
        copy.text(b"xab", 1, 3);
        copy.text(b"", 0, 0);
        let expected = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\
            \0\x03\0\0\0\x08\0\0\0\0\0\0\0\x01\0\0\0\x02ab\0\0\0\0\xff\xff";
        assert_eq!(copy.finish(), expected);
    }

    #[test]
    fn null_and_arrays_are_encoded_as_postgresql_sends_them() {
        let mut copy = CopyBinary::default();
        copy.begin_tuple(2, 20 + 2 * 4 + 2);
        copy.null();
        copy.text_array(&["ab", ""]);
        let expected = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x02\xff\xff\xff\xff\
            \0\0\0\x1e\0\0\0\x01\0\0\0\0\0\0\0\x19\0\0\0\x02\0\0\0\x01\
            \0\0\0\x02ab\0\0\0\0\xff\xff";
        assert_eq!(copy.finish(), expected);
    }

    #[test]
    fn without_a_tuple_there_is_no_copy() {
        assert_eq!(CopyBinary::default().finish(), b"");
    }
}
