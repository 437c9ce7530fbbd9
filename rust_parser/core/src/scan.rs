//! Finds the ends of cells and records in raw bytes, 64 bytes at a time.
//!
//! Each 64 bytes become bit masks (one bit a byte) with plain 128-bit SIMD, which every x86-64 and aarch64 has, so there is
//! one code path and no CPU detection. Then one of two walks takes them:
//!
//! - [`Orderly`]: where every quote of the block opens a cell, closes one or is half of a doubled one, which bytes are
//!   inside quotes is the parity of the quotes before them, and only delimiters and line ends outside are left to walk.
//! - [`Block`]: any block, mark by mark, with the state machine. It also takes the dialects with escape bytes, comments or
//!   blanks to trim, the lines of a preamble, and the end of a window.
//!
//! Invariants, on which everything else rests:
//! - No byte is looked at twice, however the file is split: the scanner's state lives across windows, and all positions
//!   it keeps are relative to the start of the record in progress.
//! - Both walks leave the same state behind a block, so that each block may be taken by either.
//! - A record that ends in CR is complete only when the byte after it is known (or the file ends): CRLF is one line end
//!   under every split.
//! - Nothing here depends on the encoding, as long as delimiter, quote, CR, LF are never part of a longer character.

use wide::u8x16;

use crate::reading::Dialect;

/// One cell inside its record: where its text lies, and how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) form: Form,
}

/// How a cell is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Its bytes are its text.
    Plain,
    /// The same, between quotes that are outside the span.
    Quoted,
    /// Between quotes, with doubled or escaped quotes inside.
    Escaped,
}

/// What was seen in a record beside its cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent observations")]
pub(crate) struct Traits {
    pub(crate) quoted: bool,
    /// Some quoted cell holds CR or LF.
    pub(crate) line_ends: bool,
    /// Some cell goes on after its closing quote; the spans are unreliable from there, and no quote opens a cell up to the
    /// line's end: so a file of stray quotes is no endless record.
    pub(crate) text_after_quote: bool,
    /// Some quoted cell holds an escape byte.
    pub(crate) escapes: bool,
    /// It is one line that is no record: a comment, or one that was asked for with [`Scanner::begin_line`].
    pub(crate) line_only: bool,
    pub(crate) non_ascii: bool,
    pub(crate) nul: bool,
}

/// A whole record was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordEnd {
    /// Length of the record without its line end.
    pub(crate) content_len: u32,
    /// Position in the window after the line end.
    pub(crate) next: usize,
}

/// The file ended inside a quoted cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenQuote {
    /// Position of the opening quote in the record.
    pub(crate) at: u32,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// In a cell without quotes, or before its first byte, or after text that follows a closing quote.
    Plain,
    /// Behind an opening quote.
    Quoted,
    /// Behind a quote inside a quoted cell: the byte at `look_at` tells whether it closed the cell or is the first of two.
    QuoteSeen,
    /// Behind an escape byte inside a quoted cell: the byte at `look_at` is text.
    EscapeSeen,
    /// Before the first byte of a record, in a file with comments.
    RecordStart,
    /// In a line that is no record: only its end counts.
    Line,
    /// Behind a CR that was the last byte of a window.
    CrSeen { content_len: u32 },
}

/// The state machine of one file.
pub(crate) struct Scanner {
    marks: Marks,
    comment: Option<u8>,
    state: State,
    /// Spans of the record in progress, up to `cells`; those beyond its length are dropped, so that a record of a million commas costs
    /// nothing.
    spans: Box<[Span]>,
    cells: usize,
    traits: Traits,
    cell_start: u32,
    /// Whether all bytes of the cell in progress before this block are blanks; kept only where blanks are trimmed.
    blank_so_far: bool,
    /// Last quote seen inside the quoted cell in progress.
    quote_at: u32,
    /// The byte that decides behind a quote or an escape byte.
    look_at: u32,
    escaped: bool,
}

impl Scanner {
    /// Keeps at most `kept_cells` spans of a record.
    pub(crate) fn new(dialect: Dialect, kept_cells: usize) -> Self {
        let mut scanner = Self {
            marks: Marks::new(dialect),
            comment: dialect.comment,
            state: State::Plain,
            spans: vec![Span { start: 0, end: 0, form: Form::Plain }; kept_cells].into(),
            cells: 0,
            traits: Traits::default(),
            cell_start: 0,
            blank_so_far: true,
            quote_at: 0,
            look_at: 0,
            escaped: false,
        };
        scanner.begin_record();
        scanner
    }

    /// Cells of the record that was found last; up to `kept_cells`.
    pub(crate) fn spans(&self) -> &[Span] {
        &self.spans[..self.cells]
    }

    /// What was seen in the record that was found last.
    pub(crate) fn traits(&self) -> Traits {
        self.traits
    }

    /// A window over `bytes`, of which `carried` bytes of the record in progress came before.
    pub(crate) fn window<'a>(&self, bytes: &'a [u8], carried: usize) -> Window<'a> {
        let mut window = Window {
            bytes,
            base: 0,
            record_start: 0_u32.wrapping_sub(carried as u32),
            unread: 0,
            block: Block::default(),
            orderly: Orderly::default(),
            is_orderly: false,
        };
        self.load_block(&mut window);
        window
    }

    /// Makes the masks of the window's block, for the walk that will take it.
    #[inline]
    fn load_block(&self, window: &mut Window<'_>) {
        let bytes = &window.bytes[window.base..];
        let skipped = window.unread.saturating_sub(window.base);
        let begins_cell = self.cell_start == window.in_record(skipped as u32);
        window.is_orderly = match bytes.first_chunk() {
            Some(block) if !self.marks.careful && !self.traits.text_after_quote => {
                self.marks.find_orderly(block, self.state, begins_cell, skipped, &mut window.orderly)
            }
            _ => false,
        };
        if !window.is_orderly {
            window.block = self.marks.find(bytes);
            window.block.consume_record(skipped);
        }
    }

    /// Forgets the record that was found, before the next one is looked for.
    pub(crate) fn begin_record(&mut self) {
        self.cells = 0;
        self.escaped = false;
        self.traits = Traits::default();
        self.cell_start = 0;
        self.blank_so_far = true;
        self.state = if self.comment.is_some() { State::RecordStart } else { State::Plain };
    }

    /// The same, but what is looked for next is a line, whatever it holds.
    pub(crate) fn begin_line(&mut self) {
        self.begin_record();
        self.traits.line_only = true;
        self.state = State::Line;
    }

    /// Goes on to the next record end; `None` where the window holds none, and all of it is taken in.
    pub(crate) fn next_record(&mut self, window: &mut Window<'_>) -> Option<RecordEnd> {
        if self.marks.careful { self.walk::<true>(window) } else { self.walk::<false>(window) }
    }

    /// `CAREFUL`: there are escape bytes, comments, or blanks to trim.
    #[inline]
    fn walk<const CAREFUL: bool>(&mut self, window: &mut Window<'_>) -> Option<RecordEnd> {
        loop {
            let step =
                if !CAREFUL && window.is_orderly { self.walk_ends(window) } else { self.step::<CAREFUL>(window) };
            match step {
                Step::Record(end) => return Some(end),
                Step::Again => {}
                Step::BlockDone => {
                    self.end_block(window);
                    if !window.next_block() {
                        return None;
                    }
                    self.load_block(window);
                }
            }
        }
    }

    /// Takes the ends of cells of an orderly block up to the next end of a record.
    #[inline]
    fn walk_ends(&mut self, window: &mut Window<'_>) -> Step {
        let Orderly { ends, line_ends, after_quote, .. } = window.orderly;
        // Everything up to the first line end, or everything.
        let of_record = ends & (line_ends ^ line_ends.wrapping_sub(1));
        window.orderly.ends = ends & !of_record;
        if after_quote == 0 {
            self.push_orderly::<false>(of_record, window);
        } else {
            self.push_orderly::<true>(of_record, window);
        }
        if line_ends == 0 {
            return Step::BlockDone;
        }
        self.line_end(window, line_ends.trailing_zeros())
    }

    /// Adds the cells that end at these bits of an orderly block. `QUOTED`: some of them may be quoted.
    #[inline]
    fn push_orderly<const QUOTED: bool>(&mut self, ends: u64, window: &mut Window<'_>) {
        let Orderly { after_quote, mut doubled, .. } = window.orderly;
        let block_at = window.in_record(0);
        let (mut rest, mut cells, mut start, mut was_doubled) = (ends, self.cells, self.cell_start, self.escaped);
        while rest != 0 {
            let bit = rest.trailing_zeros();
            rest &= rest - 1;
            let end = block_at.wrapping_add(bit);
            let mut span = Span { start, end, form: Form::Plain };
            if QUOTED {
                let is_quoted = (after_quote >> bit & 1) as u32;
                let before = !(!0 << bit);
                let is_escaped = was_doubled || doubled & before != 0;
                doubled &= !before;
                was_doubled = false;
                let form = FORMS[(is_quoted << u32::from(is_escaped)) as usize % FORMS.len()];
                span = Span { start: start + is_quoted, end: end - is_quoted, form };
            }
            if let Some(kept) = self.spans.get_mut(cells) {
                *kept = span;
                cells += 1;
            }
            start = end + 1;
        }
        (self.cells, self.cell_start) = (cells, start);
        if QUOTED {
            self.traits.quoted |= after_quote & ends != 0;
            (window.orderly.doubled, self.escaped) = (doubled, was_doubled);
        }
    }

    /// Leaves the state behind a block that is walked to its end.
    #[inline]
    fn end_block(&mut self, window: &Window<'_>) {
        if !window.is_orderly {
            self.note(window.block.non_ascii, window.block.nul);
            return;
        }
        let Orderly { doubled, inner_line_ends, non_ascii, nul, after, .. } = window.orderly;
        self.note(non_ascii, nul);
        self.traits.line_ends |= inner_line_ends != 0;
        self.escaped |= doubled != 0;
        if !matches!(self.state, State::CrSeen { .. }) {
            self.state = after;
            self.traits.quoted |= !matches!(after, State::Plain);
            if matches!(after, State::QuoteSeen) {
                self.quote_at = window.in_record(Block::BYTES as u32 - 1);
                self.look_at = self.quote_at + 1;
            }
        }
    }

    fn step<const CAREFUL: bool>(&mut self, window: &mut Window<'_>) -> Step {
        match self.state {
            State::Plain => self.walk_marks::<CAREFUL>(window),
            State::Quoted => self.seek_quote::<CAREFUL>(window),
            State::QuoteSeen => self.after_quote::<CAREFUL>(window),
            State::EscapeSeen => self.after_escape(window),
            State::RecordStart => self.at_record_start(window),
            State::Line => self.seek_line_end(window),
            State::CrSeen { content_len } => self.after_cr(window, content_len),
        }
    }

    /// Takes the end of the file; `len` is that of the record in progress. `None` where no byte of one has come.
    pub(crate) fn finish(&mut self, len: u32) -> Result<Option<u32>, OpenQuote> {
        match self.state {
            State::Plain | State::Line | State::RecordStart if len == 0 => return Ok(None),
            State::Plain | State::Line | State::RecordStart => {
                self.push(Span { start: self.cell_start, end: len, form: Form::Plain });
            }
            State::Quoted | State::EscapeSeen => return Err(OpenQuote { at: self.cell_start }),
            State::QuoteSeen => self.push_quoted(),
            State::CrSeen { content_len } => return Ok(Some(content_len)),
        }
        Ok(Some(len))
    }

    /// Takes the blanks around cells without quotes out of their spans.
    pub(crate) fn trim(&mut self, record: &[u8], dialect: &Dialect) {
        for span in self.spans[..self.cells].iter_mut().filter(|span| span.form == Form::Plain) {
            let cell = &record[span.start as usize..span.end as usize];
            let is_text = |byte: &u8| !dialect.is_blank(*byte);
            let start = cell.iter().position(is_text).unwrap_or(cell.len());
            let end = cell.iter().rposition(is_text).map_or(start, |last| last + 1);
            (span.start, span.end) = (span.start + start as u32, span.start + end as u32);
        }
    }

    /// Bytes of the record in progress that count against its limit, of `len` that have come.
    pub(crate) fn content_len(&self, len: usize) -> usize {
        match self.state {
            State::CrSeen { content_len } => content_len as usize,
            _ => len,
        }
    }

    /// Walks the marks of the block until a quote opens a cell or the record ends.
    #[inline]
    fn walk_marks<const CAREFUL: bool>(&mut self, window: &mut Window<'_>) -> Step {
        let Block { quotes, delimiters, line_ends, .. } = window.block;
        let mut marks = quotes | delimiters | line_ends;
        while marks != 0 {
            let bit = marks.trailing_zeros();
            let position = window.in_record(bit);
            marks &= marks - 1;
            if quotes >> bit & 1 == 1 {
                let begins_cell = position == self.cell_start || CAREFUL && self.is_blank_up_to(window, bit);
                if begins_cell && !self.traits.text_after_quote {
                    self.cell_start = position;
                    self.traits.quoted = true;
                    self.escaped = false;
                    self.state = State::Quoted;
                    window.block.consume_marks(bit);
                    return Step::Again;
                }
                continue;
            }
            self.push(Span { start: self.cell_start, end: position, form: Form::Plain });
            if line_ends >> bit & 1 == 1 {
                return self.line_end(window, bit);
            }
            self.begin_cell::<CAREFUL>(position + 1);
        }
        if CAREFUL {
            self.blank_so_far = self.is_blank_up_to(window, window.rest_of_block(0));
        }
        Step::BlockDone
    }

    #[inline]
    fn begin_cell<const CAREFUL: bool>(&mut self, at: u32) {
        self.cell_start = at;
        self.escaped = false;
        if CAREFUL {
            self.blank_so_far = true;
        }
    }

    /// Whether the cell in progress holds only blanks before this bit of the block, and blanks are trimmed.
    fn is_blank_up_to(&self, window: &Window<'_>, bit: u32) -> bool {
        let before = if bit < u64::BITS { !(!0 << bit) } else { !0 };
        let cell = match window.distance(self.cell_start) {
            ..=0 => before,
            from @ 1..64 => before & (!0 << from),
            _ => 0,
        };
        self.blank_so_far && window.block.blanks & cell == cell
    }

    /// Looks for the next quote inside a quoted cell, past all other marks.
    #[inline]
    fn seek_quote<const CAREFUL: bool>(&mut self, window: &mut Window<'_>) -> Step {
        let marks = if CAREFUL { window.block.quotes | window.block.escapes } else { window.block.quotes };
        if marks == 0 {
            self.traits.line_ends |= window.block.line_ends != 0;
            return Step::BlockDone;
        }
        let bit = marks.trailing_zeros();
        self.traits.line_ends |= window.block.line_ends & !(!0 << bit) != 0;
        let position = window.in_record(bit);
        self.look_at = position + 1;
        if CAREFUL && window.block.escapes >> bit & 1 == 1 {
            self.traits.escapes = true;
            self.escaped = true;
            self.state = State::EscapeSeen;
        } else {
            self.quote_at = position;
            self.state = State::QuoteSeen;
        }
        window.block.consume_marks(bit);
        Step::Again
    }

    /// Passes over the byte behind an escape byte.
    fn after_escape(&mut self, window: &mut Window<'_>) -> Step {
        let Some(bit) = window.bit_of(self.look_at) else { return Step::BlockDone };
        self.traits.line_ends |= window.block.line_ends >> bit & 1 == 1;
        self.state = State::Quoted;
        window.block.consume_marks(bit);
        Step::Again
    }

    /// Decides what the last quote was by the byte that follows it; where blanks are trimmed, by the first that is none.
    #[inline]
    fn after_quote<const CAREFUL: bool>(&mut self, window: &mut Window<'_>) -> Step {
        let Some(mut bit) = window.bit_of(self.look_at) else { return Step::BlockDone };
        if CAREFUL {
            let blanks = (window.block.blanks >> bit).trailing_ones();
            if blanks > 0 {
                self.look_at += blanks.min(window.rest_of_block(bit));
                let Some(behind) = window.bit_of(self.look_at) else { return Step::BlockDone };
                bit = behind;
            }
        }
        let Block { quotes, delimiters, line_ends, .. } = window.block;
        if delimiters >> bit & 1 == 1 {
            self.push_quoted();
            self.begin_cell::<CAREFUL>(self.look_at + 1);
            self.state = State::Plain;
        } else if line_ends >> bit & 1 == 1 {
            self.push_quoted();
            return self.line_end(window, bit);
        } else if quotes >> bit & 1 == 1 && self.look_at == self.quote_at + 1 {
            self.escaped = true;
            self.state = State::Quoted;
        } else {
            self.traits.text_after_quote = true;
            self.state = State::Plain;
            // Text, so that a quote further on opens nothing.
            self.blank_so_far = false;
        }
        window.block.consume_marks(bit);
        Step::Again
    }

    /// Takes the first byte of a record: is it a comment?
    fn at_record_start(&mut self, window: &mut Window<'_>) -> Step {
        let Some(bit) = window.bit_of(0) else { return Step::BlockDone };
        let is_comment = self.comment == Some(window.bytes[window.base + bit as usize]);
        self.traits.line_only = is_comment;
        self.state = if is_comment { State::Line } else { State::Plain };
        Step::Again
    }

    /// Looks for the end of a line, past all other marks.
    fn seek_line_end(&mut self, window: &mut Window<'_>) -> Step {
        if window.block.line_ends == 0 {
            return Step::BlockDone;
        }
        let bit = window.block.line_ends.trailing_zeros();
        self.push(Span { start: 0, end: window.in_record(bit), form: Form::Plain });
        self.line_end(window, bit)
    }

    /// Ends the record at the LF or CR of `bit`; a CR waits for the byte after it.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "once a record: a tenth of the scan")]
    fn line_end(&mut self, window: &mut Window<'_>, bit: u32) -> Step {
        let content_len = window.in_record(bit);
        let at = window.base + bit as usize;
        if window.bytes[at] == b'\n' {
            return self.end_record(window, content_len, at + 1);
        }
        match window.bytes.get(at + 1) {
            Some(b'\n') => self.end_record(window, content_len, at + 2),
            Some(_) => self.end_record(window, content_len, at + 1),
            None => {
                self.state = State::CrSeen { content_len };
                Step::BlockDone
            }
        }
    }

    /// Takes the first byte of a window whose predecessor ended in CR.
    fn after_cr(&mut self, window: &mut Window<'_>, content_len: u32) -> Step {
        match window.bytes.first() {
            Some(first) => self.end_record(window, content_len, usize::from(*first == b'\n')),
            None => Step::BlockDone,
        }
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "once a record: a tenth of the scan")]
    fn end_record(&mut self, window: &mut Window<'_>, content_len: u32, next: usize) -> Step {
        let len = next - window.base;
        if window.is_orderly {
            let (line_ends, non_ascii, nul) = window.orderly.consume_record(len);
            self.note(non_ascii, nul);
            self.traits.line_ends |= line_ends != 0;
        } else {
            let passed = window.block.consume_record(len);
            self.note(passed.non_ascii, passed.nul);
        }
        window.begin_record(next);
        Step::Record(RecordEnd { content_len, next })
    }

    #[inline]
    fn note(&mut self, non_ascii: u64, nul: u64) {
        self.traits.non_ascii |= non_ascii != 0;
        self.traits.nul |= nul != 0;
    }

    #[inline]
    fn push_quoted(&mut self) {
        let form = if self.escaped { Form::Escaped } else { Form::Quoted };
        self.push(Span { start: self.cell_start + 1, end: self.quote_at, form });
    }

    #[inline]
    fn push(&mut self, span: Span) {
        if let Some(kept) = self.spans.get_mut(self.cells) {
            *kept = span;
            self.cells += 1;
        }
    }
}

/// What a part of the scanner asks of its driver.
enum Step {
    /// A record is whole.
    Record(RecordEnd),
    /// The state has changed; there may be more in this block.
    Again,
    /// Nothing more in this block for this state.
    BlockDone,
}

/// One mask a kind of byte; bit `i` stands for byte `i` of the block. Bits of bytes that are consumed are clear.
#[derive(Clone, Copy, Default)]
struct Block {
    quotes: u64,
    delimiters: u64,
    line_ends: u64,
    non_ascii: u64,
    nul: u64,
    /// Found in careful dialects only.
    escapes: u64,
    /// The same. Never consumed: it tells of bytes before a mark.
    blanks: u64,
}

impl Block {
    const BYTES: usize = 64;

    /// Clears the marks up to and with `bit`. The other two masks stay until the record's end takes them.
    #[inline]
    fn consume_marks(&mut self, bit: u32) {
        let keep = (!0 << bit) << 1;
        self.quotes &= keep;
        self.delimiters &= keep;
        self.line_ends &= keep;
        self.escapes &= keep;
    }

    /// Splits off the first `bytes` bytes of the block, which end a record, and returns their masks.
    ///
    /// `bytes` may be one more than the block has, where the LF of a CRLF is in the next one: [`Window::next_block`] clears
    /// that.
    #[inline]
    fn consume_record(&mut self, bytes: usize) -> Self {
        let taken = if bytes < Self::BYTES { !(!0 << bytes) } else { !0 };
        let passed = *self;
        self.quotes &= !taken;
        self.delimiters &= !taken;
        self.line_ends &= !taken;
        self.non_ascii &= !taken;
        self.nul &= !taken;
        self.escapes &= !taken;
        Self { non_ascii: passed.non_ascii & taken, nul: passed.nul & taken, ..Self::default() }
    }
}

/// 0 plain, 1 quoted, 2 escaped; a power of two of forms spares a check.
const FORMS: [Form; 4] = [Form::Plain, Form::Quoted, Form::Escaped, Form::Escaped];

/// The masks of a block in which every quote is where it may be. Bits of bytes that are consumed are clear.
#[derive(Clone, Copy)]
struct Orderly {
    /// Delimiters and line ends outside quotes.
    ends: u64,
    /// Bytes behind a quote that closes.
    after_quote: u64,
    /// Second halves of doubled quotes.
    doubled: u64,
    /// Line ends outside quotes.
    line_ends: u64,
    /// Line ends inside quotes.
    inner_line_ends: u64,
    non_ascii: u64,
    nul: u64,
    /// The state behind the block: `Plain`, `Quoted` or `QuoteSeen`.
    after: State,
}

impl Default for Orderly {
    fn default() -> Self {
        Self {
            ends: 0,
            line_ends: 0,
            after_quote: 0,
            doubled: 0,
            inner_line_ends: 0,
            non_ascii: 0,
            nul: 0,
            after: State::Plain,
        }
    }
}

impl Orderly {
    /// Splits off the first `bytes` bytes of the block, as [`Block::consume_record`] does; returns the last three masks of
    /// these.
    #[inline]
    fn consume_record(&mut self, bytes: usize) -> (u64, u64, u64) {
        let taken = if bytes < Block::BYTES { !(!0 << bytes) } else { !0 };
        let Self { inner_line_ends, non_ascii, nul, .. } = *self;
        self.ends &= !taken;
        self.line_ends &= !taken;
        if inner_line_ends | non_ascii | nul == 0 {
            return (0, 0, 0);
        }
        (self.inner_line_ends, self.non_ascii, self.nul) = (inner_line_ends & !taken, non_ascii & !taken, nul & !taken);
        (inner_line_ends & taken, non_ascii & taken, nul & taken)
    }
}

/// The bytes of one feed, as masks of 64 bytes at a time.
pub(crate) struct Window<'a> {
    bytes: &'a [u8],
    /// Position of the block's first byte.
    base: usize,
    /// The block's masks, unless it is orderly.
    block: Block,
    orderly: Orderly,
    is_orderly: bool,
    /// Position of the record in progress, modulo 2^32: it may have begun before the window.
    record_start: u32,
    /// First byte that belongs to no record yet.
    unread: usize,
}

impl Window<'_> {
    /// Position, inside the record in progress, of a bit of this block.
    #[inline]
    fn in_record(&self, bit: u32) -> u32 {
        (self.base as u32).wrapping_add(bit).wrapping_sub(self.record_start)
    }

    /// The bit of this block for a position inside the record; `None` where it is in a later block or window.
    #[inline]
    fn bit_of(&self, position: u32) -> Option<u32> {
        let bit = position.wrapping_add(self.record_start).wrapping_sub(self.base as u32);
        let here = (bit as usize) < Block::BYTES && self.base + (bit as usize) < self.bytes.len();
        here.then_some(bit)
    }

    /// Bytes from the block's first one to a position inside the record; negative where that is in an earlier block.
    fn distance(&self, position: u32) -> i32 {
        position.wrapping_add(self.record_start).wrapping_sub(self.base as u32) as i32
    }

    /// Bytes of this block from a bit of it on.
    fn rest_of_block(&self, bit: u32) -> u32 {
        (self.bytes.len() - self.base).min(Block::BYTES) as u32 - bit
    }

    #[inline]
    fn begin_record(&mut self, next: usize) {
        self.record_start = next as u32;
        self.unread = next;
    }

    /// Moves on by one block; false at the end of the window.
    #[inline]
    fn next_block(&mut self) -> bool {
        let base = self.base + Block::BYTES;
        if base >= self.bytes.len() {
            self.block = Block::default();
            self.is_orderly = false;
            return false;
        }
        self.base = base;
        true
    }
}

/// The bytes to look for, each spread over a vector.
#[derive(Clone, Copy)]
struct Marks {
    delimiter: u8x16,
    quote: u8x16,
    /// All ones, or zero for files without quoting.
    quoting: u64,
    /// Whether no block is taken as orderly: there are escape bytes, comments, or blanks to trim.
    careful: bool,
    escape: u8x16,
    /// All ones, or zero for files without an escape byte.
    escaping: u64,
    /// All ones, or zero where blanks are text.
    trimming: u64,
}

impl Marks {
    fn new(dialect: Dialect) -> Self {
        let mask = |is_on: bool| if is_on { !0 } else { 0 };
        let escapes = dialect.quote.is_some() && dialect.escape.is_some();
        Self {
            delimiter: u8x16::splat(dialect.delimiter),
            quote: u8x16::splat(dialect.quote.unwrap_or(0)),
            quoting: mask(dialect.quote.is_some()),
            careful: escapes || dialect.trims_blanks || dialect.comment.is_some(),
            escape: u8x16::splat(dialect.escape.unwrap_or(0)),
            escaping: mask(escapes),
            trimming: mask(dialect.trims_blanks),
        }
    }

    /// Makes the masks of a block that begins in `state`, and tells whether it is orderly; `begins_cell` says that its first
    /// byte behind `skipped` ones begins a cell.
    #[inline]
    fn find_orderly(
        &self,
        bytes: &[u8; Block::BYTES],
        state: State,
        begins_cell: bool,
        skipped: usize,
        orderly: &mut Orderly,
    ) -> bool {
        let (is_inside, is_after_quote) = match state {
            State::Plain => (0, 0),
            State::Quoted => (!0, 0),
            State::QuoteSeen => (0, 1),
            _ => return false,
        };
        let (vectors, _) = bytes.as_chunks::<16>();
        let (mut delimiters, mut line_ends, mut quotes) = (0, 0, 0);
        let (mut all, mut least) = (u8x16::splat(0), u8x16::splat(u8::MAX));
        for (index, vector) in vectors.iter().enumerate() {
            let vector = u8x16::from(*vector);
            let mask = |matches: u8x16| u64::from(matches.to_bitmask()) << (index * 16);
            delimiters |= mask(vector.simd_eq(self.delimiter));
            line_ends |= mask(is_line_end(vector));
            quotes |= mask(vector.simd_eq(self.quote));
            all |= vector;
            least = least.min(vector);
        }
        quotes &= self.quoting;
        line_ends &= !0 << skipped;
        *orderly = Orderly { ends: delimiters | line_ends, line_ends, ..Orderly::default() };
        if all.to_bitmask() != 0 {
            orderly.non_ascii = find_each(bytes, |vector| vector) & (!0 << skipped);
        }
        if least.simd_eq(u8x16::splat(0)).to_bitmask() != 0 {
            orderly.nul = find_each(bytes, |vector| vector.simd_eq(u8x16::splat(0)));
        }
        if quotes | is_inside | is_after_quote == 0 {
            return true;
        }
        let inside = parity(quotes) ^ is_inside;
        let (opening, closing) = (quotes & inside, quotes & !inside);
        orderly.ends &= !inside;
        orderly.line_ends = line_ends & !inside;
        orderly.inner_line_ends = line_ends & inside;
        orderly.after_quote = closing << 1 | is_after_quote;
        orderly.doubled = opening & orderly.after_quote;
        let first = if begins_cell && matches!(state, State::Plain) { 1 << skipped } else { 0 };
        let may_open = orderly.ends << 1 | orderly.after_quote | first;
        if opening & !may_open | orderly.after_quote & !(orderly.ends | quotes) != 0 {
            return false;
        }
        orderly.after = if inside >> 63 & 1 == 1 {
            State::Quoted
        } else if closing >> 63 & 1 == 1 {
            State::QuoteSeen
        } else {
            State::Plain
        };
        true
    }

    /// Masks of the first 64 bytes, or of as many as there are.
    #[inline]
    fn find(&self, bytes: &[u8]) -> Block {
        if let Some(block) = bytes.first_chunk() {
            return self.find_in(block);
        }
        let mut padded = [b'x'; Block::BYTES];
        padded[..bytes.len()].copy_from_slice(bytes);
        let mut block = self.find_in(&padded);
        // The padding may be one of the marks.
        let here = !(!0 << bytes.len());
        block.quotes &= here;
        block.delimiters &= here;
        block.escapes &= here;
        block
    }

    #[inline]
    fn find_in(&self, bytes: &[u8; Block::BYTES]) -> Block {
        let mut block = Block::default();
        let (vectors, _) = bytes.as_chunks::<16>();
        for (index, vector) in vectors.iter().enumerate() {
            let vector = u8x16::from(*vector);
            let mask = |matches: u8x16| u64::from(matches.to_bitmask()) << (index * 16);
            block.quotes |= mask(vector.simd_eq(self.quote));
            block.delimiters |= mask(vector.simd_eq(self.delimiter));
            block.line_ends |= mask(is_line_end(vector));
            block.non_ascii |= mask(vector);
            block.nul |= mask(vector.simd_eq(u8x16::splat(0)));
        }
        block.quotes &= self.quoting;
        if self.careful {
            self.find_careful(bytes, &mut block);
        }
        block
    }

    /// Escape bytes and blanks.
    fn find_careful(&self, bytes: &[u8; Block::BYTES], block: &mut Block) {
        let (vectors, _) = bytes.as_chunks::<16>();
        for (index, vector) in vectors.iter().enumerate() {
            let vector = u8x16::from(*vector);
            let mask = |matches: u8x16| u64::from(matches.to_bitmask()) << (index * 16);
            block.escapes |= mask(vector.simd_eq(self.escape));
            block.blanks |= mask(vector.simd_eq(u8x16::splat(b' ')) | vector.simd_eq(u8x16::splat(b'\t')));
        }
        block.escapes &= self.escaping;
        block.blanks &= self.trimming & !block.delimiters;
    }
}

/// The mask of what is found in each of four vectors.
fn find_each(bytes: &[u8; Block::BYTES], find: impl Fn(u8x16) -> u8x16) -> u64 {
    let (vectors, _) = bytes.as_chunks::<16>();
    let masks = vectors.iter().map(|vector| u64::from(find(u8x16::from(*vector)).to_bitmask()));
    masks.enumerate().fold(0, |all, (index, mask)| all | mask << (index * 16))
}

#[inline]
fn is_line_end(vector: u8x16) -> u8x16 {
    vector.simd_eq(u8x16::splat(b'\n')) | vector.simd_eq(u8x16::splat(b'\r'))
}

/// For each bit, whether an odd number of bits up to and with it is set.
#[inline]
fn parity(mut bits: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
}
