//! Turns bytes of another encoding into UTF-8, and finds places of the text in the source again.
//!
//! The two have the same line ends in the same order: in CP949, Shift-JIS and GB18030 no byte below 0x30 is part of a longer
//! character, not even of a broken one, and in UTF-16 they are units of their own. So the n-th line end of the text is that
//! of the source, and no table of offsets is needed.

use encoding_rs::{Decoder, DecoderResult};
use memchr::memchr2_iter;

use crate::reading::Encoding;

/// Stands for bytes that the encoding does not have: no UTF-8, so that a record with one can be told, and no mark.
const INVALID: u8 = 0xff;

/// Decodes one file, or the rest of one that begins with a record.
pub(crate) struct Transcoder {
    encoding: Encoding,
    decoder: Decoder,
}

impl Transcoder {
    /// `None` where the bytes are the text.
    pub(crate) fn new(encoding: Encoding) -> Option<Self> {
        let decoded = match encoding {
            Encoding::Ascii | Encoding::Utf8 => return None,
            Encoding::Utf16Le => encoding_rs::UTF_16LE,
            Encoding::Utf16Be => encoding_rs::UTF_16BE,
            Encoding::Cp949 => encoding_rs::EUC_KR,
            Encoding::ShiftJis => encoding_rs::SHIFT_JIS,
            Encoding::Gb18030 => encoding_rs::GB18030,
            Encoding::Windows1252 => encoding_rs::WINDOWS_1252,
        };
        Some(Self { encoding, decoder: decoded.new_decoder_without_bom_handling() })
    }

    /// Appends the text of the next bytes; `is_end` says that none follow.
    pub(crate) fn decode(&mut self, mut source: &[u8], is_end: bool, text: &mut Vec<u8>) {
        loop {
            let len = text.len();
            let room = self.decoder.max_utf8_buffer_length_without_replacement(source.len()).unwrap_or(usize::MAX);
            text.resize(len + room, 0);
            let (result, read, written) =
                self.decoder.decode_to_utf8_without_replacement(source, &mut text[len..], is_end);
            text.truncate(len + written);
            source = &source[read..];
            match result {
                DecoderResult::InputEmpty => return,
                DecoderResult::OutputFull => {}
                DecoderResult::Malformed(..) => text.push(INVALID),
            }
        }
    }

    /// The end in `source` of its `count`th byte (in UTF-16: unit) that is CR or LF; its length where it has fewer.
    pub(crate) fn line_end(&self, source: &[u8], count: usize) -> usize {
        let high_byte = match self.encoding {
            Encoding::Utf16Le => 1,
            Encoding::Utf16Be => 0,
            _ => return nth_end(source, count),
        };
        // The other byte of a unit whose low byte looks like a line end must be zero.
        let low_byte = 1 - high_byte;
        let mut units = memchr2_iter(b'\r', b'\n', source)
            .filter(|at| at % 2 == low_byte && source.get(at - low_byte + high_byte) == Some(&0));
        match count.checked_sub(1) {
            None => 0,
            Some(before) => units.nth(before).map_or(source.len(), |at| at - low_byte + 2),
        }
    }
}

/// Bytes of a record's source before the character at `text_at` in its text.
pub(crate) fn source_at(encoding: Encoding, source: &[u8], text_at: usize) -> usize {
    let Some(mut transcoder) = Transcoder::new(encoding) else { return text_at };
    let mut text = Vec::new();
    for (at, byte) in source.iter().enumerate() {
        if text.len() >= text_at {
            return at;
        }
        transcoder.decode(std::slice::from_ref(byte), false, &mut text);
    }
    source.len()
}

fn nth_end(source: &[u8], count: usize) -> usize {
    match count.checked_sub(1) {
        None => 0,
        Some(before) => memchr2_iter(b'\r', b'\n', source).nth(before).map_or(source.len(), |at| at + 1),
    }
}

/// Bytes of a byte-order mark at the beginning of `head`.
pub(crate) fn byte_order_mark(encoding: Encoding, head: &[u8]) -> usize {
    let mark: &[u8] = match encoding {
        Encoding::Ascii | Encoding::Utf8 => b"\xef\xbb\xbf",
        Encoding::Utf16Le => b"\xff\xfe",
        Encoding::Utf16Be => b"\xfe\xff",
        Encoding::Gb18030 => b"\x84\x31\x95\x33",
        Encoding::Cp949 | Encoding::ShiftJis | Encoding::Windows1252 => b"",
    };
    if head.starts_with(mark) { mark.len() } else { 0 }
}
