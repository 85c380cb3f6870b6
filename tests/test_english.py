"""English of the package: docstrings and help begin with a noun or a verb, and names are nouns."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# First words that make a docstring or a help text a fragment.
FRAGMENTS = {"As", "How", "Of", "That", "Those", "What", "Whether", "Which"}
# Bare participles that name nothing: a noun of the field says what the thing is.
PARTICIPLES = {"asked", "found", "given", "known", "made", "told", "wanted"}
HELP = {"epilog", "help", "short_help"}

PACKAGE = Path(__file__).parents[1] / "octify"


@pytest.fixture(scope="module")
def package() -> dict[str, ast.Module]:
    """Syntax trees of the package by path."""
    return {
        str(file.relative_to(PACKAGE.parent)): ast.parse(file.read_text(encoding="utf-8"))
        for file in sorted(PACKAGE.rglob("*.py"))
    }


def _docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield getattr(node, "lineno", 1), ast.get_docstring(node) or ""


def _help(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Help texts of options and commands; of an f-string, the text before its first value."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in HELP:
            text = node.value.values[0] if isinstance(node.value, ast.JoinedStr) else node.value
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield node.value.lineno, text.value


def fragments(tree: ast.AST) -> list[str]:
    texts = [*_docstrings(tree), *_help(tree)]
    return [f"{line}: {text.splitlines()[0]}" for line, text in texts if _first_word(text) in FRAGMENTS]


def _first_word(text: str) -> str:
    return next(iter(text.split()), "").strip(",.:;").capitalize()


def _names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Names that the code gives: variables, arguments, functions, classes, attributes and imports."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.alias(asname=str(name)):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                yield node.lineno, name
            case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                yield node.lineno, name


def participles(tree: ast.AST) -> list[str]:
    return [f"{line}: {name}" for line, name in _names(tree) if name.strip("_").lower() in PARTICIPLES]


@pytest.mark.parametrize("find", [fragments, participles])
def test_package_has_none(package: dict[str, ast.Module], find: Callable[[ast.AST], list[str]]) -> None:
    bad = [f"{file}:{each}" for file, tree in package.items() for each in find(tree)]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize(
    "source",
    [
        '"""Of a module."""',
        'def f():\n    """Whether it is so."""',
        'class A:\n    """What runs."""',
        'async def f():\n    """As ``g``."""',
        'Option("--x", help="How often.")',
        'Option("--x", help=f"Which of {NAMES}.")',
        'command(short_help="What it is.")(f)',
    ],
)
def test_every_kind_of_fragment_is_seen(source: str) -> None:
    assert fragments(ast.parse(source))
    assert not fragments(ast.parse(source.translate(str.maketrans("OWHA", "XXXX"))))


@pytest.mark.parametrize(
    "source",
    [
        "{} = 1",
        "_{} = 1",
        "{}: int = 1",
        "for a, {} in b: pass",
        "[{} for {} in b]",
        "({} := 1)",
        "def f({}): pass",
        "def f(*, {}=1): pass",
        "def {}(): pass",
        "async def _{}(): pass",
        "class A:\n    {}: int",
        "self._{} = 1",
        "import a as {}",
        "from a import b as {}",
        "lambda {}: 1",
        "with a as {}: pass",
        "try: pass\nexcept A as {}: pass",
        "match a:\n    case [{}, *_]: pass",
        "match a:\n    case [*{}]: pass",
    ],
)
def test_every_kind_of_name_is_seen(source: str) -> None:
    for word in PARTICIPLES:
        assert participles(ast.parse(source.format(*[word] * 2)))
    assert not participles(ast.parse(source.format(*["known_sizes"] * 2)))
