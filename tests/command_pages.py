"""``python -m tests.command_pages``: writes docs/commands, one page a command, from the texts of its help."""

from __future__ import annotations

import enum
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from typer.models import ArgumentInfo, OptionInfo

from octify.cli.main import app
from tests.places import ROOT

FOLDER = ROOT / "docs" / "commands"

Command = Callable[..., None]


def commands(of: Any = app) -> Mapping[str, Command | Mapping[str, Any]]:
    """Functions of the commands by name; of a group, those of its own commands."""
    single = {each.name or each.callback.__name__: each.callback for each in of.registered_commands}
    return single | {each.name: commands(each.typer_instance) for each in of.registered_groups}


def pages() -> Mapping[str, str]:
    """Every page by its file's name."""
    written, listed = {}, []
    for name, command in sorted(commands().items()):
        group = command if isinstance(command, Mapping) else {}
        parts = [f"# octify {name}\n", *([] if group else _body(command))]
        for inner, part in sorted(group.items()):
            parts += [f"## octify {name} {inner}\n", *_body(part)]
        written[f"{name}.md"] = "\n".join(parts)
        firsts = [_first(each) for each in (group.values() if group else [command])]
        listed.append(f"* [`octify {name}`]({name}.md): {' '.join(firsts)}")
    head = "# Commands\n\nGenerated from the help of the commands by `python -m tests.command_pages`.\n\n"
    return written | {"README.md": head + "\n".join(listed) + "\n"}


def _body(command: Any) -> Iterator[str]:
    """Description, examples, arguments and options of one command."""
    text, _, examples = (inspect.getdoc(command) or "").partition("\b\n")
    for paragraph in text.strip().split("\n\n"):
        yield " ".join(paragraph.split()) + "\n"
    lines = [line.strip() for line in examples.splitlines()[1:] if line.strip()]
    if lines:
        yield "\n".join(["```text", *lines, "```"]) + "\n"
    parameters = list(parameters_of(command))
    for kind, head in ((ArgumentInfo, "| argument | |\n|---|---|"), (OptionInfo, "| option | |\n|---|---|")):
        rows = [_row(*each) for each in parameters if isinstance(each[1], kind)]
        if rows:
            yield "\n".join([head, *rows]) + "\n"


def parameters_of(command: Command) -> Iterator[tuple[inspect.Parameter, Any, Any]]:
    """Parameters with what typer is told about them, and their types."""
    hints = typing.get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        for info in getattr(hints[name], "__metadata__", ()):
            yield parameter, info, hints[name].__origin__


def _row(parameter: inspect.Parameter, info: Any, kind: Any) -> str:
    # In Annotated, typer takes the first name for a default, until it builds the command.
    first = info.default if isinstance(info.default, str) else f"--{parameter.name.replace('_', '-')}"
    names = ", ".join(f"`{name}`" for name in (first, *(info.param_decls or ())))
    value = _value(info, kind)
    if isinstance(info, ArgumentInfo):
        names, value = f"`{_cell(info.metavar or parameter.name.upper())}`", ""
    shown = f"{names} `{value}`" if value else names
    return f"| {shown} | {_cell(info.help or '')}{_default(parameter)} |"


def _value(info: Any, kind: Any) -> str:
    """Form of an option's value: its metavar, or its choices; nothing for a flag."""
    types = [kind, *typing.get_args(kind)]
    types += [inner for each in types for inner in typing.get_args(each)]
    choices = [each for each in types if isinstance(each, type) and issubclass(each, enum.Enum)]
    if choices:
        return _cell("|".join(str(member.value) for member in choices[0]))
    return "" if bool in types else _cell(info.metavar or "")


def _default(parameter: inspect.Parameter) -> str:
    value = getattr(parameter.default, "value", parameter.default)
    if value is inspect.Parameter.empty:
        return " Required."
    return "" if value is None or isinstance(value, bool) else f" Default: `{_cell(str(value))}`."


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _first(command: Any) -> str:
    return " ".join((inspect.getdoc(command) or "").split("\n\n")[0].split())


def main() -> None:
    """Write every page, and remove those of commands that are gone."""
    FOLDER.mkdir(exist_ok=True)
    written = pages()
    for path in FOLDER.glob("*.md"):
        if path.name not in written:
            path.unlink()
    for name, text in written.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
