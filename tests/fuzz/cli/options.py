"""The commands and options of ``octify``, read from the application itself: a new one is fuzzed at once."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any


@dataclass(frozen=True)
class Parameter:
    """An argument (no ``flags``) or option of a command; ``choices`` of an enumeration."""

    name: str
    flags: tuple[str, ...]
    metavar: str
    choices: tuple[str, ...]
    is_switch: bool
    multiple: bool
    required: bool


@dataclass(frozen=True)
class Command:
    """A command by the words that call it."""

    words: tuple[str, ...]
    parameters: tuple[Parameter, ...]


@lru_cache(maxsize=1)
def commands() -> tuple[Command, ...]:
    """Every command of the application, those of its groups too."""
    import typer

    from octify.cli.main import app

    return tuple(_walk(typer.main.get_command(app), ()))


def _walk(command: Any, words: tuple[str, ...]) -> Iterator[Command]:
    children = getattr(command, "commands", None)
    if children:
        for name, child in children.items():
            yield from _walk(child, (*words, name))
        return
    yield Command(words, tuple(_parameter(entry) for entry in command.params))


def _parameter(entry: Any) -> Parameter:
    flags = tuple(flag for flag in entry.opts if flag.startswith("-"))
    return Parameter(
        entry.name,
        flags,
        entry.metavar or "",
        _choices(entry),
        bool(getattr(entry, "is_flag", False)),
        bool(entry.multiple) or entry.nargs == -1,
        bool(entry.required),
    )


def _choices(entry: Any) -> tuple[str, ...]:
    """The words of an enumeration; typer moved where it keeps them."""
    annotation = getattr(getattr(entry, "type_descriptor", None), "annotation", None)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return tuple(str(member.value) for member in annotation)
    return tuple(getattr(getattr(entry, "type", None), "choices", None) or ())
