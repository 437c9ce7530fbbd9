"""The Rust parser and lexer: the one module that imports `dari._native`."""

from collections.abc import Sequence

from dari import _native
from dari.core.errors import MalformedFile
from dari.core.search import BLOCK_ROWS
from dari.core.uploads import Batch, Checkpoint, Dialect, ParseOptions, Reading

_PROBLEMS = {
    "record_too_long": (
        "The record at line {line} is longer than {limit} bytes. Is a quote unclosed, or no line end there?"
        " Otherwise split it, or raise max_record_bytes."
    ),
    "cell_too_long": (
        "The cell at line {line} is longer than {limit} bytes. Is a quote unclosed? Otherwise shorten it, or raise"
        " max_cell_bytes."
    ),
    "header_too_long": (
        "The header is longer than {limit} bytes at line {line}. Is a quote unclosed, or are there fewer header_rows?"
        " Otherwise shorten its names, or raise max_header_bytes."
    ),
    "too_many_columns": (
        "The record at line {line} has more than {limit} columns. Is the delimiter right? Otherwise split the table."
    ),
    "unclosed_quote": "The quote that opens at line {line} is never closed. Close it, or say that there are no quotes.",
    "empty_file": "The file holds no record. Send one that does.",
    "no_header": "The file holds no header. Send one, or say that there is none (header_rows 0).",
    "header_invalid_bytes": (
        "The header at line {line} has bytes that its encoding does not have. Say which encoding it is, or let invalid"
        " bytes be replaced."
    ),
    "header_nul_byte": "The header at line {line} has a NUL byte. Take it out, or say which encoding the file has.",
}


class NativeParser:
    """A FileParser."""

    def __init__(self, parser: _native.Parser) -> None:
        self._parser = parser

    @property
    def received_bytes(self) -> int:
        """See FileParser."""
        return self._parser.received_bytes

    @property
    def reading(self) -> Reading | None:
        """See FileParser."""
        detected = self._parser.detected
        if detected is None:
            return None
        runner_up = None if detected.runner_up is None else _dialect(detected.runner_up)
        return Reading(_dialect(detected.reading), runner_up, detected.confidence)

    def feed(self, data: bytes) -> Sequence[Batch]:
        """See FileParser."""
        try:
            return self._parser.feed(data)
        except _native.ParseError as error:
            raise _malformed(error) from error

    def finish(self) -> Sequence[Batch]:
        """See FileParser."""
        try:
            return self._parser.finish()
        except _native.ParseError as error:
            raise _malformed(error) from error

    def sha256(self) -> bytes:
        """See FileParser."""
        return self._parser.sha256()


class ParserFactory:
    """Makes parsers with the limits of this server."""

    def __init__(
        self,
        *,
        batch_bytes: int,
        max_record_bytes: int,
        max_cell_bytes: int,
        max_header_bytes: int,
        max_columns: int,
    ) -> None:
        self._batch_bytes = batch_bytes
        self._max_record_bytes = max_record_bytes
        self._max_cell_bytes = max_cell_bytes
        self._max_header_bytes = max_header_bytes
        self._max_columns = max_columns

    def __call__(self, options: ParseOptions, resume: Checkpoint | None) -> NativeParser:
        """A parser at the beginning of a file, or at a checkpoint."""
        hints = options.dialect
        return NativeParser(
            _native.Parser(
                encoding=hints.encoding,
                delimiter=hints.delimiter,
                quote=hints.quote,
                escape=hints.escape,
                comment=hints.comment,
                trims_blanks=hints.trims_blanks,
                preamble_lines=hints.preamble_lines,
                header_rows=hints.header_rows,
                replaces_invalid_bytes=options.replaces_invalid_bytes,
                keeps_ragged_rows=options.keeps_ragged_rows,
                batch_bytes=self._batch_bytes,
                block_rows=BLOCK_ROWS,
                max_record_bytes=self._max_record_bytes,
                max_cell_bytes=self._max_cell_bytes,
                max_header_bytes=self._max_header_bytes,
                max_columns=self._max_columns,
                resume=None if resume is None else _checkpoint(resume),
            )
        )


class NativeLexer:
    """A Lexer."""

    def hashes(self, text: str) -> list[int]:
        """See Lexer."""
        return _native.lexeme_hashes(text)

    def matches(self, hashes: Sequence[int], texts: Sequence[str]) -> list[list[bool]]:
        """See Lexer."""
        return _native.count_matches(list(hashes), list(texts))


class NativePostings:
    """A PostingsCodec."""

    def buckets(self, hashes: Sequence[int]) -> list[int]:
        """See PostingsCodec."""
        return _native.lexeme_buckets(list(hashes))

    def count_blocks(self, hashes: Sequence[int], postings: bytes) -> list[int]:
        """See PostingsCodec."""
        return _native.count_blocks(list(hashes), postings)

    def best_blocks(
        self, hashes: Sequence[int], weights: Sequence[float], postings: bytes, max_blocks: int
    ) -> list[tuple[tuple[int, int], float]]:
        """See PostingsCodec."""
        return _native.best_blocks(list(hashes), list(weights), postings, max_blocks)


class NativeEvidence:
    """An EvidenceCodec."""

    def merge(self, parts: Sequence[bytes]) -> bytes:
        """See EvidenceCodec."""
        return _native.merge_evidence(list(parts))

    def columns(self, evidence: bytes) -> list[_native.ColumnProfile]:
        """See EvidenceCodec."""
        return _native.profile(evidence)


def make_csv_writer(escape_formulas: bool) -> _native.CsvWriter:
    """A CsvWriter."""
    return _native.CsvWriter(escape_formulas=escape_formulas)


def _dialect(reading: _native.Reading) -> Dialect:
    return Dialect(
        encoding=reading.encoding,
        delimiter=reading.delimiter,
        quote=reading.quote,
        escape=reading.escape,
        comment=reading.comment,
        trims_blanks=reading.trims_blanks,
        preamble_lines=reading.preamble_lines,
        header_rows=reading.header_rows,
    )


def _checkpoint(checkpoint: Checkpoint) -> _native.Checkpoint:
    return _native.Checkpoint(
        checkpoint.offset_bytes,
        checkpoint.line,
        checkpoint.rows_stored,
        checkpoint.rows_rejected,
        checkpoint.lines_set_aside,
        checkpoint.rows_ragged,
        checkpoint.rows_repaired,
        checkpoint.rows_replaced,
        checkpoint.columns,
        checkpoint.state,
    )


def _malformed(error: _native.ParseError) -> MalformedFile:
    code, line, byte_offset, limit = error.args
    problem = _PROBLEMS[code].format(line=line, limit=limit)
    return MalformedFile(
        f"{problem} (line {line}, byte {byte_offset}) Then send the file under a new upload_id.",
        {"code": code, "line": line, "byte_offset": byte_offset, "limit": limit},
    )
