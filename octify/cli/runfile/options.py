"""Options of a command as fields of a pydantic model: the run file takes what the command line takes."""

from __future__ import annotations

import enum
import inspect
import types
import typing
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, Field, create_model
from pydantic.main import BaseModel
from typer.models import ArgumentInfo, OptionInfo, ParameterInfo

# Of a session, and not of the work: they stay on the command line of `octify run`.
SESSION = frozenset({"json", "quiet", "verbose", "debug", "force", "dry_run"})


class OptionTable(BaseModel):
    """A table of the run file: TOML has types, so that the string "yes" is not a boolean."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=False)


@dataclass(frozen=True)
class Option:
    """An option or argument of a command.

    key:
        Its name in the run file: ``calib-effort`` for ``--calib-effort``.
    flag:
        What the command line calls it; None for an argument, which has a position.
    off:
        The flag that says no, where there is one.
    kind:
        Type of its value in TOML.
    """

    name: str
    key: str
    flag: str | None
    off: str | None
    kind: Any
    default: Any
    help: str
    metavar: str

    def words(self, value: Any) -> list[str]:
        """``value`` on a command line."""
        if isinstance(value, bool):
            chosen = self.flag if value else self.off
            return [chosen] if chosen else []
        if self.is_numbers and isinstance(value, (list, tuple)):
            value = ",".join(repr(int(n)) if float(n).is_integer() else repr(n) for n in value)
        values = value if isinstance(value, (list, tuple)) else [value]
        if self.flag is None:
            return [str(each) for each in values]
        # One word, so that a value may begin with a dash.
        return [f"{self.flag}={each}" for each in values]

    @property
    def is_numbers(self) -> bool:
        """Return whether the value is numbers with commas between, which TOML writes as a list."""
        return "[," in self.metavar


def options_of(command: Callable[..., Any]) -> dict[str, Option]:
    """Options and arguments of a command, by key, in its order; those of a session are left out."""
    hints = typing.get_type_hints(command, include_extras=True)
    options = [
        _option(name, hints[name], parameter.default)
        for name, parameter in inspect.signature(command).parameters.items()
        if name not in SESSION and get_origin(hints[name]) is Annotated
    ]
    return {option.key: option for option in options}


def table(name: str, doc: str, options: Collection[Option], **more: Any) -> type[OptionTable]:
    """Build a model with a field for each of ``options``; ``more`` are pydantic's fields beside them."""
    fields: dict[str, Any] = {option.name: _field(option) for option in options}
    return create_model(name, __base__=OptionTable, __doc__=doc, **fields, **more)


def _option(name: str, hint: Any, default: Any) -> Option:
    inner, *annotations = get_args(hint)
    info: ParameterInfo = next(each for each in annotations if isinstance(each, (OptionInfo, ArgumentInfo)))
    # In Annotated the first declaration stands in the place of a default.
    words = [info.default, *(info.param_decls or ())]
    declared = [text for text in words if isinstance(text, str) and text.startswith("--")]
    flag, _, off = (declared[0] if declared else f"--{name.replace('_', '-')}").partition("/")
    is_argument = isinstance(info, ArgumentInfo)
    kind = _toml(inner)
    metavar = info.metavar or ""
    if "[," in metavar:
        kind = kind | float | list[float]
    if info.min is not None or info.max is not None:
        kind = _limited(kind, info.min, info.max)
    return Option(
        name,
        name.replace("_", "-") if is_argument else flag.removeprefix("--"),
        None if is_argument else flag,
        off or None,
        kind,
        None if default is inspect.Parameter.empty else default,
        " ".join((info.help or "").split()),
        metavar,
    )


def _limited(kind: Any, least: float | None, most: float | None) -> Any:
    """``kind`` with the limits of a value, or of each value of a list."""
    if get_origin(kind) is list:
        return list.__class_getitem__(_limited(get_args(kind)[0], least, most))
    return Annotated[kind, Field(ge=least, le=most)]


def _toml(kind: Any) -> Any:
    """The type that a value of ``kind`` has in TOML."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        (kind,) = (each for each in get_args(kind) if each is not type(None))
        return _toml(kind)
    if origin is list:
        return list.__class_getitem__(_toml(get_args(kind)[0]))
    if kind is Path:
        return str
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return Literal[tuple(member.value for member in kind)]
    return kind


def _field(option: Option) -> Any:
    default = option.default.value if isinstance(option.default, enum.Enum) else option.default

    def show_default(schema: dict[str, Any]) -> None:
        """Replace pydantic's default, which stands for an option that is not given, by the command's."""
        schema.pop("default", None)
        if default is not None and default is not False:
            schema["default"] = default

    # TOML has no null: what is not given is not there.
    return (
        option.kind,
        Field(None, alias=option.key, description=option.help, json_schema_extra=show_default),
    )
