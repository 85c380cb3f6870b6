"""The ONNX files that a bench times: the user's as they are; modules exported at the batch size of the case.

A file whose batch is fixed is the faster one: onnxruntime then knows every size, and keeps sums in its
blocked layout. So modules are exported so, dense and octave ones alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from octify.export.calls import as_inputs
from octify.export.onnx import Captured, captured, written
from octify.latency.runtime import Runtime
from octify.progress import Tell
from octify.quantize import quantized

Contestant = nn.Module | str | Path


@dataclass
class Exports:
    """Files of ``models`` in ``folder``, each written once."""

    models: Mapping[str, Contestant]
    folder: Path
    progress: Tell
    _sources: dict[tuple[str, int], Captured] = field(default_factory=dict)
    _files: dict[tuple[str, int, str, bool], Path] = field(default_factory=dict)

    def of(self, runtime: Runtime, inputs: Sequence[Tensor]) -> dict[str, Path]:
        """The file of every model for ``runtime`` at the batch of ``inputs``; none if it takes modules."""
        if runtime.takes != "onnx":
            return {}
        return {name: self._file(name, model, runtime, inputs) for name, model in self.models.items()}

    def _file(self, name: str, model: Contestant, runtime: Runtime, inputs: Sequence[Tensor]) -> Path:
        if not isinstance(model, nn.Module):
            return Path(model)
        key = (name, len(inputs[0]), runtime.target.value, runtime.int8)
        if key not in self._files:
            self._files[key] = self._written(name, model, runtime, inputs, f"{len(self._files)}")
        return self._files[key]

    def _written(
        self, name: str, model: nn.Module, runtime: Runtime, inputs: Sequence[Tensor], stem: str
    ) -> Path:
        self.progress(f"exporting {name} for {runtime.target.value}")
        batch = len(inputs[0])
        if (name, batch) not in self._sources:
            self._sources[name, batch] = captured(model, as_inputs(inputs), dynamic_batch=False)
        source = self._sources[name, batch].copy()
        file = written(source, self.folder / f"{stem}.onnx", runtime.target).path
        if not runtime.int8:
            return file
        self.progress(f"quantizing {name} for {runtime.target.value}")
        # Ranges from the inputs at hand: what is timed does not hang on them.
        return quantized(file, self.folder / f"{stem}.int8.onnx", [as_inputs(inputs)], runtime.target)
