"""The Rust parser. Written by hand; a test compares it with the compiled module."""

from typing import final

class ParseError(ValueError):
    """The file cannot be read on. `args == (code, line, byte_offset, limit)`.

    `code` is one of record_too_long, cell_too_long, header_too_long, too_many_columns, unclosed_quote,
    empty_file, no_header, header_invalid_bytes, header_nul_byte; `line` is 1-based; `byte_offset`
    0-based in the file; `limit` the limit that was passed, or 0. The place is the start of the record, for
    cell_too_long that of the cell, for unclosed_quote that of the quote.
    """

@final
class RejectedRow:
    """A record or line that is not stored as a row."""

    @property
    def line(self) -> int:
        """Line of the file at which the record begins, from 1."""
    @property
    def byte_offset(self) -> int:
        """Byte of the file at which the record begins, from 0."""
    @property
    def byte_length(self) -> int:
        """Length of the record in the file, its line end included."""
    @property
    def reason(self) -> str:
        """Rows: text_after_quote, too_few_fields, too_many_fields, nul_byte, invalid_bytes, row_too_wide, other_table.

        No rows, counted in `lines_set_aside`: preamble, comment, footer.
        """
    @property
    def raw(self) -> bytes:
        """The record's first bytes as they came, at most 4,096."""

@final
class Reading:
    """How a file is read. `quote`, `escape` and `comment` are "" for none."""

    @property
    def encoding(self) -> str:
        """One of ascii, utf-8, utf-16le, utf-16be, cp949, shift_jis, gb18030, windows-1252."""
    @property
    def delimiter(self) -> str: ...
    @property
    def quote(self) -> str: ...
    @property
    def escape(self) -> str: ...
    @property
    def comment(self) -> str: ...
    @property
    def trims_blanks(self) -> bool: ...
    @property
    def preamble_lines(self) -> int: ...
    @property
    def header_rows(self) -> int: ...

@final
class Detected:
    """What was found out about a file, or told."""

    @property
    def reading(self) -> Reading: ...
    @property
    def runner_up(self) -> Reading | None: ...
    @property
    def confidence(self) -> float:
        """How far `reading` is ahead of `runner_up`: 0 to 1."""

@final
class Checkpoint:
    """Where a parser can go on: the state between two records. Plain values, fit for a database row."""

    def __new__(
        cls,
        offset_bytes: int,
        line: int,
        rows_stored: int,
        rows_rejected: int,
        lines_set_aside: int,
        rows_ragged: int,
        rows_repaired: int,
        rows_replaced: int,
        columns: list[str],
        state: bytes,
    ) -> Checkpoint: ...
    @property
    def offset_bytes(self) -> int:
        """Bytes of the file that are consumed: the start of the next record."""
    @property
    def line(self) -> int:
        """Line number of the next record, from 1."""
    @property
    def rows_stored(self) -> int: ...
    @property
    def rows_rejected(self) -> int: ...
    @property
    def lines_set_aside(self) -> int:
        """Lines that are no rows: preamble, comments, footer."""
    @property
    def rows_ragged(self) -> int:
        """Stored rows with fewer or more cells than columns."""
    @property
    def rows_repaired(self) -> int:
        """Stored rows with a stray quote that was taken as text."""
    @property
    def rows_replaced(self) -> int:
        """Stored rows with U+FFFD in place of invalid bytes."""
    @property
    def columns(self) -> list[str]:
        """Column names; empty until the header, or the first record of a file without one, was read."""
    @property
    def state(self) -> bytes:
        """The rest of the parser's state: how the file is read, SHA-256 of the consumed bytes; opaque, below 1 KiB."""

@final
class Batch:
    """Some whole records, encoded for PostgreSQL, and the checkpoint after them.

    A batch closes at the first record end at or after `batch_bytes` of the file since it began; before that where it
    holds 8,192 rejected rows, or where its encoding reached 64 KiB and four times `batch_bytes` (that of a file of
    empty lines does).
    """

    @property
    def rows(self) -> bytes:
        """`COPY … (FORMAT binary)` of row_number int8, one text per column, extra_cells text[]; b"" without a row.

        Cells that a row is too short to have are NULL, and so is `extra_cells` where it has no cell beyond the columns.
        """
    @property
    def postings(self) -> bytes:
        """`COPY … (FORMAT binary)` of (bucket int4, first_row_number int8, postings bytea); b"" where no lexeme is.

        The postings of a lexeme tell in which blocks of rows it stands. A block covers up to `block_rows` rows and ends
        with its batch. `first_row_number` is that of the batch.
        """
    @property
    def evidence(self) -> bytes:
        """What is in the columns of these rows, for `merge_evidence` and `profile`; b"" where no row is stored."""
    @property
    def rows_stored(self) -> int:
        """Rows in `rows`."""
    @property
    def rejected(self) -> list[RejectedRow]: ...
    @property
    def checkpoint(self) -> Checkpoint:
        """The state after this batch: what a resumed parser starts from."""

@final
class Parser:
    """Turns the bytes of a CSV file into batches. One thread at a time; releases the interpreter while it works.

    Push interface: `feed` takes any split of the file and returns the batches that it closed, in order; `finish` takes
    the end of the file and returns the rest (at least one batch, perhaps an empty one, so that the last checkpoint is
    always known). After an error it refuses further use with RuntimeError.

    Whatever is not told about the file is found out from its first 256 KiB. A record ends at LF, CRLF or a lone CR. A
    byte-order mark is skipped. A line without any byte is no record, but in a file of one column it is a row with one
    empty cell. Names that are missing in the header, and all names of a file without one, are column_1, column_2, … by
    their place.
    """

    def __new__(
        cls,
        *,
        encoding: str | None = None,
        delimiter: str | None = None,
        quote: str | None = None,
        escape: str | None = None,
        comment: str | None = None,
        trims_blanks: bool | None = None,
        preamble_lines: int | None = None,
        header_rows: int | None = None,
        replaces_invalid_bytes: bool = False,
        keeps_ragged_rows: bool = True,
        batch_bytes: int = 4_194_304,
        block_rows: int = 128,
        max_record_bytes: int = 1_048_576,
        max_cell_bytes: int = 1_048_576,
        max_header_bytes: int = 262_144,
        max_columns: int = 1_500,
        resume: Checkpoint | None = None,
    ) -> Parser:
        """The first eight are hints; None is to be found out, "" is none. See `Reading` for their values.

        Raises ValueError where an option is out of range, or `resume` is no checkpoint of a parser. A resumed parser
        needs the options of the one before it.
        """
    def feed(self, data: bytes) -> list[Batch]:
        """Raises ParseError; the batches closed before the bad record are lost with it and read again on resume."""
    def finish(self) -> list[Batch]:
        """Raises ParseError where the file ends inside a quoted cell, or holds no record at all."""
    def sha256(self) -> bytes:
        """Digest of the whole file (32 bytes), also after a resume. Raises RuntimeError before `finish`."""
    @property
    def received_bytes(self) -> int:
        """Offset of the next byte that `feed` expects, counted in the file."""
    @property
    def detected(self) -> Detected | None:
        """How the file is read; None until enough of it has come."""

@final
class ColumnProfile:
    r"""What is in a column; see ColumnProfile in ingest.proto for each field.

    A *value* is a cell that is neither empty nor null-like. Null-like are, exactly as they stand here: NULL, Null,
    null, NA, N/A, n/a, #N/A, NaN, nan, None, none, NONE, NIL, nil, -, \N, 없음, 해당없음, 해당 없음. Bounds, lengths,
    types, distinct and top values are those of values.
    """

    @property
    def type(self) -> str:
        """One of empty, integer, decimal, float, boolean, date, time, timestamp, text."""
    @property
    def format(self) -> str:
        """How every value of a date, time or timestamp is written.

        A date: YYYY-MM-DD, YYYY/MM/DD, YYYY.MM.DD, "YYYY. M. D." (blanks and the last dot may be missing),
        "YYYY년 M월 D일" (blanks may be missing), MM/DD/YYYY, DD/MM/YYYY, and the last two with - or a dot.

        A time: HH:MM, "h:MM AM", "오전 h:MM"; each with :SS behind MM where some value has seconds (not all need to),
        which may have up to six decimals.

        A timestamp: a date, a blank (or T, in values with YYYY-MM-DD), a time; then ±HH:MM where all have a zone (Z,
        ±HH, ±HHMM or ±HH:MM).

        Months, days and hours have one or two digits. YYYYMMDD for integers that are all days of 1900 to 2099.
        """
    @property
    def precision(self) -> int:
        """Digits of an integer or decimal in all: the most before the point, and `scale`."""
    @property
    def scale(self) -> int: ...
    @property
    def ambiguous_day_order(self) -> bool: ...
    @property
    def grouped(self) -> bool: ...
    @property
    def cell_count(self) -> int: ...
    @property
    def missing_count(self) -> int: ...
    @property
    def empty_count(self) -> int: ...
    @property
    def null_like_count(self) -> int: ...
    @property
    def total_bytes(self) -> int:
        """Bytes of all cells."""
    @property
    def distinct_estimate(self) -> int:
        """Standard error: 2.3 %; in tables of more than 64 columns 3.3 %, of more than 200 columns 4.6 %."""
    @property
    def distinct_is_exact(self) -> bool:
        """Whether `distinct_estimate` is none: all of at most 64 short values are known."""
    @property
    def min(self) -> str: ...
    @property
    def max(self) -> str: ...
    @property
    def sum(self) -> str: ...
    @property
    def sum_is_exact(self) -> bool:
        """Whether no rounding is in `sum`: no number has an exponent, and 128 bits held it."""
    @property
    def mean(self) -> float | None: ...
    @property
    def shortest_chars(self) -> int: ...
    @property
    def longest_chars(self) -> int: ...
    @property
    def top_values(self) -> list[tuple[str, int, int]]:
        """Value, count at most, and how far the count may be too high; most frequent first, at most 16."""

def merge_evidence(parts: list[bytes]) -> bytes:
    """The evidence of all these rows together. Raises ValueError for other bytes. Releases the interpreter."""

def profile(evidence: bytes) -> list[ColumnProfile]:
    """The columns in order. Raises ValueError for other bytes."""

@final
class CsvWriter:
    """Turns `COPY (SELECT row_number, c1, …, extra_cells …) TO STDOUT (FORMAT binary)` into CSV.

    RFC 4180 with LF: a cell is quoted where it holds a delimiter, quote, CR or LF, or begins or ends with a blank; an
    empty cell of a row with one cell is written as `""`. NULL cells at a row's end are not written.
    """

    def __new__(cls, *, escape_formulas: bool = False) -> CsvWriter: ...
    def header(self, columns: list[str]) -> bytes:
        """The first record."""
    def rows(self, copy: bytes) -> bytes:
        """The records of one whole COPY. Raises ValueError for other bytes. Releases the interpreter."""

def lexemes(text: str) -> list[str]:
    """The search terms of a text, in order of first appearance, each once.

    The same function that fills `Batch.postings`: words and numbers NFKC-folded and lower-cased, runs of Hangul and
    other CJK letters as overlapping bigrams (a single one alone as itself), code-like tokens (`AB-1234/x`) whole and
    in parts.
    """

def lexeme_hashes(text: str) -> list[int]:
    """32-bit signed hashes of `lexemes(text)`, in the same order: what the index holds."""

def count_matches(query_hashes: list[int], texts: list[str]) -> list[list[bool]]:
    """For each text, which of the query's lexemes it holds. Releases the interpreter."""

def lexeme_buckets(hashes: list[int]) -> list[int]:
    """The bucket in which each lexeme's postings stand."""

def count_blocks(hashes: list[int], postings: bytes) -> list[int]:
    """In how many blocks of rows each lexeme stands. Releases the interpreter.

    `postings` is what PostgreSQL gives for `COPY (SELECT bucket, first_row_number, postings …) TO … (FORMAT binary)` of
    all tuples of the lexemes' buckets. Raises ValueError for other bytes.
    """

def best_blocks(
    hashes: list[int], weights: list[float], postings: bytes, max_blocks: int
) -> list[tuple[tuple[int, int], float]]:
    """The blocks (first row number, rows) in which the heaviest lexemes meet, best first, of equal ones the earlier.

    Each comes with the sum of the weights (each above 0) of the lexemes in it. Arguments as for `count_blocks`. Raises
    ValueError also where a lexeme has no weight. Releases the interpreter.
    """
