"""Drawing a command line, running it in a world of its own, judging what happened."""

from __future__ import annotations

import random
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.cli.judge import listing, wrong_files, wrong_streams
from tests.fuzz.cli.options import Command, Parameter, commands
from tests.fuzz.cli.run import run_line
from tests.fuzz.cli.signals import interrupted
from tests.fuzz.cli.values import value_of
from tests.fuzz.cli.world import new_world

_SECONDS = 100.0
_SIGNALS_EVERY = 25  # a process of its own, with torch to import: seconds


@dataclass(frozen=True)
class LineOutcome:
    """A command line and how it ended; ``wrong`` is empty where all is as it must be."""

    number: int
    arguments: tuple[str, ...]
    damage: tuple[str, ...]
    ended: str
    wrong: tuple[str, ...]
    err: str

    def text(self) -> str:
        """The failure, so that a reader can repeat it."""
        shown = " ".join(shlex.quote(word) for word in self.arguments)
        lines = [f"octify {shown!a}", *(f"wrong: {entry}" for entry in self.wrong)]
        lines += [f"file: {entry}" for entry in self.damage]
        return "\n".join(
            [*lines, f"ended: {self.ended}", *(f"  {line}" for line in self.err.splitlines()[-12:])]
        )


SOLID = ("usual",)
# What draws the kinds of input that octify is known to stumble over, and the faults by their numbers.
PENDING = {"hostile values": "M10, S3, S6, S7", "damaged files": "S1, M10", "signals": "S2"}
EVERYTHING = (*SOLID, *PENDING)


def check_number(seed: int, number: int, kinds: Sequence[str] = EVERYTHING) -> LineOutcome:
    """Draw the command line of a number from ``kinds`` of trouble, run and judge it."""
    chance = random.Random(f"octify cli {seed} {number}")
    with tempfile.TemporaryDirectory(prefix="octify-fuzz-") as folder:
        world = Path(folder).resolve()
        damage = new_world(world / "work", chance, damaged="damaged files" in kinds)
        if "signals" in kinds and number % _SIGNALS_EVERY == _SIGNALS_EVERY - 1:
            signalled = interrupted(world, chance)
            return LineOutcome(
                number, signalled.arguments, (), signalled.ended, signalled.wrong, signalled.err
            )
        arguments = draw_line(chance, hostile="hostile values" in kinds)
        before = listing(world / "work")
        ended = run_line(arguments, world, _SECONDS)
        after = listing(world / "work")
        wrong = [*wrong_streams(arguments, ended), *wrong_files(arguments, before, after, ended.code)]
        # .ses is onnxruntime's own.
        left = [path.name for path in (world / "TMPDIR").iterdir() if path.name != ".ses"]
        wrong += [f"left in the temporary folder: {name}" for name in left]
        return LineOutcome(number, tuple(arguments), tuple(damage), str(ended.code), tuple(wrong), ended.err)


def draw_line(chance: random.Random, *, hostile: bool = True) -> list[str]:
    """A command with its arguments and some of its options, usual and hostile."""
    command = chance.choice(commands())
    share = chance.choice([0.0, 0.1, 0.3, 0.6]) if hostile else 0.0
    words = list(command.words)
    for parameter in _drawn(command, chance):
        words += _words(parameter, chance, share)
    if hostile and chance.random() < 0.05:
        odd = chance.choice(["--help", "--version", "-x", "--nothing", "--", ""])
        words.insert(chance.randrange(len(words) + 1), odd)
    if hostile and chance.random() < 0.03:
        del words[chance.randrange(len(words))]
    # What the operating system cannot pass on as an argument is no command line.
    return [word.replace("\x00", "") for word in words]


def _drawn(command: Command, chance: random.Random) -> list[Parameter]:
    """The arguments, what is required, and up to five options."""
    needed = [p for p in command.parameters if not p.flags or p.required]
    others = [p for p in command.parameters if p.flags and not p.required]
    some = chance.sample(others, min(len(others), chance.choice([0, 1, 2, 3, 5])))
    return [*needed, *some]


def _words(parameter: Parameter, chance: random.Random, hostile: float) -> list[str]:
    if parameter.is_switch:
        return [chance.choice(parameter.flags)]
    words = []
    for _ in range(chance.choice([1, 1, 2]) if parameter.multiple else 1):
        flag = [chance.choice(parameter.flags)] if parameter.flags else []
        words += [*flag, value_of(parameter, chance, hostile)]
    return words


def of_signal(number: int, by: int) -> LineOutcome:
    """The outcome of a number whose line ended this process, and not its own, by a signal."""
    return LineOutcome(number, (), (), f"signal {by}", ("it ended the fuzzer by a signal",), "")
