"""`dari map export` and `dari map apply`: the whole mapping as one file.

    dari map export [-o FILE]    write all of it: names of secrets, never secrets
    dari map apply FILE          show what would change, ask, do it

A file that was exported changes nothing when it is applied.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dari.commands.exit_codes import ExitCode
from dari.commands.terminal import Terminal, clean

if TYPE_CHECKING:
    from dari.client import Client
    from dari.commands.configuration_calls import Call
    from dari.commands.configuration_yaml import ConfigurationFile
    from dari.core.configuration import Difference

_HEADER = (
    "The mapping of a dari server: AI models, chat configurations, knowledge bases, and what links them.",
    "`dari map apply FILE` makes a server the same; what the file does not name stays as it is.",
    "Times are in seconds. Secrets are names among the server's settings.",
)


def run_export(terminal: Terminal, output: Path | None) -> ExitCode:
    """Write the mapping; the same mapping gives the same bytes."""
    from dari.commands.configuration_calls import read_server
    from dari.commands.configuration_yaml import write_configuration

    with terminal.connect() as client:
        configuration = read_server(client)
    return write_result(terminal, write_configuration(configuration, _HEADER), output)


def write_result(terminal: Terminal, text: str, output: Path | None) -> ExitCode:
    """To a file, which is written whole or not at all, or to stdout."""
    if output is None:
        terminal.out.file.write(text)
        terminal.out.file.flush()
        return ExitCode.OK
    partial = output.with_name(f"{output.name}.part")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(output)
    except OSError as error:
        terminal.note(f"{output}: {error.strerror}")
        return ExitCode.NO_OUTPUT
    return ExitCode.OK


def run_apply(terminal: Terminal, path: Path, *, prune: bool, is_dry: bool, is_agreed: bool) -> ExitCode:
    """Show what would change, ask, and do it unless somebody else changed the mapping in between."""
    from dari.commands.configuration_calls import calls, read_server
    from dari.commands.configuration_yaml import BadConfiguration, read_configuration
    from dari.core.configuration import difference

    try:
        file = read_configuration(path)
    except BadConfiguration as error:
        return _refuse(terminal, error.problems)
    with terminal.connect() as client:
        before = read_server(client)
        found = difference(before, file.configuration, prune=prune)
        if found.problems:
            return _refuse(terminal, [f"{file.place(place)}: {problem}" for place, problem in found.problems])
        _show(terminal, found)
        if not found or is_dry:
            return ExitCode.DIFFERENT if found else ExitCode.OK
        if not (is_agreed or typer.confirm("Do this?", err=True)):
            terminal.note("nothing was changed")
            return ExitCode.FAILED
        if read_server(client) != before:
            terminal.note("The mapping was changed meanwhile; nothing was done. Apply the file again.")
            return ExitCode.FAILED
        _make(terminal, client, file, list(calls(found)))
    return ExitCode.OK


def _make(terminal: Terminal, client: "Client", file: "ConfigurationFile", asked: Sequence["Call"]) -> None:
    """Make the calls, up to the first that is refused: it is told with its place in the file, and raised."""
    from dari.client import CallFailed

    for done, call in enumerate(asked):
        try:
            call.make(client)
        except CallFailed as failure:
            for field in [violation.field for violation in failure.violations] or [""]:
                # ai_model.flowise.flow_id: the first is the message's own name.
                path = (*call.path, *field.split(".")[1:])
                terminal.note(f"{file.place(path)}: refused by the server")
            terminal.note(f"{done} of {len(asked)} changes are made and stay; the same file can be applied again")
            raise
    terminal.note(f"{len(asked)} changes made")


def _refuse(terminal: Terminal, problems: Sequence[str]) -> ExitCode:
    for problem in problems:
        terminal.note(problem)
    return ExitCode.BAD_INPUT


def _show(terminal: Terminal, found: "Difference") -> None:
    lines = list(_changes(found))
    for line in lines:
        if terminal.as_json:
            terminal.json_line(line)
        else:
            terminal.out.print(_text(line), soft_wrap=True)
    if not lines:
        terminal.note("nothing to do: the server is as the file says")
    for name in found.kept:
        terminal.note(f"stays, though the file does not name it (--prune removes it): {name}")


def _changes(found: "Difference") -> Iterator[dict[str, Any]]:
    """What will be done, one line each, in its order."""
    for link in found.unlinked:
        yield {"change": "unlink", "what": str(link)}
    for resource in found.created:
        yield {
            "change": "create",
            "what": resource.name,
            "fields": _sides(dict.fromkeys(resource.fields), resource.fields),
        }
    for changed in found.changed:
        before = {name: old for name, (old, _) in changed.fields.items()}
        after = {name: new for name, (_, new) in changed.fields.items()}
        yield {"change": "update", "what": changed.resource.name, "fields": _sides(before, after)}
    for link in found.linked:
        yield {"change": "link", "what": str(link)}
    for before_link, link in found.relinked:
        yield {"change": "relink", "what": str(link), "before": str(before_link)}
    for resource in found.removed:
        yield {"change": "delete", "what": resource.name}


def _sides(before: Any, after: Any) -> dict[str, dict[str, Any]]:
    """Field by field, those of groups too, before and after."""
    flat_before, flat_after = dict(_flat("", before)), dict(_flat("", after))
    names = dict.fromkeys((*flat_before, *flat_after))
    return {
        name: {"before": flat_before.get(name), "after": flat_after.get(name)}
        for name in names
        if flat_before.get(name) != flat_after.get(name)
    }


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield prefix, value
        return
    for name, held in value.items():
        yield from _flat(f"{prefix}.{name}" if prefix else name, held)


_SIGNS = {"create": "+", "link": "+", "update": "~", "relink": "~", "unlink": "-", "delete": "-"}


def _text(line: dict[str, Any]) -> str:
    was = f" (was {line['before']})" if "before" in line else ""
    told = [f"{_SIGNS[line['change']]} {line['what']}{was}"]
    for name, sides in line.get("fields", {}).items():
        new = _shown(sides["after"])
        told.append(
            f"    {name}: {new}" if line["change"] == "create" else f"    {name}: {_shown(sides['before'])} → {new}"
        )
    return clean("\n".join(told))


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)
