"""The Rust parser. Written by hand; a test compares it with the compiled module."""

from typing import final

class ParseError(ValueError):
    """The file cannot be read on. `args == (code, line, byte_offset, limit)`.

    `code` is one of record_too_long, cell_too_long, too_many_columns, unclosed_quote, duplicate_column, empty_file,
    no_header, header_invalid_utf8, header_nul_byte, header_text_after_quote; `line` is 1-based; `byte_offset` 0-based
    in the file; `limit` the limit that was passed, or 0. The place is the start of the record, for cell_too_long that
    of the cell, for unclosed_quote that of the quote.
    """

@final
class RejectedRow:
    """A record that cannot be stored."""

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
        """The first that holds of text_after_quote, too_few_fields, too_many_fields, nul_byte, invalid_utf8."""
    @property
    def raw(self) -> bytes:
        """The record's first bytes as they came, at most 4,096."""

@final
class Checkpoint:
    """Where a parser can go on: the state between two records. Plain values, fit for a database row."""

    def __new__(
        cls,
        offset_bytes: int,
        line: int,
        rows_stored: int,
        rows_rejected: int,
        columns: list[str],
        sha256_state: bytes,
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
    def columns(self) -> list[str]:
        """Column names; empty until the header, or the first record of a file without one, was read."""
    @property
    def sha256_state(self) -> bytes:
        """SHA-256 of the consumed bytes as a state that can go on (opaque, under 128 bytes)."""

@final
class Batch:
    """Some whole records, encoded for PostgreSQL, and the checkpoint after them.

    A batch closes at the first record end at or after `batch_bytes` of the file since it began; before that where it
    holds 8,192 rejected rows, or where its encoding reached 64 KiB and four times `batch_bytes` (that of a file of
    empty lines does).
    """

    @property
    def rows(self) -> bytes:
        """`COPY … (FORMAT binary)` of (row_number int8, one text per column); b"" where no row is stored."""
    @property
    def postings(self) -> bytes:
        """`COPY … (FORMAT binary)` of (bucket int4, first_row_number int8, postings bytea); b"" where no lexeme is.

        The postings of a lexeme tell in which blocks of rows it stands. A block covers up to `block_rows` rows and ends
        with its batch. `first_row_number` is that of the batch.
        """
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

    Reads RFC 4180 in UTF-8; a record ends at LF, CRLF or a lone CR. A byte-order mark is skipped. A line without any
    byte is no record, but in a file of one column it is a row with one empty cell. Names that are missing in the
    header, and all names of a file without one, are column_1, column_2, … by their place.
    """

    def __new__(
        cls,
        *,
        delimiter: str = ",",
        quote: str = '"',
        has_header: bool = True,
        batch_bytes: int = 4_194_304,
        block_rows: int = 128,
        max_record_bytes: int = 1_048_576,
        max_cell_bytes: int = 1_048_576,
        max_columns: int = 1_500,
        resume: Checkpoint | None = None,
    ) -> Parser:
        """`delimiter` and `quote` are one ASCII character each; `quote` may be "" for files without quoting.

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
