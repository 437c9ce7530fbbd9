//! The file's own bytes behind the text that is read: their places, their digest.
//!
//! In UTF-8 the text is the source, and nothing is held twice.

use crate::digest::Digest;
use crate::reading::Encoding;
use crate::transcode::Transcoder;

/// The source of a text that is appended at its end and taken a record at a time from its beginning.
pub(crate) struct Source {
    transcoded: Option<Transcoded>,
    /// Where the record in progress begins in the bytes that are held.
    start: usize,
    /// SHA-256 of all bytes before `digested`.
    digest: Digest,
    /// A place in the bytes that are held, at or before `start`.
    digested: usize,
}

struct Transcoded {
    transcoder: Transcoder,
    bytes: Vec<u8>,
}

impl Source {
    /// The source of a text that is empty; `digest` is that of the file so far.
    pub(crate) fn new(encoding: Encoding, digest: Digest) -> Self {
        let transcoded = Transcoder::new(encoding).map(|transcoder| Transcoded { transcoder, bytes: Vec::new() });
        Self { transcoded, start: 0, digest, digested: 0 }
    }

    /// Appends to the text what the next bytes mean; `is_end` says that none follow.
    pub(crate) fn append(&mut self, bytes: &[u8], is_end: bool, text: &mut Vec<u8>) {
        match &mut self.transcoded {
            None => text.extend_from_slice(bytes),
            Some(source) => {
                source.bytes.extend_from_slice(bytes);
                source.transcoder.decode(bytes, is_end, text);
            }
        }
    }

    /// Drops what was taken; the text must begin with the record in progress from now on. `text` is as it was before.
    pub(crate) fn drop_taken(&mut self, text: &[u8]) {
        self.digest(text);
        if let Some(source) = &mut self.transcoded {
            source.bytes.drain(..self.start);
        }
        self.start = 0;
        self.digested = 0;
    }

    /// What encoding the bytes from now on have; all of `text`, which begins with the record in progress, is ASCII.
    pub(crate) fn turn_to(&mut self, encoding: Encoding, text: &[u8]) {
        self.transcoded = Transcoder::new(encoding).map(|transcoder| Transcoded { transcoder, bytes: text.to_vec() });
    }

    /// The record in progress as it stood in the file: `len` bytes of text, of which `line_ends` are CR or LF, one of them
    /// the last. `None` as `line_ends`: it is the last record, and all that is left.
    pub(crate) fn record<'a>(&'a self, text: &'a [u8], len: usize, line_ends: Option<usize>) -> &'a [u8] {
        let rest = &self.bytes(text)[self.start..];
        match (&self.transcoded, line_ends) {
            (None, _) => &rest[..len],
            (Some(_), None) => rest,
            (Some(source), Some(line_ends)) => &rest[..source.transcoder.line_end(rest, line_ends)],
        }
    }

    /// Takes the record in progress, by its length in the file.
    #[inline]
    pub(crate) fn take(&mut self, len: usize) {
        self.start += len;
    }

    /// SHA-256 of the file up to the record in progress.
    pub(crate) fn digest(&mut self, text: &[u8]) -> &Digest {
        let bytes = self.transcoded.as_ref().map_or(text, |source| &source.bytes);
        self.digest.update(&bytes[self.digested..self.start]);
        self.digested = self.start;
        &self.digest
    }

    fn bytes<'a>(&'a self, text: &'a [u8]) -> &'a [u8] {
        self.transcoded.as_ref().map_or(text, |source| &source.bytes)
    }
}
