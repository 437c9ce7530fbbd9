"""The Rust parser and lexer: the one module that imports `dari._native`."""

from collections.abc import Sequence

from dari import _native
from dari.core.errors import MalformedFile
from dari.core.search import BLOCK_ROWS
from dari.core.uploads import Batch, Checkpoint, Dialect

_PROBLEMS = {
    "record_too_long": "The record at line {line} is longer than {limit} bytes; is a quote unclosed?",
    "cell_too_long": "A cell of the record at line {line} is longer than {limit} bytes; is a quote unclosed?",
    "too_many_columns": "The record at line {line} has more than {limit} columns; is the delimiter right?",
    "unclosed_quote": "The quote that opens at line {line} is never closed.",
    "duplicate_column": "The header at line {line} names a column twice; give each column its own name.",
    "empty_file": "The file holds no record.",
    "no_header": "The file holds no header; send one, or say that there is none.",
}
_ANY_PROBLEM = "The file cannot be read at line {line}."


class NativeParser:
    """A FileParser."""

    def __init__(self, parser: _native.Parser) -> None:
        self._parser = parser

    @property
    def received_bytes(self) -> int:
        """See FileParser."""
        return self._parser.received_bytes

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

    def __init__(self, *, batch_bytes: int, max_record_bytes: int, max_columns: int) -> None:
        self._batch_bytes = batch_bytes
        self._max_record_bytes = max_record_bytes
        self._max_columns = max_columns

    def __call__(self, dialect: Dialect, resume: Checkpoint | None) -> NativeParser:
        """A parser at the beginning of a file, or at a checkpoint."""
        return NativeParser(
            _native.Parser(
                delimiter=dialect.delimiter,
                quote=dialect.quote,
                has_header=dialect.has_header,
                batch_bytes=self._batch_bytes,
                block_rows=BLOCK_ROWS,
                max_record_bytes=self._max_record_bytes,
                max_cell_bytes=self._max_record_bytes,
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
    ) -> list[tuple[int, int]]:
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


def _checkpoint(checkpoint: Checkpoint) -> _native.Checkpoint:
    return _native.Checkpoint(
        checkpoint.offset_bytes,
        checkpoint.line,
        checkpoint.rows_stored,
        checkpoint.rows_rejected,
        checkpoint.columns,
        checkpoint.sha256_state,
    )


def _malformed(error: _native.ParseError) -> MalformedFile:
    code, line, byte_offset, limit = error.args
    problem = _PROBLEMS.get(code, _ANY_PROBLEM).format(line=line, limit=limit)
    return MalformedFile(
        f"{problem} (line {line}, byte {byte_offset}) Mend the file and send it under a new upload_id.",
        {"code": code, "line": line, "byte_offset": byte_offset, "limit": limit},
    )
