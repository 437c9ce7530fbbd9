"""`dari map import`: proposes a configuration out of the tables of an older system, for a person to accept.

What is sure stands in the file as it is, what is not stands there as comments; each link says why. Nothing is sent to
a server: that is `dari map apply`'s.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dari.adapters.postgres.old_tables import OldDatabaseUnreadable, read_old_tables
from dari.commands.configuration_yaml import Notes, write_configuration
from dari.commands.exit_codes import ExitCode
from dari.commands.map_files import write_result
from dari.commands.old_table_files import BadTable, read_tables
from dari.commands.terminal import Terminal
from dari.core.configuration import KINDS, Configuration, LinkList
from dari.core.link_proposals import MOST_DOUBTFUL, Proposal, propose
from dari.core.old_tables import OldRow, kind_of_table, read_rows

DSN_VARIABLE = "DARI_IMPORT_DSN"
_HEADER = (
    "Proposed by `dari map import` out of the tables of an older system. Read it before you apply it:",
    "each proposed link tells how sure it is (0 to 1) and why; what is doubtful is commented out,",
    f"the {MOST_DOUBTFUL} surest of each list at most.",
    "Then: dari map apply FILE",
)
_LISTS = (LinkList.CHAIN, LinkList.LINKED, LinkList.GRANTED)

Tables = dict[str, list[Mapping[str, Any]]]


def run(terminal: Terminal, files: Sequence[Path], output: Path | None, *, from_postgres: bool) -> ExitCode:
    """Read the tables, propose, write."""
    tables: Tables = {}
    try:
        for path in files:
            _add(tables, read_tables(path, terminal.note))
        if from_postgres:
            _add(tables, _from_postgres())
    except BadTable as error:
        terminal.note(str(error))
        return ExitCode.BAD_INPUT
    except OldDatabaseUnreadable as error:
        terminal.note(f"{DSN_VARIABLE}: {error}")
        return ExitCode.UNAVAILABLE
    rows = read_rows(tables)
    if not rows:
        terminal.note("no row of aiModels, chatConfigurations or KnowledgeBase was found")
        return ExitCode.BAD_INPUT
    proposals = propose(rows)
    _tell(terminal, rows, proposals)
    return write_result(terminal, _written(rows, proposals), output)


def _add(tables: Tables, found: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> None:
    for collection, rows in found:
        tables.setdefault(collection, []).extend(rows)


def _from_postgres() -> list[tuple[str, Sequence[Mapping[str, Any]]]]:
    dsn = os.environ.get(DSN_VARIABLE, "")
    if not dsn:
        raise BadTable(f"set {DSN_VARIABLE} to the DSN of the older system's database: a command line shows in `ps`")
    found = read_old_tables(dsn, lambda name: kind_of_table(name) is not None)
    return [(kind.collection, rows) for name, rows in found if (kind := kind_of_table(name)) is not None]


def _written(rows: Sequence[OldRow], proposals: Sequence[Proposal]) -> str:
    resources = {(row.resource.kind.collection, row.resource.id): row.resource for row in rows}
    lists = frozenset((list, row.resource.id) for list in _LISTS for row in rows if row.resource.kind is list.holder)
    configuration = Configuration(
        resources,
        tuple(one.link for one in proposals),
        lists,
        frozenset(kind.collection for kind in KINDS),
    )
    notes = Notes(
        links={one.link: f"{one.confidence:.2f}: {'; '.join(one.reasons)}" for one in proposals},
        doubtful_links=frozenset(one.link for one in proposals if not one.is_sure),
        resources={row.resource.name: tuple(_about(row)) for row in rows},
        doubtful_resources=frozenset(row.resource.name for row in rows if not row.is_complete),
    )
    return write_configuration(configuration, _HEADER, notes)


def _about(row: OldRow) -> Iterator[str]:
    if row.key:
        yield f"was {row.key}"
    yield from row.notes


def _tell(terminal: Terminal, rows: Sequence[OldRow], proposals: Sequence[Proposal]) -> None:
    for row in rows:
        for note in row.notes:
            terminal.note(f"{row.resource.name}: {note}")
    sure = sum(one.is_sure for one in proposals)
    unfinished = sum(not row.is_complete for row in rows)
    terminal.note(
        f"{len(rows)} resources, {unfinished} of them to be filled in; {sure} links proposed, "
        f"{len(proposals) - sure} doubtful ones commented out"
    )
