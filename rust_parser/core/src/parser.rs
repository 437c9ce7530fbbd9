//! Takes a file in any split; finds out from its head how it is read, then reads it.

use std::fmt;

use crate::batch::Batch;
use crate::checkpoint::{Checkpoint, InvalidCheckpoint};
use crate::detect::{ENCODING_WINDOW_BYTES, HEAD_BYTES, detect, settle_encoding};
use crate::digest::Digest;
use crate::error::ParseError;
use crate::options::{InvalidOption, Options};
use crate::reader::{Finished, Reader};
use crate::reading::{Detected, Dialect, Encoding, Hints, Reading};
use crate::transcode::byte_order_mark;

/// Bytes of the longest byte-order mark.
const LONGEST_MARK_BYTES: usize = 4;

/// Reads one CSV file, pushed to it in any split.
///
/// After an error from [`Parser::feed`] it must be dropped; the upload goes on with another from the last checkpoint.
pub struct Parser {
    options: Options,
    received_bytes: u64,
    stage: Stage,
}

/// How far it is.
enum Stage {
    /// The beginning of a file, which is not enough yet to tell how it is read.
    Head(Vec<u8>),
    /// The rest.
    Body(Box<Body>),
}

/// Why no parser could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidStart {
    /// An option is out of range.
    Option(InvalidOption),
    /// The checkpoint is none.
    Checkpoint(InvalidCheckpoint),
}

impl fmt::Display for InvalidStart {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(error) => error.fmt(formatter),
            Self::Checkpoint(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for InvalidStart {}

impl Parser {
    /// A parser at the start of a file, or at `resume`; then the file is fed from `resume.offset_bytes` on, and the options
    /// must be those of the parser that made the checkpoint.
    pub fn new(mut options: Options, resume: Option<&Checkpoint>) -> Result<Self, InvalidStart> {
        options.check().map_err(InvalidStart::Option)?;
        if options.hints.escape.is_some_and(|escape| escape.is_some() && Some(escape) == options.hints.quote) {
            // A quote that escapes itself is doubled.
            options.hints.escape = Some(None);
        }
        let (received_bytes, stage) = match resume {
            None => (0, Stage::Head(Vec::new())),
            Some(checkpoint) => {
                let body = Body::resume(&options, checkpoint).map_err(InvalidStart::Checkpoint)?;
                (checkpoint.offset_bytes, Stage::Body(Box::new(body)))
            }
        };
        Ok(Self { options, received_bytes, stage })
    }

    /// Offset of the next byte that is expected, counted in the file.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// How the file is read; `None` before enough of it has come to tell. An encoding that is ASCII so far may become
    /// another one.
    #[must_use]
    pub fn detected(&self) -> Option<Detected> {
        match &self.stage {
            Stage::Head(_) => None,
            Stage::Body(body) => Some(*body.reader.detected()),
        }
    }

    /// Takes the next bytes of the file and returns the batches that they close, in order.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Batch>, ParseError> {
        self.received_bytes += bytes.len() as u64;
        match &mut self.stage {
            Stage::Head(head) => {
                let wanted = if told(&self.options.hints).is_some() { LONGEST_MARK_BYTES } else { HEAD_BYTES };
                let (taken, rest) = bytes.split_at(bytes.len().min(wanted - head.len()));
                head.extend_from_slice(taken);
                if head.len() < wanted {
                    return Ok(Vec::new());
                }
                let mut body = Body::begin(&self.options, head, false)?;
                body.read(rest)?;
                let closed = body.reader.closed();
                self.stage = Stage::Body(Box::new(body));
                Ok(closed)
            }
            Stage::Body(body) => {
                body.read(bytes)?;
                Ok(body.reader.closed())
            }
        }
    }

    /// Gives back the rows of a batch that have been copied elsewhere, so that their memory serves a later batch.
    pub fn reuse(&mut self, rows: Vec<u8>) {
        if let Stage::Body(body) = &mut self.stage {
            body.reader.reuse(rows);
        }
    }

    /// Takes the end of the file.
    pub fn finish(self) -> Result<Finished, ParseError> {
        match self.stage {
            Stage::Head(head) => Body::begin(&self.options, &head, true)?.finish(),
            Stage::Body(body) => body.finish(),
        }
    }
}

/// A file whose reading is known; but for its encoding, where only ASCII has come so far.
struct Body {
    reader: Reader,
    /// The bytes from the first that is not ASCII on, until they are enough to tell the encoding.
    window: Vec<u8>,
}

impl Body {
    /// From the head of a file, which is taken.
    fn begin(options: &Options, head: &[u8], is_whole: bool) -> Result<Self, ParseError> {
        let detected = match told(&options.hints) {
            Some(reading) => Detected { reading, runner_up: None, confidence: 1.0 },
            None => detect(head, is_whole, &options.hints),
        };
        let (mark, rest) = head.split_at(byte_order_mark(detected.reading.encoding, head));
        let mut digest = Digest::new();
        digest.update(mark);
        let mut body = Self { reader: Reader::new(options, detected, digest, mark.len() as u64), window: Vec::new() };
        body.read(rest)?;
        Ok(body)
    }

    fn resume(options: &Options, checkpoint: &Checkpoint) -> Result<Self, InvalidCheckpoint> {
        Ok(Self { reader: Reader::resume(options, checkpoint)?, window: Vec::new() })
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), ParseError> {
        if self.reader.detected().reading.encoding != Encoding::Ascii {
            return self.reader.take(bytes);
        }
        let ascii = if self.window.is_empty() { ascii_len(bytes) } else { 0 };
        self.reader.take(&bytes[..ascii])?;
        self.window.extend_from_slice(&bytes[ascii..]);
        if self.window.len() >= ENCODING_WINDOW_BYTES { self.settle(false) } else { Ok(()) }
    }

    fn finish(mut self) -> Result<Finished, ParseError> {
        if !self.window.is_empty() {
            self.settle(true)?;
        }
        self.reader.finish()
    }

    /// Tells the encoding by the window, and takes that.
    fn settle(&mut self, is_whole: bool) -> Result<(), ParseError> {
        let window = std::mem::take(&mut self.window);
        let encoding = settle_encoding(&window[..window.len().min(ENCODING_WINDOW_BYTES)], is_whole);
        self.reader.turn_to(encoding);
        self.reader.take(&window)
    }
}

/// Bytes before the first that is not ASCII.
fn ascii_len(bytes: &[u8]) -> usize {
    if bytes.is_ascii() { bytes.len() } else { bytes.iter().take_while(|byte| byte.is_ascii()).count() }
}

/// The reading, where the hints leave nothing to be found out.
fn told(hints: &Hints) -> Option<Reading> {
    let dialect = Dialect {
        delimiter: hints.delimiter?,
        quote: hints.quote?,
        escape: hints.escape?,
        comment: hints.comment?,
        trims_blanks: hints.trims_blanks?,
        preamble_lines: hints.preamble_lines?,
        header_rows: hints.header_rows?,
    };
    Some(Reading { encoding: hints.encoding?, dialect })
}
