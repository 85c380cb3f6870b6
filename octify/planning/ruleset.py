"""Rule files (``rules/*.toml``), the policy of a conversion: reading and validation.

A rule file has ``name``, ``description``, ``[settings]`` and ``[[rule]]`` tables. For each
convolution the first rule whose ``match`` holds decides; without one it gets the requested
alpha. This module does not import torch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from octify.checks.documents import read_text
from octify.errors import RuleError
from octify.kernels.choices import Exchange

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_COMPARISON = re.compile(r"^\s*(<=|>=|<|>|==|)\s*(\d{1,18})\s*$")


@dataclass(frozen=True)
class ConvFacts:
    """Facts about a convolution for the rules. Sizes are in samples of the shorter side.

    size, reduction:
        Size of the largest map that the next convolutions compute from its output, and that
        map's cumulative stride from the input. A convolution that only feeds 7x7 maps has size 7
        even if its own output is 14x14, because there the octave value would end at once.
    reads_depthwise, feeds_depthwise:
        Whether a depthwise convolution shares channels with its input or its output.
    feeds_kernel:
        Longest kernel side of the convolutions that read its output's channels; 0 if none does.
    residual:
        Whether other convolutions write the channels that it writes, as those that a sum joins do.
    """

    path: str
    op: Literal["dense", "grouped", "depthwise"]
    kernel: int
    groups: int
    in_channels: int
    out_channels: int
    size: int
    reduction: int
    stem: bool
    reads_depthwise: bool
    feeds_depthwise: bool
    feeds_kernel: int
    residual: bool

    @property
    def widening(self) -> bool:
        """Return whether it writes more channels than it reads."""
        return self.out_channels > self.in_channels


class _Table(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True
    )  # TOML has types: the string "yes" is not a boolean


class Match(_Table):
    """Conditions of a rule, all of which must hold. Numbers may be written ``">=32"``."""

    path: str | None = None
    op: Literal["dense", "grouped", "depthwise"] | None = None
    kernel: int | str | None = None
    groups: int | str | None = None
    in_channels: int | str | None = None
    out_channels: int | str | None = None
    size: int | str | None = None
    reduction: int | str | None = None
    stem: bool | None = None
    reads_depthwise: bool | None = None
    feeds_depthwise: bool | None = None
    feeds_kernel: int | str | None = None
    residual: bool | None = None
    widening: bool | None = None

    @field_validator("kernel", "groups", "in_channels", "out_channels", "size", "reduction", "feeds_kernel")
    @classmethod
    def _comparison(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, str) and not _COMPARISON.match(value):
            raise ValueError(f'"{value}" is not a comparison such as ">=32" or "7"')
        return value

    def holds(self, facts: ConvFacts) -> bool:
        """Return whether every condition holds for a convolution."""
        for name in type(self).model_fields:
            condition = getattr(self, name)
            if condition is None:
                continue
            have = getattr(facts, name)
            if name == "path":
                if not fnmatchcase(have, condition):
                    return False
            elif isinstance(condition, str) and name != "op":
                if not _compare(have, condition):
                    return False
            elif have != condition:
                return False
        return True


def _compare(have: int, condition: str) -> bool:
    match = _COMPARISON.match(condition)
    assert match is not None
    number = int(match[2])
    return {
        "<": have < number,
        "<=": have <= number,
        ">": have > number,
        ">=": have >= number,
        "==": have == number,
        "": have == number,
    }[match[1]]


class Rule(_Table):
    """One rule: its conditions and its consequences.

    output:
        ``"octave"`` (with the rule's ``alpha``, else the requested one) or ``"dense"``.
    leave:
        Leave the convolution as it is: it reads and writes dense values.
    exchange:
        Of a 1x1 convolution of octave values: ``"spatial"`` keeps high and low channels apart,
        ``"high-to-low"`` lets high outputs read high channels alone.
    """

    match: Match = Match()
    output: Literal["octave", "dense"] = "octave"
    alpha: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    leave: bool = False
    kernels: Literal["paper", "exact"] | None = None
    exchange: Exchange | None = None
    reason: str | None = None


class Settings(_Table):
    """Settings of a whole network.

    round_to, round_narrow_to:
        Low channel counts are rounded to a multiple of ``round_to`` (of ``round_narrow_to``
        below four times ``round_to`` channels). 1 means ``int(alpha * channels)``.
    uneven_groups:
        Where alpha gives the groups of a grouped convolution no whole number of low channels, some
        groups take one more than others (each run of equal groups becomes a convolution of its
        own). Else all take equally many, maybe none.
    least_channels:
        A coupled set is dense where it would have fewer low channels than this, or fewer high ones (but none
        at all). Narrow convolutions run at a fraction of the speed of wide ones.
    boundary_macs_per_element:
        Cost of a split or merge layer, in MACs per element of the value it passes on, when
        it is weighed against the MACs that an octave value saves.
    exchange:
        Exchange mode of every convolution for which no rule states another (see ``Rule``).
    """

    round_to: int = Field(default=1, ge=1)
    round_narrow_to: int = Field(default=1, ge=1)
    uneven_groups: bool = False
    least_channels: int = Field(default=1, ge=1)
    boundary_macs_per_element: float = Field(default=0, ge=0, allow_inf_nan=False)
    exchange: Exchange = "full"


class _File(_Table):
    name: str
    description: str = ""
    settings: Settings = Settings()
    rule: tuple[Rule, ...] = Field(default=(), strict=False)  # TOML's arrays are lists


@dataclass(frozen=True)
class RuleSet:
    """A validated rule file."""

    name: str
    description: str
    settings: Settings
    rules: tuple[Rule, ...]
    path: Path

    def find(self, facts: ConvFacts, only_paths: bool = False) -> Rule | None:
        """The first rule that matches; with ``only_paths`` among those that name a path."""
        for rule in self.rules:
            if (rule.match.path is not None or not only_paths) and rule.match.holds(facts):
                return rule
        return None

    @cached_property
    def path_patterns(self) -> tuple[str, ...]:
        """Path patterns of the rules that have one."""
        return tuple(rule.match.path for rule in self.rules if rule.match.path is not None)


def unmatched(patterns: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Patterns that match none of ``paths``."""
    return [p for p in patterns if not any(fnmatchcase(path, p) for path in paths)]


def _folder() -> Path:
    """Folder of the built-in rules: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "rules"
    return inside if inside.is_dir() else package.parent / "rules"


def builtin_names() -> list[str]:
    """Names of the built-in rule files."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def rules_path(name: str) -> Path:
    """File of a built-in rule set. Raises RuleError when none has that name."""
    if name not in builtin_names():
        raise RuleError(
            f"there are no rules named {name}",
            why=f"the built-in rules are {', '.join(builtin_names())}",
            hint="give one of those names, or the path of a .toml file",
        )
    return _folder() / f"{name}.toml"


def load_rules(name_or_path: str | Path) -> RuleSet:
    """Load a built-in rule set by name, or a rule file by path.

    Raises RuleError with the file, line and key of the first mistake.
    """
    text = str(name_or_path)
    is_file = text.endswith(".toml") or isinstance(name_or_path, Path) or "/" in text
    path = Path(name_or_path) if is_file else rules_path(text)
    try:
        source = read_text(path)
    except OSError as error:
        raise RuleError("the rule file cannot be read", where=str(path), why=error.strerror) from None
    except UnicodeDecodeError as error:
        raise RuleError("the rule file is not UTF-8 text", where=str(path), why=str(error)) from None
    try:
        data = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        raise RuleError(
            "the rule file is not valid TOML", where=f"{path}:{line[1] if line else 1}", why=str(error)
        ) from None
    except (RecursionError, ValueError) as error:  # numbers of thousands of digits are a ValueError
        why = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise RuleError("the rule file cannot be read", where=str(path), why=why) from None
    try:
        file = _File.model_validate(data)
    except ValidationError as error:
        raise _located(path, source, error) from None
    return RuleSet(file.name, file.description, file.settings, file.rule, path)


def _located(path: Path, source: str, error: ValidationError) -> RuleError:
    """The first validation error with the line it comes from."""
    first = error.errors()[0]
    keys = [part for part in first["loc"] if not (isinstance(part, str) and part in ("int", "str"))]
    key, kind = ".".join(str(part) for part in keys), first["type"]
    where = f"{path}:{_line_of(source, keys)}"
    if kind == "extra_forbidden":
        choices = ", ".join(_known_keys(keys))
        return RuleError(f"there is no key {key}", where=where, hint=f"use one of: {choices}")
    if kind == "missing":
        return RuleError(f"{key} is missing", where=where, hint=f'add {keys[-1]} = "..."')
    hint = "begin every rule with [[rule]]" if keys == ["rule"] else None
    message = first["msg"].removeprefix("Value error, ")
    return RuleError(f"{key}: {message}", where=where, why=f"the value is {first['input']!r}", hint=hint)


def _known_keys(keys: Sequence[Any]) -> list[str]:
    model: type[BaseModel] = _File
    if keys and keys[0] == "settings" and len(keys) > 1:
        model = Settings
    elif keys and keys[0] == "rule" and len(keys) > 2:
        model = Match if keys[2] == "match" and len(keys) > 3 else Rule
    return list(model.model_fields)


def _line_of(source: str, keys: Sequence[Any]) -> int:
    """Line of a key, searched in its own table of the file."""
    lines = [_without_values(line) for line in source.splitlines()]
    start = 0
    if keys and keys[0] == "rule" and len(keys) > 1 and isinstance(keys[1], int):
        heads = [n for n, line in enumerate(lines) if re.match(r"\s*\[\[\s*rule\s*\]\]", line)]
        start = heads[keys[1]] if keys[1] < len(heads) else 0
    elif keys and keys[0] == "settings":
        start = next((n for n, line in enumerate(lines) if re.match(r"\s*\[\s*settings\s*\]", line)), 0)
    name = re.escape(str(keys[-1])) if keys else "$^"
    pattern = re.compile(rf"(^|[\s{{,.])[\"']?{name}[\"']?\s*=|^\s*\[[\w.\s]*\b{name}\s*\]")
    return next((n for n in range(start, len(lines)) if pattern.search(lines[n])), start) + 1


def _without_values(line: str) -> str:
    """A line of TOML without its comment and its strings, but for those that are keys."""
    parts = re.compile(r"""("(?:\\.|[^"\\])*"|'[^']*')(\s*=)?|#.*""")
    return parts.sub(lambda match: match[0] if match[2] else "", line)
