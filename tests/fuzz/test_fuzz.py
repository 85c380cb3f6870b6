"""A short run of the fuzzer; and the fuzzer draws everything, and finds and shrinks a planted fault."""

from __future__ import annotations

import os
import random
import signal
from typing import Any

import pytest
import torch
from torch import nn

import octify
from tests.fuzz.catalogue import ENDINGS, PENDING, SOLID, TEMPLATES, every_idiom
from tests.fuzz.cli import lines
from tests.fuzz.cli.options import commands
from tests.fuzz.draw import Draw
from tests.fuzz.graphs import Settings, check_number, draw_case
from tests.fuzz.operations import without_generator
from tests.fuzz.pool import run_numbers

_NETWORKS = 6
_LINES = 8


@pytest.mark.filterwarnings("ignore:.*nn.functional.upsample.* is deprecated")
def test_every_registered_operation_has_a_generator() -> None:
    missing = [f"{target.text} ({target.family})" for target in without_generator()]
    assert not missing, f"give them arguments in tests/fuzz/arguments.py: {missing}"


def test_every_idiom_works_on_some_network() -> None:
    assert [name for name in TEMPLATES if not any(_works(name, seed) for seed in range(20))] == []
    assert [name for name in ENDINGS if not any(_ends(name, seed) for seed in range(20))] == []


def _drawn(seed: int) -> Draw:
    dims = (2, 1, 3)[seed % 3]
    draw = Draw(str(seed), dims, {1: (8,), 2: (8, 8), 3: (4, 4, 4)}[dims])
    draw.attempt("conv", TEMPLATES["block/convolution"])
    return draw


def _works(name: str, seed: int) -> bool:
    return _drawn(seed).attempt(name, TEMPLATES[name])


def _ends(name: str, seed: int) -> bool:
    return _drawn(seed).program(name, ENDINGS[name]) is not None


def test_pending_idioms_are_idioms() -> None:
    assert set(PENDING) <= set(every_idiom())
    assert set(SOLID) == set(every_idiom()) - set(PENDING)


@pytest.mark.parametrize("number", range(_NETWORKS))
def test_networks_of_solid_idioms(number: int) -> None:
    outcome = check_number(Settings(0, SOLID, onnx_every=0), number)
    assert not outcome.found, "\n\n".join(found.program() for found in outcome.found)


def test_a_number_means_the_same_network_always() -> None:
    settings = Settings(3, every_idiom())
    drawn = [draw_case(settings, 5) for _ in range(2)]
    assert drawn[0] is not None
    assert drawn[0] == drawn[1]


def test_a_planted_fault_is_found_and_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions that forget what ReLU does: the minimal program is that operation alone."""
    real = octify.convert

    def forgetful(*args: Any, **kwargs: Any) -> octify.Result:
        result = real(*args, **kwargs)
        modules = [module for module in result.model.modules() if isinstance(module, nn.LeakyReLU)]
        for module in modules:
            module.negative_slope = 0.5
        return result

    monkeypatch.setattr(octify, "convert", forgetful)
    step = "init: self.$m = nn.LeakyReLU()\n$y = self.$m($x)"
    monkeypatch.setitem(TEMPLATES, "test/leaky", step)
    idioms = ("block/residual", "block/sum", "test/leaky")
    outcomes = [check_number(Settings(0, idioms, 0), number, ["alpha 0"]) for number in range(8)]
    found = [found for outcome in outcomes for found in outcome.found]
    assert found
    for each in found:
        assert "test/leaky" in each.idioms
        assert len(each.idioms) <= 3  # with a map to start from, and the ending
        assert "off by" in each.failure.what
        namespace: dict[str, Any] = {}
        exec(compile(each.case.program.source(), "minimal program", "exec"), namespace)
        with torch.no_grad():
            assert namespace["model"](namespace["x"]).isfinite().all()


@pytest.mark.parametrize("number", range(_LINES))
def test_usual_command_lines(number: int) -> None:
    outcome = lines.check_number(0, number, lines.SOLID)
    assert not outcome.wrong, outcome.text()


def test_a_judge_sees_what_is_wrong() -> None:
    from tests.fuzz.cli.judge import wrong_files, wrong_streams
    from tests.fuzz.cli.run import Ended

    assert wrong_streams(["inspect", "net.py"], Ended(0, "fine", "")) == []
    assert wrong_streams(["inspect", "net.py"], Ended(70, "", "error")) == ["exit code 70"]
    assert wrong_streams(["inspect", "net.py", "--json"], Ended(0, "fine", "")) != []
    assert wrong_streams(["inspect"], Ended(None, "", "")) != []
    before = {"net.py": "a", "artefact/plan.json": "b"}
    asked = ["convert", "net.py", "-o", "out"]
    assert wrong_files(asked, before, before | {"out/plan.json": "c"}, 0) == []
    assert wrong_files(asked, before, before | {"out/plan.json": "c"}, 2) != []
    assert wrong_files(asked, before, before | {"net.py": "c"}, 0) == ["an input is changed: net.py"]
    assert wrong_files(asked, before, before | {"other": "c"}, 0) != []


def test_every_command_and_option_is_drawn() -> None:
    chance = random.Random(0)
    drawn = [lines.draw_line(chance, hostile=False) for _ in range(6000)]
    for command in commands():
        mine = [line for line in drawn if tuple(line[: len(command.words)]) == command.words]
        assert mine
        words = {word for line in mine for word in line}
        assert [p.name for p in command.parameters if p.flags and not words & set(p.flags)] == []


def test_a_case_that_ends_its_process_is_told() -> None:
    def work(number: int) -> str:
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return f"done {number}"

    results = run_numbers(
        work, lambda number, by: f"{number} by {by}", range(5), jobs=2, seconds=60.0, what="cases"
    )
    assert sorted(results) == sorted(["done 0", "done 1", f"2 by {int(signal.SIGKILL)}", "done 3", "done 4"])
