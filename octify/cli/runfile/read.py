"""Reading of a run file: one error with the file, the line, the key, and what to type."""

from __future__ import annotations

import difflib
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from octify.checks.documents import read_text
from octify.cli.runfile.options import Option
from octify.cli.runfile.schema import COMMANDS, data_options, run_file, step_options, top_options
from octify.cli.runfile.template import example_of, value_text
from octify.errors import OctifyError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_HEADER = re.compile(r"^\s*(\[\[?)\s*([\w\s.\"'-]+?)\s*\]\]?\s*(#.*)?$")
_SHOWN = 80


class RunFileError(OctifyError):
    """A run file is missing or wrong."""


def read_run_file(path: Path) -> dict[str, Any]:
    """Read and validate a run file; return what it holds, by its keys.

    Raises RunFileError: no such file, no TOML, an unknown key, or a value of the wrong type.
    """
    source = _text(path)
    try:
        data = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        where = f"{path}:{line[1] if line else len(source.splitlines()) or 1}"
        hint = 'key = "text", key = 0.5, key = true, key = ["a", "b"], or a [table]'
        raise RunFileError("the run file is not valid TOML", where=where, why=str(error), hint=hint) from None
    except (RecursionError, ValueError) as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise RunFileError("the run file cannot be read", where=str(path), why=why) from None
    try:
        checked = run_file().model_validate(data)
    except ValidationError as error:
        raise _located(path, source, error) from None
    return checked.model_dump(by_alias=True, exclude_unset=True, exclude_none=True)


def _text(path: Path) -> str:
    if not path.exists():
        raise RunFileError(
            f"no such run file: {path}",
            hint="octify init MODEL writes one; or give its path: octify run FILE",
        )
    try:
        return read_text(path)
    except OSError as error:
        raise RunFileError("the run file cannot be read", where=str(path), why=error.strerror) from None
    except UnicodeDecodeError as error:
        raise RunFileError("the run file is not UTF-8 text", where=str(path), why=str(error)) from None


def _located(path: Path, source: str, error: ValidationError) -> RunFileError:
    """The first validation error, with the line that it comes from."""
    # An unknown key first: a value that is missing may stand there under another name.
    first = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")[0]
    model, keys = _place(first["loc"])
    key, kind = ".".join(map(str, keys)), first["type"]
    where = f"{path}:{line_of(source, keys)}"
    if kind == "extra_forbidden":
        names = [field.alias or name for name, field in model.model_fields.items()]
        close = difflib.get_close_matches(str(keys[-1]).replace("_", "-"), names, n=1, cutoff=0.6)
        hint = f"{close[0]}, perhaps" if close else f"it may hold {', '.join(names)}"
        return RunFileError(f"there is no key {key} in a run file", where=where, hint=hint)
    if kind == "missing":
        return RunFileError(f"{key} is missing", where=where, hint=f'{keys[-1]} = "..."')
    option = _option(keys)
    if option is None:
        shape = "[[export]]" if keys[:1] == ["export"] else f"[{keys[0]}]" if keys else "[convert]"
        why = "it is a table of its own, with a key on each line"
        return RunFileError(
            f"{key} is {_written(first)}", where=where, why=why, hint=f"{shape}, above its keys"
        )
    same = [each for each in error.errors() if _place(each["loc"])[1][:-1] == keys[:-1]]
    why = "it is one number, or one for each channel" if option.is_numbers else _message(same[0])
    return RunFileError(f"{key} is {_written(first)}", where=where, why=why, hint=_hint(option, first))


def _written(error: Mapping[str, Any]) -> str:
    return repr(error["input"])[:_SHOWN]


def _message(error: Mapping[str, Any]) -> str:
    return str(error["msg"]).replace("Input should be", "it should be")


def _hint(option: Option, error: Mapping[str, Any]) -> str:
    """A line that the file could have in its place: the nearest choice, or an example."""
    choices = re.findall(r"'([^']+)'", str(error.get("ctx", {}).get("expected", "")))
    close = difflib.get_close_matches(str(error["input"]), choices, n=1, cutoff=0.3) or choices[:1]
    value = example_of(option)
    if close:
        value = [close[0]] if isinstance(value, list) else close[0]
    return f"{option.key} = {value_text(value)}"


def _option(keys: Sequence[Any]) -> Option | None:
    """The option that ``keys`` lead to; None for a table."""
    names = [key for key in keys if isinstance(key, str)]
    if not names:
        return None
    if names[0] == "data":
        options = data_options()
    else:
        options = step_options(names[0]) if names[0] in COMMANDS else top_options()
    return options.get(names[-1])


def _place(loc: Sequence[Any]) -> tuple[type[BaseModel], list[Any]]:
    """Innermost model on the way to an error, and its keys without what pydantic adds for unions."""
    model: type[BaseModel] = run_file()
    keys: list[Any] = []
    for number, part in enumerate(loc):
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if part in fields and not (keys and _option(keys)):
            keys.append(part)
            model = _table_in(fields[part].annotation) or model
        elif isinstance(part, int) or (number == len(loc) - 1 and not (keys and _option(keys))):
            keys.append(part)
    return model, keys


def _table_in(annotation: Any) -> type[BaseModel] | None:
    for kind in (annotation, *typing.get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def line_of(source: str, keys: Sequence[Any]) -> int:
    """Line of a key in its own table of the file; that of the table's header where it is not found."""
    tables: list[str | int] = []
    counts: dict[str, int] = {}
    best, depth = 1, 0
    for number, line in enumerate(source.splitlines(), start=1):
        header = _HEADER.match(line)
        if header:
            name = header[2].strip().strip("\"'")
            tables = [part.strip().strip("\"'") for part in name.split(".")]
            if header[1] == "[[":
                counts[name] = counts.get(name, -1) + 1
                tables.append(counts[name])
        else:
            match = re.match(r"^\s*([\w\"'.-]+)\s*=", line)
            if not match:
                continue
            inside = [*tables, *(part.strip("\"'") for part in match[1].split("."))]
            if (length := _common(inside, keys)) > depth and length == min(len(inside), len(keys)):
                best, depth = number, length
            continue
        if (length := _common(tables, keys)) > depth and length == len(tables):
            best, depth = number, length
    return best


def _common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Length of the prefix that two sequences share."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
