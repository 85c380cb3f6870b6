"""Shapes, MACs and bytes of every node of an FX graph, without computing a value.

The graph runs once on fake tensors under ``FlopCounterMode``, PyTorch's own counter of
convolutions and matrix products; one MAC is two of its FLOPs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class InputSpec:
    """Shape and dtype (``"float32"``) of one example input."""

    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, tensor: Tensor) -> InputSpec:
        """The specification of ``tensor``."""
        return cls(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))

    def example(self) -> Tensor:
        """A seeded random (or zero, for integers) tensor of this shape on the CPU."""
        dtype = getattr(torch, self.dtype)
        if not dtype.is_floating_point:
            return torch.zeros(self.shape, dtype=dtype)
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.shape, generator=generator).to(dtype)


@dataclass(frozen=True)
class Facts:
    """What is known of one node.

    shape:
        Of its tensor, or None when it yields no single tensor.
    macs:
        Multiply-accumulates of convolutions and matrix products it runs.
    new_bytes:
        Bytes of the tensors it allocates as results; views and in-place results count 0.
    """

    shape: tuple[int, ...] | None
    macs: int
    new_bytes: int


class _Measure(fx.Interpreter):
    """Runs a graph under a FLOP counter and notes every node's facts."""

    def __init__(self, module: fx.GraphModule, counter: FlopCounterMode) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self.counter = counter
        self.facts: dict[str, Facts] = {}
        self.current: fx.Node | None = None
        self.storages: set[int] = set()

    def run_node(self, n: fx.Node) -> Any:
        self.current = n
        before = self.counter.get_total_flops()
        result = super().run_node(n)
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        fresh = {
            t.untyped_storage()._cdata: t for t in tensors if t.untyped_storage()._cdata not in self.storages
        }
        self.storages |= fresh.keys()
        allocates = n.op in ("call_module", "call_function", "call_method")
        self.facts[n.name] = Facts(
            shape=tuple(result.shape) if isinstance(result, Tensor) else None,
            macs=(self.counter.get_total_flops() - before) // 2,
            new_bytes=sum(t.numel() * t.element_size() for t in fresh.values()) if allocates else 0,
        )
        # Keeping results alive keeps storage identities unique; fake ones hold no data.
        self.kept = [
            *getattr(self, "kept", ()),
            *(tensors if any(isinstance(t, FakeTensor) for t in tensors) else ()),
        ]
        return result

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """An attribute without its gradient: the counter cannot hook a module that is given a parameter."""
        found = super().get_attr(target, args, kwargs)
        return found.detach() if isinstance(found, Tensor) else found


class MeasureError(Exception):
    """A node failed; carries the node."""

    def __init__(self, node: fx.Node | None, cause: Exception) -> None:
        super().__init__(str(cause))
        self.node = node
        self.cause = cause


def _run(module: fx.GraphModule, inputs: Sequence[Tensor]) -> dict[str, Facts]:
    # Attention as matrix products: the counter has no formula for the CPU's fused kernel.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        interpreter = _Measure(module, counter)
        try:
            interpreter.run(*inputs)
        except Exception as error:
            raise MeasureError(interpreter.current, error) from error
    return interpreter.facts


def measure(module: fx.GraphModule, example_inputs: Sequence[Tensor]) -> Mapping[str, Facts]:
    """Facts of every node of ``module`` by name, for inputs shaped like ``example_inputs``.

    Tries fake tensors first; a graph they cannot run (data-dependent control flow in an
    opaque module) is run for real. Raises MeasureError when that fails too.
    """
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    with torch.no_grad():
        try:
            with FakeTensorMode(allow_non_fake_inputs=True):
                fakes = [torch.empty(t.shape, dtype=t.dtype, device=device) for t in example_inputs]
                return _run(module, fakes)
        except MeasureError:
            if any(t.is_meta for t in example_inputs):
                raise
            return _run(module, [t.to(device) for t in example_inputs])
