"""What the benchmark knows of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from tests.benchmarks.real.measures import Measure
from tests.benchmarks.real.photos import Change, crops


@dataclass(frozen=True)
class Network:
    """A trained network out of a package.

    size:
        Of its inputs, pixels on either side.
    prepare:
        From RGB values in [0, 1] to its inputs.
    change:
        What happens to a crop before.
    people:
        How many times as many crops photographs of people give.
    measures:
        Of its first output, by name.
    images, tested:
        Crops to calibrate on and to test with.
    aside:
        Whether nothing of octify was chosen by it.
    """

    name: str
    what: str
    package: str
    build: Callable[[], nn.Module]
    size: int
    prepare: Callable[[Tensor], Tensor]
    measures: dict[str, Measure] = field(hash=False)
    change: Change | None = None
    people: int = 1
    images: int = 256
    tested: int = 512
    aside: bool = False

    def crops(self, split: str, count: int, seed: int) -> tuple[Tensor, tuple[int, ...]]:
        """Inputs of a split (``photos.crops``), and the photograph of each."""
        given = crops(split, count, self.size, seed=seed, change=self.change, people=self.people)
        return self.prepare(given.images), given.photos


def file_of(package: str, inside: str) -> Path:
    """A file that an installed package brings; the package is not imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package} is not installed: tests/benchmarks/real/README.md has the line")
    return Path(spec.submodule_search_locations[0]) / inside


def from_onnx(path: Path) -> nn.Module:
    """The network of an ONNX file. Constants become initializers, which onnx2torch expects."""
    from tests.benchmarks.phases import install_quirk

    install_quirk()
    import onnx
    import onnx2torch

    model = onnx.load(str(path))
    graph = model.graph
    for node in [n for n in graph.node if n.op_type == "Constant"]:
        value = next(a.t for a in node.attribute if a.name == "value")
        value.name = node.output[0]
        graph.initializer.append(value)
        graph.node.remove(node)
    module: nn.Module = onnx2torch.convert(model)
    return module.eval()
