"""Writes the pages of this folder that are made from the code; with --check, fails where one is not up to date."""

import sys
from collections.abc import Callable
from pathlib import Path

from docs import licences_page, metrics_page, settings_page

PAGES: dict[Path, Callable[[], str]] = {
    Path(__file__).with_name("settings.md"): settings_page.text,
    Path(__file__).with_name("metrics.md"): metrics_page.text,
    Path(__file__).with_name("licences.md"): licences_page.text,
}


def stale() -> list[str]:
    """Names of pages that are missing, or are not what they would be now."""
    return [
        page.name for page, text in PAGES.items() if not page.is_file() or page.read_text(encoding="utf-8") != text()
    ]


def main() -> None:
    """Write, or check."""
    if "--check" not in sys.argv:
        for page, text in PAGES.items():
            page.write_text(text(), encoding="utf-8")
    elif names := stale():
        raise SystemExit(f"not up to date in docs: {', '.join(names)}; run `make docs`")


if __name__ == "__main__":
    main()
