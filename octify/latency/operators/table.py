"""Persistent table of measured operator times: milliseconds by operator, size and runtime."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import platformdirs

from octify.files import staged_file
from octify.latency.operators import openvino, primitives
from octify.latency.operators.primitives import Operator
from octify.progress import Tell


def folder() -> Path:
    """Folder of the tables: ``octify`` in the user's cache folder (platformdirs)."""
    return platformdirs.user_cache_path("octify", appauthor=False)


def machine(runtime: str = "onnxruntime") -> str:
    """Identification of the machine: its processor and the version of ``runtime``."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else name
    return f"{name}, {runtime} {import_module(runtime).__version__}"


Measure = Callable[[Operator, int], float]
MEASURES: Mapping[str, Measure] = {
    "onnxruntime": primitives.milliseconds,
    "openvino": openvino.milliseconds,
}


class OperatorTable:
    """Milliseconds of operators on this machine at a number of threads; missing entries are measured.

    Parameters
    ----------
    path:
        JSON file of the table; by default one in ``folder()``. A file of another machine, or one
        that cannot be read, is replaced.
    measure:
        Function of an operator and a number of threads that returns milliseconds; by default the
        runtime's of ``MEASURES``.
    runtime:
        The library that runs the operators: a key of ``MEASURES``.
    """

    def __init__(
        self,
        threads: int = 1,
        path: Path | None = None,
        measure: Measure | None = None,
        progress: Tell = lambda what: None,
        runtime: str = "onnxruntime",
    ) -> None:
        self.threads, self.runtime = threads, runtime
        self.path = path or folder() / f"{runtime}-{threads}-threads.json"
        self.measured = 0
        self._measure, self._progress = measure or MEASURES[runtime], progress
        self._times = self._read()

    def __getitem__(self, op: Operator) -> float:
        if op.key not in self._times:
            self.measured += 1
            self._progress(f"timing operators ({self.measured})")
            self._times[op.key] = self._measure(op, self.threads)
        return self._times[op.key]

    def __len__(self) -> int:
        return len(self._times)

    def save(self) -> None:
        """Write the measurements for later runs; a folder that cannot be written is ignored."""
        if not self.measured:
            return
        document = {"machine": machine(self.runtime), "threads": self.threads, "milliseconds": self._times}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with staged_file(self.path) as staged:
                staged.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        except OSError:
            return

    def _read(self) -> dict[str, float]:
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(document, dict) or document.get("machine") != machine(self.runtime):
            return {}
        times = document.get("milliseconds")
        return {str(key): float(value) for key, value in times.items()} if isinstance(times, dict) else {}
