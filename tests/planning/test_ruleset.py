"""Rule files: what they may say, what the first rule that holds decides, and where a mistake stands."""

from __future__ import annotations

import operator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from octify.errors import RuleError
from octify.planning.planner import make_plan
from octify.planning.ruleset import (
    ConvFacts,
    Match,
    Rule,
    RuleSet,
    Settings,
    builtin_names,
    load_rules,
    unmatched,
)
from octify.trace import Traced, trace
from tests.oracle import noise

FACTS = ConvFacts(
    path="layer2.0.conv1",
    op="grouped",
    kernel=3,
    groups=4,
    in_channels=32,
    out_channels=64,
    size=28,
    reduction=8,
    stem=False,
    reads_depthwise=False,
    feeds_depthwise=True,
    feeds_kernel=3,
    residual=False,
)
NUMBERS = ("kernel", "groups", "in_channels", "out_channels", "size", "reduction", "feeds_kernel")
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}


def read(tmp_path: Path, text: str) -> RuleSet:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    return load_rules(file)


# What a rule matches.


def test_no_condition_holds_for_all() -> None:
    assert Match().holds(FACTS)


@pytest.mark.parametrize("key", NUMBERS)
@given(bound=st.integers(0, 99), sign=st.sampled_from([*COMPARE, ""]), have=st.integers(0, 99))
def test_numbers_are_compared(key: str, bound: int, sign: str, have: int) -> None:
    facts = replace(FACTS, **{key: have})
    assert Match(**{key: f"{sign}{bound}"}).holds(facts) == COMPARE[sign or "=="](have, bound)
    assert Match(**{key: f" {sign} {bound} "}).holds(facts) == COMPARE[sign or "=="](have, bound)
    assert Match(**{key: bound}).holds(facts) == (have == bound)


@pytest.mark.parametrize("key", ["stem", "reads_depthwise", "feeds_depthwise", "residual"])
@pytest.mark.parametrize("have", [False, True])
def test_booleans_are_told_from_not_asking(key: str, have: bool) -> None:
    facts = replace(FACTS, **{key: have})
    assert Match(**{key: have}).holds(facts)
    assert not Match(**{key: not have}).holds(facts)


def test_op() -> None:
    assert [op for op in ("dense", "grouped", "depthwise") if Match(op=op).holds(FACTS)] == ["grouped"]


@pytest.mark.parametrize(
    ("pattern", "holds"),
    [
        ("layer2.0.conv1", True),
        ("layer2.*", True),
        ("*.conv1", True),
        ("layer[12].?.conv1", True),
        ("layer2", False),
        ("Layer2.*", False),
        ("conv1", False),
    ],
)
def test_paths_are_patterns_of_the_whole_path(pattern: str, holds: bool) -> None:
    assert Match(path=pattern).holds(FACTS) == holds


def test_all_conditions_must_hold() -> None:
    assert Match(path="layer2.*", op="grouped", kernel=3, size="<56").holds(FACTS)
    assert not Match(path="layer2.*", op="grouped", kernel=3, size=">56").holds(FACTS)


def ruleset(*rules: Rule) -> RuleSet:
    return RuleSet("drawn", "", Settings(), rules, Path("drawn.toml"))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=6))
def test_the_first_rule_that_holds_decides(drawn: list[tuple[bool, bool]]) -> None:
    """Whether each rule holds and whether it names a path are drawn."""
    rules = [
        Rule(match=Match(path="*" if named else None, groups=4 if holds else 5), reason=str(index))
        for index, (holds, named) in enumerate(drawn)
    ]
    found = ruleset(*rules).find(FACTS)
    holding = [index for index, (holds, _) in enumerate(drawn) if holds]
    assert (found and found.reason) == (str(holding[0]) if holding else None)
    found = ruleset(*rules).find(FACTS, only_paths=True)
    holding = [index for index, (holds, named) in enumerate(drawn) if holds and named]
    assert (found and found.reason) == (str(holding[0]) if holding else None)


# Files.


@pytest.mark.parametrize("name", builtin_names())
def test_built_in_rules_are_named_after_their_file(name: str) -> None:
    rules = load_rules(name)
    assert rules.name == name
    assert rules.description
    assert all(rule.reason for rule in rules.rules if rule.output == "dense" or rule.leave)


def test_a_file_says_what_it_says(tmp_path: Path) -> None:
    rules = read(
        tmp_path,
        """
        name = "mine"

        [settings]
        round_to = 8
        uneven_groups = true
        boundary_macs_per_element = 2.5

        [[rule]]
        match = { path = "stem.*", kernel = 7, size = ">=32" }
        output = "dense"
        reason = "because"

        [[rule]]
        alpha = 1
        kernels = "exact"
        [rule.match]
        op = "depthwise"

        [[rule]]
        leave = true
        """,
    )
    assert rules.settings == Settings(round_to=8, uneven_groups=True, boundary_macs_per_element=2.5)
    assert rules.rules == (
        Rule(match=Match(path="stem.*", kernel=7, size=">=32"), output="dense", reason="because"),
        Rule(match=Match(op="depthwise"), alpha=1, kernels="exact"),
        Rule(leave=True),
    )
    assert rules.path_patterns == ("stem.*",)


MISTAKES = {
    "a key of the file": ('name = "x"\ndescripton = "y"', 2, "descripton", "description"),
    "a key of the settings": (
        'name = "x"\n\n[settings]\nround_too = 16',
        4,
        "settings.round_too",
        "round_to",
    ),
    "a table": ('name = "x"\n\n[setings]\nround_to = 16', 3, "setings", "settings"),
    "a key of the second rule": (
        'name = "x"\n[[rule]]\noutput = "dense"\n[[ rule ]] # no 2\n# ouput\nouput = "dense"',
        6,
        "rule.1.ouput",
        "output",
    ),
    "a condition": (
        'name = "x"\n[[rule]]\nmatch = { kernel = 3 }\n\n[[rule]]\nmatch = { stem = true, kernal = 3 }',
        6,
        "rule.1.match.kernal",
        "kernel",
    ),
    "a condition in a table": ('name = "x"\n[[rule]]\n[rule.match]\nkernal = 3', 4, "match.kernal", "kernel"),
    "a condition with dots": ('name = "x"\n[[rule]]\nmatch.kernal = 3', 3, "match.kernal", "kernel"),
    "a quoted key": ('name = "x"\n[[rule]]\n"ouput" = "dense"', 3, "rule.0.ouput", "output"),
    "no name": ('description = "y"\n[[rule]]\nmatch = { path = "name = 3" }', 1, "name", "add name"),
    "not a comparison": ('name = "x"\n[[rule]]\nmatch = { size = "over 3" }', 3, "match.size", '">=32"'),
    "not a boolean": ('name = "x"\n[[rule]]\nmatch = { stem = "yes" }', 3, "match.stem", "'yes'"),
    "not a number": ('name = "x"\n[[rule]]\nmatch = { size = true }', 3, "match.size", "True"),
    "not an operation": ('name = "x"\n[[rule]]\nmatch.op = "groped"', 3, "match.op", "grouped"),
    "not a kernel scheme": ('name = "x"\n[[rule]]\nkernels = "fast"', 3, "rule.0.kernels", "exact"),
    "not an output": ('name = "x"\n[[rule]]\noutput = "low"', 3, "rule.0.output", "dense"),
    "not a share": (
        'name = "x"\n[[rule]]\nreason = "at alpha = 2"\nalpha = 2',
        4,
        "rule.0.alpha",
        "the value is 2",
    ),
    "not finite": ('name = "x"\n[settings]\nboundary_macs_per_element = inf', 3, "per_element", "inf"),
    "not positive": ('name = "x"\n[settings]\nround_to = 0', 3, "settings.round_to", "the value is 0"),
    "one rule as a table": ('name = "x"\n\n[rule]\noutput = "dense"', 3, "rule", "[[rule]]"),
    "not TOML": ('name = "x"\n[[rule]\noutput = "dense"', 2, "TOML", "]]"),
}


@pytest.mark.parametrize(("text", "line", "key", "told"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_with_file_line_and_key(
    tmp_path: Path, text: str, line: int, key: str, told: str
) -> None:
    with pytest.raises(RuleError) as caught:
        read(tmp_path, text)
    assert caught.value.where == f"{tmp_path / 'mine.toml'}:{line}"
    assert key in caught.value.what
    assert told in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match="cannot be read"):
        load_rules(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes('name = "é"'.encode("latin-1"))
    with pytest.raises(RuleError, match="UTF-8"):
        load_rules(tmp_path / "latin.toml")
    with pytest.raises(RuleError, match="default, everywhere"):
        load_rules("papre")


# Patterns that match nothing.


@given(st.lists(st.sampled_from(["a", "b", "a.*", "*.c", "z*"]), unique=True))
def test_unmatched(patterns: list[str]) -> None:
    assert set(unmatched(patterns, ["a", "a.b", "a.b.c"])) == set(patterns) & {"b", "z*"}


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.first(x)))


@pytest.fixture
def traced() -> Traced:
    return trace(Two().double(), noise(1, 3, 16, 16))


def test_path_patterns_of_rules_must_match_a_convolution(traced: Traced) -> None:
    """All that match none are listed with the rule file; a module that is no convolution is none."""
    rules = ruleset(*(Rule(match=Match(path=path)) for path in ("first", "norm", "third.*")))
    with pytest.raises(RuleError) as caught:
        make_plan(traced, rules)
    assert "norm, third.*" in caught.value.what
    assert caught.value.where == "drawn.toml"
    assert "first, second" in str(caught.value.why)
    make_plan(traced, ruleset(Rule(match=Match(path="s*"))))
