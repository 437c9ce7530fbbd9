"""Hints that leave nothing to be found out."""

from typing import Any

RFC_4180: dict[str, Any] = {
    "encoding": "utf-8",
    "delimiter": ",",
    "quote": '"',
    "escape": "",
    "comment": "",
    "trims_blanks": False,
    "preamble_lines": 0,
    "header_rows": 1,
}
NO_HEADER: dict[str, Any] = {**RFC_4180, "header_rows": 0}
