"""Reads files with the tables of an older system: JSON with one table or all, CSV with one."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dari.core.old_tables import kind_of_table

_LONGEST_CELL_CHARS = 16 * 1024 * 1024
"""A cell may hold a whole flow as JSON; the csv module's default is 131,072."""

Table = tuple[str, Sequence[Mapping[str, Any]]]


class BadTable(Exception):
    """A file holds no table that is known; the message tells the file."""


def read_tables(path: Path, note: Callable[[str], None]) -> list[Table]:
    """(collection, rows) of each table in a file. `note` is told what is passed by.

    Raises BadTable, and OSError where the file cannot be read.
    """
    text = _decoded(path, note)
    if path.suffix.lower() != ".json":
        return [(_collection(path, path.stem), _csv_rows(path, text, note))]
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise BadTable(f"{path}{line}: is not JSON") from error
    if isinstance(found, list):
        return [(_collection(path, path.stem), _json_rows(path, path.stem, found))]
    if not isinstance(found, dict):
        raise BadTable(f"{path}: must hold a list of rows, or tables by their names")
    return [table for name, rows in found.items() for table in _named_table(path, name, rows, note)]


def _named_table(path: Path, name: str, rows: Any, note: Callable[[str], None]) -> list[Table]:
    if kind_of_table(name) is None:
        note(f"{path}: {name} is none of aiModels, chatConfigurations, KnowledgeBase; it is passed by")
        return []
    return [(_collection(path, name), _json_rows(path, name, rows))]


def _collection(path: Path, name: str) -> str:
    kind = kind_of_table(name)
    if kind is None:
        raise BadTable(f"{path}: must be named after its table: aiModels, chatConfigurations or KnowledgeBase")
    return kind.collection


def _json_rows(path: Path, name: str, rows: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadTable(f"{path}: {name} must be a list of rows with names and values")
    return rows


def _csv_rows(path: Path, text: str, note: Callable[[str], None]) -> Sequence[Mapping[str, Any]]:
    before = csv.field_size_limit(_LONGEST_CELL_CHARS)
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), restkey="", restval=None))
    except csv.Error as error:
        raise BadTable(f"{path}: is not CSV: {error}") from error
    finally:
        csv.field_size_limit(before)
    if any("" in row for row in rows):
        note(f"{path}: some rows have more cells than the header; what is beyond is passed by")
    return [{name: value for name, value in row.items() if name} for row in rows]


def _decoded(path: Path, note: Callable[[str], None]) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        note(f"{path}: is not UTF-8; it is read as CP949")
    try:
        return content.decode("cp949")
    except UnicodeDecodeError as error:
        raise BadTable(f"{path}: is neither UTF-8 nor CP949, at byte {error.start}") from error
