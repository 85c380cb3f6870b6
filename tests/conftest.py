"""What all tests share: threads, hypothesis profiles, torchvision's quirk, the command line as a fixture."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from tests.places import ROOT

# One thread unless told otherwise, before torch is imported: sums come out the same on every machine, and
# workers of pytest-xdist do not fight over cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torchvision_quirk
from hypothesis import HealthCheck, settings

torchvision_quirk.install()

# A shell's background jobs ignore Ctrl-C, which what they start inherits; tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# A model is traced, converted and run in most examples: no deadline, and few examples. `--hypothesis-profile`
# chooses another; CI=1 draws the same examples every time, so that a red run is about the change at hand.
settings.register_profile(
    "default", deadline=None, max_examples=8, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=500)
settings.load_profile("ci" if os.environ.get("CI") else "default")


LONG = [
    line for line in (ROOT / "tests" / "long.txt").read_text(encoding="utf-8").splitlines() if line[:1] != "#"
]


def wide() -> dict[str, int]:
    """Tests of wide.txt: of each, every how manyth case the default suite runs."""
    lines = (ROOT / "tests" / "wide.txt").read_text(encoding="utf-8").splitlines()
    split = (line.split(" ", 1) for line in lines if line[:1] != "#")
    return {name: int(every) for every, name in split}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the tests of long.txt to ``-m zoo``, and most cases of those of wide.txt to ``-m wide``."""
    every, cases = wide(), Counter[str]()
    for item in items:
        name = item.nodeid.partition("[")[0]
        if item.nodeid.startswith(tuple(LONG)):
            item.add_marker(pytest.mark.zoo)
        elif name in every and not any(
            item.get_closest_marker(kind) for kind in ("zoo", "browser", "packages")
        ):
            if not every[name] or cases[name] % every[name]:
                item.add_marker(pytest.mark.wide)
            cases[name] += 1


@pytest.fixture
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifteenth of the distillation, and no images made to join few: for tests of what it is not about."""
    from octify.calibrate import recipe
    from octify.calibrate.inputs import few

    monkeypatch.setattr(recipe, "STEPS", {"standard": 20, "thorough": 60})
    monkeypatch.setattr(few, "ENOUGH", 0)


class OctifyCli(Protocol):
    def __call__(
        self,
        *args: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]: ...


def _cli_environment() -> dict[str, str]:
    """This checkout first, torchvision's quirk, and no terminal settings inherited.

    Not a fixture: pytest shows a failing test's arguments, and an environment may hold secrets.
    """
    env = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"}}
    paths = [str(ROOT), str(ROOT / "tests" / "quirk"), env.get("PYTHONPATH", "")]
    return env | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def octify_cli(tmp_path: Path) -> OctifyCli:
    """Run ``octify ARGS...`` in a process of its own, in ``cwd`` (default: the test's ``tmp_path``).

    ``env`` adds to, or overrides, the test's own environment. Returns the completed process, with ``stdout``
    and ``stderr`` as text; the exit code is the test's to judge.
    """

    def run(
        *args: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "octify", *map(str, args)],
            cwd=cwd or tmp_path,
            env=_cli_environment() | dict(env or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
