"""Arguments of a MODEL: ``Unet(encoder_name="resnet34", classes=2)``. They are literals, never evaluated."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from octify.errors import SourceError

_MOST = 20_000  # characters
_SHOWN = 80
_EXAMPLE = "numbers, strings, True, False, None, and lists, tuples and dicts of them"


@dataclass(frozen=True)
class CallArguments:
    """Arguments of a factory: ``text`` as typed, with its parentheses; empty where there are none."""

    text: str = ""
    positional: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.text)


NONE = CallArguments()


def split_arguments(text: str) -> tuple[str, CallArguments]:
    """Split ``name(literals)`` into the name and its arguments; text without them stays whole.

    Raises SourceError where the parentheses hold anything but literals.
    """
    if not text.endswith(")") or "(" not in text:
        return text, NONE
    starts = [index for index, character in enumerate(text) if character == "("]
    calls = [(start, call) for start in starts if (call := _call(text[start:])) is not None]
    if not calls:
        raise SourceError(
            f"the arguments of {text[:_SHOWN]!r} cannot be read",
            why=f"an argument is a literal: {_EXAMPLE}",
            hint="""'smp:Unet(encoder_name="resnet34", classes=2)', in quotes for the shell""",
        )
    start, call = calls[0]
    positional = tuple(_literal(node, None) for node in call.args)
    keywords = {_name(keyword): _literal(keyword.value, keyword.arg) for keyword in call.keywords}
    return text[:start], CallArguments(text[start:], positional, keywords)


def keywords_only(arguments: CallArguments, example: str) -> dict[str, Any]:
    """The keyword arguments. Raises SourceError where one has no name; ``example`` is the hint."""
    if arguments.positional:
        raise SourceError(
            f"an argument in {arguments.text[:_SHOWN]} has no name", why="here each needs one", hint=example
        )
    return dict(arguments.keywords)


def _call(text: str) -> ast.Call | None:
    """Syntax tree of ``f`` called with ``text``, its arguments in parentheses; None where it is no call."""
    if len(text) > _MOST:
        return None
    try:
        tree = ast.parse(f"f{text}", mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    direct = isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)
    return tree if direct and isinstance(tree, ast.Call) else None


def _literal(node: ast.expr, name: str | None) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        written = ast.unparse(node)[:_SHOWN]
        quoted = f'{name}="{written}"' if name and isinstance(node, ast.Name) else None
        raise SourceError(
            f"the argument {f'{name}=' if name else ''}{written} is not a literal",
            why=f"arguments are never evaluated; they are {_EXAMPLE}",
            hint=f"{quoted}, if it is a string" if quoted else "build such a model in a file: model.py:NAME",
        ) from None


def _name(keyword: ast.keyword) -> str:
    if keyword.arg is None:
        raise SourceError("** is not possible among the arguments of a model", hint="name each: width=8")
    return keyword.arg
